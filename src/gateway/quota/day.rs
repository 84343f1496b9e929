//! How much is left of the day's calls, for whom, and when does more come?
//!
//! Calls are kept by the minute. The vendor may count a call anywhere between its first byte and its answer: a minute
//! counts until the last call that began in it has ended and is a day old, or ended before the day's fixed beginning.
//! A call that may begin but has not yet is spent already.
//!
//! Ages are measured by the monotonic clock; only the beginning of a fixed day and what a store keeps go by the wall
//! clock, which is told with each call, so that a step of it is followed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Limits;
use crate::gateway::error::Error;

/// Times are milliseconds since the epoch.
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// The rate that the rest of the day affords, as a part of an even one, below which thrift begins.
const NO_REFRESH: f64 = 0.3;
const LONGER_STALE: f64 = 0.2;
const NO_FORCED: f64 = 0.1;

/// How sparing the day's budget demands to be: each level includes those before it.
///
/// It is read from one figure: the share of the queries' part of the day that is left, divided by the share of the day
/// that is left. With a rolling day, which never ends, the latter is 1.
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

/// The calls of a day, as a store keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The minute since the epoch from which on they are known.
    pub known_since: u64,
    /// How many there were in each minute since the epoch, by the wall clock.
    pub minutes: BTreeMap<u64, u32>,
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
    /// When more comes: the end of a fixed day, or when the oldest calls of a rolling one are a day old.
    pub more_in: Duration,
    /// Not all calls that may count are known: the process, or its store, began less than a day ago.
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
    began: (Instant, i64),
    /// From when on calls are known.
    known_since: i64,
    /// What the wall clock is ahead of the one that began with the process.
    ahead: i64,
    /// The oldest first.
    minutes: VecDeque<Minute>,
    /// Calls that may begin, and have not yet.
    granted: u32,
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
        let mut day = Self {
            limit: None,
            reserve: 0,
            begins_at: None,
            began: (Instant::now(), wall),
            known_since: history.map_or(wall, |history| {
                i64::try_from(history.known_since).map_or(wall, |minute| minute * MINUTE)
            }),
            ahead: 0,
            minutes: VecDeque::new(),
            granted: 0,
        };
        for (minute, calls) in history.iter().flat_map(|history| &history.minutes) {
            let number = i64::try_from(*minute)
                .unwrap_or(i64::MAX / MINUTE)
                .min(wall / MINUTE);
            let last = (number * MINUTE + MINUTE - 1).min(wall); // at the latest
            match day.minutes.back_mut() {
                Some(minute) if minute.number == number => {
                    minute.calls = minute.calls.saturating_add(*calls);
                }
                _ => day.minutes.push_back(Minute {
                    number,
                    calls: *calls,
                    last,
                }),
            }
        }
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
    }

    /// A call that was granted did not begin.
    pub fn release(&mut self) {
        self.granted -= 1;
    }

    /// A call that was granted begins.
    pub fn count(&mut self, now: Instant, wall: SystemTime) -> Counted {
        let clock = self.clock(now);
        self.ahead = millis(wall) - clock;
        self.granted -= 1;
        self.forget(clock);
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
        calls.fold(self.granted, u32::saturating_add)
    }

    /// Why a call is refused, if it is. `has_reserve`: it may use what is kept for commands.
    pub fn refusal(&self, now: Instant, has_reserve: bool) -> Option<Error> {
        let limit = self.limit?;
        let part = if has_reserve {
            limit
        } else {
            limit - self.reserve
        };
        (self.used(now) >= part).then(|| self.exhausted(now, part))
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
            is_assumed: self.since(now) <= self.known_since,
        })
    }

    pub fn history(&self, now: Instant) -> History {
        let mut history = History {
            known_since: u64::try_from(self.known_since / MINUTE).unwrap_or(0),
            minutes: BTreeMap::new(),
        };
        let day_ago = self.clock(now) - DAY;
        for minute in self.minutes.iter().filter(|minute| minute.last > day_ago) {
            let number = u64::try_from((minute.last + self.ahead) / MINUTE).unwrap_or(0);
            *history.minutes.entry(number).or_default() += minute.calls;
        }
        history
    }

    /// When so many calls count no more.
    fn more_in(&self, now: Instant, calls: u32) -> Duration {
        if self.begins_at.is_some() {
            return self.until_end(now);
        }
        let mut freed = 0;
        let clock = self.clock(now);
        let enough = self.counting(now).find(|minute| {
            freed = minute.calls.saturating_add(freed);
            freed >= calls
        });
        match enough {
            Some(minute) => positive(minute.last + DAY - clock),
            None if self.used(now) == 0 => Duration::ZERO,
            None => positive(DAY), // those calls have not begun
        }
    }

    /// The minutes that count now.
    fn counting(&self, now: Instant) -> impl Iterator<Item = &Minute> {
        let since = self.since(now);
        self.minutes
            .iter()
            .filter(move |minute| minute.last > since)
    }

    /// Calls that had ended then count no more.
    fn since(&self, now: Instant) -> i64 {
        let clock = self.clock(now);
        let day_ago = clock - DAY;
        match self.begins_at {
            // A wall clock that has gone back must not bring back what is a day old.
            Some(_) => (self.begun(clock + self.ahead) - self.ahead - 1).max(day_ago),
            None => day_ago,
        }
    }

    /// When the fixed day began, by the wall clock.
    fn begun(&self, wall: i64) -> i64 {
        let begins_at = self.begins_at.unwrap_or(0);
        wall - (wall - begins_at).rem_euclid(DAY)
    }

    fn until_end(&self, now: Instant) -> Duration {
        let wall = self.clock(now) + self.ahead;
        positive(self.begun(wall) + DAY - wall)
    }

    fn forget(&mut self, clock: i64) {
        while self
            .minutes
            .front()
            .is_some_and(|minute| minute.last + DAY <= clock)
        {
            self.minutes.pop_front();
        }
    }

    /// The monotonic clock, which showed the time of the wall when the process began.
    fn clock(&self, now: Instant) -> i64 {
        let (began, wall) = self.began;
        let since = now.saturating_duration_since(began).as_millis();
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

fn positive(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
