//! What is read when somebody asks, rather than counted when it changes?

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
