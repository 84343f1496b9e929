//! The metrics of the process under the labels of one configuration, and what they show at a scrape.

use std::collections::HashMap;
use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::{Encoder, Histogram, IntCounter, IntGauge, IntGaugeVec, TextEncoder};

use super::families::Families;
use super::{log, memory};
use crate::id::RequestId;

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
    pub(super) const ALL: [Self; 7] = [
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
    pub(super) families: Families,
    pub(super) labels: Labels,
    /// Handles of `requests`, by caller and tenant. Most pairs are never used.
    pub(super) request_handles: Box<[OnceLock<Handles>]>,
    /// Handles of `request_duration`, by route and result; a series exists from its first use on.
    pub(super) request_duration_handles: Box<[OnceLock<Histogram>]>,
    /// Handles of `served_age`, by route.
    pub(super) served_age: Box<[OnceLock<Histogram>]>,
    /// Handles of `tenant_requests`, by tenant and result.
    pub(super) tenant_handles: Box<[OnceLock<IntCounter>]>,
}

/// The handles of one caller and tenant, by route and result.
pub(super) type Handles = Box<[OnceLock<IntCounter>]>;

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
    /// Did it fail, so that a restart is needed?
    pub state_store_failed: bool,
    /// Connections that were given up, and that the vendor has not ended.
    pub slots_held: usize,
    /// Is the vendor not asked now, or by one call at a time?
    pub breaker_open: bool,
    /// Where an answer that nothing classifies is the usual one: there, too, it is not asked, or only by calls that try.
    pub episodes: Vec<Episode>,
    /// By how many seconds the vendor's clock is ahead of ours; none before the first answer.
    pub clock_skew: Option<f64>,
    /// The versions of HTTP that are spoken to the vendor, with the open connections and the calls under way.
    pub protocols: Vec<(&'static str, usize, usize)>,
    /// When the vendor's certificate expires, in seconds since 1970; none before the first TLS connection.
    pub certificate_expires_at: Option<i64>,
}

/// A route and tenant whose usual answer nothing classifies, so that it is taken for the vendor's failure.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The route's label.
    pub route: String,
    /// The tenant's label.
    pub tenant: String,
    /// The answer.
    pub answer: String,
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

    /// Callers may have so many connections at a time.
    pub fn may_have(&self, connections: usize) {
        let connections = i64::try_from(connections).unwrap_or(i64::MAX);
        self.families.connections_limit.set(connections);
    }

    /// A fresh request id.
    pub fn request_id(&self) -> RequestId {
        self.families.request_ids.next().into()
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
        self.families
            .slots_held
            .set(value(snapshot.slots_held as u64));
        let is_open = snapshot.breaker_open || !snapshot.episodes.is_empty();
        self.families.breaker_open.set(is_open.into());
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
}
