//! Which metrics are there? Their names, help texts, buckets and labels; registered once, whatever the configuration.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use super::recent::Recent;
use super::snapshot::{Constants, QuotaLevels};
use crate::id::Ids;

/// The revision the binary was built from; `build.rs` asks for it.
pub const REVISION: &str = env!("LINKSFIELD_GATEWAY_REVISION");

/// From a hit (50 µs) to a slow vendor (30 s).
const DURATION_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const AGE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// The families of the process. Cloning is cheap: they are handles.
#[derive(Debug, Clone)]
pub struct Families {
    pub registry: Registry,
    pub requests: IntCounterVec,
    pub tenant_requests: IntCounterVec,
    pub failed_requests: IntCounterVec,
    pub request_duration: HistogramVec,
    pub served_age: HistogramVec,
    pub saved_by_hit: IntCounter,
    pub saved_by_stale: IntCounter,
    pub saved_by_coalescing: IntCounter,
    pub errors: IntCounterVec,
    pub unlisted_paths: IntCounter,
    pub upstream_requests: IntCounterVec,
    pub upstream_calls: IntCounterVec,
    pub bad_signatures: IntCounterVec,
    pub unknown_codes: IntCounter,
    pub encoded_answers: IntCounter,
    pub upstream_duration: HistogramVec,
    pub upstream_connections: IntGaugeVec,
    pub upstream_in_flight: IntGaugeVec,
    pub commands_unknown_outcome: IntCounterVec,
    pub commands_answered_late: IntCounterVec,
    pub invalidations: IntCounterVec,
    pub requests_in_flight: IntGauge,
    pub connections: IntGauge,
    pub connections_limit: IntGauge,
    pub connections_evicted: IntCounterVec,
    pub cache_entries: IntGauge,
    pub cache_bytes: IntGauge,
    cache_capacity: IntGauge,
    commands_enabled: IntGauge,
    upstream_paused: IntGauge,
    pub cache_evictions: IntCounter,
    pub fills_in_flight: IntGauge,
    pub queue_length: IntGaugeVec,
    pub idempotency_keys: IntGaugeVec,
    pub idempotency_replays: IntCounter,
    pub keys_not_saved: IntCounter,
    pub state_store_failing: IntGauge,
    pub memory_limit: IntGauge,
    pub log_lines_dropped: IntCounter,
    quota_limit: GaugeVec,
    quota_remaining: GaugeVec,
    quota_reset: GaugeVec,
    quota_assumed: IntGauge,
    quota_rate: Gauge,
    thrift_level: IntGauge,
    pub foreign_throttles: IntCounter,
    pub retries: IntCounter,
    pub slots_held: IntGauge,
    pub breaker_open: IntGauge,
    pub clock_skew: Gauge,
    pub certificate_expiry: IntGauge,
    pub secret_switches: IntCounterVec,
    pub config_reload_successful: IntGauge,
    pub config_reload_success_timestamp: Gauge,
    pub config_info: IntGaugeVec,
    pub secrets_refused: IntGauge,
    pub secret_reload_successful: IntGaugeVec,
    pub secret_reload_success_timestamp: GaugeVec,
    pub request_ids: Arc<Ids>,
    pub recent: Arc<Recent>,
}

impl Families {
    #[expect(clippy::too_many_lines, reason = "a list: one entry for each family")]
    pub fn register() -> Self {
        let registry = Registry::new();
        let requests = counters(
            &registry,
            "requests_total",
            "Requests by how they were answered.",
            &["route", "tenant", "caller", "result"],
        );
        let request_duration = histograms(
            &registry,
            "request_duration_seconds",
            "From the head of a request to its answer.",
            DURATION_BUCKETS,
            &["route", "result"],
        );
        let served_age = histograms(
            &registry,
            "served_age_seconds",
            "Age of the pages served from memory.",
            AGE_BUCKETS,
            &["route"],
        );
        let saved = counters(
            &registry,
            "upstream_calls_saved_total",
            "Queries that needed no call of their own.",
            &["reason"],
        );
        let quota_limit = GaugeVec::new(
            opts("quota_limit", "This process's share of the vendor's limit."),
            &["window"],
        );
        let quota_limit = registered(&registry, quota_limit);
        let build = IntGaugeVec::new(opts("build_info", "Always 1."), &["version", "revision"]);
        registered(&registry, build)
            .with_label_values(&[env!("CARGO_PKG_VERSION"), REVISION])
            .set(1);
        registry
            .register(Box::new(ProcessCollector::for_self()))
            .expect("registered once");
        Self {
            saved_by_hit: saved.with_label_values(&["hit"]),
            saved_by_stale: saved.with_label_values(&["stale"]),
            saved_by_coalescing: saved.with_label_values(&["coalesced"]),
            tenant_requests: counters(
                &registry,
                "tenant_requests_total",
                "Requests by tenant and how they were answered, each from 0 on.",
                &["tenant", "result"],
            ),
            failed_requests: counters(
                &registry,
                "failed_requests_total",
                "Requests that did not get what they asked for, by whose fault it was.",
                &["fault"],
            ),
            unlisted_paths: counter(
                &registry,
                "unlisted_paths_total",
                "Requests of paths that are not configured, forwarded or refused.",
            ),
            errors: counters(
                &registry,
                "errors_total",
                "Failures that the gateway answered itself.",
                &["code", "sent"],
            ),
            upstream_requests: counters(
                &registry,
                "upstream_requests_total",
                "Calls of Linksfield by what came of them.",
                &["route", "tenant", "outcome", "reason"],
            ),
            upstream_calls: counters(
                &registry,
                "upstream_calls_total",
                "Calls of Linksfield by what they say about it; a failure is what the breaker counts.",
                &["end"],
            ),
            bad_signatures: counters(
                &registry,
                "upstream_bad_signatures_total",
                "Answers of Linksfield that it does not accept the tenant's signature.",
                &["tenant"],
            ),
            unknown_codes: counter(
                &registry,
                "upstream_unknown_codes_total",
                "Answers of Linksfield with a code that the configuration does not know.",
            ),
            encoded_answers: counter(
                &registry,
                "upstream_encoded_answers_total",
                "Answers of Linksfield with a content coding that nobody asked for.",
            ),
            upstream_duration: histograms(
                &registry,
                "upstream_request_duration_seconds",
                "From the permit of a call to its answer, but for what the state disk takes.",
                DURATION_BUCKETS,
                &["route", "outcome"],
            ),
            upstream_connections: gauges(
                &registry,
                "upstream_connections",
                "Connections to Linksfield that are open, by the version of HTTP.",
                &["protocol"],
            ),
            upstream_in_flight: gauges(
                &registry,
                "upstream_requests_in_flight",
                "Calls of Linksfield that are under way; by HTTP/2 each is a stream of a connection.",
                &["protocol"],
            ),
            commands_unknown_outcome: counters(
                &registry,
                "commands_unknown_outcome_total",
                "Commands in doubt, with a key or without: they left, and ended as 5xx, 408, a transient code, cut, timed out, too large or unreadable, or as the answer that nothing classifies while that is the usual one.",
                &["route", "tenant"],
            ),
            commands_answered_late: counters(
                &registry,
                "commands_answered_late_total",
                "Commands whose answer came when its time had passed, over a connection that was held.",
                &["route", "tenant"],
            ),
            invalidations: counters(
                &registry,
                "invalidations_total",
                "Times that pages were made unfindable.",
                &["cause"],
            ),
            requests_in_flight: gauge(
                &registry,
                "requests_in_flight",
                "Requests that are being answered.",
            ),
            connections: gauge(&registry, "connections", "Connections of callers."),
            connections_limit: gauge(
                &registry,
                "connections_limit",
                "Connections that callers may have at a time: server.max_connections, or what the limit of open files leaves.",
            ),
            connections_evicted: counters(
                &registry,
                "connections_evicted_total",
                "Idle connections that were closed to make room for others.",
                &["listener"],
            ),
            cache_entries: gauge(&registry, "cache_entries", "Pages in memory."),
            cache_bytes: gauge(
                &registry,
                "cache_bytes",
                "Bytes of the pages in memory, keys and overhead included.",
            ),
            commands_enabled: gauge(
                &registry,
                "commands_enabled",
                "0 while the commands of everybody are refused, by server.commands.",
            ),
            upstream_paused: gauge(
                &registry,
                "upstream_paused",
                "1 while Linksfield is not asked, by upstream.paused.",
            ),
            cache_capacity: gauge(
                &registry,
                "cache_capacity_bytes",
                "Bound of the pages in memory.",
            ),
            cache_evictions: counter(
                &registry,
                "cache_evictions_total",
                "Pages dropped for want of room.",
            ),
            fills_in_flight: gauge(&registry, "fills_in_flight", "Fills that run."),
            queue_length: gauges(
                &registry,
                "queue_length",
                "Calls that wait for a permit.",
                &["class"],
            ),
            quota_remaining: registered(
                &registry,
                GaugeVec::new(
                    opts(
                        "quota_remaining",
                        "What is left of the limit; of the day also what queries may use.",
                    ),
                    &["window"],
                ),
            ),
            quota_reset: registered(
                &registry,
                GaugeVec::new(
                    opts(
                        "quota_reset_timestamp_seconds",
                        "When more of the window comes.",
                    ),
                    &["window"],
                ),
            ),
            quota_assumed: gauge(
                &registry,
                "quota_assumed",
                "1 while calls of before the start may count for the day, and are not known, or may be over.",
            ),
            quota_rate: registered(
                &registry,
                Gauge::with_opts(opts(
                    "quota_allowed_rate",
                    "Calls a second that are allowed now: the limit, less what the vendor's throttling has taken.",
                )),
            ),
            thrift_level: gauge(
                &registry,
                "thrift_level",
                "0 nothing is spared, 1 no background refresh, 2 longer stale serving, 3 no forced refresh, 4 no query.",
            ),
            foreign_throttles: counter(
                &registry,
                "upstream_foreign_throttles_total",
                "Times that the vendor had too many calls although by our count there was room.",
            ),
            idempotency_keys: gauges(
                &registry,
                "idempotency_keys",
                "Idempotency keys by what is known of their commands.",
                &["state"],
            ),
            idempotency_replays: counter(
                &registry,
                "idempotency_replays_total",
                "Commands that were answered with what an earlier one under their key had got.",
            ),
            keys_not_saved: counter(
                &registry,
                "idempotency_save_failures_total",
                "Idempotency keys that could not be saved before or after their commands.",
            ),
            state_store_failing: gauge(
                &registry,
                "state_store_failing",
                "1 while a write to server.state_dir takes longer than a second, and once one has failed: then it is not written to again.",
            ),
            memory_limit: gauge(
                &registry,
                "memory_limit_bytes",
                "The least of what its control groups and the machine let the process have.",
            ),
            log_lines_dropped: counter(
                &registry,
                "log_lines_dropped_total",
                "Lines of the log that were not written: whoever reads them was too slow, or the disk is full.",
            ),
            retries: counter(
                &registry,
                "upstream_retries_total",
                "Queries that were asked again because the vendor failed.",
            ),
            slots_held: gauge(
                &registry,
                "upstream_slots_held",
                "Connections that were given up, and that the vendor has not ended; no call goes through their slots.",
            ),
            breaker_open: gauge(
                &registry,
                "upstream_breaker_open",
                "1 while the vendor is not asked, or only by calls that try: by all, or by a route and tenant whose usual answer nothing classifies.",
            ),
            clock_skew: registered(
                &registry,
                Gauge::with_opts(opts(
                    "upstream_clock_skew_seconds",
                    "How far the vendor's clock is ahead of ours: the median of recent answers.",
                )),
            ),
            certificate_expiry: gauge(
                &registry,
                "upstream_certificate_expiry_timestamp_seconds",
                "When the certificate expires that the vendor has shown last; 0 before the first one.",
            ),
            secret_switches: counters(
                &registry,
                "secret_switches_total",
                "Times that the other of a tenant's secrets became the active one.",
                &["tenant", "secret"],
            ),
            config_reload_successful: gauge(
                &registry,
                "config_last_reload_successful",
                "1 if the configuration's file could be used when it was last read; at 0 a restart would fail.",
            ),
            config_reload_success_timestamp: registered(
                &registry,
                Gauge::with_opts(opts(
                    "config_last_reload_success_timestamp_seconds",
                    "When the configuration's file was last read and could be used.",
                )),
            ),
            config_info: gauges(
                &registry,
                "config_info",
                "1 for the configuration in effect.",
                &["hash"],
            ),
            secrets_refused: gauge(
                &registry,
                "secrets_refused",
                "Secrets, tokens and files of certificates that could not be used when they were last read; the last good ones are. 0 while the configuration's file cannot be used.",
            ),
            secret_reload_successful: gauges(
                &registry,
                "secret_last_reload_successful",
                "1 if the tenant's secrets could be used when they were last read; at 0 the last good ones are.",
                &["tenant"],
            ),
            secret_reload_success_timestamp: registered(
                &registry,
                GaugeVec::new(
                    opts(
                        "secret_last_reload_success_timestamp_seconds",
                        "When the tenant's secrets were last read and could be used.",
                    ),
                    &["tenant"],
                ),
            ),
            request_ids: Arc::default(),
            recent: Arc::default(),
            request_duration,
            served_age,
            requests,
            quota_limit,
            registry,
        }
    }

    /// Sets what a configuration says.
    pub fn set(&self, constants: &Constants) {
        let capacity = i64::try_from(constants.cache_capacity);
        self.cache_capacity.set(capacity.unwrap_or(i64::MAX));
        self.commands_enabled.set(constants.commands.into());
        self.upstream_paused.set(constants.is_paused.into());
    }

    /// Sets what is left of the vendor's limits; a window without a limit has no series.
    pub fn set_quota(&self, levels: &QuotaLevels) {
        for family in [&self.quota_limit, &self.quota_remaining, &self.quota_reset] {
            family.reset();
        }
        for (window, limit, remaining) in &levels.windows {
            self.quota_limit.with_label_values(&[window]).set(*limit);
            self.quota_remaining
                .with_label_values(&[window])
                .set(*remaining);
        }
        if let Some(remaining) = levels.day_for_queries {
            let gauge = self.quota_remaining.with_label_values(&["day_queries"]);
            gauge.set(remaining);
        }
        if let Some(at) = levels.day_resets_at {
            self.quota_reset.with_label_values(&["day"]).set(at);
        }
        self.quota_assumed.set(levels.is_assumed.into());
        self.quota_rate
            .set(levels.allowed_rate.unwrap_or(f64::INFINITY));
        self.thrift_level.set(levels.thrift.into());
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("linksfield_gateway_{name}"), help)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(opts(name, help), labels))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::with_opts(opts(name, help)))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::with_opts(opts(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels))
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("names and labels are constants of this file");
    registry
        .register(Box::new(collector.clone()))
        .expect("every name is registered once");
    #[cfg(test)]
    REGISTERED.with_borrow_mut(|registered| registered.push(described(&collector)));
    collector
}

#[cfg(test)]
thread_local! {
    /// Name, type and labels of each family: a registry does not tell of those without series.
    pub static REGISTERED: std::cell::RefCell<Vec<(String, String, Vec<String>)>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
fn described(collector: &impl Collector) -> (String, String, Vec<String>) {
    let desc = collector.desc()[0];
    let kind = collector.collect()[0].get_field_type();
    (
        desc.fq_name.clone(),
        format!("{kind:?}").to_lowercase(),
        desc.variable_labels.clone(),
    )
}
