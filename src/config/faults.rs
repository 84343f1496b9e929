//! What is done where the vendor fails: asking queries again, and not asking at all.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[upstream.retry]`: how often a query is asked again. Commands never are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts of one query, the first one included; 1 turns retries off.
    pub attempts: NonZeroU32,
    /// Retries as a share of the first attempts of all queries.
    pub budget: f64,
    /// So many a second may be made besides.
    pub min_per_second: f64,
    /// About so long after a first failure; doubled with each further one.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    /// No longer than that.
    #[serde(with = "humantime_serde")]
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::MIN.saturating_add(2),
            budget: 0.2,
            min_per_second: 0.5,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(2),
        }
    }
}

/// `[upstream.breaker]`: when nothing is asked for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// So many failures in a row open it.
    pub consecutive: NonZeroU32,
    /// Or this share of the calls of the last `window`,
    pub failure_ratio: f64,
    /// if there were at least so many.
    pub min_calls: NonZeroU32,
    /// How long an end is remembered.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How long nothing is asked.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive: NonZeroU32::MIN.saturating_add(9),
            failure_ratio: 0.5,
            min_calls: NonZeroU32::MIN.saturating_add(19),
            window: Duration::from_secs(30),
            open_for: Duration::from_secs(5),
        }
    }
}
