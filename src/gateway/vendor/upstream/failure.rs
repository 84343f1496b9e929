//! Why is there no answer, and may the call be made anew?

use super::head::Spoilt;
use crate::gateway::error::{Error, chain};

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// No byte has left, as a connection that had been idle was closed before, so the call may be
    /// made anew. The error is for whoever makes no further attempt.
    NotSent(Error),
    /// It is proven that the vendor has not processed the call: its stream was refused, or ended
    /// before the body had left. So it may be made anew, as another call, as the vendor may have
    /// counted this one.
    Refused(Error),
    /// The call has failed.
    Failed(Error),
}

/// Is it certain that the vendor has not processed a request, though it may have left?
///
/// RFC 9113, section 8.7: its stream was refused, or is above the last one that a GOAWAY names.
/// Only to those streams h2 gives the GOAWAY as the error (or to ones that it did not begin, as the
/// GOAWAY had come); the others end as the vendor, or the broken connection, ends them. Both must
/// be the vendor's words, not h2's own about a fault it has found.
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| {
            error.is_remote()
                && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
        })
}

/// Is it certain that no byte of the request was written?
pub(super) fn is_spoilt(error: &hyper::Error) -> bool {
    chain(error).any(<dyn std::error::Error>::is::<Spoilt>)
}
