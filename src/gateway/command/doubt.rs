//! May a command have been carried out without anybody knowing? One rule, which its key, the
//! headers of its answer, the log and the counter follow.
//!
//! In doubt is a command that left and whose end is 5xx, 408, a transient code, a cut, a timeout,
//! too large or unreadable; or an unclassified answer while that is the usual one
//! (`gateway/vendor/unclassified.rs`). Each of these may stand between a caller and an order that
//! was carried out: a repeat may buy a second time.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::gateway::error::{Error, X_LINKSFIELD_SENT};
use crate::gateway::vendor::upstream::Answer;
use crate::words::{Outcome, Sent};

const X_LINKSFIELD_IN_DOUBT: HeaderName = HeaderName::from_static("x-linksfield-in-doubt");

/// Is a command in doubt that was answered so?
pub fn after_answer(answer: &Answer) -> bool {
    match answer.outcome {
        // Refused before anything was done.
        Outcome::Throttled | Outcome::BadSignature => false,
        Outcome::Transient | Outcome::Usual => true,
        Outcome::Success | Outcome::CallerError | Outcome::Unknown => {
            answer.rest.is_some() || !is_clear(answer)
        }
    }
}

/// Is a command in doubt that ended with this error?
pub fn after_error(error: &Error) -> bool {
    error.sent() != Sent::No
}

/// Does an answer say what became of a command? A refusal (4xx) does by its status, whatever its
/// body is, unless that is encoded. No status but 2xx says that something was done: a redirect
/// would have to be followed, and a command is not sent a second time.
fn is_clear(answer: &Answer) -> bool {
    match answer.status.as_u16() {
        400..=499 => !answer.is_encoded(), // in what is encoded any code may stand, a transient one too
        200..=299 => answer.is_readable,
        _ => false,
    }
}

/// Says both in the headers of the answer to a command.
pub fn tell(headers: &mut HeaderMap, sent: Sent, in_doubt: bool) {
    headers.insert(X_LINKSFIELD_SENT, HeaderValue::from_static(sent.as_str()));
    if in_doubt {
        headers.insert(X_LINKSFIELD_IN_DOUBT, HeaderValue::from_static("true"));
    }
}
