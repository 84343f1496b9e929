//! What is a query answered with? The owner of what memory holds, and of the fills that bring it.
//!
//! `query/cache.rs` answers from memory or joins a fill; a fill is a call of Linksfield, or for all
//! pages of a query as many as there are (`query/crawl.rs`). `query/reach.rs` says what of memory
//! a command makes unfindable.

pub mod cache;
pub mod crawl;
pub mod document;
pub mod fill;
pub mod places;
pub mod purge;
pub mod reach;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::cache::{Cache, Fetched, Key, Lookup, Question, Sparing};
use self::document::Document;
use self::fill::{Expected, errand, filled_later, to_filled};
use self::places::CrawlPlaces;
use self::reach::{Latest, Scopes};
use super::error::Error;
use super::progress::Progress;
use super::request::route::{Kind, Policy, Routes};
use super::request::tenant::Tenants;
use super::request::{Call, Wishes};
use super::response;
use super::vendor::Vendor;
use super::vendor::call::{Answered, Errand, Timing, Unanswered};
use super::vendor::latency::{Latencies, Latency};
use super::vendor::quota::Thrift;
use crate::body::Body;
use crate::clock::Moment;
use crate::config::Config;
use crate::telemetry::{CacheLevels, Exchange, Metrics, RouteLabel, TenantLabel};
use crate::words::{Class, RequestResult, Sent};

/// The queries of one configuration. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Queries(Arc<QueryParts>);

#[derive(Debug)]
struct QueryParts {
    vendor: Vendor,
    cache: Cache,
    scopes: Arc<Scopes>,
    /// Counted from the start of the process, the first one being 1.
    configuration: u64,
    crawls: CrawlPlaces,
    /// How long crawls take, by the label of their route.
    crawl_latencies: Vec<Arc<Latency>>,
    /// No caller waits longer for a fill that is no crawl.
    request_timeout: Duration,
    /// The longest document of all pages of a query, in bytes.
    max_document: usize,
    metrics: Arc<Metrics>,
}

/// What memory holds, under whatever configuration. A clone is the same.
#[derive(Debug, Clone)]
pub struct LastingQueries {
    cache: Cache,
    /// Commands of an earlier configuration reach what a later one holds.
    latest: Latest,
    configurations: Arc<AtomicU64>,
    crawl_latencies: Latencies,
}

impl LastingQueries {
    /// Nothing yet.
    pub fn new(config: &Config) -> Self {
        Self {
            cache: Cache::new(config.cache.max_size.as_u64()),
            latest: Latest::default(),
            configurations: Arc::default(),
            crawl_latencies: Latencies::default(),
        }
    }

    /// The scopes of the latest configuration.
    pub fn latest(&self) -> &Latest {
        &self.latest
    }
}

impl Queries {
    /// The queries of this configuration, over what memory holds.
    pub fn new(
        config: &Config,
        routes: &Routes,
        tenants: &Tenants,
        vendor: Vendor,
        lasting: &LastingQueries,
        metrics: Arc<Metrics>,
    ) -> Self {
        let known = lasting.latest.load();
        let scopes = Arc::new(Scopes::new(config, routes, tenants, &known));
        lasting.latest.store(scopes.clone());
        let max_document = config.upstream.max_answer.as_u64();
        Self(Arc::new(QueryParts {
            vendor,
            cache: lasting.cache.clone(),
            scopes,
            configuration: lasting.configurations.fetch_add(1, Ordering::Relaxed) + 1,
            crawls: CrawlPlaces::new(config.tenants.len(), config.upstream.limits.queue),
            crawl_latencies: lasting.crawl_latencies.of(&Routes::labels(config)),
            request_timeout: config.server.request_timeout,
            max_document: usize::try_from(max_document).unwrap_or(usize::MAX),
            metrics,
        }))
    }

    /// `successor` answers from now on: what is filled for requests that began here is not kept,
    /// nor are pages of which another configuration changes what they depend on. Tells how many
    /// were dropped.
    pub fn supersede(&self, successor: &Self) -> usize {
        let number = successor.0.configuration;
        for scope in self.0.scopes.all().chain(successor.0.scopes.all()) {
            scope.reconfigure(number);
        }
        let scopes: Vec<_> = successor.0.scopes.all().cloned().collect();
        self.0.cache.keep_only(&scopes)
    }

    /// What commands reach.
    pub fn scopes(&self) -> &Arc<Scopes> {
        &self.0.scopes
    }

    /// The values of now, for the metrics.
    pub fn levels(&self) -> CacheLevels {
        let cache = self.0.cache.statistics();
        CacheLevels {
            entries: cache.entries,
            bytes: cache.bytes,
            evictions: cache.evictions,
            fills_in_flight: cache.fills,
        }
    }

    /// Answers a query: from memory, or with what a fill brings.
    pub async fn answer(
        &self,
        mut call: Call,
        policy: &Policy,
        wishes: &Wishes,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        let this = &*self.0;
        let question = self.question(&mut call, policy, wishes, exchange.started);
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        let usual = || self.usual_wait(route, tenant, wishes.all_pages);
        let mut timing = None; // of the fill, if this request begins one: a hit signs nothing
        let result = &mut exchange.result;
        *result = RequestResult::Coalesced; // unless memory answers, or this request begins a fill
        let fill = |progress, reason| {
            *result = RequestResult::Miss;
            let timing = timing.insert(Timing::begin());
            let longest = if wishes.all_pages {
                policy.crawl_timeout
            } else {
                this.request_timeout
            };
            let (deadline, until) = (wishes.deadline, Instant::now() + longest);
            let errand = errand(reason, wishes.all_pages, timing.clone(), deadline, until);
            self.clone().fill(call, errand, progress)
        };
        let found = this.cache.get_or_fill(&question, usual, fill).await;
        if let Some(timing) = timing {
            timing.tell(exchange);
        }
        if wishes.directives.no_store {
            exchange.result = RequestResult::Bypass;
        }
        let found = found.inspect_err(|error| {
            if matches!(**error, Error::NotCached | Error::RefreshRefused) {
                exchange.result = RequestResult::Refused;
            }
        })?;

        let head = &found.page.head;
        exchange.call.vendor_code.clone_from(&head.vendor_code);
        exchange.failure.fault = head.fault;
        if let Some(error) = &found.stood_in_for {
            exchange.failure.cause = error.cause_text();
            exchange.call.redirect_host = error.redirect_host().map(str::to_owned);
        }
        exchange.saved_a_call = found.lookup != Lookup::Miss && found.failure.is_none();
        if matches!(found.lookup, Lookup::Hit | Lookup::Stale) {
            exchange.age = Some(found.age);
            exchange.result = match found.lookup {
                Lookup::Hit => RequestResult::Hit,
                _ => RequestResult::Stale,
            };
        } else {
            exchange.call.sent = Some(Sent::Yes);
            exchange.call.outcome = Some(head.outcome);
        }
        Ok(response::of_page(&found))
    }

    /// What would be done with this query; nothing is asked.
    pub fn explain(
        &self,
        call: &mut Call,
        policy: &Policy,
        wishes: &Wishes,
        arrived_at: Instant,
    ) -> Value {
        let question = self.question(call, policy, wishes, arrived_at);
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        let usual = self.usual_wait(route, tenant, wishes.all_pages);
        let explained = self.0.cache.explain(&question, usual);
        json!({
            "kind": "query",
            "result": explained.result.as_str(),
            "reason": explained.reason,
            "joins_a_fill": explained.joins,
            "key": question.key.to_string(),
            "page": explained.page.map(|page| json!({
                "state": page.state,
                "snapshot": page.snapshot,
                "age": page.age.as_secs_f64(),
                "fresh_for": page.fresh_for.as_secs_f64(),
                "stale_for": policy.stale_for.as_secs_f64(),
                "stale_if_error": policy.stale_if_error.as_secs_f64(),
                "bytes": page.bytes,
            })),
        })
    }

    /// What the cache is asked. All pages have a key of their own, and parameters without the
    /// number of a page.
    fn question<'a>(
        &self,
        call: &mut Call,
        policy: &'a Policy,
        wishes: &Wishes,
        arrived_at: Instant,
    ) -> Question<'a> {
        let scope = self.0.scopes.of(&call.tenant, &call.target.route).clone();
        let language = call.language.tag.clone();
        let key = if wishes.all_pages {
            call.params = Document::query(&call.params);
            Key::whole(scope, language, &call.params)
        } else {
            Key::new(scope, language, &call.params)
        };
        Question {
            key,
            policy,
            configuration: self.0.configuration,
            sparing: sparing(self.0.vendor.thrift()),
            directives: wishes.directives,
            arrived_at: Moment::of(arrived_at),
            deadline: wishes.deadline,
            names_deadline: wishes.names_deadline,
        }
    }

    /// How long a fill usually takes from now on, the wait for its turn included.
    fn usual_wait(&self, route: RouteLabel, tenant: TenantLabel, all_pages: bool) -> Duration {
        let (wait, call) = self.0.vendor.usual_wait(route, tenant);
        wait + if all_pages {
            self.0.crawl_latencies[route.0].p90()
        } else {
            call
        }
    }

    /// Owned arguments: a fill outlives the request that began it.
    async fn fill(self, call: Call, errand: Errand, progress: Progress) -> Fetched {
        let Kind::Query(policy) = &call.target.route.kind else {
            unreachable!("only queries are filled")
        };
        if errand.class == Class::Crawl {
            let started = Instant::now();
            let crawled = self.crawl(&call, policy, &errand, &progress).await;
            self.0.crawl_latencies[call.target.route.label.0].record(started.elapsed());
            return crawled.into();
        }
        let expected = || {
            if policy.pages {
                Expected::PageOf(call.params.clone())
            } else {
                Expected::NoPages
            }
        };
        match self.0.vendor.ask(&call, errand, &progress).await {
            Ok(Answered {
                answer, sent_at, ..
            }) => to_filled(answer, &expected(), sent_at).into(),
            Err(Unanswered { error, later }) => Fetched {
                outcome: Err(error),
                later: later.map(|later| filled_later(later, expected(), progress)),
            },
        }
    }
}

/// What the cache does without while the day's budget is short.
fn sparing(thrift: Thrift) -> Sparing {
    Sparing {
        no_refresh: thrift >= Thrift::NoRefresh,
        longer_stale: thrift >= Thrift::LongerStale,
        no_forced: thrift >= Thrift::NoForced,
    }
}
