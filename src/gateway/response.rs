//! What goes back to the caller, and what of a query's answer is kept?

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderName, HeaderValue,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use tokio::time::Instant;

use super::error::{Error, Fault, InvalidAnswer};
use super::page::{Head, Page};
use super::upstream::{Answer, Outcome, Shape};
use crate::body::{Body, Held};
use crate::clock::Moment;
use crate::gateway::command::keys::Kept;
use crate::gateway::query::cache::{Filled, Found, NotStored, Pages};
use crate::id::Id;
use crate::signing::params::Params;

/// The usual `Content-Type`s: a static value is shared without being counted.
const JSON: [&str; 2] = ["application/json", "application/json;charset=UTF-8"];

/// As many as the answer of a page mostly has, its request id included.
const HEADERS: usize = 6;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const X_LINKSFIELD_SNAPSHOT: HeaderName = HeaderName::from_static("x-linksfield-snapshot");

/// Which pages a route's answers are.
#[derive(Debug)]
pub enum Expected {
    /// None.
    NoPages,
    /// The one that these parameters ask for. Another one belongs to no snapshot.
    PageOf(Params),
    /// Whatever page it is: who asked for it compares it.
    AnyPage,
}

/// Only a success of the expected shape, whole beyond doubt, is kept. What is no envelope is not an answer to a query.
pub fn to_filled(answer: Answer, expected: &Expected, sent_at: Moment) -> Result<Filled, Error> {
    let invalid = |reason| {
        Err(Error::UpstreamInvalidAnswer {
            status: answer.status,
            outcome: answer.outcome.as_str(),
            reason,
        })
    };
    if let Some(error) = error_of(&answer) {
        return Err(error);
    }
    let is_encoded = answer.is_encoded();
    if answer.rest.is_some() {
        return invalid(InvalidAnswer::TooLarge);
    }
    if !answer.is_envelope && !is_encoded {
        return invalid(InvalidAnswer::NotAnEnvelope);
    }
    let (has_shape, pages) = match (answer.shape(), expected) {
        (Shape::Page(position), Expected::PageOf(params)) if position.is_of(params) => {
            (true, Pages::One(position))
        }
        (Shape::Page(position), Expected::AnyPage) => (true, Pages::One(position)),
        (Shape::Page(_), _) | (Shape::Data, Expected::NoPages) => (true, Pages::None),
        (Shape::Data | Shape::NoData, _) => (false, Pages::None),
    };
    let not_stored = if is_encoded {
        Some(NotStored::Encoded)
    } else if answer.outcome != Outcome::Success {
        Some(NotStored::NoSuccess)
    } else if !has_shape {
        Some(NotStored::NoPage)
    } else if !answer.is_framed {
        Some(NotStored::Unframed)
    } else {
        None
    };
    // Copies of their own: as they came, body and headers would keep the connection's whole read buffer in memory.
    let copy = |value: &HeaderValue| {
        let value = value.as_bytes();
        match JSON.iter().find(|json| json.as_bytes() == value) {
            Some(json) => Some(HeaderValue::from_static(json)),
            None => HeaderValue::from_bytes(value).ok(),
        }
    };
    let more_headers: &[HeaderName] = match answer.outcome {
        Outcome::Success => &[CONTENT_LANGUAGE, CONTENT_ENCODING],
        _ => &[
            CONTENT_LANGUAGE,
            CONTENT_ENCODING,
            RETRY_AFTER,
            WWW_AUTHENTICATE,
        ],
    };
    let all = |name| answer.headers.get_all(name).iter().filter_map(copy);
    let head = Head {
        status: answer.status,
        content_type: all(&CONTENT_TYPE).next(),
        more_headers: more_headers
            .iter()
            .flat_map(|name| all(name).map(|value| (name.clone(), value)))
            .collect(),
        fault: fault_of(answer.outcome),
        outcome: answer.outcome.as_str(),
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
        Outcome::Throttled | Outcome::Transient | Outcome::Usual => Some(answer.outcome.as_str()),
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

/// The error that an answer to a query is which says all it has to say by its status: a balancer's, mostly.
fn error_of(answer: &Answer) -> Option<Error> {
    let (status, host) = (answer.status, answer.redirect_host.clone());
    if status.is_redirection() {
        return Some(Error::UpstreamRedirects {
            status,
            outcome: answer.outcome.as_str(),
            host,
        });
    }
    if answer.is_envelope || answer.is_encoded() {
        return None;
    }
    // What is no time is none; that of the clock does not matter here.
    let retry_after = answer.headers.get(RETRY_AFTER);
    let retry_after = retry_after.filter(|_| answer.retry_after(SystemTime::UNIX_EPOCH).is_some());
    match (status, retry_after.cloned()) {
        (StatusCode::TOO_MANY_REQUESTS, retry_after) => {
            Some(Error::UpstreamThrottled { retry_after })
        }
        (StatusCode::SERVICE_UNAVAILABLE, Some(retry_after)) => {
            Some(Error::UpstreamUnavailable { retry_after })
        }
        _ => None,
    }
}

/// Whose fault it is that an answer of the vendor is no success.
pub fn fault_of(outcome: Outcome) -> Option<Fault> {
    match outcome {
        Outcome::Success => None,
        Outcome::CallerError | Outcome::Unknown => Some(Fault::Caller),
        Outcome::BadSignature => Some(Fault::Gateway),
        Outcome::Throttled | Outcome::Transient | Outcome::Usual => Some(Fault::Upstream),
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
