//! May a call be made now? Hands out the vendor's few connection slots, within what it allows in a second and in a day.
//!
//! A permit is a slot, or with HTTP/2 a part of one that takes many calls at a time. When its turn of the second is free
//! again says `quota/rate.rs`, what the day has left `quota/day.rs`, who of those that wait goes first `quota/queue.rs`;
//! here they meet. Whoever can have a permit now has it at once. Whoever cannot waits: bounded in number, until its
//! deadline, and only if that can be kept.

mod day;
mod queue;
mod rate;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::day::{Counted, Day};
pub use self::day::{DayLevel, History, Thrift};
use self::queue::{Queue, Waiting};
use self::rate::Rate;
use super::breaker::Reason;
use super::skew::Told;
use crate::gateway::error::Error;
use crate::gateway::progress::Progress;

/// A new duration's part in the mean is one in so many.
const PACE_MEMORY: u32 = 8;

/// Most connections that are given up are closed for the vendor too within this time. One that is not is told of as held.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);

/// When every slot is held, nobody knows until when: callers look again after so long.
const HELD_RETRY: Duration = Duration::from_secs(5);

/// A deadline that no call has.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// What the vendor allows, this process's share of it, and who may have how much of that.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Calls in any one second.
    pub per_second: Option<u32>,
    /// Connections at a time, and so calls, unless a slot takes more than one.
    pub connections: u32,
    /// Calls in a day.
    pub per_day: Option<u32>,
    /// The second after midnight UTC at which the day begins; none: any 24 hours are a day.
    pub day_begins_at: Option<u32>,
    /// Share of the day's calls that only commands on configured paths may use, from 0 to 1.
    pub command_reserve: f64,
    /// Calls that may wait.
    pub queue: usize,
    /// By the tenant's index. Where a change gives an index to another tenant, calls under way count for that one.
    pub tenants: Vec<Share>,
}

/// What a tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How much more than a tenant of weight 1, while both want calls.
    pub weight: u32,
    /// Its calls in any one second, though more were free.
    pub per_second: Option<u32>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: 1,
            per_second: None,
        }
    }
}

/// Who asks for a permit, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The tenant's index.
    pub tenant: usize,
    /// What it is to the others of its tenant.
    pub class: Class,
    /// Is the path configured? Only then may a command use the reserve.
    pub is_listed: bool,
    /// How far the call has come, and whether somebody waits for it.
    pub progress: &'a Progress,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// How long the call usually takes, once it has its permit.
    pub usual: Duration,
}

impl Ask<'_> {
    fn class(&self) -> Class {
        self.class.of(self.progress)
    }
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
    /// Nobody waits for it: a page that is answered stale meanwhile. It becomes a query once somebody waits after all, as
    /// a query becomes this once all have left who waited.
    Refresh,
}

impl Class {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Command, Self::Query, Self::Crawl, Self::Refresh];

    /// The spelling in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Query => "query",
            Self::Crawl => "crawl",
            Self::Refresh => "refresh",
        }
    }

    fn of(self, progress: &Progress) -> Self {
        match self {
            Self::Refresh if progress.is_awaited() => Self::Query,
            Self::Query if progress.is_abandoned() => Self::Refresh,
            class => class,
        }
    }
}

/// What is left of the vendor's limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Of the calls of a second; none without a limit.
    pub second: Option<Level>,
    /// Calls a second that are allowed now: the limit, less what the vendor's throttling has taken; none without a limit.
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

/// Whose calls the vendor has had too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttled {
    /// Ours may have been: a limit was used up, or is not known.
    Ours,
    /// By our count there was room: somebody else shares the address, or the limits are not the vendor's.
    Foreign,
}

/// What calls go through: one connection at most. A clone is the same one, for one more call.
pub trait Shareable: Clone + Default + Send + 'static {
    /// How many calls it is known to take at a time, now. Whatever that is, it takes one while it has none. Who makes it
    /// more than one says so: [`Permit::slot_has_grown`].
    fn capacity(&self) -> usize;

    /// There are too many of its kind: what it holds is given up. No call goes through it.
    fn retire(&self);

    /// May a call go through it now, or does the vendor still see a connection of it that was given up?
    fn is_ready(&self) -> bool {
        true
    }

    /// Waits until the vendor sees none any more.
    fn ready(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// The vendor's limits, as slots of type `T`.
#[derive(Debug)]
pub struct Quota<T: Shareable>(Arc<Shared<T>>);

impl<T: Shareable> Clone for Quota<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Shared<T: Shareable>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T: Shareable> {
    /// Without a call. Last in, first out: the connection that was used last is the one most surely alive.
    free: Vec<T>,
    /// With calls, the one that has had one for longest first.
    busy: Vec<Busy<T>>,
    /// Calls that cannot use the slot that they have, the first first.
    movers: Vec<Mover<T>>,
    /// The number of the slot that was taken from `free` last.
    last: u64,
    /// How many slots there may be, `free` and `busy`.
    slots: usize,
    /// Those that were too many. The vendor may not have seen them closed yet, so they are the first to come back.
    retired: Vec<T>,
    /// Slots that nobody may use until the vendor has closed their connections, and those of them that somebody waits for.
    closing: usize,
    unwatched: Vec<T>,
    /// Slots that are held: by an exchange whose time has passed, or by a connection that the vendor does not close.
    held: usize,
    /// Has a slot ever taken more than one call at a time? Else none is looked for that does.
    is_sharing: bool,
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

/// A slot that calls go through.
#[derive(Debug)]
struct Busy<T> {
    slot: T,
    number: u64,
    calls: usize,
}

/// A call that wants another slot than the one with this number.
#[derive(Debug)]
struct Mover<T: Shareable> {
    number: u64,
    tell: oneshot::Sender<Place<T>>,
}

/// A call's place in a slot, given back unless it is used.
#[derive(Debug)]
struct Place<T: Shareable> {
    slot: T,
    number: u64,
    is_over: bool,
    shared: Arc<Shared<T>>,
}

impl<T: Shareable> Drop for Place<T> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.shared.lock();
            state.put_back(self.number);
            self.shared.dispatch(&mut state, Instant::now());
        }
    }
}

/// One call, and its slot. Dropping it gives the slot back, and begins the second after which its turn is free.
#[derive(Debug)]
pub struct Permit<T: Shareable> {
    slot: T,
    /// That of the slot while it is busy.
    number: u64,
    stage: Stage,
    tenant: usize,
    class: Class,
    granted_at: Instant,
    /// Had it to be waited for?
    has_waited: bool,
    /// Had the second's limit room for another call beside it?
    had_spare: bool,
    counted: Option<Counted>,
    shared: Arc<Shared<T>>,
}

/// How far a permit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The call is under way, or is about to be.
    Granted,
    /// The time for the call has passed, and the vendor has not ended it.
    Held,
    /// It has been given back.
    Over,
}

impl<T: Shareable> Quota<T> {
    /// Slots that nobody has used yet. `history` is what a store has kept; without one, what the day has seen is assumed
    /// to be nothing. What the last second has seen is not: its turns are free one second from now.
    pub fn new(limits: &Limits, now: SystemTime, history: Option<&History>) -> Self {
        let mut state = State {
            free: Vec::new(),
            busy: Vec::new(),
            movers: Vec::new(),
            last: 0,
            slots: 0,
            retired: Vec::new(),
            closing: 0,
            unwatched: Vec::new(),
            held: 0,
            is_sharing: false,
            is_crawling: false,
            max_queue: limits.queue,
            rate: Rate::at_start(limits.per_second, Instant::now()),
            day: Day::new(limits, now, history),
            queue: Queue::new(&limits.tenants),
            pace: None,
            alarm: None,
        };
        state.resize(limits.connections);
        Self(Arc::new(Shared(Mutex::new(state))))
    }

    /// Other limits from now on. Who waits goes on waiting, what was counted stays counted. Of connections that are too
    /// many the idle ones are given up now, the others when their calls end.
    pub fn change(&self, limits: &Limits) {
        let mut state = self.0.lock();
        state.max_queue = limits.queue;
        state.rate.change(limits.per_second);
        state.day.change(limits);
        state.queue.change(&limits.tenants);
        state.resize(limits.connections);
        self.0.dispatch(&mut state, Instant::now());
    }
}

impl<T: Shareable> Quota<T> {
    /// Waits for a permit until the deadline.
    pub async fn acquire(&self, ask: Ask<'_>) -> Result<Permit<T>, Error> {
        self.acquire_until(ask, ask.deadline).await
    }

    /// Waits for a permit until `until`, where the call is of use beyond the deadline of the one who began it. Whether that
    /// can be kept decides whether it may wait at all.
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

    /// How long a query of this tenant would wait for its permit, if each call takes `usual`. At least that long: who
    /// comes later and goes first is not foreseen.
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
                limit: narrow(state.slots),
                remaining: narrow(state.free.len()),
            },
            day: state.day.level(now),
            thrift: state.day.thrift(now),
        }
    }

    /// How many slots are held by connections that were given up, and that the vendor has not ended.
    pub fn slots_held(&self) -> usize {
        self.0.lock().held
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

impl<T: Shareable> State<T> {
    fn resize(&mut self, slots: u32) {
        self.slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let idle = self.slots.saturating_sub(self.busy.len() + self.closing);
        let surplus = self.free.len().saturating_sub(idle);
        for slot in self.free.drain(..surplus) {
            // those that have been idle longest
            slot.retire();
            self.retired.push(slot);
        }
        for _ in self.free.len()..idle {
            let slot = self.retired.pop().unwrap_or_default();
            self.set_free(slot);
        }
    }

    /// No call goes through this slot. One whose connection is alive is used first.
    fn set_free(&mut self, slot: T) {
        if self.free.len() + self.busy.len() + self.closing >= self.slots {
            slot.retire();
            self.retired.push(slot);
        } else if !slot.is_ready() {
            self.closing += 1;
            self.unwatched.push(slot);
        } else {
            self.free.push(slot);
        }
    }

    /// Can no call be made, as the vendor has not ended what every slot was given up for?
    fn is_stuck(&self) -> bool {
        self.held >= self.slots
    }

    /// The place in `busy` of a slot that takes another call, the one with the fewest. Those that are too many since the
    /// limit was lowered take none: they are given up when their calls end.
    fn shared(&self, but: Option<u64>) -> Option<usize> {
        if !self.is_sharing {
            return None;
        }
        let kept = self.busy.iter().take(self.slots).enumerate();
        kept.filter(|(_, busy)| busy.calls < busy.slot.capacity() && Some(busy.number) != but)
            .min_by_key(|(_, busy)| busy.calls)
            .map(|(place, _)| place)
    }

    fn has_slot(&self) -> bool {
        !self.free.is_empty() || self.shared(None).is_some()
    }

    /// A slot for one more call, other than the one with this number: one that is in use rather than one more connection.
    fn take(&mut self, but: Option<u64>) -> Option<(u64, T)> {
        if let Some(place) = self.shared(but) {
            let busy = &mut self.busy[place];
            busy.calls += 1;
            return Some((busy.number, busy.slot.clone()));
        }
        let slot = self.free.pop()?;
        self.last += 1;
        self.busy.push(Busy {
            slot: slot.clone(),
            number: self.last,
            calls: 1,
        });
        Some((self.last, slot))
    }

    /// A call goes through this slot no more.
    fn put_back(&mut self, number: u64) {
        let place = self.busy.iter().position(|busy| busy.number == number);
        let place = place.expect("a slot with calls is busy");
        self.busy[place].calls -= 1;
        if self.busy[place].calls == 0 {
            let slot = self.busy.remove(place).slot;
            self.set_free(slot);
        }
    }

    /// A call that was granted is not made: no turn is used.
    fn take_back(&mut self, number: u64, tenant: usize) {
        self.put_back(number);
        self.day.release();
        self.rate.abandon();
        self.queue.abandon(tenant);
    }

    /// How many more calls the slots take now, and how many at a time.
    fn rooms(&self) -> (usize, usize) {
        let free = self.free.iter().map(|slot| (0, slot));
        let busy = self.busy.iter().take(self.slots);
        let busy = busy.map(|busy| (busy.calls, &busy.slot));
        free.chain(busy)
            .fold((0, 0), |(room, whole), (calls, slot)| {
                let capacity = slot.capacity().max(1);
                (room + capacity.saturating_sub(calls), whole + capacity)
            })
    }
}

impl<T: Shareable> State<T> {
    /// Would whoever asks be granted a permit at once? None of those that wait would.
    fn has_room(&self, ask: &Ask<'_>, now: Instant) -> bool {
        self.has_slot()
            && self.rate.room(now).is_ok()
            && self.queue.has_room(ask.tenant, now)
            && !(self.is_crawling && ask.class == Class::Crawl)
    }

    /// Why a call is refused, if it is: no slot will be free soon, or the day's budget has ended.
    fn refusal(&self, class: Class, is_listed: bool, now: Instant) -> Option<Error> {
        if self.is_stuck() {
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
            // When so much of what is ahead has gone that the same request can be served; if it could never be, when a
            // turn is free.
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

    /// How many wait of those whose number is bounded here. Crawls are bounded where they begin, and make one call at a
    /// time each: what they have fetched is not thrown away because others come.
    fn bounded(&self) -> usize {
        let bounded = |waiting: &&Waiting<_>| waiting.asked != Class::Crawl;
        self.queue.iter().filter(bounded).count()
    }

    /// How long this one would wait for its permit, about.
    fn wait(&mut self, ask: &Ask<'_>, now: Instant) -> Duration {
        let pace = self.pace.unwrap_or(ask.usual);
        let (ahead, cap) = self.queue.ahead(ask, now, pace);
        let (room, capacity) = self.rooms();
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

    /// Tells those who will not be served: who has left, for whom the day's budget has ended, whose deadline comes before
    /// the vendor wants a call again.
    fn dismiss(&mut self, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        let queries_end = self.day.refusal(now, false).is_some();
        let commands_end = self.day.refusal(now, true).is_some();
        let refreshes_end = self.day.refusal_of_refresh(now).is_some();
        let pause = self.rate.paused_until(now);
        let is_stuck = self.is_stuck();
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
        if self.queue.is_empty() || !self.has_slot() {
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

impl<T: Shareable> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics between two halves of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit, or a place in the queue, where the permit or a refusal comes to; both may be there already.
    fn enter(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Entered<T>, Error> {
        let (mut state, now) = (self.lock(), Instant::now());
        self.dispatch(&mut state, now); // who has left counts no more, and whoever can go is gone
        if let Some(error) = state.refusal(ask.class(), ask.is_listed, now) {
            return Err(error);
        }
        if state.has_room(ask, now)
            && let Some(slot) = state.take(None)
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

    /// Grants what can be granted now, and sees to it that somebody looks again when a turn becomes free.
    fn dispatch(self: &Arc<Self>, state: &mut State<T>, now: Instant) {
        state.dismiss(now);
        self.move_on(state);
        while !state.queue.is_empty() && state.rate.room(now).is_ok() {
            let Some((number, slot)) = state.take(None) else {
                break;
            };
            let Some(waiting) = state.queue.next(now, state.is_crawling) else {
                state.put_back(number);
                break;
            };
            self.grant(state, waiting, (number, slot), now);
            state.dismiss(now); // the day may have ended with this call
        }
        for slot in std::mem::take(&mut state.unwatched) {
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
    fn move_on(self: &Arc<Self>, state: &mut State<T>) {
        for mover in std::mem::take(&mut state.movers) {
            if mover.tell.is_closed() {
                continue;
            }
            let Some((number, slot)) = state.take(Some(mover.number)) else {
                state.movers.push(mover);
                continue;
            };
            let place = Place {
                slot,
                number,
                is_over: false,
                shared: self.clone(),
            };
            if let Err(mut place) = mover.tell.send(place) {
                place.is_over = true;
                state.put_back(number);
            }
        }
    }

    fn grant(
        self: &Arc<Self>,
        state: &mut State<T>,
        waiting: Waiting<oneshot::Sender<Result<Permit<T>, Error>>>,
        (number, slot): (u64, T),
        now: Instant,
    ) {
        let (tenant, class, was_crawling) = (waiting.tenant, waiting.asked, state.is_crawling);
        let mut permit = self.permit(state, (tenant, class), (number, slot), now);
        permit.has_waited = waiting.since < now;
        if let Err(Ok(mut permit)) = waiting.granted.send(Ok(permit)) {
            permit.stage = Stage::Over; // its caller has gone
            state.is_crawling = was_crawling;
            state.take_back(number, tenant);
        }
    }

    /// The permit of a call that is counted for its tenant, in a slot that has been taken.
    fn permit(
        self: &Arc<Self>,
        state: &mut State<T>,
        (tenant, class): (usize, Class),
        (number, slot): (u64, T),
        now: Instant,
    ) -> Permit<T> {
        state.is_crawling |= class == Class::Crawl;
        state.day.grant();
        Permit {
            slot,
            number,
            stage: Stage::Granted,
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
                state.held += 1;
                self.dispatch(&mut state, Instant::now());
            }
            slot.ready().await;
        }
        let mut state = self.lock();
        state.closing -= 1;
        state.held -= usize::from(is_held);
        state.set_free(slot);
        self.dispatch(&mut state, Instant::now());
    }

    fn give_back(self: &Arc<Self>, permit: &Permit<T>) {
        let (mut state, now) = (self.lock(), Instant::now());
        let is_held = permit.stage == Stage::Held;
        state.held -= usize::from(is_held);
        state.put_back(permit.number);
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
    /// The first byte leaves: from now on the call counts for the day, once. `told` is the time as far as it is known. How
    /// sparing does the day demand to be now?
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

    /// The time for the call has passed, and the vendor has not ended it: its slot stays taken. True if now every slot is
    /// held, so that no call can be made.
    pub fn hold(&mut self) -> bool {
        let mut state = self.shared.lock();
        state.held += usize::from(self.stage == Stage::Granted);
        self.stage = Stage::Held;
        if self.class == Class::Crawl {
            state.is_crawling = false; // nobody waits for it any more
            self.class = Class::Query;
        }
        let is_stuck = state.is_stuck();
        self.shared.dispatch(&mut state, Instant::now());
        is_stuck
    }

    /// No call is made after all: the turn is the next one's.
    pub fn decline(mut self) {
        debug_assert!(self.counted.is_none(), "a call that has begun is made");
        self.stage = Stage::Over;
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
        state.put_back(left);
        self.shared.dispatch(&mut state, Instant::now());
    }

    /// The slot takes more calls than it did: those that wait may have it too.
    pub fn slot_has_grown(&self) {
        let mut state = self.shared.lock();
        state.is_sharing = true;
        self.shared.dispatch(&mut state, Instant::now());
    }

    /// How long until the next call may begin, about: the second's turn, and the pause that the vendor wants.
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
        if self.stage != Stage::Over {
            self.shared.give_back(self);
        }
    }
}

#[cfg(test)]
mod tests;
