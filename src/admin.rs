//! What do operators see? Metrics, probes and the effective configuration, on a listener and a runtime of their own.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::gateway::Gateway;
use crate::server::{Drain, Service};
use crate::telemetry::Metrics;

/// Answers the admin listener.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Parts>);

/// What the admin listener shows.
#[derive(Debug)]
pub struct Parts {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Where some of their values are read.
    pub gateway: Gateway,
    /// Is the process ending?
    pub drain: Drain,
    /// The effective configuration; it names where secrets are and holds none.
    pub configuration: String,
}

impl Admin {
    /// Shows `parts`.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    fn show(&self, path: &str) -> Response<Body> {
        match path {
            "/metrics" => text(
                "text/plain; version=0.0.4; charset=utf-8",
                self.0.metrics.render(self.0.gateway.snapshot()),
            ),
            "/livez" => text("text/plain; charset=utf-8", "alive\n"),
            "/readyz" => self.readiness(),
            "/config" => text(
                "application/toml; charset=utf-8",
                self.0.configuration.clone(),
            ),
            _ => {
                let mut response = text(
                    "text/plain; charset=utf-8",
                    "Here are: /metrics /livez /readyz /config\n",
                );
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    /// Never depends on Linksfield: a vendor that is down would take every pod out.
    fn readiness(&self) -> Response<Body> {
        let draining = self.0.drain.is_announced();
        // The listeners were bound and the secrets read before anybody could ask.
        let conditions = json!({
            "ready": !draining,
            "conditions": { "listeners_bound": true, "every_tenant_has_a_secret": true, "not_draining": !draining },
        });
        let mut response = text("application/json", format!("{conditions}\n"));
        if draining {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

impl Service for Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match *request.method() {
            Method::GET | Method::HEAD => self.show(request.uri().path()), // of a HEAD hyper sends no body
            _ => {
                let mut response = text("text/plain; charset=utf-8", "GET only\n");
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
        }
    }

    fn refuse_connection(&self) -> Response<Body> {
        let mut response = text("text/plain; charset=utf-8", "too many connections\n");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }
}

fn text(content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
