//! The metrics of the process under the labels of one configuration, and what they show at a
//! scrape.

use std::sync::{Arc, OnceLock};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Histogram, IntCounter, IntGauge, TextEncoder};

use super::families::{Families, ProcessLevels};
use super::labels::Labels;
use super::recent::Recent;
use super::snapshot::Snapshot;
use super::{log, memory};
use crate::id::{Ids, RequestId};
use crate::words::RequestResult;

/// The revision the binary was built from; `build.rs` asks for it.
pub const REVISION: &str = env!("LINKSFIELD_GATEWAY_REVISION");

/// All metrics of the process, by the labels of one configuration.
#[derive(Debug)]
pub struct Metrics {
    pub(super) families: Families,
    pub(super) labels: Labels,
    pub(super) recent: Arc<Recent>,
    request_ids: Arc<Ids>,
    /// Handles of `requests_total`, by caller and tenant. Most pairs are never used.
    pub(super) request_handles: Box<[OnceLock<Handles>]>,
    /// Handles of `request_duration_seconds`, by route and result; a series exists from its first
    /// use on.
    pub(super) request_duration_handles: Box<[OnceLock<Histogram>]>,
    /// Handles of `served_age_seconds`, by route.
    pub(super) served_age: Box<[OnceLock<Histogram>]>,
    /// Handles of `tenant_requests_total`, by tenant and result.
    pub(super) tenant_handles: Box<[OnceLock<IntCounter>]>,
    pub(super) saved: Saved,
}

/// The handles of one caller and tenant, by route and result.
pub(super) type Handles = Box<[OnceLock<IntCounter>]>;

/// Handles of `upstream_calls_saved_total`.
#[derive(Debug)]
pub(super) struct Saved {
    pub hit: IntCounter,
    pub stale: IntCounter,
    pub coalesced: IntCounter,
}

impl Metrics {
    /// Registers every family.
    pub fn new(labels: Labels) -> Self {
        let families = Families::register();
        let build = [env!("CARGO_PKG_VERSION"), REVISION];
        let build_info = &families.process.build_info;
        build_info.with_label_values(&build).set(1);
        families
            .registry
            .register(Box::new(ProcessCollector::for_self()))
            .expect("registered once");
        Self::of(families, labels, Arc::default(), Arc::default())
    }

    /// The same families under the labels of another configuration.
    #[must_use]
    pub fn relabelled(&self, labels: Labels) -> Self {
        let (recent, request_ids) = (self.recent.clone(), self.request_ids.clone());
        Self::of(self.families.clone(), labels, recent, request_ids)
    }

    fn of(families: Families, labels: Labels, recent: Arc<Recent>, request_ids: Arc<Ids>) -> Self {
        let pairs = labels.callers.len() * labels.tenants.len();
        let (routes, tenants) = (labels.routes.len(), labels.tenants.len());
        let saved = |result: RequestResult| {
            let family = &families.calls.saved;
            family.with_label_values(&[result.as_str()])
        };
        Self {
            request_handles: (0..pairs).map(|_| OnceLock::new()).collect(),
            request_duration_handles: (0..routes * RequestResult::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            served_age: (0..routes).map(|_| OnceLock::new()).collect(),
            tenant_handles: (0..tenants * RequestResult::ALL.len())
                .map(|_| OnceLock::new())
                .collect(),
            saved: Saved {
                hit: saved(RequestResult::Hit),
                stale: saved(RequestResult::Stale),
                coalesced: saved(RequestResult::Coalesced),
            },
            recent,
            request_ids,
            labels,
            families,
        }
    }

    /// Requests that are being answered.
    pub fn requests_in_flight(&self) -> &IntGauge {
        &self.families.requests.in_flight
    }

    /// Connections downstream.
    pub fn connections(&self) -> &IntGauge {
        &self.families.connections.open
    }

    /// Callers may have so many connections at a time.
    pub fn may_have(&self, connections: usize) {
        let connections = i64::try_from(connections).unwrap_or(i64::MAX);
        self.families.connections.limit.set(connections);
    }

    /// A fresh request id.
    pub fn request_id(&self) -> RequestId {
        self.request_ids.next().into()
    }

    /// The text exposition, with `snapshot` as the values of now.
    pub fn render(&self, snapshot: &Snapshot) -> Vec<u8> {
        let families = &self.families;
        families.upstream.show(&snapshot.upstream);
        families.commands.show(&snapshot.commands);
        families.cache.show(&snapshot.cache);
        families.quota.show(&snapshot.quota);
        families.process.show(&ProcessLevels {
            memory_limit: memory::limit(),
            log_lines_dropped: log::dropped_lines(),
        });
        // An alert asks whether anything is not asked; only the admin page tells the two apart.
        let is_open = snapshot.breaker_open || !snapshot.episodes.is_empty();
        families.upstream.breaker_open.set(is_open.into());
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families.registry.gather(), &mut text)
            .expect("a Vec takes every write");
        text
    }
}
