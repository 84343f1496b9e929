//! What becomes of a key when its command has ended, and what do those learn who wait with it?

use std::sync::Arc;

use super::kept::Kept;
use crate::gateway::command::doubt;
use crate::gateway::error::Error;
use crate::gateway::vendor::upstream::Answer;
use crate::words::Outcome;

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
            Some(Err(error)) if !doubt::after_error(error) => return Self::Free,
            Some(Err(_)) => return Self::Doubt,
            Some(Ok(answer)) => answer,
        };
        if doubt::after_answer(answer) {
            return Self::Doubt;
        }
        match answer.outcome {
            Outcome::Throttled | Outcome::BadSignature => Self::Free,
            _ => Self::Keep(Arc::new(Kept::of(answer))),
        }
    }
}

/// What those who wait for a command learn.
#[derive(Debug, Clone)]
pub enum End {
    /// Its answer.
    Answered(Arc<Kept>),
    /// Its answer, which leaves it in doubt and is not given again to those who come later.
    Doubted(Arc<Kept>),
    /// Why there is none.
    Failed(Arc<Error>),
    /// It is in doubt, and its answer was too large to be kept: those who wait are told the doubt
    /// alone.
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
            (_, Some(Ok(answer))) if answer.rest.is_some() => Self::InDoubt,
            (Fate::Doubt, Some(Ok(answer))) => Self::Doubted(Arc::new(Kept::of(answer))),
            (_, Some(Ok(answer))) => Self::Answered(Arc::new(Kept::of(answer))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::answer;
    use super::*;

    #[test]
    fn what_may_have_been_cut_or_cannot_be_read_is_not_given_again() {
        for (status, is_envelope, is_framed, is_readable, is_kept) in [
            (200, false, true, true, true),
            (200, true, false, true, true),
            (200, false, true, false, false),
            (200, false, false, false, false),
            (204, false, false, true, true),
            (302, false, true, false, false),
            (404, false, false, false, true),
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
