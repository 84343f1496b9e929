//! Some 50 callers, and what they want in a day.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Answer, Client, Placed, Query};
use super::report::{Orders, is_outage};
use super::vendor::Filter;
use super::{DAY, HOUR, MINUTE, SECOND, TENANTS, lock};

/// A dashboard asks again after one of these.
const POLLS: [u64; 6] = [5, 10, 15, 20, 30, 60];

/// Of 30 dashboards so many hang on a wall and never sleep.
const WALLS: usize = 6;
const DASHBOARDS: usize = 30;

/// A dashboard shows so many orders.
const ON_A_SCREEN: u64 = 20;

/// Who crawls takes so many at a time.
const IN_A_CRAWL: u64 = 100;

/// Someone who looks up cards, in office hours, so often an hour, and of ten times once with
/// `no-cache`.
const SUPPORTERS: usize = 4;
const LOOKUPS: u64 = 12;

/// One caller, for one day.
struct Caller {
    client: Arc<Client>,
    tenant: usize,
    rng: Rng,
    midnight: Instant,
}

/// All callers of two days.
pub fn spawn(client: &Arc<Client>, seed: u64, days: &mut JoinSet<()>) {
    for day in 0..2_u32 {
        let mut number = 0;
        let mut caller = |tenant: usize| {
            number += 1;
            Caller {
                client: client.clone(),
                tenant,
                rng: Rng::with_seed(seed ^ (u64::from(day) << 32 | number << 8)),
                midnight: client.began() + DAY * day,
            }
        };
        for dashboard in 0..DASHBOARDS {
            days.spawn(caller(tenant_of(dashboard, DASHBOARDS)).dashboard(dashboard < WALLS));
        }
        for (tenant, account) in TENANTS.iter().enumerate() {
            days.spawn(caller(tenant).at_night());
            for share in 0..2 {
                days.spawn(caller(tenant).orders(account.orders_a_day / 2 + share % 2));
            }
        }
        for tenant in 0..2 {
            days.spawn(caller(tenant).exports());
            days.spawn(caller(tenant).reports());
        }
        for supporter in 0..SUPPORTERS {
            days.spawn(caller(tenant_of(supporter, SUPPORTERS)).supports());
        }
    }
}

/// By the tenants' parts, in turn, so that each kind of caller is spread.
fn tenant_of(number: usize, of: usize) -> usize {
    let place = (number * 7 + 3) % of * 100 / of;
    let mut until = 0;
    let is_here = |tenant: &super::Tenant| {
        until += tenant.callers_in_a_hundred;
        place < until
    };
    TENANTS.iter().position(is_here).unwrap_or(0)
}

impl Caller {
    /// Sleeps until this time of the day.
    async fn until(&self, time: Duration) {
        sleep_until(self.midnight + time).await;
    }

    fn time(&self) -> Duration {
        self.midnight.elapsed()
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + to.saturating_sub(from).mul_f64(self.rng.f64())
    }

    async fn ask(&self, query: Query) -> Answer {
        self.ask_with(query, "").await
    }

    async fn ask_with(&self, query: Query, cache_control: &str) -> Answer {
        self.client.query(self.tenant, query, cache_control).await
    }

    /// Polls one view: the first page of three in five, else the orders in use, or the second or
    /// third page.
    async fn dashboard(mut self, is_on_a_wall: bool) {
        let (filter, number) = match self.rng.u8(0..10) {
            0..6 => (Filter::All, 1),
            6..8 => (Filter::InUse, 1),
            8 => (Filter::All, 2),
            _ => (Filter::All, 3),
        };
        let every = SECOND * u32::try_from(POLLS[self.rng.usize(0..POLLS.len())]).expect("small");
        let start = self.between(HOUR * 8, HOUR * 8 + MINUTE * 90);
        let lunch = self.between(HOUR * 12, HOUR * 13);
        let end = self.between(HOUR * 16 + MINUTE * 30, HOUR * 18 + MINUTE * 30);
        let offset = self.between(Duration::ZERO, every);
        let hours = if is_on_a_wall {
            [(Duration::ZERO, HOUR * 12), (HOUR * 12, HOUR * 24)]
        } else {
            [(start, lunch), (lunch + MINUTE * 45, end)]
        };
        for (from, to) in hours {
            let mut next = from + offset;
            while next < to {
                self.until(next).await;
                self.ask(Query::Page(filter, number, ON_A_SCREEN)).await;
                next = (next + every).max(self.time()); // the last answer has to come first
            }
        }
    }

    /// Reads all orders of the account, page by page.
    async fn at_night(mut self) {
        let start = self.between(HOUR * 2, HOUR * 3);
        self.until(start).await;
        self.page_by_page().await;
    }

    async fn reports(mut self) {
        for hour in [9, 13, 17] {
            let at = self.between(HOUR * hour, HOUR * hour + MINUTE * 10);
            self.until(at).await;
            self.page_by_page().await;
        }
    }

    /// Begins again, twice at most, where the pages are not of one snapshot.
    async fn page_by_page(&self) {
        for _ in 0..3 {
            let mut first = None;
            let mut number = 1;
            let is_torn = loop {
                let page = Query::Page(Filter::All, number, IN_A_CRAWL);
                let answer = self.ask(page).await;
                if !answer.is_success() {
                    return; // refused: it comes again tomorrow
                }
                let snapshot = answer.snapshot();
                if *first.get_or_insert_with(|| snapshot.to_owned()) != snapshot {
                    break true;
                }
                if answer.orders() < IN_A_CRAWL {
                    break false;
                }
                number += 1;
                sleep(SECOND / 5).await;
            };
            if !is_torn {
                return;
            }
            lock(&self.client.report).torn_crawls += u64::from(self.client.time() >= DAY);
        }
    }

    /// All orders as one document, once an hour.
    async fn exports(mut self) {
        for hour in 8..18 {
            let at = self.between(HOUR * hour, HOUR * (hour + 1));
            self.until(at).await;
            self.ask(Query::AllPages).await;
        }
    }

    /// Looks up a card and its orders.
    async fn supports(mut self) {
        let lookups = LOOKUPS * 9;
        for lookup in 0..lookups {
            let every = HOUR * 9 / u32::try_from(lookups).expect("small");
            let from = HOUR * 8 + MINUTE * 30 + every * u32::try_from(lookup).expect("small");
            let at = self.between(from, from + every);
            let device = self.device();
            let cache_control = if self.rng.u8(0..10) == 0 {
                "no-cache"
            } else {
                ""
            };
            self.until(at).await;
            self.ask_with(Query::Device(device), cache_control).await;
            let orders = Query::Page(Filter::Device(device), 1, ON_A_SCREEN);
            self.ask_with(orders, cache_control).await;
        }
    }

    /// Some cards are asked for more often than others.
    fn device(&mut self) -> u64 {
        let devices = TENANTS[self.tenant].devices();
        let at_most = self.rng.u64(0..devices);
        self.rng.u64(0..=at_most)
    }

    /// So many orders, nine of ten in office hours.
    async fn orders(mut self, orders: u64) {
        let mut times: Vec<_> = (0..orders)
            .map(|order| {
                if order % 10 == 9 {
                    self.between(Duration::ZERO, HOUR * 24)
                } else {
                    self.between(HOUR * 8 + MINUTE * 30, HOUR * 17 + MINUTE * 30)
                }
            })
            .collect();
        times.sort_unstable();
        for time in times {
            let device = self.rng.u64(0..TENANTS[self.tenant].devices());
            self.until(time).await;
            self.order(device).await;
        }
    }

    /// Orders; where nothing was sent as the vendor is down, again a minute later. Then looks at
    /// the orders of the card, four times at most, until the new one is there.
    async fn order(&self, device: u64) {
        let count = |add: fn(&mut Orders)| {
            if self.client.time() >= DAY {
                add(&mut lock(&self.client.report).orders);
            }
        };
        count(|orders| orders.wanted += 1);
        let number = loop {
            match self.client.order(self.tenant, device).await {
                Placed::Number(number) => break number,
                Placed::InDoubt => {
                    count(|orders| orders.in_doubt += 1);
                    self.ask(Query::Page(Filter::Device(device), 1, ON_A_SCREEN))
                        .await;
                    return;
                }
                Placed::Refused if is_outage(self.client.time()) => {
                    count(|orders| orders.turned_away += 1);
                    sleep(MINUTE).await;
                }
                Placed::Refused => {
                    count(|orders| orders.refused += 1);
                    return;
                }
            }
        };
        count(|orders| orders.placed += 1);
        for pause in [0, 2, 3, 5] {
            sleep(SECOND * pause).await;
            let orders = Query::Page(Filter::Device(device), 1, ON_A_SCREEN);
            if self.ask(orders).await.shows_order(number) {
                count(|orders| orders.seen += 1);
                return;
            }
        }
    }
}
