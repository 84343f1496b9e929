//! While an unclassified answer is the usual one: whom does that hold for, and who tries whether it
//! still is?
//!
//! Nothing is asked for `open_for`; then one call tries. Where it gets the usual answer, that
//! proves little, as the next may be somebody else's: once in an episode other questions are tried
//! right after it, about as many as it took to begin. They do not wait for each other, or else who
//! asks most often could have each turn, for ever if the two ask in step. From then on one call
//! tries each `open_for`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::said::{Asked, Meaning, Said};
use super::settings::OWN_QUESTIONS;
use crate::gateway::vendor::breaker::{Open, Reason};

/// So many questions are tried before it is one each `open_for`.
const FIRST_TRIALS: usize = 20;

/// As hashes.
pub(super) type Callers = BTreeSet<u64>;

#[derive(Debug)]
pub(super) struct Episode {
    pub meaning: Meaning,
    /// Whose own answers show it. Everybody else passes untouched.
    pub callers: Callers,
    /// The questions of others that got this answer, by who asked.
    of_others: BTreeMap<u64, BTreeSet<u64>>,
    /// When it began, or was last seen to go on.
    pub since: Instant,
    is_trying: bool,
    /// The next trial is kept until then for a question that is known to have an answer: one such
    /// was refused.
    kept_until: Option<Instant>,
    /// Such a question was the last that tried: the next trial is anybody's, as there may be no
    /// answer to it any more.
    was_known: bool,
    /// Of a query, or of a command.
    is_query: bool,
    /// The questions of the first trials.
    tried: BTreeSet<u64>,
}

/// By which right a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// There is no episode.
    Free,
    /// It sees whether the vendor answers otherwise again.
    Trial,
    /// It is one of the first trials, after one that was refused.
    FurtherTrial,
    /// The episode is other callers'.
    Untouched,
}

impl Pass {
    fn is_trial(self) -> bool {
        matches!(self, Self::Trial | Self::FurtherTrial)
    }
}

/// What an answer says of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is the usual one.
    Same,
    /// The usual one is it no more.
    Over,
    /// Nothing.
    Nothing,
}

impl Episode {
    /// Of a query, or of a command. One of these that is tried may cost money, so it is never more
    /// than one at a time.
    pub fn new(meaning: Meaning, callers: Callers, is_query: bool, now: Instant) -> Self {
        Self {
            meaning,
            callers,
            of_others: BTreeMap::new(),
            since: now,
            is_trying: false,
            kept_until: None,
            was_known: false,
            tried: BTreeSet::new(),
            is_query,
        }
    }

    /// May this be asked? Somebody who asks for what does not exist, again and again, must not have
    /// all trials: a question that has succeeded before (`is_known`) goes first, every other time.
    pub fn pass(
        &mut self,
        asked: Asked<'_>,
        is_known: bool,
        open_for: Duration,
    ) -> Result<Pass, Open> {
        if !self.callers.contains(&asked.caller()) {
            return Ok(Pass::Untouched);
        }
        let now = Instant::now();
        let left = (self.since + open_for).saturating_duration_since(now);
        let is_kept = self.kept_until.is_some_and(|until| now < until);
        if !self.is_trying && left.is_zero() && (is_known || !is_kept) {
            return Ok(Pass::Trial);
        }
        if !self.is_trying && self.is_further(asked.question()) {
            return Ok(Pass::FurtherTrial);
        }
        if is_known && !self.was_known {
            self.kept_until = Some(now + open_for * 2);
        }
        let retry_after = left.max(Duration::from_secs(1));
        Err(Open {
            reason: Reason::UsualAnswer,
            retry_after,
        })
    }

    fn first_trials(&self) -> usize {
        if self.is_query { FIRST_TRIALS } else { 0 }
    }

    fn is_further(&self, question: u64) -> bool {
        let has_begun = !self.tried.is_empty();
        has_begun && self.tried.len() < self.first_trials() && !self.tried.contains(&question)
    }

    /// A call is made by this right.
    pub fn begin(&mut self, pass: Pass, question: u64, is_known: bool) {
        match pass {
            Pass::Trial => {
                self.is_trying = true;
                self.kept_until = None;
                self.was_known = is_known;
            }
            Pass::FurtherTrial => self.note(question),
            Pass::Free | Pass::Untouched => {}
        }
    }

    /// A trial has ended, whatever was heard.
    pub fn release(&mut self, pass: Pass) {
        self.is_trying &= pass != Pass::Trial;
    }

    fn note(&mut self, question: u64) {
        if self.tried.len() < self.first_trials() {
            self.tried.insert(question);
        }
    }

    /// Does one more such answer show that the episode is this caller's too?
    fn is_shown_by(&mut self, asked: Asked<'_>, is_known: bool) -> bool {
        if !self.is_query || is_known {
            return true; // a command follows what queries have shown
        }
        let questions = self.of_others.entry(asked.caller()).or_default();
        questions.insert(asked.question());
        questions.len() >= OWN_QUESTIONS
    }

    /// A call has ended. `is_shown`: that its meaning is usual is known for its caller, if it is
    /// this one.
    pub fn hear(
        &mut self,
        said: &Said,
        asked: Asked<'_>,
        is_known: bool,
        (pass, is_shown): (Pass, bool),
        now: Instant,
    ) -> Heard {
        self.release(pass);
        let has_meaning = said.meaning() == Some(&self.meaning);
        let is_same = has_meaning && is_shown;
        if pass.is_trial() && (is_same || *said == Said::Failure) {
            self.since = now;
            self.note(asked.question());
        }
        let is_otherwise = match pass {
            Pass::Free => false, // it began before the episode did
            Pass::Trial | Pass::FurtherTrial => !is_same,
            Pass::Untouched => !has_meaning,
        };
        if is_otherwise && !matches!(said, Said::Nothing | Said::Failure) {
            return Heard::Over;
        }
        if !is_same {
            return Heard::Nothing;
        }
        if !self.callers.contains(&asked.caller()) {
            if !self.is_shown_by(asked, is_known) {
                return Heard::Nothing;
            }
            self.callers.insert(asked.caller());
            self.since = now;
        }
        Heard::Same
    }
}
