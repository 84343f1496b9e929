//! May a command have been carried out without anybody knowing? One rule, which its key, the headers of its answer, the
//! log and the counter follow.
//!
//! In doubt is a command that left and whose end is 5xx, 408, a transient code, a cut, a timeout, too large or unreadable.
//! Each of these may stand between a caller and an order that was carried out: a repeat may buy a second time.

use hyper::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use serde::de::IgnoredAny;

use super::error::{Error, Sent, X_LINKSFIELD_SENT};
use super::upstream::{Answer, Outcome};

const X_LINKSFIELD_IN_DOUBT: HeaderName = HeaderName::from_static("x-linksfield-in-doubt");

/// Is a command in doubt that was answered so?
pub fn after_answer(answer: &Answer) -> bool {
    match answer.outcome {
        // Refused before anything was done.
        Outcome::Throttled | Outcome::BadSignature => false,
        Outcome::Transient => true,
        Outcome::Success | Outcome::CallerError | Outcome::Unknown => {
            answer.rest.is_some() || !is_clear(answer)
        }
    }
}

/// Is a command in doubt that ended with this error?
pub fn after_error(error: &Error) -> bool {
    error.sent() != Sent::No
}

/// Does an answer say what became of a command? A refusal (4xx) does by its status, whatever its body is. No status but
/// 2xx says that something was done: a redirect would have to be followed, and a command is not sent a second time.
fn is_clear(answer: &Answer) -> bool {
    match answer.status.as_u16() {
        204 | 400..=499 => true, // 204 has no body
        200..=299 => is_readable(answer) && !may_be_cut(answer),
        _ => false,
    }
}

/// Can whoever gets the body read it: plain UTF-8 and JSON?
fn is_readable(answer: &Answer) -> bool {
    let encoding = answer.headers.get(CONTENT_ENCODING);
    let is_encoded = encoding.is_some_and(|coding| !coding.is_empty() && coding != "identity");
    !is_encoded
        && std::str::from_utf8(&answer.body).is_ok_and(|text| {
            answer.is_envelope || serde_json::from_str::<IgnoredAny>(text).is_ok()
        })
}

/// A body whose length was not told may have been cut, unless it is an envelope to its last brace.
fn may_be_cut(answer: &Answer) -> bool {
    !answer.is_framed && !answer.is_envelope
}

/// Says both in the headers of the answer to a command.
pub fn tell(headers: &mut HeaderMap, sent: Sent, in_doubt: bool) {
    headers.insert(X_LINKSFIELD_SENT, HeaderValue::from_static(sent.as_str()));
    if in_doubt {
        headers.insert(X_LINKSFIELD_IN_DOUBT, HeaderValue::from_static("true"));
    }
}
