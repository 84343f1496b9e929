//! How is Linksfield called? The owner of everything between a [`Call`](super::request::Call) and
//! its answer: the vendor's limits, its connections, and what its answers have taught.
//!
//! `vendor/call.rs` makes the calls; here is what they are made with. Queries and commands are
//! built over this, and nothing here knows of either.

pub mod breaker;
pub mod call;
pub mod latency;
pub mod levels;
pub mod quota;
pub mod retry;
pub mod skew;
pub mod unclassified;
pub mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use self::breaker::Breaker;
use self::latency::{Latencies, Latency};
use self::quota::{History, Limits, Quota, Share, Thrift};
use self::retry::Retries;
use self::skew::{Skew, Told};
use self::unclassified::{KnownScopes, Usual};
use super::brakes::Brakes;
use super::request::route::Routes;
use super::request::tenant::Tenants;
use crate::config::{self, Ca, Config};
use crate::gateway::vendor::upstream::{Answer, Slot, Tcp, Traffic, Transport, Upstream};
use crate::state::Store;
use crate::telemetry::{Metrics, RouteKind, RouteLabel, TenantLabel};

/// An answer that nothing classifies is looked for over so many windows of the breaker: one route
/// of one tenant is asked for less often than all routes together.
const WINDOWS: u32 = 10;

/// Linksfield, under one configuration. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Vendor(Arc<VendorParts>);

#[derive(Debug)]
struct VendorParts {
    lasting: LastingVendor,
    upstream: Arc<Upstream>,
    usual_answers: Usual,
    /// How long calls take, by the label of their route.
    latencies: Vec<Arc<Latency>>,
    exchange_timeout: Duration,
    /// How long a slot stays taken by an exchange whose time has passed.
    hold: Duration,
    metrics: Arc<Metrics>,
}

/// What is known of Linksfield, and spent of its limits, under whatever configuration. A clone is
/// the same one.
#[derive(Debug, Clone)]
pub struct LastingVendor {
    quota: Quota<Slot>,
    brakes: Brakes,
    breaker: Breaker,
    retries: Retries,
    usual_answers: KnownScopes,
    skew: Skew,
    thriftiness: Thriftiness,
    latencies: Latencies,
    transport: Arc<dyn Transport>,
    last_upstream: Arc<Mutex<Option<LastUpstream>>>,
    traffic: Traffic,
    store: Option<Store>,
}

/// The connections' client of the configuration before, which goes on as long as it leads to the
/// same vendor: its TLS sessions and connections are used again.
#[derive(Debug)]
struct LastUpstream {
    config: config::Upstream,
    ca: Option<Ca>,
    upstream: Arc<Upstream>,
}

impl LastingVendor {
    /// Nothing is known yet but what the store has kept of the day: its calls.
    pub fn new(
        config: &Config,
        store: Option<Store>,
        history: Option<&History>,
        skew: Skew,
    ) -> Self {
        Self::over(Arc::new(Tcp), config, store, history, skew)
    }

    /// The same over another transport than TCP.
    pub fn over(
        transport: Arc<dyn Transport>,
        config: &Config,
        store: Option<Store>,
        history: Option<&History>,
        skew: Skew,
    ) -> Self {
        Self {
            quota: Quota::new(&limits(config), skew.wall_clock(), history),
            brakes: Brakes::new(config),
            breaker: Breaker::new(breaker_settings(config)),
            retries: Retries::new(retry_settings(config)),
            usual_answers: KnownScopes::default(),
            skew,
            thriftiness: Thriftiness::default(),
            latencies: Latencies::default(),
            transport,
            last_upstream: Arc::default(),
            traffic: Traffic::default(),
            store,
        }
    }

    /// The calls of the day, and who may make one.
    pub fn quota(&self) -> &Quota<Slot> {
        &self.quota
    }

    /// What is switched off, of this configuration and of those that follow it.
    pub fn brakes(&self) -> &Brakes {
        &self.brakes
    }

    /// Other settings from now on, for calls of an earlier configuration too: the vendor has one
    /// set of limits.
    fn change(&self, config: &Config) {
        self.quota.change(&limits(config));
        self.breaker.change(breaker_settings(config));
        self.retries.change(retry_settings(config));
    }

    fn upstream(&self, config: &Config, ca: Option<&Ca>) -> Arc<Upstream> {
        let mut last = self.last_upstream.lock();
        if let Some(last) = &*last
            && last.config == config.upstream
            && last.ca.as_ref() == ca
        {
            return last.upstream.clone();
        }
        let (brakes, traffic) = (self.brakes.clone(), self.traffic.clone());
        let transport = self.transport.clone();
        let upstream = Upstream::over(transport, &config.upstream, ca, brakes, traffic);
        let upstream = Arc::new(upstream);
        *last = Some(LastUpstream {
            config: config.upstream.clone(),
            ca: ca.cloned(),
            upstream: upstream.clone(),
        });
        upstream
    }

    /// What is usual of each route and tenant. Of another vendor nothing is known.
    fn usual_answers(&self, config: &Config, tenants: &Tenants) -> Usual {
        let breaker = &config.upstream.breaker;
        let settings = unclassified::Settings {
            answers: breaker.min_calls.get() as usize,
            window: breaker.window.saturating_mul(WINDOWS),
            open_for: breaker.open_for,
        };
        let is_query = |kind: &RouteKind| *kind == RouteKind::Query;
        let kinds = Routes::kinds(config);
        let paths = Routes::labels(config).into_iter();
        let routes: Vec<_> = paths.zip(kinds.iter().map(is_query)).collect();
        let base_url = config.upstream.base_url.to_string();
        let mut accounts: Vec<_> = tenants.iter().collect();
        accounts.sort_by_key(|tenant| tenant.label);
        let accounts: Vec<_> = accounts
            .iter()
            .map(|tenant| format!("{base_url} {}", tenant.access_code))
            .collect();
        Usual::new(settings, &routes, &accounts, &self.usual_answers)
    }
}

impl Vendor {
    /// Linksfield under this configuration, with what is known of it and spent of its limits.
    pub fn new(
        config: &Config,
        ca: Option<&Ca>,
        tenants: &Tenants,
        lasting: &LastingVendor,
        metrics: Arc<Metrics>,
    ) -> Self {
        lasting.change(config);
        Self(Arc::new(VendorParts {
            upstream: lasting.upstream(config, ca),
            usual_answers: lasting.usual_answers(config, tenants),
            latencies: lasting.latencies.of(&Routes::labels(config)),
            lasting: lasting.clone(),
            exchange_timeout: config.upstream.timeout,
            hold: config.upstream.hold,
            metrics,
        }))
    }

    /// What lasts of it.
    pub fn lasting(&self) -> &LastingVendor {
        &self.0.lasting
    }

    /// What time it is by our clock and by Linksfield's `Date`, and whether the two agree.
    pub fn time_known(&self) -> Told {
        self.0.lasting.skew.time_known()
    }

    /// What our clock shows, which goes into signatures.
    pub fn wall_clock(&self) -> SystemTime {
        self.0.lasting.skew.wall_clock()
    }

    /// How sparing the day's budget demands to be, as of the last call: a hit asks nobody else.
    pub fn thrift(&self) -> Thrift {
        self.0.lasting.thriftiness.get()
    }

    /// How long a call of this route and tenant usually takes from now on: the wait for its turn,
    /// and the call itself.
    pub fn usual_wait(&self, route: RouteLabel, tenant: TenantLabel) -> (Duration, Duration) {
        let call = self.0.latencies[route.0].p90();
        (self.0.lasting.quota.expected_wait(tenant.0, call), call)
    }

    /// Is this what the queries of this tenant get now, for this caller, though nothing classifies
    /// it?
    pub fn is_usual_of_queries(
        &self,
        tenant: TenantLabel,
        caller: Option<&str>,
        answer: &Answer,
    ) -> bool {
        let usual = &self.0.usual_answers;
        usual.is_usual_of_queries(tenant, caller, answer)
    }
}

/// This process's share of the vendor's limits. A tenant's index is the place of its label.
fn limits(config: &Config) -> Limits {
    let limits = &config.upstream.limits;
    Limits {
        per_second: limits.share(limits.requests_per_second),
        connections: limits.slots(),
        per_day: limits.share(limits.requests_per_day),
        day_begins_at: limits.day.begins_at_utc_second(),
        command_reserve: limits.command_reserve,
        queue: limits.queue,
        tenants: config
            .tenants
            .values()
            .map(|tenant| Share {
                weight: tenant.weight.get(),
                per_second: limits.share(tenant.requests_per_second),
            })
            .collect(),
    }
}

fn breaker_settings(config: &Config) -> breaker::Settings {
    let breaker = &config.upstream.breaker;
    breaker::Settings {
        consecutive: breaker.consecutive.get(),
        failure_ratio: breaker.failure_ratio,
        min_calls: breaker.min_calls.get() as usize,
        window: breaker.window,
        open_for: breaker.open_for,
    }
}

fn retry_settings(config: &Config) -> retry::Settings {
    let retry = &config.upstream.retry;
    retry::Settings {
        attempts: retry.attempts.get(),
        budget: retry.budget,
        min_per_second: retry.min_per_second,
        backoff: retry.backoff,
        max_backoff: retry.max_backoff,
    }
}

/// How sparing the day's budget demands to be, as of the last call.
#[derive(Debug, Clone, Default)]
struct Thriftiness(Arc<AtomicU8>);

impl Thriftiness {
    fn set(&self, thrift: Thrift) {
        self.0.store(thrift as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Thrift {
        Thrift::of_level(self.0.load(Ordering::Relaxed))
    }
}
