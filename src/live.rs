//! What is in effect now?
//!
//! A request is answered under one configuration from its head to its answer; the next one by the
//! latest.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use hyper::Response;
use hyper::http::request;
use sha1::{Digest as _, Sha1};

use crate::access::Access;
use crate::body::{Body, Received};
use crate::clock::wall_clock;
use crate::config::{Config, Problem, dotted};
use crate::gateway::Gateway;
use crate::server::Service;
use crate::telemetry::Metrics;
use crate::words::ListenerName;

/// What is in effect now.
#[derive(Debug)]
pub struct Current {
    /// Answers the callers.
    pub gateway: Gateway,
    /// Counts under the labels of its configuration.
    pub metrics: Arc<Metrics>,
    /// Its configuration; it names where secrets are and holds none.
    pub config: Config,
    /// The same as text.
    pub configuration: String,
    /// Who may change something or see a request.
    pub access: Access,
}

impl Current {
    /// Tells its configuration from others.
    pub fn hash(&self) -> String {
        let hash = Sha1::digest(self.configuration.as_bytes());
        let start = hash.iter().take(6);
        let start = start.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        format!("{start:012x}")
    }

    /// Records that this was read, with the secrets that could not be used.
    pub fn record_read(&self, kept: &[Problem]) {
        let (metrics, at) = (&self.metrics, now());
        // With a secret that cannot be read a start would fail.
        metrics.configuration_read(kept.is_empty(), at);
        metrics.secrets_refused(kept.len());
        metrics.configuration_in_effect(&self.hash());
        for name in self.config.tenants.keys() {
            let key = dotted(&["tenants", name]) + ".";
            let usable = !kept.iter().any(|problem| problem.key.starts_with(&key));
            metrics.secret_read(name, usable, at);
        }
    }
}

/// Always the latest [`Current`]. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Live(Arc<ArcSwap<Current>>);

impl Live {
    /// `current`, until another one comes.
    pub fn new(current: Current) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(current)))
    }

    /// From now on another one is in effect.
    pub fn replace(&self, current: Current) {
        self.0.store(Arc::new(current));
    }

    /// What is in effect now; whoever holds it is not disturbed by what comes.
    pub fn current(&self) -> Arc<Current> {
        self.0.load_full()
    }
}

impl Service for Live {
    async fn answer(&self, head: &request::Parts, body: &mut Received) -> Response<Body> {
        self.current().gateway.handle(head, body).await
    }

    fn max_body(&self) -> usize {
        self.current().gateway.max_body()
    }

    fn is_authenticated(&self, head: &request::Parts) -> bool {
        self.0.load().gateway.is_authenticated(head)
    }

    fn refuse_connection(&self) -> Response<Body> {
        self.current().gateway.refuse_connection()
    }

    fn connection_evicted(&self) {
        self.current()
            .metrics
            .connection_evicted(ListenerName::Data);
    }

    fn connection_refused(&self) {
        self.current().gateway.connection_refused();
    }

    fn head_refused(&self) {
        self.current().gateway.head_refused();
    }
}

/// In seconds since 1970.
pub fn now() -> f64 {
    let now = wall_clock().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
