//! How many calls may begin now, by the second, and by what the vendor has said of late?
//!
//! The vendor may count a call anywhere between its first byte and its answer, so a call's turn is
//! free again only one second after its end: then no window of one second holds more than the
//! limit, wherever in each call it is counted. A token bucket would let nearly twice as many
//! through.
//!
//! What a process before this one has asked in its last second is not known, so all turns begin
//! taken: the first call begins one second after the start.
//!
//! A throttled call halves the rate, time without one brings it back in tenths (additive increase,
//! multiplicative decrease). Below one call a second the turn takes longer instead.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What the vendor's limit of calls counts in.
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A turn may be free so much later than one second after the end of its call, and never earlier.
const GRAIN: Duration = Duration::from_millis(1);

/// The rate is lowered no further: one call in five seconds still finds out whether the vendor
/// takes calls again.
const LOWEST: f64 = 0.2;

/// How long the turn of a call takes at the [`LOWEST`] rate.
const LONGEST: Duration = Duration::from_secs(5);

/// After so long without a throttled call, the rate rises by one in [`STEPS`] parts of the limit.
const STEP: Duration = Duration::from_secs(10);
const STEPS: f64 = 10.0;

/// What adding tenths may lose.
const NUDGE: f64 = 1e-9;

/// The vendor may say `Retry-After`, but not close the gateway for good.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Calls that may count now: those under way, and those that ended lately.
#[derive(Debug, Default)]
pub(super) struct Window {
    running: usize,
    /// The others, the oldest first. Those that ended within [`GRAIN`] of the first of them are
    /// one, which counts until the second of the last is over. With a limit in the thousands the
    /// list would else be too long to be searched quickly.
    ended: VecDeque<EndedTurns>,
    /// So many ended before them.
    forgotten: usize,
}

#[derive(Debug)]
struct EndedTurns {
    /// When the first of them had.
    since: Instant,
    /// When the last of them had; from then on all of them count for their second.
    at: Instant,
    /// How many had ended then, in all.
    total: usize,
}

/// So many calls may count at a time, and each does for so long after its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    pub most: usize,
    pub span: Duration,
}

impl Turns {
    pub fn per_second(calls: u32) -> Self {
        let most = usize::try_from(calls).unwrap_or(usize::MAX);
        Self { most, span: SECOND }
    }
}

impl Window {
    pub fn begin(&mut self) {
        self.running += 1;
    }

    /// A call that had begun was none after all.
    pub fn abandon(&mut self) {
        self.running -= 1;
    }

    pub fn end(&mut self, now: Instant) {
        self.running -= 1;
        self.add(now, 1);
        while let Some(oldest) = self.ended.front()
            && oldest.at + LONGEST <= now
        {
            self.forgotten = oldest.total;
            self.ended.pop_front();
        }
    }

    fn add(&mut self, at: Instant, calls: usize) {
        let total = self.total() + calls;
        match self.ended.back_mut() {
            Some(last) if at < last.since + GRAIN => (last.at, last.total) = (at, total),
            _ => self.ended.push_back(EndedTurns {
                since: at,
                at,
                total,
            }),
        }
    }

    fn total(&self) -> usize {
        self.ended.back().map_or(self.forgotten, |last| last.total)
    }

    /// How many calls count now.
    pub fn used(&self, now: Instant, span: Duration) -> usize {
        self.running + self.total() - self.forgotten - self.over(now, span)
    }

    /// When the next call may begin, if not now. None: when one that runs has ended and counts no
    /// more.
    pub fn room(&self, now: Instant, turns: Turns) -> Result<(), Option<Instant>> {
        let used = self.used(now, turns.span);
        if used < turns.most {
            return Ok(());
        }
        let last = self.over(now, turns.span) + used - turns.most;
        Err(self.end_of(last).map(|end| end + turns.span))
    }

    /// How long until the `nth` call from now may begin, if calls take `usual`. Exact while the
    /// turns of ended calls suffice, an estimate beyond.
    pub fn wait(&self, now: Instant, turns: Turns, nth: usize, usual: Duration) -> Duration {
        let used = self.used(now, turns.span);
        // The place, from 0, of the turn that has to become free.
        let Some(turn) = (nth + used).checked_sub(turns.most + 1) else {
            return Duration::ZERO;
        };
        let most = turns.most.max(1);
        let (rounds, turn) = (turn / most, turn % most);
        let first = match self.end_of(self.over(now, turns.span) + turn) {
            Some(end) => (end + turns.span).saturating_duration_since(now),
            None => usual / 2 + turns.span, // it runs, and is half way through on average
        };
        first + (turns.span + usual).saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// How many of the ended calls count no more.
    fn over(&self, now: Instant, span: Duration) -> usize {
        let over = self.ended.partition_point(|end| end.at + span <= now);
        let last = over.checked_sub(1).map(|last| self.ended[last].total);
        last.map_or(0, |total| total - self.forgotten)
    }

    /// When this one of the ended calls ended, from 0; none if there are not so many.
    fn end_of(&self, call: usize) -> Option<Instant> {
        let before = |end: &EndedTurns| end.total - self.forgotten <= call;
        let place = self.ended.partition_point(before);
        self.ended.get(place).map(|end| end.at)
    }
}

/// What the vendor's limit of calls in a second, and its throttling, leave.
#[derive(Debug)]
pub(super) struct Rate {
    limit: Option<u32>,
    lowered: Option<Lowered>,
    paused_until: Option<Instant>,
    window: Window,
}

#[derive(Debug, Clone, Copy)]
struct Lowered {
    /// Calls a second, at that time.
    allowed: f64,
    at: Instant,
    /// Since when no call has been throttled.
    quiet_since: Instant,
}

impl Rate {
    /// As it is one second after a start: all turns are free.
    pub fn new(limit: Option<u32>) -> Self {
        Self {
            limit,
            lowered: None,
            paused_until: None,
            window: Window::default(),
        }
    }

    /// As it is at a start: all turns may be taken by calls of a process before this one, which
    /// have just ended.
    pub fn at_start(limit: Option<u32>, now: Instant) -> Self {
        let mut rate = Self::new(limit);
        let most = limit.map_or(0, |limit| Turns::per_second(limit).most);
        rate.window.add(now, most);
        rate
    }

    /// Another limit. What has been learnt of the vendor since stays.
    pub fn change(&mut self, limit: Option<u32>) {
        self.limit = limit;
    }

    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// A call begins. True if the limit had room for another one beside it.
    pub fn begin(&mut self, now: Instant) -> bool {
        self.window.begin();
        self.has_spare(now)
    }

    pub fn abandon(&mut self) {
        self.window.abandon();
    }

    pub fn end(&mut self, now: Instant) {
        self.window.end(now);
    }

    /// Is one more call than those of now within the limit that the vendor has stated? Not known
    /// without a limit.
    pub fn has_spare(&self, now: Instant) -> bool {
        self.limit
            .is_some_and(|limit| self.window.used(now, SECOND) < Turns::per_second(limit).most)
    }

    /// When the next call may begin, if not now. None: when one that runs has ended and counts no
    /// more.
    pub fn room(&self, now: Instant) -> Result<(), Option<Instant>> {
        if let Some(until) = self.paused_until(now) {
            return Err(Some(until));
        }
        let Some(turns) = self.turns(now) else {
            return Ok(());
        };
        self.window.room(now, turns).map_err(|at| {
            let next = self.next_step(now);
            at.into_iter().chain(next).min()
        })
    }

    /// How long until the `nth` call from now may begin, about.
    pub fn wait(&self, now: Instant, nth: usize, usual: Duration) -> Duration {
        let pause = self
            .paused_until(now)
            .map_or(Duration::ZERO, |until| until - now);
        let turn = self.turns(now).map_or(Duration::ZERO, |turns| {
            self.window.wait(now, turns, nth, usual)
        });
        pause.max(turn)
    }

    /// A call was throttled: fewer calls from now on, and none before the vendor wants one again.
    /// Calls that were under way together are throttled together, so the rate is lowered once in a
    /// second. Without a limit there is no rate that could be lowered.
    pub fn throttled(&mut self, now: Instant, retry_after: Option<Duration>) {
        if let Some(pause) = retry_after {
            let until = now + pause.min(LONGEST_PAUSE);
            self.paused_until = Some(self.paused_until.map_or(until, |other| other.max(until)));
        }
        let Some(allowed) = self.allowed(now) else {
            return;
        };
        let is_news = |lowered: Lowered| now >= lowered.at + SECOND;
        self.lowered = Some(match self.lowered {
            Some(lowered) if !is_news(lowered) => Lowered {
                quiet_since: now,
                ..lowered
            },
            _ => Lowered {
                allowed: (allowed / 2.0).max(LOWEST),
                at: now,
                quiet_since: now,
            },
        });
    }

    /// Calls a second that are allowed now; none without a limit.
    pub fn allowed(&self, now: Instant) -> Option<f64> {
        let limit = f64::from(self.limit?);
        Some(self.lowered.map_or(limit, |lowered| {
            let risen = limit / STEPS * f64::from(steps(lowered, now));
            (lowered.allowed + risen).min(limit)
        }))
    }

    /// How many calls may begin now; none without a limit.
    pub fn remaining(&self, now: Instant) -> Option<u32> {
        let turns = self.turns(now)?;
        if self.paused_until(now).is_some() {
            return Some(0);
        }
        let remaining = turns.most.saturating_sub(self.window.used(now, turns.span));
        Some(u32::try_from(remaining).unwrap_or(u32::MAX))
    }

    /// Until when no call is made at all.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is at least 1, and the limit at most"
    )]
    fn turns(&self, now: Instant) -> Option<Turns> {
        let allowed = self.allowed(now)?;
        if allowed < 1.0 - NUDGE {
            let span = Duration::from_secs_f64(1.0 / allowed);
            return Some(Turns { most: 1, span });
        }
        Some(Turns::per_second((allowed + NUDGE) as u32))
    }

    /// When the rate rises next, while it is lowered.
    fn next_step(&self, now: Instant) -> Option<Instant> {
        let lowered = self.lowered?;
        let is_low = self.allowed(now)? < f64::from(self.limit?);
        is_low.then(|| lowered.quiet_since + STEP.saturating_mul(steps(lowered, now) + 1))
    }
}

/// How often the rate has risen since.
fn steps(lowered: Lowered, now: Instant) -> u32 {
    let quiet = now.saturating_duration_since(lowered.quiet_since);
    u32::try_from(quiet.as_secs() / STEP.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_halves_the_rate_and_quiet_brings_it_back_in_tenths() {
        let mut rate = Rate::new(Some(10));
        let start = Instant::now();
        let allowed = |rate: &Rate, seconds: u64| {
            let now = start + SECOND * u32::try_from(seconds).unwrap();
            (rate.allowed(now).unwrap() * 10.0).round() / 10.0
        };
        rate.throttled(start, None);
        rate.throttled(start + SECOND / 2, None); // under way together with the first
        let course: Vec<_> = [0, 10, 11, 21, 41, 51, 500]
            .map(|seconds| allowed(&rate, seconds))
            .into();
        assert_eq!(course, [5.0, 5.0, 6.0, 7.0, 9.0, 10.0, 10.0]);
        for second in 100..110 {
            rate.throttled(start + SECOND * second, None);
        }
        assert!((allowed(&rate, 110) - 0.2).abs() < 1e-9);
        assert_eq!(rate.turns(start + SECOND * 110).unwrap().span, LONGEST);
        assert!((allowed(&rate, 119) - 1.2).abs() < 1e-9);
        assert!((allowed(&rate, 209) - 10.0).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_vendor_wants_none_no_call_begins() {
        let mut rate = Rate::new(None);
        let now = Instant::now();
        rate.throttled(now, Some(SECOND * 3));
        rate.throttled(now, Some(SECOND)); // the longer one holds
        assert_eq!(rate.room(now + SECOND), Err(Some(now + SECOND * 3)));
        assert_eq!(rate.room(now + SECOND * 3), Ok(()));
        assert_eq!(rate.allowed(now), None);
        rate.throttled(now, Some(Duration::MAX));
        assert_eq!(rate.room(now + LONGEST_PAUSE), Ok(()));
    }
}
