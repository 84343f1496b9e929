//! A vendor that counts: the calls that may fall into one second, the connections, the calls of 24 hours.
//!
//! A call may count anywhere between its first byte and its answer, so here it counts for all of that time, and what is
//! highest is what the least favourable vendor would see.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use linksfield_gateway::gateway::page::{Head, Page, Position};
use linksfield_gateway::gateway::vendor::quota::Shareable;
use tokio::time::{Instant, sleep};

use super::{DAY, SECOND, Tenant, lock};

/// What one order takes in an answer, about, in the vendor's own example.
const ORDER_BYTES: usize = 600;

/// The vendor shows a new order at the latest so long after it has taken it: the settle time that the routes have.
const SHOWN_WITHIN: f64 = 4.0;

/// The calls, and what is asked.
pub struct Vendor {
    state: Mutex<State>,
    began: Instant,
    /// It fails from then on, for so long.
    outage: (Duration, Duration),
}

struct State {
    rng: Rng,
    /// By tenant, the oldest first.
    orders: Vec<Vec<Order>>,
    running: usize,
    ended: VecDeque<Instant>,
    connections: usize,
    highest: Highest,
}

/// The most there ever were.
#[derive(Debug, Clone, Copy, Default)]
pub struct Highest {
    /// Calls that may fall into one second.
    pub second: usize,
    /// Connections, idle ones included.
    pub connections: usize,
    /// Calls that may fall into 24 hours.
    pub day: usize,
}

#[derive(Debug, Clone)]
struct Order {
    number: u64,
    device: u64,
    shown_from: Instant,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Asked {
    /// Orders: the filter, the page and its size.
    Orders(Filter, u64, u64),
    /// One card.
    Device,
    /// A new order, for this device.
    Order(u64),
}

/// Which orders.
#[derive(Debug, Clone, Copy)]
pub enum Filter {
    /// All of the account.
    All,
    /// Those in use: about a third.
    InUse,
    /// Those of one device.
    Device(u64),
}

/// What it says.
pub enum Said {
    /// A page of orders.
    Page(Arc<Page>, Position),
    /// Something else that is a success, and the number of the order if one was placed.
    Data(Arc<Page>, u64),
    /// It is down, and says so.
    Fails(Arc<Page>),
}

/// One connection, once it is used. With its last clone it is closed.
#[derive(Clone, Default)]
pub struct Slot(Arc<Connection>);

#[derive(Default)]
struct Connection(Mutex<Option<Arc<Vendor>>>);

impl Shareable for Slot {
    /// It is of HTTP/1.1.
    fn capacity(&self) -> usize {
        0
    }

    fn retire(&self) {}
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_open = lock(&self.0.0).is_some();
        f.debug_tuple("Slot").field(&is_open).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl Connection {
    fn close(&self) {
        if let Some(vendor) = lock(&self.0).take() {
            lock(&vendor.state).connections -= 1;
        }
    }
}

impl Slot {
    /// Connects, unless it is; false if the vendor takes no connection.
    pub fn connect(&self, vendor: &Arc<Vendor>) -> bool {
        if vendor.is_down() && lock(&vendor.state).rng.u8(0..10) < 4 {
            self.close();
            return false;
        }
        let mut connection = lock(&self.0.0);
        if connection.is_none() {
            *connection = Some(vendor.clone());
            let mut state = lock(&vendor.state);
            state.connections += 1;
            state.highest.connections = state.highest.connections.max(state.connections);
        }
        true
    }

    /// A call that has failed closes its connection.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A call that may count now.
struct Counting<'a>(&'a Vendor);

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.running -= 1;
        state.ended.push_back(Instant::now());
    }
}

impl Vendor {
    pub fn new(seed: u64, tenants: &[Tenant], outage: (Duration, Duration)) -> Arc<Self> {
        let (mut rng, began) = (Rng::with_seed(seed), Instant::now());
        let mut number = 0;
        let mut order_of = |tenant: &Tenant| {
            number += 1;
            Order {
                number,
                device: rng.u64(0..tenant.devices()),
                shown_from: began,
            }
        };
        let orders = tenants.iter().map(|tenant| {
            let of_tenant = (0..tenant.orders).map(|_| order_of(tenant));
            of_tenant.collect()
        });
        let orders = orders.collect();
        Arc::new(Self {
            state: Mutex::new(State {
                rng,
                orders,
                running: 0,
                ended: VecDeque::new(),
                connections: 0,
                highest: Highest::default(),
            }),
            began,
            outage,
        })
    }

    pub fn highest(&self) -> Highest {
        lock(&self.state).highest
    }

    fn is_down(&self) -> bool {
        let (from, lasts) = self.outage;
        let time = self.began.elapsed();
        time >= from && time < from + lasts
    }

    /// Answers after 0.5 to 8 s, short ones being more frequent: 3 s on average.
    pub async fn answer(&self, tenant: usize, asked: Asked) -> Said {
        let _counting = self.begin();
        let (time, fate) = {
            let rng = &mut lock(&self.state).rng;
            (0.5 + 7.5 * rng.f64().powi(2), rng.u8(0..10))
        };
        if self.is_down() && fate < 3 {
            std::future::pending::<()>().await; // until the other side gives up
        }
        // It does what it does halfway.
        sleep(Duration::from_secs_f64(time / 2.0)).await;
        let said = if self.is_down() {
            Said::Fails(page(503, String::new(), 0))
        } else {
            lock(&self.state).say(tenant, asked)
        };
        sleep(Duration::from_secs_f64(time / 2.0)).await;
        said
    }

    fn begin(&self) -> Counting<'_> {
        let (mut state, now) = (lock(&self.state), Instant::now());
        state.running += 1;
        let day_old = state.ended.partition_point(|end| *end + DAY <= now);
        state.ended.drain(..day_old);
        let second_old = state.ended.partition_point(|end| *end + SECOND <= now);
        let second = state.running + state.ended.len() - second_old;
        let day = state.running + state.ended.len();
        state.highest.second = state.highest.second.max(second);
        state.highest.day = state.highest.day.max(day);
        Counting(self)
    }
}

impl State {
    fn say(&mut self, tenant: usize, asked: Asked) -> Said {
        let now = Instant::now();
        match asked {
            Asked::Orders(filter, number, size) => self.page(tenant, filter, number, size, now),
            Asked::Device => Said::Data(page(200, String::new(), 2 * ORDER_BYTES), 0),
            Asked::Order(device) => {
                let number = self.orders.iter().flatten().map(|order| order.number).max();
                let number = number.unwrap_or(0) + 1;
                let shown_from = now + Duration::from_secs_f64(SHOWN_WITHIN * self.rng.f64());
                self.orders[tenant].push(Order {
                    number,
                    device,
                    shown_from,
                });
                Said::Data(page(200, String::new(), ORDER_BYTES), number)
            }
        }
    }

    /// The newest order first.
    fn page(&self, tenant: usize, filter: Filter, number: u64, size: u64, now: Instant) -> Said {
        let is_shown = |order: &&Order| {
            order.shown_from <= now
                && match filter {
                    Filter::All => true,
                    Filter::InUse => order.number.is_multiple_of(3),
                    Filter::Device(device) => order.device == device,
                }
        };
        let shown = self.orders[tenant].iter().rev().filter(is_shown);
        let shown: Vec<u64> = shown.map(|order| order.number).collect();
        let mut pages = shown.chunks(usize::try_from(size).expect("small"));
        let position = Position {
            number,
            size,
            total_count: shown.len() as u64,
            total_pages: pages.len() as u64,
            orders: pages
                .nth(usize::try_from(number - 1).expect("small"))
                .unwrap_or_default()
                .to_vec(),
        };
        let names = position.orders.iter().map(|order| format!("[{order}]"));
        let bytes = position.orders.len() * ORDER_BYTES;
        Said::Page(page(200, names.collect(), bytes), position)
    }
}

/// An answer of this text and size.
pub fn page(status: u16, mut text: String, bytes: usize) -> Arc<Page> {
    text.extend(std::iter::repeat_n(' ', bytes.saturating_sub(text.len())));
    let status = hyper::StatusCode::from_u16(status).expect("a status");
    Arc::new(Page {
        head: Head::of(status).shared(),
        body: text.into(),
    })
}

/// Do these pages belong together? The same totals, and no order twice.
pub fn belong_together(pages: &[Position]) -> bool {
    let mut orders = HashSet::new();
    let totals = |page: &Position| (page.total_count, page.total_pages);
    pages.iter().all(|page| totals(page) == totals(&pages[0]))
        && pages
            .iter()
            .flat_map(|page| &page.orders)
            .all(|order| orders.insert(order))
}
