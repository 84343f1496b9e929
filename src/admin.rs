//! What do operators see and do? Metrics, probes, the effective configuration and the cache, on a listener and a runtime
//! of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::body::{Body, read_whole};
use crate::gateway::error::Error;
use crate::gateway::tenant::bears;
use crate::gateway::{Purge, head};
use crate::reload::{Live, Reloader};
use crate::server::{Drain, Service};

/// Bytes of a body: a request to be explained is one that the other listener would take.
const MAX_BODY: usize = 1024 * 1024;

/// How long a body may make no progress.
const BODY_PATIENCE: Duration = Duration::from_secs(2);

/// What is explained if no path is named.
const EXPLAINED_PATH: &str = "/package/queryOrder";

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers the admin listener.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Parts>);

/// What the admin listener shows.
#[derive(Debug)]
pub struct Parts {
    /// What is in effect.
    pub live: Live,
    /// Reads the configuration again; none where it came from no file.
    pub reloader: Option<Reloader>,
    /// Is the process ending?
    pub drain: Drain,
}

/// Who may change something or see a request.
#[derive(Debug)]
pub enum Access {
    /// Whoever bears this token.
    Token(SecretString),
    /// Whoever is on this machine: the listener is on loopback.
    Local,
    /// Nobody.
    Nobody,
}

impl Access {
    /// A configured token decides; without one, the listener's address.
    pub fn new(token: Option<SecretString>, listen: SocketAddr) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if listen.ip().is_loopback() => Self::Local,
            None => Self::Nobody,
        }
    }

    /// What to answer to whoever may not.
    fn refusal(&self, authorization: Option<&HeaderValue>) -> Option<Response<Body>> {
        match self {
            Self::Local => None,
            Self::Token(token) if bears(authorization, token) => None,
            Self::Token(_) => {
                let message =
                    "send the token of server.admin_token_file as Authorization: Bearer\n";
                let mut response = refusal(StatusCode::UNAUTHORIZED, message);
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
                Some(response)
            }
            Self::Nobody => Some(refusal(
                StatusCode::FORBIDDEN,
                "this needs a token where the admin listener is beyond loopback: set server.admin_token_file\n",
            )),
        }
    }
}

impl Admin {
    /// Shows `parts`.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Response<Body>> {
        let this = self.0.live.current();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD); // of a HEAD hyper sends no body
        let is_post = request.method() == Method::POST;
        match request.uri().path() {
            "/metrics" if is_read => Ok(answer(
                "text/plain; version=0.0.4; charset=utf-8",
                this.metrics.render(&this.gateway.snapshot()),
            )),
            "/livez" if is_read => Ok(answer(PLAIN, "alive\n")),
            "/readyz" if is_read => Ok(self.readiness()),
            "/config" if is_read => Ok(answer(
                "application/toml; charset=utf-8",
                this.configuration.clone(),
            )),
            "/cache" if is_read => Ok(document(&this.gateway.show_cache())),
            "/cache/purge" if is_post => self.purge(request).await,
            "/explain" if is_post => self.explain(request).await,
            "/reload" if is_post => self.reload(request).await,
            "/metrics" | "/livez" | "/readyz" | "/config" | "/cache" => {
                Err(not_allowed("GET, HEAD"))
            }
            "/cache/purge" | "/explain" | "/reload" => Err(not_allowed("POST")),
            _ => Err(refusal(
                StatusCode::NOT_FOUND,
                "Here are: GET /metrics /livez /readyz /config /cache, POST /cache/purge /explain /reload\n",
            )),
        }
    }

    /// Never depends on Linksfield: a vendor that is down would take every pod out.
    fn readiness(&self) -> Response<Body> {
        let draining = self.0.drain.is_announced();
        // The listeners were bound and the secrets read before anybody could ask.
        let mut response = document(&json!({
            "ready": !draining,
            "conditions": { "listeners_bound": true, "every_tenant_has_a_secret": true, "not_draining": !draining },
        }));
        if draining {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }

    async fn purge(&self, request: Request<Incoming>) -> Result<Response<Body>, Response<Body>> {
        let (_, body) = self.read(request).await?;
        let body = if body.is_empty() { b"{}" } else { &body[..] };
        let purged = serde_json::from_slice::<Purge>(body)
            .map_err(|error| error.to_string())
            .and_then(|purge| self.0.live.current().gateway.purge(&purge))
            .map_err(|reason| refusal(StatusCode::BAD_REQUEST, format!("{reason}\n")))?;
        Ok(document(&json!({ "purged": purged })))
    }

    async fn explain(&self, request: Request<Incoming>) -> Result<Response<Body>, Response<Body>> {
        let query = request.uri().query().map(str::to_owned);
        let path = match &query {
            None => EXPLAINED_PATH,
            Some(query) => query.strip_prefix("path=").ok_or_else(|| {
                let example = format!("name the path as /explain?path={EXPLAINED_PATH}\n");
                refusal(StatusCode::BAD_REQUEST, example)
            })?,
        };
        let (headers, body) = self.read(request).await?;
        let gateway = &self.0.live.current().gateway;
        let explained = gateway.explain(path, &headers, &body);
        Ok(document(&explained.map_err(|error| self.problem(&error))?))
    }

    async fn reload(&self, request: Request<Incoming>) -> Result<Response<Body>, Response<Body>> {
        self.read(request).await?;
        let Some(reloader) = self.0.reloader.clone() else {
            let message =
                "the configuration came from no file, so there is nothing to read again\n";
            return Err(refusal(StatusCode::CONFLICT, message));
        };
        let read = tokio::task::spawn_blocking(move || reloader.reload()).await;
        let read = read.map_err(|_| {
            let message = "reading the configuration has failed: the log says more\n";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        let new = read.map_err(|error| {
            let message = format!("{error}\nnothing was changed\n");
            refusal(StatusCode::UNPROCESSABLE_ENTITY, message)
        })?;
        let told = |key: &str, reason: &str, remedy: &str| json!({ "key": key, "reason": reason, "remedy": remedy });
        let warnings = new.warnings.iter();
        let kept = new.kept.iter();
        Ok(document(&json!({
            "changed": new.changed,
            "needs_restart": new.needs_restart,
            "warnings": warnings.map(|it| told(&it.key, &it.reason, &it.remedy)).collect::<Vec<_>>(),
            "refused_secrets": kept.map(|it| told(&it.key, &it.reason, &it.remedy)).collect::<Vec<_>>(),
        })))
    }

    /// What somebody who may change something or see a request has sent.
    async fn read(
        &self,
        request: Request<Incoming>,
    ) -> Result<(hyper::HeaderMap, Bytes), Response<Body>> {
        let (head, body) = request.into_parts();
        head::check_origin(&head.headers).map_err(|error| self.problem(&error))?;
        let current = self.0.live.current();
        if let Some(refusal) = current.access.refusal(head.headers.get(AUTHORIZATION)) {
            return Err(refusal);
        }
        head::check_content(&head.headers, &body).map_err(|error| self.problem(&error))?;
        let body = read_whole(body, MAX_BODY, BODY_PATIENCE).await;
        let body = body.map_err(|error| self.problem(&Error::of_body(error, MAX_BODY)))?;
        Ok((head.headers, body))
    }

    fn problem(&self, error: &Error) -> Response<Body> {
        error.to_response(&self.0.live.current().metrics.request_id())
    }
}

impl Service for Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(|refusal| refusal)
    }

    fn refuse_connection(&self) -> Response<Body> {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "too many connections\n")
    }
}

fn answer(content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn document(value: &Value) -> Response<Body> {
    answer(JSON, format!("{value:#}\n"))
}

fn refusal(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let mut response = answer(PLAIN, message);
    *response.status_mut() = status;
    response
}

fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, format!("{allow} only\n"));
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}
