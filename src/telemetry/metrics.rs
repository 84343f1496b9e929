//! The metrics of the process under the labels of one configuration, and what they show at a scrape.

use std::sync::OnceLock;

use prometheus::{Encoder, Histogram, IntCounter, IntGauge, IntGaugeVec, TextEncoder};

use super::families::Families;
use super::labels::Labels;
use super::result::RequestResult;
use super::snapshot::Snapshot;
use super::{log, memory};
use crate::id::RequestId;

/// All metrics of the process, by the labels of one configuration.
#[derive(Debug)]
pub struct Metrics {
    pub(super) families: Families,
    pub(super) labels: Labels,
    /// Handles of `requests`, by caller and tenant. Most pairs are never used.
    pub(super) request_handles: Box<[OnceLock<Handles>]>,
    /// Handles of `request_duration`, by route and result; a series exists from its first use on.
    pub(super) request_duration_handles: Box<[OnceLock<Histogram>]>,
    /// Handles of `served_age`, by route.
    pub(super) served_age: Box<[OnceLock<Histogram>]>,
    /// Handles of `tenant_requests`, by tenant and result.
    pub(super) tenant_handles: Box<[OnceLock<IntCounter>]>,
}

/// The handles of one caller and tenant, by route and result.
pub(super) type Handles = Box<[OnceLock<IntCounter>]>;

impl Metrics {
    /// Registers every family.
    pub fn new(labels: Labels) -> Self {
        Self::of(Families::register(), labels)
    }

    /// The same families under the labels of another configuration.
    #[must_use]
    pub fn relabelled(&self, labels: Labels) -> Self {
        Self::of(self.families.clone(), labels)
    }

    fn of(families: Families, labels: Labels) -> Self {
        let pairs = labels.callers.len() * labels.tenants.len();
        let (routes, tenants) = (labels.routes.len(), labels.tenants.len());
        Self {
            request_handles: (0..pairs).map(|_| OnceLock::new()).collect(),
            request_duration_handles: (0..routes * RequestResult::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            served_age: (0..routes).map(|_| OnceLock::new()).collect(),
            tenant_handles: (0..tenants * RequestResult::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            labels,
            families,
        }
    }

    /// Requests that are being answered.
    pub fn requests_in_flight(&self) -> &IntGauge {
        &self.families.requests_in_flight
    }

    /// Connections downstream.
    pub fn connections(&self) -> &IntGauge {
        &self.families.connections
    }

    /// Callers may have so many connections at a time.
    pub fn may_have(&self, connections: usize) {
        let connections = i64::try_from(connections).unwrap_or(i64::MAX);
        self.families.connections_limit.set(connections);
    }

    /// A fresh request id.
    pub fn request_id(&self) -> RequestId {
        self.families.request_ids.next().into()
    }

    /// The text exposition, with `snapshot` as the values of now.
    pub fn render(&self, snapshot: &Snapshot) -> Vec<u8> {
        let value = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.families
            .cache_entries
            .set(value(snapshot.cache_entries));
        self.families.cache_bytes.set(value(snapshot.cache_bytes));
        self.families.cache_evictions.inc_by(
            snapshot
                .cache_evictions
                .saturating_sub(self.families.cache_evictions.get()),
        );
        self.families
            .fills_in_flight
            .set(value(snapshot.fills_in_flight as u64));
        for (class, number) in snapshot.queue {
            let gauge = self.families.queue_length.with_label_values(&[class]);
            gauge.set(value(number as u64));
        }
        self.families.set_quota(&snapshot.quota);
        let keys = snapshot.keys;
        for (state, number) in [
            ("running", keys.running),
            ("kept", keys.kept),
            ("in_doubt", keys.in_doubt),
        ] {
            let gauge = self.families.idempotency_keys.with_label_values(&[state]);
            gauge.set(value(number as u64));
        }
        self.families
            .state_store_failing
            .set(snapshot.state_store_failing.into());
        if let Some(limit) = memory::limit() {
            self.families.memory_limit.set(value(limit));
        }
        let log_lines_dropped = &self.families.log_lines_dropped;
        log_lines_dropped.inc_by(log::dropped_lines().saturating_sub(log_lines_dropped.get()));
        self.families
            .slots_held
            .set(value(snapshot.slots_held as u64));
        let is_open = snapshot.breaker_open || !snapshot.episodes.is_empty();
        self.families.breaker_open.set(is_open.into());
        for (protocol, connections, calls) in &snapshot.protocols {
            let gauge = |family: &IntGaugeVec| family.with_label_values(&[protocol]);
            gauge(&self.families.upstream_connections).set(value(*connections as u64));
            gauge(&self.families.upstream_in_flight).set(value(*calls as u64));
        }
        if let Some(at) = snapshot.certificate_expires_at {
            self.families.certificate_expiry.set(at);
        }
        if let Some(seconds) = snapshot.clock_skew {
            self.families.clock_skew.set(seconds);
        }
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.families.registry.gather(), &mut text)
            .expect("a Vec takes every write");
        text
    }
}
