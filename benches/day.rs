//! What does a day cost? `cargo bench --bench day`, or with another seed `cargo bench --bench day -- 7`, prints a report.
//!
//! Some 50 callers, four accounts, office hours and a quiet night, a vendor that answers in 0.5 to 8 s and is down for
//! ten minutes: two such days pass on a clock that does not run, in seconds. The second is reported, as it begins with
//! the calls of the first: the day of 5,000 calls is any 24 hours.
//!
//! The same days are run twice. With the times of the shipped configuration, by which a page that is asked for day and
//! night costs 2,880 calls a day: two of them are more than the vendor takes, and the appetite below has about six, and
//! twelve in office hours. And with `fresh_for = "5m"`, which the arithmetic of `check` leads to: 288 calls for each of the
//! six and 120 for each of the twelve are 3,168, of the 4,500 that queries may make.
//!
//! Saved is what did not cost a call of all queries that were answered; those that were refused are no saving. Every
//! call that queries have caused counts: background refreshes, retries, each page of a crawl. A document of all pages
//! counts as one answer, though its caller would have made a call for each page.
//!
//! **In it is of the gateway:** configuration and policies, normal form, keys, scopes and what a command names, the
//! cache, the quota, the breaker, the retries, the request directives; all real, on tokio's paused clock. **Not in it:**
//! sockets, HTTP, TLS, callers' tokens, signing, reading answers, drain and reload; and the order of the steps is
//! written down again in `day/gateway.rs`, as the gateway's own needs sockets. The vendor is a model that counts
//! (`day/vendor.rs`).
//!
//! **The appetite** (`day/callers.rs`) is what we take for usual, not measured at a customer. 30 dashboards poll one of
//! four views of their account every 5, 10, 15, 20, 30 or 60 s, which is what such panels offer; six hang on a wall and
//! never sleep, the others follow a working day with a break. Each account is read page by page once a night; two
//! accounts are read page by page three times a day, and exported as one document once an hour. Eight services place 160
//! orders a day, one in ten at any hour, and read their own order after each. Four people look up twelve cards an
//! hour, once in ten times with `no-cache`. The accounts have 60 to 1,050 orders; the vendor's own example has 105.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linksfield_gateway::config::Config;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use self::gateway::Gateway;
use self::report::Report;
use self::vendor::Vendor;

#[path = "day/callers.rs"]
mod callers;
#[path = "day/gateway.rs"]
mod gateway;
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

/// The shipped configuration, with other times for pages of orders and cards.
fn config(fresh_for: &str, stale_for: &str) -> Config {
    let shipped = include_str!("../config/gateway.toml");
    let text: String = shipped
        .lines()
        .map(|line| match line {
            "fresh_for = \"30s\"" => format!("fresh_for = \"{fresh_for}\"\n"),
            "stale_for = \"30s\"" => format!("stale_for = \"{stale_for}\"\n"),
            line => format!("{line}\n"),
        })
        .collect();
    let (config, _) = Config::parse(&text, "config/gateway.toml", std::iter::empty())
        .unwrap_or_else(|problems| panic!("{problems}"));
    config
}

/// Two days.
fn run(seed: u64, config: Config) -> Report {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let vendor = Vendor::new(seed, &TENANTS, OUTAGE);
        let gateway = Gateway::new(config, vendor.clone());
        let mut days = JoinSet::new();
        callers::spawn(&gateway, seed, &mut days);
        while let Some(ended) = days.join_next().await {
            ended.expect("no caller panics");
        }
        let mut report = std::mem::take(&mut *lock(&gateway.report));
        report.end(vendor.highest());
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
        println!("{name}\n{}", run(seed, config(fresh_for, stale_for)));
    }
}
