//! May a call be made now? Hands out the vendor's few connection slots, never more of them in a second than it allows.
//!
//! A permit *is* a slot. The vendor may count a call anywhere between its first byte and its answer, so a call's turn
//! of the second is free again only one second after its answer or failure. A token bucket would let nearly twice as
//! many through. Who waits is served by class, and inside a class in the order they came; waiting is bounded in number,
//! and ends at the caller's deadline.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::Error;
use super::progress::Progress;

/// What the vendor's limit of calls counts in.
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Is one of them a crawl's?
    is_crawling: bool,
    /// Calls by the minute, of the last 24 hours.
    day: VecDeque<(Instant, u32)>,
    /// When the turns of ended calls are free again, soonest first.
    cooling: VecDeque<Instant>,
    /// In the order they came.
    queue: Vec<Waiting<T>>,
    alarm_is_set: bool,
}

#[derive(Debug)]
struct Waiting<T: Send + 'static> {
    class: Class,
    progress: Progress,
    granted: oneshot::Sender<Permit<T>>,
}

/// Who goes first, the first first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Changes something.
    Command,
    /// Somebody waits for it.
    Query,
    /// One of all pages of a query: one such call at a time.
    Crawl,
    /// Nobody waits for it: a page that is answered stale meanwhile. It becomes a query once somebody waits after all.
    Refresh,
}

impl<T: Send + 'static> Waiting<T> {
    fn class(&self) -> Class {
        match self.class {
            Class::Refresh if self.progress.is_awaited() => Class::Query,
            class => class,
        }
    }
}

/// One slot, for one call. Dropping it gives the slot back, and begins the second after which its turn is free.
#[derive(Debug)]
pub struct Permit<T: Send + 'static> {
    slot: Option<T>,
    class: Class,
    is_counted: bool,
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
                is_crawling: false,
                day: VecDeque::new(),
                cooling: VecDeque::new(),
                queue: Vec::new(),
                alarm_is_set: false,
            }),
        }))
    }

    /// Waits for a permit until `deadline`. `progress` is that of the call.
    pub async fn acquire(
        &self,
        class: Class,
        progress: &Progress,
        deadline: Instant,
    ) -> Result<Permit<T>, Error> {
        let granted = {
            let mut state = self.0.lock();
            state.queue.retain(|waiting| !waiting.granted.is_closed());
            if class != Class::Crawl
                && state.bounded() >= self.0.max_queue
                && !self.0.has_room(&mut state)
                && !state.give_way_to(class)
            {
                return Err(Error::Overloaded {
                    retry_after: self.0.estimated_wait(&state),
                });
            }
            let (sender, granted) = oneshot::channel();
            state.queue.push(Waiting {
                class,
                progress: progress.clone(),
                granted: sender,
            });
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

    /// How long a query would wait for its permit, if each call takes `usual`. At least that long: who comes later and
    /// goes first is not foreseen.
    pub fn expected_wait(&self, usual: Duration) -> Duration {
        let mut state = self.0.lock();
        if self.0.has_room(&mut state) {
            return Duration::ZERO;
        }
        let ahead =
            |waiting: &&Waiting<T>| waiting.class() <= Class::Query && !waiting.granted.is_closed();
        let ahead = u32::try_from(state.queue.iter().filter(ahead).count()).unwrap_or(u32::MAX);
        let slots = u32::try_from(state.free.len() + state.busy).unwrap_or(u32::MAX);
        let by_rate = self.0.per_second.map_or(Duration::ZERO, |per_second| {
            SECOND.saturating_mul(ahead) / per_second
        });
        // All slots are busy, each half way through on average, or the turn of the second is awaited.
        let by_slots = if state.free.is_empty() {
            usual / 2 + usual.saturating_mul(ahead / slots.max(1))
        } else {
            Duration::ZERO
        };
        by_rate.max(by_slots)
    }

    /// How many calls of the last 24 hours this process has made. A minute counts until its last call is a day old.
    pub fn calls_of_the_day(&self) -> u32 {
        let mut state = self.0.lock();
        state.forget_yesterday(Instant::now());
        state.day.iter().map(|(_, calls)| calls).sum()
    }

    /// How many calls wait for a permit.
    pub fn queue_length(&self) -> usize {
        self.0
            .lock()
            .queue
            .iter()
            .filter(|waiting| !waiting.granted.is_closed())
            .count()
    }
}

impl<T: Send + 'static> State<T> {
    /// How many wait of those whose number is bounded here. Crawls are bounded where they begin, and make one call at a
    /// time each: what they have fetched is not thrown away because others come.
    fn bounded(&self) -> usize {
        let bounded = |waiting: &&Waiting<T>| waiting.class != Class::Crawl;
        self.queue.iter().filter(bounded).count()
    }

    /// Takes out whose turn is next.
    fn next(&mut self) -> Option<Waiting<T>> {
        let places = self.queue.iter().enumerate();
        let (place, _) = places
            .filter(|(_, waiting)| !(self.is_crawling && waiting.class == Class::Crawl))
            .min_by_key(|(place, waiting)| (waiting.class(), *place))?;
        Some(self.queue.remove(place))
    }

    /// Counts a call of now.
    fn count(&mut self) {
        let now = Instant::now();
        match self.day.back_mut() {
            Some((minute, calls)) if now < *minute + MINUTE => *calls += 1,
            _ => self.day.push_back((now, 1)),
        }
        self.forget_yesterday(now);
    }

    fn forget_yesterday(&mut self, now: Instant) {
        while self
            .day
            .front()
            .is_some_and(|(minute, _)| *minute + MINUTE + DAY <= now)
        {
            self.day.pop_front();
        }
    }

    /// Refuses the last one who would go after this class. False if there is none.
    fn give_way_to(&mut self, class: Class) -> bool {
        let places = self.queue.iter().enumerate();
        let bounded = places.filter(|(_, waiting)| waiting.class != Class::Crawl);
        let last = bounded.max_by_key(|(place, waiting)| (waiting.class(), *place));
        match last {
            Some((place, waiting)) if waiting.class() > class => {
                self.queue.remove(place);
                true
            }
            _ => false,
        }
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
            let Some(waiting) = state.next() else {
                break; // a crawl waits for another one
            };
            let slot = state.free.pop();
            state.busy += 1;
            let class = waiting.class;
            state.is_crawling |= class == Class::Crawl;
            let permit = Permit {
                slot,
                class,
                is_counted: false,
                shared: self.clone(),
            };
            if let Err(mut permit) = waiting.granted.send(permit) {
                // Its caller has gone: no call is made, so no turn is used.
                state.busy -= 1;
                state.is_crawling &= class != Class::Crawl;
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

    fn give_back(self: &Arc<Self>, slot: T, class: Class) {
        let mut state = self.lock();
        state.busy -= 1;
        state.is_crawling &= class != Class::Crawl;
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

impl<T: Send + 'static> Permit<T> {
    /// The first byte leaves: from now on the call counts for the day, once.
    pub fn count(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.shared.lock().count();
        }
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
            self.shared.give_back(slot, self.class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(slots: u32, per_second: Option<u32>, max_queue: usize) -> Quota<u32> {
        Quota::new((0..slots).collect(), per_second, max_queue)
    }

    async fn acquire(quota: &Quota<u32>, deadline: Instant) -> Result<Permit<u32>, Error> {
        quota
            .acquire(Class::Query, &Progress::default(), deadline)
            .await
    }

    async fn at_once(quota: &Quota<u32>) -> Result<Permit<u32>, Error> {
        acquire(quota, Instant::now()).await
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
                let permit = acquire(&quota, Instant::now() + SECOND * 600)
                    .await
                    .unwrap();
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
            drop(acquire(&quota, start + SECOND * 60).await.unwrap());
        }
        assert_eq!(start.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_leaves_at_the_deadline_and_hears_when_to_come_again() {
        let quota = quota(1, Some(1), 10);
        drop(at_once(&quota).await.unwrap());
        let start = Instant::now();
        let refused = acquire(&quota, start + SECOND / 2).await.unwrap_err();
        assert_eq!(start.elapsed(), SECOND / 2);
        assert!(matches!(refused, Error::Overloaded { retry_after } if retry_after >= SECOND));
        // The one who left uses no turn.
        let permit = acquire(&quota, start + SECOND * 6).await.unwrap();
        assert_eq!(start.elapsed(), SECOND);
        drop(permit);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded() {
        let quota = quota(1, None, 2);
        let held = at_once(&quota).await.unwrap();
        let later = Instant::now() + SECOND;
        let (first, second, third) =
            tokio::join!(acquire(&quota, later), acquire(&quota, later), async {
                let refused = acquire(&quota, later).await;
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
        let held = acquire(&quota, later).await.unwrap();
        assert!(acquire(&quota, later).await.is_err());
        assert!(Instant::now() < later, "refused at once");
        drop(held);
        assert!(acquire(&quota, later).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_served_in_the_order_they_came() {
        let quota = quota(1, None, 10);
        let held = at_once(&quota).await.unwrap();
        let order = Mutex::new(Vec::new());
        let later = Instant::now() + SECOND;
        let wait = async |name| {
            let _permit = acquire(&quota, later).await.unwrap();
            order.lock().unwrap().push(name);
        };
        tokio::join!(wait("first"), wait("second"), wait("third"), async {
            drop(held);
        });
        assert_eq!(*order.lock().unwrap(), ["first", "second", "third"]);
    }

    #[tokio::test(start_paused = true)]
    async fn commands_go_first_and_what_nobody_waits_for_goes_last() {
        let quota = quota(1, None, 10);
        let held = at_once(&quota).await.unwrap();
        let (order, later) = (Mutex::new(Vec::new()), Instant::now() + SECOND);
        let wait = async |class, progress: Progress, name| {
            let _permit = quota.acquire(class, &progress, later).await.unwrap();
            order.lock().unwrap().push(name);
        };
        let awaited = Progress::default();
        tokio::join!(
            wait(Class::Refresh, Progress::default(), "refresh"),
            wait(Class::Refresh, awaited.clone(), "refresh that is awaited"),
            wait(Class::Query, Progress::default(), "query"),
            wait(Class::Command, Progress::default(), "command"),
            async {
                awaited.await_it();
                drop(held);
            }
        );
        let expected = ["command", "refresh that is awaited", "query", "refresh"];
        assert_eq!(*order.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_full_queue_what_nobody_waits_for_makes_room() {
        let quota = quota(1, None, 1);
        let held = at_once(&quota).await.unwrap();
        let later = Instant::now() + SECOND;
        let progress = Progress::default();
        let (refresh, query, second, ()) = tokio::join!(
            quota.acquire(Class::Refresh, &progress, later),
            quota.acquire(Class::Query, &progress, later),
            quota.acquire(Class::Query, &progress, later),
            async { drop(held) }
        );
        assert!(refresh.is_err() && query.is_ok() && second.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_crawl_runs_at_a_time_and_those_that_wait_for_it_hold_no_slot() {
        let quota = quota(3, None, 10);
        let (progress, later) = (Progress::default(), Instant::now() + SECOND);
        let crawl = || quota.acquire(Class::Crawl, &progress, later);
        let first = crawl().await.unwrap();
        let second = crawl();
        let others = async {
            let both = (at_once(&quota).await, at_once(&quota).await);
            assert!(both.0.is_ok() && both.1.is_ok());
            drop(first);
        };
        let (second, ()) = tokio::join!(second, others);
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_to_expect_grows_with_the_queue() {
        let (quota, usual) = (quota(2, None, 10), SECOND * 4);
        assert_eq!(quota.expected_wait(usual), Duration::ZERO);
        let held = [at_once(&quota).await, at_once(&quota).await];
        assert_eq!(quota.expected_wait(usual), SECOND * 2);
        let later = Instant::now() + SECOND;
        let waiting = (0..4).map(|_| acquire(&quota, later));
        let look = async {
            tokio::task::yield_now().await;
            quota.expected_wait(usual)
        };
        let (_, expected) = tokio::join!(futures::future::join_all(waiting), look);
        assert_eq!(expected, SECOND * 10);
        drop(held);
    }
}
