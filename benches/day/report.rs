//! What of the day is told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use linksfield_gateway::gateway::vendor::quota::Thrift;

use super::client::{Answer, Source};
use super::vendor::Highest;
use super::{DAY, LIMITS, OUTAGE};

/// Calls of the vendor, by reason.
pub type Calls = BTreeMap<String, u64>;

/// All that is counted, on the second day.
#[derive(Default)]
pub struct Report {
    results: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<String, u64>,
    /// Of the refusals, those while the vendor is down or has just been.
    refused_in_outage: u64,
    calls: Calls,
    ages: Vec<Duration>,
    waits: Vec<Duration>,
    pub orders: Orders,
    thriftiest: Option<(Thrift, Duration)>,
    highest: Highest,
    pub torn_crawls: u64,
}

/// What became of the orders.
#[derive(Debug, Default, Clone, Copy)]
pub struct Orders {
    pub wanted: u64,
    pub placed: u64,
    /// Refused although the vendor was well.
    pub refused: u64,
    /// Turned away, nothing sent, while it was not; the caller comes again.
    pub turned_away: u64,
    /// Sent, and no answer.
    pub in_doubt: u64,
    /// Seen by the caller who placed them, in one of its queries.
    pub seen: u64,
}

impl Report {
    pub fn query(&mut self, time: Duration, waited: Duration, answer: &Answer) {
        if time < DAY {
            return;
        }
        let result = if answer.is_success() {
            // What a call has just brought has no `Age`; it is no older than its caller has waited.
            self.ages.push(answer.age().unwrap_or(waited));
            match answer.source() {
                Source::Hit => "hit",
                Source::Stale => "stale",
                Source::StandIn => "stale, in place of a failure",
                Source::Coalesced => "coalesced",
                Source::Miss => "miss",
            }
        } else {
            let error = answer.error();
            let error = error.unwrap_or_else(|| "the vendor's own".to_owned());
            *self.refusals.entry(error).or_default() += 1;
            self.refused_in_outage += u64::from(is_outage(time));
            "refused or failed"
        };
        self.waits.push(waited);
        *self.results.entry(result).or_default() += 1;
    }

    pub fn thrift(&mut self, time: Duration, thrift: Thrift) {
        if time >= DAY && self.thriftiest.is_none_or(|(most, _)| thrift > most) {
            self.thriftiest = Some((thrift, time.saturating_sub(DAY)));
        }
    }

    /// All has been asked. `calls` are those of the second day.
    pub fn end(&mut self, calls: Calls, highest: Highest) {
        self.calls = calls;
        self.highest = highest;
        self.ages.sort_unstable();
        self.waits.sort_unstable();
    }

    /// Of all queries that got an answer, so many per cent cost no call. All calls that queries
    /// have caused count against that: background refreshes, retries, and each page of a crawl.
    #[expect(clippy::cast_precision_loss, reason = "counts of a day")]
    pub fn saved(&self) -> f64 {
        let of_queries = self.calls.iter().filter(|(reason, _)| *reason != "command");
        let calls: u64 = of_queries.map(|(_, calls)| calls).sum();
        100.0 * (1.0 - calls as f64 / self.ages.len().max(1) as f64)
    }

    pub fn has_overshoot(&self) -> bool {
        let Highest {
            second,
            connections,
            day,
        } = self.highest;
        [second, connections, day]
            .iter()
            .zip(LIMITS)
            .any(|(count, limit)| *count > limit)
    }

    /// Queries that were refused while the vendor was well.
    fn refused(&self) -> u64 {
        self.refusals.values().sum::<u64>() - self.refused_in_outage
    }

    fn is_aim_reached(&self) -> bool {
        self.saved() >= 95.0 && !self.has_overshoot() && self.orders.refused == 0
    }
}

/// The breaker may stay open for a few seconds after it. What is refused later counts as refused
/// although the vendor is well: calls that it took during the outage and never answers keep their
/// slots, and the fills that they are, until `upstream.hold` is over.
pub fn is_outage(time: Duration) -> bool {
    let (from, lasts) = OUTAGE;
    time >= from && time < from + lasts + Duration::from_secs(30)
}

/// Nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(Duration::ZERO, |at| sorted[at])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queries: u64 = self.results.values().sum();
        writeln!(f, "  queries           {queries}")?;
        for (result, count) in &self.results {
            writeln!(f, "    {result:28} {count:7}")?;
        }
        writeln!(
            f,
            "  refused or failed {}, of which {} during the outage",
            self.refused() + self.refused_in_outage,
            self.refused_in_outage
        )?;
        for (code, count) in &self.refusals {
            writeln!(f, "    {code:28} {count:7}")?;
        }
        writeln!(
            f,
            "  vendor calls      {}",
            self.calls.values().sum::<u64>()
        )?;
        for (reason, count) in &self.calls {
            writeln!(f, "    {reason:28} {count:7}")?;
        }
        writeln!(f, "  calls saved       {:.2} %", self.saved())?;
        for (name, sorted) in [("age served", &self.ages), ("callers waited", &self.waits)] {
            let [half, most] = [50, 99].map(|percent| percentile(sorted, percent).as_secs_f64());
            let longest = percentile(sorted, 100).as_secs_f64();
            writeln!(
                f,
                "  {name:17} p50 {half:.1} s, p99 {most:.1} s, max {longest:.1} s"
            )?;
        }
        let Orders {
            wanted,
            placed,
            refused,
            turned_away,
            in_doubt,
            seen,
        } = self.orders;
        writeln!(
            f,
            "  orders            {wanted} wanted, {placed} placed, {refused} refused; in the outage {turned_away} times turned away, {in_doubt} in doubt"
        )?;
        writeln!(f, "    seen by who placed them      {seen:7}")?;
        writeln!(
            f,
            "  crawls by page    {} torn, begun again",
            self.torn_crawls
        )?;
        let Highest {
            second,
            connections,
            day,
        } = self.highest;
        let [per_second, at_a_time, per_day] = LIMITS;
        writeln!(
            f,
            "  highest counts    {second} of {per_second} in a second, {connections} of {at_a_time} connections, {day} of {per_day} in 24 hours: {}",
            if self.has_overshoot() {
                "OVERSHOOT"
            } else {
                "no overshoot"
            }
        )?;
        if let Some((thrift, at)) = self.thriftiest {
            let minutes = at.as_secs() / 60;
            let (hour, minute) = (minutes / 60, minutes % 60);
            writeln!(
                f,
                "  thrift            up to {thrift:?}, first at {hour:02}:{minute:02}"
            )?;
        }
        writeln!(
            f,
            "  aim               {} (95 % saved, no overshoot, no order refused); queries refused although the vendor was well: {}",
            if self.is_aim_reached() {
                "reached"
            } else {
                "NOT reached"
            },
            self.refused()
        )
    }
}
