//! What does a query cost that memory answers, and what one that waits for somebody else's fill?
//!
//! `cargo bench --bench cache`: both are measured in one run, a thousand callers at a time, as their ratio is what counts:
//! a waiter should cost about what a hit costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use linksfield_gateway::gateway::cache::{
    Cache, Filled, Found, Key, Lookup, Pages, Question, Scope, Sparing,
};
use linksfield_gateway::gateway::directives::Directives;
use linksfield_gateway::gateway::error::Error;
use linksfield_gateway::gateway::page::{Page, Position};
use linksfield_gateway::gateway::params::Params;
use linksfield_gateway::gateway::route::Policy;
use tokio::runtime::Builder;
use tokio::time::Instant;

const CALLERS: usize = 1000;

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

struct Bench {
    cache: Cache,
    scope: Arc<Scope>,
    fills: AtomicU64,
}

/// A page of the size of the vendor's example.
fn filled() -> Filled {
    Filled {
        page: Arc::new(Page {
            status: hyper::StatusCode::OK,
            content_type: None,
            content_language: None,
            content_encoding: None,
            retry_after: None,
            body: vec![b'x'; 1200].into(),
            fault: None,
            vendor_code: Some("0000".into()),
        }),
        not_stored: None,
        pages: Pages::One(Position {
            number: 1,
            total_count: 105,
            total_pages: 53,
            orders: vec![1, 2],
        }),
        failure: None,
        sent_at: Instant::now(),
    }
}

impl Bench {
    fn new() -> Self {
        let path = "/package/queryOrder".into();
        Self {
            cache: Cache::new(64 << 20),
            scope: Arc::new(Scope::new("https://x".into(), "P000270".into(), path)),
            fills: AtomicU64::new(0),
        }
    }

    /// One caller, its body read into the normal form, as the gateway does it for each request.
    async fn ask(&self, device: u64) -> Result<Found, Arc<Error>> {
        let body = format!(
            r#"{{"device_id":"{device}","order_id":"","order_status":"","page_no":1,"page_size":2}}"#
        );
        let params = Params::parse(body.as_bytes()).expect("JSON");
        let now = Instant::now();
        let question = Question {
            key: Key::new(self.scope.clone(), "zh-CN".into(), &params),
            policy: &POLICY,
            configuration: 0,
            sparing: Sparing::default(),
            directives: Directives::default(),
            arrived_at: now,
            deadline: now + Duration::from_secs(60),
            names_deadline: false,
        };
        let fill = |_, _| {
            self.fills.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await; // by then all callers wait
                Ok(filled())
            }
        };
        self.cache
            .get_or_fill(&question, Duration::default, fill)
            .await
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

criterion_group!(benches, callers);
criterion_main!(benches);
