//! What a caller may be shown: the cache against a model of it, in random interleavings on a clock
//! that does not run.
//!
//! The sentences that `docs/caching.md` promises are the names of the checks below (`promise`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linksfield_gateway::clock::Moment;
use linksfield_gateway::gateway::error::Error;
use linksfield_gateway::gateway::page::{Head, Page, Position};
use linksfield_gateway::gateway::progress::Progress;
use linksfield_gateway::gateway::query::cache::{
    Cache, Filled, Found, Key, Lookup, Named, NotStored, PageOfAll, Pages, Question, Reason, Scope,
    Sparing,
};
use linksfield_gateway::gateway::request::directives::Directives;
use linksfield_gateway::gateway::request::route::Policy;
use linksfield_gateway::signing::params::Params;
use linksfield_gateway::words::Outcome;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use tokio::time::{Instant, sleep};

const SETTLE: Duration = Duration::from_secs(5);
const PAGE_SIZE: usize = 2;

/// The number of the page that stands for all pages of a query as one document.
const ALL: u64 = 0;

/// The times of a route in seconds: fresh, stale, stale if error, the least between two forced
/// fills. A reload brings others.
const TIMES: [[u64; 4]; 3] = [[30, 20, 90, 0], [5, 0, 20, 3], [60, 60, 0, 0]];

fn policy(pages: bool, times: usize) -> Policy {
    let [fresh_for, stale_for, stale_if_error, min_refresh] = TIMES[times].map(Duration::from_secs);
    Policy {
        fresh_for,
        stale_for,
        stale_if_error,
        stale_patience: Duration::from_secs(2),
        min_refresh,
        pages,
        max_pages: 100,
        crawl_timeout: Duration::from_secs(300),
    }
}

/// One thing that happens, some time after the one before it.
#[derive(Debug, Clone)]
enum Event {
    Query {
        device: Option<u8>,
        page: u64,
        cache_control: &'static str,
        timeout: Option<u64>,
    },
    /// A command travels to the vendor, who shows what it did some time after it was done.
    Command {
        device: Option<u8>,
        travels: [u64; 2],
        shown_after: u64,
        lost: bool,
    },
    /// Somebody else orders.
    Order {
        device: u8,
    },
    /// From now on the vendor answers like this.
    Vendor {
        mood: Mood,
        queue: u64,
        travels: [u64; 2],
    },
    Purge {
        device: Option<u8>,
    },
    /// The route has other times from now on.
    Reload {
        times: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Fails,
    Throttles,
    /// An answer that is no page and no failure of the vendor.
    Refuses,
}

fn device() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![Just(None), Just(None), Just(Some(0)), Just(Some(1))]
}

fn event() -> impl Strategy<Value = Event> {
    let cache_control = select(vec![
        "",
        "",
        "",
        "",
        "",
        "",
        "no-cache",
        "no-store",
        "max-age=3",
        "max-age=40",
        "max-stale",
        "max-stale=5",
        "min-fresh=10",
        "only-if-cached",
        "max-age=60, max-stale=60",
    ]);
    let timeout = prop_oneof![2 => Just(None), 1 => (50..8000_u64).prop_map(Some)];
    let travel = prop_oneof![0..20_u64, 0..3000_u64, 0..12_000_u64];
    let travels = [travel.clone(), travel];
    let mood = prop_oneof![
        4 => Just(Mood::Well), 1 => Just(Mood::Fails), 1 => Just(Mood::Throttles), 1 => Just(Mood::Refuses)
    ];
    prop_oneof![
        8 => (device(), prop_oneof![6 => Just(1), 2 => 2..4_u64, 1 => Just(ALL)], cache_control, timeout)
            .prop_map(|(device, page, cache_control, timeout)| Event::Query { device, page, cache_control, timeout }),
        2 => (device(), travels.clone(), 0..5000_u64, any::<bool>())
            .prop_map(|(device, travels, shown_after, lost)| Event::Command { device, travels, shown_after, lost }),
        1 => (0..2_u8).prop_map(|device| Event::Order { device }),
        3 => (mood, prop_oneof![Just(0), 0..4000_u64], travels)
            .prop_map(|(mood, queue, travels)| Event::Vendor { mood, queue, travels }),
        1 => device().prop_map(|device| Event::Purge { device }),
        1 => (0..TIMES.len()).prop_map(|times| Event::Reload { times }),
    ]
}

/// Mostly close together, sometimes so far apart that pages expire.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..400_u64, 3 => 0..6000_u64, 1 => 0..60_000_u64]
}

/// An order at the vendor, and since when the vendor shows it.
#[derive(Debug, Clone)]
struct Order {
    device: u8,
    shown_from: Moment,
    number: u64,
}

/// Something after which older pages must not be shown.
#[derive(Debug, Clone)]
struct Write {
    /// None: it may have changed what is shown of every device.
    device: Option<u8>,
    at: u64,
    settled_at: Option<Moment>,
}

#[derive(Debug, Clone)]
struct Fill {
    key: usize,
    began: u64,
    sent: u64,
    sent_at: Moment,
    ended: Option<u64>,
    mood: Mood,
    is_private: bool,
    /// One page, or those of a crawl.
    positions: Vec<Position>,
    /// One call of a crawl, which nobody else can join.
    is_part: bool,
    /// How long a crawl took.
    crawled_for: Duration,
}

/// All that has happened. Moments are numbered, as many things happen at one time.
struct World {
    cache: Cache,
    scope: Arc<Scope>,
    pages: bool,
    times: AtomicUsize,
    moments: AtomicU64,
    orders: Mutex<Vec<Order>>,
    writes: Mutex<Vec<Write>>,
    fills: Mutex<Vec<Fill>>,
    vendor: Mutex<(Mood, u64, [u64; 2])>,
    keys: Mutex<Vec<(Option<u8>, u64)>>,
    shown: Mutex<Vec<Shown>>,
    /// What went wrong where no caller hears of it.
    broken: Mutex<Vec<String>>,
}

impl Write {
    fn touches(&self, shown: Option<u8>) -> bool {
        match (self.device, shown) {
            (Some(changed), Some(shown)) => changed == shown,
            _ => true,
        }
    }
}

/// A page that a caller was shown.
#[derive(Debug)]
struct Shown {
    fill: usize,
    key: usize,
    /// From memory, and when.
    from_memory: Option<u64>,
    is_fresh: bool,
    snapshot: Option<String>,
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    fn key(&self, device: Option<u8>, page: u64) -> usize {
        let mut keys = self.keys.lock().unwrap();
        let place = keys.iter().position(|key| *key == (device, page));
        place.unwrap_or_else(|| {
            keys.push((device, page));
            keys.len() - 1
        })
    }

    fn device(&self, fill: &Fill) -> Option<u8> {
        self.keys.lock().unwrap()[fill.key].0
    }

    fn params(device: Option<u8>, page: Option<u64>) -> Params {
        let device = device.map(|device| device.to_string());
        let body = json!({"device_id": device, "page_no": page, "page_size": PAGE_SIZE});
        Params::parse(body.to_string().as_bytes()).unwrap()
    }

    /// What the vendor shows now: the newest order first.
    fn page(&self, device: Option<u8>, number: u64) -> Position {
        let now = Moment::now();
        let orders = self.orders.lock().unwrap();
        let mut shown: Vec<_> = orders
            .iter()
            .filter(|order| order.shown_from <= now)
            .filter(|order| device.is_none_or(|device| device == order.device))
            .collect();
        shown.sort_by_key(|order| std::cmp::Reverse((order.shown_from, order.number)));
        let ids: Vec<u64> = shown.iter().map(|order| order.number).collect();
        let pages = ids.chunks(PAGE_SIZE);
        let (total_count, total_pages) = (ids.len() as u64, pages.len() as u64);
        let place = usize::try_from(number - 1).unwrap();
        Position {
            number,
            size: PAGE_SIZE as u64,
            total_count,
            total_pages,
            orders: pages.clone().nth(place).unwrap_or_default().to_vec(),
        }
    }

    fn add_order(&self, device: u8, shown_from: Moment) {
        let mut orders = self.orders.lock().unwrap();
        let number = orders.len() as u64;
        orders.push(Order {
            device,
            shown_from,
            number,
        });
    }

    fn invalidate(&self, device: Option<u8>, settled_at: Option<Moment>) {
        let named = Named::of(&Self::params(device, None));
        self.scope.invalidate(named, settled_at);
        let at = self.moment();
        self.writes.lock().unwrap().push(Write {
            device,
            at,
            settled_at,
        });
    }

    async fn command(
        self: Arc<Self>,
        device: Option<u8>,
        travels: [u64; 2],
        shown_after: u64,
        lost: bool,
    ) {
        self.invalidate(device, None);
        sleep(millis(travels[0])).await;
        // Lost commands were done all the same: that is what makes them unknown.
        let shown_from = Moment::now() + millis(shown_after);
        self.add_order(device.unwrap_or(0), shown_from);
        if !lost {
            sleep(millis(travels[1])).await;
        }
        self.invalidate(device, Some(Moment::now() + SETTLE));
    }

    async fn fill(
        self: Arc<Self>,
        key: usize,
        progress: Progress,
        reason: Reason,
        is_private: bool,
    ) -> Result<Filled, Error> {
        let (device, number) = self.keys.lock().unwrap()[key];
        let place = self.begin(key, is_private, false);
        if reason == Reason::Revalidate {
            self.promise_one_fill_behind_a_stale_page(place);
        }
        let filled = if number == ALL {
            self.crawl(device, place, &progress).await
        } else {
            let (position, mood) = self.fetch(device, number, place, &progress).await;
            self.filled(place, vec![position], mood)
        };
        self.fills.lock().unwrap()[place].ended = Some(self.moment());
        filled
    }

    /// All pages, and once more if the orders have moved meanwhile.
    async fn crawl(
        &self,
        device: Option<u8>,
        whole: usize,
        progress: &Progress,
    ) -> Result<Filled, Error> {
        for _ in 0..2 {
            let mut pages: Vec<(usize, Position)> = Vec::new();
            let moved = loop {
                let number = pages.len() as u64 + 1;
                let key = self.key(device, number);
                let place = self.begin(key, false, true);
                let (position, mood) = self.fetch(device, number, place, progress).await;
                self.fills.lock().unwrap()[place].ended = Some(self.moment());
                if mood != Mood::Well {
                    return self.filled(place, vec![], mood);
                }
                let is_apart = |(_, other): &(usize, Position)| agree(other, &position);
                if !pages.iter().all(is_apart) {
                    break true;
                }
                let is_last = number >= position.total_pages;
                pages.push((place, position));
                if is_last {
                    break false;
                }
            };
            if !moved {
                return self.document(whole, &pages);
            }
        }
        Err(Error::PagesMoved)
    }

    fn document(&self, whole: usize, pages: &[(usize, Position)]) -> Result<Filled, Error> {
        let mut fills = self.fills.lock().unwrap();
        let (sent, sent_at) = (fills[pages[0].0].sent, fills[pages[0].0].sent_at);
        let crawled_for = Moment::now() - sent_at;
        for place in pages.iter().map(|(place, _)| *place).chain([whole]) {
            fills[place].crawled_for = crawled_for;
        }
        (fills[whole].sent, fills[whole].sent_at) = (sent, sent_at);
        let of_all = pages.iter().map(|(place, position)| PageOfAll {
            position: position.clone(),
            page: page(*place),
            sent_at: fills[*place].sent_at,
        });
        let of_all = Pages::All(of_all.collect());
        drop(fills);
        let positions = pages.iter().map(|(_, position)| position.clone());
        let mut filled = self.filled(whole, positions.collect(), Mood::Well)?;
        filled.pages = of_all;
        Ok(filled)
    }

    /// A fill begins.
    fn begin(&self, key: usize, is_private: bool, is_part: bool) -> usize {
        let mut fills = self.fills.lock().unwrap();
        fills.push(Fill {
            key,
            began: self.moment(),
            sent: u64::MAX,
            sent_at: Moment::now(),
            ended: None,
            mood: Mood::Well,
            is_private,
            positions: Vec::new(),
            is_part,
            crawled_for: Duration::ZERO,
        });
        fills.len() - 1
    }

    /// One call of the vendor.
    async fn fetch(
        &self,
        device: Option<u8>,
        number: u64,
        place: usize,
        progress: &Progress,
    ) -> (Position, Mood) {
        let (mood, queue, travels) = *self.vendor.lock().unwrap();
        sleep(millis(queue)).await;
        progress.begin();
        {
            let mut fills = self.fills.lock().unwrap();
            fills[place].sent = self.moment();
            fills[place].sent_at = Moment::now();
            fills[place].mood = mood;
        }
        sleep(millis(travels[0])).await;
        let position = self.page(device, number);
        sleep(millis(travels[1])).await;
        progress.answered();
        (position, mood)
    }

    fn filled(&self, place: usize, positions: Vec<Position>, mood: Mood) -> Result<Filled, Error> {
        let mut fills = self.fills.lock().unwrap();
        let fill = &mut fills[place];
        fill.positions.clone_from(&positions);
        if mood == Mood::Fails {
            return Err(Error::UpstreamConnectTimeout);
        }
        let position = positions.into_iter().next();
        Ok(Filled {
            page: page(place),
            not_stored: (mood != Mood::Well).then_some(NotStored::NoSuccess),
            pages: match position {
                Some(position) if self.pages => Pages::One(position),
                _ => Pages::None,
            },
            failure: (mood == Mood::Throttles).then_some(Outcome::Throttled),
            sent_at: fill.sent_at,
        })
    }

    async fn query(
        self: Arc<Self>,
        device: Option<u8>,
        page: u64,
        cache_control: &'static str,
        timeout: Option<u64>,
    ) {
        let headers = hyper::HeaderMap::from_iter([(
            hyper::header::CACHE_CONTROL,
            hyper::header::HeaderValue::from_static(cache_control),
        )]);
        let page = if self.pages { page } else { page.max(1) };
        let place = self.key(device, page);
        let (scope, language) = (self.scope.clone(), "zh-CN".into());
        let key = if page == ALL {
            Key::whole(scope, language, &Self::params(device, None))
        } else {
            Key::new(scope, language, &Self::params(device, Some(page)))
        };
        let policy = policy(self.pages, self.times.load(Ordering::SeqCst));
        let arrived_at = Moment::now();
        let arrived = self.moment();
        let question = Question {
            key,
            policy: &policy,
            configuration: 0,
            sparing: Sparing::default(),
            directives: Directives::of(&headers),
            arrived_at,
            deadline: Instant::now() + millis(timeout.unwrap_or(20_000)),
            names_deadline: timeout.is_some(),
        };
        let is_private = question.directives.no_store;
        let fill = |progress, reason| self.clone().fill(place, progress, reason, is_private);
        let usual = || millis(3000);
        let found = self.cache.get_or_fill(&question, usual, fill).await;
        promise(
            "a caller is answered by its deadline",
            Instant::now() <= question.deadline,
            &question,
        );
        if let Ok(found) = found {
            self.check(&question, arrived, place, &found);
        }
    }

    fn check(&self, question: &Question<'_>, arrived: u64, key: usize, found: &Found) {
        let now = Moment::now();
        let index: usize = std::str::from_utf8(&found.page.body)
            .unwrap()
            .parse()
            .unwrap();
        let fill = self.fills.lock().unwrap()[index].clone();
        let from_memory = matches!(found.lookup, Lookup::Hit | Lookup::Stale);
        // What comes from memory instead of a fill that failed was looked up when that was known;
        // else no time passes.
        let (looked, looked_at) = if from_memory && now > question.arrived_at {
            (self.moment(), now)
        } else {
            (arrived, question.arrived_at)
        };
        let told = |what| promise(what, false, &(question, found, &fill));
        let is_failure = fill.mood != Mood::Well; // in mid-crawl, of one of its pages
        if fill.key != key && !is_failure {
            told("a query is shown its own page");
        }
        let (device, _) = self.keys.lock().unwrap()[key];
        for write in self.writes.lock().unwrap().iter() {
            if !write.touches(device) {
                continue;
            }
            if write.at < looked && fill.sent < write.at {
                told(
                    "who comes after a command is never shown a page that was asked for before it",
                );
            }
            let has_settled = |at: &Moment| *at <= looked_at && fill.sent_at < *at;
            if write.at < looked && write.settled_at.as_ref().is_some_and(has_settled) {
                told("once a command has settled, no page asked for before that is shown");
            }
        }
        if from_memory && fill.mood != Mood::Well {
            told("only a success is kept");
        }
        if from_memory && fill.is_private {
            told("what was fetched with no-store is never kept");
        }
        self.check_age(question, found, &fill, looked_at - fill.sent_at, &told);
        self.shown.lock().unwrap().push(Shown {
            fill: index,
            key,
            from_memory: from_memory.then_some(looked),
            is_fresh: found.lookup == Lookup::Hit,
            snapshot: found.snapshot.as_ref().map(|id| id.text()),
        });
    }

    fn check_age(
        &self,
        question: &Question<'_>,
        found: &Found,
        fill: &Fill,
        age: Duration,
        told: &impl Fn(&'static str),
    ) {
        let (policy, directives) = (question.policy, question.directives);
        // What a crawl has brought, or found unchanged, is fresh until so long after its end.
        let crawls = self.fills.lock().unwrap();
        let crawls = crawls
            .iter()
            .filter(|crawl| {
                self.device(crawl) == self.device(fill) && crawl.sent_at <= fill.sent_at
            })
            .map(|crawl| crawl.crawled_for);
        let fresh_for = policy.fresh_for + crawls.max().unwrap_or_default();
        let servable = fresh_for + policy.stale_for.max(policy.stale_if_error);
        let window = match (found.lookup, found.failure) {
            (Lookup::Hit, _) => fresh_for,
            (Lookup::Stale, None) if found.forwarded.is_none() => {
                let is_old = age >= fresh_for + policy.stale_for;
                let is_asked_for = directives.max_stale.is_some() || question.names_deadline;
                if is_old && !is_asked_for {
                    told(
                        "a page beyond stale_for is shown only to who asks for it, or where a fill fails",
                    );
                }
                servable
            }
            (Lookup::Stale, _) => servable,
            (Lookup::Miss | Lookup::Coalesced, _) => Duration::MAX,
        };
        if age >= window {
            told("no page is shown that is older than its route allows");
        }
        if found.age < age {
            told("a page is at least as young as its Age says");
        }
        let from_memory = matches!(found.lookup, Lookup::Hit | Lookup::Stale);
        if from_memory && directives.no_store {
            told("with no-store nothing comes from memory");
        }
        if directives.no_cache && age > Duration::ZERO && age >= policy.min_refresh {
            told("with no-cache a page is asked for after the request came");
        }
        if directives.max_age.is_some_and(|most| age > most) {
            told("with max-age no older page is shown");
        }
        if directives.refuse_stale() && found.lookup == Lookup::Stale {
            told("with max-age or min-fresh alone no stale page is shown");
        }
        if directives.only_if_cached && !from_memory {
            told("with only-if-cached the vendor is not asked");
        }
        if directives
            .max_stale
            .is_some_and(|most| from_memory && age.saturating_sub(fresh_for) > most)
        {
            told("with max-stale no staler page is shown");
        }
    }

    /// Another fill that could serve runs already: its answer would do.
    fn promise_one_fill_behind_a_stale_page(&self, place: usize) {
        let now = Moment::now();
        let writes = self.writes.lock().unwrap();
        let fills = self.fills.lock().unwrap();
        let (key, device) = (fills[place].key, self.device(&fills[place]));
        let another = fills[..place].iter().find(|fill| {
            let is_current = |write: &&Write| {
                let settles_later = |at: Moment| at <= now; // it may have begun before that
                write.touches(device)
                    && (fill.began < write.at || write.settled_at.is_some_and(settles_later))
            };
            fill.key == key
                && fill.ended.is_none()
                && !fill.is_private
                && !fill.is_part
                && !writes.iter().any(|write| is_current(&write))
        });
        if let Some(another) = another {
            let broken = format!("behind a stale page exactly one fill runs: {another:#?}");
            self.broken.lock().unwrap().push(broken);
        }
    }

    /// What can be told only of all pages together.
    fn check_all(&self) {
        let broken = self.broken.lock().unwrap();
        assert!(broken.is_empty(), "broken promise: {}", broken[0]);
        let fills = self.fills.lock().unwrap();
        let shown = self.shown.lock().unwrap();
        let mut snapshots: HashMap<&str, Vec<&Position>> = HashMap::new();
        for shown in shown.iter() {
            if let Some(id) = &shown.snapshot {
                snapshots
                    .entry(id)
                    .or_default()
                    .extend(&fills[shown.fill].positions);
            }
        }
        for pages in snapshots.values() {
            for (place, one) in pages.iter().enumerate() {
                for other in &pages[place + 1..] {
                    promise(
                        "pages with one snapshot id do not contradict each other",
                        agree(one, other),
                        &(one, other),
                    );
                }
            }
        }
        let mut newest: HashMap<usize, Moment> = HashMap::new();
        let mut fresh_ids: HashMap<Option<u8>, Vec<&str>> = HashMap::new();
        let mut from_memory: Vec<_> = shown
            .iter()
            .filter_map(|shown| Some((shown.from_memory?, shown)))
            .collect();
        from_memory.sort_by_key(|(moment, _)| *moment);
        for (_, shown) in from_memory {
            let sent_at = fills[shown.fill].sent_at;
            let before = newest.insert(shown.key, sent_at);
            promise(
                "memory never goes back to an older page",
                before.is_none_or(|before| before <= sent_at),
                &(before, shown),
            );
            let device = self.device(&fills[shown.fill]);
            if let Some(id) = shown.snapshot.as_deref().filter(|_| shown.is_fresh) {
                let ids = fresh_ids.entry(device).or_default();
                promise(
                    "once a new snapshot has opened, pages of the old one are not fresh",
                    ids.last() == Some(&id) || !ids.contains(&id),
                    &(&ids, shown),
                );
                ids.push(id);
            }
        }
    }
}

/// Can both be pages of one list of orders?
fn agree(one: &Position, other: &Position) -> bool {
    let totals = |page: &Position| (page.total_count, page.total_pages);
    let is_double = |order| other.orders.contains(order);
    totals(one) == totals(other)
        && if one.number == other.number {
            one.orders == other.orders
        } else {
            !one.orders.iter().any(is_double)
        }
}

/// An answer that names its fill.
fn page(fill: usize) -> Arc<Page> {
    Arc::new(Page {
        head: Head::of(hyper::StatusCode::OK).shared(),
        body: fill.to_string().into(),
    })
}

#[track_caller]
fn promise(sentence: &str, holds: bool, facts: &dyn std::fmt::Debug) {
    assert!(holds, "broken promise: {sentence}\n{facts:#?}");
}

async fn run(pages: bool, events: Vec<(u64, Event)>) {
    let world = Arc::new(World {
        cache: Cache::new(64 << 20),
        scope: Arc::new(Scope::new(
            "http://x".into(),
            "P1".into(),
            "/package/queryOrder".into(),
        )),
        pages,
        times: AtomicUsize::new(0),
        moments: AtomicU64::new(0),
        orders: Mutex::default(),
        writes: Mutex::default(),
        fills: Mutex::default(),
        vendor: Mutex::new((Mood::Well, 0, [10, 10])),
        keys: Mutex::default(),
        shown: Mutex::default(),
        broken: Mutex::default(),
    });
    for device in [0, 1, 0, 1, 0] {
        world.add_order(device, Moment::now());
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (pause, event) in events {
        sleep(millis(pause)).await;
        let world = world.clone();
        match event {
            Event::Query {
                device,
                page,
                cache_control,
                timeout,
            } => {
                tasks.spawn(world.query(device, page, cache_control, timeout));
            }
            Event::Command {
                device,
                travels,
                shown_after,
                lost,
            } => {
                tasks.spawn(world.command(device, travels, shown_after, lost));
            }
            Event::Order { device } => world.add_order(device, Moment::now()),
            Event::Vendor {
                mood,
                queue,
                travels,
            } => *world.vendor.lock().unwrap() = (mood, queue, travels),
            Event::Reload { times } => world.times.store(times, Ordering::SeqCst),
            Event::Purge { device } => {
                world.invalidate(device, None);
                world.cache.sweep();
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
    world.check_all();
}

proptest! {
    // PROPTEST_CASES says otherwise.
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn what_a_caller_is_shown_is_what_the_documents_promise(
        pages in any::<bool>(),
        events in prop::collection::vec((pause(), event()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(pages, events));
    }
}

/// What stands between the quotes of each call of `promise` and `told`.
fn promises_of_the_model() -> Vec<String> {
    let source = include_str!("model.rs");
    let (checks, _) = source.split_once("\nproptest!").unwrap();
    let calls = ["told(", "promise("]
        .into_iter()
        .flat_map(|call| checks.split(call).skip(1));
    calls
        .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_documents_promise_what_the_model_checks_and_nothing_else() {
    let document = include_str!("../../docs/caching.md");
    let (_, promises) = document.split_once("## Promises").unwrap();
    let (promises, _) = promises.split_once("\n## ").unwrap();
    let lines = promises.lines().filter_map(|line| line.strip_prefix("- "));
    let mut sentences: Vec<String> = lines
        .map(|line| {
            let (first, rest) = line.split_at(1);
            first.to_lowercase() + rest
        })
        .collect();
    let mut checked = promises_of_the_model();
    checked.push("behind a stale page exactly one fill runs".into()); // it has a format of its own
    for sentence in checked {
        let place = sentences
            .iter()
            .position(|line| line.starts_with(&sentence));
        sentences.remove(place.unwrap_or_else(|| panic!("not in docs/caching.md: {sentence}")));
    }
    assert!(sentences.is_empty(), "not checked: {sentences:#?}");
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_fill_that_gets_no_turn_in_time_has_a_time_of_its_own() {
    let cache = Cache::new(64 << 20);
    let scope = Arc::new(Scope::new("http://x".into(), "P1".into(), "/q".into()));
    let policy = policy(false, 0);
    let ask = async |after: u64, has_turn: bool| {
        sleep(millis(after)).await;
        let now = Moment::now();
        let question = Question {
            key: Key::new(scope.clone(), "zh-CN".into(), &World::params(None, None)),
            policy: &policy,
            configuration: 0,
            sparing: Sparing::default(),
            directives: Directives::default(),
            arrived_at: now,
            deadline: Instant::now() + millis(2000),
            names_deadline: false,
        };
        let fill = move |_, _| async move {
            if !has_turn {
                sleep(millis(2100)).await; // until the one who began it has no time left
                let retry_after = Duration::ZERO;
                return Err(Error::Overloaded { retry_after });
            }
            Ok(Filled {
                page: page(1),
                not_stored: None,
                pages: Pages::None,
                failure: None,
                sent_at: Moment::now(),
            })
        };
        cache.get_or_fill(&question, || Duration::ZERO, fill).await
    };
    let (first, second) = tokio::join!(ask(0, false), ask(1000, true));
    assert!(first.is_err());
    assert_eq!(second.unwrap().lookup, Lookup::Miss);
}
