//! What happened? One log line and one histogram for each exchange, counters for what a histogram does not count.
//!
//! Labels come from the configuration only: a label is the place of a name in [`Labels`], whose last name stands for
//! everything that is not configured. Handles are looked up once, not for each request.

mod families;
pub mod log;
mod memory;
pub mod recent;
mod series;
pub mod totals;
pub mod trace;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Encoder, Histogram, IntCounter, IntGauge, IntGaugeVec, TextEncoder};
use tokio::time::Instant;
use tracing::field::display;
use tracing::{info, warn};

use self::families::Families;
pub use self::families::REVISION;
use self::trace::Trace;

/// The names behind the labels, in the order of the configuration; the last of each is "other".
#[derive(Debug)]
pub struct Labels {
    /// Configured paths.
    pub routes: Vec<String>,
    /// What each of them is.
    pub kinds: Vec<RouteKind>,
    /// Configured tenants.
    pub tenants: Vec<String>,
    /// Configured callers.
    pub callers: Vec<String>,
}

/// What a route is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// It only reads.
    Query,
    /// It changes something.
    Command,
    /// It is closed.
    Refuse,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Result {
    /// A fresh page from memory.
    Hit,
    /// A page from memory that is not fresh.
    Stale,
    /// The answer of a fill that ran for somebody else.
    Coalesced,
    /// The answer, or the failure, of a fill that this request began.
    Miss,
    /// The answer of a fill that memory has no part in, as the caller asked.
    Bypass,
    /// A command.
    Command,
    /// Refused before it was either.
    Refused,
}

impl Result {
    const ALL: [Self; 7] = [
        Self::Hit,
        Self::Stale,
        Self::Coalesced,
        Self::Miss,
        Self::Bypass,
        Self::Command,
        Self::Refused,
    ];

    /// The spelling in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Coalesced => "coalesced",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Command => "command",
            Self::Refused => "refused",
        }
    }
}

/// All metrics of the process, by the labels of one configuration.
#[derive(Debug)]
pub struct Metrics {
    families: Families,
    labels: Labels,
    /// Handles of `requests`, by caller and tenant. Most pairs are never used.
    request_handles: Box<[OnceLock<Handles>]>,
    /// Handles of `request_duration`, by route and result; a series exists from its first use on.
    request_duration_handles: Box<[OnceLock<Histogram>]>,
    /// Handles of `served_age`, by route.
    served_age: Box<[OnceLock<Histogram>]>,
    /// Handles of `tenant_requests`, by tenant and result.
    tenant_handles: Box<[OnceLock<IntCounter>]>,
}

/// The handles of one caller and tenant, by route and result.
type Handles = Box<[OnceLock<IntCounter>]>;

/// What is read when somebody asks, rather than counted when it changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Pages in memory.
    pub cache_entries: u64,
    /// Their bytes.
    pub cache_bytes: u64,
    /// Pages dropped for want of room, since the start.
    pub cache_evictions: u64,
    /// Fills that run.
    pub fills_in_flight: usize,
    /// Calls that wait for a permit.
    pub queue_length: usize,
    /// The same by class.
    pub queue: [(&'static str, usize); 4],
    /// The vendor's limits.
    pub quota: QuotaLevels,
    /// Idempotency keys.
    pub keys: Keys,
    /// Did the last write to the directory of state fail?
    pub state_store_failing: bool,
    /// Is the vendor not asked now, or by one call at a time?
    pub breaker_open: bool,
    /// By how many seconds the vendor's clock is ahead of ours; none before the first answer.
    pub clock_skew: Option<f64>,
    /// The versions of HTTP that are spoken to the vendor, with the open connections and the calls under way.
    pub protocols: Vec<(&'static str, usize, usize)>,
    /// When the vendor's certificate expires, in seconds since 1970; none before the first TLS connection.
    pub certificate_expires_at: Option<i64>,
}

/// What is left of the vendor's limits.
#[derive(Debug, Clone)]
pub struct QuotaLevels {
    /// Windows with their limit, and what is left of it.
    pub windows: Vec<(&'static str, f64, f64)>,
    /// Of the day, what queries may use; none without a limit.
    pub day_for_queries: Option<f64>,
    /// When more of the day comes, in seconds since 1970; none without a limit.
    pub day_resets_at: Option<f64>,
    /// Calls of before the start may count, and are not known.
    pub is_assumed: bool,
    /// Calls a second that are allowed now; none without a limit.
    pub allowed_rate: Option<f64>,
    /// How sparing the day demands to be: 0 not at all, 1 no background refresh, 2 longer stale serving, 3 no forced
    /// refresh, 4 no query.
    pub thrift: u8,
}

/// How many idempotency keys there are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keys {
    /// Their commands are under way.
    pub running: usize,
    /// Their answers are given again.
    pub kept: usize,
    /// What became of their commands is not known.
    pub in_doubt: usize,
}

/// What does not change while the process runs.
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// `cache.max_size` in bytes.
    pub cache_capacity: u64,
    /// The codes that errors of the gateway can have.
    pub error_codes: &'static [&'static str],
    /// `server.commands`.
    pub commands: bool,
    /// `upstream.paused`.
    pub is_paused: bool,
}

/// How many queries there were, and how many of them a page in memory answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    /// Those that were not refused.
    queries: f64,
    from_memory: f64,
}

impl Answers {
    /// How many queries.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count, which Prometheus keeps as a float"
    )]
    pub fn count(self) -> u64 {
        self.queries as u64
    }

    /// Between 0 and 1; none before the first query.
    pub fn hit_ratio(self) -> Option<f64> {
        (self.queries > 0.0).then(|| self.from_memory / self.queries)
    }
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.from_memory += other.from_memory;
    }
}

impl Metrics {
    /// Registers every family.
    pub fn new(labels: Labels) -> Self {
        Self::of(Families::register(), labels)
    }

    /// The same families under the labels of another configuration.
    #[must_use]
    pub fn relabelled(&self, labels: Labels) -> Self {
        Self::of(self.families.clone(), labels)
    }

    fn of(families: Families, labels: Labels) -> Self {
        let pairs = labels.callers.len() * labels.tenants.len();
        let (routes, tenants) = (labels.routes.len(), labels.tenants.len());
        Self {
            request_handles: (0..pairs).map(|_| OnceLock::new()).collect(),
            request_duration_handles: (0..routes * Result::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            served_age: (0..routes).map(|_| OnceLock::new()).collect(),
            tenant_handles: (0..tenants * Result::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            labels,
            families,
        }
    }

    /// Requests that are being answered.
    pub fn requests_in_flight(&self) -> &IntGauge {
        &self.families.requests_in_flight
    }

    /// Connections downstream.
    pub fn connections(&self) -> &IntGauge {
        &self.families.connections
    }

    /// The record of an exchange that begins now.
    pub fn exchange(&self) -> Exchange<'_> {
        self.families.requests_in_flight.inc();
        Exchange {
            metrics: self,
            started: Instant::now(),
            request_id: String::new(),
            trace: None,
            route: self.labels.routes.len() - 1,
            tenant: self.labels.tenants.len() - 1,
            caller: self.labels.callers.len() - 1,
            result: Result::Refused,
            status: None,
            error: None,
            fault: None,
            sent: None,
            vendor_code: None,
            saved_a_call: false,
            is_replay: false,
            age: None,
            queue: None,
            upstream: None,
        }
    }

    /// The configuration's file was read, at this time in seconds since 1970, and could be used or not.
    pub fn configuration_read(&self, usable: bool, at: f64) {
        let families = &self.families;
        families.config_reload_successful.set(usable.into());
        if usable {
            families.config_reload_success_timestamp.set(at);
        }
    }

    /// The configuration in effect.
    pub fn configuration_in_effect(&self, hash: &str) {
        self.families.config_info.reset();
        self.families.config_info.with_label_values(&[hash]).set(1);
    }

    /// So many of the secrets, tokens and files of certificates could not be used.
    pub fn secrets_refused(&self, number: usize) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.families.secrets_refused.set(number);
    }

    /// A tenant's secrets were read, and could be used or not.
    pub fn secret_read(&self, tenant: &str, usable: bool, at: f64) {
        let families = &self.families;
        let successful = families
            .secret_reload_successful
            .with_label_values(&[tenant]);
        successful.set(usable.into());
        if usable {
            let timestamp = families
                .secret_reload_success_timestamp
                .with_label_values(&[tenant]);
            timestamp.set(at);
        }
    }

    /// A fresh request id.
    pub fn request_id(&self) -> String {
        self.families.request_ids.next()
    }

    /// A call of Linksfield has ended.
    pub fn upstream_call(
        &self,
        route: usize,
        tenant: usize,
        outcome: &str,
        reason: &str,
        duration: Duration,
    ) {
        let (route, tenant) = (
            self.labels.routes[route].as_str(),
            self.labels.tenants[tenant].as_str(),
        );
        self.families
            .upstream_requests
            .with_label_values(&[route, tenant, outcome, reason])
            .inc();
        self.families
            .upstream_duration
            .with_label_values(&[route, outcome])
            .observe(duration.as_secs_f64());
    }

    /// What a call says about the vendor, as the breaker takes it.
    pub fn upstream_ended(&self, end: &str) {
        self.families.upstream_calls.with_label_values(&[end]).inc();
    }

    /// The vendor did not accept a tenant's signature.
    pub fn bad_signature(&self, tenant: usize) {
        let tenant = self.labels.tenants[tenant].as_str();
        let family = &self.families.bad_signatures;
        family.with_label_values(&[tenant]).inc();
    }

    /// The vendor answered with a `code` that the configuration does not know.
    pub fn unknown_code(&self) {
        self.families.unknown_codes.inc();
    }

    /// A path came that is not configured.
    pub fn unlisted_path(&self) {
        self.families.unlisted_paths.inc();
    }

    /// The vendor had too many calls, although by our count there was room.
    pub fn foreign_throttle(&self) {
        self.families.foreign_throttles.inc();
    }

    /// A query is asked again.
    pub fn retried(&self) {
        self.families.retries.inc();
    }

    /// A query was taken with the tenant's other secret, which is the active one from now on.
    pub fn secret_switched(&self, tenant: usize, secret: &'static str) {
        let tenant = self.labels.tenants[tenant].as_str();
        let switches = self
            .families
            .secret_switches
            .with_label_values(&[tenant, secret]);
        switches.inc();
        warn!(
            tenant,
            secret, "the signature was refused, the other secret is used from now on"
        );
    }

    /// The vendor's clock is so many seconds ahead of ours.
    pub fn clocks_differ(&self, seconds: f64) {
        warn!(
            seconds,
            "the vendor's clock and ours have gone apart, or have come together again"
        );
    }

    /// A command left, and what came of it is not known.
    pub fn command_outcome_unknown(&self, route: usize, tenant: usize) {
        let (route, tenant) = (
            self.labels.routes[route].as_str(),
            self.labels.tenants[tenant].as_str(),
        );
        self.families
            .commands_unknown_outcome
            .with_label_values(&[route, tenant])
            .inc();
    }

    /// Something was refused before it was an exchange.
    pub fn refused(&self, code: &str) {
        self.families.errors.with_label_values(&[code, "no"]).inc();
    }

    /// Pages were made unfindable.
    pub fn invalidation(&self, cause: &str) {
        self.families
            .invalidations
            .with_label_values(&[cause])
            .inc();
    }

    /// A command whose caller stopped waiting has ended: its own record, as nobody hears of it.
    pub fn abandoned_command(
        &self,
        request_id: &str,
        route: usize,
        tenant: usize,
        ended: &CommandEnd<'_>,
    ) {
        let (route, tenant) = (
            self.labels.routes[route].as_str(),
            self.labels.tenants[tenant].as_str(),
        );
        let CommandEnd {
            sent,
            outcome,
            vendor_code,
            duration,
        } = *ended;
        let duration = duration.as_secs_f64();
        if sent == "unknown" {
            let recent = &self.families.recent;
            recent.add(request_id, (route, tenant), outcome, sent);
            warn!(
                target: log::COMMANDS,
                request_id,
                tenant,
                route,
                outcome,
                vendor_code,
                sent,
                duration,
                "command finished without its caller"
            );
        } else {
            info!(
                target: log::COMMANDS,
                request_id,
                tenant,
                route,
                outcome,
                vendor_code,
                sent,
                duration,
                "command finished without its caller"
            );
        }
    }

    /// What became of a command could not be saved under its key: a repeat after a restart will find it in doubt.
    pub fn key_not_saved(
        &self,
        request_id: &str,
        route: usize,
        tenant: usize,
        sent: &str,
        error: &(dyn std::error::Error + 'static),
    ) {
        let (route, tenant) = (
            self.labels.routes[route].as_str(),
            self.labels.tenants[tenant].as_str(),
        );
        self.families.keys_not_saved.inc();
        warn!(target: log::COMMANDS, request_id, tenant, route, sent, error, "idempotency key not saved");
    }

    /// How the queries were answered so far, whoever asked, by route and tenant.
    pub fn answers(&self) -> HashMap<(String, String), Answers> {
        let mut all: HashMap<_, Answers> = HashMap::new();
        for family in self.families.requests.collect() {
            for series in family.get_metric() {
                let label = |name| {
                    let mut labels = series.get_label().iter();
                    let label = labels.find(|label| label.name() == name);
                    label.map_or("", |label| label.value()).to_owned()
                };
                let answers = all.entry((label("route"), label("tenant"))).or_default();
                let count = series.get_counter().get_value();
                match &*label("result") {
                    "hit" | "stale" => answers.from_memory += count,
                    "coalesced" | "miss" | "bypass" => {}
                    _ => continue, // a command, or refused
                }
                answers.queries += count;
            }
        }
        all
    }

    /// The text exposition, with `snapshot` as the values of now.
    pub fn render(&self, snapshot: &Snapshot) -> Vec<u8> {
        let value = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.families
            .cache_entries
            .set(value(snapshot.cache_entries));
        self.families.cache_bytes.set(value(snapshot.cache_bytes));
        self.families.cache_evictions.inc_by(
            snapshot
                .cache_evictions
                .saturating_sub(self.families.cache_evictions.get()),
        );
        self.families
            .fills_in_flight
            .set(value(snapshot.fills_in_flight as u64));
        for (class, number) in snapshot.queue {
            let gauge = self.families.queue_length.with_label_values(&[class]);
            gauge.set(value(number as u64));
        }
        self.families.set_quota(&snapshot.quota);
        let keys = snapshot.keys;
        for (state, number) in [
            ("running", keys.running),
            ("kept", keys.kept),
            ("in_doubt", keys.in_doubt),
        ] {
            let gauge = self.families.idempotency_keys.with_label_values(&[state]);
            gauge.set(value(number as u64));
        }
        self.families
            .state_store_failing
            .set(snapshot.state_store_failing.into());
        if let Some(limit) = memory::limit() {
            self.families.memory_limit.set(value(limit));
        }
        let log_lines_dropped = &self.families.log_lines_dropped;
        log_lines_dropped.inc_by(log::dropped_lines().saturating_sub(log_lines_dropped.get()));
        self.families.breaker_open.set(snapshot.breaker_open.into());
        for (protocol, connections, calls) in &snapshot.protocols {
            let gauge = |family: &IntGaugeVec| family.with_label_values(&[protocol]);
            gauge(&self.families.upstream_connections).set(value(*connections as u64));
            gauge(&self.families.upstream_in_flight).set(value(*calls as u64));
        }
        if let Some(at) = snapshot.certificate_expires_at {
            self.families.certificate_expiry.set(at);
        }
        if let Some(seconds) = snapshot.clock_skew {
            self.families.clock_skew.set(seconds);
        }
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.families.registry.gather(), &mut text)
            .expect("a Vec takes every write");
        text
    }

    fn request_duration_handle(&self, exchange: &Exchange<'_>) -> &Histogram {
        let handle = exchange.route * Result::ALL.len() + exchange.result as usize;
        self.request_duration_handles[handle].get_or_init(|| {
            self.families.request_duration.with_label_values(&[
                self.labels.routes[exchange.route].as_str(),
                exchange.result.as_str(),
            ])
        })
    }

    fn served_age_handle(&self, exchange: &Exchange<'_>) -> &Histogram {
        self.served_age[exchange.route].get_or_init(|| {
            let route = self.labels.routes[exchange.route].as_str();
            self.families.served_age.with_label_values(&[route])
        })
    }

    fn tenant_handle(&self, exchange: &Exchange<'_>) -> &IntCounter {
        let handle = exchange.tenant * Result::ALL.len() + exchange.result as usize;
        self.tenant_handles[handle].get_or_init(|| {
            self.families.tenant_requests.with_label_values(&[
                self.labels.tenants[exchange.tenant].as_str(),
                exchange.result.as_str(),
            ])
        })
    }

    fn request_handle(&self, exchange: &Exchange<'_>) -> &IntCounter {
        let pair = exchange.caller * self.labels.tenants.len() + exchange.tenant;
        let handles = self.request_handles[pair].get_or_init(|| {
            let number = self.labels.routes.len() * Result::ALL.len();
            (0..number).map(|_| OnceLock::new()).collect()
        });
        handles[exchange.route * Result::ALL.len() + exchange.result as usize].get_or_init(|| {
            self.families.requests.with_label_values(&[
                self.labels.routes[exchange.route].as_str(),
                self.labels.tenants[exchange.tenant].as_str(),
                self.labels.callers[exchange.caller].as_str(),
                exchange.result.as_str(),
            ])
        })
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub struct CommandEnd<'a> {
    /// Did it reach Linksfield?
    pub sent: &'static str,
    /// What the answer means, or the code of the failure.
    pub outcome: &'static str,
    /// The envelope's `code`.
    pub vendor_code: Option<&'a str>,
    /// From its beginning to its end.
    pub duration: Duration,
}

/// The record of one exchange: filled in by the gateway, written when dropped, even if the caller leaves.
#[derive(Debug)]
pub struct Exchange<'a> {
    metrics: &'a Metrics,
    /// When the head had come.
    pub started: Instant,
    /// The request's id.
    pub request_id: String,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
    /// Label of the route.
    pub route: usize,
    /// Label of the tenant.
    pub tenant: usize,
    /// Label of the caller.
    pub caller: usize,
    /// How it was answered.
    pub result: Result,
    /// The status of the answer; none if the caller left before it.
    pub status: Option<u16>,
    /// The code of a failure of ours.
    pub error: Option<&'static str>,
    /// Whose fault it is that it did not get what it asked for.
    pub fault: Option<&'static str>,
    /// Did the request reach Linksfield? None for a page from memory.
    pub sent: Option<&'static str>,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
    /// Was no call of Linksfield made for it?
    pub saved_a_call: bool,
    /// Is it the answer that an earlier command under the same key has got?
    pub is_replay: bool,
    /// The age of a page from memory.
    pub age: Option<Duration>,
    /// The time spent waiting for a permit.
    pub queue: Option<Duration>,
    /// The time that Linksfield took.
    pub upstream: Option<Duration>,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let metrics = self.metrics;
        let duration = self.started.elapsed().as_secs_f64();
        metrics.families.requests_in_flight.dec();
        metrics.request_handle(self).inc();
        metrics.tenant_handle(self).inc();
        metrics.request_duration_handle(self).observe(duration);
        if self.is_replay {
            metrics.families.idempotency_replays.inc();
        }
        if let Some(age) = self.age {
            metrics.served_age_handle(self).observe(age.as_secs_f64());
        }
        if let Some(fault) = self.fault {
            let family = &metrics.families.failed_requests;
            family.with_label_values(&[fault]).inc();
        }
        if let Some(code) = self.error {
            let sent = self.sent.unwrap_or("no");
            let families = &metrics.families;
            families.errors.with_label_values(&[code, sent]).inc();
            let labels = &metrics.labels;
            let names = (&*labels.routes[self.route], &*labels.tenants[self.tenant]);
            families.recent.add(&self.request_id, names, code, sent);
        } else if self.saved_a_call {
            match self.result {
                Result::Hit => metrics.families.saved_by_hit.inc(),
                Result::Stale => metrics.families.saved_by_stale.inc(),
                Result::Coalesced => metrics.families.saved_by_coalescing.inc(),
                _ => {}
            }
        }
        self.log(duration);
    }
}

impl Exchange<'_> {
    fn log(&self, duration: f64) {
        let labels = &self.metrics.labels;
        let (request_id, result, status) =
            (self.request_id.as_str(), self.result.as_str(), self.status);
        let (caller, tenant, route) = (
            &*labels.callers[self.caller],
            &*labels.tenants[self.tenant],
            &*labels.routes[self.route],
        );
        let trace = self.trace.as_ref();
        let trace_id = trace.map(|trace| display(trace.id()));
        let parent_span_id = trace.map(|trace| display(trace.parent()));
        let span_id = trace.and_then(Trace::span).map(display);
        let replayed = self.is_replay.then_some(true);
        let (vendor_code, error, sent) = (self.vendor_code.as_deref(), self.error, self.sent);
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        let (queue, upstream, age) = (
            seconds(self.queue),
            seconds(self.upstream),
            seconds(self.age),
        );
        macro_rules! line {
            ($level:ident, $target:expr) => {
                $level!(
                    target: $target,
                    request_id,
                    trace_id,
                    parent_span_id,
                    span_id,
                    caller,
                    tenant,
                    route,
                    result,
                    vendor_code,
                    error,
                    sent,
                    replayed,
                    status,
                    duration,
                    queue,
                    upstream,
                    age,
                    "exchange finished"
                )
            };
        }
        match self.result {
            Result::Command if sent == Some("unknown") => line!(warn, log::COMMANDS),
            Result::Command => line!(info, log::COMMANDS),
            _ => line!(info, module_path!()),
        }
    }
}
