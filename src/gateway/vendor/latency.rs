//! How long does a call of a route usually take?

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How many calls are remembered: minutes of traffic at the vendor's rate.
const REMEMBERED: usize = 64;

/// The durations of a route's recent calls.
#[derive(Debug, Default)]
pub struct Latency(Mutex<RecentDurations>);

#[derive(Debug, Default)]
struct RecentDurations {
    /// The oldest first.
    durations: VecDeque<Duration>,
    /// The same, the shortest first: they are asked for more often than they change.
    sorted: Vec<Duration>,
}

impl Latency {
    /// Remembers a call.
    pub fn record(&self, duration: Duration) {
        let RecentDurations { durations, sorted } = &mut *self.recent();
        if durations.len() == REMEMBERED
            && let Some(oldest) = durations.pop_front()
        {
            sorted.remove(sorted.partition_point(|known| *known < oldest));
        }
        durations.push_back(duration);
        sorted.insert(sorted.partition_point(|known| *known < duration), duration);
    }

    /// The duration that nine of ten calls stay below (nearest rank); none at all without a call.
    pub fn p90(&self) -> Duration {
        let sorted = &self.recent().sorted;
        let rank = (sorted.len() * 9).div_ceil(10);
        rank.checked_sub(1).map_or(Duration::ZERO, |at| sorted[at])
    }

    fn recent(&self) -> MutexGuard<'_, RecentDurations> {
        self.0.lock()
    }
}

/// The latencies of routes, by their names, which say the same in every configuration. A clone is
/// the same one.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Arc<Mutex<HashMap<String, Arc<Latency>>>>);

impl Latencies {
    /// Those of these routes, in this order. What is known of them stays, of others it is
    /// forgotten.
    pub fn of(&self, routes: &[String]) -> Vec<Arc<Latency>> {
        let mut known = self.0.lock();
        let latency = |route: &String| known.get(route).cloned().unwrap_or_default();
        let latencies: Vec<_> = routes.iter().map(latency).collect();
        *known = routes.iter().cloned().zip(latencies.clone()).collect();
        latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_recent_calls_stay_below() {
        let latency = Latency::default();
        assert_eq!(latency.p90(), Duration::ZERO);
        latency.record(Duration::from_secs(7));
        assert_eq!(latency.p90(), Duration::from_secs(7));
        for millis in 1..=1000 {
            latency.record(Duration::from_millis(millis));
        }
        // The last 64 are 937 to 1000, of which 58 are at most 994.
        assert_eq!(latency.p90(), Duration::from_millis(994));
    }
}
