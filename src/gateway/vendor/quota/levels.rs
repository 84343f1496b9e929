//! What is left of what the vendor allows?

use std::time::Duration;

use super::day::{DayLevel, Thrift};

/// What is left of the vendor's limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Of the calls of a second; none without a limit.
    pub second: Option<Level>,
    /// Calls a second that are allowed now: the limit, less what the vendor's throttling has taken;
    /// none without a limit.
    pub allowed_rate: Option<f64>,
    /// How long the vendor wants no call at all.
    pub pause: Duration,
    /// Of the connections.
    pub connections: Level,
    /// Of the day; none without a limit.
    pub day: Option<DayLevel>,
    /// How sparing the day demands to be.
    pub thrift: Thrift,
}

/// A limit and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The most at a time.
    pub limit: u32,
    /// How many more there may be now.
    pub remaining: u32,
}
