//! Is Linksfield failing, so that asking it again is of no use for now?
//!
//! Closed, calls pass and their ends are counted. Too many failures open it: nothing is asked for a
//! while. Then one call at a time is let through to see; the first success closes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::words::CallEnd;

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// So many failures in a row open it.
    pub consecutive: u32,
    /// Or this share of the calls of the last [`window`](Self::window), from 0 to 1,
    pub failure_ratio: f64,
    /// if there were at least so many.
    pub min_calls: usize,
    /// How long an end is remembered.
    pub window: Duration,
    /// How long nothing is asked.
    pub open_for: Duration,
}

/// The breaker of one vendor. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Breaker(Arc<Mutex<BreakerState>>);

#[derive(Debug)]
struct BreakerState {
    settings: Settings,
    in_a_row: u32,
    recent: VecDeque<(Instant, bool)>,
    /// Of those so many failed.
    failures: usize,
    opened_at: Option<Instant>,
    /// It was opened as no call could be made: the first that can be sees.
    is_tripped: bool,
    is_probing: bool,
}

/// One call that may be made. Dropped without an end, it says nothing.
#[derive(Debug)]
pub struct Admission {
    breaker: Breaker,
    is_probe: bool,
}

/// Nothing is asked for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Why.
    pub reason: Reason,
    /// Until the next call may see whether the vendor is well again.
    pub retry_after: Duration,
}

/// Why nothing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Too many calls have failed.
    Failures,
    /// Every slot is held by a call that the vendor has not ended.
    SlotsHeld,
    /// What is usually answered is classified by nothing (`gateway/vendor/unclassified.rs`).
    UsualAnswer,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Failures => "Linksfield has failed again and again",
            Self::SlotsHeld => {
                "every connection that Linksfield allows is held by a call that it has not ended"
            }
            Self::UsualAnswer => {
                "Linksfield's usual answer to this path is one that nothing classifies"
            }
        })
    }
}

/// More ends than these are not remembered.
const REMEMBERED: usize = 1024;

impl Breaker {
    /// Closed.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(BreakerState {
            settings,
            in_a_row: 0,
            recent: VecDeque::new(),
            failures: 0,
            opened_at: None,
            is_tripped: false,
            is_probing: false,
        })))
    }

    /// From now on it opens and closes by these.
    pub fn change(&self, settings: Settings) {
        self.lock().settings = settings;
    }

    /// Is anything asked at all? To be looked at before a call waits for its turn.
    pub fn check(&self) -> Result<(), Open> {
        self.lock().may_pass().map(|_| ())
    }

    /// One call, right before it is made.
    pub fn admit(&self) -> Result<Admission, Open> {
        let mut state = self.lock();
        let is_probe = state.may_pass()?;
        state.is_probing |= is_probe;
        Ok(Admission {
            breaker: self.clone(),
            is_probe,
        })
    }

    /// Every slot is held by a call that the vendor has not ended: the first one that can be made
    /// sees whether it is well.
    pub fn trip(&self, now: Instant) {
        let mut state = self.lock();
        state.opened_at.get_or_insert(now);
        state.is_tripped = true;
    }

    /// Is nothing asked now, or one call at a time?
    pub fn is_open(&self) -> bool {
        self.lock().opened_at.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.0.lock()
    }
}

impl BreakerState {
    /// May a call be made, and would it be the one that sees whether the vendor is well again?
    fn may_pass(&self) -> Result<bool, Open> {
        let Some(opened_at) = self.opened_at else {
            return Ok(false);
        };
        let (reason, open_for) = if self.is_tripped {
            (Reason::SlotsHeld, Duration::ZERO)
        } else {
            (Reason::Failures, self.settings.open_for)
        };
        let left = (opened_at + open_for).saturating_duration_since(Instant::now());
        if left.is_zero() && !self.is_probing {
            return Ok(true);
        }
        let retry_after = left.max(Duration::from_secs(1));
        Err(Open {
            reason,
            retry_after,
        })
    }

    fn count(&mut self, failed: bool, now: Instant) {
        if self.opened_at.is_some() {
            return; // a call that began before it opened
        }
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        let window = self.settings.window;
        self.recent.push_back((now, failed));
        self.failures += usize::from(failed);
        while let Some((at, failed)) = self.recent.front()
            && (self.recent.len() > REMEMBERED || *at + window < now)
        {
            self.failures -= usize::from(*failed);
            self.recent.pop_front();
        }
        let is_share = {
            #[expect(clippy::cast_precision_loss, reason = "at most REMEMBERED")]
            let share = self.failures as f64 / self.recent.len() as f64;
            self.recent.len() >= self.settings.min_calls && share >= self.settings.failure_ratio
        };
        if failed && (self.in_a_row >= self.settings.consecutive || is_share) {
            self.opened_at = Some(now);
        }
    }

    fn close(&mut self) {
        self.opened_at = None;
        self.is_tripped = false;
        self.in_a_row = 0;
        self.recent.clear();
        self.failures = 0;
    }
}

impl Admission {
    /// The call has ended; `now` is the present.
    pub fn end(mut self, end: CallEnd, now: Instant) {
        let mut state = self.breaker.lock();
        match end {
            CallEnd::Success | CallEnd::Refused if self.is_probe => state.close(),
            CallEnd::Refused | CallEnd::Neither => {}
            CallEnd::Failure if self.is_probe => {
                (state.opened_at, state.is_tripped) = (Some(now), false);
            }
            CallEnd::Success | CallEnd::Failure => state.count(end == CallEnd::Failure, now),
        }
        state.is_probing &= !self.is_probe;
        drop(state);
        self.is_probe = false;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.lock().is_probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new(Settings {
            consecutive: 10,
            failure_ratio: 0.5,
            min_calls: 20,
            window: SECOND * 30,
            open_for: SECOND * 5,
        })
    }

    fn calls(breaker: &Breaker, ends: &[CallEnd]) {
        for end in ends {
            breaker
                .admit()
                .expect("it is closed")
                .end(*end, Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let breaker = breaker();
        for end in [CallEnd::Success, CallEnd::Refused] {
            calls(&breaker, &[CallEnd::Failure; 9]);
            calls(&breaker, &[end]);
        }
        assert!(!breaker.is_open(), "what says nothing is no success either");
        calls(&breaker, &[CallEnd::Failure]);
        assert_eq!(breaker.check().unwrap_err().retry_after, SECOND * 5);
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_twenty_open_it_and_half_of_nineteen_do_not() {
        let breaker = breaker();
        for _ in 0..9 {
            calls(&breaker, &[CallEnd::Success, CallEnd::Failure]);
        }
        calls(&breaker, &[CallEnd::Success]);
        assert!(!breaker.is_open());
        calls(&breaker, &[CallEnd::Failure]);
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_long_ago_is_not_counted() {
        let breaker = breaker();
        for _ in 0..9 {
            calls(&breaker, &[CallEnd::Success, CallEnd::Failure]);
        }
        tokio::time::advance(SECOND * 31).await;
        calls(
            &breaker,
            &[CallEnd::Success, CallEnd::Failure, CallEnd::Failure],
        );
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_why_it_is_open() {
        let breaker = breaker();
        breaker.trip(Instant::now());
        let trial = breaker.admit().unwrap();
        assert_eq!(breaker.check().unwrap_err().reason, Reason::SlotsHeld);
        trial.end(CallEnd::Failure, Instant::now());
        assert_eq!(breaker.check().unwrap_err().reason, Reason::Failures);
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_at_a_time_sees_whether_the_vendor_is_well_again() {
        let breaker = breaker();
        let slow = breaker.admit().unwrap();
        calls(&breaker, &[CallEnd::Failure; 10]);
        slow.end(CallEnd::Success, Instant::now()); // it began before
        assert!(breaker.is_open());
        tokio::time::advance(SECOND * 5).await;
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err() && breaker.check().is_err());
        probe.end(CallEnd::Failure, Instant::now());
        assert!(breaker.admit().is_err(), "open for another while");
        tokio::time::advance(SECOND * 5).await;
        drop(breaker.admit().unwrap()); // its caller left: the next one sees
        breaker
            .admit()
            .unwrap()
            .end(CallEnd::Neither, Instant::now());
        assert!(breaker.is_open());
        breaker
            .admit()
            .unwrap()
            .end(CallEnd::Refused, Instant::now());
        assert!(!breaker.is_open(), "it answers");
        calls(&breaker, &[CallEnd::Failure; 9]);
        assert!(!breaker.is_open(), "it has forgotten what was before");
    }
}
