//! The way of a request: the only file that knows the order of the stations, reads the clock and keeps the record.

pub mod cache;
pub mod error;
pub mod language;
pub mod params;
pub mod progress;
pub mod quota;
pub mod route;
pub mod sign;
pub mod tenant;
pub mod upstream;

mod head;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_LANGUAGE, AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Request, Response};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use self::cache::{Cache, Filled, Found, Key, Lookup, Page, Scope};
use self::error::{Error, InvalidAnswer, Sent, X_REQUEST_ID};
use self::language::{Language, Languages};
use self::params::Params;
use self::progress::Progress;
use self::quota::{Permit, Quota};
use self::route::{Kind, Policy, Routes, Target};
use self::tenant::{Callers, Tenant, Tenants};
use self::upstream::{
    Answer, COMMAND_MAX_IDLE, Failure, Outcome, QUERY_MAX_IDLE, Shape, Slot, Upstream,
};
use crate::body::{Body, ReadError, read_whole};
use crate::config::Config;
use crate::telemetry::{self, CommandEnd, Exchange, Metrics, Snapshot};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The stations of a request, joined. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Stations>);

#[derive(Debug)]
struct Stations {
    routes: Routes,
    callers: Callers,
    tenants: Tenants,
    languages: Languages,
    scopes: Scopes,
    cache: Cache,
    quota: Quota<Slot>,
    upstream: Upstream,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    /// The commands under way: the drain waits for them.
    commands: TaskTracker,
}

/// What a request may take.
#[derive(Debug)]
struct Bounds {
    request_timeout: Duration,
    body_timeout: Duration,
    max_body: usize,
    exchange_timeout: Duration,
}

/// The parts that need more than the configuration to be built.
#[derive(Debug)]
pub struct Parts {
    /// The tenants, with their signers.
    pub tenants: Tenants,
    /// The callers, with their tokens.
    pub callers: Callers,
    /// The way to Linksfield.
    pub upstream: Upstream,
    /// The vendor's limits.
    pub quota: Quota<Slot>,
    /// Where everything is recorded.
    pub metrics: Arc<Metrics>,
}

/// A request that is understood: what it asks, for whom, in which words.
#[derive(Debug, Clone)]
struct Call {
    target: Target,
    tenant: Arc<Tenant>,
    params: Params,
    language: Arc<Language>,
}

/// A call that was answered.
struct Answered {
    answer: Answer,
    sent_at: Instant,
    /// Until when what is left of the answer must have come.
    deadline: Instant,
    permit: Permit<Slot>,
}

/// Cancels a call, if that is still possible, when its caller stops waiting for whatever reason.
struct CancelOnDrop(Progress);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Gateway {
    /// Joins the parts.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let routes = Routes::new(config);
        Self(Arc::new(Stations {
            scopes: Scopes::new(config, &routes, &parts.tenants),
            routes,
            callers: parts.callers,
            tenants: parts.tenants,
            languages: Languages::new(&config.upstream.languages),
            cache: Cache::new(config.cache.max_size.as_u64()),
            quota: parts.quota,
            upstream: parts.upstream,
            bounds: Bounds {
                request_timeout: config.server.request_timeout,
                body_timeout: config.server.body_timeout,
                max_body: bytes(config.server.max_body),
                exchange_timeout: config.upstream.timeout,
            },
            metrics: parts.metrics,
            commands: TaskTracker::new(),
        }))
    }

    /// Answers a request; a failure is an answer too.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let metrics = self.0.metrics.clone();
        let mut exchange = metrics.exchange(); // recorded when dropped, even if the caller leaves
        exchange.request_id =
            head::request_id(request.headers()).unwrap_or_else(|| metrics.request_id());
        let response = match self.answer(request, &mut exchange).await {
            Ok(mut response) => {
                let request_id = error::request_id_value(&exchange.request_id);
                response.headers_mut().insert(X_REQUEST_ID, request_id);
                response
            }
            Err(error) => {
                exchange.error = Some(error.code());
                exchange.sent = Some(error.sent().as_str());
                error.to_response(&exchange.request_id)
            }
        };
        exchange.status = Some(response.status().as_u16());
        response
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        head::check(&request)?;
        let target = self.0.routes.find(request.uri().path())?;
        exchange.route = target.route.label;
        let deadline = exchange.started + self.patience(request.headers())?;
        let call = self.read(target, request, deadline, exchange).await?;
        exchange.tenant = call.tenant.label;

        match &call.target.route.clone().kind {
            Kind::Query(policy) => self.query(call, policy, deadline, exchange).await,
            Kind::Command { .. } | Kind::Refuse => self.command(call, deadline, exchange).await,
        }
    }

    /// How long the caller waits: as long as it says, and never longer than the configuration allows.
    fn patience(&self, headers: &HeaderMap) -> Result<Duration, Error> {
        let most = self.0.bounds.request_timeout;
        Ok(head::request_timeout(headers)?.map_or(most, |named| named.min(most)))
    }

    /// Caller, then body, then tenant: what is refused for its head is not read.
    async fn read(
        &self,
        target: Target,
        request: Request<Incoming>,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Call, Error> {
        let this = &*self.0;
        let is_query = matches!(target.route.kind, Kind::Query(_));
        let caller = this
            .callers
            .authenticate(request.headers().get(AUTHORIZATION))?;
        if let Some(caller) = caller {
            exchange.caller = caller.label;
        }
        target.check_method(request.method())?;
        let (head, body) = request.into_parts();
        head::check_content(&head.headers, &body)?;
        if !is_query && head.headers.contains_key("idempotency-key") {
            return Err(Error::IdempotencyUnsupported);
        }

        let max_body = this.bounds.max_body;
        let body = timeout_at(
            deadline,
            read_whole(body, max_body, this.bounds.body_timeout),
        )
        .await;
        let body = body
            .unwrap_or(Err(ReadError::Stalled))
            .map_err(|error| match error {
                ReadError::TooLarge => Error::BodyTooLarge(max_body),
                ReadError::Stalled => Error::BodyTimeout,
                ReadError::Broken(source) => Error::BodyIncomplete(source),
            })?;
        let params =
            Params::parse(&body).map_err(|reason| Error::InvalidJson(reason.to_string()))?;

        let tenant = this.tenants.identify(
            head.headers.get("x-linksfield-tenant"),
            params.access_code(),
            is_query,
        )?;
        if let Some(caller) = caller {
            caller.authorize(tenant, is_query)?;
        }
        if !is_query && !tenant.commands {
            return Err(Error::CommandsDisabled(tenant.name.clone()));
        }
        Ok(Call {
            target,
            tenant: tenant.clone(),
            params,
            language: this
                .languages
                .choose(head.headers.get(ACCEPT_LANGUAGE))
                .clone(),
        })
    }

    async fn query(
        &self,
        call: Call,
        policy: &Policy,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        exchange.result = telemetry::Result::Miss;
        let scope = self.0.scopes.of(&call.tenant, &call.target).clone();
        let key = Key::new(scope, call.language.tag.clone(), call.params.as_str());
        let pages = policy.pages;
        let fill = |progress| self.clone().fill(call, pages, progress); // a hit signs nothing
        let found = self
            .0
            .cache
            .get_or_fill(key, policy, Instant::now(), deadline, fill)
            .await?;

        exchange.vendor_code.clone_from(&found.page.vendor_code);
        match found.lookup {
            Lookup::Hit => {
                exchange.result = telemetry::Result::Hit;
                exchange.age = Some(found.age);
            }
            Lookup::Coalesced => {
                exchange.result = telemetry::Result::Coalesced;
                exchange.sent = Some(Sent::Yes.as_str());
            }
            Lookup::Miss => exchange_went_upstream(exchange, found.age),
        }
        Ok(page_response(&found))
    }

    /// Owned arguments: a fill outlives the request that began it.
    async fn fill(self, call: Call, pages: bool, progress: Progress) -> Result<Filled, Error> {
        let patience = Instant::now() + self.0.bounds.request_timeout; // no caller waits longer
        let answered = self
            .call(&call, &progress, patience, QUERY_MAX_IDLE, || {})
            .await?;
        to_filled(answered.answer, pages, answered.sent_at)
    }

    /// A command has a task of its own: called off while no byte has left, else run to its end, whoever still waits.
    async fn command(
        &self,
        call: Call,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        exchange.result = telemetry::Result::Command;
        let progress = Progress::default();
        let _unless_it_has_left = CancelOnDrop(progress.clone());
        let (tell, told) = oneshot::channel();
        let command = self.clone().run_command(
            call,
            progress.clone(),
            deadline,
            exchange.request_id.clone(),
            tell,
        );
        self.0.commands.spawn(command);
        let answered = match timeout_at(deadline, told).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(Error::Internal(progress.sent()).into()), // the command's task is gone
            Err(_) if progress.cancel() => {
                return Err(Error::Overloaded {
                    retry_after: Duration::ZERO,
                }
                .into());
            }
            Err(_) => return Err(Error::UpstreamTimeout(progress.sent()).into()),
        };
        exchange
            .vendor_code
            .clone_from(&answered.answer.vendor_code);
        exchange_went_upstream(exchange, answered.sent_at.elapsed());
        Ok(command_response(answered))
    }

    async fn run_command(
        self,
        call: Call,
        progress: Progress,
        patience: Instant,
        request_id: String,
        tell: oneshot::Sender<Result<Answered, Error>>,
    ) {
        let metrics = &self.0.metrics;
        let started = Instant::now();
        let scopes = self.0.scopes.reached_by(&call.tenant, &call.target.route);
        let invalidate = || scopes.iter().for_each(|scope| scope.invalidate());
        let result = tokio::select! {
            () = progress.cancelled() => return, // no byte has left, and nobody waits
            result = self.call(&call, &progress, patience, COMMAND_MAX_IDLE, invalidate) => result,
        };
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        if progress.sent() != Sent::No {
            invalidate();
            metrics.invalidation("command");
        }
        if matches!(&result, Err(error) if error.sent() == Sent::Unknown) {
            metrics.command_outcome_unknown(route, tenant);
        }
        if let Err(result) = tell.send(result) {
            let (outcome, vendor_code) = match &result {
                Ok(answered) => (
                    answered.answer.outcome.as_str(),
                    answered.answer.vendor_code.as_deref(),
                ),
                Err(error) => (error.code(), None),
            };
            let duration = started.elapsed();
            let end = CommandEnd {
                sent: progress.sent().as_str(),
                outcome,
                vendor_code,
                duration,
            };
            metrics.abandoned_command(&request_id, route, tenant, &end);
        }
    }

    /// One call of Linksfield: permit, connection, signature, bytes, answer. `before` runs right before the first byte.
    async fn call(
        &self,
        call: &Call,
        progress: &Progress,
        patience: Instant,
        mut max_idle: Duration,
        before: impl Fn(),
    ) -> Result<Answered, Error> {
        let this = &*self.0;
        let mut permit = this.quota.acquire(patience).await?;
        let granted_at = Instant::now();
        let deadline = granted_at
            + call
                .target
                .route
                .timeout
                .unwrap_or(this.bounds.exchange_timeout);
        let result = loop {
            if let Err(error) = this.upstream.connect(&mut permit, max_idle, deadline).await {
                break Err(error);
            }
            if !progress.begin() {
                return Err(Error::Overloaded {
                    retry_after: Duration::ZERO,
                }); // called off; nobody hears this
            }
            before();
            let sent_at = Instant::now();
            let body =
                call.tenant
                    .signer
                    .sign(&call.params, &call.tenant.access_code, wall_clock());
            let (path, language) = (&call.target.path, &call.language);
            match this
                .upstream
                .exchange(&mut permit, path, language, body, deadline, progress)
                .await
            {
                Ok(answer) => break Ok((answer, sent_at)),
                Err(Failure::Failed(error)) => break Err(error),
                Err(Failure::NotSent) => max_idle = Duration::ZERO, // the next connection is a new one
            }
        };
        let outcome = match &result {
            Ok((answer, _)) => answer.outcome.as_str(),
            Err(error) => error.code(),
        };
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        this.metrics
            .upstream_call(route, tenant, outcome, "caller", granted_at.elapsed());
        result.map(|(answer, sent_at)| Answered {
            answer,
            sent_at,
            deadline,
            permit,
        })
    }

    /// What a connection beyond the limit is told.
    pub fn refuse_connection(&self) -> Response<Body> {
        Error::TooManyConnections.to_response(&self.0.metrics.request_id())
    }

    /// Waits until every command that is under way has ended.
    pub async fn commands_finished(&self) {
        self.0.commands.close();
        self.0.commands.wait().await;
    }

    /// The values of now, for the metrics.
    pub fn snapshot(&self) -> Snapshot {
        let cache = self.0.cache.statistics();
        Snapshot {
            cache_entries: cache.entries,
            cache_bytes: cache.bytes,
            cache_evictions: cache.evictions,
            fills_in_flight: cache.fills,
            queue_length: self.0.quota.queue_length(),
        }
    }
}

/// One scope for each tenant and query.
#[derive(Debug)]
struct Scopes {
    routes: usize,
    by_tenant_and_route: Vec<Option<Arc<Scope>>>,
}

impl Scopes {
    fn new(config: &Config, routes: &Routes, tenants: &Tenants) -> Self {
        let base_url: Arc<str> = config.upstream.base_url.to_string().into();
        let mut scopes = vec![None; config.tenants.len() * config.routes.len()];
        for tenant in tenants.iter() {
            for (path, route) in routes.queries() {
                let scope = Scope::new(base_url.clone(), tenant.access_code.clone(), path.clone());
                scopes[tenant.label * config.routes.len() + route.label] = Some(Arc::new(scope));
            }
        }
        Self {
            routes: config.routes.len(),
            by_tenant_and_route: scopes,
        }
    }

    fn of(&self, tenant: &Tenant, target: &Target) -> &Arc<Scope> {
        let scope = &self.by_tenant_and_route[tenant.label * self.routes + target.route.label];
        scope
            .as_ref()
            .expect("every query has a scope for every tenant")
    }

    /// What a command of this route may change: the queries it names; without names, and on a path that is not
    /// configured, every query of its tenant.
    fn reached_by(&self, tenant: &Tenant, route: &route::Route) -> Vec<Arc<Scope>> {
        let named = match &route.kind {
            Kind::Command { invalidates } => invalidates.as_deref(),
            Kind::Query(_) | Kind::Refuse => None,
        };
        let start = tenant.label * self.routes;
        let scopes = self.by_tenant_and_route[start..start + self.routes]
            .iter()
            .flatten();
        scopes
            .filter(|scope| named.is_none_or(|paths| paths.contains(scope.path())))
            .cloned()
            .collect()
    }
}

/// Only a success of the expected shape, whole beyond doubt, is kept. What is no envelope is not an answer to a query.
fn to_filled(answer: Answer, pages: bool, sent_at: Instant) -> Result<Filled, Error> {
    let invalid = |reason| {
        Err(Error::UpstreamInvalidAnswer {
            status: answer.status,
            reason,
        })
    };
    let is_encoded = answer.headers.contains_key(CONTENT_ENCODING);
    if answer.rest.is_some() {
        return invalid(InvalidAnswer::TooLarge);
    }
    if answer.shape == Shape::NoEnvelope && !is_encoded {
        return invalid(InvalidAnswer::NotAnEnvelope);
    }
    let has_shape = if pages {
        answer.shape == Shape::Page
    } else {
        matches!(answer.shape, Shape::Page | Shape::Data)
    };
    let storable =
        answer.outcome == Outcome::Success && has_shape && answer.is_framed && !is_encoded;
    let header = |name| answer.headers.get(name).cloned();
    let page = Page {
        status: answer.status,
        content_type: header(CONTENT_TYPE),
        content_language: header(CONTENT_LANGUAGE),
        content_encoding: header(CONTENT_ENCODING),
        retry_after: header(RETRY_AFTER),
        // A copy of its own: the bytes as read would keep the whole read buffer in memory.
        body: if storable {
            Bytes::copy_from_slice(&answer.body)
        } else {
            answer.body
        },
        vendor_code: answer.vendor_code,
    };
    Ok(Filled {
        page: Arc::new(page),
        storable,
        sent_at,
    })
}

fn exchange_went_upstream(exchange: &mut Exchange<'_>, upstream: Duration) {
    exchange.sent = Some(Sent::Yes.as_str());
    exchange.upstream = Some(upstream);
    exchange.queue = Some(exchange.started.elapsed().saturating_sub(upstream));
}

fn page_response(found: &Found) -> Response<Body> {
    let page = &found.page;
    let mut response = Response::new(Body::from(page.body.clone()));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    let kept = [
        (CONTENT_TYPE, &page.content_type),
        (CONTENT_LANGUAGE, &page.content_language),
        (CONTENT_ENCODING, &page.content_encoding),
        (RETRY_AFTER, &page.retry_after),
    ];
    for (name, value) in kept {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    // The lifetime less the `Age`, which is rounded down: the two add up to the lifetime.
    let ttl = found.ttl.map(|ttl| ttl.as_millis().div_ceil(1000));
    let status = match (found.lookup, ttl) {
        (Lookup::Hit, ttl) => format!("linksfield-gateway; hit; ttl={}", ttl.unwrap_or_default()),
        (Lookup::Coalesced, _) => "linksfield-gateway; fwd=miss; collapsed".to_owned(),
        (Lookup::Miss, Some(ttl)) => format!("linksfield-gateway; fwd=miss; stored; ttl={ttl}"),
        (Lookup::Miss, None) => "linksfield-gateway; fwd=miss".to_owned(),
    };
    headers.insert(
        CACHE_STATUS,
        HeaderValue::from_str(&status).expect("visible ASCII"),
    );
    if found.lookup != Lookup::Miss {
        headers.insert(AGE, HeaderValue::from(found.age.as_secs())); // RFC 9111, section 5.1: not of an answer of now
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn command_response(answered: Answered) -> Response<Body> {
    let Answered {
        answer,
        deadline,
        permit,
        ..
    } = answered;
    let body = match answer.rest {
        None => Body::from(answer.body),
        Some(rest) => Body::passing(answer.body, rest, deadline, permit),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    *headers = answer.headers;
    headers.insert(
        CACHE_STATUS,
        HeaderValue::from_static("linksfield-gateway; fwd=bypass"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The time that goes into signatures; the only place that reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
