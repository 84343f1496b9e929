//! Which pages belong together? Pages of one query form a *snapshot*: one id, one age, stale at the
//! same moment.
//!
//! A page joins the current snapshot of its query if it agrees with it. A page that contradicts it
//! (other totals, or an order that stands on another page) opens the next one, and so does the
//! first page that is fetched again once the snapshot is stale. Snapshots are ordered by the start
//! of the fill that opened them.
//!
//! A page of a query without pages is a snapshot by itself.
//!
//! What a lookup needs is in atomics, so that a hit takes no lock; only [`Cache`](super::Cache)
//! changes them, under its.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::key::Key;
use super::scope::Validity;
use crate::clock::Moment;
use crate::gateway::page::{OrderId, Position};
use crate::gateway::request::route::Policy;
use crate::id::{Id, Ids};

/// Pages that belong together.
#[derive(Debug)]
pub struct Snapshot {
    /// The value of `x-linksfield-snapshot`; none for a query without pages.
    id: Option<Id>,
    opened_at: Moment,
    /// How many nanoseconds the crawl took that brought its pages, if one did: freshness counts
    /// from the end of that.
    crawled_for: AtomicU64,
    /// By how many nanoseconds the fill of its oldest page began before the one that opened it.
    older_by: AtomicU64,
    /// How many nanoseconds after `opened_at` it is not valid any more, as a settle time ends;
    /// [`FOREVER`] for never.
    valid_for: AtomicU64,
    /// Nothing up to this generation touches it.
    generation: AtomicU64,
    ended: AtomicU8,
    /// What no lookup needs stands apart.
    contents: Box<Mutex<Contents>>,
}

const FOREVER: u64 = u64::MAX;

/// Why a snapshot is not its query's current one any more. A later reason replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Ended {
    /// It was stale, and a page of it was fetched again.
    Revalidated = 1,
    /// A later page contradicts it.
    Contradicted = 2,
    /// Something touched it. It is never served again.
    Invalidated = 3,
}

/// What a snapshot's pages may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Answers.
    Fresh,
    /// Answers, while one fill runs.
    Stale,
    /// Answers a caller who asks for it with `max-stale`, or where a fill fails.
    Old,
    /// Answers where a fill fails.
    Contradicted,
    /// Nothing.
    Gone,
}

/// What the pages of a snapshot say together.
#[derive(Debug, Default)]
struct Contents {
    totals: Option<(u64, u64)>,
    /// The orders of each page, in order, as one hash.
    pages: HashMap<u64, u64>,
    /// The page of each order.
    page_of: HashMap<OrderId, u64>,
    /// Makes those hashes.
    hasher: RandomState,
}

/// The current snapshots of paged queries, by the key that the pages of one have in common.
#[derive(Debug)]
pub struct Series {
    current: HashMap<Key, Current>,
    /// So many make it worth to look for those whose pages are gone.
    sweep_at: usize,
    ids: Ids,
}

#[derive(Debug)]
struct Current {
    snapshot: Weak<Snapshot>,
    opened_at: Moment,
    /// Those before it that ended as they were fetched again: what contradicts the current one
    /// contradicts them too.
    before: Vec<Weak<Snapshot>>,
}

/// Pages that have come.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// What they say about themselves: one page, all of them, or none if their query has no pages.
    pub positions: &'a [Position],
    /// When the first of them was asked for.
    pub sent_at: Moment,
    /// How long it took to fetch all of them; none for one page.
    pub crawled_for: Option<Duration>,
    /// Would a caller not take the page that was there?
    pub is_forced: bool,
    /// Their validity.
    pub validity: Validity,
    /// How long they serve.
    pub policy: &'a Policy,
    /// Now.
    pub now: Moment,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            current: HashMap::new(),
            sweep_at: 64,
            ids: Ids::default(),
        }
    }
}

impl Series {
    /// The snapshot that pages belong to, and whether they may be kept there. `key` is that of all
    /// pages of the query.
    pub fn place(&mut self, key: Key, arrival: &Arrival<'_>) -> (Arc<Snapshot>, bool) {
        let Arrival {
            positions,
            sent_at,
            policy,
            now,
            ..
        } = *arrival;
        let mut before = Vec::new();
        if let Some(known) = self.current.get(&key) {
            let is_older = sent_at < known.opened_at;
            match known.snapshot.upgrade() {
                Some(current) if current.is_valid(&key, now) => {
                    let mut contradicting = positions
                        .iter()
                        .filter(|position| current.is_contradicted_by(position));
                    let contradicts = contradicting.next().is_some();
                    let lifetime = current.lifetime(policy);
                    let age = now.saturating_duration_since(current.filled_at().min(sent_at));
                    let agrees = !contradicts && age < lifetime + policy.stale_for;
                    if agrees && (is_older || !current.is_renewed_by(arrival)) {
                        current.join(arrival);
                        return (current, true);
                    }
                    if is_older {
                        return (self.apart(true, arrival), false);
                    }
                    let still_there = known.before.iter().filter_map(Weak::upgrade);
                    let all = still_there.chain([current]);
                    if contradicts {
                        all.for_each(|snapshot| snapshot.end(Ended::Contradicted));
                    } else {
                        before = all
                            .inspect(|snapshot| snapshot.end(Ended::Revalidated))
                            .map(|snapshot| Arc::downgrade(&snapshot))
                            .collect();
                    }
                }
                // Its pages were dropped for want of room; it was newer all the same.
                None if is_older => return (self.apart(true, arrival), false),
                _ => {}
            }
        }
        let opened = self.apart(true, arrival);
        opened.join(arrival);
        let current = Current {
            snapshot: Arc::downgrade(&opened),
            opened_at: sent_at,
            before,
        };
        self.current.insert(key, current);
        self.sweep();
        (opened, true)
    }

    /// What the current snapshot of a query says about its pages, if it is fresh. `key` is that of
    /// all pages.
    pub fn total_pages(&self, key: &Key, policy: &Policy, now: Moment) -> Option<u64> {
        let snapshot = self.current.get(&key.of_all_pages())?.snapshot.upgrade()?;
        let is_fresh = snapshot.standing(key, policy, now) == Standing::Fresh;
        let totals = snapshot.contents().totals;
        totals.filter(|_| is_fresh).map(|(_, pages)| pages)
    }

    /// A snapshot that is nobody's current one. Only those of pages have an id.
    pub fn apart(&mut self, of_pages: bool, arrival: &Arrival<'_>) -> Arc<Snapshot> {
        let id = of_pages.then(|| self.ids.next());
        Arc::new(Snapshot::new(id, arrival))
    }

    fn sweep(&mut self) {
        if self.current.len() >= self.sweep_at {
            self.current
                .retain(|_, current| current.snapshot.strong_count() > 0);
            self.sweep_at = 64.max(self.current.len() * 2);
        }
    }
}

impl Snapshot {
    /// A snapshot that these pages open, without them yet.
    fn new(id: Option<Id>, arrival: &Arrival<'_>) -> Self {
        let snapshot = Self {
            id,
            opened_at: arrival.sent_at,
            crawled_for: AtomicU64::new(arrival.crawled_for.map_or(0, nanos)),
            older_by: AtomicU64::new(0),
            valid_for: AtomicU64::new(FOREVER),
            generation: AtomicU64::new(arrival.validity.generation),
            ended: AtomicU8::new(0),
            contents: Box::default(),
        };
        snapshot.limit(arrival.validity);
        snapshot
    }

    /// The value of `x-linksfield-snapshot`.
    pub fn id(&self) -> Option<Id> {
        self.id
    }

    /// The time since its oldest page's fill was sent.
    pub fn age(&self, now: Moment) -> Duration {
        now.saturating_duration_since(self.filled_at())
    }

    /// The age at which it stops being fresh: in a settle time as soon as that ends.
    pub fn lifetime(&self, policy: &Policy) -> Duration {
        let load = |nanos: &AtomicU64| nanos.load(Ordering::Acquire);
        let older_by = load(&self.older_by);
        // A page that was asked for before a crawl began is not fresh for longer because of it.
        let crawled_for = if older_by == 0 {
            load(&self.crawled_for)
        } else {
            0
        };
        let fresh_for = policy.fresh_for + Duration::from_nanos(crawled_for);
        match load(&self.valid_for) {
            FOREVER => fresh_for,
            valid_for => {
                let valid_for = valid_for.saturating_add(older_by);
                fresh_for.min(Duration::from_nanos(valid_for))
            }
        }
    }

    /// What its pages may be used for now. `key` is that of one of them.
    pub fn standing(&self, key: &Key, policy: &Policy, now: Moment) -> Standing {
        if !self.is_valid(key, now) {
            return Standing::Gone;
        }
        let age = self.age(now);
        let lifetime = self.lifetime(policy);
        let stale_since = age.saturating_sub(lifetime);
        let ended = self.ended.load(Ordering::Acquire);
        if ended == 0 && age < lifetime {
            Standing::Fresh
        } else if ended < Ended::Contradicted as u8 && stale_since < policy.stale_for {
            Standing::Stale
        } else if stale_since >= policy.stale_if_error.max(policy.stale_for) {
            Standing::Gone
        } else if ended < Ended::Contradicted as u8 {
            Standing::Old
        } else {
            Standing::Contradicted
        }
    }

    /// Did nothing touch it, and has no settle time ended that it began before?
    pub fn is_valid(&self, key: &Key, now: Moment) -> bool {
        if self.ended.load(Ordering::Acquire) == Ended::Invalidated as u8 {
            return false;
        }
        let generation = self.generation.load(Ordering::Acquire);
        if key.scope().generation() != generation {
            let Ok(validity) = key.validity(generation, self.filled_at()) else {
                self.end(Ended::Invalidated);
                return false;
            };
            self.generation
                .fetch_max(validity.generation, Ordering::AcqRel);
        }
        let valid_for = self.valid_for.load(Ordering::Acquire);
        valid_for == FOREVER || now < self.opened_at + Duration::from_nanos(valid_for)
    }

    /// It is not the current one any more.
    fn end(&self, reason: Ended) {
        self.ended.fetch_max(reason as u8, Ordering::AcqRel);
    }

    /// Does a page say something else than those that are here?
    fn is_contradicted_by(&self, position: &Position) -> bool {
        let contents = self.contents();
        let totals = (position.total_count, position.total_pages);
        if contents.totals.is_some_and(|known| known != totals) {
            return true;
        }
        let same_page = contents.pages.get(&position.number);
        let mut orders = position.orders.iter();
        same_page.is_some_and(|known| *known != contents.hash(position))
            || orders.any(|order| {
                let page = contents.page_of.get(order);
                page.is_some_and(|page| *page != position.number)
            })
    }

    /// Is this a page that is fetched again, because it is stale or a caller asks for a newer one,
    /// or all pages at once? (One that had to make room, and is fetched again while the others are
    /// fresh, is not.)
    fn is_renewed_by(&self, arrival: &Arrival<'_>) -> bool {
        let is_stale = self.age(arrival.now) >= self.lifetime(arrival.policy);
        let contents = self.contents();
        let is_here = |position: &Position| contents.pages.contains_key(&position.number);
        arrival.crawled_for.is_some()
            || ((is_stale || arrival.is_forced) && arrival.positions.iter().any(is_here))
    }

    /// Takes pages in that do not contradict it.
    fn join(&self, arrival: &Arrival<'_>) {
        let older_by = self.opened_at.saturating_duration_since(arrival.sent_at);
        self.older_by.fetch_max(nanos(older_by), Ordering::AcqRel);
        self.limit(arrival.validity);
        let crawled_for = arrival.crawled_for.unwrap_or_default();
        self.crawled_for
            .fetch_max(nanos(crawled_for), Ordering::AcqRel);
        let mut contents = self.contents();
        for position in arrival.positions {
            contents.add(position);
        }
    }

    fn limit(&self, validity: Validity) {
        if let Some(until) = validity.until {
            let valid_for = until.saturating_duration_since(self.opened_at);
            self.valid_for.fetch_min(nanos(valid_for), Ordering::AcqRel);
        }
    }

    fn filled_at(&self) -> Moment {
        self.opened_at - Duration::from_nanos(self.older_by.load(Ordering::Acquire))
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }
}

impl Contents {
    fn add(&mut self, position: &Position) {
        let hash = self.hash(position);
        self.totals = Some((position.total_count, position.total_pages));
        self.pages.insert(position.number, hash);
        let orders = position.orders.iter();
        self.page_of
            .extend(orders.map(|order| (*order, position.number)));
    }

    fn hash(&self, position: &Position) -> u64 {
        self.hasher.hash_one(&position.orders)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(FOREVER - 1)
}

#[cfg(test)]
mod tests {
    use super::super::scope::Scope;
    use super::*;
    use crate::signing::params::Params;

    struct Pages {
        series: Series,
        scope: Arc<Scope>,
        policy: Policy,
        start: Moment,
        is_forced: bool,
        crawled_for: Option<Duration>,
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Fresh for 30 s, stale for 20 s, stale if error for 90 s.
    fn pages() -> Pages {
        Pages {
            series: Series::default(),
            scope: Arc::new(Scope::new("http://x".into(), "P1".into(), "/q".into())),
            policy: Policy {
                fresh_for: SECOND * 30,
                stale_for: SECOND * 20,
                stale_if_error: SECOND * 90,
                stale_patience: SECOND * 2,
                min_refresh: Duration::ZERO,
                pages: true,
                max_pages: 100,
                crawl_timeout: SECOND * 300,
            },
            start: Moment::now(),
            is_forced: false,
            crawled_for: None,
        }
    }

    impl Pages {
        fn key(&self) -> Key {
            let params = Params::parse(b"{}").unwrap();
            Key::new(self.scope.clone(), "zh-CN".into(), &params)
        }

        /// A page of two orders of `total`, asked for and come at these seconds.
        fn come(&mut self, number: u64, total: u64, sent: u32, came: u32) -> (Arc<Snapshot>, bool) {
            let first = (number - 1) * 2;
            let position = Position {
                number,
                size: 2,
                total_count: total,
                total_pages: total.div_ceil(2),
                orders: (first..total.min(first + 2))
                    .map(|order| total - order)
                    .collect(),
            };
            let sent_at = self.start + SECOND * sent;
            let arrival = Arrival {
                positions: &[position],
                crawled_for: self.crawled_for,
                is_forced: self.is_forced,
                sent_at,
                validity: self
                    .key()
                    .validity(self.scope.generation(), sent_at)
                    .unwrap(),
                policy: &self.policy,
                now: self.start + SECOND * came,
            };
            self.series.place(self.key(), &arrival)
        }

        fn standing(&self, snapshot: &Snapshot, second: u32) -> Standing {
            snapshot.standing(&self.key(), &self.policy, self.start + SECOND * second)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_agree_are_one_snapshot_with_the_age_of_its_first_fill() {
        let mut pages = pages();
        let (one, _) = pages.come(1, 7, 10, 12);
        let (two, is_kept) = pages.come(2, 7, 15, 16);
        assert!(is_kept && Arc::ptr_eq(&one, &two));
        assert_eq!(pages.standing(&one, 39), Standing::Fresh);
        assert_eq!(pages.standing(&one, 40), Standing::Stale);
        let (older, is_kept) = pages.come(3, 7, 8, 17);
        assert!(
            is_kept && Arc::ptr_eq(&one, &older),
            "an older fill may join"
        );
        assert_eq!(
            pages.standing(&one, 38),
            Standing::Stale,
            "and makes all of it older"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pages_and_settle_times_age_while_the_machine_sleeps() {
        let mut pages = pages();
        let (page, _) = pages.come(1, 7, 0, 1);
        let standing = |pages: &Pages| page.standing(&pages.key(), &pages.policy, Moment::now());
        assert_eq!(standing(&pages), Standing::Fresh);
        crate::clock::tests::sleep_for(SECOND * 35);
        assert_eq!(standing(&pages), Standing::Stale);
        crate::clock::tests::sleep_for(SECOND * 90);
        assert_eq!(standing(&pages), Standing::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_contradicts_opens_the_next_one_and_the_old_pages_only_stand_in() {
        for (number, total) in [(2, 8), (1, 8), (2, 6)] {
            let mut pages = pages();
            let (old, _) = pages.come(1, 7, 0, 1);
            let (new, is_kept) = pages.come(number, total, 2, 3);
            assert!(is_kept && !Arc::ptr_eq(&old, &new) && old.id() != new.id());
            assert_eq!(pages.standing(&old, 3), Standing::Contradicted);
            assert_eq!(pages.standing(&new, 3), Standing::Fresh);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_stands_on_another_page_contradicts_although_the_totals_agree() {
        let mut pages = pages();
        let (old, _) = pages.come(1, 7, 0, 1);
        let position = Position {
            number: 2,
            size: 2,
            total_count: 7,
            total_pages: 4,
            orders: vec![6, 5], // one was cancelled, one was ordered: 6 has moved from the first page
        };
        assert!(old.is_contradicted_by(&position));
        let elsewhere = Position {
            orders: vec![5, 4],
            ..position
        };
        assert!(!old.is_contradicted_by(&elsewhere));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_fill_never_replaces_the_current_one() {
        let mut pages = pages();
        let (current, _) = pages.come(1, 7, 5, 6);
        let (older, is_kept) = pages.come(2, 8, 4, 7);
        assert!(!is_kept && older.id() != current.id());
        assert_eq!(pages.standing(&current, 7), Standing::Fresh);
        drop(current); // its pages were dropped for want of room
        let (older, is_kept) = pages.come(2, 8, 4, 8);
        assert!(!is_kept, "{older:?}");
        assert!(pages.come(2, 8, 6, 9).1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_page_fetched_again_opens_the_next_one_and_the_old_pages_stay_stale() {
        let mut pages = pages();
        let (old, _) = pages.come(1, 7, 0, 1);
        pages.come(2, 7, 1, 2);
        let (again, _) = pages.come(1, 7, 20, 21);
        assert!(
            Arc::ptr_eq(&old, &again),
            "fresh pages that agree stay together"
        );
        let (missing, is_kept) = pages.come(3, 7, 35, 36);
        assert!(
            is_kept && Arc::ptr_eq(&old, &missing),
            "a missing one may still join"
        );
        let (new, _) = pages.come(1, 7, 37, 38);
        assert!(!Arc::ptr_eq(&old, &new));
        assert_eq!(pages.standing(&old, 38), Standing::Stale);
        assert_eq!(pages.standing(&old, 50), Standing::Old);
        assert_eq!(pages.standing(&old, 120), Standing::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_a_caller_has_fetched_again_is_as_young_as_that() {
        let mut pages = pages();
        let (old, _) = pages.come(1, 7, 0, 1);
        pages.come(2, 7, 1, 2);
        pages.is_forced = true;
        let (missing, _) = pages.come(3, 7, 10, 11);
        assert!(Arc::ptr_eq(&old, &missing), "nothing was fetched again");
        let (new, is_kept) = pages.come(1, 7, 12, 13);
        assert!(is_kept && !Arc::ptr_eq(&old, &new));
        assert_eq!(new.age(pages.start + SECOND * 13), SECOND);
        assert_eq!(pages.standing(&old, 13), Standing::Stale);
    }

    #[tokio::test(start_paused = true)]
    async fn what_contradicts_a_snapshot_contradicts_those_it_has_renewed() {
        let mut pages = pages();
        let (first, _) = pages.come(1, 7, 0, 1);
        pages.come(2, 7, 0, 1);
        pages.is_forced = true;
        let (second, _) = pages.come(1, 7, 2, 3);
        assert_eq!(pages.standing(&first, 3), Standing::Stale);
        let (third, _) = pages.come(3, 8, 4, 5);
        for old in [&first, &second] {
            assert_eq!(pages.standing(old, 5), Standing::Contradicted);
        }
        assert_eq!(pages.standing(&third, 5), Standing::Fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_settle_time_a_page_is_fresh_until_that_ends() {
        let mut pages = pages();
        let settles_at = pages.start + SECOND * 5;
        pages
            .scope
            .invalidate(super::super::Named::nothing(), Some(settles_at));
        let (page, _) = pages.come(1, 7, 1, 2);
        assert_eq!(page.lifetime(&pages.policy), SECOND * 4);
        assert_eq!(pages.standing(&page, 4), Standing::Fresh);
        assert_eq!(pages.standing(&page, 5), Standing::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_page_joins_no_snapshot_that_is_too_stale() {
        let mut pages = pages();
        let (old, _) = pages.come(1, 7, 0, 1);
        let (new, is_kept) = pages.come(2, 7, 45, 50);
        assert!(is_kept && !Arc::ptr_eq(&old, &new));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_invalidated_is_gone_and_the_next_page_opens_a_new_one() {
        let mut pages = pages();
        let (old, _) = pages.come(1, 7, 0, 1);
        pages.scope.invalidate(super::super::Named::nothing(), None);
        assert_eq!(pages.standing(&old, 2), Standing::Gone);
        let (new, is_kept) = pages.come(2, 7, 3, 4);
        assert!(is_kept && !Arc::ptr_eq(&old, &new));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_asked_for_before_a_crawl_began_is_not_fresh_for_longer_because_of_it() {
        let mut pages = pages();
        pages.crawled_for = Some(SECOND * 6);
        let (crawled, _) = pages.come(1, 4, 1, 7);
        assert_eq!(pages.standing(&crawled, 36), Standing::Fresh);
        pages.crawled_for = None;
        let (snapshot, _) = pages.come(2, 4, 0, 8);
        assert!(Arc::ptr_eq(&snapshot, &crawled));
        assert_eq!(pages.standing(&snapshot, 29), Standing::Fresh);
        assert_eq!(pages.standing(&snapshot, 30), Standing::Stale);
    }

    #[tokio::test(start_paused = true)]
    async fn series_whose_pages_are_gone_are_forgotten() {
        let mut pages = pages();
        let validity = Validity {
            generation: 0,
            until: None,
        };
        for number in 0..1000 {
            let params =
                Params::parse(format!(r#"{{"device_id":"{number}"}}"#).as_bytes()).unwrap();
            let key = Key::new(pages.scope.clone(), "zh-CN".into(), &params);
            let position = Position {
                number: 1,
                size: 2,
                total_count: 0,
                total_pages: 0,
                orders: vec![],
            };
            let policy = pages.policy.clone();
            let arrival = Arrival {
                positions: &[position],
                crawled_for: None,
                is_forced: false,
                sent_at: pages.start,
                validity,
                policy: &policy,
                now: pages.start,
            };
            drop(pages.series.place(key, &arrival));
        }
        assert!(pages.series.current.len() < 100);
    }
}
