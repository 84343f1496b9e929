//! May a call be made now? Hands out the vendor's few connection slots, never more of them in a second than it allows.
//!
//! A permit *is* a slot. The vendor may count a call anywhere between its first byte and its answer, so a call's turn
//! of the second is free again only one second after its answer or failure. A token bucket would let nearly twice as
//! many through. Waiting is first come, first served, bounded in number, and ends at the caller's deadline.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::Error;

/// What the vendor's limit of calls counts in.
const SECOND: Duration = Duration::from_secs(1);

/// The vendor's limits, as slots of type `T`.
#[derive(Debug)]
pub struct Quota<T: Send + 'static>(Arc<Shared<T>>);

impl<T: Send + 'static> Clone for Quota<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Shared<T: Send + 'static> {
    per_second: Option<u32>,
    max_queue: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T: Send + 'static> {
    /// Last in, first out: the connection that was used last is the one most surely alive.
    free: Vec<T>,
    /// Calls that hold a permit.
    busy: usize,
    /// When the turns of ended calls are free again, soonest first.
    cooling: VecDeque<Instant>,
    queue: VecDeque<oneshot::Sender<Permit<T>>>,
    alarm_is_set: bool,
}

/// One slot, for one call. Dropping it gives the slot back, and begins the second after which its turn is free.
#[derive(Debug)]
pub struct Permit<T: Send + 'static> {
    slot: Option<T>,
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Quota<T> {
    /// `slots` are handed out, at most `per_second` of them in any second; `max_queue` calls may wait.
    pub fn new(slots: Vec<T>, per_second: Option<u32>, max_queue: usize) -> Self {
        Self(Arc::new(Shared {
            per_second,
            max_queue,
            state: Mutex::new(State {
                free: slots,
                busy: 0,
                cooling: VecDeque::new(),
                queue: VecDeque::new(),
                alarm_is_set: false,
            }),
        }))
    }

    /// Waits for a permit until `deadline`.
    pub async fn acquire(&self, deadline: Instant) -> Result<Permit<T>, Error> {
        let granted = {
            let mut state = self.0.lock();
            state.queue.retain(|waiting| !waiting.is_closed());
            if state.queue.len() >= self.0.max_queue && !self.0.has_room(&mut state) {
                return Err(Error::Overloaded {
                    retry_after: self.0.estimated_wait(&state),
                });
            }
            let (sender, granted) = oneshot::channel();
            state.queue.push_back(sender);
            self.0.dispatch(state);
            granted
        };
        match timeout_at(deadline, granted).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Overloaded {
                retry_after: self.0.estimated_wait(&self.0.lock()),
            }),
        }
    }

    /// How many calls wait for a permit.
    pub fn queue_length(&self) -> usize {
        self.0
            .lock()
            .queue
            .iter()
            .filter(|waiting| !waiting.is_closed())
            .count()
    }
}

impl<T: Send + 'static> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics between two halves of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants what can be granted now, and sees to it that somebody looks again when a turn becomes free.
    fn dispatch(self: &Arc<Self>, mut state: MutexGuard<'_, State<T>>) {
        let mut abandoned = Vec::new();
        while !state.queue.is_empty() && !state.free.is_empty() {
            if let Some(free_at) = self.next_turn(&mut state) {
                if !state.alarm_is_set {
                    state.alarm_is_set = true;
                    tokio::spawn(self.clone().alarm(free_at));
                }
                break;
            }
            let (Some(waiting), Some(slot)) = (state.queue.pop_front(), state.free.pop()) else {
                break;
            };
            state.busy += 1;
            let permit = Permit {
                slot: Some(slot),
                shared: self.clone(),
            };
            if let Err(mut permit) = waiting.send(permit) {
                // Its caller has gone: no call is made, so no turn is used.
                state.busy -= 1;
                state.free.extend(permit.slot.take());
                abandoned.push(permit);
            }
        }
        drop(state); // before the permits without a slot are dropped
    }

    /// Would whoever asks now be granted a permit at once?
    fn has_room(&self, state: &mut State<T>) -> bool {
        state.queue.is_empty() && !state.free.is_empty() && self.next_turn(state).is_none()
    }

    /// When the next turn is free, if none is now.
    fn next_turn(&self, state: &mut State<T>) -> Option<Instant> {
        let per_second = self.per_second?;
        let now = Instant::now();
        while state.cooling.front().is_some_and(|free_at| *free_at <= now) {
            state.cooling.pop_front();
        }
        let used = state.busy + state.cooling.len();
        if used < per_second as usize {
            return None;
        }
        // With all turns held by running calls, the return of one of them looks again.
        Some(state.cooling.front().copied().unwrap_or(now + SECOND))
    }

    async fn alarm(self: Arc<Self>, at: Instant) {
        sleep_until(at).await;
        let mut state = self.lock();
        state.alarm_is_set = false;
        self.dispatch(state);
    }

    fn give_back(self: &Arc<Self>, slot: T) {
        let mut state = self.lock();
        state.busy -= 1;
        state.free.push(slot);
        if self.per_second.is_some() {
            state.cooling.push_back(Instant::now() + SECOND);
        }
        self.dispatch(state);
    }

    /// A lower bound: how long those who wait now will take by the rate alone.
    fn estimated_wait(&self, state: &State<T>) -> Duration {
        let waiting = u32::try_from(state.queue.len()).unwrap_or(u32::MAX);
        SECOND.saturating_mul(waiting / self.per_second.unwrap_or(waiting + 1) + 1)
    }
}

impl<T: Send + 'static> Deref for Permit<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.slot.as_ref().expect("taken only by drop")
    }
}

impl<T: Send + 'static> DerefMut for Permit<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.slot.as_mut().expect("taken only by drop")
    }
}

impl<T: Send + 'static> Drop for Permit<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.give_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(slots: u32, per_second: Option<u32>, max_queue: usize) -> Quota<u32> {
        Quota::new((0..slots).collect(), per_second, max_queue)
    }

    async fn at_once(quota: &Quota<u32>) -> Result<Permit<u32>, Error> {
        quota.acquire(Instant::now()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_held_by_one_call_at_a_time() {
        let quota = quota(2, None, 10);
        let first = at_once(&quota).await.unwrap();
        let second = at_once(&quota).await.unwrap();
        assert_ne!(*first, *second);
        assert!(at_once(&quota).await.is_err());
        drop(first);
        assert!(at_once(&quota).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn in_no_second_are_there_more_calls_than_the_rate_however_the_vendor_counts() {
        // Calls that last up to 1.6 s; the vendor may count each at its start, its end or in between.
        let quota = quota(7, Some(10), 500);
        let mut running = tokio::task::JoinSet::new();
        for index in 0..200_u64 {
            let quota = quota.clone();
            running.spawn(async move {
                let permit = quota.acquire(Instant::now() + SECOND * 600).await.unwrap();
                let start = Instant::now();
                tokio::time::sleep(Duration::from_millis(index * 7919 % 1600)).await;
                let end = Instant::now();
                drop(permit);
                [start, start + (end - start) / 2, end][(index % 3) as usize]
            });
        }
        let mut counted = running.join_all().await;
        counted.sort();
        for window in counted.windows(11) {
            assert!(
                window[10] - window[0] >= SECOND,
                "11 calls within {:?}",
                window[10] - window[0]
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_quota_uses_all_of_its_rate() {
        let quota = quota(100, Some(10), 500);
        let start = Instant::now();
        for _ in 0..100 {
            drop(quota.acquire(start + SECOND * 60).await.unwrap());
        }
        assert_eq!(start.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_leaves_at_the_deadline_and_hears_when_to_come_again() {
        let quota = quota(1, Some(1), 10);
        drop(at_once(&quota).await.unwrap());
        let start = Instant::now();
        let refused = quota.acquire(start + SECOND / 2).await.unwrap_err();
        assert_eq!(start.elapsed(), SECOND / 2);
        assert!(matches!(refused, Error::Overloaded { retry_after } if retry_after >= SECOND));
        // The one who left uses no turn.
        let permit = quota.acquire(start + SECOND * 6).await.unwrap();
        assert_eq!(start.elapsed(), SECOND);
        drop(permit);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded() {
        let quota = quota(1, None, 2);
        let held = at_once(&quota).await.unwrap();
        let later = Instant::now() + SECOND;
        let (first, second, third) =
            tokio::join!(quota.acquire(later), quota.acquire(later), async {
                let refused = quota.acquire(later).await;
                assert!(Instant::now() < later, "refused at once");
                refused
            });
        assert!(first.is_err() && second.is_err() && third.is_err());
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_a_permit_is_had_at_once_or_not_at_all() {
        let quota = quota(1, None, 0);
        let later = Instant::now() + SECOND;
        let held = quota.acquire(later).await.unwrap();
        assert!(quota.acquire(later).await.is_err());
        assert!(Instant::now() < later, "refused at once");
        drop(held);
        assert!(quota.acquire(later).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_served_in_the_order_they_came() {
        let quota = quota(1, None, 10);
        let held = at_once(&quota).await.unwrap();
        let order = Mutex::new(Vec::new());
        let later = Instant::now() + SECOND;
        let wait = async |name| {
            let _permit = quota.acquire(later).await.unwrap();
            order.lock().unwrap().push(name);
        };
        tokio::join!(wait("first"), wait("second"), wait("third"), async {
            drop(held);
        });
        assert_eq!(*order.lock().unwrap(), ["first", "second", "third"]);
    }
}
