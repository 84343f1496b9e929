//! How many answers make an unclassified one the usual one?

use std::time::Duration;

/// So many in ten of the last answers must be alike.
pub(super) const TENTHS: usize = 9;

/// They must have answered at least so many different questions.
pub(super) const QUESTIONS: usize = 5;

/// One answer shows little of its caller. Where callers are fewer than [`QUESTIONS`], each must
/// have had it for so many different questions of its own.
pub(super) const OWN_QUESTIONS: usize = 3;

/// Upper bound for what is remembered of a route and tenant, whatever the configuration says.
const REMEMBERED: usize = 1024;

/// What is usual, and for how long nothing is asked then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// So many answers are looked at,
    pub answers: usize,
    /// none of which is older.
    pub window: Duration,
    /// How long nothing is asked.
    pub open_for: Duration,
}

impl Settings {
    /// So many answers are remembered.
    pub(super) fn most(&self) -> usize {
        self.answers.clamp(QUESTIONS, REMEMBERED)
    }
}
