//! May a call be made now? Hands out the vendor's few connection slots, within what it allows in a
//! second and in a day.
//!
//! A permit is a slot (`quota/slots.rs`), or with HTTP/2 a part of one that takes many calls at a
//! time. When its turn of the second is free again says `quota/rate.rs`, what the day has left
//! `quota/day.rs`, who of those that wait goes first `quota/queue.rs`; here they meet. Whoever can
//! have a permit now has it at once. Whoever cannot waits: bounded in number, until its deadline,
//! and only if that can be kept.

mod ask;
mod day;
mod levels;
mod limits;
mod queue;
mod rate;
mod slots;

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

pub use self::ask::Ask;
use self::day::{Counted, Day};
pub use self::day::{DayLevel, History, Thrift};
pub use self::levels::{Level, Levels};
pub use self::limits::{Limits, Share};
use self::queue::{Queue, Waiting};
use self::rate::Rate;
pub use self::slots::Shareable;
use self::slots::Slots;
use super::breaker::Reason;
use super::skew::Told;
use crate::gateway::error::Error;
use crate::gateway::progress::Progress;
use crate::words::Class;

/// The weight of the latest duration in the moving average is one in so many.
const PACE_MEMORY: u32 = 8;

/// Most connections that are given up are closed for the vendor too within this time. One that is
/// not is told of as held.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);

/// When every slot is held, nobody knows until when: callers look again after so long.
const HELD_RETRY: Duration = Duration::from_secs(5);

/// A deadline that no call has.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Whose calls the vendor has had too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttled {
    /// Ours may have been: a limit was used up, or is not known.
    Ours,
    /// By our count there was room: somebody else shares the address, or the limits are not the
    /// vendor's.
    Foreign,
}

/// The vendor's limits, as slots of type `T`.
#[derive(Debug)]
pub struct Quota<T: Shareable>(Arc<SharedQuota<T>>);

impl<T: Shareable> Clone for Quota<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct SharedQuota<T: Shareable>(Mutex<QuotaState<T>>);

#[derive(Debug)]
struct QuotaState<T: Shareable> {
    slots: Slots<T>,
    /// Calls that cannot use the slot that they have, the first first.
    movers: Vec<Mover<T>>,
    /// Is one of the calls a crawl's?
    is_crawling: bool,
    max_queue: usize,
    rate: Rate,
    day: Day,
    queue: Queue<oneshot::Sender<Result<Permit<T>, Error>>>,
    /// How long permits are held, on average; none before the first has come back.
    pace: Option<Duration>,
    /// When somebody looks again, if that is set.
    alarm: Option<Instant>,
}

/// A call that wants another slot than the one with this number.
#[derive(Debug)]
struct Mover<T: Shareable> {
    number: u64,
    tell: oneshot::Sender<SlotPlace<T>>,
}

/// A call's place in a slot, given back unless it is used.
#[derive(Debug)]
struct SlotPlace<T: Shareable> {
    slot: T,
    number: u64,
    is_over: bool,
    shared: Arc<SharedQuota<T>>,
}

impl<T: Shareable> Drop for SlotPlace<T> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.shared.lock();
            state.slots.put_back(self.number);
            self.shared.dispatch(&mut state, Instant::now());
        }
    }
}

/// One call, and its slot. Dropping it gives the slot back, and begins the second after which its
/// turn is free.
#[derive(Debug)]
pub struct Permit<T: Shareable> {
    slot: T,
    /// That of the slot while it is busy.
    number: u64,
    stage: PermitStage,
    tenant: usize,
    class: Class,
    granted_at: Instant,
    /// Had it to be waited for?
    has_waited: bool,
    /// Had the second's limit room for another call beside it?
    had_spare: bool,
    counted: Option<Counted>,
    shared: Arc<SharedQuota<T>>,
}

/// How far a permit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PermitStage {
    /// The call is under way, or is about to be.
    Granted,
    /// The time for the call has passed, and the vendor has not ended it.
    Held,
    /// It has been given back.
    Over,
}

impl<T: Shareable> Quota<T> {
    /// Slots that nobody has used yet. `history` is what a store has kept; without one, what the
    /// day has seen is assumed to be nothing. What the last second has seen is not: its turns are
    /// free one second from now.
    pub fn new(limits: &Limits, now: SystemTime, history: Option<&History>) -> Self {
        let state = QuotaState {
            slots: Slots::new(limits.connections),
            movers: Vec::new(),
            is_crawling: false,
            max_queue: limits.queue,
            rate: Rate::at_start(limits.per_second, Instant::now()),
            day: Day::new(limits, now, history),
            queue: Queue::new(&limits.tenants),
            pace: None,
            alarm: None,
        };
        Self(Arc::new(SharedQuota(Mutex::new(state))))
    }

    /// Other limits from now on. Who waits goes on waiting, what was counted stays counted. Of
    /// connections that are too many the idle ones are given up now, the others when their calls
    /// end.
    pub fn change(&self, limits: &Limits) {
        let mut state = self.0.lock();
        state.max_queue = limits.queue;
        state.rate.change(limits.per_second);
        state.day.change(limits);
        state.queue.change(&limits.tenants);
        state.slots.resize(limits.connections);
        self.0.dispatch(&mut state, Instant::now());
    }
}

impl<T: Shareable> Quota<T> {
    /// Waits for a permit until the deadline.
    pub async fn acquire(&self, ask: Ask<'_>) -> Result<Permit<T>, Error> {
        self.acquire_until(ask, ask.deadline).await
    }

    /// Waits for a permit until `until`, where the call is of use beyond the deadline of the one
    /// who began it. Whether that can be kept decides whether it may wait at all.
    pub async fn acquire_until(&self, ask: Ask<'_>, until: Instant) -> Result<Permit<T>, Error> {
        let granted = match self.0.enter(&ask)? {
            Entered::Granted(permit) => return Ok(permit),
            Entered::Waits(granted) => granted,
        };
        if let Ok(Ok(result)) = timeout_at(until, granted).await {
            return result;
        }
        let (mut state, now) = (self.0.lock(), Instant::now());
        self.0.dispatch(&mut state, now); // takes this one out of the queue
        let retry_after = state.wait(&ask, now);
        Err(Error::Overloaded { retry_after })
    }

    /// How long a query of this tenant would wait for its permit, if each call takes `usual`. At
    /// least that long: who comes later and goes first is not foreseen.
    pub fn expected_wait(&self, tenant: usize, usual: Duration) -> Duration {
        let (mut state, now) = (self.0.lock(), Instant::now());
        let ask = Ask {
            tenant,
            class: Class::Query,
            is_listed: true,
            progress: &Progress::default(),
            deadline: now + FAR, // behind all queries that wait
            usual,
        };
        if state.has_room(&ask, now) {
            return Duration::ZERO;
        }
        state.wait(&ask, now)
    }

    /// How many calls queries may still make in this day; none without a limit.
    pub fn left_for_queries(&self) -> Option<u32> {
        let level = self.0.lock().day.level(Instant::now());
        level.map(|day| day.remaining_for_queries)
    }

    /// What is left of the limits.
    pub fn levels(&self) -> Levels {
        let (state, now) = (self.0.lock(), Instant::now());
        let remaining = state.rate.remaining(now);
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let pause = state.rate.paused_until(now);
        Levels {
            second: state
                .rate
                .limit()
                .zip(remaining)
                .map(|(limit, remaining)| Level { limit, remaining }),
            allowed_rate: state.rate.allowed(now),
            pause: pause.map_or(Duration::ZERO, |until| until - now),
            connections: Level {
                limit: narrow(state.slots.most),
                remaining: narrow(state.slots.free.len()),
            },
            day: state.day.level(now),
            thrift: state.day.thrift(now),
        }
    }

    /// How many slots are held by connections that were given up, and that the vendor has not
    /// ended.
    pub fn slots_held(&self) -> usize {
        self.0.lock().slots.held
    }

    /// Linksfield has told its time: calls of before the start may be over by that.
    pub fn learn(&self, told: Told) {
        let (mut state, now) = (self.0.lock(), Instant::now());
        state.day.learn(now, told);
        self.0.dispatch(&mut state, now);
    }

    /// The calls of the last 24 hours, for a store to keep.
    pub fn history(&self) -> History {
        self.0.lock().day.history(Instant::now())
    }

    /// How many calls wait for a permit.
    pub fn queue_length(&self) -> usize {
        self.queue_lengths().iter().map(|(_, number)| number).sum()
    }

    /// The same by class.
    pub fn queue_lengths(&self) -> [(Class, usize); 4] {
        let state = self.0.lock();
        let still_waits = |waiting: &&Waiting<oneshot::Sender<_>>| !waiting.granted.is_closed();
        let waiting: Vec<_> = state.queue.iter().filter(still_waits).collect();
        Class::ALL.map(|class| {
            let of_class = waiting.iter().filter(|waiting| waiting.class() == class);
            (class, of_class.count())
        })
    }
}

impl<T: Shareable> QuotaState<T> {
    /// A call that was granted is not made: no turn is used.
    fn take_back(&mut self, number: u64, tenant: usize) {
        self.slots.put_back(number);
        self.day.release();
        self.rate.abandon();
        self.queue.abandon(tenant);
    }

    /// Would whoever asks be granted a permit at once? None of those that wait would.
    fn has_room(&self, ask: &Ask<'_>, now: Instant) -> bool {
        self.slots.has_slot()
            && self.rate.room(now).is_ok()
            && self.queue.has_room(ask.tenant, now)
            && !(self.is_crawling && ask.class == Class::Crawl)
    }

    /// Why a call is refused, if it is: no slot will be free soon, or the day's budget has ended.
    fn refusal(&self, class: Class, is_listed: bool, now: Instant) -> Option<Error> {
        if self.slots.is_stuck() {
            return Some(Error::BreakerOpen {
                reason: Reason::SlotsHeld,
                retry_after: HELD_RETRY,
            });
        }
        let has_reserve = class == Class::Command && is_listed;
        match class {
            Class::Refresh => self.day.refusal_of_refresh(now),
            _ => self.day.refusal(now, has_reserve),
        }
    }

    /// There is no room now: may this one wait?
    fn admit(&mut self, ask: &Ask<'_>, now: Instant) -> Result<(), Error> {
        let wait = self.wait(ask, now);
        let patience = ask.deadline.saturating_duration_since(now);
        let excess = (wait + ask.usual).saturating_sub(patience);
        if !excess.is_zero() {
            // When so much of what is ahead has gone that the same request can be served; if it
            // could never be, when a turn is free.
            let is_possible = ask.usual < patience;
            let retry_after = if is_possible { excess } else { wait };
            return Err(Error::Overloaded { retry_after });
        }
        if ask.class != Class::Crawl && self.bounded() >= self.max_queue {
            let retry_after = wait;
            let Some(last) = self.queue.give_way(ask) else {
                return Err(Error::Overloaded { retry_after });
            };
            let _ = last.granted.send(Err(Error::Overloaded { retry_after }));
        }
        Ok(())
    }

    /// How many wait of those whose number is bounded here. Crawls are bounded where they begin,
    /// and make one call at a time each: what they have fetched is not thrown away because others
    /// come.
    fn bounded(&self) -> usize {
        let bounded = |waiting: &&Waiting<_>| waiting.asked != Class::Crawl;
        self.queue.iter().filter(bounded).count()
    }

    /// How long this one would wait for its permit, about.
    fn wait(&mut self, ask: &Ask<'_>, now: Instant) -> Duration {
        let pace = self.pace.unwrap_or(ask.usual);
        let (ahead, cap) = self.queue.ahead(ask, now, pace);
        let (room, capacity) = self.slots.rooms();
        let slot = match (ahead + 1).checked_sub(room + 1) {
            None => Duration::ZERO,
            Some(later) => {
                // Each is half way through on average.
                let rounds = later / capacity.max(1);
                pace / 2 + pace.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
            }
        };
        self.rate.wait(now, ahead + 1, pace).max(slot).max(cap)
    }

    /// Tells those who will not be served: who has left, for whom the day's budget has ended, whose
    /// deadline comes before the vendor wants a call again.
    fn dismiss(&mut self, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        let queries_end = self.day.refusal(now, false).is_some();
        let commands_end = self.day.refusal(now, true).is_some();
        let refreshes_end = self.day.refusal_of_refresh(now).is_some();
        let pause = self.rate.paused_until(now);
        let is_stuck = self.slots.is_stuck();
        let out = self.queue.remove(|waiting| {
            let is_spent = match waiting.class() {
                Class::Refresh => refreshes_end,
                Class::Command if waiting.is_listed => commands_end,
                _ => queries_end,
            };
            is_spent
                || is_stuck
                || waiting.granted.is_closed()
                || pause.is_some_and(|until| waiting.deadline < until + waiting.usual)
        });
        for waiting in out {
            let refusal = self.refusal(waiting.class(), waiting.is_listed, now);
            let error = refusal.unwrap_or_else(|| Error::Overloaded {
                retry_after: pause.map_or(Duration::ZERO, |until| until - now),
            });
            let _ = waiting.granted.send(Err(error));
        }
    }

    /// When somebody has to look again, because a turn is free then though no call has ended.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() || !self.slots.has_slot() {
            return None;
        }
        match self.rate.room(now) {
            Err(at) => at,
            Ok(()) => self.queue.next_room(now),
        }
    }
}

/// What came of asking for a permit.
enum Entered<T: Shareable> {
    Granted(Permit<T>),
    Waits(oneshot::Receiver<Result<Permit<T>, Error>>),
}

impl<T: Shareable> SharedQuota<T> {
    fn lock(&self) -> MutexGuard<'_, QuotaState<T>> {
        // Nothing in here panics between two halves of a change.
        self.0.lock()
    }

    /// Takes a permit, or a place in the queue, where the permit or a refusal comes to; both may be
    /// there already.
    fn enter(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Entered<T>, Error> {
        let (mut state, now) = (self.lock(), Instant::now());
        self.dispatch(&mut state, now); // who has left counts no more, and whoever can go is gone
        if let Some(error) = state.refusal(ask.class(), ask.is_listed, now) {
            return Err(error);
        }
        if state.has_room(ask, now)
            && let Some(slot) = state.slots.take(None)
        {
            state.queue.begin(ask.tenant);
            let permit = self.permit(&mut state, (ask.tenant, ask.class), slot, now);
            state.dismiss(now); // the day may have ended with this call
            return Ok(Entered::Granted(permit));
        }
        state.admit(ask, now)?;
        let (sender, granted) = oneshot::channel();
        state.queue.push(ask, now, sender);
        self.dispatch(&mut state, now);
        Ok(Entered::Waits(granted))
    }

    /// Grants what can be granted now, and sees to it that somebody looks again when a turn becomes
    /// free.
    fn dispatch(self: &Arc<Self>, state: &mut QuotaState<T>, now: Instant) {
        state.dismiss(now);
        self.move_on(state);
        while !state.queue.is_empty() && state.rate.room(now).is_ok() {
            let Some((number, slot)) = state.slots.take(None) else {
                break;
            };
            let Some(waiting) = state.queue.next(now, state.is_crawling) else {
                state.slots.put_back(number);
                break;
            };
            self.grant(state, waiting, (number, slot), now);
            state.dismiss(now); // the day may have ended with this call
        }
        for slot in std::mem::take(&mut state.slots.unwatched) {
            tokio::spawn(self.clone().reclaim(slot));
        }
        if let Some(at) = state.next_look(now)
            && state.alarm.is_none_or(|set| at < set)
        {
            state.alarm = Some(at);
            tokio::spawn(self.clone().look_at(at));
        }
    }

    /// Calls that have their permit already go before those that wait for one.
    fn move_on(self: &Arc<Self>, state: &mut QuotaState<T>) {
        for mover in std::mem::take(&mut state.movers) {
            if mover.tell.is_closed() {
                continue;
            }
            let Some((number, slot)) = state.slots.take(Some(mover.number)) else {
                state.movers.push(mover);
                continue;
            };
            let place = SlotPlace {
                slot,
                number,
                is_over: false,
                shared: self.clone(),
            };
            if let Err(mut place) = mover.tell.send(place) {
                place.is_over = true;
                state.slots.put_back(number);
            }
        }
    }

    fn grant(
        self: &Arc<Self>,
        state: &mut QuotaState<T>,
        waiting: Waiting<oneshot::Sender<Result<Permit<T>, Error>>>,
        (number, slot): (u64, T),
        now: Instant,
    ) {
        let (tenant, class, was_crawling) = (waiting.tenant, waiting.asked, state.is_crawling);
        let mut permit = self.permit(state, (tenant, class), (number, slot), now);
        permit.has_waited = waiting.since < now;
        if let Err(Ok(mut permit)) = waiting.granted.send(Ok(permit)) {
            permit.stage = PermitStage::Over; // its caller has gone
            state.is_crawling = was_crawling;
            state.take_back(number, tenant);
        }
    }

    /// The permit of a call that is counted for its tenant, in a slot that has been taken.
    fn permit(
        self: &Arc<Self>,
        state: &mut QuotaState<T>,
        (tenant, class): (usize, Class),
        (number, slot): (u64, T),
        now: Instant,
    ) -> Permit<T> {
        state.is_crawling |= class == Class::Crawl;
        state.day.grant();
        Permit {
            slot,
            number,
            stage: PermitStage::Granted,
            tenant,
            class,
            granted_at: now,
            has_waited: false,
            had_spare: state.rate.begin(now),
            counted: None,
            shared: self.clone(),
        }
    }

    async fn look_at(self: Arc<Self>, at: Instant) {
        sleep_until(at).await;
        let mut state = self.lock();
        if state.alarm == Some(at) {
            state.alarm = None;
        }
        self.dispatch(&mut state, Instant::now());
    }

    /// Waits until a slot can be used again.
    async fn reclaim(self: Arc<Self>, slot: T) {
        let is_held = timeout(CLOSES_WITHIN, slot.ready()).await.is_err();
        if is_held {
            {
                let mut state = self.lock();
                state.slots.held += 1;
                self.dispatch(&mut state, Instant::now());
            }
            slot.ready().await;
        }
        let mut state = self.lock();
        state.slots.closing -= 1;
        state.slots.held -= usize::from(is_held);
        state.slots.set_free(slot);
        self.dispatch(&mut state, Instant::now());
    }

    fn give_back(self: &Arc<Self>, permit: &Permit<T>) {
        let (mut state, now) = (self.lock(), Instant::now());
        let is_held = permit.stage == PermitStage::Held;
        state.slots.held -= usize::from(is_held);
        state.slots.put_back(permit.number);
        state.is_crawling &= permit.class != Class::Crawl;
        state.rate.end(now);
        state.queue.end(permit.tenant, now);
        match permit.counted {
            Some(counted) => state.day.end(counted, now),
            None => state.day.release(),
        }
        if !is_held {
            let kept = now - permit.granted_at;
            let pace = state.pace;
            let mean = |pace| (pace * (PACE_MEMORY - 1) + kept) / PACE_MEMORY;
            state.pace = Some(pace.map_or(kept, mean));
        }
        self.dispatch(&mut state, now);
    }
}

impl<T: Shareable> Permit<T> {
    /// The first byte leaves: from now on the call counts for the day, once. `told` is the time as
    /// far as it is known. How sparing does the day demand to be now?
    pub fn count(&mut self, told: Told) -> Thrift {
        let (mut state, now) = (self.shared.lock(), Instant::now());
        if self.counted.is_none() {
            self.counted = Some(state.day.count(now, told));
        }
        state.day.thrift(now)
    }

    /// Had it to be waited for?
    pub fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// The time for the call has passed, and the vendor has not ended it: its slot stays taken.
    /// True if now every slot is held, so that no call can be made.
    pub fn hold(&mut self) -> bool {
        let mut state = self.shared.lock();
        state.slots.held += usize::from(self.stage == PermitStage::Granted);
        self.stage = PermitStage::Held;
        if self.class == Class::Crawl {
            state.is_crawling = false; // nobody waits for it any more
            self.class = Class::Query;
        }
        let is_stuck = state.slots.is_stuck();
        self.shared.dispatch(&mut state, Instant::now());
        is_stuck
    }

    /// No call is made after all: the turn is the next one's.
    pub fn decline(mut self) {
        debug_assert!(self.counted.is_none(), "a call that has begun is made");
        self.stage = PermitStage::Over;
        let mut state = self.shared.lock();
        state.is_crawling &= self.class != Class::Crawl;
        state.take_back(self.number, self.tenant);
        self.shared.dispatch(&mut state, Instant::now());
    }

    /// Waits until another slot has room, and goes through that one from now on.
    pub async fn change_slot(&mut self) {
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            let number = self.number;
            state.movers.push(Mover { number, tell });
            self.shared.dispatch(&mut state, Instant::now());
        }
        let Ok(mut place) = told.await else {
            unreachable!("a mover is kept until it is told")
        };
        place.is_over = true;
        let left = std::mem::replace(&mut self.number, place.number);
        self.slot = place.slot.clone();
        let mut state = self.shared.lock();
        state.slots.put_back(left);
        self.shared.dispatch(&mut state, Instant::now());
    }

    /// The slot takes more calls than it did: those that wait may have it too.
    pub fn slot_has_grown(&self) {
        let mut state = self.shared.lock();
        state.slots.is_sharing = true;
        self.shared.dispatch(&mut state, Instant::now());
    }

    /// How long until the next call may begin, about: the second's turn, and the pause that the
    /// vendor wants.
    pub fn next_call_in(&self) -> Duration {
        let state = self.shared.lock();
        let pace = state.pace.unwrap_or_default();
        state.rate.wait(Instant::now(), 1, pace)
    }

    /// The vendor has refused this call as one too many, and may have said when it takes one again.
    pub fn throttled(&self, retry_after: Option<Duration>) -> Throttled {
        let (mut state, now) = (self.shared.lock(), Instant::now());
        let has_spare = state.rate.has_spare(now) && state.day.has_spare(now);
        state.rate.throttled(now, retry_after);
        self.shared.dispatch(&mut state, now);
        if self.had_spare && has_spare {
            Throttled::Foreign
        } else {
            Throttled::Ours
        }
    }
}

impl<T: Shareable> Deref for Permit<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.slot
    }
}

impl<T: Shareable> Drop for Permit<T> {
    fn drop(&mut self) {
        if self.stage != PermitStage::Over {
            self.shared.give_back(self);
        }
    }
}

#[cfg(test)]
mod tests;
