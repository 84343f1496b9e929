//! What goes back to the caller, and what of a query's answer is kept?

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::page::Page;
use crate::body::{Body, Held};
use crate::gateway::command::keys::Kept;
use crate::gateway::query::cache::Found;
use crate::gateway::vendor::upstream::Answer;
use crate::id::Id;
use crate::words::{Fault, Outcome};

/// As many as the answer of a page mostly has, its request id included.
const HEADERS: usize = 6;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const X_LINKSFIELD_SNAPSHOT: HeaderName = HeaderName::from_static("x-linksfield-snapshot");

/// Whose fault it is that an answer of the vendor is no success.
pub fn fault_of(outcome: Outcome) -> Option<Fault> {
    match outcome {
        Outcome::Success => None,
        Outcome::CallerError | Outcome::Unknown => Some(Fault::Caller),
        Outcome::BadSignature => Some(Fault::Gateway),
        Outcome::Throttled | Outcome::Transient | Outcome::Usual => Some(Fault::Upstream),
    }
}

/// The bytes of a page, which keep it: a clone of them would count those who share them in memory
/// that nothing else of a hit touches.
struct PageBytes(Arc<Page>);

impl AsRef<[u8]> for PageBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0.body
    }
}

/// The answer to a query.
pub fn of_page(found: &Found) -> Response<Body> {
    let (page, head) = (&found.page, &found.page.head);
    let shown = Bytes::from_owner(PageBytes(page.clone()));
    let mut response = Response::new(Body::from(shown));
    *response.status_mut() = head.status;
    let headers = response.headers_mut();
    headers.reserve(HEADERS); // at once: it grows by doubling
    let told = [
        (CONTENT_TYPE, head.content_type.clone()),
        (X_LINKSFIELD_SNAPSHOT, found.snapshot.map(Id::header)),
        (AGE, found.age_header()),
    ];
    for (name, value) in told {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    for (name, value) in &head.more_headers {
        headers.append(name, value.clone());
    }
    headers.insert(CACHE_STATUS, found.cache_status());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer to a command, as it comes; `held` is given up once it has.
pub fn of_command(answer: Answer, deadline: Instant, held: impl Held) -> Response<Body> {
    let body = match answer.rest {
        None => Body::from(answer.body),
        Some(rest) => Body::passing(answer.body, rest, deadline, held),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    *headers = answer.headers;
    headers.insert(
        CACHE_STATUS,
        HeaderValue::from_static("linksfield-gateway; fwd=bypass"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer to a command, given again.
pub fn of_kept(kept: &Kept) -> Response<Body> {
    let mut response = Response::new(Body::from(kept.body.clone()));
    *response.status_mut() = kept.status;
    let headers = response.headers_mut();
    headers.clone_from(&kept.headers);
    headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
