//! What is read when somebody asks, rather than counted when it changes?

use super::families::{CacheLevels, CommandLevels, QuotaLevels, UpstreamLevels};

/// The values of now, for a scrape and for the admin page.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Connections to the vendor, its clock and its certificate.
    pub upstream: UpstreamLevels,
    /// Idempotency keys, and the directory of state that keeps them.
    pub commands: CommandLevels,
    /// Pages in memory.
    pub cache: CacheLevels,
    /// The vendor's limits.
    pub quota: QuotaLevels,
    /// Is the vendor not asked now, or by one call at a time, whatever is called?
    pub breaker_open: bool,
    /// Where an answer that nothing classifies is the usual one: there, too, the vendor is not
    /// asked, or only by calls that try.
    pub episodes: Vec<Episode>,
    /// Has a write to the directory of state failed, so that a restart is needed?
    pub state_store_failed: bool,
}

/// A route and tenant whose usual answer nothing classifies, so that it is taken for the vendor's
/// failure.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The route's label.
    pub route: String,
    /// The tenant's label.
    pub tenant: String,
    /// The answer.
    pub answer: String,
}

/// What does not change while a configuration is in effect.
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
