//! What callers send to the gateway, and what they read in its answers: status, headers and body,
//! as a caller has nothing else.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Request, StatusCode};
use linksfield_gateway::body::Received;
use linksfield_gateway::gateway::Gateway;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::report::Report;
use super::vendor::Filter;
use super::{DEVICE, ORDER, ORDERS, lock, tenant_name};

/// What stands before the number of each order.
const ORDER_CODE: &str = "\"orderCode\":";

/// The gateway as its callers reach it, and what is told of them.
pub struct Client {
    gateway: Gateway,
    began: Instant,
    pub report: Mutex<Report>,
}

/// A query.
#[derive(Debug, Clone, Copy)]
pub enum Query {
    /// A page of orders: the filter, its number, its size.
    Page(Filter, u64, u64),
    /// All pages as one document.
    AllPages,
    /// A card.
    Device(u64),
}

/// What became of an order, as far as its caller can tell.
#[derive(Debug, Clone, Copy)]
pub enum Placed {
    /// It has this number.
    Number(u64),
    /// It may have been carried out.
    InDoubt,
    /// It was not carried out.
    Refused,
}

/// An answer of the gateway.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// How a query was answered, by `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Hit,
    Stale,
    /// A stale page that stands in for a fill which failed or took too long.
    StandIn,
    Coalesced,
    Miss,
}

impl Client {
    pub fn new(gateway: Gateway) -> Self {
        Self {
            gateway,
            began: Instant::now(),
            report: Mutex::default(),
        }
    }

    /// When the first day began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The time since then.
    pub fn time(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asks a query.
    pub async fn query(&self, tenant: usize, query: Query, cache_control: &str) -> Answer {
        let mut request = Request::post(query.path());
        if !cache_control.is_empty() {
            request = request.header(CACHE_CONTROL, cache_control);
        }
        if matches!(query, Query::AllPages) {
            request = request.header("x-linksfield-pages", "all");
        }
        let asked_at = Instant::now();
        let answer = self.send(tenant, request, &query.body()).await;
        let mut report = lock(&self.report);
        report.query(self.time(), asked_at.elapsed(), &answer);
        drop(report);
        answer
    }

    /// Places an order for a card.
    pub async fn order(&self, tenant: usize, device: u64) -> Placed {
        let body = json!({"device_id": device.to_string(), "package_id": "A"});
        let request = Request::post(ORDER);
        let answer = self.send(tenant, request, &body).await;
        if answer.is_success() {
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let number = body["data"]["orderCode"].as_str();
            let number = number.and_then(|number| number.parse().ok());
            Placed::Number(number.expect("the vendor numbers orders"))
        } else if answer.headers.contains_key("x-linksfield-in-doubt") {
            Placed::InDoubt
        } else {
            Placed::Refused
        }
    }

    async fn send(
        &self,
        tenant: usize,
        request: hyper::http::request::Builder,
        body: &Value,
    ) -> Answer {
        let request = request
            .header(HOST, "gateway.example")
            .header(CONTENT_TYPE, "application/json")
            .header("x-linksfield-tenant", tenant_name(tenant))
            .body(Full::new(Bytes::from(body.to_string())));
        let (head, body) = request.expect("well-formed").into_parts();
        let mut body = Received::of_request(body);
        let (head, body) = self.gateway.handle(&head, &mut body).await.into_parts();
        let body = body.collect().await.expect("no answer is cut off");
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        }
    }
}

impl Answer {
    pub fn is_success(&self) -> bool {
        self.status == StatusCode::OK
    }

    /// How many orders are on it, if it is a page of them.
    pub fn orders(&self) -> u64 {
        let body = self.text();
        body.matches(ORDER_CODE).count() as u64
    }

    /// Is this order on it?
    pub fn shows_order(&self, number: u64) -> bool {
        let order = format!("{ORDER_CODE}\"{number}\"");
        self.is_success() && self.text().contains(&order)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("JSON is UTF-8")
    }

    /// What tells its snapshot from others.
    pub fn snapshot(&self) -> &str {
        self.header("x-linksfield-snapshot").unwrap_or_default()
    }

    /// In whole seconds; none if one call has brought it for this request.
    pub fn age(&self) -> Option<Duration> {
        let seconds = self.header(AGE.as_str())?.parse().expect("a number");
        Some(Duration::from_secs(seconds))
    }

    /// The code of the gateway's own errors; an answer of the vendor that was passed on has none.
    pub fn error(&self) -> Option<String> {
        if self.header(CONTENT_TYPE.as_str()) != Some("application/problem+json") {
            return None;
        }
        let problem: Value = serde_json::from_slice(&self.body).expect("JSON");
        problem["code"].as_str().map(str::to_owned)
    }

    /// Of a success.
    pub fn source(&self) -> Source {
        let status = self.header("cache-status").expect("queries have one");
        let has = |word| status.split("; ").any(|part| part == word);
        let ttl = status
            .split("; ")
            .find_map(|part| part.strip_prefix("ttl="));
        let ttl: Option<i64> = ttl.map(|ttl| ttl.parse().expect("a number"));
        match ttl {
            Some(1..) if has("hit") => Source::Hit,
            _ if has("hit") => Source::Stale,
            _ if has("collapsed") => Source::Coalesced,
            // It is in memory, and was not stored for this request.
            Some(_) if !has("stored") => Source::StandIn,
            _ => Source::Miss,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Query {
    fn path(self) -> &'static str {
        match self {
            Self::Page(..) | Self::AllPages => ORDERS,
            Self::Device(_) => DEVICE,
        }
    }

    fn body(self) -> Value {
        match self {
            Self::Page(filter, number, size) => {
                let (device, status) = match filter {
                    Filter::All => (String::new(), ""),
                    Filter::InUse => (String::new(), "2"),
                    Filter::Device(device) => (device.to_string(), ""),
                };
                json!({
                    "device_id": device, "order_id": "", "order_status": status, "order_type": "",
                    "page_no": number, "page_size": size,
                })
            }
            Self::AllPages => json!({"page_size": 100}),
            Self::Device(device) => json!({"device_id": device.to_string()}),
        }
    }
}
