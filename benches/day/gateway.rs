//! The gateway without its sockets: the real stations, in the order of `src/gateway.rs`, `src/gateway/vendor/call.rs`,
//! `src/gateway/command.rs` and `src/gateway/query/crawl.rs`.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use linksfield_gateway::clock::Moment;
use linksfield_gateway::config::{CRAWLS, Config};
use linksfield_gateway::gateway::error::{Error, Unreachable};
use linksfield_gateway::gateway::page::{Page, Position};
use linksfield_gateway::gateway::progress::Progress;
use linksfield_gateway::gateway::query::cache::{
    Cache, Filled, Found, Key, Lookup, Named, NotStored, PageOfAll, Pages, Question, Reason, Scope,
    Sparing,
};
use linksfield_gateway::gateway::request::directives::Directives;
use linksfield_gateway::gateway::request::route::{Kind, Policy, Routes, Target};
use linksfield_gateway::gateway::vendor::breaker::{self, Breaker};
use linksfield_gateway::gateway::vendor::quota::{self, Ask, Permit, Quota, Thrift};
use linksfield_gateway::gateway::vendor::retry::{self, Retries};
use linksfield_gateway::gateway::vendor::skew::Told;
use linksfield_gateway::signing::params::Params;
use linksfield_gateway::words::{CallEnd, Class, Outcome, Sent};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::report::{Calls, Report};
use super::vendor::{Asked, Filter, Said, Slot, Vendor, belong_together, page};
use super::{DAY, TENANTS, lock};

/// As in `src/gateway.rs`.
const WAY_BACK: u32 = 20;

/// As in `src/gateway/query/crawl.rs`.
const CRAWL_SHARE: u64 = 10;

/// As in `src/gateway/vendor/pace.rs`: the calls whose time is remembered.
const REMEMBERED: usize = 64;

const ORDERS: &str = "/package/queryOrder";
const DEVICE: &str = "/device/queryDevice";
const ORDER: &str = "/package/orderPackage";

/// The stations.
pub struct Gateway {
    config: Config,
    routes: Routes,
    cache: Cache,
    pub quota: Quota<Slot>,
    breaker: Breaker,
    retries: Retries,
    sparing: Mutex<Sparing>,
    /// By tenant: of orders, of devices.
    scopes: Vec<[Arc<Scope>; 2]>,
    crawls: (Vec<Semaphore>, Semaphore),
    /// Of calls, and of crawls.
    paces: [Mutex<Vec<Duration>>; 2],
    vendor: Arc<Vendor>,
    began: Instant,
    pub report: Mutex<Report>,
}

/// A query as its caller asks it.
#[derive(Debug, Clone, Copy)]
pub enum Query {
    /// A page of orders: the filter, its number, its size.
    Page(Filter, u64, u64),
    /// All pages as one document.
    AllPages,
    /// A card.
    Device(u64),
}

/// What a call of the vendor is made of.
#[derive(Clone)]
struct Call {
    target: Target,
    tenant: usize,
    asked: Asked,
}

/// How and why, as in `src/gateway/vendor/call.rs`.
#[derive(Clone)]
struct Errand {
    class: Class,
    reason: &'static str,
    deadline: Instant,
    patience: Instant,
    ends_at: Option<Instant>,
    granted_at: Arc<OnceLock<Instant>>,
}

impl Gateway {
    pub fn new(config: Config, vendor: Arc<Vendor>) -> Arc<Self> {
        let (limits, retry, breaker) = {
            let upstream = &config.upstream;
            (&upstream.limits, &upstream.retry, &upstream.breaker)
        };
        let quota = Quota::new(
            &quota::Limits {
                per_second: limits.share(limits.requests_per_second),
                connections: limits.slots(),
                per_day: limits.share(limits.requests_per_day),
                day_begins_at: limits.day.begins_at_utc_second(),
                command_reserve: limits.command_reserve,
                queue: limits.queue,
                tenants: vec![quota::Share::default(); TENANTS.len()],
            },
            wall(Duration::ZERO),
            None,
        );
        let scope = |tenant: usize, path: &str| {
            let access_code = format!("P{tenant}").into();
            Arc::new(Scope::new("https://x".into(), access_code, path.into()))
        };
        Arc::new(Self {
            routes: Routes::new(&config),
            cache: Cache::new(config.cache.max_size.as_u64()),
            quota,
            breaker: Breaker::new(breaker::Settings {
                consecutive: breaker.consecutive.get(),
                failure_ratio: breaker.failure_ratio,
                min_calls: breaker.min_calls.get() as usize,
                window: breaker.window,
                open_for: breaker.open_for,
            }),
            retries: Retries::new(retry::Settings {
                attempts: retry.attempts.get(),
                budget: retry.budget,
                min_per_second: retry.min_per_second,
                backoff: retry.backoff,
                max_backoff: retry.max_backoff,
            }),
            sparing: Mutex::default(),
            scopes: (0..TENANTS.len())
                .map(|tenant| [ORDERS, DEVICE].map(|path| scope(tenant, path)))
                .collect(),
            crawls: (
                TENANTS.iter().map(|_| Semaphore::new(1)).collect(),
                Semaphore::new(CRAWLS),
            ),
            paces: Default::default(),
            vendor,
            began: Instant::now(),
            report: Mutex::default(),
            config,
        })
    }

    /// The time since the first day began.
    pub fn time(&self) -> Duration {
        self.began.elapsed()
    }

    /// One query, as `Gateway::query` answers it.
    pub async fn query(
        self: &Arc<Self>,
        tenant: usize,
        query: Query,
        headers: &HeaderMap,
    ) -> Result<Found, Arc<Error>> {
        let arrived_at = Instant::now();
        let (path, place) = match query {
            Query::Device(_) => (DEVICE, 1),
            Query::Page(..) | Query::AllPages => (ORDERS, 0),
        };
        let target = self.routes.find(path).expect("a configured path");
        let route = target.route.clone();
        let Kind::Query(policy) = &route.kind else {
            unreachable!("both paths are queries")
        };
        let params = Params::parse(query.body().as_bytes()).expect("JSON");
        let (scope, language) = (self.scopes[tenant][place].clone(), "zh-CN".into());
        let all_pages = matches!(query, Query::AllPages);
        let patience = self.config.server.request_timeout;
        let patience = if all_pages {
            patience.max(policy.crawl_timeout)
        } else {
            patience
        };
        let key = if all_pages {
            Key::whole(scope, language, &params)
        } else {
            Key::new(scope, language, &params)
        };
        let question = Question {
            key: key.clone(),
            policy,
            configuration: 0,
            sparing: *lock(&self.sparing),
            directives: Directives::of(headers),
            arrived_at: Moment::of(arrived_at),
            deadline: arrived_at + patience - patience / WAY_BACK,
            names_deadline: false,
        };
        let usual = || {
            let [call, crawl] = [0, 1].map(|pace| self.p90(pace));
            self.quota.expected_wait(tenant, call) + if all_pages { crawl } else { call }
        };
        let asked = query.asked();
        let call = Call {
            target,
            tenant,
            asked,
        };
        let deadline = question.deadline;
        let fill = |progress, reason| {
            let longest = if all_pages {
                policy.crawl_timeout
            } else {
                self.config.server.request_timeout
            };
            let errand = Errand::of_query(reason, all_pages, deadline, Instant::now() + longest);
            let (gateway, policy) = (self.clone(), policy.clone());
            async move {
                if all_pages {
                    let started = Instant::now();
                    let crawled = gateway
                        .crawl(&call, &key, &policy, &errand, &progress)
                        .await;
                    gateway.record(1, started.elapsed());
                    return crawled;
                }
                let (said, sent_at, _permit) = gateway.ask(&call, errand, &progress).await?;
                Ok(filled(said, sent_at))
            }
        };
        let found = self.cache.get_or_fill(&question, usual, fill).await;
        let mut report = lock(&self.report);
        report.query(self.time(), arrived_at.elapsed(), &found);
        drop(report);
        found
    }

    /// One order, as `Gateway::command` makes it: sent once. The number of the order if it was placed.
    pub async fn order(self: &Arc<Self>, tenant: usize, device: u64) -> Result<u64, Error> {
        let target = self.routes.find(ORDER).expect("a configured path");
        let patience = self.config.server.request_timeout;
        let deadline = Instant::now() + patience - patience / WAY_BACK;
        let body = serde_json::json!({"device_id": device.to_string(), "package_id": "A"});
        let named = Named::of(&Params::parse(body.to_string().as_bytes()).expect("JSON"));
        let Kind::Command { settle, .. } = target.route.kind else {
            unreachable!("an order is a command")
        };
        let errand = Errand {
            class: Class::Command,
            reason: "command",
            deadline,
            patience: deadline,
            ends_at: None,
            granted_at: Arc::default(),
        };
        let call = Call {
            target,
            tenant,
            asked: Asked::Order(device),
        };
        let progress = Progress::default();
        let invalidate = |settles_at: Option<Moment>| {
            for scope in &self.scopes[tenant] {
                scope.invalidate(named.clone(), settles_at);
            }
        };
        // Its caller leaves at the deadline; no order of the day takes so long.
        let result = self
            .call(&call, &errand, &progress, || invalidate(None))
            .await;
        if progress.sent() != Sent::No {
            invalidate(Some(Moment::now() + settle));
        }
        match result?.0 {
            Said::Data(_, number) => Ok(number),
            Said::Fails(_) | Said::Page(..) => Err(Error::UpstreamTimeout(Sent::Unknown)),
        }
    }

    /// All pages, and once more if the orders have moved.
    async fn crawl(
        &self,
        call: &Call,
        key: &Key,
        policy: &Policy,
        errand: &Errand,
        progress: &Progress,
    ) -> Result<Filled, Error> {
        let place = async {
            let of_tenant = self.crawls.0[call.tenant].acquire().await;
            [of_tenant, self.crawls.1.acquire().await]
        };
        let Ok(_place) = timeout_at(errand.patience, place).await else {
            let retry_after = Duration::from_secs(1);
            return Err(Error::Overloaded { retry_after });
        };
        if let Some(pages) = self.cache.total_pages(key, policy) {
            self.may_crawl(pages, 0)?;
        }
        let mut made = 0;
        for _ in 0..2 {
            let mut pages: Vec<PageOfAll> = Vec::new();
            let mut positions: Vec<Position> = Vec::new();
            loop {
                let number = pages.len() as u64 + 1;
                let call = Call {
                    asked: Asked::Orders(Filter::All, number, 100),
                    ..call.clone()
                };
                let (said, sent_at, permit) = self.ask(&call, errand.clone(), progress).await?;
                drop(permit);
                let Said::Page(page, position) = said else {
                    return Ok(filled(said, sent_at));
                };
                if number == 1 {
                    self.may_crawl(position.total_pages, made)?;
                }
                made += 1;
                positions.push(position.clone());
                if !belong_together(&positions) {
                    break;
                }
                let is_last = number >= position.total_pages;
                pages.push(PageOfAll {
                    position,
                    page,
                    sent_at,
                });
                if is_last {
                    return Ok(document(pages));
                }
            }
        }
        Err(Error::PagesMoved)
    }

    fn may_crawl(&self, pages: u64, made: u64) -> Result<(), Error> {
        let Some(left) = self.quota.left_for_queries() else {
            return Ok(());
        };
        let calls = pages.saturating_sub(1);
        if calls > 0 && (made + calls) * CRAWL_SHARE > made + u64::from(left) {
            return Err(Error::CrawlTooDear { calls, left });
        }
        Ok(())
    }

    /// One query, and again where the vendor fails.
    async fn ask(
        &self,
        call: &Call,
        mut errand: Errand,
        progress: &Progress,
    ) -> Result<(Said, Moment, Permit<Slot>), Error> {
        let mut failures = 0;
        self.retries.first();
        loop {
            let attempt = progress.attempt();
            let before = || {
                progress.begin();
            };
            let result = self.call(call, &errand, &attempt, before).await;
            if result.is_ok() {
                progress.answered();
            }
            if end_of(result.as_ref().map(|(said, ..)| said)) != CallEnd::Failure
                || !progress.is_awaited()
            {
                return result;
            }
            failures += 1;
            let Some(granted_at) = errand.granted_at.get() else {
                return result;
            };
            let timeout = call.target.route.timeout;
            let timeout = timeout.unwrap_or(self.config.upstream.timeout);
            let ends_at = errand.ends_at.unwrap_or(*granted_at + timeout);
            let wait = self.retries.next(failures, 0.5);
            let Some(at) = wait
                .map(|wait| Instant::now() + wait)
                .filter(|at| *at < ends_at)
            else {
                return result;
            };
            drop(result);
            sleep_until(at).await;
            errand.reason = "retry";
            errand.ends_at = Some(ends_at);
        }
    }

    /// One call.
    async fn call(
        &self,
        call: &Call,
        errand: &Errand,
        progress: &Progress,
        before: impl Fn(),
    ) -> Result<(Said, Moment, Permit<Slot>), Error> {
        self.breaker.check()?;
        let ask = Ask {
            tenant: call.tenant,
            class: errand.class,
            is_listed: call.target.route.is_listed,
            progress,
            deadline: errand.deadline,
            usual: self.p90(0),
        };
        let mut permit = self.quota.acquire_until(ask, errand.patience).await?;
        let admission = self.breaker.admit()?;
        let granted_at = Instant::now();
        let _ = errand.granted_at.set(granted_at);
        let timeout = call.target.route.timeout;
        let deadline = granted_at + timeout.unwrap_or(self.config.upstream.timeout);
        let deadline = errand.ends_at.map_or(deadline, |end| end.min(deadline));
        let result = if permit.connect(&self.vendor) {
            if !progress.begin() {
                let retry_after = Duration::ZERO;
                return Err(Error::Overloaded { retry_after });
            }
            before();
            let sent_at = Moment::now();
            self.spare(permit.count(told(self.time())));
            lock(&self.report).call(self.time(), errand.reason);
            let answer = self.vendor.answer(call.tenant, call.asked);
            if let Ok(said) = timeout_at(deadline, answer).await {
                progress.answered();
                Ok((said, sent_at))
            } else {
                permit.close();
                Err(Error::UpstreamTimeout(progress.sent()))
            }
        } else {
            Err(Error::UpstreamUnreachable {
                reason: Unreachable::Connection,
                source: io::ErrorKind::ConnectionRefused.into(),
            })
        };
        let ended_at = Instant::now();
        admission.end(end_of(result.as_ref().map(|(said, _)| said)), ended_at);
        self.record(0, ended_at - granted_at);
        result.map(|(said, sent_at)| (said, sent_at, permit))
    }

    fn spare(&self, thrift: Thrift) {
        *lock(&self.sparing) = Sparing {
            no_refresh: thrift >= Thrift::NoRefresh,
            longer_stale: thrift >= Thrift::LongerStale,
            no_forced: thrift >= Thrift::NoForced,
        };
        lock(&self.report).thrift(self.time(), thrift);
    }

    fn record(&self, pace: usize, duration: Duration) {
        let mut durations = lock(&self.paces[pace]);
        if durations.len() == REMEMBERED {
            durations.remove(0);
        }
        durations.push(duration);
    }

    fn p90(&self, pace: usize) -> Duration {
        let mut sorted = lock(&self.paces[pace]).clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 9).div_ceil(10);
        rank.checked_sub(1).map_or(Duration::ZERO, |at| sorted[at])
    }
}

impl Query {
    fn body(self) -> String {
        let body = match self {
            Self::Page(filter, number, size) => {
                let (device, status) = match filter {
                    Filter::All => (String::new(), ""),
                    Filter::InUse => (String::new(), "2"),
                    Filter::Device(device) => (device.to_string(), ""),
                };
                serde_json::json!({
                    "device_id": device, "order_id": "", "order_status": status, "order_type": "",
                    "page_no": number, "page_size": size,
                })
            }
            Self::AllPages => serde_json::json!({"page_size": 100}),
            Self::Device(device) => serde_json::json!({"device_id": device.to_string()}),
        };
        body.to_string()
    }

    fn asked(self) -> Asked {
        match self {
            Self::Page(filter, number, size) => Asked::Orders(filter, number, size),
            Self::AllPages => Asked::Orders(Filter::All, 1, 100),
            Self::Device(_) => Asked::Device,
        }
    }
}

impl Errand {
    fn of_query(reason: Reason, all_pages: bool, deadline: Instant, patience: Instant) -> Self {
        let (class, reason) = match reason {
            _ if all_pages => (Class::Crawl, "crawl"),
            Reason::Caller => (Class::Query, "caller"),
            Reason::NoCache => (Class::Query, "no_cache"),
            Reason::Revalidate => (Class::Refresh, "revalidate"),
        };
        Self {
            class,
            reason,
            deadline: if class == Class::Query {
                deadline.min(patience)
            } else {
                patience
            },
            patience,
            ends_at: all_pages.then_some(patience),
            granted_at: Arc::default(),
        }
    }
}

fn end_of(result: Result<&Said, &Error>) -> CallEnd {
    match result {
        Ok(Said::Page(..) | Said::Data(..)) => CallEnd::Success,
        Ok(Said::Fails(_)) | Err(Error::UpstreamUnreachable { .. } | Error::UpstreamTimeout(_)) => {
            CallEnd::Failure
        }
        Err(_) => CallEnd::Neither,
    }
}

fn filled(said: Said, sent_at: Moment) -> Filled {
    let (page, pages, failure) = match said {
        Said::Page(page, position) => (page, Pages::One(position), None),
        Said::Data(page, _) => (page, Pages::None, None),
        Said::Fails(page) => (page, Pages::None, Some(Outcome::Transient)),
    };
    Filled {
        page,
        not_stored: failure.map(|_| NotStored::NoSuccess),
        pages,
        failure,
        sent_at,
    }
}

fn document(pages: Vec<PageOfAll>) -> Filled {
    let text: Vec<_> = pages.iter().map(|page| page.page.body.as_ref()).collect();
    let text = String::from_utf8(text.concat()).expect("as it was made");
    Filled {
        page: page(200, text, 0),
        not_stored: None,
        failure: None,
        sent_at: pages[0].sent_at,
        pages: Pages::All(pages),
    }
}

/// The wall clock goes with the paused one, from a midnight on.
fn wall(time: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000 + time
}

/// Linksfield's clock shows the same.
fn told(time: Duration) -> Told {
    let now = wall(time);
    Told {
        now,
        earliest: now,
        latest: now,
        is_confirmed: true,
        correction: 0,
    }
}

/// Is this a page, or an answer that tells of a failure?
pub fn is_page(page: &Page) -> bool {
    page.head.status == hyper::StatusCode::OK
}

/// Did a call of the vendor answer this very request?
pub fn costs_a_call(found: &Found) -> bool {
    found.lookup == Lookup::Miss
}

/// By reason.
pub fn of_queries(calls: &Calls) -> u64 {
    let of_queries = calls.iter().filter(|(reason, _)| **reason != "command");
    of_queries.map(|(_, calls)| calls).sum()
}
