//! What time is it, and how much of it has passed? Whatever is told of the wall clock, and of a
//! machine that has slept, is read here.
//!
//! Deadlines and timers go by the runtime's clock, which stands still while the machine sleeps.
//! What grows old goes by a [`Moment`], which does not. They are two types, so that nobody compares
//! one with the other.

use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

/// A machine that has woken up is noticed so soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many nanoseconds the machine has slept since the process began, as of the last look.
static SLEPT: AtomicU64 = AtomicU64::new(0);

/// The time that goes into signatures and into the store; the only place that reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// The clock that a gateway goes by when it signs, and when it writes what it keeps.
#[derive(Debug, Clone, Copy)]
pub enum WallClock {
    /// That of the system, which may be set.
    System,
    /// One that goes on with the runtime's: where that is paused (a bench, a test), a day passes in
    /// a moment.
    Simulated {
        /// The runtime's time when it began.
        began: Instant,
        /// What it showed then.
        at: SystemTime,
    },
}

impl WallClock {
    /// One that shows `at` now, and goes on with the runtime's clock.
    pub fn simulated(at: SystemTime) -> Self {
        let began = Instant::now();
        Self::Simulated { began, at }
    }

    /// What it shows.
    pub fn now(self) -> SystemTime {
        match self {
            Self::System => wall_clock(),
            Self::Simulated { began, at } => at + began.elapsed(),
        }
    }
}

/// The same in whole seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A point of a clock that goes on while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    /// Looks at the clock. What is kept, to be compared with later, begins with this.
    pub fn now() -> Self {
        look();
        Self::of(Instant::now())
    }

    /// The moment that this is, where it is now or was a little ago. It reads no clock, and knows
    /// of a sleep within a second of its end: what is judged by it seems too young until then.
    pub fn of(now: Instant) -> Self {
        match slept() {
            0 => Self(now), // a server: a hit pays for no more than that
            nanos => Self(now + Duration::from_nanos(nanos)),
        }
    }

    /// How old it is now; of a sleep it knows as late as [`of`](Self::of).
    pub fn elapsed(self) -> Duration {
        Self::of(Instant::now()) - self
    }

    /// None if that was before the clock began.
    pub fn checked_sub(self, age: Duration) -> Option<Self> {
        self.0.checked_sub(age).map(Self)
    }

    /// Zero if that is yet to come.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, time: Duration) -> Self {
        Self(self.0 - time)
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Looks every second whether the machine has slept. Never ends.
pub async fn keep_looking() {
    loop {
        look();
        sleep(LOOK_EVERY).await;
    }
}

/// Looks how long the machine has slept. A thread may lose its core between two clocks: then it is
/// a little less than it was, never more.
pub fn look() {
    static AT_START: OnceLock<Duration> = OnceLock::new();
    let at_start = *AT_START.get_or_init(|| {
        let ahead = || {
            let awake = read(ClockId::Monotonic);
            read(ClockId::Boottime).saturating_sub(awake)
        };
        ahead().min(ahead()).min(ahead())
    });
    let all = read(ClockId::Boottime);
    let ahead = all.saturating_sub(read(ClockId::Monotonic));
    let slept = ahead.saturating_sub(at_start).as_nanos();
    SLEPT.fetch_max(u64::try_from(slept).unwrap_or(0), Ordering::Relaxed);
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// In nanoseconds.
fn slept() -> u64 {
    let slept = SLEPT.load(Ordering::Relaxed);
    #[cfg(test)]
    let slept = slept + tests::SLEPT.get();
    slept
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Of a test's own thread.
        pub(super) static SLEPT: Cell<u64> = const { Cell::new(0) };
    }

    /// The machine sleeps, for this test.
    pub fn sleep_for(time: Duration) {
        SLEPT.set(SLEPT.get() + u64::try_from(time.as_nanos()).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_grows_old_while_the_machine_sleeps() {
        let before = Moment::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        sleep_for(Duration::from_secs(60));
        let now = Moment::now();
        assert_eq!((now - before).as_secs(), 65);
        assert_eq!(before - now, Duration::ZERO);
        assert_eq!(now.checked_sub(Duration::from_secs(65)), Some(before));
    }
}
