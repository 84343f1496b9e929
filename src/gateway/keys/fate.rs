//! What becomes of a key when its command has ended, and what do those learn who wait with it?

use std::sync::Arc;

use hyper::StatusCode;

use super::kept::Kept;
use crate::gateway::error::{Error, Sent};
use crate::gateway::upstream::{Answer, Outcome};

/// How a command has ended; none if it was called off.
pub type Ended<'a> = Option<Result<&'a Answer, &'a Arc<Error>>>;

/// What becomes of a key when its command has ended.
#[derive(Debug)]
pub(super) enum Fate {
    /// The answer is given again.
    Keep(Arc<Kept>),
    /// The same key may be used anew.
    Free,
    /// Whoever comes again is told to look first.
    Doubt,
}

impl Fate {
    /// The table.
    pub(super) fn of(ended: Ended<'_>) -> Self {
        let answer = match ended {
            None => return Self::Free,
            Some(Err(error)) if error.sent() == Sent::No => return Self::Free,
            Some(Err(_)) => return Self::Doubt,
            Some(Ok(answer)) => answer,
        };
        // One whose length was not told may have been cut, unless it has none, or is an envelope to its last brace.
        let has_end = answer.is_framed || answer.status == StatusCode::NO_CONTENT;
        let is_whole = answer.rest.is_none() && (has_end || answer.is_envelope);
        // A refusal is clear by its status; in what is encoded there may be any code.
        let is_refusal = answer.status.is_client_error() && !answer.is_encoded();
        let is_clear = is_whole && (answer.is_readable || is_refusal);
        match answer.outcome {
            Outcome::Throttled | Outcome::BadSignature => Self::Free,
            Outcome::Success | Outcome::CallerError | Outcome::Unknown if is_clear => {
                Self::Keep(Arc::new(Kept::of(answer)))
            }
            Outcome::Success | Outcome::CallerError | Outcome::Unknown | Outcome::Transient => {
                Self::Doubt
            }
        }
    }
}

/// What those who wait for a command learn.
#[derive(Debug, Clone)]
pub enum End {
    /// Its answer.
    Answered(Arc<Kept>),
    /// Why there is none.
    Failed(Arc<Error>),
    /// There is an answer that is not kept.
    InDoubt,
    /// Its caller had no more time, and it was not sent: the key can be claimed anew.
    CalledOff,
}

impl End {
    pub(super) fn of(fate: &Fate, ended: Ended<'_>) -> Self {
        match (fate, ended) {
            (Fate::Keep(kept), _) => Self::Answered(kept.clone()),
            (_, None) => Self::CalledOff,
            // That caller's time was over, or there was no room then.
            (_, Some(Err(error))) if matches!(**error, Error::Overloaded { .. }) => Self::CalledOff,
            (_, Some(Err(error))) => Self::Failed(error.clone()),
            (_, Some(Ok(answer))) if answer.rest.is_none() => {
                Self::Answered(Arc::new(Kept::of(answer)))
            }
            (_, Some(Ok(_))) => Self::InDoubt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::answer;
    use super::*;

    #[test]
    fn what_may_have_been_cut_is_not_given_again() {
        for (status, is_envelope, is_framed, is_readable, is_kept) in [
            (200, false, true, true, true),
            (200, false, false, true, false),
            (200, true, false, true, true),
            (204, false, false, true, true),
            (200, false, true, false, false),
            (302, false, true, false, false),
            (404, false, true, false, true),
            (404, false, false, false, false),
        ] {
            let answer = Answer {
                is_framed,
                is_envelope,
                is_readable,
                ..answer(status)
            };
            let fate = Fate::of(Some(Ok(&answer)));
            assert_eq!(matches!(fate, Fate::Keep(_)), is_kept, "{answer:?}");
        }
    }
}
