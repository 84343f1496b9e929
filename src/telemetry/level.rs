//! How does a family take what is read at a scrape, rather than counted when it changes?

use prometheus::{Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec};

/// A value that families of this type can take.
pub(super) trait Level<Family> {
    fn show(&self, family: &Family);
}

/// Numbers by the value of a label.
pub type Counts = Vec<(&'static str, usize)>;

/// Values by the window of a limit; a window without a limit has none.
pub type Windows = Vec<(&'static str, f64)>;

/// How many idempotency keys there are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keys {
    /// Their commands are under way.
    pub running: usize,
    /// Their answers are given again.
    pub kept: usize,
    /// What became of their commands is not known.
    pub in_doubt: usize,
}

macro_rules! integers {
    ($($integer:ty)+) => {$(
        impl Level<IntGauge> for $integer {
            fn show(&self, gauge: &IntGauge) {
                gauge.set(i64::try_from(*self).unwrap_or(i64::MAX));
            }
        }
    )+};
}

integers! { bool i64 u8 u64 usize }

impl Level<Gauge> for f64 {
    fn show(&self, gauge: &Gauge) {
        gauge.set(*self);
    }
}

/// While nothing is known, the family keeps what it has: 0 from the start on.
impl<Family, L: Level<Family>> Level<Family> for Option<L> {
    fn show(&self, family: &Family) {
        if let Some(level) = self {
            level.show(family);
        }
    }
}

/// The sum since the start, which somebody else counts.
impl Level<IntCounter> for u64 {
    fn show(&self, counter: &IntCounter) {
        counter.inc_by(self.saturating_sub(counter.get()));
    }
}

impl Level<IntGaugeVec> for Counts {
    fn show(&self, gauges: &IntGaugeVec) {
        for (label, number) in self {
            number.show(&gauges.with_label_values(&[label]));
        }
    }
}

impl Level<IntGaugeVec> for Keys {
    fn show(&self, gauges: &IntGaugeVec) {
        let counts = [
            ("running", self.running),
            ("kept", self.kept),
            ("in_doubt", self.in_doubt),
        ];
        Counts::from(counts).show(gauges);
    }
}

impl Level<GaugeVec> for Windows {
    fn show(&self, gauges: &GaugeVec) {
        gauges.reset(); // a reload may have taken a limit away
        for (window, value) in self {
            gauges.with_label_values(&[window]).set(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn a_counter_goes_up_to_a_sum_and_never_down() {
        let counter = IntCounter::new("name", "help").unwrap();
        for (sum, shown) in [(0_u64, 0), (3, 3), (3, 3), (2, 3), (5, 5)] {
            sum.show(&counter);
            assert_eq!(counter.get(), shown);
        }
    }

    #[test]
    fn what_is_not_known_now_is_shown_as_it_was() {
        let gauge = Gauge::new("name", "help").unwrap();
        for (level, shown) in [(None, 0.0), (Some(1.5), 1.5), (None, 1.5)] {
            level.show(&gauge);
            assert_eq!(gauge.get().to_bits(), f64::to_bits(shown));
        }
    }

    #[test]
    fn a_number_that_no_gauge_can_have_is_shown_as_the_greatest() {
        let gauge = IntGauge::new("name", "help").unwrap();
        for (level, shown) in [(7, 7), (u64::MAX, i64::MAX)] {
            level.show(&gauge);
            assert_eq!(gauge.get(), shown);
        }
    }

    #[test]
    fn a_window_whose_limit_is_taken_away_has_no_series() {
        let gauges = GaugeVec::new(Opts::new("name", "help"), &["window"]).unwrap();
        for windows in [vec![("second", 5.0), ("day", 1.0)], vec![("day", 1.0)]] {
            windows.show(&gauges);
            assert_eq!(gauges.collect()[0].get_metric().len(), windows.len());
        }
    }
}
