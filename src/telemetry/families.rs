//! Which metrics are there? Each has a row here; docs/metrics.md has another, for people.
//!
//! The comment of a row is the help text that a scrape shows. A row with `from` is read at a
//! scrape: `Gateway::snapshot` fills its field of [`CacheLevels`] and the like. The others are set
//! or counted when something happens. A series that an alert waits for must begin in `series.rs`,
//! or Prometheus does not see its first step.

use prometheus::{
    Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::family::{Family, Row, families};
use super::labels::Labels;
use super::level::{Counts, Keys, Level, Windows};

/// From a hit (50 µs) to a slow vendor (30 s).
const DURATIONS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const AGES: &[f64] = &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

families! {
    /// Requests of callers, and how they were answered.
    requests: RequestFamilies = {
        /// Requests by how they were answered.
        total: IntCounterVec, "requests_total" by [route, tenant, caller, result];

        /// From the head of a request to its answer.
        duration: HistogramVec, "request_duration_seconds" by [route, result] in DURATIONS;

        /// Requests by tenant and how they were answered, each from 0 on.
        by_tenant: IntCounterVec, "tenant_requests_total" by [tenant, result];

        /// Requests that did not get what they asked for, by whose fault it was.
        failed: IntCounterVec, "failed_requests_total" by [fault];

        /// Failures that the gateway answered itself.
        errors: IntCounterVec, "errors_total" by [code, sent];

        /// Requests of paths that are not configured, forwarded or refused.
        unlisted_paths: IntCounter, "unlisted_paths_total";

        /// Age of the pages served from memory.
        served_age: HistogramVec, "served_age_seconds" by [route] in AGES;

        /// Requests that are being answered.
        in_flight: IntGauge, "requests_in_flight";
    }

    /// Connections of callers.
    connections: ConnectionFamilies = {
        /// Connections of callers.
        open: IntGauge, "connections";

        /// Connections that callers may have at a time: server.max_connections, or what the limit
        /// of open files leaves.
        limit: IntGauge, "connections_limit";

        /// Connections without a whole request that were closed to make room for others.
        evicted: IntCounterVec, "connections_evicted_total" by [listener];
    }

    /// Calls of Linksfield, and what came of them.
    calls: CallFamilies = {
        /// Calls of Linksfield by what they say about it; a failure is what the breaker counts.
        by_end: IntCounterVec, "upstream_calls_total" by [end];

        /// Calls of Linksfield by what came of them.
        by_outcome: IntCounterVec,
        "upstream_requests_total" by [route, tenant, outcome, reason];

        /// From the permit of a call to its answer, but for what the state disk takes.
        duration: HistogramVec,
        "upstream_request_duration_seconds" by [route, outcome] in DURATIONS;

        /// Queries that needed no call of their own.
        saved: IntCounterVec, "upstream_calls_saved_total" by [reason];

        /// Queries that were asked again because the vendor failed.
        retries: IntCounter, "upstream_retries_total";

        /// Answers of Linksfield that it does not accept the tenant's signature.
        bad_signatures: IntCounterVec, "upstream_bad_signatures_total" by [tenant];

        /// Answers of Linksfield with a code that the configuration does not know.
        unknown_codes: IntCounter, "upstream_unknown_codes_total";

        /// Answers of Linksfield with a content coding that nobody asked for.
        encoded_answers: IntCounter, "upstream_encoded_answers_total";

        /// Times that the vendor had too many calls although by our count there was room.
        foreign_throttles: IntCounter, "upstream_foreign_throttles_total";
    }

    /// The way to Linksfield, and how Linksfield is.
    upstream: UpstreamFamilies, read as UpstreamLevels = {
        /// Calls of Linksfield that are under way; by HTTP/2 each is a stream of a connection.
        requests_in_flight: IntGaugeVec from Counts, "upstream_requests_in_flight" by [protocol];

        /// Connections to Linksfield that are open, by the version of HTTP.
        connections: IntGaugeVec from Counts, "upstream_connections" by [protocol];

        /// Connections that were given up, and that the vendor has not ended; no call goes through
        /// their slots.
        slots_held: IntGauge from usize, "upstream_slots_held";

        /// 1 while the vendor is not asked, or only by calls that try: by all, or by a route and
        /// tenant whose usual answer nothing classifies.
        breaker_open: IntGauge, "upstream_breaker_open";

        /// How far the vendor's clock is ahead of ours: the median of recent answers.
        clock_skew: Gauge from Option<f64>, "upstream_clock_skew_seconds";

        /// When the certificate expires that the vendor has shown last; 0 before the first one.
        certificate_expires_at: IntGauge from Option<i64>,
        "upstream_certificate_expiry_timestamp_seconds";

        /// 1 while Linksfield is not asked, by upstream.paused.
        paused: IntGauge, "upstream_paused";
    }

    /// Commands and their idempotency keys.
    commands: CommandFamilies, read as CommandLevels = {
        /// 0 while the commands of everybody are refused, by server.commands.
        enabled: IntGauge, "commands_enabled";

        /// Commands in doubt, with a key or without: they left, and ended as 5xx, 408, a transient
        /// code, cut, timed out, too large or unreadable, or as the answer that nothing classifies
        /// while that is the usual one.
        unknown_outcome: IntCounterVec, "commands_unknown_outcome_total" by [route, tenant];

        /// Commands whose answer came when its time had passed, over a connection that was held.
        answered_late: IntCounterVec, "commands_answered_late_total" by [route, tenant];

        /// Idempotency keys by what is known of their commands.
        keys: IntGaugeVec from Keys, "idempotency_keys" by [state];

        /// Commands that were answered with what an earlier one under their key had got.
        replays: IntCounter, "idempotency_replays_total";

        /// Idempotency keys that could not be saved before or after their commands.
        keys_not_saved: IntCounter, "idempotency_save_failures_total";

        /// 1 while a write to server.state_dir takes longer than a second, and once one has failed:
        /// then it is not written to again.
        store_failing: IntGauge from bool, "state_store_failing";
    }

    /// Pages in memory, and the fills that bring them.
    cache: CacheFamilies, read as CacheLevels = {
        /// Pages in memory.
        entries: IntGauge from u64, "cache_entries";

        /// Bytes of the pages in memory, keys and overhead included.
        bytes: IntGauge from u64, "cache_bytes";

        /// Bound of the pages in memory.
        capacity: IntGauge, "cache_capacity_bytes";

        /// Pages dropped for want of room.
        evictions: IntCounter from u64, "cache_evictions_total";

        /// Times that pages were made unfindable.
        invalidations: IntCounterVec, "invalidations_total" by [cause];

        /// Fills that run.
        fills_in_flight: IntGauge from usize, "fills_in_flight";
    }

    /// The vendor's limits, and how they are kept.
    quota: QuotaFamilies, read as QuotaLevels = {
        /// Calls that wait for a permit.
        queue_length: IntGaugeVec from Counts, "queue_length" by [class];

        /// This process's share of the vendor's limit.
        limit: GaugeVec from Windows, "quota_limit" by [window];

        /// What is left of the limit; of the day also what queries may use.
        remaining: GaugeVec from Windows, "quota_remaining" by [window];

        /// When more of the window comes.
        resets_at: GaugeVec from Windows, "quota_reset_timestamp_seconds" by [window];

        /// 1 while calls of before the start may count for the day, and are not known, or may be
        /// over.
        assumed: IntGauge from bool, "quota_assumed";

        /// Calls a second that are allowed now: the limit, less what the vendor's throttling has
        /// taken.
        allowed_rate: Gauge from f64, "quota_allowed_rate";

        /// 0 nothing is spared, 1 no background refresh, 2 longer stale serving, 3 no forced
        /// refresh, 4 no query.
        thrift: IntGauge from u8, "thrift_level";
    }

    /// The configuration and its secrets.
    configuration: ConfigurationFamilies = {
        /// Times that the other of a tenant's secrets became the active one.
        secret_switches: IntCounterVec, "secret_switches_total" by [tenant, secret];

        /// 1 if the tenant's secrets could be used when they were last read; at 0 the last good
        /// ones are.
        secret_usable: IntGaugeVec, "secret_last_reload_successful" by [tenant];

        /// When the tenant's secrets were last read and could be used.
        secret_usable_at: GaugeVec, "secret_last_reload_success_timestamp_seconds" by [tenant];

        /// Secrets, tokens and files of certificates that could not be used when they were last
        /// read; the last good ones are. 0 while the configuration's file cannot be used.
        secrets_refused: IntGauge, "secrets_refused";

        /// 1 if the configuration's file could be used when it was last read; at 0 a restart would
        /// fail.
        file_usable: IntGauge, "config_last_reload_successful";

        /// When the configuration's file was last read and could be used.
        file_usable_at: Gauge, "config_last_reload_success_timestamp_seconds";

        /// 1 for the configuration in effect.
        info: IntGaugeVec, "config_info" by [hash];
    }

    /// The process itself.
    process: ProcessFamilies, read as ProcessLevels = {
        /// Always 1.
        build_info: IntGaugeVec, "build_info" by [version, revision];

        /// The least of what its control groups and the machine let the process have.
        memory_limit: IntGauge from Option<u64>, "memory_limit_bytes";

        /// Lines of the log that were not written: whoever reads them was too slow, or the disk is
        /// full.
        log_lines_dropped: IntCounter from u64, "log_lines_dropped_total";
    }
}
