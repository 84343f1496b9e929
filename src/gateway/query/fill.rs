//! What does a fill bring, and what of it is kept?

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use tokio::time::Instant;

use super::cache::{Filled, LaterFilled, NotStored, Pages, Reason};
use crate::clock::Moment;
use crate::gateway::error::{Error, InvalidAnswer};
use crate::gateway::page::{Head, Page};
use crate::gateway::progress::Progress;
use crate::gateway::response::fault_of;
use crate::gateway::vendor::call::{Errand, Later, Timing};
use crate::gateway::vendor::upstream::{Answer, QUERY_MAX_IDLE, Shape};
use crate::signing::params::Params;
use crate::words::{CallReason, Class, Outcome};

/// The usual `Content-Type`s: a static value is shared without being counted.
const JSON: [&str; 2] = ["application/json", "application/json;charset=UTF-8"];

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

/// Only a success of the expected shape, whole beyond doubt, is kept. What is no envelope is not an
/// answer to a query.
pub fn to_filled(answer: Answer, expected: &Expected, sent_at: Moment) -> Result<Filled, Error> {
    let invalid = |reason| {
        Err(Error::UpstreamInvalidAnswer {
            status: answer.status,
            outcome: answer.outcome,
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
    // Copies of their own: as they came, body and headers would keep the connection's whole read
    // buffer in memory.
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
        outcome: answer.outcome,
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
        Outcome::Throttled | Outcome::Transient | Outcome::Usual => Some(answer.outcome),
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

/// The error that an answer to a query is which says all it has to say by its status: a balancer's,
/// mostly.
fn error_of(answer: &Answer) -> Option<Error> {
    let (status, host) = (answer.status, answer.redirect_host.clone());
    if status.is_redirection() {
        return Some(Error::UpstreamRedirects {
            status,
            outcome: answer.outcome,
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

/// The call that fills a page, and why it is made.
pub fn errand(
    reason: Reason,
    all_pages: bool,
    timing: Timing,
    deadline: Instant,
    patience: Instant,
) -> Errand {
    let (class, reason) = match reason {
        _ if all_pages => (Class::Crawl, CallReason::Crawl),
        Reason::Caller => (Class::Query, CallReason::Caller),
        Reason::NoCache => (Class::Query, CallReason::NoCache),
        Reason::Revalidate => (Class::Refresh, CallReason::Revalidate),
    };
    Errand {
        timing,
        class,
        reason,
        // Nobody waits for a background refresh, nor is a crawl of use only to who began it.
        deadline: if class == Class::Query {
            deadline.min(patience)
        } else {
            patience
        },
        patience,
        ends_at: all_pages.then_some(patience),
        max_idle: QUERY_MAX_IDLE,
    }
}

/// What an answer that comes late is to a query.
pub fn filled_later(later: Later, expected: Expected, progress: Progress) -> LaterFilled {
    Box::pin(async move {
        let Some((answer, sent_at)) = later.answer().await else {
            return Err(Error::UpstreamTimeout(progress.sent()));
        };
        to_filled(answer, &expected, sent_at)
    })
}
