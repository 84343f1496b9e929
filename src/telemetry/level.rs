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
