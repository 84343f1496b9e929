//! How much is left of the day's calls, for whom, and when does more come?
//!
//! Calls are kept by the minute. The vendor may count a call anywhere between its first byte and
//! its answer: a minute counts until the last call that began in it has ended and is a day old, or
//! ended before the day's fixed beginning. A call that may begin but has not yet is spent already.
//!
//! Ages are measured by a clock that nobody sets and that goes on while the machine sleeps; only
//! the beginning of a fixed day and what a store keeps go by the time of the world, which is told
//! with each call, so that a step of it is followed; and of a fixed day nothing is over before it
//! is so by our clock and by Linksfield's.
//!
//! What a store kept of before the start counts until our clock and Linksfield's agree that it is
//! over, or for a further day: our clock alone may be wrong by a month. As nothing tells
//! Linksfield's time but an answer, a call that only such minutes would refuse is let through, one
//! at a time.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::limits::Limits;
use crate::clock::{self, Moment};
use crate::gateway::error::Error;
use crate::gateway::vendor::skew::Told;
use crate::state::{Calls, Time};

/// Times are milliseconds since the epoch.
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const SECOND: i64 = 1000;

/// The rate that the rest of the day affords, as a part of an even one, below which thrift begins.
const NO_REFRESH: f64 = 0.3;
const LONGER_STALE: f64 = 0.2;
const NO_FORCED: f64 = 0.1;

/// How sparing the day's budget demands to be: each level includes those before it.
///
/// It is read from one figure: the share of the queries' part of the day that is left, divided by
/// the share of the day that is left. With a rolling day, which never ends, the latter is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thrift {
    /// Nothing is spared.
    Normal,
    /// Below 30 %: no background refresh. The quota refuses them itself.
    NoRefresh,
    /// Below 20 %: stale pages are served for longer.
    LongerStale,
    /// Below 10 %: no caller can force a refresh.
    NoForced,
    /// The queries' part is spent; what is left is for commands.
    Exhausted,
}

impl Thrift {
    /// All levels, the first being 0.
    const ALL: [Self; 5] = [
        Self::Normal,
        Self::NoRefresh,
        Self::LongerStale,
        Self::NoForced,
        Self::Exhausted,
    ];

    /// The level with this number.
    pub fn of_level(number: u8) -> Self {
        Self::ALL[usize::from(number)]
    }
}

/// The calls of a day, as a store keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The minute since the epoch from which on they are known.
    pub known_since: u64,
    /// How many there were in each minute since the epoch.
    pub minutes: Calls,
    /// By how many seconds our clock was to be corrected.
    pub correction: i64,
}

impl History {
    /// What a store takes.
    pub fn saved(self) -> (Calls, i64) {
        (self.minutes, self.correction)
    }
}

/// How much is left of the day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DayLevel {
    /// The day's calls.
    pub limit: u32,
    /// What is left of them.
    pub remaining: u32,
    /// What queries may use of that.
    pub remaining_for_queries: u32,
    /// When more comes: the end of a fixed day, or when the oldest calls of a rolling one are a day
    /// old.
    pub more_in: Duration,
    /// Not all calls that may count are known: the process, or its store, began less than a day
    /// ago. Or some count that may be over, as far as our clock says.
    pub is_assumed: bool,
}

#[derive(Debug)]
pub(super) struct Day {
    limit: Option<u32>,
    /// So many calls of the limit are for commands only.
    reserve: u32,
    /// Of a fixed day.
    begins_at: Option<i64>,
    /// When the process began, by both clocks.
    began: (Moment, i64),
    /// From when on calls are known.
    known_since: i64,
    /// What the time of the world is ahead of the clock that began with the process.
    ahead: i64,
    /// What the earlier one of our clock and Linksfield's is ahead of it.
    earliest: i64,
    /// What the later one is ahead of it: what is written goes by that.
    latest: i64,
    /// The earlier one, once Linksfield has told its own.
    agreed: Option<i64>,
    /// By how many seconds our clock is to be corrected, as was known last.
    correction: i64,
    /// What a store had of before the start, as it was kept, and is kept until it is sure that it
    /// counts no more.
    loaded: Calls,
    /// The oldest first.
    minutes: VecDeque<Minute>,
    /// Calls that may begin, and have not yet.
    granted: u32,
    /// These, and those that have begun and not ended.
    under_way: u32,
}

#[derive(Debug)]
struct Minute {
    number: i64,
    calls: u32,
    /// When the last of them ended, as far as they have.
    last: i64,
}

/// The minute in which a call was counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted(i64);

impl Day {
    pub fn new(limits: &Limits, now: SystemTime, history: Option<&History>) -> Self {
        let wall = millis(now);
        let correction = history.map_or(0, |history| history.correction.saturating_mul(SECOND));
        let mut day = Self {
            limit: None,
            reserve: 0,
            begins_at: None,
            began: (Moment::now(), wall),
            known_since: history.map_or(wall, |history| {
                i64::try_from(history.known_since).map_or(wall, |minute| minute * MINUTE)
            }),
            ahead: correction,
            earliest: correction.min(0),
            latest: correction.max(0),
            agreed: None,
            correction: history.map_or(0, |history| history.correction),
            loaded: history.map_or_else(Calls::new, |history| history.minutes.clone()),
            minutes: VecDeque::new(),
            granted: 0,
            under_way: 0,
        };
        day.change(limits);
        day
    }

    /// Other limits, for the same calls.
    pub fn change(&mut self, limits: &Limits) {
        self.limit = limits.per_day;
        self.begins_at = limits.day_begins_at.map(|second| i64::from(second) * 1000);
        self.reserve = limits
            .per_day
            .map_or(0, |limit| reserve(limit, limits.command_reserve));
    }

    /// A call may begin.
    pub fn grant(&mut self) {
        self.granted += 1;
        self.under_way += 1;
    }

    /// A call that was granted did not begin.
    pub fn release(&mut self) {
        self.granted -= 1;
        self.under_way -= 1;
    }

    /// This is the time of the world.
    pub fn learn(&mut self, now: Instant, told: Told) {
        clock::look(); // else what is counted right after a sleep would count from before it
        let clock = self.clock(now);
        self.ahead = millis(told.now) - clock;
        if told.is_confirmed {
            self.correction = told.correction;
        }
        self.earliest = millis(told.earliest) - clock;
        self.latest = millis(told.latest) - clock;
        self.agreed = told.agreed().map(|agreed| millis(agreed) - clock);
        self.forget(clock);
    }

    /// A call that was granted begins.
    pub fn count(&mut self, now: Instant, told: Told) -> Counted {
        self.learn(now, told);
        let clock = self.clock(now);
        self.granted -= 1;
        let number = clock / MINUTE;
        match self.minutes.back_mut() {
            Some(minute) if minute.number == number => {
                minute.calls += 1;
                minute.last = clock;
            }
            _ => self.minutes.push_back(Minute {
                number,
                calls: 1,
                last: clock,
            }),
        }
        Counted(number)
    }

    /// A call that was counted has ended.
    pub fn end(&mut self, counted: Counted, now: Instant) {
        self.under_way -= 1;
        clock::look();
        let clock = self.clock(now);
        let of_call = |minute: &&mut Minute| minute.number == counted.0;
        if let Some(minute) = self.minutes.iter_mut().rev().find(of_call) {
            minute.last = clock;
        }
    }

    /// Is one more call than those of now within the limit?
    pub fn has_spare(&self, now: Instant) -> bool {
        self.limit.is_none_or(|limit| self.used(now) < limit)
    }

    /// The calls of the day, those included that may begin.
    pub fn used(&self, now: Instant) -> u32 {
        let calls = self.counting(now).map(|minute| minute.calls);
        let loaded = self.loaded_counting(now).map(|(_, calls)| calls);
        calls.chain(loaded).fold(self.granted, u32::saturating_add)
    }

    /// Why a call is refused, if it is. `has_reserve`: it may use what is kept for commands.
    pub fn refusal(&self, now: Instant, has_reserve: bool) -> Option<Error> {
        let limit = self.limit?;
        let part = if has_reserve {
            limit
        } else {
            limit - self.reserve
        };
        let used = self.used(now);
        (used >= part && !self.asks_the_time(now, used, part)).then(|| self.exhausted(now, part))
    }

    /// May this call go, to learn Linksfield's time? Only where old minutes, which may be over,
    /// fill the day, and no other call is under way that would tell.
    fn asks_the_time(&self, now: Instant, used: u32, part: u32) -> bool {
        let doubtful = || {
            let loaded = self.loaded_counting(now);
            let doubtful = loaded.filter(|(minute, _)| self.is_doubtful(*minute, now));
            doubtful
                .map(|(_, calls)| calls)
                .fold(0, u32::saturating_add)
        };
        self.agreed.is_none() && self.under_way == 0 && used.saturating_sub(doubtful()) < part
    }

    /// Why a background refresh is refused, if it is.
    pub fn refusal_of_refresh(&self, now: Instant) -> Option<Error> {
        let part = self.limit? - self.reserve;
        (self.thrift(now) > Thrift::Normal).then(|| self.exhausted(now, part))
    }

    fn exhausted(&self, now: Instant, part: u32) -> Error {
        let used = self.used(now);
        let missing = used.saturating_add(1).saturating_sub(part);
        Error::QuotaExhausted {
            used,
            limit: self.limit.unwrap_or(u32::MAX),
            reserve: self.reserve,
            retry_after: self.more_in(now, missing.max(1)),
        }
    }

    pub fn thrift(&self, now: Instant) -> Thrift {
        let Some(limit) = self.limit else {
            return Thrift::Normal;
        };
        let part = limit - self.reserve;
        let left = part.saturating_sub(self.used(now));
        if left == 0 {
            return Thrift::Exhausted;
        }
        let of_day = self.begins_at.map_or(1.0, |_| {
            self.until_end(now).as_secs_f64()
                / Duration::from_millis(DAY.unsigned_abs()).as_secs_f64()
        });
        // The day's last moment affords everything that is left.
        let affords = f64::from(left) / f64::from(part) / of_day.max(1e-9);
        match affords {
            _ if affords < NO_FORCED => Thrift::NoForced,
            _ if affords < LONGER_STALE => Thrift::LongerStale,
            _ if affords < NO_REFRESH => Thrift::NoRefresh,
            _ => Thrift::Normal,
        }
    }

    /// None without a limit.
    pub fn level(&self, now: Instant) -> Option<DayLevel> {
        let (limit, used) = (self.limit?, self.used(now));
        Some(DayLevel {
            limit,
            remaining: limit.saturating_sub(used),
            remaining_for_queries: (limit - self.reserve).saturating_sub(used),
            more_in: self.more_in(now, 1),
            is_assumed: self.since(now) <= self.known_since
                || self
                    .loaded_counting(now)
                    .any(|(minute, _)| self.is_doubtful(minute, now)),
        })
    }

    pub fn history(&self, now: Instant) -> History {
        let mut history = History {
            known_since: u64::try_from(self.known_since / MINUTE).unwrap_or(0),
            minutes: self.loaded_of_day(now).collect(),
            correction: self.correction,
        };
        let day_ago = self.clock(now) - DAY;
        for minute in self.minutes.iter().filter(|minute| minute.last > day_ago) {
            let minute_of_world = Time {
                number: u64::try_from((minute.last + self.latest) / MINUTE).unwrap_or(0),
                is_confirmed: self.agreed.is_some(),
            };
            let calls = history.minutes.entry(minute_of_world).or_default();
            *calls = calls.saturating_add(minute.calls);
        }
        history
    }

    /// When so many calls count no more.
    fn more_in(&self, now: Instant, calls_wanted: u32) -> Duration {
        if self.begins_at.is_some() {
            return self.until_end(now);
        }
        let clock = self.clock(now);
        let of_before = self.loaded_counting(now);
        let of_before = of_before.map(|(minute, calls)| (self.ends_in(minute, now), calls));
        let since = self.counting(now);
        let since = since.map(|minute| (minute.last + DAY - clock, minute.calls));
        let mut all: Vec<_> = of_before.chain(since).collect();
        all.sort_unstable();
        let mut freed = 0;
        let enough = all.iter().find(|(_, calls)| {
            freed = calls.saturating_add(freed);
            freed >= calls_wanted
        });
        match enough {
            Some((ends_in, _)) => positive(*ends_in),
            None if self.used(now) == 0 => Duration::ZERO,
            None => positive(DAY), // those calls have not begun
        }
    }

    /// In how many milliseconds the calls of a minute of before the start count no more, with a
    /// rolling day.
    fn ends_in(&self, minute: Time, now: Instant) -> i64 {
        let (clock, (_, began)) = (self.clock(now), self.began);
        let is_told = self.agreed.is_none() || minute.is_confirmed;
        if is_told && !self.is_doubtful(minute, now) {
            let by_clock = end_of(minute) + DAY - clock - self.agreed.unwrap_or(self.ahead);
            return by_clock.min(began + DAY - clock);
        }
        match self.agreed {
            None => SECOND, // one call finds it out
            Some(_) => began + DAY - clock,
        }
    }

    /// The minutes of before the start that count now.
    fn loaded_counting(&self, now: Instant) -> impl Iterator<Item = (Time, u32)> {
        let clock = self.clock(now);
        let minutes = self.loaded.iter().map(|(minute, calls)| (*minute, *calls));
        minutes.filter(move |(minute, _)| !self.is_over(*minute, clock))
    }

    /// The same with a rolling day: with a fixed one they are kept for as long, as the
    /// configuration may change.
    fn loaded_of_day(&self, now: Instant) -> impl Iterator<Item = (Time, u32)> {
        let clock = self.clock(now);
        let minutes = self.loaded.iter().map(|(minute, calls)| (*minute, *calls));
        minutes.filter(move |(minute, _)| !self.is_older_than_a_day(*minute, clock))
    }

    /// Is it sure that the calls of a minute of before the start count no more?
    fn is_over(&self, minute: Time, clock: i64) -> bool {
        let agreed = self.agreed.filter(|_| minute.is_confirmed);
        self.is_older_than_a_day(minute, clock)
            || agreed.is_some_and(|ahead| end_of(minute) <= self.since_by(clock + ahead))
    }

    fn is_older_than_a_day(&self, minute: Time, clock: i64) -> bool {
        let (_, began) = self.began;
        let agreed = self.agreed.filter(|_| minute.is_confirmed);
        clock - began >= DAY || agreed.is_some_and(|ahead| end_of(minute) <= clock + ahead - DAY)
    }

    /// Does our clock alone say that the calls of a minute that counts are over, or have not been
    /// yet?
    fn is_doubtful(&self, minute: Time, now: Instant) -> bool {
        let clock = self.clock(now);
        let world = clock + self.agreed.unwrap_or(self.ahead);
        let latest = clock + self.latest; // by which it was written
        end_of(minute) <= self.since_by(world) || end_of(minute) > latest + 2 * MINUTE
    }

    /// The minutes that count now.
    fn counting(&self, now: Instant) -> impl Iterator<Item = &Minute> {
        let since = self.since(now);
        self.minutes
            .iter()
            .filter(move |minute| minute.last > since)
    }

    /// Calls that had ended then count no more. A fixed day has begun anew once it has by both
    /// clocks: one that is wrong, by whatever and in whatever direction, begins none.
    fn since(&self, now: Instant) -> i64 {
        let clock = self.clock(now);
        let by = |ahead| self.since_by(clock + ahead) - ahead;
        by(self.earliest).min(by(self.latest))
    }

    /// The same by a time of the world.
    fn since_by(&self, world: i64) -> i64 {
        let day_ago = world - DAY;
        match self.begins_at {
            // A wall clock that has gone back must not bring back what is a day old.
            Some(_) => (self.begun(world) - 1).max(day_ago),
            None => day_ago,
        }
    }

    /// When the fixed day began, by the wall clock.
    fn begun(&self, wall: i64) -> i64 {
        let begins_at = self.begins_at.unwrap_or(0);
        wall - (wall - begins_at).rem_euclid(DAY)
    }

    /// When the calls that count begin later: at the end of the day that began first.
    fn until_end(&self, now: Instant) -> Duration {
        let clock = self.clock(now);
        let by = |ahead| self.begun(clock + ahead) + DAY - (clock + ahead);
        positive(by(self.earliest).min(by(self.latest)))
    }

    fn forget(&mut self, clock: i64) {
        while self
            .minutes
            .front()
            .is_some_and(|minute| minute.last + DAY <= clock)
        {
            self.minutes.pop_front();
        }
        let over = |minute: &Time| self.is_older_than_a_day(*minute, clock);
        let over: Vec<_> = self.loaded.keys().copied().filter(over).collect();
        for minute in over {
            self.loaded.remove(&minute);
        }
    }

    /// The clock that nobody sets. It showed the time of the wall when the process began.
    fn clock(&self, now: Instant) -> i64 {
        let (began, wall) = self.began;
        let since = Moment::of(now).saturating_duration_since(began).as_millis();
        wall + i64::try_from(since).unwrap_or(i64::MAX / 2)
    }
}

/// In whole calls, rounded up: the share is one that queries may not touch.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it lies between 0 and the limit"
)]
fn reserve(limit: u32, share: f64) -> u32 {
    let calls = f64::from(limit) * share.clamp(0.0, 1.0);
    (calls - 1e-6).ceil().max(0.0) as u32 // 0.1 is a little more than a tenth
}

fn millis(wall: SystemTime) -> i64 {
    let since = wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX / 2)
}

/// The last moment of a minute.
fn end_of(minute: Time) -> i64 {
    let number = i64::try_from(minute.number).unwrap_or(i64::MAX);
    number.min(i64::MAX / MINUTE / 2) * MINUTE + MINUTE - 1
}

fn positive(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
