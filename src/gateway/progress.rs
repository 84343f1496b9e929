//! How far has an upstream call come, and may it still be called off?
//!
//! Whoever makes the call and whoever gives it up race: one wants to send, the other may leave.
//! Both go through one atomic state, so exactly one of [`Progress::begin`] and [`Progress::cancel`]
//! succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::words::Sent;

const WAITING: u8 = 0;
const SENDING: u8 = 1;
const ANSWERED: u8 = 2;
const CANCELLED: u8 = 3;

/// The state of one upstream call, shared by the one who makes it and by those who wait for it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    state: AtomicU8,
    is_in_doubt: AtomicBool,
    audience: Audience,
    cancelled: Notify,
    /// What was handed over to be sent, if it can be taken back until it leaves.
    sending: Mutex<Option<Arc<dyn TakeBack>>>,
}

/// A request that waits in a connection.
pub trait TakeBack: std::fmt::Debug + Send + Sync {
    /// True if nothing of it has left that could be carried out, nor will.
    fn take_back(&self) -> bool;
}

impl Progress {
    /// One attempt of several: its own state, and the same who wait.
    #[must_use]
    pub fn attempt(&self) -> Self {
        Self(Arc::new(ProgressState {
            audience: self.0.audience.clone(),
            ..ProgressState::default()
        }))
    }

    /// Claims the right to send the first byte. False if the call was cancelled.
    pub fn begin(&self) -> bool {
        self.step(WAITING, SENDING)
    }

    /// It is proven that no byte has left, or that the vendor has not processed it.
    pub fn not_sent(&self) {
        self.step(SENDING, WAITING);
    }

    /// The head of an answer has come.
    pub fn answered(&self) {
        self.0.state.store(ANSWERED, Ordering::Release);
    }

    /// The call has begun, and can be called off for as long as this is not sent.
    pub fn may_take_back(&self, sending: Arc<dyn TakeBack>) {
        *self.sending() = Some(sending);
    }

    /// Calls the call off. True if no byte has left, and none will.
    pub fn cancel(&self) -> bool {
        let mut cancelled = self.step(WAITING, CANCELLED);
        if !cancelled && self.sending().take().is_some_and(|it| it.take_back()) {
            // Whoever sends it may have found out meanwhile that it was not sent.
            cancelled = self.step(SENDING, CANCELLED) || self.step(WAITING, CANCELLED);
        }
        if cancelled {
            self.0.cancelled.notify_waiters();
        }
        cancelled
    }

    /// Resolves once [`cancel`](Self::cancel) has succeeded.
    pub async fn cancelled(&self) {
        let told = self.0.cancelled.notified(); // of what happens from here on
        if self.0.state.load(Ordering::Acquire) != CANCELLED {
            told.await;
        }
    }

    /// Somebody waits for the answer, as long as this is held and until that time at most.
    #[must_use]
    pub fn await_it(&self, until: Instant) -> Waiter {
        let mut waiting = self.0.audience.lock();
        waiting.now += 1;
        waiting.until = waiting.until.max(Some(until));
        drop(waiting);
        Waiter(self.0.audience.clone())
    }

    /// Does anybody wait for the answer? For a background fill nobody does, at first.
    pub fn is_awaited(&self) -> bool {
        self.0.audience.lock().now > 0
    }

    /// Did somebody wait for the answer, and does nobody any more?
    pub fn is_abandoned(&self) -> bool {
        let waiting = self.0.audience.lock();
        waiting.now == 0 && waiting.until.is_some()
    }

    /// Until when somebody waits, or has waited, at most; none if nobody ever has.
    pub fn awaited_until(&self) -> Option<Instant> {
        self.0.audience.lock().until
    }

    /// The command is in doubt. True for the first who says so: it is counted once.
    pub fn is_first_doubt(&self) -> bool {
        !self.0.is_in_doubt.swap(true, Ordering::Relaxed)
    }

    /// Did the request reach Linksfield, as far as is known now?
    pub fn sent(&self) -> Sent {
        match self.0.state.load(Ordering::Acquire) {
            SENDING => Sent::Unknown,
            ANSWERED => Sent::Yes,
            _ => Sent::No,
        }
    }

    fn sending(&self) -> MutexGuard<'_, Option<Arc<dyn TakeBack>>> {
        self.0.sending.lock()
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Those who wait for a call's answer.
#[derive(Debug, Clone, Default)]
struct Audience(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    now: usize,
    /// The latest time that one of them has named.
    until: Option<Instant>,
}

impl Audience {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }
}

/// One who waits for a call's answer.
#[derive(Debug)]
pub struct Waiter(Audience);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.lock().now -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_cancelled_never_begins() {
        let progress = Progress::default();
        assert!(progress.cancel());
        assert!(!progress.begin());
        assert_eq!(progress.sent(), Sent::No);
    }

    #[test]
    fn a_call_that_has_begun_is_never_cancelled() {
        let progress = Progress::default();
        assert!(progress.begin());
        assert!(!progress.cancel());
        assert_eq!(progress.sent(), Sent::Unknown);
        progress.answered();
        assert_eq!(progress.sent(), Sent::Yes);
    }

    #[test]
    fn a_request_that_came_back_unsent_may_be_cancelled_again() {
        let progress = Progress::default();
        assert!(progress.begin());
        progress.not_sent();
        assert!(progress.cancel());
    }
}
