//! Which series are there before anything has happened, and which end? Prometheus sees a counter's
//! first step only if it has seen it at 0 before. So every series that an alert waits for, and
//! those of each route and result and of each tenant and result, are there from the start on; of
//! the product of routes, tenants and callers only what has been used.

use super::labels::RouteKind;
use super::metrics::Metrics;
use super::snapshot::Constants;
use crate::words::{
    CallEnd, Fault, InvalidationCause, ListenerName, RequestResult, Sent, WhichSecret,
};

impl RouteKind {
    /// How its exchanges can end.
    const fn results(self) -> &'static [RequestResult] {
        match self {
            Self::Query => &[
                RequestResult::Hit,
                RequestResult::Stale,
                RequestResult::Coalesced,
                RequestResult::Miss,
                RequestResult::Bypass,
                RequestResult::Refused,
            ],
            Self::Command => &[RequestResult::Command, RequestResult::Refused],
            Self::Refuse => &[], // they are counted as "other"
        }
    }
}

impl Metrics {
    /// The configuration of these labels is in effect: their series begin, those of names that it
    /// does not have end.
    pub fn take_effect(&self, constants: &Constants) {
        let families = &self.families;
        let capacity = i64::try_from(constants.cache_capacity).unwrap_or(i64::MAX);
        families.cache.capacity.set(capacity);
        families.commands.enabled.set(constants.commands.into());
        families.upstream.paused.set(constants.is_paused.into());
        families.end_others(&self.labels);
        self.begin_once(constants);
        for (route, kind) in self.labels.routes.iter().zip(&self.labels.kinds) {
            self.begin_route(route, *kind);
        }
        let (_, tenants) = self.labels.tenants.split_last().expect("the last is other");
        for tenant in tenants {
            self.begin_tenant(tenant);
        }
    }

    fn begin_once(&self, constants: &Constants) {
        let families = &self.families;
        for code in constants.error_codes {
            for sent in Sent::ALL {
                let series = [code, sent.as_str()];
                families.requests.errors.with_label_values(&series);
            }
        }
        for fault in Fault::ALL.map(Fault::as_str) {
            families.requests.failed.with_label_values(&[fault]);
        }
        for end in CallEnd::ALL.map(CallEnd::as_str) {
            families.calls.by_end.with_label_values(&[end]);
        }
        for listener in ListenerName::ALL.map(ListenerName::as_str) {
            families.connections.evicted.with_label_values(&[listener]);
        }
        for cause in InvalidationCause::ALL.map(InvalidationCause::as_str) {
            families.cache.invalidations.with_label_values(&[cause]);
        }
        for tenant in &self.labels.tenants {
            for result in RequestResult::ALL {
                let series = [tenant.as_str(), result.as_str()];
                families.requests.by_tenant.with_label_values(&series);
            }
        }
    }

    fn begin_route(&self, route: &str, kind: RouteKind) {
        let (families, labels) = (&self.families, &self.labels);
        for result in kind.results() {
            let series = [route, result.as_str()];
            families.requests.duration.with_label_values(&series);
            // Where there is one tenant and nobody has a token, the product is no product.
            if let ([tenant, _], [caller]) = (&*labels.tenants, &*labels.callers) {
                let series = [route, tenant, caller, result.as_str()];
                families.requests.total.with_label_values(&series);
            }
        }
        match kind {
            RouteKind::Query => {
                families.requests.served_age.with_label_values(&[route]);
            }
            RouteKind::Command => {
                let (_, tenants) = labels.tenants.split_last().expect("the last is other");
                for tenant in tenants {
                    let series = [route, tenant.as_str()];
                    let unknown = &families.commands.unknown_outcome;
                    unknown.with_label_values(&series);
                    let late = &families.commands.answered_late;
                    late.with_label_values(&series);
                }
            }
            RouteKind::Refuse => {}
        }
    }

    fn begin_tenant(&self, tenant: &str) {
        let families = &self.families;
        families.calls.bad_signatures.with_label_values(&[tenant]);
        for secret in WhichSecret::ALL.map(WhichSecret::as_str) {
            let family = &families.configuration.secret_switches;
            family.with_label_values(&[tenant, secret]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::families::{Families, QuotaLevels, UpstreamLevels};
    use super::super::family::Row;
    use super::super::labels::{CallerLabel, Labels, RouteLabel, TenantLabel};
    use super::super::snapshot::Snapshot;
    use super::*;
    use crate::words::{CallReason, Class, Ending, Outcome};

    const DOCUMENT: &str = include_str!("../../docs/metrics.md");
    const CODES: &[&str] = crate::gateway::error::CODES;

    /// The cells of the rows of the tables in the document.
    fn rows() -> impl Iterator<Item = Vec<&'static str>> {
        let rows = DOCUMENT
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        rows.map(|row| row.split(" | ").collect())
    }

    #[test]
    fn every_family_has_its_row_and_every_row_its_family() {
        let metrics = metrics(1, 1, 1, 0);
        metrics.upstream_call(
            RouteLabel(0),
            TenantLabel(0),
            Ending::Answered(Outcome::Success),
            CallReason::Caller,
            std::time::Duration::ZERO,
        );
        let text = scrape(&metrics);
        let described: BTreeMap<_, _> = families()
            .map(|row| {
                let labels = match row.labels {
                    [] => "–".to_owned(),
                    labels => labels.join(", "),
                };
                let kind = kind(&text, row).unwrap_or("without series");
                (format!("`{}`", row.name), (kind.to_owned(), labels))
            })
            .collect();
        let documented = rows().filter(|row| row[0].starts_with('`'));
        let documented =
            documented.map(|row| (row[0].to_owned(), (row[1].to_owned(), row[2].to_owned())));
        assert_eq!(described, documented.collect());
    }

    /// The rows of the table of metrics.
    fn families() -> impl Iterator<Item = &'static Row> {
        Families::ROWS.iter().copied().flatten()
    }

    /// The type that a scrape tells; none of a family without series.
    fn kind<'a>(scrape: &'a str, row: &Row) -> Option<&'a str> {
        let head = format!("# TYPE linksfield_gateway_{} ", row.name);
        scrape.lines().find_map(|line| line.strip_prefix(&head))
    }

    #[test]
    fn a_counter_is_there_before_it_counts_unless_the_document_says_otherwise() {
        const FROM_FIRST_USE: [&str; 2] = ["requests_total", "upstream_requests_total"];
        let text = scrape(&metrics(1, 1, 2, 1));
        for row in families().filter(|row| row.name.ends_with("_total")) {
            let is_there = kind(&text, row).is_some();
            let expected = !FROM_FIRST_USE.contains(&row.name);
            assert_eq!(is_there, expected, "{}", row.name);
        }
    }

    fn named(prefix: &str, number: usize) -> impl Iterator<Item = String> {
        (0..number).map(move |index| format!("{prefix}{index}"))
    }

    fn labels(queries: usize, commands: usize, tenants: usize, callers: usize) -> Labels {
        let other = || ["other".to_owned()];
        Labels {
            routes: named("/q", queries)
                .chain(named("/c", commands))
                .chain(other())
                .collect(),
            kinds: std::iter::repeat_n(RouteKind::Query, queries)
                .chain(std::iter::repeat_n(RouteKind::Command, commands + 1))
                .collect(),
            tenants: named("t", tenants).chain(other()).collect(),
            callers: named("s", callers).chain(other()).collect(),
        }
    }

    fn metrics(queries: usize, commands: usize, tenants: usize, callers: usize) -> Metrics {
        let metrics = Metrics::new(labels(queries, commands, tenants, callers));
        take_effect(&metrics);
        metrics.configuration_in_effect("0");
        for tenant in named("t", tenants) {
            metrics.secret_read(&tenant, true, 1.0);
        }
        metrics
    }

    fn take_effect(metrics: &Metrics) {
        metrics.take_effect(&Constants {
            cache_capacity: 1,
            commands: true,
            is_paused: false,
            error_codes: CODES,
        });
    }

    fn snapshot() -> Snapshot {
        let protocols = || ["http/1.1", "h2"].map(|name| (name, 0)).into();
        let windows = ["second", "connections", "day"].map(|name| (name, 1.0));
        Snapshot {
            upstream: UpstreamLevels {
                connections: protocols(),
                requests_in_flight: protocols(),
                ..UpstreamLevels::default()
            },
            quota: QuotaLevels {
                queue_length: Class::ALL.map(|class| (class.as_str(), 0)).into(),
                limit: windows.into(),
                remaining: windows.into_iter().chain([("day_queries", 1.0)]).collect(),
                resets_at: vec![("day", 1.0)],
                ..QuotaLevels::default()
            },
            ..Snapshot::default()
        }
    }

    fn scrape(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render(&snapshot())).unwrap()
    }

    /// How many there are.
    fn series(metrics: &Metrics) -> usize {
        let is_ours = |line: &&str| line.starts_with("linksfield_gateway_");
        scrape(metrics).lines().filter(is_ours).count()
    }

    #[test]
    fn what_a_reload_has_taken_away_ends() {
        let before = metrics(2, 1, 3, 2);
        before.upstream_call(
            RouteLabel(0),
            TenantLabel(2),
            Ending::Answered(Outcome::Success),
            CallReason::Caller,
            std::time::Duration::ZERO,
        );
        let mut exchange = before.exchange(before.request_id());
        exchange.labels.route = RouteLabel(1);
        exchange.labels.tenant = TenantLabel(1);
        exchange.labels.caller = CallerLabel(1);
        drop(exchange);
        let after = before.relabelled(labels(1, 1, 1, 0));
        take_effect(&after);
        let text = scrape(&after);
        for gone in ["\"/q1\"", "\"t1\"", "\"t2\"", "\"s1\""] {
            assert!(!text.contains(gone), "{gone}");
        }
        assert!(text.contains("\"/q0\"") && text.contains("\"t0\""));
    }

    #[test]
    fn the_number_of_series_follows_the_formula_of_the_document() {
        let per = |what: &str| -> usize {
            let row = rows().find(|row| row[0] == what).unwrap();
            row[1].parse().unwrap()
        };
        for (queries, commands, tenants, callers) in [(0, 0, 2, 0), (3, 4, 2, 1), (5, 7, 100, 20)] {
            let expected = per("process")
                + per("query") * queries
                + per("command") * commands
                + per("tenant") * tenants
                + per("command × tenant") * (commands + 1) * tenants;
            let metrics = metrics(queries, commands, tenants, callers);
            assert_eq!(series(&metrics), expected, "{queries} {commands} {tenants}");
        }
        let one_tenant = series(&metrics(3, 4, 1, 0)) - series(&metrics(3, 4, 1, 1));
        assert_eq!(one_tenant, 6 * 3 + 2 * 4 + 2);
    }
}
