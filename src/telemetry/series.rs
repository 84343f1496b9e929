//! Which series are there before anything has happened, and which end? Prometheus sees a counter's first step only if it has
//! seen it at 0 before. So every series that an alert waits for, and those of each route and result and of each tenant and
//! result, are there from the start on; of the product of routes, tenants and callers only what has been used.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::MetricFamily;

use super::labels::{Labels, RouteKind};
use super::metrics::Metrics;
use super::result::RequestResult;
use super::snapshot::Constants;

const SENT: [&str; 3] = ["no", "yes", "unknown"];
const CAUSES: [&str; 2] = ["command", "purge"];
const FAULTS: [&str; 3] = ["caller", "gateway", "upstream"];
const LISTENERS: [&str; 2] = ["data", "admin"];
const ENDS: [&str; 4] = ["success", "refused", "failure", "neither"];
const SECRETS: [&str; 2] = ["current", "previous"];

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
    /// The configuration of these labels is in effect: their series begin, those of names that it does not have end.
    pub fn take_effect(&self, constants: &Constants) {
        self.families.set(constants);
        self.end_what_is_gone();
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
            for sent in SENT {
                families.errors.with_label_values(&[code, sent]);
            }
        }
        for fault in FAULTS {
            families.failed_requests.with_label_values(&[fault]);
        }
        for end in ENDS {
            families.upstream_calls.with_label_values(&[end]);
        }
        for listener in LISTENERS {
            families.connections_evicted.with_label_values(&[listener]);
        }
        for cause in CAUSES {
            families.invalidations.with_label_values(&[cause]);
        }
        for tenant in &self.labels.tenants {
            for result in RequestResult::ALL {
                let series = [tenant.as_str(), result.as_str()];
                families.tenant_requests.with_label_values(&series);
            }
        }
    }

    fn begin_route(&self, route: &str, kind: RouteKind) {
        let (families, labels) = (&self.families, &self.labels);
        for result in kind.results() {
            let series = [route, result.as_str()];
            families.request_duration.with_label_values(&series);
            // Where there is one tenant and nobody has a token, the product is no product.
            if let ([tenant, _], [caller]) = (&*labels.tenants, &*labels.callers) {
                let series = [route, tenant, caller, result.as_str()];
                families.requests.with_label_values(&series);
            }
        }
        match kind {
            RouteKind::Query => {
                families.served_age.with_label_values(&[route]);
            }
            RouteKind::Command => {
                let (_, tenants) = labels.tenants.split_last().expect("the last is other");
                for tenant in tenants {
                    let series = [route, tenant.as_str()];
                    let unknown = &families.commands_unknown_outcome;
                    unknown.with_label_values(&series);
                    let late = &families.commands_answered_late;
                    late.with_label_values(&series);
                }
            }
            RouteKind::Refuse => {}
        }
    }

    fn begin_tenant(&self, tenant: &str) {
        self.families.bad_signatures.with_label_values(&[tenant]);
        for secret in SECRETS {
            let family = &self.families.secret_switches;
            family.with_label_values(&[tenant, secret]);
        }
    }

    fn end_what_is_gone(&self) {
        let (families, labels) = (&self.families, &self.labels);
        labels.end_others(&families.requests);
        labels.end_others(&families.request_duration);
        labels.end_others(&families.served_age);
        labels.end_others(&families.tenant_requests);
        labels.end_others(&families.upstream_requests);
        labels.end_others(&families.upstream_duration);
        labels.end_others(&families.commands_unknown_outcome);
        labels.end_others(&families.commands_answered_late);
        labels.end_others(&families.bad_signatures);
        labels.end_others(&families.secret_switches);
        labels.end_others(&families.secret_reload_successful);
        labels.end_others(&families.secret_reload_success_timestamp);
    }
}

impl Labels {
    fn end_others<B: MetricVecBuilder>(&self, family: &MetricVec<B>) {
        for series in family.collect().iter().flat_map(MetricFamily::get_metric) {
            let labels = series.get_label().iter();
            let labels: HashMap<_, _> = labels.map(|it| (it.name(), it.value())).collect();
            if !labels.iter().all(|(name, value)| self.has(name, value)) {
                let _ = family.remove(&labels); // it may be gone already
            }
        }
    }

    fn has(&self, label: &str, value: &str) -> bool {
        let names = match label {
            "route" => &self.routes,
            "tenant" => &self.tenants,
            "caller" => &self.callers,
            _ => return true,
        };
        names.iter().any(|name| name == value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::families::{Families, REGISTERED};
    use super::super::snapshot::{Keys, QuotaLevels, Snapshot};
    use super::*;

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
        REGISTERED.take();
        Families::register();
        let registered = REGISTERED.take().into_iter();
        let described: BTreeMap<_, _> = registered
            .map(|(name, kind, labels)| {
                let labels = if labels.is_empty() {
                    "–".to_owned()
                } else {
                    labels.join(", ")
                };
                let name = name.strip_prefix("linksfield_gateway_").unwrap();
                (format!("`{name}`"), (kind, labels))
            })
            .collect();
        let documented = rows().filter(|row| row[0].starts_with('`'));
        let documented =
            documented.map(|row| (row[0].to_owned(), (row[1].to_owned(), row[2].to_owned())));
        assert_eq!(described, documented.collect());
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
        Snapshot {
            cache_entries: 0,
            cache_bytes: 0,
            cache_evictions: 0,
            fills_in_flight: 0,
            queue_length: 0,
            queue: ["command", "query", "crawl", "refresh"].map(|class| (class, 0)),
            quota: QuotaLevels {
                windows: ["second", "connections", "day"]
                    .map(|name| (name, 1.0, 1.0))
                    .into(),
                day_for_queries: Some(1.0),
                day_resets_at: Some(1.0),
                is_assumed: false,
                allowed_rate: Some(1.0),
                thrift: 0,
            },
            keys: Keys::default(),
            state_store_failing: false,
            state_store_failed: false,
            slots_held: 0,
            breaker_open: false,
            episodes: Vec::new(),
            clock_skew: None,
            protocols: ["http/1.1", "h2"].map(|name| (name, 0, 0)).into(),
            certificate_expires_at: None,
        }
    }

    /// How many there are.
    fn series(metrics: &Metrics) -> usize {
        let text = String::from_utf8(metrics.render(&snapshot())).unwrap();
        let is_ours = |line: &&str| line.starts_with("linksfield_gateway_");
        text.lines().filter(is_ours).count()
    }

    #[test]
    fn what_a_reload_has_taken_away_ends() {
        let before = metrics(2, 1, 3, 2);
        before.upstream_call(0, 2, "success", "caller", std::time::Duration::ZERO);
        let mut exchange = before.exchange(before.request_id());
        (exchange.route, exchange.tenant, exchange.caller) = (1, 1, 1);
        drop(exchange);
        let after = before.relabelled(labels(1, 1, 1, 0));
        take_effect(&after);
        let text = String::from_utf8(after.render(&snapshot())).unwrap();
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
