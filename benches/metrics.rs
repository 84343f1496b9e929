//! What does a scrape cost with 100 tenants, and what does a request cost meanwhile?

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use linksfield_gateway::telemetry::{
    CallerLabel, Constants, Labels, Metrics, RouteKind, RouteLabel, Snapshot, TenantLabel,
};
use linksfield_gateway::words::{CallReason, Ending, Outcome};

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
                RouteLabel(route),
                TenantLabel(tenant),
                Ending::Answered(Outcome::Success),
                CallReason::Caller,
                std::time::Duration::ZERO,
            );
        }
    }
    metrics
}

fn exchange(metrics: &Metrics, route: usize, tenant: usize, caller: usize) {
    let mut exchange = metrics.exchange(metrics.request_id());
    exchange.labels.route = RouteLabel(route);
    exchange.labels.tenant = TenantLabel(tenant);
    exchange.labels.caller = CallerLabel(caller);
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let classes = ["command", "query", "crawl", "refresh"];
    snapshot.quota.queue_length = classes.map(|class| (class, 0)).into();
    snapshot
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
