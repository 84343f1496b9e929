//! What has been invalidated since? Every page is filled under a generation; every invalidation
//! raises it.
//!
//! The usual question, *nothing at all?*, is one comparison. Only if something was invalidated
//! since is the list of recent invalidations read, to see whether it touches what the query names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};

use super::narrowing::Named;
use crate::clock::Moment;

/// How many invalidations that name different things are remembered; what is older counts as
/// touching every query.
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
    /// The number of the latest configuration.
    configuration: AtomicU64,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// By the generation that the last of each raised to: the oldest first.
    remembered: BTreeMap<u64, Invalidation>,
    /// The same by what they name.
    generations: HashMap<Arc<Named>, u64, RandomState>,
    /// The generation that the last one of those raised to that are not remembered any more.
    forgotten: u64,
    /// The latest settle time of those that are not remembered any more.
    forgotten_settles_at: Option<Moment>,
}

/// All that name the same thing, as one.
#[derive(Debug)]
struct Invalidation {
    named: Arc<Named>,
    /// The ends of their settle times, in which the vendor may show the old state: those to come,
    /// and the last that was.
    settles_at: Vec<Moment>,
}

/// The page was filled before something that touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalidated;

/// Until which generation, and until when, a page is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Nothing up to this generation touches the page.
    pub generation: u64,
    /// The end of the first settle time that its fill began before; none if it began after all of
    /// them.
    pub until: Option<Moment>,
}

impl Scope {
    /// The scope of a tenant's queries of one path.
    pub fn new(base_url: Arc<str>, access_code: Arc<str>, path: Arc<str>) -> Self {
        Self {
            base_url,
            access_code,
            path,
            generation: AtomicU64::new(0),
            configuration: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    /// From now on no page that `named` touches is found if its fill began before; and after
    /// `settles_at` none whose fill was sent before that.
    pub fn invalidate(&self, named: impl Into<Arc<Named>>, settles_at: Option<Moment>) {
        let named = named.into();
        let mut recent = self.recent();
        let raised_to = self.generation() + 1;
        let before = recent.generations.insert(named.clone(), raised_to);
        let mut ends = before.map_or_else(Vec::new, |generation| recent.forget(generation));
        ends.extend(settles_at);
        let settles_at = ends;
        let invalidation = Invalidation { named, settles_at };
        recent.remembered.insert(raised_to, invalidation);
        if recent.remembered.len() > REMEMBERED
            && let Some((generation, oldest)) = recent.remembered.pop_first()
        {
            recent.generations.remove(&oldest.named);
            let settles_at = oldest.settles_at.into_iter().max();
            recent.forgotten = generation;
            recent.forgotten_settles_at = recent.forgotten_settles_at.max(settles_at);
        }
        self.generation.store(raised_to, Ordering::Release);
    }

    /// Another configuration is in force: what is filled under an earlier one is not stored. Pages
    /// in memory stay.
    pub fn reconfigure(&self, number: u64) {
        self.configuration.fetch_max(number, Ordering::AcqRel);
    }

    /// The number of the configuration in force.
    pub fn configuration(&self) -> u64 {
        self.configuration.load(Ordering::Acquire)
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
        sent_at: Moment,
        query: impl FnOnce() -> Named,
    ) -> Result<Validity, Invalidated> {
        let recent = self.recent();
        let is_unsettled = |at: &Moment| sent_at < *at;
        if generation < recent.forgotten
            || recent
                .forgotten_settles_at
                .as_ref()
                .is_some_and(is_unsettled)
        {
            return Err(Invalidated);
        }
        let mut until = None;
        if !recent.remembered.is_empty() {
            let query = query();
            for (raised_to, invalidation) in &recent.remembered {
                if !invalidation.named.touches(&query) {
                    continue;
                }
                if generation < *raised_to {
                    return Err(Invalidated);
                }
                let ends = invalidation.settles_at.iter().copied();
                until = until.into_iter().chain(ends.filter(is_unsettled)).min();
            }
        }
        Ok(Validity {
            generation: self.generation(),
            until,
        })
    }

    /// What tells one scope from another.
    pub fn identity(&self) -> (&str, &str, &str) {
        (&self.base_url, &self.access_code, &self.path)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock()
    }
}

impl Recent {
    /// Takes out the invalidation that raised to this generation; the ends of its settle times that
    /// still count.
    fn forget(&mut self, generation: u64) -> Vec<Moment> {
        let Some(known) = self.remembered.remove(&generation) else {
            return Vec::new();
        };
        let mut ends = known.settles_at;
        let now = Moment::now();
        let last = ends.iter().filter(|end| **end <= now).max().copied();
        ends.retain(|end| *end > now);
        ends.extend(last);
        ends
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
        let (scope, now) = (scope(), Moment::now());
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
        let (scope, now) = (scope(), Moment::now());
        let (soon, late) = (now + Duration::from_secs(3), now + Duration::from_secs(5));
        scope.invalidate(Named::nothing(), Some(late));
        scope.invalidate(Named::nothing(), Some(soon));
        let until = |sent_at| scope.validity(2, sent_at, Named::nothing).unwrap().until;
        assert_eq!(until(now), Some(soon));
        assert_eq!(until(soon), Some(late));
        assert_eq!(until(late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_commands_that_name_the_same_takes_one_place() {
        let (scope, start) = (scope(), Moment::now());
        scope.invalidate(Named::device("A"), None);
        for _ in 0..10 * REMEMBERED {
            let settles_at = Moment::now() + Duration::from_secs(5);
            scope.invalidate(Named::device("B"), Some(settles_at));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let validity =
            |device: &'static str, sent_at| scope.validity(1, sent_at, || Named::device(device));
        assert_eq!(validity("A", start).unwrap().until, None, "it is spared");
        assert_eq!(validity("B", start), Err(Invalidated));
        let now = Moment::now();
        let of_now = scope.validity(scope.generation(), now, || Named::device("B"));
        let next = now + Duration::from_millis(100); // of 50 that are to come
        assert_eq!(of_now.unwrap().until, Some(next));
        let recent = scope.recent();
        assert_eq!(recent.remembered.len(), 2);
        let (_, last) = recent.remembered.last_key_value().unwrap();
        assert_eq!(last.settles_at.len(), 51);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_remembered_any_more_touches_every_query() {
        let (scope, now) = (scope(), Moment::now());
        let settles_at = now + Duration::from_secs(5);
        scope.invalidate(Named::device("B"), Some(settles_at));
        for other in 1..REMEMBERED {
            scope.invalidate(Named::device(&other.to_string()), None);
        }
        let query = || Named::device("A");
        assert!(scope.validity(0, now, query).is_ok());
        scope.invalidate(Named::device("C"), None);
        assert_eq!(scope.validity(0, settles_at, query), Err(Invalidated));
        assert_eq!(
            scope.validity(1, now, query),
            Err(Invalidated),
            "its settle time runs"
        );
        assert!(scope.validity(1, settles_at, query).is_ok());
    }
}
