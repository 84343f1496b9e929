//! How far is our clock from Linksfield's, and what time is it then? Timestamps are signed, so a
//! clock that is wrong is a signature that is refused; and what a store keeps is not forgotten
//! because of one.
//!
//! What Linksfield's `Date` says is compared with a clock that was ours at the start and that
//! nobody sets: so it stays true when ours is set, by whatever.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::HeaderValue;
use parking_lot::{Mutex, MutexGuard};

use crate::clock::{Moment, WallClock};

/// Answers that are remembered: the median of these is not moved by a slow one, or by a proxy with
/// another clock.
const REMEMBERED: usize = 15;

/// A clock this far off is told of. Of Linksfield's interfaces one takes timestamps of up to ten
/// minutes.
const WORTH_TELLING: f64 = 30.0;

/// A clock further off than this is not believed, where something else is known.
const GROSS: f64 = 600.0;

/// The differences that recent answers show. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Skew(Arc<SkewState>);

#[derive(Debug)]
struct SkewState {
    clock: WallClock,
    /// Our clock then: it goes on from there, and is not set.
    began: (Moment, SystemTime),
    recent: Mutex<RecentDifferences>,
}

#[derive(Debug, Default)]
struct RecentDifferences {
    /// In the order they came, in seconds.
    differences: Vec<f64>,
    next: usize,
    median: Option<f64>,
    is_told: bool,
}

/// What time it is, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// By our clock; where that is grossly wrong, by Linksfield's.
    pub now: SystemTime,
    /// The earlier one of the two, or of our clock and what has passed since the start.
    pub earliest: SystemTime,
    /// The later one: what is written with it looks older than it is by no clock that is wrong
    /// alone.
    pub latest: SystemTime,
    /// Has Linksfield told its own?
    pub is_confirmed: bool,
    /// By how many seconds our clock was corrected for that.
    pub correction: i64,
}

impl Told {
    /// What is over by this is over. None as long as Linksfield has not told its own.
    pub fn agreed(&self) -> Option<SystemTime> {
        self.is_confirmed.then_some(self.earliest)
    }
}

impl Skew {
    /// Nothing is known of Linksfield's clock yet; `clock` is ours.
    pub fn new(clock: WallClock) -> Self {
        Self::begun(clock, clock.now())
    }

    /// The same, if our clock showed `then` at the start: it may have been set since.
    pub(in crate::gateway) fn begun(clock: WallClock, then: SystemTime) -> Self {
        Self(Arc::new(SkewState {
            clock,
            began: (Moment::now(), then),
            recent: Mutex::default(),
        }))
    }

    /// An answer has come with this `Date`, to a request sent then, by both of our clocks. If our
    /// clock and Linksfield's have gone apart, or have come together again: by how many seconds
    /// they differ now.
    pub fn record(
        &self,
        date: &HeaderValue,
        sent_at: Moment,
        signed_at: SystemTime,
        took: Duration,
    ) -> Option<f64> {
        let date = httpdate::parse_http_date(date.to_str().ok()?).ok()?;
        // The date is cut to seconds, and was taken somewhere on the way there and back.
        let theirs = date + Duration::from_millis(500);
        let steady = self.steady(sent_at);
        let difference = ahead(theirs, steady + took / 2);
        let mut recent = self.recent();
        if recent.differences.len() < REMEMBERED {
            recent.differences.push(difference);
        } else {
            let next = recent.next;
            recent.differences[next] = difference;
            recent.next = (next + 1) % REMEMBERED;
        }
        // One that says what they all say moves no median.
        let known = recent
            .median
            .filter(|known| (known - difference).abs() < 0.5);
        let median = known.unwrap_or_else(|| recent.find_median());
        recent.median = Some(median);
        let median = median + ahead(steady, signed_at);
        let is_apart = median.abs() >= WORTH_TELLING;
        let is_news = is_apart != recent.is_told;
        recent.is_told = is_apart;
        is_news.then_some(median)
    }

    /// What our clock shows. It is read here alone.
    pub fn wall_clock(&self) -> SystemTime {
        self.0.clock.now()
    }

    /// By how many seconds Linksfield's clock is ahead of ours; none before the first answer.
    pub fn seconds(&self) -> Option<f64> {
        let median = self.recent().median?;
        Some(median + ahead(self.steady(Moment::now()), self.wall_clock()))
    }

    /// What time it is by our clock and by Linksfield's `Date`, and whether the two agree.
    pub fn time_known(&self) -> Told {
        self.tell(self.wall_clock())
    }

    /// What time is it, if our clock shows `wall`?
    pub fn tell(&self, wall: SystemTime) -> Told {
        let (median, steady) = (self.recent().median, self.steady(Moment::now()));
        // Before Linksfield has told its time, a clock that was set is believed less than what has
        // passed.
        let best = later(steady, median.unwrap_or(0.0));
        let correction = ahead(best, wall);
        let is_gross = correction.abs() > GROSS;
        Told {
            now: if is_gross { best } else { wall },
            earliest: wall.min(best),
            latest: wall.max(best),
            is_confirmed: median.is_some(),
            correction: if is_gross { whole(correction) } else { 0 },
        }
    }

    fn steady(&self, at: Moment) -> SystemTime {
        let (began, wall) = self.0.began;
        wall + at.saturating_duration_since(began)
    }

    fn recent(&self) -> MutexGuard<'_, RecentDifferences> {
        self.0.recent.lock()
    }
}

impl RecentDifferences {
    /// There is one at least.
    fn find_median(&mut self) -> f64 {
        let (mut differences, length) = ([0.0; REMEMBERED], self.differences.len());
        let differences = &mut differences[..length];
        differences.copy_from_slice(&self.differences);
        let (_, median, _) = differences.select_nth_unstable_by(length / 2, f64::total_cmp);
        *median
    }
}

#[expect(clippy::cast_possible_truncation, reason = "no clock shows so much")]
fn whole(seconds: f64) -> i64 {
    seconds as i64
}

/// By how many seconds.
fn ahead(one: SystemTime, other: SystemTime) -> f64 {
    match one.duration_since(other) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

/// By so many seconds; or what it is, where no clock shows that.
fn later(time: SystemTime, seconds: f64) -> SystemTime {
    let by = Duration::try_from_secs_f64(seconds.abs()).unwrap_or_default();
    let moved = if seconds < 0.0 {
        time.checked_sub(by)
    } else {
        time.checked_add(by)
    };
    moved.unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::sleep_for;

    const HOUR: Duration = Duration::from_secs(3600);

    fn epoch() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn moved(time: SystemTime, seconds: i64) -> SystemTime {
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { time - by } else { time + by }
    }

    /// An answer by a clock that is ahead of the one that begins at the epoch.
    fn answer(skew: &Skew, ahead: i64, took: Duration) -> Option<f64> {
        let now = Moment::now();
        let ours = skew.steady(now);
        let date = httpdate::fmt_http_date(moved(ours + took / 2, ahead));
        skew.record(&date.parse().unwrap(), now, ours, took)
    }

    #[tokio::test(start_paused = true)]
    async fn the_median_is_told_when_the_clocks_have_gone_apart_and_when_they_are_together_again() {
        let skew = Skew::new(WallClock::simulated(epoch()));
        assert_eq!(skew.seconds(), None);
        for _ in 0..8 {
            assert_eq!(answer(&skew, 2, Duration::from_secs(4)), None);
        }
        assert_eq!(answer(&skew, 3600, Duration::ZERO), None, "one odd answer");
        assert!((skew.seconds().unwrap() - 2.5).abs() < 0.6);
        let told: Vec<_> = (0..15)
            .filter_map(|_| answer(&skew, -90, Duration::from_secs(1)))
            .collect();
        assert_eq!(told.len(), 1);
        assert!((told[0] + 90.0).abs() < 1.0, "{told:?}");
        let told: Vec<_> = (0..15)
            .filter_map(|_| answer(&skew, 0, Duration::ZERO))
            .collect();
        assert_eq!(told.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_date_that_is_none_says_nothing() {
        let skew = Skew::new(WallClock::simulated(epoch()));
        let date = HeaderValue::from_static("yesterday");
        let took = Duration::ZERO;
        assert_eq!(skew.record(&date, Moment::now(), epoch(), took), None);
        assert_eq!(skew.seconds(), None);
        assert!(!skew.tell(epoch()).is_confirmed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_by_hours_is_not_believed() {
        let skew = Skew::new(WallClock::simulated(epoch()));
        let told = |wall| {
            let told = skew.tell(wall);
            (ahead(told.now, epoch()).round(), told.agreed())
        };
        assert_eq!(told(epoch() + Duration::from_secs(60)), (60.0, None));
        assert_eq!(
            told(epoch() + HOUR * 720),
            (0.0, None),
            "nobody has confirmed that"
        );
        assert_eq!(told(epoch() - HOUR * 720), (0.0, None));
        sleep_for(HOUR);
        assert_eq!(told(epoch() - HOUR * 720), (3600.0, None), "sleep counts");

        answer(&skew, 7200, Duration::ZERO); // ours was wrong from the start
        let (now, agreed) = told(epoch() + HOUR);
        assert!((now - 3.0 * 3600.0).abs() <= 1.0, "{now}");
        assert_eq!(agreed, Some(epoch() + HOUR), "the earlier one of the two");
        let (now, agreed) = told(epoch() + HOUR * 720);
        assert!((now - 3.0 * 3600.0).abs() <= 1.0, "{now}");
        assert!((ahead(agreed.unwrap(), epoch()) - now).abs() <= 1.0);
        let (behind, ahead_of_both) = (epoch() + HOUR, epoch() + HOUR * 720);
        assert!(skew.tell(behind).latest > behind + HOUR, "Linksfield's");
        assert_eq!(skew.tell(ahead_of_both).latest, ahead_of_both, "ours");
        let near = epoch() + HOUR * 3 + Duration::from_secs(90);
        assert_eq!(skew.tell(near).now, near, "seconds are");
    }
}
