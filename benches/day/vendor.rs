//! A vendor that counts: the calls that may fall into one second, the connections, the calls of 24
//! hours.
//!
//! It is reached through memory, and hyper serves each connection. A call may count anywhere
//! between its first byte and its answer, so here it counts for all of that time, and what is
//! highest is what the least favourable vendor would see.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, DATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use linksfield_gateway::clock::WallClock;
use linksfield_gateway::gateway::vendor::upstream::{ByteStream, Resolved, Transport};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{DAY, DEVICE, ORDER, ORDERS, SECOND, TENANTS, access_code, lock};

/// What one order takes in an answer, about, in the vendor's own example.
const ORDER_BYTES: usize = 600;

/// The vendor shows a new order at the latest so long after it has taken it: the settle time that
/// the routes have.
const SHOWN_WITHIN: f64 = 4.0;

/// What a connection takes before its peer reads: more than any request.
const PIPE: usize = 64 << 10;

/// The calls, and what is asked. A clone is the same one.
#[derive(Clone)]
pub struct Vendor(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    clock: WallClock,
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
enum Asked {
    /// Orders: the filter, the page and its size.
    Orders(Filter, u64, u64),
    /// One card.
    Device(u64),
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

/// A connection that is open.
struct Open(Vendor);

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0.0.state).connections -= 1;
    }
}

/// A call that may count now.
struct Counting<'a>(&'a Vendor);

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0.state);
        state.running -= 1;
        state.ended.push_back(Instant::now());
    }
}

impl Transport for Vendor {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolved<'a> {
        Box::pin(ready(Ok(vec![([192, 0, 2, 1], port).into()])))
    }

    /// While it is down it takes six of ten connections.
    fn dial(&self, _: SocketAddr) -> io::Result<Box<dyn ByteStream>> {
        if self.is_down() && lock(&self.0.state).rng.u8(0..10) < 4 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let open = self.open();
        tokio::spawn(async move {
            let service = service_fn(|request| open.0.answer(request));
            let server = http1::Builder::new();
            // A caller that gives up ends it in the midst of a call.
            let _ = server.serve_connection(TokioIo::new(theirs), service).await;
        });
        Ok(Box::new(ours))
    }
}

impl Vendor {
    /// Its accounts are [`TENANTS`], and its day begins now.
    pub fn new(seed: u64, clock: WallClock, outage: (Duration, Duration)) -> Self {
        let (mut rng, began) = (Rng::with_seed(seed), Instant::now());
        let mut number = 0;
        let mut order_of = |devices| {
            number += 1;
            Order {
                number,
                device: rng.u64(0..devices),
                shown_from: began,
            }
        };
        let orders = TENANTS.iter().map(|tenant| {
            let of_tenant = (0..tenant.orders).map(|_| order_of(tenant.devices()));
            of_tenant.collect()
        });
        let orders = orders.collect();
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                rng,
                orders,
                running: 0,
                ended: VecDeque::new(),
                connections: 0,
                highest: Highest::default(),
            }),
            clock,
            began,
            outage,
        }))
    }

    pub fn highest(&self) -> Highest {
        lock(&self.0.state).highest
    }

    fn is_down(&self) -> bool {
        let (from, lasts) = self.0.outage;
        let time = self.0.began.elapsed();
        time >= from && time < from + lasts
    }

    fn open(&self) -> Open {
        let mut state = lock(&self.0.state);
        state.connections += 1;
        state.highest.connections = state.highest.connections.max(state.connections);
        Open(self.clone())
    }

    /// Answers after 0.5 to 8 s, short ones being more frequent: 3 s on average.
    async fn answer(&self, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let _counting = self.count();
        let (head, body) = request.into_parts();
        let params = body.collect().await?.to_bytes();
        let (tenant, asked) = read(head.uri.path(), &params);
        let (time, fate) = {
            let rng = &mut lock(&self.0.state).rng;
            (0.5 + 7.5 * rng.f64().powi(2), rng.u8(0..10))
        };
        if self.is_down() && fate < 3 {
            std::future::pending::<()>().await; // until the other side gives up
        }
        // It does what it does halfway.
        sleep(Duration::from_secs_f64(time / 2.0)).await;
        let said = (!self.is_down()).then(|| lock(&self.0.state).say(tenant, asked));
        sleep(Duration::from_secs_f64(time / 2.0)).await;
        let response = Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .header(DATE, httpdate::fmt_http_date(self.0.clock.now()));
        let response = match said {
            Some(data) => response.body(envelope("0000", &data, true)),
            None => response
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .header(CONNECTION, "close")
                .body(envelope("9999", "null", false)),
        };
        Ok(response.expect("well-formed"))
    }

    fn count(&self) -> Counting<'_> {
        let (mut state, now) = (lock(&self.0.state), Instant::now());
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

fn envelope(code: &str, data: &str, success: bool) -> Full<Bytes> {
    let text = format!(r#"{{"code":"{code}","data":{data},"message":"","success":{success}}}"#);
    Full::new(text.into())
}

/// Whose account, and what of it. What is empty is not sent.
fn read(path: &str, params: &[u8]) -> (usize, Asked) {
    let params: Value = serde_json::from_slice(params).expect("JSON");
    let tenant = (0..TENANTS.len()).find(|tenant| params["access_code"] == access_code(*tenant));
    let device = params["device_id"].as_str();
    let device = device.map(|device| device.parse().expect("a number"));
    let number = |name: &str| params[name].as_u64().expect("a number");
    let asked = match path {
        ORDERS => {
            let filter = match device {
                Some(device) => Filter::Device(device),
                None if params["order_status"] == "2" => Filter::InUse,
                None => Filter::All,
            };
            Asked::Orders(filter, number("page_no"), number("page_size"))
        }
        DEVICE => Asked::Device(device.expect("one card")),
        ORDER => Asked::Order(device.expect("one card")),
        path => panic!("nobody asks for {path}"),
    };
    (tenant.expect("an account"), asked)
}

impl State {
    /// The `data` of a success.
    fn say(&mut self, tenant: usize, asked: Asked) -> String {
        let now = Instant::now();
        match asked {
            Asked::Orders(filter, number, size) => self.page(tenant, filter, number, size, now),
            Asked::Device(device) => object("deviceId", device, 2 * ORDER_BYTES),
            Asked::Order(device) => {
                let number = self.orders.iter().flatten().map(|order| order.number).max();
                let number = number.unwrap_or(0) + 1;
                let shown_from = now + Duration::from_secs_f64(SHOWN_WITHIN * self.rng.f64());
                self.orders[tenant].push(Order {
                    number,
                    device,
                    shown_from,
                });
                object("orderCode", number, ORDER_BYTES)
            }
        }
    }

    /// The newest order first.
    fn page(&self, tenant: usize, filter: Filter, number: u64, size: u64, now: Instant) -> String {
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
        let small = |number| usize::try_from(number).expect("small");
        let mut pages = shown.chunks(small(size));
        let (count, all) = (shown.len(), pages.len());
        let of_page = pages.nth(small(number - 1)).unwrap_or_default();
        let orders = of_page
            .iter()
            .map(|order| object("orderCode", *order, ORDER_BYTES));
        let orders = orders.collect::<Vec<_>>().join(",");
        let mut data = String::new();
        write!(
            data,
            r#"{{"page":{{"cur_page_no":{number},"page_size":{size},"total_count":{count},"total_pages":{all}}},"package_order":[{orders}]}}"#
        )
        .expect("a String takes every write");
        data
    }
}

/// An object of about this size, with this number in it.
fn object(name: &str, number: u64, bytes: usize) -> String {
    let width = bytes - 40;
    format!(r#"{{"{name}":"{number}","remarks":"{:width$}"}}"#, "")
}
