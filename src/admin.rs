//! What do operators see and do? A page, metrics, probes, the effective configuration and the
//! cache, on a listener and a runtime of their own.

mod page;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use humantime::format_rfc3339_seconds;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, REFERRER_POLICY, SERVER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request;
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tracing::{error, warn};

use crate::access::{Access, Denied};
use crate::body::{Body, Received, read_whole};
use crate::clock::wall_clock;
use crate::config::{Config, Log};
use crate::gateway::error::Error;
use crate::gateway::query::purge::Purge;
use crate::gateway::request::head::Fields;
use crate::live::{Current, Live};
use crate::reload::{Reloaded, Reloader, Trigger};
use crate::server::{Drain, Service};
use crate::signing::params::without_mark;
use crate::telemetry::log;
use crate::words::ListenerName;

/// Bytes of a body: a request to be explained is one that the other listener would take.
const MAX_BODY: usize = 1024 * 1024;

/// How long a body may make no progress.
const BODY_PATIENCE: Duration = Duration::from_secs(2);

/// What is explained if no path is named.
const EXPLAINED_PATH: &str = "/package/queryOrder";

/// Which pages may load what is here: none of another site.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Who answers (RFC 9110, section 10.2.4): `healthcheck` tells by it another process on the same
/// port.
pub const SERVER_NAME: &str = "linksfield-gateway";

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const NOT_HERE: &str = "Here are: GET / /metrics /livez /readyz /config /cache /log-level, POST /cache/purge /explain /reload /log-level\n\
     Requests for Linksfield go to the port of the callers, which server.listen names.\n";

/// Answers the admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    parts: Arc<Parts>,
    since: Instant,
}

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

/// What somebody who has edited the file must see to know that what it says is in effect, whoever
/// read it first.
fn in_effect(reloaded: &Reloaded) -> String {
    let last = &reloaded.last_change;
    let at = format_rfc3339_seconds(last.at);
    let secrets = last.secrets.iter();
    let secrets = secrets.map(|key| format!("the content of {key}"));
    let what: Vec<_> = last.keys.iter().cloned().chain(secrets).collect();
    let what = what.join(", ");
    match (reloaded.changed, last.by) {
        (true, _) => format!("brought into effect now: {what}"),
        (false, Trigger::Start) => format!("nothing has changed since the start, at {at}"),
        (false, by) => format!(
            "nothing has changed since {at}; then the {} brought into effect: {what}",
            by.as_str()
        ),
    }
}

/// What is answered to whoever may not.
fn denial(denied: Denied) -> Response<Body> {
    match denied {
        Denied::WrongToken => {
            let message = "send the token of server.admin_token_file as Authorization: Bearer\n";
            let mut response = refusal(StatusCode::UNAUTHORIZED, message);
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            response
        }
        Denied::Everybody => refusal(
            StatusCode::FORBIDDEN,
            "this needs a token where the admin listener is beyond loopback: set server.admin_token_file\n",
        ),
    }
}

impl Admin {
    /// Shows `parts`.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            since: Instant::now(),
        }
    }

    async fn route(
        &self,
        head: &request::Parts,
        body: &mut Received,
    ) -> Result<Response<Body>, Response<Body>> {
        Fields::of(&head.headers)
            .check_target(head)
            .map_err(|error| self.problem(&error))?;
        let this = self.parts.live.current();
        let is_read = matches!(head.method, Method::GET | Method::HEAD); // of a HEAD hyper sends no body
        let is_post = head.method == Method::POST;
        match head.uri.path() {
            "/" if is_read => Ok(self.page(&this, &head.headers)),
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
            "/log-level" if is_read => Ok(levels(&this.config)),
            "/log-level" if is_post => self.set_levels(&head.headers, body).await,
            "/cache/purge" if is_post => self.purge(&head.headers, body).await,
            "/explain" if is_post => self.explain(head, body).await,
            "/reload" if is_post => self.reload(&head.headers, body).await,
            "/" | "/metrics" | "/livez" | "/readyz" | "/config" | "/cache" => {
                Err(not_allowed("GET, HEAD"))
            }
            "/log-level" => Err(not_allowed("GET, HEAD, POST")),
            "/cache/purge" | "/explain" | "/reload" => Err(not_allowed("POST")),
            path => match page::FILES.iter().find(|(name, ..)| *name == path) {
                Some((_, content_type, text)) if is_read => Ok(answer(content_type, *text)),
                Some(_) => Err(not_allowed("GET, HEAD")),
                None if path.ends_with('/') => {
                    let message =
                        format!("a path has no slash at its end: leave it out\n{NOT_HERE}");
                    Err(refusal(StatusCode::NOT_FOUND, message))
                }
                None => Err(refusal(StatusCode::NOT_FOUND, NOT_HERE)),
            },
        }
    }

    /// Figures and the configuration are for whoever can connect; what names a request is not.
    fn page(&self, current: &Current, headers: &HeaderMap) -> Response<Body> {
        let shown = page::Shown {
            current,
            last_read: self.parts.reloader.as_ref().map(Reloader::last_read),
            is_draining: self.parts.drain.is_announced(),
            up_for: self.since.elapsed(),
            shows_requests: current.access.shows_requests(headers),
            now: wall_clock(),
        };
        match page::render(&shown) {
            Ok(page) => {
                let mut response = answer(HTML, page);
                let headers = response.headers_mut();
                let policy = HeaderValue::from_static(page::POLICY);
                headers.insert(CONTENT_SECURITY_POLICY, policy);
                headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
                response
            }
            Err(cause) => {
                error!(%cause, "the admin page cannot be made");
                let message = "the page cannot be made: the log says why\n";
                refusal(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
        }
    }

    /// Until the next time, or until `log.level` changes in the configuration's file.
    async fn set_levels(
        &self,
        headers: &HeaderMap,
        body: &mut Received,
    ) -> Result<Response<Body>, Response<Body>> {
        self.refusal(headers).map_or(Ok(()), Err)?;
        let body = self.read_body(body).await?;
        let wanted = Log {
            level: String::from_utf8_lossy(&body).trim().to_owned(),
            ..Log::default()
        };
        if let Some(problem) = wanted.problem() {
            let message = format!("{}: {}\n", problem.reason, problem.remedy);
            return Err(refusal(StatusCode::BAD_REQUEST, message));
        }
        let before = log::levels();
        warn!(before, after = wanted.level, "log level changed");
        log::set_levels(&wanted.level);
        Ok(levels(&self.parts.live.current().config))
    }

    /// Never depends on Linksfield: a vendor that is down would take every pod out.
    fn readiness(&self) -> Response<Body> {
        let draining = self.parts.drain.is_announced();
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

    async fn purge(
        &self,
        headers: &HeaderMap,
        body: &mut Received,
    ) -> Result<Response<Body>, Response<Body>> {
        let body = self.read(headers, body).await?;
        let body = if body.is_empty() { b"{}" } else { &body[..] };
        let purged = serde_json::from_slice::<Purge>(body)
            .map_err(|error| error.to_string())
            .and_then(|purge| self.parts.live.current().gateway.purge(&purge))
            .map_err(|reason| refusal(StatusCode::BAD_REQUEST, format!("{reason}\n")))?;
        Ok(document(&json!({ "purged": purged })))
    }

    async fn explain(
        &self,
        head: &request::Parts,
        body: &mut Received,
    ) -> Result<Response<Body>, Response<Body>> {
        let path = match head.uri.query() {
            None => EXPLAINED_PATH,
            Some(query) => query.strip_prefix("path=").ok_or_else(|| {
                let example = format!("name the path as /explain?path={EXPLAINED_PATH}\n");
                refusal(StatusCode::BAD_REQUEST, example)
            })?,
        };
        let body = self.read(&head.headers, body).await?;
        let gateway = &self.parts.live.current().gateway;
        let explained = gateway.explain(path, &head.headers, &body);
        Ok(document(&explained.map_err(|error| self.problem(&error))?))
    }

    async fn reload(
        &self,
        headers: &HeaderMap,
        body: &mut Received,
    ) -> Result<Response<Body>, Response<Body>> {
        self.read(headers, body).await?;
        let Some(reloader) = self.parts.reloader.clone() else {
            let message =
                "the configuration came from no file, so there is nothing to read again\n";
            return Err(refusal(StatusCode::CONFLICT, message));
        };
        let read = reloader.reload(Trigger::Request).await.ok_or_else(|| {
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
            "changed_keys": new.changed_keys,
            "changed_secrets": new.changed_secrets,
            "brakes": new.brakes,
            "detail": in_effect(&new),
            "last_change": {
                "at": format_rfc3339_seconds(new.last_change.at).to_string(),
                "by": new.last_change.by.as_str(),
                "changed_keys": new.last_change.keys,
                "changed_secrets": new.last_change.secrets,
            },
            "needs_restart": new.needs_restart,
            "warnings": warnings.map(|it| told(&it.key, &it.reason, &it.remedy)).collect::<Vec<_>>(),
            "refused_secrets": kept.map(|it| told(&it.key, &it.reason, &it.remedy)).collect::<Vec<_>>(),
        })))
    }

    /// What somebody who may change something or see a request has sent.
    async fn read(
        &self,
        headers: &HeaderMap,
        body: &mut Received,
    ) -> Result<Bytes, Response<Body>> {
        self.refusal(headers).map_or(Ok(()), Err)?;
        Fields::of(headers)
            .check_content(body)
            .map_err(|error| self.problem(&error))?;
        self.read_body(body).await
    }

    /// Refuses web pages, and whoever may not change anything or see a request.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        if let Err(error) = Fields::of(headers).check_origin() {
            return Some(self.problem(&error));
        }
        let current = self.parts.live.current();
        let denied = current.access.denies(headers.get(AUTHORIZATION));
        denied.map(denial)
    }

    async fn read_body(&self, body: &mut Received) -> Result<Bytes, Response<Body>> {
        let body = read_whole(body, MAX_BODY, BODY_PATIENCE).await;
        let body = body.map_err(|error| self.problem(&Error::of_body(error, MAX_BODY)))?;
        Ok(body.slice_ref(without_mark(&body)))
    }

    fn problem(&self, error: &Error) -> Response<Body> {
        error.to_response(&self.parts.live.current().metrics.request_id())
    }
}

impl Service for Admin {
    async fn answer(&self, head: &request::Parts, body: &mut Received) -> Response<Body> {
        let routed = self.route(head, body).await;
        routed.unwrap_or_else(|refusal| refusal)
    }

    fn max_body(&self) -> usize {
        MAX_BODY
    }

    fn is_authenticated(&self, head: &request::Parts) -> bool {
        let access = &self.parts.live.current().access;
        matches!(access, Access::Token(_))
            && access.denies(head.headers.get(AUTHORIZATION)).is_none()
    }

    fn connection_evicted(&self) {
        let metrics = &self.parts.live.current().metrics;
        metrics.connection_evicted(ListenerName::Admin);
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
    headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// What the log writes now, and what it would after a restart.
fn levels(config: &Config) -> Response<Body> {
    document(&json!({ "level": log::levels(), "configured": config.log.level }))
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
