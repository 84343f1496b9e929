//! Is there a page for this query? Answers from memory, or from the one fill that all who ask for it wait for.
//!
//! moka keeps the entries and bounds the memory; what an entry is worth is judged here, by the time the caller passes
//! in and by its generation. Fills run in tasks of their own: a caller who leaves stops waiting, the fill goes on.
//!
//! Invariant: an entry is found only under the generation that it was filled under. An invalidation raises the
//! generation first, so neither a page filled before it nor one that comes in late is found after it.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use moka::policy::EvictionPolicy;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::error::{Error, Sent};
use super::progress::Progress;
use super::route::Policy;

/// Whose pages of which path: what an invalidation reaches.
///
/// There is no default: every key names a tenant.
#[derive(Debug)]
pub struct Scope {
    base_url: Arc<str>,
    access_code: Arc<str>,
    path: Arc<str>,
    generation: AtomicU64,
}

impl Scope {
    /// The scope of a tenant's queries of one path.
    pub fn new(base_url: Arc<str>, access_code: Arc<str>, path: Arc<str>) -> Self {
        Self {
            base_url,
            access_code,
            path,
            generation: AtomicU64::new(0),
        }
    }

    /// From now on nothing is found that was filled, or began to be filled, before.
    pub fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The path.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn parts(&self) -> (&str, &str, &str) {
        (&self.base_url, &self.access_code, &self.path)
    }
}

/// What makes two queries the same: base URL, access code, path, language and parameters; nothing else, nothing less.
#[derive(Debug, Clone)]
pub struct Key {
    scope: Arc<Scope>,
    language: Arc<str>,
    params: Arc<str>,
}

impl Key {
    /// `language` is the one that is sent upstream, `params` the normal form.
    pub fn new(scope: Arc<Scope>, language: Arc<str>, params: &str) -> Self {
        Self {
            scope,
            language,
            params: params.into(),
        }
    }

    fn parts(&self) -> (&str, &str, (&str, &str, &str)) {
        (&self.params, &self.language, self.scope.parts())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// An answer to a query, as it goes back to callers.
#[derive(Debug)]
pub struct Page {
    /// The answer's status.
    pub status: StatusCode,
    /// Its `Content-Type`, as it came.
    pub content_type: Option<HeaderValue>,
    /// Its `Content-Language`, as it came.
    pub content_language: Option<HeaderValue>,
    /// Its `Content-Encoding`, if the vendor encoded it unasked. Such a page is not stored.
    pub content_encoding: Option<HeaderValue>,
    /// Its `Retry-After`, on a refusal of the vendor.
    pub retry_after: Option<HeaderValue>,
    /// Its bytes, as they came.
    pub body: Bytes,
    /// The envelope's `code`.
    pub vendor_code: Option<Box<str>>,
}

/// What a fill brings.
#[derive(Debug)]
pub struct Filled {
    /// The answer for all who wait.
    pub page: Arc<Page>,
    /// May it be kept? (Whether it still may when it comes is for the generation to say.)
    pub storable: bool,
    /// When its request was sent: the state it shows is at least as new as that.
    pub sent_at: Instant,
}

/// How a query was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// From a fresh page in memory.
    Hit,
    /// By a fill that was running for somebody else.
    Coalesced,
    /// By a fill that this request began.
    Miss,
}

/// A page, and how it was come by.
#[derive(Debug)]
pub struct Found {
    /// The answer.
    pub page: Arc<Page>,
    /// How it was come by.
    pub lookup: Lookup,
    /// The time since its request was sent upstream.
    pub age: Duration,
    /// For how long it stays fresh; none if it is not kept.
    pub ttl: Option<Duration>,
}

/// The pages in memory and the fills that run.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: moka::sync::Cache<Key, Entry>,
    flights: Mutex<HashMap<Key, Flight>>,
    evictions: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
struct Entry {
    page: Arc<Page>,
    generation: u64,
    filled_at: Instant,
    fresh_until: Instant,
    /// The end of `stale_for` and of `stale_if_error`, whichever is later.
    usable_until: Instant,
}

enum Boarded {
    Landed(Found),
    Coalesced(Flight),
    Began(Flight),
}

/// A running fill.
#[derive(Debug, Clone)]
struct Flight {
    generation: u64,
    progress: Progress,
    outcome: watch::Receiver<Option<Result<Landed, Arc<Error>>>>,
}

/// The end of a fill.
#[derive(Debug, Clone)]
struct Landed {
    page: Arc<Page>,
    filled_at: Instant,
    /// Until when the page is fresh; none if it was not kept.
    fresh_until: Option<Instant>,
}

impl Cache {
    /// A cache of at most `max_size` bytes: keys, pages and what it takes to keep them.
    pub fn new(max_size: u64) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let evicted = evictions.clone();
        let entries = moka::sync::Cache::builder()
            .max_capacity(max_size)
            .weigher(weigh)
            // The default policy admits by frequency: a warm cache would fetch every new query again and again.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilUnusable)
            .eviction_listener(move |_, _, cause| {
                if cause == moka::notification::RemovalCause::Size {
                    evicted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self(Arc::new(Inner {
            entries,
            flights: Mutex::default(),
            evictions,
        }))
    }

    /// The fresh page of this key; else that of its running fill, or of the one that `fill` begins.
    ///
    /// A fresh page signs nothing and waits for nobody; a fill is waited for until `deadline`. `fill` gets the
    /// [`Progress`] by which those who stop waiting know whether the request has left.
    pub async fn get_or_fill<F>(
        &self,
        key: Key,
        policy: &Policy,
        now: Instant,
        deadline: Instant,
        fill: impl FnOnce(Progress) -> F,
    ) -> Result<Found, Arc<Error>>
    where
        F: Future<Output = Result<Filled, Error>> + Send + 'static,
    {
        if let Some(found) = self.fresh(&key, now) {
            return Ok(found);
        }
        let (lookup, mut flight) = match self.board(key, policy, now, fill) {
            Boarded::Landed(found) => return Ok(found),
            Boarded::Coalesced(flight) => (Lookup::Coalesced, flight),
            Boarded::Began(flight) => (Lookup::Miss, flight),
        };
        let landed = match timeout_at(deadline, flight.outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().expect("waited for until it was some")?,
            Ok(Err(_)) => return Err(Error::Internal(flight.progress.sent()).into()), // the fill's task is gone
            Err(_) => return Err(too_late(&flight.progress).into()),
        };
        let now = Instant::now();
        Ok(Found {
            page: landed.page,
            lookup,
            age: now.saturating_duration_since(landed.filled_at),
            ttl: landed
                .fresh_until
                .map(|until| until.saturating_duration_since(now)),
        })
    }

    fn fresh(&self, key: &Key, now: Instant) -> Option<Found> {
        let entry = self.0.entries.get(key)?;
        let is_current = entry.generation == key.scope.generation();
        (is_current && now < entry.fresh_until).then(|| Found {
            lookup: Lookup::Hit,
            age: now.saturating_duration_since(entry.filled_at),
            ttl: Some(entry.fresh_until.saturating_duration_since(now)),
            page: entry.page,
        })
    }

    /// Joins the running fill of the key, unless it began before an invalidation; else begins one.
    fn board<F>(
        &self,
        key: Key,
        policy: &Policy,
        now: Instant,
        fill: impl FnOnce(Progress) -> F,
    ) -> Boarded
    where
        F: Future<Output = Result<Filled, Error>> + Send + 'static,
    {
        let generation = key.scope.generation();
        let mut flights = self.0.flights();
        if let Some(flight) = flights
            .get(&key)
            .filter(|flight| flight.generation == generation)
        {
            return Boarded::Coalesced(flight.clone());
        }
        if let Some(found) = self.fresh(&key, now) {
            return Boarded::Landed(found); // its fill ended since the first look
        }
        let (sender, outcome) = watch::channel(None);
        let progress = Progress::default();
        let flight = Flight {
            generation,
            progress: progress.clone(),
            outcome,
        };
        flights.insert(key.clone(), flight.clone());
        drop(flights);

        let landing = Landing {
            cache: self.0.clone(),
            key,
            generation,
        };
        let fill = fill(progress);
        let policy = policy.clone();
        tokio::spawn(async move {
            let outcome = fill
                .await
                .map(|filled| landing.store(filled, &policy))
                .map_err(Arc::new);
            drop(landing); // first the page can be found, then the fill cannot be joined, then those who wait hear of it
            sender.send_replace(Some(outcome));
        });
        Boarded::Began(flight)
    }

    /// Entries and bytes now, evictions so far. Counts are late by moka's housekeeping, which this runs.
    pub fn statistics(&self) -> Statistics {
        self.0.entries.run_pending_tasks();
        Statistics {
            entries: self.0.entries.entry_count(),
            bytes: self.0.entries.weighted_size(),
            evictions: self.0.evictions.load(Ordering::Relaxed),
            fills: self.0.flights().len(),
        }
    }
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

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a fill's flight, even if its task panics.
struct Landing {
    cache: Arc<Inner>,
    key: Key,
    generation: u64,
}

impl Landing {
    fn store(&self, filled: Filled, policy: &Policy) -> Landed {
        let fresh_until = filled.sent_at + policy.fresh_for;
        let is_current = self.generation == self.key.scope.generation();
        let kept = filled.storable && is_current;
        if kept {
            let entry = Entry {
                page: filled.page.clone(),
                generation: self.generation,
                filled_at: filled.sent_at,
                fresh_until,
                usable_until: fresh_until + policy.stale_for.max(policy.stale_if_error),
            };
            self.cache.entries.insert(self.key.clone(), entry);
        }
        Landed {
            page: filled.page,
            filled_at: filled.sent_at,
            fresh_until: kept.then_some(fresh_until),
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.cache.flights();
        // A fill that began after an invalidation may have taken this one's place.
        if flights
            .get(&self.key)
            .is_some_and(|flight| flight.generation == self.generation)
        {
            flights.remove(&self.key);
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

/// The bytes an entry costs: its texts, and an allowance for what moka and the allocator add.
fn weigh(key: &Key, entry: &Entry) -> u32 {
    const OVERHEAD: usize = 400;
    u32::try_from(key.params.len() + entry.page.body.len() + OVERHEAD).unwrap_or(u32::MAX)
}

/// moka only bounds memory: it drops an entry when nothing may use it any more.
struct UntilUnusable;

impl moka::Expiry<Key, Entry> for UntilUnusable {
    // Always `Some`: `None` met memory-safety bugs in moka's timer wheel before 0.12.14.
    fn expire_after_create(
        &self,
        _: &Key,
        entry: &Entry,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(
            entry
                .usable_until
                .saturating_duration_since(entry.filled_at),
        )
    }

    fn expire_after_update(
        &self,
        key: &Key,
        entry: &Entry,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, entry, now)
    }
}
