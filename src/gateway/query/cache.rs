//! Is there a page for this query? Answers from memory, or from the one fill that all who ask for
//! it wait for.
//!
//! moka keeps the entries and bounds the memory; what an entry is worth is judged here, by its
//! snapshot and by a clock that the tests can set. Everything but a hit is rare, as the vendor is
//! slow: it takes one lock.
//!
//! Invariants: a page filled before an invalidation that touches it is never found after it,
//! whatever a request says; pages with one snapshot id never contradict each other; a page is
//! fetched once for all who can wait for it.

mod flight;
mod found;
mod heads;
pub mod inspect;
mod key;
mod narrowing;
mod scope;
mod snapshot;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

pub use self::flight::Terms;
use self::flight::{FillResult, Flight, Landed, Teller};
pub use self::found::{Failure, Forwarded, Found, Lifetime, Lookup, NotStored};
pub use self::key::Key;
pub use self::narrowing::Named;
pub use self::scope::Scope;
pub use self::scope::Validity;
use self::snapshot::{Arrival, Series, Snapshot, Standing};
use crate::gateway::error::Error;
use crate::gateway::page::{Page, Position};
use crate::gateway::request::directives::Directives;

use crate::clock::Moment;
use crate::gateway::progress::Progress;
use crate::gateway::request::route::Policy;
use crate::task;
use crate::words::{Ending, Outcome, Sent};

/// Pages of queries with longer parameters are not kept: the longest that the vendor documents has
/// some 200 bytes.
const LONGEST_KEY: usize = 8 * 1024;

/// The pages in memory and the fills that run.
#[derive(Debug, Clone)]
pub struct Cache(Arc<SharedCache>);

#[derive(Debug)]
struct SharedCache {
    entries: moka::sync::Cache<Key, CacheEntry, RandomState>,
    evictions: Arc<AtomicU64>,
    state: Mutex<FillState>,
    next_flight: AtomicU64,
}

/// What only fills change.
#[derive(Debug, Default)]
struct FillState {
    /// More than one for a key where a caller would not wait for the one that ran. The one that
    /// began last is last.
    flights: HashMap<Key, Vec<Flight>, RandomState>,
    series: Series,
}

#[derive(Debug, Clone)]
struct CacheEntry {
    page: Arc<Page>,
    sent_at: Moment,
    snapshot: Arc<Snapshot>,
    /// For how many seconds moka must keep it: nothing may use it any more after that. (As a
    /// `Duration` it would make moka's own part of an entry longer than a line of memory.)
    keep_for: u32,
}

/// What is not done where the budget is short, in the order in which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sparing {
    /// No fill behind a stale page.
    pub no_refresh: bool,
    /// Old pages are served at once as long as they may stand in for a failure.
    pub longer_stale: bool,
    /// A caller cannot have a fresh page fetched again.
    pub no_forced: bool,
}

/// A query, and what its caller says about the answer.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Which page.
    pub key: Key,
    /// How long the pages of its route serve.
    pub policy: &'a Policy,
    /// The number of the configuration that says so.
    pub configuration: u64,
    /// How short the budget is.
    pub sparing: Sparing,
    /// What the caller asks of the cache.
    pub directives: Directives,
    /// When its head had come.
    pub arrived_at: Moment,
    /// How long its caller waits.
    pub deadline: Instant,
    /// Did the caller name its deadline?
    pub names_deadline: bool,
}

/// Why a fill is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A caller waits for a page that is not there, or too old.
    Caller,
    /// A stale page was answered.
    Revalidate,
    /// A caller would not take what is there.
    NoCache,
}

/// What a fill brings.
#[derive(Debug)]
pub struct Filled {
    /// The answer for all who wait.
    pub page: Arc<Page>,
    /// Why it may not be kept. (Whether what may be kept still may when it comes is for the
    /// generation to say.)
    pub not_stored: Option<NotStored>,
    /// The pages that it is or is made of; only of what may be kept.
    pub pages: Pages,
    /// What it means, if it is a failure of the vendor for which an old page may stand in.
    pub failure: Option<Outcome>,
    /// When its request was sent: the state it shows is at least as new as that.
    pub sent_at: Moment,
}

/// What came of a fill in the time for it, and what may come after that.
pub struct Fetched {
    /// For those who wait.
    pub outcome: Result<Filled, Error>,
    /// Where the vendor still works at it: for memory, and for those who ask meanwhile.
    pub later: Option<LaterFilled>,
}

/// What a fill brings when the time for it has passed.
pub type LaterFilled = Pin<Box<dyn Future<Output = Result<Filled, Error>> + Send>>;

impl From<Result<Filled, Error>> for Fetched {
    fn from(outcome: Result<Filled, Error>) -> Self {
        let later = None;
        Self { outcome, later }
    }
}

/// The pages of an answer.
#[derive(Debug)]
pub enum Pages {
    /// It is no page.
    None,
    /// It is one.
    One(Position),
    /// It is a document that is made of these, which were fetched one after the other, the first
    /// when it was sent.
    All(Vec<PageOfAll>),
    /// It is a document that is made of pages of another size than was asked for, which nobody asks
    /// for.
    AllOfAnotherSize,
}

/// A page that was fetched with all others of its query.
#[derive(Debug)]
pub struct PageOfAll {
    /// Its place: the number of the page that was asked for.
    pub position: Position,
    /// The answer.
    pub page: Arc<Page>,
    /// When it was asked for.
    pub sent_at: Moment,
}

/// What memory has for a question.
enum Memory {
    /// This answers it.
    Answers(Found),
    /// This answers it, while a fill runs.
    AnswersStale(Found),
    /// A fill has to; this can stand in if it fails.
    StandsIn(Found),
    /// Nothing that serves.
    Nothing(Forwarded),
}

/// What the cache holds.
#[derive(Debug, Clone, Copy)]
pub struct Statistics {
    /// Pages.
    pub entries: u64,
    /// Their bytes, keys and overhead included.
    pub bytes: u64,
    /// Pages that were dropped for want of room, since the start.
    pub evictions: u64,
    /// Fills that run.
    pub fills: usize,
}

impl Cache {
    /// A cache of at most `max_size` bytes: keys, pages and what it takes to keep them.
    pub fn new(max_size: u64) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let evicted = evictions.clone();
        let entries = moka::sync::Cache::builder()
            .max_capacity(max_size)
            .weigher(|key, entry: &CacheEntry| weigh(key, &entry.page))
            // The default policy admits by frequency: a warm cache would fetch every new query
            // again and again.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilUnusable)
            .eviction_listener(move |_, _, cause| {
                if cause == moka::notification::RemovalCause::Size {
                    evicted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build_with_hasher(RandomState::default());
        Self(Arc::new(SharedCache {
            entries,
            evictions,
            state: Mutex::default(),
            next_flight: AtomicU64::new(0),
        }))
    }

    /// The page from memory where it serves; else that of a fill that runs, or of the one that
    /// `fill` begins; else, where that fails or takes too long, an old page.
    ///
    /// A page from memory signs nothing and waits for nobody. `fill` gets the [`Progress`] by which
    /// those who stop waiting know whether the request has left; it is called once at most. `usual`
    /// says how long a fill will usually take from now on, the wait for its turn included.
    pub async fn get_or_fill<F>(
        &self,
        question: &Question<'_>,
        usual: impl FnOnce() -> Duration,
        fill: impl FnOnce(Progress, Reason) -> F,
    ) -> Result<Found, Arc<Error>>
    where
        F: Future<Output: Into<Fetched> + Send> + Send + 'static,
    {
        let begun = Instant::now(); // the body came in between, at its caller's pace
        let now = Moment::of(begun);
        let (because, patience) = match self.0.look(question, now) {
            Memory::Answers(found) => return Ok(found),
            Memory::AnswersStale(found) => {
                if !question.directives.only_if_cached && !question.sparing.no_refresh {
                    self.board(question, Reason::Revalidate, &mut Some(fill));
                }
                return Ok(found);
            }
            _ if question.directives.only_if_cached => return Err(Error::NotCached.into()),
            Memory::Nothing(because) if self.0.spares(question, because, now) => {
                return Err(Error::RefreshRefused.into());
            }
            Memory::StandsIn(found) => {
                let Some(patience) = question.patience(usual, begun) else {
                    self.board(question, Reason::Revalidate, &mut Some(fill));
                    return Ok(found);
                };
                (Forwarded::Stale, patience)
            }
            Memory::Nothing(because) => (because, question.deadline),
        };
        let mut fill = Some(fill);
        let (lookup, flight, outcome) = loop {
            let (lookup, mut flight) =
                match self.board(question, question.reason(because), &mut fill) {
                    Boarded::Landed(found) => return Ok(found),
                    Boarded::Joined(flight) => (Lookup::Coalesced, flight),
                    Boarded::Began(flight) => (Lookup::Miss, flight),
                };
            let outcome = flight.outcome(patience).await;
            // The one who began it had less time than this one has.
            let is_over = matches!(&outcome, Some(Err(error)) if error.is_overloaded());
            if !(is_over && lookup == Lookup::Coalesced && Instant::now() < patience) {
                break (lookup, flight, outcome);
            }
        };
        let now = Moment::now();
        let failure = match &outcome {
            Some(Ok(landed)) => match landed.failure {
                None => return Ok(landed.found(lookup, because, question.policy, now)),
                Some(outcome) => Failure {
                    reason: Ending::Answered(outcome),
                    status: Some(landed.page.head.status),
                },
            },
            Some(Err(error)) if error.is_permanent() => return Err(error.clone()),
            Some(Err(error)) => Failure {
                reason: Ending::Failed(error.code()),
                status: error.answer_status(),
            },
            None => Failure {
                reason: Ending::Failed(too_late(&flight.progress).code()),
                status: None,
            },
        };
        if let Some(mut found) = self.0.stand_in(question, failure, now) {
            found.stood_in_for = outcome.and_then(Result::err);
            return Ok(found);
        }
        match outcome {
            Some(Ok(landed)) => Ok(landed.found(lookup, because, question.policy, now)),
            Some(Err(error)) => Err(error),
            None => Err(too_late(&flight.progress).into()),
        }
    }

    /// Joins a running fill that serves; else begins one.
    fn board<F>(
        &self,
        question: &Question<'_>,
        reason: Reason,
        fill: &mut Option<impl FnOnce(Progress, Reason) -> F>,
    ) -> Boarded
    where
        F: Future<Output: Into<Fetched> + Send> + Send + 'static,
    {
        let (key, now) = (&question.key, Moment::now());
        let mut state = self.0.state();
        if let Some(flight) = state.serving(question, now) {
            return Boarded::Joined(flight.clone());
        }
        if let Memory::Answers(found) = self.0.look(question, now) {
            return Boarded::Landed(found); // its fill ended since the first look
        }
        let terms = Terms {
            validity: key.begin(now),
            configuration: question.configuration,
            is_private: question.directives.no_store,
            is_forced: reason == Reason::NoCache,
        };
        let id = self.0.next_flight.fetch_add(1, Ordering::Relaxed);
        let (flight, teller) = Flight::new(id, terms, now);
        let running = state.flights.entry(key.clone()).or_default();
        running.push(flight.clone());
        drop(state);

        let landing = Landing {
            cache: self.0.clone(),
            key: key.clone(),
            flight: flight.clone(),
            teller,
            policy: question.policy.clone(),
        };
        let fill = fill.take().expect("a fill is begun once");
        let fill = task::boxed(|| fill(flight.progress.clone(), reason));
        tokio::spawn(async move {
            let Fetched { outcome, later } = fill.await.into();
            match later {
                None => landing.end(outcome),
                Some(later) => {
                    let landing = landing.go_on(outcome);
                    landing.end(later.await);
                }
            }
        });
        Boarded::Began(flight)
    }

    /// Keeps a page that came without a question for it, if it may be kept.
    pub fn keep_page(&self, key: &Key, filled: Filled, terms: Terms, policy: &Policy) {
        self.0.land(key, filled, terms, policy);
    }

    /// How many pages a query has, as those in memory say that are fresh.
    pub fn total_pages(&self, key: &Key, policy: &Policy) -> Option<u64> {
        let series = &self.0.state().series;
        series.total_pages(key, policy, Moment::now())
    }

    /// Drops the pages that can never be served again, and tells how many they were.
    pub fn sweep(&self) -> usize {
        let now = Moment::now();
        self.0
            .drop_if(|key, entry| !entry.snapshot.is_valid(key, now))
    }

    /// Drops the pages of other scopes than these.
    pub fn keep_only(&self, scopes: &[Arc<Scope>]) -> usize {
        let kept: HashSet<_> = scopes.iter().map(Arc::as_ptr).collect();
        let _no_fill_lands_meanwhile = self.0.state();
        self.0
            .drop_if(|key, _| !kept.contains(&std::ptr::from_ref(key.scope())))
    }

    /// Entries and bytes now, evictions so far. Counts are late by moka's housekeeping, which this
    /// runs.
    pub fn statistics(&self) -> Statistics {
        self.0.entries.run_pending_tasks();
        Statistics {
            entries: self.0.entries.entry_count(),
            bytes: self.0.entries.weighted_size(),
            evictions: self.0.evictions.load(Ordering::Relaxed),
            fills: self.0.state().flights.values().map(Vec::len).sum(),
        }
    }
}

impl FillState {
    /// The youngest running fill that answers this question.
    fn serving(&self, question: &Question<'_>, now: Moment) -> Option<&Flight> {
        let running = self.flights.get(&question.key).into_iter().flatten();
        running
            .rev()
            .filter(|flight| flight.terms.configuration == question.configuration)
            .filter(|flight| flight.terms.is_private == question.directives.no_store)
            .find(|flight| flight.serves(&question.key, question.not_before(), now))
    }
}

enum Boarded {
    Landed(Found),
    Joined(Flight),
    Began(Flight),
}

impl Question<'_> {
    /// The state of the vendor that the answer must show, or a newer one; none if any page will do.
    fn not_before(&self) -> Option<Moment> {
        let oldest = if self.directives.no_store {
            Some(Duration::ZERO)
        } else if self.directives.no_cache {
            Some(self.policy.min_refresh)
        } else {
            self.directives.max_age
        };
        // Before the process began there is no page.
        oldest.and_then(|age| self.arrived_at.checked_sub(age))
    }

    /// Why a fill is made for it.
    fn reason(&self, because: Forwarded) -> Reason {
        let Directives {
            no_cache, no_store, ..
        } = self.directives;
        if no_cache || no_store || because == Forwarded::Request {
            Reason::NoCache
        } else {
            Reason::Caller
        }
    }

    /// Until when to wait for a fill, if an old page can stand in; none if that is of no use.
    fn patience(&self, usual: impl FnOnce() -> Duration, now: Instant) -> Option<Instant> {
        if self.names_deadline {
            (now + usual() <= self.deadline).then_some(self.deadline)
        } else {
            Some(self.deadline.min(now + self.policy.stale_patience))
        }
    }

    /// What is a page of this standing to this question? `age` is its snapshot's, `own_age` its
    /// own.
    fn judge(
        &self,
        standing: Standing,
        age: Duration,
        own_age: Duration,
        lifetime: Duration,
    ) -> Use {
        let (directives, policy) = (&self.directives, self.policy);
        let staleness = age.saturating_sub(lifetime);
        if standing == Standing::Gone {
            return Use::None;
        }
        if directives.no_cache {
            let is_young = standing == Standing::Fresh && own_age < policy.min_refresh;
            return if is_young { Use::Answers } else { Use::Refused };
        }
        let is_too_old = directives.max_age.is_some_and(|most| age > most);
        let left = lifetime.saturating_sub(age);
        let ends_too_soon = directives.min_fresh.is_some_and(|least| left < least);
        let is_stale = standing != Standing::Fresh;
        let is_too_stale = directives.max_stale.is_some_and(|most| staleness > most);
        if is_too_old
            || (ends_too_soon && !(is_stale && directives.max_stale.is_some()))
            || (is_stale && (is_too_stale || directives.refuse_stale()))
        {
            return Use::Refused;
        }
        match standing {
            Standing::Fresh => Use::Answers,
            Standing::Stale => Use::AnswersStale,
            Standing::Old if directives.max_stale.is_some() || self.sparing.longer_stale => {
                Use::AnswersStale
            }
            _ => Use::StandsIn,
        }
    }
}

/// What a page is to a question.
enum Use {
    Answers,
    AnswersStale,
    StandsIn,
    /// The caller asks for another.
    Refused,
    None,
}

impl SharedCache {
    fn state(&self) -> MutexGuard<'_, FillState> {
        self.state.lock()
    }

    fn look(&self, question: &Question<'_>, now: Moment) -> Memory {
        if question.directives.no_store {
            return Memory::Nothing(Forwarded::Bypass);
        }
        let Some(entry) = self.entries.get(&question.key) else {
            return Memory::Nothing(Forwarded::Miss);
        };
        let standing = entry.snapshot.standing(&question.key, question.policy, now);
        let age = entry.snapshot.age(now);
        let lifetime = entry.snapshot.lifetime(question.policy);
        let own_age = now.saturating_duration_since(entry.sent_at);
        match question.judge(standing, age, own_age, lifetime) {
            Use::Answers => Memory::Answers(entry.found(Lookup::Hit, lifetime, age)),
            Use::AnswersStale => Memory::AnswersStale(entry.found(Lookup::Stale, lifetime, age)),
            Use::StandsIn => Memory::StandsIn(entry.found(Lookup::Stale, lifetime, age)),
            Use::Refused if standing == Standing::Fresh => Memory::Nothing(Forwarded::Request),
            Use::Refused => Memory::Nothing(Forwarded::Stale),
            Use::None => Memory::Nothing(Forwarded::Miss),
        }
    }

    /// Would a call be spent, against the day's thrift, on a page that memory has fresh? `because`
    /// is why memory does not answer: with `no-store` it was not even asked.
    fn spares(&self, question: &Question<'_>, because: Forwarded, now: Moment) -> bool {
        question.sparing.no_forced
            && match because {
                Forwarded::Request => true,
                Forwarded::Bypass => self.entries.get(&question.key).is_some_and(|entry| {
                    let standing = entry.snapshot.standing(&question.key, question.policy, now);
                    standing == Standing::Fresh
                }),
                Forwarded::Miss | Forwarded::Stale => false,
            }
    }

    /// Keeps an entry, unless there is one that was asked for later. Only under the lock of the
    /// state.
    fn keep(&self, key: Key, entry: CacheEntry, now: Moment) -> bool {
        let known = self.entries.get(&key);
        let is_newer = known.is_none_or(|known| {
            known.sent_at <= entry.sent_at || !known.snapshot.is_valid(&key, now)
        });
        if is_newer {
            self.entries.insert(key, entry);
        }
        is_newer
    }

    fn drop_if(&self, is_gone: impl Fn(&Key, &CacheEntry) -> bool) -> usize {
        let entries = self.entries.iter();
        let gone: Vec<_> = entries
            .filter(|(key, entry)| is_gone(key, entry))
            .map(|(key, _)| key)
            .collect();
        for key in &gone {
            self.entries.invalidate(&**key);
        }
        gone.len()
    }

    /// moka drops an entry that is larger than all of it without a word, and holds on to keys of
    /// entries it has dropped.
    fn is_too_large(&self, key: &Key, page: &Page) -> bool {
        let capacity = self.entries.policy().max_capacity();
        key.size() > LONGEST_KEY
            || capacity.is_some_and(|capacity| u64::from(weigh(key, page)) > capacity)
    }

    /// What memory has instead of a fill that failed or takes too long.
    fn stand_in(&self, question: &Question<'_>, failure: Failure, now: Moment) -> Option<Found> {
        match self.look(question, now) {
            Memory::Answers(found) => Some(found), // another fill has brought it
            Memory::AnswersStale(found) | Memory::StandsIn(found) => Some(Found {
                forwarded: Some(Forwarded::Stale),
                failure: Some(failure),
                ..found
            }),
            Memory::Nothing(_) => None,
        }
    }
}

impl CacheEntry {
    fn found(self, lookup: Lookup, lifetime: Duration, age: Duration) -> Found {
        let fresh_for = match lookup {
            Lookup::Stale => lifetime.min(age), // a snapshot that ended early is not fresh any more
            _ => lifetime,
        };
        Found {
            lookup,
            forwarded: None,
            age,
            is_crawled: false,
            lifetime: Some(Lifetime { fresh_for, age }),
            failure: None,
            stood_in_for: None,
            not_stored: None,
            snapshot: self.snapshot.id(),
            page: self.page,
        }
    }
}

impl Landed {
    fn found(&self, lookup: Lookup, because: Forwarded, policy: &Policy, now: Moment) -> Found {
        let kept = self.snapshot.as_ref().filter(|_| self.not_stored.is_none());
        let own_age = now.saturating_duration_since(self.sent_at);
        let age = kept.map_or(own_age, |snapshot| snapshot.age(now));
        let lifetime = kept.map(|snapshot| Lifetime {
            fresh_for: snapshot.lifetime(policy),
            age,
        });
        Found {
            lookup,
            forwarded: Some(because),
            age,
            is_crawled: self.is_crawled,
            lifetime,
            failure: None,
            stood_in_for: None,
            not_stored: self.not_stored,
            snapshot: self.snapshot.as_ref().and_then(|snapshot| snapshot.id()),
            page: self.page.clone(),
        }
    }
}

/// Ends a fill's flight, even if its task panics.
struct Landing {
    cache: Arc<SharedCache>,
    key: Key,
    flight: Flight,
    teller: Teller,
    policy: Policy,
}

impl Landing {
    /// The fill has ended.
    fn end(self, outcome: Result<Filled, Error>) {
        let outcome = self.land(outcome);
        // First the page can be found, then the fill cannot be joined, then those who wait hear of
        // it.
        let teller = self.teller.clone();
        drop(self);
        teller.send_replace(Some(outcome));
    }

    /// Those who wait hear this; who asks from now on waits for what comes after it.
    fn go_on(mut self, outcome: Result<Filled, Error>) -> Self {
        let outcome = self.land(outcome);
        let id = self.cache.next_flight.fetch_add(1, Ordering::Relaxed);
        let (flight, teller) = self.flight.going_on(id);
        let mut state = self.cache.state();
        let running = state.flights.get_mut(&self.key).into_iter().flatten();
        for running in running.filter(|running| running.id == self.flight.id) {
            *running = flight.clone();
        }
        drop(state);
        self.flight = flight;
        std::mem::replace(&mut self.teller, teller).send_replace(Some(outcome));
        self
    }

    fn land(&self, outcome: Result<Filled, Error>) -> FillResult {
        outcome
            .map(|filled| {
                let terms = self.flight.terms;
                self.cache.land(&self.key, filled, terms, &self.policy)
            })
            .map_err(Arc::new)
    }
}

impl SharedCache {
    /// Keeps what a fill has brought, if it may be kept.
    fn land(&self, key: &Key, filled: Filled, terms: Terms, policy: &Policy) -> Landed {
        let mut landed = Landed {
            page: filled.page,
            sent_at: filled.sent_at,
            is_crawled: matches!(filled.pages, Pages::All(_) | Pages::AllOfAnotherSize),
            snapshot: None,
            not_stored: filled.not_stored,
            failure: filled.failure,
        };
        if filled.not_stored.is_some() {
            return landed;
        }
        let now = Moment::now();
        let (positions, pages) = match filled.pages {
            Pages::None | Pages::AllOfAnotherSize => (Vec::new(), Vec::new()),
            Pages::One(position) => (vec![position], Vec::new()),
            Pages::All(pages) => pages
                .into_iter()
                .map(|page| (page.position.clone(), page))
                .unzip(),
        };
        // Under the lock: else a page that a command touches meanwhile could join a snapshot that
        // began after it.
        let mut state = self.state();
        let validity = key.validity(terms.validity.generation, filled.sent_at);
        let is_valid =
            validity.is_ok_and(|validity| validity.until.is_none_or(|until| now < until));
        let arrival = Arrival {
            positions: &positions,
            sent_at: filled.sent_at,
            crawled_for: landed.is_crawled.then(|| now - filled.sent_at),
            validity: validity.unwrap_or(terms.validity),
            is_forced: terms.is_forced,
            policy,
            now,
        };
        landed.not_stored = if terms.is_private {
            Some(NotStored::NoStore)
        } else if terms.configuration < key.scope().configuration() {
            Some(NotStored::Reconfigured)
        } else if !is_valid {
            Some(NotStored::Invalidated)
        } else if self.is_too_large(key, &landed.page) {
            Some(NotStored::TooLarge)
        } else {
            None
        };
        let snapshot = if landed.not_stored.is_none() && !positions.is_empty() {
            let (snapshot, is_current) = state.series.place(key.of_all_pages(), &arrival);
            landed.not_stored = (!is_current).then_some(NotStored::Superseded);
            snapshot
        } else {
            let of_pages = landed.is_crawled || !positions.is_empty();
            state.series.apart(of_pages, &arrival)
        };
        if landed.not_stored.is_none() {
            let keep_for = snapshot.lifetime(policy) + policy.stale_for.max(policy.stale_if_error);
            let rounded_up = keep_for.as_secs().saturating_add(1);
            let keep_for = u32::try_from(rounded_up).unwrap_or(u32::MAX);
            let entry = |page, sent_at| CacheEntry {
                page,
                sent_at,
                keep_for,
                snapshot: snapshot.clone(),
            };
            for page in pages {
                let page_key = key.page(page.position.number);
                self.keep(page_key, entry(page.page, page.sent_at), now);
            }
            let whole = entry(landed.page.clone(), landed.sent_at);
            let is_kept = self.keep(key.clone(), whole, now);
            landed.not_stored = (!is_kept).then_some(NotStored::Superseded);
        }
        landed.snapshot = Some(snapshot);
        landed
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        if let Some(running) = state.flights.get_mut(&self.key) {
            running.retain(|flight| flight.id != self.flight.id);
            if running.is_empty() {
                state.flights.remove(&self.key);
            }
        }
    }
}

fn too_late(progress: &Progress) -> Error {
    match progress.sent() {
        Sent::No => Error::Overloaded {
            retry_after: Duration::from_secs(1),
        },
        sent => Error::UpstreamTimeout(sent),
    }
}

/// The bytes an entry costs. Beside its texts these are what moka, the snapshot and the allocator
/// add, as measured: by full caches of 64 and 256 MiB of pages of 1, 10 and 25 KiB the process has
/// grown by 0.9 to 1.15 times the sum of these.
fn weigh(key: &Key, page: &Page) -> u32 {
    const OVERHEAD: usize = 1600;
    let body = page.body.len();
    let rounded_up = body + body / 8; // the allocator has sizes of its own
    // The series of snapshots have keys too, as many again of those whose pages are gone.
    u32::try_from(3 * key.size() + rounded_up + OVERHEAD).unwrap_or(u32::MAX)
}

/// moka only bounds memory: it drops an entry when nothing may use it any more. Its clock is its
/// own.
struct UntilUnusable;

impl moka::Expiry<Key, CacheEntry> for UntilUnusable {
    // Always `Some`: `None` met memory-safety bugs in moka's timer wheel before 0.12.14.
    fn expire_after_create(
        &self,
        _: &Key,
        entry: &CacheEntry,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(Duration::from_secs(entry.keep_for.into()))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        entry: &CacheEntry,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, entry, now)
    }
}
