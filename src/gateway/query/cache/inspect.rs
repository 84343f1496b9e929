//! What does memory hold, and what would it do for a question? Reads, and changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::snapshot::Standing;
use super::{Cache, Memory, Question};
use crate::clock::Moment;
use crate::id::Id;
use crate::words::RequestResult;

/// What memory holds of the queries of one tenant and path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    /// Pages.
    pub entries: u64,
    /// Their bytes, keys and overhead included.
    pub bytes: u64,
}

/// What memory would do for a question.
#[derive(Debug)]
pub struct Explanation {
    /// The result that the metrics would count.
    pub result: RequestResult,
    /// Why, in a sentence.
    pub reason: &'static str,
    /// Does a fill run that it would wait for?
    pub joins: bool,
    /// The page in memory, usable or not.
    pub page: Option<Kept>,
}

/// A page in memory.
#[derive(Debug)]
pub struct Kept {
    /// What it may be used for.
    pub state: &'static str,
    /// The id of its snapshot; none for a query without pages.
    pub snapshot: Option<String>,
    /// The age of its snapshot.
    pub age: Duration,
    /// The age at which that stops, or stopped, being fresh.
    pub fresh_for: Duration,
    /// The bytes of the answer.
    pub bytes: usize,
}

impl Cache {
    /// What memory holds, by access code and path.
    pub fn census(&self) -> HashMap<(String, String), Share> {
        let mut census: HashMap<_, Share> = HashMap::new();
        for (key, entry) in &self.0.entries {
            let (_, access_code, path) = key.scope().identity();
            let owner = (access_code.to_owned(), path.to_owned());
            let share = census.entry(owner).or_default();
            share.entries += 1;
            share.bytes += u64::from(super::weigh(&key, &entry.page));
        }
        census
    }

    /// What [`get_or_fill`](Self::get_or_fill) would do now.
    pub fn explain(&self, question: &Question<'_>, usual: Duration) -> Explanation {
        let begun = Instant::now();
        let now = Moment::of(begun);
        let (result, reason) = match self.0.look(question, now) {
            Memory::Nothing(because) if self.0.spares(question, because, now) => (
                RequestResult::Refused,
                "a fresh page is in memory, and so near its end the day's budget fetches none again",
            ),
            _ if question.directives.no_store => {
                (RequestResult::Bypass, "Cache-Control says no-store")
            }
            Memory::Answers(_) => (RequestResult::Hit, "a fresh page is in memory"),
            Memory::AnswersStale(_) => (
                RequestResult::Stale,
                "a page is in memory that may be served while it is fetched again",
            ),
            Memory::StandsIn(_) if question.patience(|| usual, begun).is_none() => (
                RequestResult::Stale,
                "an old page is in memory, and a fill usually takes longer than the caller waits",
            ),
            Memory::StandsIn(_) => (
                RequestResult::Miss,
                "the page in memory is so old that it is served only if Linksfield fails or is too slow",
            ),
            Memory::Nothing(_) => (RequestResult::Miss, self.why_not(question, now)),
        };
        let result = match result {
            RequestResult::Miss if question.directives.only_if_cached => RequestResult::Refused,
            result => result,
        };
        Explanation {
            result,
            reason,
            joins: matches!(
                result,
                RequestResult::Miss | RequestResult::Stale | RequestResult::Bypass
            ) && self.0.state().serving(question, now).is_some(),
            page: self.0.entries.get(&question.key).map(|entry| {
                let standing = entry.snapshot.standing(&question.key, question.policy, now);
                Kept {
                    state: standing.as_str(),
                    snapshot: entry.snapshot.id().map(Id::text),
                    age: entry.snapshot.age(now),
                    fresh_for: entry.snapshot.lifetime(question.policy),
                    bytes: entry.page.body.len(),
                }
            }),
        }
    }

    fn why_not(&self, question: &Question<'_>, now: Moment) -> &'static str {
        let Some(entry) = self.0.entries.get(&question.key) else {
            return "no page is in memory: it was not asked for, could not be stored (the answer's Cache-Status says why), has expired, or had to make room";
        };
        if !entry.snapshot.is_valid(&question.key, now) {
            return "the page in memory was invalidated by a command or a purge";
        }
        match entry.snapshot.standing(&question.key, question.policy, now) {
            Standing::Gone => "the page in memory is too old for any use",
            _ => "Cache-Control refuses the page in memory",
        }
    }
}

impl Standing {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Old => "old",
            Self::Contradicted => "contradicted",
            Self::Gone => "gone",
        }
    }
}
