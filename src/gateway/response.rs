//! What goes back to the caller, and what of a query's answer is kept?

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderName, HeaderValue,
    RETRY_AFTER,
};
use tokio::time::Instant;

use super::cache::{Filled, Found, NotStored, Pages};
use super::error::{Error, Fault, InvalidAnswer};
use super::keys::Kept;
use super::page::{Head, Page};
use super::upstream::{Answer, Outcome, Shape};
use crate::body::{Body, Held};
use crate::clock::Moment;
use crate::id::Id;

/// The usual `Content-Type`s: a static value is shared without being counted.
const JSON: [&str; 2] = ["application/json", "application/json;charset=UTF-8"];

/// As many as the answer of a page mostly has, its request id included.
const HEADERS: usize = 6;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const X_LINKSFIELD_SNAPSHOT: HeaderName = HeaderName::from_static("x-linksfield-snapshot");

/// Only a success of the expected shape, whole beyond doubt, is kept. What is no envelope is not an answer to a query.
pub fn to_filled(answer: Answer, pages: bool, sent_at: Moment) -> Result<Filled, Error> {
    let invalid = |reason| {
        Err(Error::UpstreamInvalidAnswer {
            status: answer.status,
            reason,
        })
    };
    let is_encoded = answer.headers.contains_key(CONTENT_ENCODING);
    if answer.rest.is_some() {
        return invalid(InvalidAnswer::TooLarge);
    }
    if !answer.is_envelope && !is_encoded {
        return invalid(InvalidAnswer::NotAnEnvelope);
    }
    let (has_shape, pages) = match answer.shape() {
        Shape::Page(position) if pages => (true, Pages::One(position)),
        Shape::Page(_) => (true, Pages::None),
        Shape::Data => (!pages, Pages::None),
        Shape::NoData => (false, Pages::None),
    };
    let not_stored = if answer.outcome != Outcome::Success {
        Some(NotStored::NoSuccess)
    } else if is_encoded {
        Some(NotStored::Encoded)
    } else if !has_shape {
        Some(NotStored::NoPage)
    } else if !answer.is_framed {
        Some(NotStored::Unframed)
    } else {
        None
    };
    // Copies of their own: as they came, body and headers would keep the connection's whole read buffer in memory.
    let header = |name: &HeaderName| {
        let value = answer.headers.get(name)?.as_bytes();
        match JSON.iter().find(|json| json.as_bytes() == value) {
            Some(json) => Some(HeaderValue::from_static(json)),
            None => HeaderValue::from_bytes(value).ok(),
        }
    };
    let more_headers: &[HeaderName] = match answer.outcome {
        Outcome::Success => &[CONTENT_LANGUAGE, CONTENT_ENCODING],
        _ => &[CONTENT_LANGUAGE, CONTENT_ENCODING, RETRY_AFTER],
    };
    let head = Head {
        status: answer.status,
        content_type: header(&CONTENT_TYPE),
        more_headers: more_headers
            .iter()
            .filter_map(|name| Some((name.clone(), header(name)?)))
            .collect(),
        fault: fault_of(answer.outcome),
        vendor_code: answer.vendor_code,
    };
    let page = Page {
        head: head.shared(),
        body: if not_stored.is_none() {
            Bytes::copy_from_slice(&answer.body)
        } else {
            answer.body
        },
    };
    let failure = match answer.outcome {
        Outcome::Throttled | Outcome::Transient => Some(answer.outcome.as_str()),
        Outcome::Success | Outcome::CallerError | Outcome::BadSignature | Outcome::Unknown => None,
    };
    Ok(Filled {
        page: Arc::new(page),
        not_stored,
        pages,
        failure,
        sent_at,
    })
}

/// Whose fault it is that an answer of the vendor is no success.
pub fn fault_of(outcome: Outcome) -> Option<Fault> {
    match outcome {
        Outcome::Success => None,
        Outcome::CallerError | Outcome::Unknown => Some(Fault::Caller),
        Outcome::BadSignature => Some(Fault::Gateway),
        Outcome::Throttled | Outcome::Transient => Some(Fault::Upstream),
    }
}

/// The bytes of a page, which keep it: a clone of them would count those who share them in memory that nothing else of a
/// hit touches.
struct Shown(Arc<Page>);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        &self.0.body
    }
}

/// The answer to a query.
pub fn of_page(found: &Found) -> Response<Body> {
    let (page, head) = (&found.page, &found.page.head);
    let shown = Bytes::from_owner(Shown(page.clone()));
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
        headers.insert(name, value.clone());
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
