//! What happened? One log line and one histogram for each exchange, counters for what a histogram does not count.
//!
//! Labels come from the configuration only: a label is the place of a name in [`Labels`], whose last name stands for
//! everything that is not configured. Handles are looked up once, not for each request.

pub mod log;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::time::Instant;
use tracing::{info, warn};

/// The names behind the labels, in the order of the configuration; the last of each is "other".
#[derive(Debug)]
pub struct Labels {
    /// Configured paths.
    pub routes: Vec<String>,
    /// Configured tenants.
    pub tenants: Vec<String>,
    /// Configured callers.
    pub callers: Vec<String>,
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

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    labels: Labels,
    requests: IntCounterVec,
    /// Handles of `requests`, by caller and tenant. Most pairs are never used.
    request_handles: Box<[OnceLock<Handles>]>,
    request_duration: HistogramVec,
    /// Handles of `request_duration`, by route and result; a series exists from its first use on.
    request_duration_handles: Box<[OnceLock<Histogram>]>,
    served_age: Box<[Histogram]>,
    saved_by_hit: IntCounter,
    saved_by_stale: IntCounter,
    saved_by_coalescing: IntCounter,
    errors: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_duration: HistogramVec,
    commands_unknown_outcome: IntCounterVec,
    invalidations: IntCounterVec,
    /// Requests that are being answered.
    pub requests_in_flight: IntGauge,
    /// Connections downstream.
    pub connections: IntGauge,
    cache_entries: IntGauge,
    cache_bytes: IntGauge,
    cache_evictions: IntCounter,
    fills_in_flight: IntGauge,
    queue_length: IntGauge,
    request_ids: RequestIds,
}

/// The handles of one caller and tenant, by route and result.
type Handles = Box<[OnceLock<IntCounter>]>;

/// What is read when somebody asks, rather than counted when it changes.
#[derive(Debug, Clone, Copy)]
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
}

/// What does not change while the process runs.
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// `cache.max_size` in bytes.
    pub cache_capacity: u64,
    /// This process's share of the vendor's calls a second; none without a limit.
    pub per_second: Option<u32>,
    /// This process's share of the vendor's connections; none without a limit.
    pub connections: Option<u32>,
}

/// How many queries there were, and how many of them a page in memory answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    /// Those that were not refused.
    pub queries: u64,
    from_memory: u64,
}

impl Answers {
    /// Between 0 and 1; none before the first query.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is for the eye")]
    pub fn hit_ratio(self) -> Option<f64> {
        (self.queries > 0).then(|| self.from_memory as f64 / self.queries as f64)
    }
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.from_memory += other.from_memory;
    }
}

/// From a hit (50 µs) to a slow vendor (30 s).
const DURATION_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const AGE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

impl Metrics {
    /// Registers every family; what is constant is set here.
    #[expect(clippy::too_many_lines, reason = "a list: one entry for each family")]
    pub fn new(labels: Labels, constants: Constants) -> Self {
        let registry = Registry::new();
        let requests = counters(
            &registry,
            "requests_total",
            "Requests by how they were answered.",
            &["route", "tenant", "caller", "result"],
        );
        let request_duration = histograms(
            &registry,
            "request_duration_seconds",
            "From the head of a request to its answer.",
            DURATION_BUCKETS,
            &["route", "result"],
        );
        let served_age = histograms(
            &registry,
            "served_age_seconds",
            "Age of the pages served from memory.",
            AGE_BUCKETS,
            &["route"],
        );
        let saved = counters(
            &registry,
            "upstream_calls_saved_total",
            "Queries that needed no call of their own.",
            &["reason"],
        );
        let capacity = gauge(
            &registry,
            "cache_capacity_bytes",
            "Bound of the pages in memory.",
        );
        capacity.set(i64::try_from(constants.cache_capacity).unwrap_or(i64::MAX));
        let limits = GaugeVec::new(
            opts("quota_limit", "This process's share of the vendor's limit."),
            &["window"],
        );
        let limits = registered(&registry, limits);
        if let Some(per_second) = constants.per_second {
            limits
                .with_label_values(&["second"])
                .set(f64::from(per_second));
        }
        if let Some(connections) = constants.connections {
            limits
                .with_label_values(&["connections"])
                .set(f64::from(connections));
        }
        let build = IntGaugeVec::new(opts("build_info", "Always 1."), &["version", "revision"]);
        registered(&registry, build)
            .with_label_values(&[env!("CARGO_PKG_VERSION"), REVISION])
            .set(1);
        registry
            .register(Box::new(ProcessCollector::for_self()))
            .expect("registered once");
        let pairs = labels.callers.len() * labels.tenants.len();
        Self {
            request_handles: (0..pairs).map(|_| OnceLock::new()).collect(),
            request_duration_handles: (0..labels.routes.len() * Result::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            request_duration,
            served_age: labels
                .routes
                .iter()
                .map(|route| served_age.with_label_values(&[route]))
                .collect(),
            saved_by_hit: saved.with_label_values(&["hit"]),
            saved_by_stale: saved.with_label_values(&["stale"]),
            saved_by_coalescing: saved.with_label_values(&["coalesced"]),
            errors: counters(
                &registry,
                "errors_total",
                "Failures that the gateway answered itself.",
                &["code", "sent"],
            ),
            upstream_requests: counters(
                &registry,
                "upstream_requests_total",
                "Calls of Linksfield by what came of them.",
                &["route", "tenant", "outcome", "reason"],
            ),
            upstream_duration: histograms(
                &registry,
                "upstream_request_duration_seconds",
                "From the permit of a call to its answer.",
                DURATION_BUCKETS,
                &["route", "outcome"],
            ),
            commands_unknown_outcome: counters(
                &registry,
                "commands_unknown_outcome_total",
                "Commands that left and whose answer never came.",
                &["route", "tenant"],
            ),
            invalidations: counters(
                &registry,
                "invalidations_total",
                "Times that pages were made unfindable.",
                &["cause"],
            ),
            requests_in_flight: gauge(
                &registry,
                "requests_in_flight",
                "Requests that are being answered.",
            ),
            connections: gauge(&registry, "connections", "Connections of callers."),
            cache_entries: gauge(&registry, "cache_entries", "Pages in memory."),
            cache_bytes: gauge(
                &registry,
                "cache_bytes",
                "Bytes of the pages in memory, keys and overhead included.",
            ),
            cache_evictions: counter(
                &registry,
                "cache_evictions_total",
                "Pages dropped for want of room.",
            ),
            fills_in_flight: gauge(&registry, "fills_in_flight", "Fills that run."),
            queue_length: gauge(&registry, "queue_length", "Calls that wait for a permit."),
            request_ids: RequestIds::new(),
            requests,
            labels,
            registry,
        }
    }

    /// The record of an exchange that begins now.
    pub fn exchange(&self) -> Exchange<'_> {
        self.requests_in_flight.inc();
        Exchange {
            metrics: self,
            started: Instant::now(),
            request_id: String::new(),
            route: self.labels.routes.len() - 1,
            tenant: self.labels.tenants.len() - 1,
            caller: self.labels.callers.len() - 1,
            result: Result::Refused,
            status: None,
            error: None,
            sent: None,
            vendor_code: None,
            saved_a_call: false,
            age: None,
            queue: None,
            upstream: None,
        }
    }

    /// A fresh request id.
    pub fn request_id(&self) -> String {
        self.request_ids.next()
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
        self.upstream_requests
            .with_label_values(&[route, tenant, outcome, reason])
            .inc();
        self.upstream_duration
            .with_label_values(&[route, outcome])
            .observe(duration.as_secs_f64());
    }

    /// A command left, and what came of it is not known.
    pub fn command_outcome_unknown(&self, route: usize, tenant: usize) {
        let (route, tenant) = (
            self.labels.routes[route].as_str(),
            self.labels.tenants[tenant].as_str(),
        );
        self.commands_unknown_outcome
            .with_label_values(&[route, tenant])
            .inc();
    }

    /// Something was refused before it was an exchange.
    pub fn refused(&self, code: &str) {
        self.errors.with_label_values(&[code, "no"]).inc();
    }

    /// Pages were made unfindable.
    pub fn invalidation(&self, cause: &str) {
        self.invalidations.with_label_values(&[cause]).inc();
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

    /// How the queries of a route and a tenant were answered so far, whoever asked.
    pub fn answers(&self, route: usize, tenant: usize) -> Answers {
        let mut answers = Answers::default();
        let callers = self.request_handles.chunks(self.labels.tenants.len());
        let of_tenant = callers.filter_map(|by_tenant| by_tenant[tenant].get());
        for handles in of_tenant {
            for result in Result::ALL {
                let handle = handles[route * Result::ALL.len() + result as usize].get();
                let count = handle.map_or(0, IntCounter::get);
                match result {
                    Result::Hit | Result::Stale => answers.from_memory += count,
                    Result::Coalesced | Result::Miss | Result::Bypass => {}
                    Result::Command | Result::Refused => continue,
                }
                answers.queries += count;
            }
        }
        answers
    }

    /// The text exposition, with `snapshot` as the values of now.
    pub fn render(&self, snapshot: Snapshot) -> Vec<u8> {
        let value = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.cache_entries.set(value(snapshot.cache_entries));
        self.cache_bytes.set(value(snapshot.cache_bytes));
        self.cache_evictions.inc_by(
            snapshot
                .cache_evictions
                .saturating_sub(self.cache_evictions.get()),
        );
        self.fills_in_flight
            .set(value(snapshot.fills_in_flight as u64));
        self.queue_length.set(value(snapshot.queue_length as u64));
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("a Vec takes every write");
        text
    }

    fn request_duration_handle(&self, exchange: &Exchange<'_>) -> &Histogram {
        let handle = exchange.route * Result::ALL.len() + exchange.result as usize;
        self.request_duration_handles[handle].get_or_init(|| {
            self.request_duration.with_label_values(&[
                self.labels.routes[exchange.route].as_str(),
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
            self.requests.with_label_values(&[
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
    /// Did the request reach Linksfield? None for a page from memory.
    pub sent: Option<&'static str>,
    /// The envelope's `code`.
    pub vendor_code: Option<Box<str>>,
    /// Was no call of Linksfield made for it?
    pub saved_a_call: bool,
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
        metrics.requests_in_flight.dec();
        metrics.request_handle(self).inc();
        metrics.request_duration_handle(self).observe(duration);
        if let Some(age) = self.age {
            metrics.served_age[self.route].observe(age.as_secs_f64());
        }
        if let Some(code) = self.error {
            metrics
                .errors
                .with_label_values(&[code, self.sent.unwrap_or("no")])
                .inc();
        } else if self.saved_a_call {
            match self.result {
                Result::Hit => metrics.saved_by_hit.inc(),
                Result::Stale => metrics.saved_by_stale.inc(),
                Result::Coalesced => metrics.saved_by_coalescing.inc(),
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
                    caller,
                    tenant,
                    route,
                    result,
                    vendor_code,
                    error,
                    sent,
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

/// Ids for requests that bring none: unlike those of any other process, and in order within this one.
#[derive(Debug)]
struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self {
            process: RandomState::new().hash_one(0),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> String {
        format!(
            "{:016x}-{:x}",
            self.process,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// The revision the binary was built from; `build.rs` asks for it.
pub const REVISION: &str = env!("LINKSFIELD_GATEWAY_REVISION");

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("linksfield_gateway_{name}"), help)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(opts(name, help), labels))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::with_opts(opts(name, help)))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::with_opts(opts(name, help)))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels))
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("names and labels are constants of this file");
    registry
        .register(Box::new(collector.clone()))
        .expect("every name is registered once");
    collector
}
