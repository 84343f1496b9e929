//! The way of a request: the only file that knows the order in which it is read and answered, and
//! that keeps its record.
//!
//! Who answers are two owners, of queries and of commands, both over a third, Linksfield.

pub mod brakes;
pub mod command;
pub mod error;
pub mod page;
pub mod progress;
pub mod query;
pub mod request;
pub mod vendor;

mod response;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::Body as HttpBody;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::http::request::Parts as RequestHead;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use self::command::keys::Key as CommandKey;
use self::command::{Commands, LastingCommands, doubt};
use self::error::{Error, X_REQUEST_ID};
use self::query::purge::Purge;
use self::query::{LastingQueries, Queries};
use self::request::head::{self, Fields};
use self::request::language::Languages;
use self::request::route::{Kind, Routes, Target};
use self::request::tenant::{Callers, Tenants};
use self::request::{Call, Wishes};
use self::vendor::{LastingVendor, Vendor};
use crate::body::{Body, ReadError, Received, read_whole};
use crate::config::{Ca, Config};
use crate::signing::params::Params;
use crate::telemetry::{Exchange, Metrics, Snapshot};
use crate::words::{RequestResult, Sent};

/// One in so many parts of a caller's time is kept for the way back.
const WAY_BACK: u32 = 20;

/// The gateway under one configuration. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Owners>);

#[derive(Debug)]
struct Owners {
    routes: Routes,
    callers: Callers,
    tenants: Tenants,
    languages: Languages,
    bounds: Bounds,
    forward_traceparent: bool,
    vendor: Vendor,
    queries: Queries,
    commands: Commands,
    metrics: Arc<Metrics>,
}

/// What a request may take.
#[derive(Debug)]
struct Bounds {
    request_timeout: Duration,
    body_timeout: Duration,
    max_body: usize,
}

/// What lasts: whatever is in memory, counted, learnt or under way goes on under another
/// configuration. A clone is the same.
#[derive(Debug, Clone)]
pub struct Lasting {
    /// What is known of Linksfield, and spent of its limits.
    pub vendor: LastingVendor,
    /// What memory holds.
    pub queries: LastingQueries,
    /// The keys of commands, and those under way.
    pub commands: LastingCommands,
}

/// What is configured: a configuration, with what was built from it and may have failed.
#[derive(Debug)]
pub struct Configured<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Whom the vendor's certificate must be signed by, where that is configured.
    pub ca: Option<&'a Ca>,
    /// The tenants, with their signers.
    pub tenants: Tenants,
    /// The callers, with their tokens.
    pub callers: Callers,
    /// Where everything is recorded.
    pub metrics: Arc<Metrics>,
}

impl Gateway {
    /// The gateway of one configuration. It takes effect for what lasts: requests that have begun
    /// under another one finish under that, but within the limits of this. Once this one answers,
    /// say so by [`supersede`](Self::supersede).
    pub fn new(configured: Configured<'_>, lasting: &Lasting) -> Self {
        let Configured {
            config,
            ca,
            tenants,
            callers,
            metrics,
        } = configured;
        let routes = Routes::new(config);
        let vendor = Vendor::new(config, ca, &tenants, &lasting.vendor, metrics.clone());
        let queries = Queries::new(
            config,
            &routes,
            &tenants,
            vendor.clone(),
            &lasting.queries,
            metrics.clone(),
        );
        let commands = Commands::new(
            vendor.clone(),
            &lasting.commands,
            queries.scopes().clone(),
            lasting.queries.latest().clone(),
            metrics.clone(),
        );
        let max_body = config.server.max_body.as_u64();
        Self(Arc::new(Owners {
            routes,
            callers,
            tenants,
            languages: Languages::new(&config.upstream.languages),
            bounds: Bounds {
                request_timeout: config.server.request_timeout,
                body_timeout: config.server.body_timeout,
                max_body: usize::try_from(max_body).unwrap_or(usize::MAX),
            },
            forward_traceparent: config.upstream.forward_traceparent,
            vendor,
            queries,
            commands,
            metrics,
        }))
    }

    /// `successor` answers from now on: what is filled for requests that began here is not kept,
    /// nor are pages of which another configuration changes what they depend on. Tells how many
    /// were dropped.
    pub fn supersede(&self, successor: &Self) -> usize {
        self.0.queries.supersede(&successor.0.queries)
    }

    /// Answers a request; a failure is an answer too.
    pub async fn handle<B>(&self, head: &RequestHead, body: &mut Received<B>) -> Response<Body>
    where
        Received<B>: HttpBody<Data = Bytes, Error = io::Error> + Unpin,
    {
        let metrics = &self.0.metrics;
        let fields = Fields::of(&head.headers);
        let request_id = fields.request_id();
        let request_id = request_id.unwrap_or_else(|| metrics.request_id());
        let mut exchange = metrics.exchange(request_id); // recorded when dropped, even if the caller leaves
        exchange.trace = fields.trace(self.0.forward_traceparent);
        let response = match self.answer(head, &fields, body, &mut exchange).await {
            Ok(mut response) => {
                let headers = response.headers_mut();
                headers.insert(X_REQUEST_ID, exchange.request_id.header());
                if let Some(in_doubt) = exchange.call.in_doubt {
                    doubt::tell(headers, Sent::Yes, in_doubt);
                }
                response
            }
            Err(error) => {
                exchange.failure.error = Some(error.code());
                exchange.failure.cause = error.cause_text();
                exchange.call.outcome = error.answer_outcome();
                exchange.call.redirect_host = error.redirect_host().map(str::to_owned);
                exchange.failure.fault = Some(error.fault());
                exchange.call.sent = Some(error.sent());
                if exchange.result == RequestResult::Command {
                    let in_doubt = doubt::after_error(&error);
                    exchange.call.in_doubt = Some(in_doubt);
                    let mut response = if in_doubt {
                        error.to_response_in_doubt(&exchange.request_id)
                    } else {
                        error.to_response(&exchange.request_id)
                    };
                    doubt::tell(response.headers_mut(), error.sent(), in_doubt);
                    response
                } else {
                    error.to_response(&exchange.request_id)
                }
            }
        };
        exchange.status = Some(response.status().as_u16());
        response
    }

    async fn answer<B>(
        &self,
        head: &RequestHead,
        fields: &Fields<'_>,
        body: &mut Received<B>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>>
    where
        Received<B>: HttpBody<Data = Bytes, Error = io::Error> + Unpin,
    {
        fields.check(head)?;
        let target = self.0.routes.find(head.uri.path());
        let is_unlisted = match &target {
            Ok(target) => !target.route.is_listed,
            Err(error) => matches!(error, Error::UnlistedPath),
        };
        if is_unlisted && self.0.callers.authenticate(fields.authorization()).is_ok() {
            self.0.metrics.unlisted_path(); // one of a stranger says nothing of our services
        }
        let target = target?;
        exchange.labels.route = target.route.label;
        let wishes = self.wishes(&target, fields, exchange.started)?;
        let (call, key) = self
            .read(target, head, fields, body, wishes.deadline, exchange)
            .await?;

        match &call.target.route.clone().kind {
            Kind::Query(policy) => {
                let queries = &self.0.queries;
                queries.answer(call, policy, &wishes, exchange).await
            }
            Kind::Command { .. } | Kind::Refuse => {
                let commands = &self.0.commands;
                commands.answer(call, key, wishes.deadline, exchange).await
            }
        }
    }

    /// How the caller wants its answer. It waits as long as it says, and never longer than the
    /// configuration allows; less what the answer needs to get back.
    fn wishes(
        &self,
        target: &Target,
        fields: &Fields<'_>,
        arrived_at: Instant,
    ) -> Result<Wishes, Error> {
        let most = self.0.bounds.request_timeout;
        let all_pages = fields.all_pages()?;
        let most = match &target.route.kind {
            Kind::Query(policy) if all_pages && policy.pages => most.max(policy.crawl_timeout),
            _ if all_pages => return Err(head::no_pages()),
            _ => most,
        };
        let named = fields.timeout()?;
        let patience = named.map_or(most, |named| named.min(most));
        Ok(Wishes {
            directives: fields.directives(),
            deadline: arrived_at + patience - patience / WAY_BACK,
            names_deadline: named.is_some(),
            all_pages,
        })
    }

    /// Caller, then body, then tenant: what is refused for its head is not read.
    async fn read<B>(
        &self,
        target: Target,
        head: &RequestHead,
        fields: &Fields<'_>,
        body: &mut Received<B>,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Call, Option<CommandKey>), Error>
    where
        Received<B>: HttpBody<Data = Bytes, Error = io::Error> + Unpin,
    {
        let this = &*self.0;
        let is_query = matches!(target.route.kind, Kind::Query(_));
        let caller = this.callers.authenticate(fields.authorization())?;
        if let Some(caller) = caller {
            exchange.labels.caller = caller.label;
        }
        target.check_method(&head.method)?;
        fields.check_content(body)?;
        let key = match &target.route.kind {
            Kind::Command { requires_key, .. } => match fields.idempotency_key()? {
                None if *requires_key => return Err(Error::IdempotencyKeyRequired),
                key => key,
            },
            Kind::Query(_) | Kind::Refuse => None, // a query may be repeated anyway
        };

        let max_body = this.bounds.max_body;
        let body = timeout_at(
            deadline,
            read_whole(body, max_body, this.bounds.body_timeout),
        )
        .await;
        let body = body
            .unwrap_or(Err(ReadError::Stalled))
            .map_err(|error| Error::of_body(error, max_body))?;
        let mut call = self.understand(target, fields, &body)?;
        call.trace = exchange.trace;
        call.caller = caller.map(|caller| caller.name.clone());
        exchange.labels.tenant = call.tenant.label;
        if let Some(caller) = caller {
            caller.authorize(&call.tenant)?;
        }
        if !is_query {
            this.vendor
                .lasting()
                .brakes()
                .check_refusal(&call.subject())?;
        }
        let caller = caller.map(|caller| &*caller.name);
        let key = key.map(|key| {
            let (access_code, path) = (&call.tenant.access_code, &call.target.path);
            CommandKey::new(&key, access_code, caller, path, &call.params)
        });
        Ok((call, key))
    }

    /// What is asked, for which tenant, in which words.
    fn understand(&self, target: Target, fields: &Fields<'_>, body: &[u8]) -> Result<Call, Error> {
        let params =
            Params::parse(body).map_err(|reason| Error::InvalidJson(reason.to_string()))?;
        let tenant = self.0.tenants.identify(
            fields.tenant(),
            params.access_code(),
            matches!(target.route.kind, Kind::Query(_)),
        )?;
        let language = self.0.languages.choose(fields.accept_language());
        Ok(Call {
            target,
            tenant: tenant.clone(),
            caller: None,
            params,
            language: language.clone(),
            trace: None,
        })
    }

    /// What would be done with a request of this path, these headers and this body; nothing is
    /// sent. Who asks is not looked at, and no secret is told.
    pub fn explain(&self, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<Value, Error> {
        let this = &*self.0;
        let now = Instant::now();
        let target = this.routes.find(path)?;
        let fields = Fields::of(headers);
        let wishes = self.wishes(&target, &fields, now)?;
        let mut call = self.understand(target, &fields, body)?;
        let route = call.target.route.clone();
        let mut explanation = match &route.kind {
            Kind::Query(policy) => this.queries.explain(&mut call, policy, &wishes, now),
            Kind::Command { .. } | Kind::Refuse => this.commands.explain(&call),
        };
        let signers = &call.tenant.signers;
        let active = signers.of(signers.active());
        let signed = active.signed(
            &call.params,
            &call.tenant.access_code,
            this.vendor.wall_clock(),
        );
        explanation["path"] = call.target.path.as_ref().into();
        explanation["tenant"] = call.tenant.name.as_ref().into();
        explanation["language"] = call.language.tag.as_ref().into();
        explanation["params"] = call.params.as_str().into();
        explanation["canonical_text"] = signed.text.into();
        Ok(explanation)
    }

    /// What memory holds and how much it answers, in all and by route and tenant.
    pub fn show_cache(&self) -> Value {
        let this = &*self.0;
        this.queries.show_cache(&this.routes, &this.tenants)
    }

    /// Drops pages, and makes fills that run now bring none; tells how many pages were dropped.
    pub fn purge(&self, what: &Purge) -> Result<usize, String> {
        let this = &*self.0;
        this.queries.purge(what, &this.routes, &this.tenants)
    }

    /// The longest body of a request, in bytes.
    pub fn max_body(&self) -> usize {
        self.0.bounds.max_body
    }

    /// Does this head bear the token of a caller?
    pub fn is_authenticated(&self, head: &RequestHead) -> bool {
        let authorization = head.headers.get(AUTHORIZATION);
        matches!(self.0.callers.authenticate(authorization), Ok(Some(_)))
    }

    /// What a connection beyond the limit is told.
    pub fn refuse_connection(&self) -> Response<Body> {
        Error::TooManyConnections.to_response(&self.0.metrics.request_id())
    }

    /// Counts a connection beyond the limit, told so or not.
    pub fn connection_refused(&self) {
        self.0.metrics.refused(Error::TooManyConnections.code());
    }

    /// Counts a head that could not be parsed; it got no more than a status.
    pub fn head_refused(&self) {
        self.0.metrics.refused(Error::MalformedRequest("").code());
    }

    /// How many commands are under way.
    pub fn commands_in_flight(&self) -> usize {
        self.0.commands.in_flight()
    }

    /// The accounts it asks for.
    pub fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    /// The values of now, for the metrics.
    pub fn snapshot(&self) -> Snapshot {
        let this = &*self.0;
        Snapshot {
            upstream: this.vendor.upstream_levels(),
            commands: this.commands.levels(),
            cache: this.queries.levels(),
            quota: this.vendor.quota_levels(),
            breaker_open: this.vendor.breaker_is_open(),
            episodes: this.vendor.episodes(),
            state_store_failed: this.commands.keys().store_has_failed(),
        }
    }
}
