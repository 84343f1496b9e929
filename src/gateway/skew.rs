//! How far is our clock from Linksfield's? Timestamps are signed, so a clock that is wrong is a signature that is refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::header::HeaderValue;

/// Answers that are remembered: the median of these is not moved by a slow one, or by a proxy with another clock.
const REMEMBERED: usize = 15;

/// A clock this far off is told of. Of Linksfield's interfaces one takes timestamps of up to ten minutes.
const WORTH_TELLING: f64 = 30.0;

/// The differences that recent answers show. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Skew(Arc<Mutex<Recent>>);

#[derive(Debug, Default)]
struct Recent {
    /// In the order they came, in seconds.
    differences: Vec<f64>,
    next: usize,
    is_told: bool,
}

impl Skew {
    /// An answer has come with this `Date`, to a request sent at this time of ours. If the clocks have gone apart, or
    /// have come together again: by how many seconds they differ now.
    pub fn record(&self, date: &HeaderValue, sent_at: SystemTime, took: Duration) -> Option<f64> {
        let date = httpdate::parse_http_date(date.to_str().ok()?).ok()?;
        // The date is cut to seconds, and was taken somewhere on the way there and back.
        let theirs = date + Duration::from_millis(500);
        let ours = sent_at + took / 2;
        let difference = match theirs.duration_since(ours) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.differences.len() < REMEMBERED {
            recent.differences.push(difference);
        } else {
            let next = recent.next;
            recent.differences[next] = difference;
            recent.next = (next + 1) % REMEMBERED;
        }
        if !recent.is_told && difference.abs() < WORTH_TELLING {
            return None; // one more that is not apart takes no median there
        }
        let median = recent.median()?;
        let is_apart = median.abs() >= WORTH_TELLING;
        let is_news = is_apart != recent.is_told;
        recent.is_told = is_apart;
        is_news.then_some(median)
    }

    /// By how many seconds Linksfield's clock is ahead of ours; none before the first answer.
    pub fn seconds(&self) -> Option<f64> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.median()
    }
}

impl Recent {
    fn median(&self) -> Option<f64> {
        let mut differences = self.differences.clone();
        let middle = differences.len() / 2;
        (!differences.is_empty()).then(|| {
            let (_, median, _) = differences.select_nth_unstable_by(middle, f64::total_cmp);
            *median
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(skew: &Skew, ahead: i64, took: Duration) -> Option<f64> {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let theirs = epoch + took / 2;
        let theirs = if ahead < 0 {
            theirs - Duration::from_secs(ahead.unsigned_abs())
        } else {
            theirs + Duration::from_secs(ahead.unsigned_abs())
        };
        let date = httpdate::fmt_http_date(theirs).parse().unwrap();
        skew.record(&date, epoch, took)
    }

    #[test]
    fn the_median_is_told_when_the_clocks_have_gone_apart_and_when_they_are_together_again() {
        let skew = Skew::default();
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

    #[test]
    fn a_date_that_is_none_says_nothing() {
        let skew = Skew::default();
        let date = HeaderValue::from_static("yesterday");
        assert_eq!(
            skew.record(&date, SystemTime::UNIX_EPOCH, Duration::ZERO),
            None
        );
        assert_eq!(skew.seconds(), None);
    }
}
