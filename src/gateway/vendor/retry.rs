//! May a query be asked again, and when? A budget bounds how much of the traffic repeats itself, so
//! that a vendor that fails is not asked more than one that is well.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often, and how soon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Attempts of one query, the first one included.
    pub attempts: u32,
    /// Retries as a share of the first attempts.
    pub budget: f64,
    /// So many a second may be made besides.
    pub min_per_second: f64,
    /// About so long after a first failure; doubled with each further one.
    pub backoff: Duration,
    /// No longer than that.
    pub max_backoff: Duration,
}

/// Retries that may be saved up.
const MOST: f64 = 10.0;

/// The budget of all queries together. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Retries(Arc<Mutex<RetryState>>);

#[derive(Debug)]
struct RetryState {
    settings: Settings,
    tokens: f64,
    filled_at: Instant,
}

impl Retries {
    /// With what may be saved up.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(RetryState {
            settings,
            tokens: MOST,
            filled_at: Instant::now(),
        })))
    }

    /// From now on by these.
    pub fn change(&self, settings: Settings) {
        self.with(|state| state.settings = settings);
    }

    /// A query is asked for the first time.
    pub fn first(&self) {
        self.with(|state| state.add(state.settings.budget));
    }

    /// After so many failures of a query: how long to wait before it is asked again; none if it may
    /// not be. `random` is between 0 and 1.
    pub fn next(&self, failures: u32, random: f64) -> Option<Duration> {
        self.with(|state| {
            let Settings {
                attempts,
                min_per_second,
                backoff,
                max_backoff,
                ..
            } = state.settings;
            let now = Instant::now();
            let passed = now.saturating_duration_since(state.filled_at);
            state.filled_at = now;
            state.add(passed.as_secs_f64() * min_per_second);
            if failures >= attempts || state.tokens < 1.0 {
                return None;
            }
            state.tokens -= 1.0;
            let doubled = backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
            // Half of it at least: enough for the vendor, and those who failed together do not come
            // together again.
            Some(doubled.min(max_backoff).mul_f64(0.5 + random / 2.0))
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut RetryState) -> T) -> T {
        change(&mut self.0.lock())
    }
}

impl RetryState {
    fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            attempts: 3,
            budget: 0.2,
            min_per_second: 0.5,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_fifth_of_the_first_attempts_and_a_few_more_as_time_passes() {
        let retries = Retries::new(settings());
        while retries.next(1, 0.0).is_some() {}
        let mut made = 0;
        for _ in 0..100 {
            retries.first();
            made += u32::from(retries.next(1, 0.0).is_some());
        }
        assert!((19..=20).contains(&made), "{made}");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(retries.next(1, 0.0).is_some() && retries.next(1, 0.0).is_some());
        assert!(retries.next(1, 0.0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn they_come_later_each_time_and_not_together() {
        let retries = Retries::new(Settings {
            attempts: 9,
            ..settings()
        });
        let wait = |failures, random| retries.next(failures, random).unwrap().as_millis();
        assert_eq!([wait(1, 0.0), wait(1, 1.0)], [100, 200]);
        assert_eq!([wait(2, 1.0), wait(3, 1.0), wait(8, 1.0)], [400, 800, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_has_so_many_attempts_and_no_more() {
        let retries = Retries::new(settings());
        assert!(retries.next(2, 0.0).is_some());
        assert!(retries.next(3, 0.0).is_none());
    }
}
