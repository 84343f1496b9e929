//! What does a scrape cost with 100 tenants, and what does a request cost meanwhile?

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use linksfield_gateway::telemetry::{
    Constants, Keys, Labels, Metrics, QuotaLevels, RouteKind, Snapshot,
};

const TENANTS: usize = 100;
const CALLERS: usize = 20;
const QUERIES: usize = 5;
const COMMANDS: usize = 5;

/// As many tenants as anybody has, each asked for by two callers on each route.
fn busy() -> Metrics {
    let named = |prefix: &str, number: usize| {
        let names = (0..number).map(|index| format!("{prefix}{index}"));
        names.chain(["other".to_owned()]).collect()
    };
    let kinds = std::iter::repeat_n(RouteKind::Query, QUERIES)
        .chain(std::iter::repeat_n(RouteKind::Command, COMMANDS + 1));
    let metrics = Metrics::new(Labels {
        routes: named("/package/route", QUERIES + COMMANDS),
        kinds: kinds.collect(),
        tenants: named("tenant", TENANTS),
        callers: named("caller", CALLERS),
    });
    metrics.take_effect(&Constants {
        cache_capacity: 64 << 20,
        commands: true,
        is_paused: false,
        error_codes: linksfield_gateway::gateway::error::CODES,
    });
    for tenant in 0..TENANTS {
        for route in 0..QUERIES + COMMANDS {
            for caller in [tenant % CALLERS, (tenant + 1) % CALLERS] {
                exchange(&metrics, route, tenant, caller);
            }
            metrics.upstream_call(
                route,
                tenant,
                "success",
                "caller",
                std::time::Duration::ZERO,
            );
        }
    }
    metrics
}

fn exchange(metrics: &Metrics, route: usize, tenant: usize, caller: usize) {
    let mut exchange = metrics.exchange(metrics.request_id());
    (exchange.route, exchange.tenant, exchange.caller) = (route, tenant, caller);
}

fn snapshot() -> Snapshot {
    Snapshot {
        cache_entries: 0,
        cache_bytes: 0,
        cache_evictions: 0,
        fills_in_flight: 0,
        queue_length: 0,
        queue: ["command", "query", "crawl", "refresh"].map(|class| (class, 0)),
        quota: QuotaLevels {
            windows: Vec::new(),
            day_for_queries: None,
            day_resets_at: None,
            is_assumed: false,
            allowed_rate: None,
            thrift: 0,
        },
        keys: Keys::default(),
        state_store_failing: false,
        state_store_failed: false,
        slots_held: 0,
        breaker_open: false,
        episodes: Vec::new(),
        clock_skew: None,
        protocols: Vec::new(),
        certificate_expires_at: None,
    }
}

fn benches(criterion: &mut Criterion) {
    let (metrics, snapshot) = (busy(), snapshot());
    let scrape = metrics.render(&snapshot);
    let lines = scrape.split(|byte| *byte == b'\n');
    let series = lines.filter(|line| line.starts_with(b"linksfield")).count();
    println!("{series} series, {} KiB", scrape.len() / 1024);
    criterion.bench_function("a scrape", |bencher| {
        bencher.iter(|| black_box(metrics.render(&snapshot)));
    });
    criterion.bench_function("the record of a request", |bencher| {
        bencher.iter(|| exchange(&metrics, 0, 0, 0));
    });
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (metrics, snapshot) = (&metrics, &snapshot);
        scope.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                black_box(metrics.render(snapshot));
            }
        });
        criterion.bench_function(
            "the record of a request, with scrape upon scrape",
            |bencher| {
                bencher.iter(|| exchange(metrics, 0, 0, 0));
            },
        );
        drop(stop);
    });
}

criterion_group!(all, benches);
criterion_main!(all);
