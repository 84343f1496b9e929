//! What has been invalidated since? Every page is filled under a generation; every invalidation raises it.
//!
//! The usual question, *nothing at all?*, is one comparison. Only if something was invalidated since is the list of
//! recent invalidations read, to see whether it touches what the query names.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::narrowing::Named;

/// How many invalidations are remembered one by one; what is older counts as touching every query.
const REMEMBERED: usize = 256;

/// Whose pages of which path: what an invalidation reaches.
///
/// There is no default: every key names a tenant.
#[derive(Debug)]
pub struct Scope {
    base_url: Arc<str>,
    access_code: Arc<str>,
    path: Arc<str>,
    generation: AtomicU64,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    remembered: VecDeque<Invalidation>,
    /// The latest settle time of those that are not remembered any more.
    forgotten_settles_at: Option<Instant>,
}

#[derive(Debug)]
struct Invalidation {
    named: Named,
    /// The end of the settle time, where the vendor may show the old state for a while.
    settles_at: Option<Instant>,
}

/// The page was filled before something that touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalidated;

/// Until which generation, and until when, a page is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Nothing up to this generation touches the page.
    pub generation: u64,
    /// The end of the first settle time that its fill began before; none if it began after all of them.
    pub until: Option<Instant>,
}

impl Scope {
    /// The scope of a tenant's queries of one path.
    pub fn new(base_url: Arc<str>, access_code: Arc<str>, path: Arc<str>) -> Self {
        Self {
            base_url,
            access_code,
            path,
            generation: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    /// From now on no page that `named` touches is found if its fill began before; and after `settles_at` none whose
    /// fill was sent before that.
    pub fn invalidate(&self, named: Named, settles_at: Option<Instant>) {
        let mut recent = self.recent();
        if recent.remembered.len() == REMEMBERED {
            let forgotten = recent.remembered.pop_front();
            let settles_at = forgotten.and_then(|invalidation| invalidation.settles_at);
            recent.forgotten_settles_at = recent.forgotten_settles_at.max(settles_at);
        }
        recent
            .remembered
            .push_back(Invalidation { named, settles_at });
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The path.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The generation of now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The validity now of a page whose fill began under this generation and was sent at this time.
    pub fn validity(
        &self,
        generation: u64,
        sent_at: Instant,
        query: impl FnOnce() -> Named,
    ) -> Result<Validity, Invalidated> {
        let recent = self.recent();
        let now = self.generation();
        let forgotten = now - recent.remembered.len() as u64;
        if generation < forgotten || recent.forgotten_settles_at.is_some_and(|at| sent_at < at) {
            return Err(Invalidated);
        }
        let mut until = None;
        if !recent.remembered.is_empty() {
            let query = query();
            for (raised_to, invalidation) in (forgotten + 1..).zip(&recent.remembered) {
                if !invalidation.named.touches(&query) {
                    continue;
                }
                if generation < raised_to {
                    return Err(Invalidated);
                }
                let unsettled = invalidation.settles_at.filter(|at| sent_at < *at);
                until = until.into_iter().chain(unsettled).min();
            }
        }
        Ok(Validity {
            generation: now,
            until,
        })
    }

    /// What tells one scope from another.
    pub fn identity(&self) -> (&str, &str, &str) {
        (&self.base_url, &self.access_code, &self.path)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn scope() -> Scope {
        Scope::new("http://x".into(), "P1".into(), "/package/queryOrder".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_valid_until_something_touches_it() {
        let (scope, now) = (scope(), Instant::now());
        let query = || Named::device("A");
        assert!(scope.validity(0, now, query).is_ok());
        scope.invalidate(Named::device("B"), None);
        assert_eq!(scope.validity(0, now, query).unwrap().generation, 1);
        scope.invalidate(Named::device("A"), None);
        assert_eq!(scope.validity(1, now, query), Err(Invalidated));
        assert_eq!(scope.validity(2, now, query).unwrap().until, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_a_settle_time_has_ended_is_valid_until_it_ends() {
        let (scope, now) = (scope(), Instant::now());
        let (soon, late) = (now + Duration::from_secs(3), now + Duration::from_secs(5));
        scope.invalidate(Named::nothing(), Some(late));
        scope.invalidate(Named::nothing(), Some(soon));
        let until = |sent_at| scope.validity(2, sent_at, Named::nothing).unwrap().until;
        assert_eq!(until(now), Some(soon));
        assert_eq!(until(soon), Some(late));
        assert_eq!(until(late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_remembered_any_more_touches_every_query() {
        let (scope, now) = (scope(), Instant::now());
        let settles_at = now + Duration::from_secs(5);
        scope.invalidate(Named::device("B"), Some(settles_at));
        for _ in 0..REMEMBERED - 1 {
            scope.invalidate(Named::device("B"), None);
        }
        let query = || Named::device("A");
        assert!(scope.validity(0, now, query).is_ok());
        scope.invalidate(Named::device("B"), None);
        assert_eq!(scope.validity(0, settles_at, query), Err(Invalidated));
        assert_eq!(
            scope.validity(1, now, query),
            Err(Invalidated),
            "its settle time runs"
        );
        assert!(scope.validity(1, settles_at, query).is_ok());
    }
}
