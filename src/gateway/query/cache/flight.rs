//! Which fills run, and who may wait for them?
//!
//! A fill runs in a task of its own: whoever waits may leave, the fill goes on. It may be joined by
//! those whom its answer can satisfy: not by a caller who came after an invalidation that touches
//! it, nor by one who wants an answer that is newer than its request.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::found::NotStored;
use super::key::Key;
use super::scope::Validity;
use super::snapshot::Snapshot;
use crate::clock::Moment;
use crate::gateway::error::Error;
use crate::gateway::page::Page;
use crate::gateway::progress::Progress;
use crate::words::{Outcome, Sent};

/// Under which terms a fill begins.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The validity of its answer, as of now.
    pub validity: Validity,
    /// The number of the configuration it is made under.
    pub configuration: u64,
    /// Is it for those alone who say `no-store`, and not kept?
    pub is_private: bool,
    /// Would a caller not take what was there?
    pub is_forced: bool,
}

/// A running fill.
#[derive(Debug, Clone)]
pub struct Flight {
    /// Tells it from a later one of the same key.
    pub id: u64,
    /// How far it is.
    pub progress: Progress,
    /// Under which terms it began.
    pub terms: Terms,
    began_at: Moment,
    outcome: watch::Receiver<Option<FillResult>>,
}

/// Where a fill's task tells its outcome.
pub type Teller = watch::Sender<Option<FillResult>>;

/// What a fill has brought; those who waited share it.
pub type FillResult = Result<Landed, Arc<Error>>;

/// The answer of a fill.
#[derive(Debug, Clone)]
pub struct Landed {
    /// The answer.
    pub page: Arc<Page>,
    /// When its request was sent.
    pub sent_at: Moment,
    /// Is it a document that a crawl has brought?
    pub is_crawled: bool,
    /// The snapshot that it belongs to; none if it is no page that can be stored.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why it was not stored; none if it was.
    pub not_stored: Option<NotStored>,
    /// What it means, if it is a failure of the vendor for which an old page may stand in.
    pub failure: Option<Outcome>,
}

impl Flight {
    /// A fill that begins now.
    pub fn new(id: u64, terms: Terms, now: Moment) -> (Self, Teller) {
        let (teller, outcome) = watch::channel(None);
        let flight = Self {
            id,
            progress: Progress::default(),
            terms,
            began_at: now,
            outcome,
        };
        (flight, teller)
    }

    /// The same fill, whose answer has not come in the time for it, and may come after all.
    pub fn going_on(&self, id: u64) -> (Self, Teller) {
        let (teller, outcome) = watch::channel(None);
        let flight = Self {
            id,
            outcome,
            ..self.clone()
        };
        (flight, teller)
    }

    /// May a caller wait for it who wants the state of the vendor as of `not_before` or later?
    pub fn serves(&self, key: &Key, not_before: Option<Moment>, now: Moment) -> bool {
        let began = self.terms.validity;
        let validity = if key.scope().generation() == began.generation {
            began
        } else {
            match key.validity(began.generation, self.began_at) {
                Ok(validity) => validity,
                Err(_) => return false,
            }
        };
        validity.until.is_none_or(|until| now < until)
            && not_before
                .is_none_or(|time| time <= self.began_at || self.progress.sent() == Sent::No)
    }

    /// Waits for the outcome; none if it has not come by `until`.
    pub async fn outcome(&mut self, until: Instant) -> Option<FillResult> {
        let _waiter = self.progress.await_it(until);
        match timeout_at(until, self.outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => Some(Err(Error::Internal(self.progress.sent()).into())), // its task is gone
            Err(_) => None,
        }
    }
}
