//! The way of a request: the only file that knows the order of the stations, asks what time it is and keeps the record.

pub mod brakes;
pub mod breaker;
pub mod cache;
pub mod directives;
pub mod doubt;
pub mod error;
pub mod head;
pub mod keys;
pub mod language;
pub mod page;
pub mod params;
pub mod progress;
pub mod quota;
pub mod retry;
pub mod route;
pub mod sign;
pub mod skew;
pub mod tenant;
pub mod unclassified;
pub mod upstream;

mod boxed;
mod call;
mod command;
mod crawl;
mod operator;
mod pace;
mod response;
mod scopes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use hyper::Response;
use hyper::header::AUTHORIZATION;
use hyper::http::request;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use self::brakes::{Brakes, Subject};
use self::breaker::Breaker;
use self::cache::{Cache, Fetched, Key, Lookup, Question, Sparing};
use self::call::{Answered, Errand, Timing, Unanswered};
use self::crawl::{Crawl, CrawlPlaces};
use self::directives::Directives;
use self::error::{Error, Fault, Sent, X_REQUEST_ID};
use self::head::Fields;
use self::keys::{Key as CommandKey, Keys};
use self::language::{Language, Languages};
pub use self::operator::Purge;
use self::pace::Pace;
use self::params::Params;
use self::progress::Progress;
use self::quota::{Class, Level, Quota, Thrift};
use self::response::Expected;
use self::retry::Retries;
use self::route::{Kind, Policy, Routes, Target};
use self::scopes::{Latest, Scopes};
use self::skew::{Skew, Told};
use self::tenant::{Callers, Tenant, Tenants};
use self::unclassified::Usual;
use self::upstream::{Slot, Upstream};
use crate::body::{Body, ReadError, Received, read_whole};
use crate::clock::Moment;
pub use crate::clock::wall_clock;
use crate::config::Config;
use crate::state::Store;
use crate::telemetry::trace::Trace;
use crate::telemetry::{
    CacheLevels, CommandLevels, Episode, Exchange, Metrics, QuotaLevels, RequestResult, RouteKind,
    Snapshot, UpstreamLevels,
};

/// What is usual is seen over so many windows of the breaker: it is asked for less often than all routes together.
const WINDOWS: u32 = 10;

/// One in so many parts of a caller's time is kept for the way back.
const WAY_BACK: u32 = 20;

/// The stations of a request, joined. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Stations>);

#[derive(Debug)]
struct Stations {
    /// The first one is 0.
    configuration: u64,
    routes: Routes,
    callers: Callers,
    tenants: Tenants,
    languages: Languages,
    scopes: Arc<Scopes>,
    latest: Latest,
    cache: Cache,
    quota: Quota<Slot>,
    upstream: Arc<Upstream>,
    brakes: Brakes,
    breaker: Breaker,
    usual_answers: Usual,
    retries: Retries,
    skew: Skew,
    sparing: Thriftiness,
    crawls: CrawlPlaces,
    /// How long the calls of each route take, and the crawls of its pages.
    paces: Vec<Arc<Paces>>,
    bounds: Bounds,
    forward_traceparent: bool,
    metrics: Arc<Metrics>,
    keys: Keys,
    store: Option<Store>,
    /// The commands under way: the drain waits for them.
    commands: TaskTracker,
}

#[derive(Debug, Default)]
struct Paces {
    call: Pace,
    crawl: Pace,
}

/// What a request may take.
#[derive(Debug)]
struct Bounds {
    request_timeout: Duration,
    body_timeout: Duration,
    max_body: usize,
    exchange_timeout: Duration,
    /// How long a slot stays taken by an exchange whose time has passed.
    hold: Duration,
    /// Of all pages of a query together.
    max_document: usize,
}

/// The parts that need more than the configuration to be built.
#[derive(Debug)]
pub struct Parts {
    /// The tenants, with their signers.
    pub tenants: Tenants,
    /// The callers, with their tokens.
    pub callers: Callers,
    /// The way to Linksfield.
    pub upstream: Arc<Upstream>,
    /// What is switched off.
    pub brakes: Brakes,
    /// The vendor's limits.
    pub quota: Quota<Slot>,
    /// The idempotency keys of commands.
    pub keys: Keys,
    /// What must survive a restart, if it shall.
    pub store: Option<Store>,
    /// How far our clock is from Linksfield's.
    pub skew: Skew,
    /// Where everything is recorded.
    pub metrics: Arc<Metrics>,
}

/// A request that is understood: what it asks, for whom, in which words.
#[derive(Debug, Clone)]
struct Call {
    target: Target,
    tenant: Arc<Tenant>,
    /// Where callers are configured.
    caller: Option<Arc<str>>,
    params: Params,
    language: Arc<Language>,
    trace: Option<Trace>,
}

impl Call {
    /// What brakes look at.
    fn subject(&self) -> Subject {
        Subject {
            is_command: !matches!(self.target.route.kind, Kind::Query(_)),
            path: self.target.path.clone(),
            tenant: self.tenant.name.clone(),
            caller: self.caller.clone(),
        }
    }
}

/// What a request's head says about its answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    directives: Directives,
    deadline: Instant,
    names_deadline: bool,
    /// All pages as one document.
    all_pages: bool,
}

impl Stations {
    /// How long a fill of this route and tenant usually takes from now on, the wait for its turn included.
    fn usual(&self, (route, tenant): (usize, usize), all_pages: bool) -> Duration {
        let paces = &self.paces[route];
        let call = paces.call.p90();
        let fill = if all_pages { paces.crawl.p90() } else { call };
        self.quota.expected_wait(tenant, call) + fill
    }

    fn paces_of(&self, path: &str) -> Option<Arc<Paces>> {
        let label = self.routes.label(path)?;
        Some(self.paces[label].clone())
    }
}

impl Gateway {
    /// Joins the parts.
    pub fn new(config: &Config, parts: Parts) -> Self {
        Self::join(config, parts, None)
    }

    /// The same gateway under another configuration, or with other secrets. What is in memory, counted and under way goes
    /// on; requests that have begun finish under this one. Once the other one answers, say so by
    /// [`supersede`](Self::supersede).
    #[must_use]
    pub fn successor(&self, config: &Config, parts: Parts) -> Self {
        Self::join(config, parts, Some(&self.0))
    }

    /// `successor` answers from now on: what is filled for requests that began here is not kept, nor are pages of which
    /// another configuration changes what they depend on. Tells how many were dropped.
    pub fn supersede(&self, successor: &Self) -> usize {
        let number = successor.0.configuration;
        for scope in self.0.scopes.all().chain(successor.0.scopes.all()) {
            scope.reconfigure(number);
        }
        let scopes: Vec<_> = successor.0.scopes.all().cloned().collect();
        self.0.cache.keep_only(&scopes)
    }

    fn join(config: &Config, parts: Parts, before: Option<&Stations>) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let routes = Routes::new(config);
        let limits = &config.upstream.limits;
        let known = before.map(|before| &*before.scopes);
        let scopes = Arc::new(Scopes::new(config, &routes, &parts.tenants, known));
        let latest = before.map_or_else(
            || Latest::new(scopes.clone().into()),
            |before| before.latest.clone(),
        );
        latest.store(scopes.clone());
        Self(Arc::new(Stations {
            configuration: before.map_or(0, |before| before.configuration + 1),
            scopes,
            latest,
            brakes: parts.brakes,
            breaker: of_breaker(config, before),
            usual_answers: of_usual_answers(config, &parts.tenants, before),
            retries: of_retries(config, before),
            skew: parts.skew,
            sparing: before.map_or_else(Thriftiness::default, |before| before.sparing.clone()),
            crawls: CrawlPlaces::new(config.tenants.len(), limits.queue),
            routes,
            callers: parts.callers,
            tenants: parts.tenants,
            languages: Languages::new(&config.upstream.languages),
            cache: before.map_or_else(
                || Cache::new(config.cache.max_size.as_u64()),
                |before| before.cache.clone(),
            ),
            quota: parts.quota,
            upstream: parts.upstream,
            paces: config
                .routes
                .keys()
                .map(|path| before.and_then(|before| before.paces_of(path)))
                .chain([before.and_then(|before| before.paces.last().cloned())])
                .map(Option::unwrap_or_default)
                .collect(),
            bounds: Bounds {
                request_timeout: config.server.request_timeout,
                body_timeout: config.server.body_timeout,
                max_body: bytes(config.server.max_body),
                exchange_timeout: config.upstream.timeout,
                hold: config.upstream.hold,
                max_document: bytes(config.upstream.max_answer),
            },
            forward_traceparent: config.upstream.forward_traceparent,
            metrics: parts.metrics,
            keys: parts.keys,
            store: parts.store,
            commands: before.map_or_else(TaskTracker::new, |before| before.commands.clone()),
        }))
    }

    /// Answers a request; a failure is an answer too.
    pub async fn handle(&self, head: &request::Parts, body: &mut Received) -> Response<Body> {
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
                if let Some(in_doubt) = exchange.in_doubt {
                    doubt::tell(headers, Sent::Yes, in_doubt);
                }
                response
            }
            Err(error) => {
                exchange.error = Some(error.code());
                exchange.cause = error.sources();
                exchange.outcome = error.answer_outcome();
                exchange.redirect_host = error.redirect_host().map(str::to_owned);
                exchange.fault = Some(error.fault().as_str());
                exchange.sent = Some(error.sent().as_str());
                if exchange.result == RequestResult::Command {
                    let in_doubt = doubt::after_error(&error);
                    exchange.in_doubt = Some(in_doubt);
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

    async fn answer(
        &self,
        head: &request::Parts,
        fields: &Fields<'_>,
        body: &mut Received,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
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
        exchange.route = target.route.label;
        let asked = self.asked(&target, fields, exchange.started)?;
        let (call, key) = self
            .read(target, head, fields, body, asked.deadline, exchange)
            .await?;

        match &call.target.route.clone().kind {
            Kind::Query(policy) => self.query(call, policy, &asked, exchange).await,
            Kind::Command { .. } | Kind::Refuse => {
                self.command(call, key, asked.deadline, exchange).await
            }
        }
    }

    /// How the caller wants its answer. It waits as long as it says, and never longer than the configuration allows;
    /// less what the answer needs to get back.
    fn asked(
        &self,
        target: &Target,
        fields: &Fields<'_>,
        arrived_at: Instant,
    ) -> Result<Asked, Error> {
        let most = self.0.bounds.request_timeout;
        let all_pages = fields.all_pages()?;
        let most = match &target.route.kind {
            Kind::Query(policy) if all_pages && policy.pages => most.max(policy.crawl_timeout),
            _ if all_pages => return Err(head::no_pages()),
            _ => most,
        };
        let named = fields.timeout()?;
        let patience = named.map_or(most, |named| named.min(most));
        Ok(Asked {
            directives: fields.directives(),
            deadline: arrived_at + patience - patience / WAY_BACK,
            names_deadline: named.is_some(),
            all_pages,
        })
    }

    /// Caller, then body, then tenant: what is refused for its head is not read.
    async fn read(
        &self,
        target: Target,
        head: &request::Parts,
        fields: &Fields<'_>,
        body: &mut Received,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Call, Option<CommandKey>), Error> {
        let this = &*self.0;
        let is_query = matches!(target.route.kind, Kind::Query(_));
        let caller = this.callers.authenticate(fields.authorization())?;
        if let Some(caller) = caller {
            exchange.caller = caller.label;
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
        exchange.tenant = call.tenant.label;
        if let Some(caller) = caller {
            caller.authorize(&call.tenant)?;
        }
        if !is_query {
            this.brakes.refuse(&call.subject())?;
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

    /// What the cache is asked. All pages have a key of their own, and parameters without the number of a page.
    fn question<'a>(
        &self,
        call: &mut Call,
        policy: &'a Policy,
        asked: &Asked,
        arrived_at: Instant,
    ) -> Question<'a> {
        let scope = self.0.scopes.of(&call.tenant, &call.target.route).clone();
        let language = call.language.tag.clone();
        let key = if asked.all_pages {
            call.params = Crawl::query(&call.params);
            Key::whole(scope, language, &call.params)
        } else {
            Key::new(scope, language, &call.params)
        };
        Question {
            key,
            policy,
            configuration: self.0.configuration,
            sparing: self.0.sparing.get(),
            directives: asked.directives,
            arrived_at: Moment::of(arrived_at),
            deadline: asked.deadline,
            names_deadline: asked.names_deadline,
        }
    }

    async fn query(
        &self,
        mut call: Call,
        policy: &Policy,
        asked: &Asked,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        let this = &*self.0;
        let question = self.question(&mut call, policy, asked, exchange.started);
        let asked_for = (call.target.route.label, call.tenant.label);
        let usual = || this.usual(asked_for, asked.all_pages);
        let mut timing = None; // of the fill, if this request begins one: a hit signs nothing
        let result = &mut exchange.result;
        *result = RequestResult::Coalesced; // unless memory answers, or this request begins a fill
        let fill = |progress, reason| {
            *result = RequestResult::Miss;
            let timing = timing.insert(Timing::begin());
            let longest = if asked.all_pages {
                policy.crawl_timeout
            } else {
                this.bounds.request_timeout // no caller waits longer
            };
            let (deadline, until) = (asked.deadline, Instant::now() + longest);
            let all_pages = asked.all_pages;
            let errand = Errand::of_query(reason, all_pages, timing.clone(), deadline, until);
            self.clone().fill(call, errand, progress)
        };
        let found = this.cache.get_or_fill(&question, usual, fill).await;
        if let Some(timing) = timing {
            timing.tell(exchange);
        }
        if asked.directives.no_store {
            exchange.result = RequestResult::Bypass;
        }
        let found = found.inspect_err(|error| {
            if matches!(**error, Error::NotCached | Error::RefreshRefused) {
                exchange.result = RequestResult::Refused;
            }
        })?;

        let head = &found.page.head;
        exchange.vendor_code.clone_from(&head.vendor_code);
        exchange.fault = head.fault.map(Fault::as_str);
        if let Some(error) = &found.stood_in_for {
            exchange.cause = error.sources();
            exchange.redirect_host = error.redirect_host().map(str::to_owned);
        }
        exchange.saved_a_call = found.lookup != Lookup::Miss && found.failure.is_none();
        if matches!(found.lookup, Lookup::Hit | Lookup::Stale) {
            exchange.age = Some(found.age);
            exchange.result = match found.lookup {
                Lookup::Hit => RequestResult::Hit,
                _ => RequestResult::Stale,
            };
        } else {
            exchange.sent = Some(Sent::Yes.as_str());
            exchange.outcome = Some(head.outcome);
        }
        Ok(response::of_page(&found))
    }

    /// Owned arguments: a fill outlives the request that began it.
    async fn fill(self, call: Call, errand: Errand, progress: Progress) -> Fetched {
        let Kind::Query(policy) = &call.target.route.kind else {
            unreachable!("only queries are filled")
        };
        if errand.class == Class::Crawl {
            let started = Instant::now();
            let crawled = self.crawl(&call, policy, &errand, &progress).await;
            self.0.paces[call.target.route.label]
                .crawl
                .record(started.elapsed());
            return crawled.into();
        }
        let expected = || {
            if policy.pages {
                Expected::PageOf(call.params.clone())
            } else {
                Expected::NoPages
            }
        };
        match self.ask(&call, errand, &progress).await {
            Ok(Answered {
                answer, sent_at, ..
            }) => response::to_filled(answer, &expected(), sent_at).into(),
            Err(Unanswered { error, later }) => Fetched {
                outcome: Err(error),
                later: later.map(|later| later.filled(expected(), progress)),
            },
        }
    }

    /// The longest body of a request, in bytes.
    pub fn max_body(&self) -> usize {
        self.0.bounds.max_body
    }

    /// Does this head bear the token of a caller?
    pub fn is_authenticated(&self, head: &request::Parts) -> bool {
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

    /// The accounts it asks for.
    pub fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    /// Its way to Linksfield.
    pub fn upstream(&self) -> Arc<Upstream> {
        self.0.upstream.clone()
    }

    /// Its share of the vendor's limits.
    pub fn quota(&self) -> Quota<Slot> {
        self.0.quota.clone()
    }

    /// What is switched off, of this configuration and of those that follow it.
    pub fn brakes(&self) -> Brakes {
        self.0.brakes.clone()
    }

    /// How far our clock is from Linksfield's.
    pub fn skew(&self) -> Skew {
        self.0.skew.clone()
    }

    /// What time it is, as far as is known.
    fn told(&self) -> Told {
        self.0.skew.tell(wall_clock())
    }

    /// What survives a restart, if anything does.
    pub fn store(&self) -> Option<Store> {
        self.0.store.clone()
    }

    /// The idempotency keys of commands.
    pub fn keys(&self) -> Keys {
        self.0.keys.clone()
    }

    /// How many commands are under way.
    pub fn commands_in_flight(&self) -> usize {
        self.0.commands.len()
    }

    /// Waits until every command that is under way has ended.
    pub async fn commands_finished(&self) {
        self.0.commands.close();
        self.0.commands.wait().await;
    }

    fn quota_levels(&self) -> QuotaLevels {
        let levels = self.0.quota.levels();
        self.0.sparing.set(levels.thrift);
        let (mut limit, mut remaining) = (Vec::new(), Vec::new());
        let mut window = |name, level: Level| {
            limit.push((name, level.limit.into()));
            remaining.push((name, level.remaining.into()));
        };
        if let Some(level) = levels.second {
            window("second", level);
        }
        window("connections", levels.connections);
        let mut resets_at = Vec::new();
        if let Some(day) = levels.day {
            limit.push(("day", day.limit.into()));
            remaining.push(("day", day.remaining.into()));
            remaining.push(("day_queries", day.remaining_for_queries.into()));
            let now = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
            let more_at = now.unwrap_or_default() + day.more_in;
            resets_at.push(("day", more_at.as_secs_f64()));
        }
        let queue = self.0.quota.queue_lengths().into_iter();
        QuotaLevels {
            queue_length: queue
                .map(|(class, number)| (class.as_str(), number))
                .collect(),
            limit,
            remaining,
            resets_at,
            assumed: levels.day.is_some_and(|day| day.is_assumed),
            allowed_rate: if levels.pause.is_zero() {
                levels.allowed_rate.unwrap_or(f64::INFINITY)
            } else {
                0.0 // the vendor wants no call now
            },
            thrift: levels.thrift as u8,
        }
    }

    fn upstream_levels(&self) -> UpstreamLevels {
        let traffic = self.0.upstream.traffic().levels();
        UpstreamLevels {
            connections: traffic
                .map(|(protocol, number, _)| (protocol, number))
                .into(),
            requests_in_flight: traffic
                .map(|(protocol, _, number)| (protocol, number))
                .into(),
            slots_held: self.0.quota.slots_held(),
            clock_skew: self.0.skew.seconds(wall_clock()),
            certificate_expires_at: self.0.upstream.certificate_expires_at(),
        }
    }

    /// Where an answer that nothing classifies is the usual one, in words.
    fn episodes(&self) -> Vec<Episode> {
        let all = self.0.usual_answers.episodes().into_iter();
        all.map(|((route, tenant), answer)| {
            let answer = answer.to_string();
            self.0.metrics.episode(route, tenant, answer)
        })
        .collect()
    }

    /// The values of now, for the metrics.
    pub fn snapshot(&self) -> Snapshot {
        let cache = self.0.cache.statistics();
        Snapshot {
            upstream: self.upstream_levels(),
            commands: CommandLevels {
                keys: self.0.keys.census(),
                store_failing: self.0.keys.store_is_failing(),
            },
            cache: CacheLevels {
                entries: cache.entries,
                bytes: cache.bytes,
                evictions: cache.evictions,
                fills_in_flight: cache.fills,
            },
            quota: self.quota_levels(),
            breaker_open: self.0.breaker.is_open(),
            episodes: self.episodes(),
            state_store_failed: self.0.keys.store_has_failed(),
        }
    }
}

/// How sparing the day's budget demands to be, as of the last call: a hit asks nobody else.
#[derive(Debug, Clone, Default)]
struct Thriftiness(Arc<AtomicU8>);

impl Thriftiness {
    fn set(&self, thrift: Thrift) {
        self.0.store(thrift as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Sparing {
        let level = self.0.load(Ordering::Relaxed);
        Sparing {
            no_refresh: level >= Thrift::NoRefresh as u8,
            longer_stale: level >= Thrift::LongerStale as u8,
            no_forced: level >= Thrift::NoForced as u8,
        }
    }
}

fn of_breaker(config: &Config, before: Option<&Stations>) -> Breaker {
    let breaker = &config.upstream.breaker;
    let settings = breaker::Settings {
        consecutive: breaker.consecutive.get(),
        failure_ratio: breaker.failure_ratio,
        min_calls: breaker.min_calls.get() as usize,
        window: breaker.window,
        open_for: breaker.open_for,
    };
    match before {
        None => Breaker::new(settings),
        Some(before) => {
            before.breaker.change(settings);
            before.breaker.clone()
        }
    }
}

/// What is usual of each route and tenant. Of another vendor nothing is known.
fn of_usual_answers(config: &Config, tenants: &Tenants, before: Option<&Stations>) -> Usual {
    let breaker = &config.upstream.breaker;
    let settings = unclassified::Settings {
        answers: breaker.min_calls.get() as usize,
        window: breaker.window.saturating_mul(WINDOWS),
        open_for: breaker.open_for,
    };
    let is_query = |kind: &RouteKind| *kind == RouteKind::Query;
    let kinds = Routes::kinds(config);
    let paths = Routes::labels(config).into_iter();
    let routes: Vec<_> = paths.zip(kinds.iter().map(is_query)).collect();
    let base_url = config.upstream.base_url.to_string();
    let mut accounts: Vec<_> = tenants.iter().collect();
    accounts.sort_by_key(|tenant| tenant.label);
    let accounts: Vec<_> = accounts
        .iter()
        .map(|tenant| format!("{base_url} {}", tenant.access_code))
        .collect();
    let before = before.map(|before| &before.usual_answers);
    Usual::new(settings, &routes, &accounts, before)
}

fn of_retries(config: &Config, before: Option<&Stations>) -> Retries {
    let retry = &config.upstream.retry;
    let settings = retry::Settings {
        attempts: retry.attempts.get(),
        budget: retry.budget,
        min_per_second: retry.min_per_second,
        backoff: retry.backoff,
        max_backoff: retry.max_backoff,
    };
    match before {
        None => Retries::new(settings),
        Some(before) => {
            before.retries.change(settings);
            before.retries.clone()
        }
    }
}
