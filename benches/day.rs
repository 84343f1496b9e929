//! What does a day cost? `cargo bench --bench day` prints a report; with `-- 7` behind it, that of
//! another seed.
//!
//! Some 50 callers, four accounts, office hours and a quiet night, a vendor that answers in 0.5 to
//! 8 s and is down for ten minutes: two such days pass while time is paused, and moves on when
//! nobody has anything to do. The second is reported, as it begins with the calls of the first: the
//! day of 5,000 calls is any 24 hours.
//!
//! The same days are run twice. With the times of the shipped configuration, by which a page that
//! is asked for day and night costs 2,880 calls a day: two of them are more than the vendor takes,
//! and the appetite below has about six, and twelve in office hours. And with `fresh_for = "5m"`,
//! which the arithmetic of `check` leads to: 288 calls for each of the six and 120 for each of the
//! twelve are 3,168, of the 4,500 that queries may make.
//!
//! Saved is what did not cost a call of all queries that were answered; those that were refused are
//! no saving. Every call that queries have caused counts: background refreshes, retries, each page
//! of a crawl. A document of all pages counts as one answer, though its caller would have made a
//! call for each page.
//!
//! **In it is of the gateway** all that lies behind its listeners: each request goes through
//! `Gateway::handle`, each call of the vendor through its HTTP client, over streams in memory, on
//! tokio's paused clock. What is told is read from the answers (status, `Cache-Status`, `Age`) and
//! from the metrics. **Not in it:** sockets, TLS, HTTP/2, callers' tokens and connections, the
//! directory of state, drain and reload. The vendor is a model that counts (`day/vendor.rs`).
//!
//! **The appetite** (`day/callers.rs`) is what we take for usual, not measured at a customer. 30
//! dashboards poll one of four views of their account every 5, 10, 15, 20, 30 or 60 s, which is
//! what such panels offer; six hang on a wall and never sleep, the others follow a working day with
//! a break. Each account is read page by page once a night; two accounts are read page by page
//! three times a day, and exported as one document once an hour. Eight services place 160 orders a
//! day, one in ten at any hour, and read their own order after each. Four people look up twelve
//! cards an hour, once in ten times with `no-cache`. The accounts have 60 to 1,050 orders; the
//! vendor's own example has 105.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use linksfield_gateway::build::build;
use linksfield_gateway::clock::WallClock;
use linksfield_gateway::config::{Config, Secrets, TenantSecret};
use linksfield_gateway::gateway::Lasting;
use linksfield_gateway::gateway::command::LastingCommands;
use linksfield_gateway::gateway::command::keys::Keys;
use linksfield_gateway::gateway::query::LastingQueries;
use linksfield_gateway::gateway::vendor::LastingVendor;
use linksfield_gateway::gateway::vendor::quota::Thrift;
use linksfield_gateway::gateway::vendor::skew::Skew;
use linksfield_gateway::live::Current;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use self::client::Client;
use self::report::{Calls, Report};
use self::vendor::Vendor;

#[path = "day/callers.rs"]
mod callers;
#[path = "day/client.rs"]
mod client;
#[path = "day/report.rs"]
mod report;
#[path = "day/vendor.rs"]
mod vendor;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const SEED: u64 = 20_261_124;

/// In a second, connections, in a day: what the vendor allows, and the shipped configuration says.
const LIMITS: [usize; 3] = [10, 3, 5000];

/// In the middle of the second morning.
const OUTAGE: (Duration, Duration) = (
    Duration::from_secs((24 + 10) * 60 * 60 + 40 * 60),
    Duration::from_secs(10 * 60),
);

const ORDERS: &str = "/package/queryOrder";
const DEVICE: &str = "/device/queryDevice";
const ORDER: &str = "/package/orderPackage";

/// An account.
struct Tenant {
    orders: u64,
    orders_a_day: u64,
    /// Its part of the dashboards and of those who look up cards.
    callers_in_a_hundred: usize,
}

impl Tenant {
    /// Two orders for each card.
    const fn devices(&self) -> u64 {
        self.orders / 2
    }
}

const TENANTS: [Tenant; 4] = [
    tenant(1050, 80, 50),
    tenant(420, 40, 25),
    tenant(180, 24, 15),
    tenant(60, 16, 10),
];

const fn tenant(orders: u64, orders_a_day: u64, callers_in_a_hundred: usize) -> Tenant {
    Tenant {
        orders,
        orders_a_day,
        callers_in_a_hundred,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tenant_name(tenant: usize) -> String {
    format!("tenant{tenant}")
}

fn access_code(tenant: usize) -> String {
    format!("P{tenant}")
}

/// The shipped configuration, with these accounts, with other times for pages of orders and cards,
/// and with the vendor in memory.
fn config(fresh_for: &str, stale_for: &str) -> Config {
    let shipped = include_str!("../config/gateway.toml");
    let (before, rest) = shipped.split_once("[tenants.acme]").expect("a tenant");
    let (_, routes) = rest.split_once("\n[").expect("routes");
    let tenants = (0..TENANTS.len()).map(|tenant| {
        let (name, code) = (tenant_name(tenant), access_code(tenant));
        format!("[tenants.{name}]\naccess_code = \"{code}\"\nsecret_env = \"{name}\"\n")
    });
    let tenants: String = tenants.collect();
    let text = format!("{before}{tenants}[{routes}");
    let vendor = "base_url = \"http://vendor.example\"\nallow_plaintext = true";
    let changed = text.lines().map(|line| match line {
        "fresh_for = \"30s\"" => format!("fresh_for = \"{fresh_for}\"\n"),
        "stale_for = \"30s\"" => format!("stale_for = \"{stale_for}\"\n"),
        line if line.starts_with("base_url = ") => format!("{vendor}\n"),
        line => format!("{line}\n"),
    });
    let text: String = changed.collect();
    let (config, _) = Config::parse(&text, "config/gateway.toml", std::iter::empty())
        .unwrap_or_else(|problems| panic!("{problems}"));
    config
}

/// The gateway of a configuration, and the vendor behind it.
fn start(seed: u64, config: &Config) -> (Current, Vendor) {
    let clock = WallClock::simulated(SystemTime::UNIX_EPOCH + DAY * 20_000); // a midnight
    let vendor = Vendor::new(seed, clock, OUTAGE);
    let secrets = (0..TENANTS.len()).map(|tenant| {
        let secret = TenantSecret {
            current: "secret of the bench".into(),
            previous: None,
        };
        (tenant_name(tenant), secret)
    });
    let secrets = Secrets {
        tenants: secrets.collect(),
        ..Secrets::default()
    };
    let skew = Skew::new(clock);
    let keys = Keys::new(&config.idempotency, None, Vec::new(), skew.clone());
    let transport = Arc::new(vendor.clone());
    let lasting = Lasting {
        vendor: LastingVendor::over(transport, config, None, None, skew),
        queries: LastingQueries::new(config),
        commands: LastingCommands::new(keys),
    };
    let current = build(config, &secrets, &lasting, None).expect("secrets of the bench");
    (current, vendor)
}

/// The calls that were sent so far, by reason. One that found no connection is recorded, and was
/// not sent.
fn calls(current: &Current) -> Calls {
    let metrics = current.metrics.render(&current.gateway.snapshot());
    let metrics = String::from_utf8(metrics).expect("text");
    let mut calls = Calls::new();
    for line in metrics.lines() {
        let series = line.strip_prefix("linksfield_gateway_upstream_requests_total{");
        let Some((labels, count)) = series.and_then(|series| series.split_once("} ")) else {
            continue;
        };
        let label = |name: &str| {
            let (_, value) = labels.split_once(&format!("{name}=\"")).expect("a label");
            value.split('"').next().expect("a value").to_owned()
        };
        if label("outcome") == "upstream_unreachable" {
            continue;
        }
        let reason = match label("route").as_str() {
            ORDER => "command".to_owned(), // who asks for it is "caller" too
            _ => label("reason"),
        };
        let count: u64 = count.parse().expect("a whole number");
        *calls.entry(reason).or_default() += count;
    }
    calls
}

/// Looks at the thrift of the second day every minute. Never ends.
async fn watch(client: Arc<Client>, current: Arc<Current>) {
    sleep_until(client.began() + DAY).await;
    loop {
        let thrift = Thrift::of_level(current.gateway.snapshot().quota.thrift);
        lock(&client.report).thrift(client.time(), thrift);
        sleep(MINUTE).await;
    }
}

/// Two days.
fn run(seed: u64, config: &Config) -> Report {
    fastrand::seed(seed); // the gateway's own chances
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (current, vendor) = start(seed, config);
        let current = Arc::new(current);
        let client = Arc::new(Client::new(current.gateway.clone()));
        tokio::spawn(watch(client.clone(), current.clone()));
        let mut days = JoinSet::new();
        callers::spawn(&client, seed, &mut days);
        sleep_until(client.began() + DAY).await;
        let first_day = calls(&current);
        while let Some(ended) = days.join_next().await {
            ended.expect("no caller panics");
        }
        let mut of_second_day = calls(&current);
        for (reason, calls) in &mut of_second_day {
            *calls -= first_day.get(reason).unwrap_or(&0);
        }
        let mut report = std::mem::take(&mut *lock(&client.report));
        report.end(of_second_day, vendor.highest());
        report
    })
}

fn main() {
    let seed = std::env::args().find_map(|argument| argument.parse().ok());
    let seed = seed.unwrap_or(SEED);
    println!("A day of some 50 callers, seed {seed}\n");
    for (name, fresh_for, stale_for) in [
        (
            "as shipped: fresh for 30 s, stale for 30 s more",
            "30s",
            "30s",
        ),
        (
            "by the arithmetic of `check`: fresh for 5 min, stale for 5 min more",
            "5m",
            "5m",
        ),
    ] {
        println!("{name}\n{}", run(seed, &config(fresh_for, stale_for)));
    }
}
