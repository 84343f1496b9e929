//! What do the counters come to, for a person to read?

use std::collections::{BTreeMap, HashMap};

use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};

use super::metrics::Metrics;
use super::recent::Failure;
use crate::words::RequestResult;

/// Sums since the start.
#[derive(Debug)]
pub struct Totals {
    /// All requests.
    pub requests: Requests,
    /// Those of each route, tenant and caller, by its label.
    pub by_route: BTreeMap<String, Requests>,
    /// The same by tenant.
    pub by_tenant: BTreeMap<String, Requests>,
    /// The same by caller.
    pub by_caller: BTreeMap<String, Requests>,
    /// Calls of Linksfield.
    pub calls: u64,
    /// Those of each route, by its label.
    pub calls_by_route: BTreeMap<String, u64>,
    /// The same by tenant.
    pub calls_by_tenant: BTreeMap<String, u64>,
    /// The same by what came of them.
    pub calls_by_outcome: BTreeMap<String, u64>,
    /// How long all calls took together, in seconds.
    pub call_seconds: f64,
    /// Commands whose outcome was not known.
    pub commands: CommandTotals,
    /// The failures that were the last, the youngest first.
    pub failures: Vec<Failure>,
}

/// Sums of commands since the start.
#[derive(Debug)]
pub struct CommandTotals {
    /// Those that were in doubt.
    pub in_doubt: u64,
    /// The same by tenant, by its label.
    pub in_doubt_by_tenant: BTreeMap<String, u64>,
    /// Those of them whose answer came after their time.
    pub answered_late: u64,
}

/// How many requests were answered in which way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests([u64; RequestResult::ALL.len()]);

impl Requests {
    /// Each way with its number.
    pub fn by_result(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RequestResult::ALL
            .iter()
            .map(|result| result.as_str())
            .zip(self.0)
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Those that were answered in this way.
    pub fn of(&self, result: RequestResult) -> u64 {
        self.0[result as usize]
    }
}

impl Metrics {
    /// What has been counted so far.
    pub fn totals(&self) -> Totals {
        let families = &self.families;
        let requests = series(&families.requests.total);
        let calls = series(&families.calls.by_outcome);
        let in_doubt = series(&families.commands.unknown_outcome);
        let late = series(&families.commands.answered_late);
        let mut all = Requests::default();
        for one in &requests {
            all.count(one);
        }
        Totals {
            requests: all,
            by_route: requests_by("route", &requests),
            by_tenant: requests_by("tenant", &requests),
            by_caller: requests_by("caller", &requests),
            calls: calls.iter().map(count).sum(),
            calls_by_route: counts_by("route", &calls),
            calls_by_tenant: counts_by("tenant", &calls),
            calls_by_outcome: counts_by("outcome", &calls),
            call_seconds: series(&families.calls.duration)
                .iter()
                .map(|one| one.get_histogram().get_sample_sum())
                .sum(),
            commands: CommandTotals {
                in_doubt: in_doubt.iter().map(count).sum(),
                in_doubt_by_tenant: counts_by("tenant", &in_doubt),
                answered_late: late.iter().map(count).sum(),
            },
            failures: self.recent.all(),
        }
    }
}

/// How many queries there were, and how many of them a page in memory answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    /// Those that were not refused.
    queries: f64,
    from_memory: f64,
}

impl Answers {
    /// How many queries.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count, which Prometheus keeps as a float"
    )]
    pub fn count(self) -> u64 {
        self.queries as u64
    }

    /// Between 0 and 1; none before the first query.
    pub fn hit_ratio(self) -> Option<f64> {
        (self.queries > 0.0).then(|| self.from_memory / self.queries)
    }
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.from_memory += other.from_memory;
    }
}

impl Metrics {
    /// How the queries were answered so far, whoever asked, by route and tenant.
    pub fn answers(&self) -> HashMap<(String, String), Answers> {
        let mut all: HashMap<_, Answers> = HashMap::new();
        for one in series(&self.families.requests.total) {
            let labels = ["route", "tenant"].map(|name| label(&one, name).to_owned());
            let answers = all.entry(labels.into()).or_default();
            let count = one.get_counter().get_value();
            match result(&one) {
                RequestResult::Hit | RequestResult::Stale => answers.from_memory += count,
                RequestResult::Coalesced | RequestResult::Miss | RequestResult::Bypass => {}
                RequestResult::Command | RequestResult::Refused => continue,
            }
            answers.queries += count;
        }
        all
    }
}

impl Requests {
    fn count(&mut self, series: &Metric) {
        self.0[result(series) as usize] += count(series);
    }
}

fn series(family: &impl Collector) -> Vec<Metric> {
    let mut families = family.collect();
    families
        .iter_mut()
        .flat_map(MetricFamily::take_metric)
        .collect()
}

fn requests_by(name: &str, all: &[Metric]) -> BTreeMap<String, Requests> {
    let mut sums: BTreeMap<_, Requests> = BTreeMap::new();
    for series in all {
        sums.entry(label(series, name).to_owned())
            .or_default()
            .count(series);
    }
    sums
}

fn counts_by(name: &str, all: &[Metric]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for series in all {
        *sums.entry(label(series, name).to_owned()).or_default() += count(series);
    }
    sums
}

fn result(series: &Metric) -> RequestResult {
    let spelling = label(series, "result");
    let mut all = RequestResult::ALL.into_iter();
    let result = all.find(|result| result.as_str() == spelling);
    result.expect("only results are counted")
}

fn label<'a>(series: &'a Metric, name: &str) -> &'a str {
    let mut labels = series.get_label().iter();
    let label = labels.find(|label| label.name() == name);
    label.map_or("", |label| label.value())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, which Prometheus keeps as a float"
)]
fn count(series: &Metric) -> u64 {
    series.get_counter().get_value() as u64
}
