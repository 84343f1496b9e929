//! What does a query cost that memory answers, and what one that waits for somebody else's fill?
//! What does it cost to keep a page?
//!
//! `cargo bench --bench cache`. A hit and a waiter are measured a thousand callers at a time, as
//! their ratio is what counts: a waiter should cost about what a hit costs. The parts of both are
//! measured one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::{FutureExt, join_all};
use linksfield_gateway::clock::Moment;
use linksfield_gateway::gateway::error::Error;
use linksfield_gateway::gateway::page::{Head, Page, Position};
use linksfield_gateway::gateway::query::cache::{
    Cache, Filled, Found, Key, Lookup, Pages, Question, Scope, Sparing, Terms,
};
use linksfield_gateway::gateway::request::directives::Directives;
use linksfield_gateway::gateway::request::route::Policy;
use linksfield_gateway::signing::params::Params;
use tokio::runtime::Builder;
use tokio::time::Instant;

const CALLERS: usize = 1000;

/// Pages of one query.
const PAGES: u64 = 53;

/// Different queries in memory.
const QUERIES: u64 = 10_000;

const POLICY: Policy = Policy {
    fresh_for: Duration::from_secs(3600),
    stale_for: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    stale_patience: Duration::ZERO,
    min_refresh: Duration::ZERO,
    pages: true,
    max_pages: 100,
    crawl_timeout: Duration::from_secs(300),
};

fn params(device: u64, page: u64) -> Params {
    let body = format!(
        r#"{{"device_id":"{device}","order_id":"","order_status":"","page_no":{page},"page_size":2}}"#
    );
    Params::parse(body.as_bytes()).expect("JSON")
}

struct Bench {
    cache: Cache,
    scope: Arc<Scope>,
    language: Arc<str>,
    fills: AtomicU64,
}

/// A page of the size of the vendor's example, with orders of its own.
fn filled(number: u64) -> Filled {
    Filled {
        page: Arc::new(Page {
            head: Head::of(hyper::StatusCode::OK).shared(),
            body: vec![b'x'; 1200].into(),
        }),
        not_stored: None,
        pages: Pages::One(Position {
            number,
            size: 2,
            total_count: 2 * PAGES,
            total_pages: PAGES,
            orders: vec![2 * number - 1, 2 * number],
        }),
        failure: None,
        sent_at: Moment::now(),
    }
}

impl Bench {
    fn new() -> Self {
        let path = "/package/queryOrder".into();
        Self {
            cache: Cache::new(64 << 20),
            scope: Arc::new(Scope::new("https://x".into(), "P000270".into(), path)),
            language: "zh-CN".into(),
            fills: AtomicU64::new(0),
        }
    }

    fn key(&self, params: &Params) -> Key {
        Key::new(self.scope.clone(), self.language.clone(), params)
    }

    /// One caller, its body read into the normal form, as the gateway does it for each request.
    async fn ask(&self, device: u64) -> Result<Found, Arc<Error>> {
        self.look_up(&params(device, 1)).await
    }

    async fn look_up(&self, params: &Params) -> Result<Found, Arc<Error>> {
        let now = Instant::now();
        let question = Question {
            key: self.key(params),
            policy: &POLICY,
            configuration: 0,
            sparing: Sparing::default(),
            directives: Directives::default(),
            arrived_at: Moment::of(now),
            deadline: now + Duration::from_secs(60),
            names_deadline: false,
        };
        let fill = |_, _| {
            self.fills.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await; // by then all callers wait
                Ok(filled(1))
            }
        };
        self.cache
            .get_or_fill(&question, Duration::default, fill)
            .await
    }

    /// Keeps a page as one that has come.
    fn keep(&self, params: &Params, number: u64) {
        let key = self.key(params);
        let terms = Terms {
            validity: key.begin(Moment::now()),
            configuration: 0,
            is_private: false,
            is_forced: false,
        };
        self.cache.keep_page(&key, filled(number), terms, &POLICY);
    }

    /// A thousand callers of one query, all at once; how many were answered in this way?
    async fn ask_all(&self, device: u64, way: Lookup) -> usize {
        let replies = join_all((0..CALLERS).map(|_| self.ask(device))).await;
        let replies = replies.into_iter().map(|reply| reply.expect("no failure"));
        replies.filter(|found| found.lookup == way).count()
    }
}

fn callers(criterion: &mut Criterion) {
    // One thread, so that a fill ends after all have asked.
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("a thousand callers of one query");
    group.throughput(Throughput::Elements(CALLERS as u64));

    runtime.block_on(bench.ask(0)).expect("no failure");
    group.bench_function("hit", |run| {
        run.iter(|| {
            let hits = runtime.block_on(bench.ask_all(0, Lookup::Hit));
            assert_eq!(hits, CALLERS);
        });
    });

    let mut device = 0;
    group.bench_function("wait for one fill", |run| {
        run.iter(|| {
            device += 1;
            let before = bench.fills.load(Ordering::Relaxed);
            let waiters = runtime.block_on(bench.ask_all(device, Lookup::Coalesced));
            assert_eq!(waiters, CALLERS - 1);
            assert_eq!(bench.fills.load(Ordering::Relaxed), before + 1, "one call");
        });
    });
    group.finish();
}

fn parts(criterion: &mut Criterion) {
    let bench = Bench::new();
    let queries: Vec<_> = (0..QUERIES).map(|device| params(device, 1)).collect();
    for query in &queries {
        bench.keep(query, 1);
    }
    let mut next = queries.iter().cycle();
    criterion.bench_function("a key and a hit", |run| {
        run.iter(|| {
            let query = next.next().expect("there are queries");
            let found = bench.look_up(query).now_or_never();
            let found = found.expect("a hit waits for nobody");
            assert_eq!(found.expect("no failure").lookup, Lookup::Hit);
        });
    });

    let pages: Vec<_> = (1..=PAGES)
        .map(|number| (params(0, number), number))
        .collect();
    let mut next = pages.iter().cycle();
    criterion.bench_function("a page that joins its snapshot", |run| {
        run.iter(|| {
            let (page, number) = next.next().expect("there are pages");
            bench.keep(page, *number);
        });
    });
    assert_eq!(bench.fills.load(Ordering::Relaxed), 0);
}

criterion_group!(benches, callers, parts);
criterion_main!(benches);
