//! What does an idempotency key promise? That its command is sent once, and that whoever asks again
//! learns what became of it.
//!
//! A key belongs to a tenant, a caller and a path, and to the parameters it came with first. Memory
//! has all keys and is what decides; with a store, a key is on disk before the first byte of its
//! command leaves, so that a restart finds every command that may have been sent. Where the two
//! differ, the store says "sent" and memory knows better.
//!
//! Neither a key nor what was asked with it is kept: of both there are hashes.

mod fate;
mod kept;
mod spelling;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::fate::Fate;
pub use self::fate::{End, Ended};
pub use self::kept::Kept;
pub use self::spelling::Spelling;
use crate::clock::{Moment, seconds};
use crate::config;
use crate::gateway::error::Error;
use crate::gateway::progress::Progress;
use crate::gateway::vendor::skew::{Skew, Told};
use crate::gateway::vendor::upstream::Answer;
use crate::signing::params::Params;
use crate::state::{Change, KeyId, Record, State as Saved, Store, Time, WriteError};
use crate::telemetry::Keys as Census;
use crate::words::Sent;

/// All keys.
#[derive(Debug, Clone)]
pub struct Keys(Arc<SharedKeys>);

#[derive(Debug)]
struct SharedKeys {
    window: Duration,
    max_keys: usize,
    max_bytes: u64,
    store: Option<Store>,
    skew: Skew,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<KeyId, KeyEntry>,
    /// Which of them end when; one that runs has no end yet.
    ends: BTreeSet<(Moment, KeyId)>,
    /// Which of those that the store held end by which second since 1970, if our clock and
    /// Linksfield's agree that it has passed. A clock alone may be wrong by a month: by itself it
    /// ends none.
    loaded: BTreeSet<(u64, KeyId)>,
    /// Those that have ended, and that the store still has.
    ended: Vec<KeyId>,
    census: Census,
    bytes: u64,
    /// How many commands have claimed a key so far.
    runs: u64,
}

#[derive(Debug)]
struct KeyEntry {
    fingerprint: [u8; 32],
    /// Which command claimed it; 0 before the start. The same key and parameters may be claimed
    /// anew after the window.
    run: u64,
    state: KeyState,
    /// Its place in `ends`.
    end: Option<Moment>,
    /// Its place in `loaded`.
    until: Option<u64>,
}

#[derive(Debug)]
enum KeyState {
    Running(Waiter),
    Kept(Arc<Kept>),
    InDoubt,
}

impl Keys {
    /// Begins with what the store held. A command that was running then may have been sent.
    pub fn new(
        config: &config::IdempotencyKeys,
        store: Option<Store>,
        saved: Vec<(KeyId, Record)>,
        skew: Skew,
    ) -> Self {
        let mut table = Table::default();
        let end = Moment::now() + config.window; // whatever the clocks say
        for (id, record) in saved {
            let Time {
                number: since,
                is_confirmed,
            } = record.since;
            let until = is_confirmed.then(|| since.saturating_add(config.window.as_secs()));
            let kept = match record.state {
                Saved::Kept(answer) => Kept::load(answer),
                Saved::Running | Saved::InDoubt => None,
            };
            let state = kept.map_or(KeyState::InDoubt, |kept| KeyState::Kept(Arc::new(kept)));
            let entry = KeyEntry {
                fingerprint: record.fingerprint,
                run: 0,
                state,
                end: Some(end),
                until,
            };
            table.put(id, entry);
        }
        Self(Arc::new(SharedKeys {
            window: config.window,
            max_keys: config.max_keys.get(),
            max_bytes: config.max_size.as_u64(),
            store,
            skew,
            table: Mutex::new(table),
        }))
    }

    /// May a command be sent under this key, and if not, what is known of the one that was?
    /// `progress` is that of the command.
    pub fn claim(&self, key: &Key, progress: &Progress) -> Result<Claim, Error> {
        let mut table = self.0.table_of_now();
        let ids = [Some((key.id, key.fingerprint)), key.other];
        let entries = ids.iter().flatten();
        let known: Vec<_> = entries
            .filter_map(|(id, asked)| Some((table.entries.get(id)?, asked)))
            .collect();
        let same = known
            .iter()
            .find(|(entry, asked)| entry.fingerprint == **asked);
        if let Some((entry, _)) = same {
            return Ok(match &entry.state {
                KeyState::Running(waiter) => Claim::Wait(waiter.clone()),
                KeyState::Kept(kept) => Claim::Known(kept.clone()),
                KeyState::InDoubt => Claim::InDoubt,
            });
        }
        if !known.is_empty() {
            return Err(Error::IdempotencyMismatch);
        }
        if table.entries.len() >= self.0.max_keys || table.bytes >= self.0.max_bytes {
            return Err(Error::IdempotencyStoreFull);
        }
        let (tell, end) = watch::channel(None);
        table.runs += 1;
        let run = table.runs;
        let entry = KeyEntry {
            fingerprint: key.fingerprint,
            run,
            state: KeyState::Running(Waiter {
                end,
                progress: progress.clone(),
            }),
            end: None,
            until: None,
        };
        table.put(key.id, entry);
        Ok(Claim::Run(Run {
            shared: self.0.clone(),
            key: key.clone(),
            number: run,
            tell,
            progress: progress.clone(),
            is_written: AtomicBool::new(false),
            is_durable: AtomicBool::new(false),
            is_settled: false,
        }))
    }

    /// How many keys there are now.
    pub fn census(&self) -> Census {
        self.0.table_of_now().census
    }

    /// Does a write to the store hang, or did the last one fail? False without one.
    pub fn store_is_failing(&self) -> bool {
        self.0.store.as_ref().is_some_and(Store::is_failing)
    }

    /// Has the last write failed? The store is of no use any more then, until a restart.
    pub fn store_has_failed(&self) -> bool {
        self.0.store.as_ref().is_some_and(Store::has_failed)
    }
}

/// A key with what it belongs to, and what was asked with it; as hashes.
#[derive(Debug, Clone)]
pub struct Key {
    id: KeyId,
    fingerprint: [u8; 32],
    /// The same by its other spelling, as an earlier version may have stored it.
    other: Option<(KeyId, [u8; 32])>,
}

impl Key {
    /// Without callers, everybody is the same one.
    pub fn new(
        key: &Spelling<'_>,
        access_code: &str,
        caller: Option<&str>,
        path: &str,
        params: &Params,
    ) -> Self {
        let caller = caller.map_or_else(String::new, |name| format!("={name}"));
        let hashes = |key| {
            let id = hash(&[access_code, &caller, path, key]);
            // With the key, so that nobody who has the store can try what was asked.
            (id, hash(&[key, params.as_str()]))
        };
        let (id, fingerprint) = hashes(key.normal());
        Self {
            id,
            fingerprint,
            other: key.other().map(hashes),
        }
    }
}

impl Key {
    fn change(&self, state: Saved, now: Told) -> Change {
        let record = Record {
            since: Time {
                number: seconds(now.latest), // else one wrong clock would end it at the next start
                is_confirmed: now.is_confirmed,
            },
            fingerprint: self.fingerprint,
            state,
        };
        Change::Put(self.id, record)
    }
}

/// Each part with its length: no two lists have one hash.
fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// What a command with a key is to do.
#[derive(Debug)]
pub enum Claim {
    /// It is the first: run, and [`settle`](Run::settle).
    Run(Run),
    /// Another runs: wait for its end.
    Wait(Waiter),
    /// It has run: this was the answer.
    Known(Arc<Kept>),
    /// It has run, and what came of it is not known.
    InDoubt,
}

/// Waits for the end of a command that runs under the same key.
#[derive(Debug, Clone)]
pub struct Waiter {
    end: watch::Receiver<Option<End>>,
    progress: Progress,
}

impl Waiter {
    /// None if the command has not ended by then.
    pub async fn end(&mut self, deadline: Instant) -> Option<End> {
        match timeout_at(deadline, self.end.wait_for(Option::is_some)).await {
            Err(_) => None,
            Ok(Ok(end)) => end.clone(),
            Ok(Err(_)) => Some(End::CalledOff), // it is gone without a word; the key says how far it came
        }
    }

    /// That of the command.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl SharedKeys {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is made whole before anything can panic.
        self.table.lock()
    }

    /// Without the keys whose window has ended.
    fn table_of_now(&self) -> MutexGuard<'_, Table> {
        let mut table = self.table();
        table.end(Moment::now());
        if !table.loaded.is_empty()
            && let Some(agreed) = self.skew.time_known().agreed()
        {
            table.end_loaded(seconds(agreed));
        }
        table
    }

    /// Writes what is known of a key, and with it removes those that have ended.
    async fn save(self: &Arc<Self>, change: Change) -> Result<(), WriteError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let shared = self.clone();
        // Taken when it is this write's turn: a key that has ended may have been claimed anew.
        let changes = move || {
            let ended = std::mem::take(&mut shared.table().ended);
            let removed = ended.into_iter().map(Change::Remove);
            removed.chain([change]).collect()
        };
        store.write_keys(changes).await
    }

    /// The same for what became of a command. A disk that is too slow for it has it once it hangs
    /// no more; by then the key may be another command's.
    async fn save_end(
        self: &Arc<Self>,
        (id, run): (KeyId, u64),
        change: impl Fn() -> Change + Send + 'static,
    ) -> Result<(), WriteError> {
        let saved = self.save(change()).await;
        if let (Err(WriteError::Late), Some(store)) = (&saved, &self.store) {
            let shared = Arc::downgrade(self); // else what waits would keep the store open at the end of the process
            store.write_keys_later(move || {
                let is_of_another = |shared: Arc<Self>| shared.table().is_of_another(&id, run);
                let is_its = !shared.upgrade().is_some_and(is_of_another);
                is_its.then(change).into_iter().collect()
            });
        }
        saved
    }

    /// The store shall not have this key, whatever was asked of it before.
    fn take_back(&self, id: KeyId) {
        if let Some(store) = &self.store {
            store.write_keys_later(move || vec![Change::Remove(id)]);
        }
    }

    /// Nothing can be saved as long as a write hangs.
    fn check_store(&self) -> Result<(), Error> {
        if self.store.as_ref().is_some_and(Store::hangs) {
            return Err(Error::StateStoreUnavailable(WriteError::Late));
        }
        Ok(())
    }
}

impl Table {
    fn put(&mut self, id: KeyId, entry: KeyEntry) {
        self.remove(&id);
        *place(&mut self.census, &entry.state) += 1;
        if let KeyState::Kept(kept) = &entry.state {
            self.bytes += kept.size();
        }
        self.ends.extend(entry.end.map(|end| (end, id)));
        self.loaded.extend(entry.until.map(|until| (until, id)));
        self.entries.insert(id, entry);
    }

    /// Has this command left the key in doubt?
    fn is_in_doubt(&self, id: &KeyId, run: u64) -> bool {
        let entry = self.entries.get(id);
        entry.is_some_and(|entry| entry.run == run && matches!(entry.state, KeyState::InDoubt))
    }

    /// Has another command the key now?
    fn is_of_another(&self, id: &KeyId, run: u64) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.run != run)
    }

    /// A key in doubt is so no more; its window goes on. None: it is free.
    fn resolve(&mut self, id: KeyId, state: Option<KeyState>) {
        let Some(entry) = self.remove(&id) else {
            return;
        };
        if let Some(state) = state {
            self.put(id, KeyEntry { state, ..entry });
        }
    }

    fn remove(&mut self, id: &KeyId) -> Option<KeyEntry> {
        let entry = self.entries.remove(id);
        if let Some(entry) = &entry {
            // Else a command that claims it anew would be forgotten then.
            entry.end.map(|end| self.ends.remove(&(end, *id)));
            entry.until.map(|until| self.loaded.remove(&(until, *id)));
            *place(&mut self.census, &entry.state) -= 1;
            if let KeyState::Kept(kept) = &entry.state {
                self.bytes -= kept.size();
            }
        }
        entry
    }

    /// Forgets the keys whose window has ended.
    fn end(&mut self, now: Moment) {
        while let Some((_, id)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.remove(&id);
            self.ended.push(id);
        }
    }

    /// Forgets those of before the start whose window has ended by both clocks.
    fn end_loaded(&mut self, agreed: u64) {
        let is_over = |(until, _): &(u64, KeyId)| *until <= agreed;
        while let Some((_, id)) = self.loaded.first().copied().filter(is_over) {
            self.remove(&id);
            self.ended.push(id);
        }
    }
}

fn place<'a>(census: &'a mut Census, state: &KeyState) -> &'a mut usize {
    match state {
        KeyState::Running(_) => &mut census.running,
        KeyState::Kept(_) => &mut census.kept,
        KeyState::InDoubt => &mut census.in_doubt,
    }
}

/// A command that runs under a key. Dropped without having been settled, it leaves the key in
/// doubt, unless no byte has left.
#[derive(Debug)]
pub struct Run {
    shared: Arc<SharedKeys>,
    key: Key,
    /// Which command this is.
    number: u64,
    tell: watch::Sender<Option<End>>,
    progress: Progress,
    /// May the store have the key?
    is_written: AtomicBool,
    /// Has it, beyond doubt?
    is_durable: AtomicBool,
    is_settled: bool,
}

impl Run {
    /// Is the key where a restart finds it? Without a store there is no such place.
    pub fn is_durable(&self) -> bool {
        self.shared.store.is_none() || self.is_durable.load(Ordering::Acquire)
    }

    /// Could it be there soon? Who would be refused then does not wait for its turn.
    pub fn check_store(&self) -> Result<(), Error> {
        self.shared.check_store()
    }

    /// Sees to it that a restart finds the key; tells how long that took. No byte may leave before.
    pub async fn make_durable(&self, now: Told, deadline: Instant) -> Result<Duration, Error> {
        self.check_store()?;
        let began = Instant::now();
        self.is_written.store(true, Ordering::Release);
        let saved = self.shared.save(self.change(Saved::Running, now));
        let saved = timeout_at(deadline, saved).await;
        saved
            .unwrap_or(Err(WriteError::Late))
            .map_err(Error::StateStoreUnavailable)?;
        self.is_durable.store(true, Ordering::Release);
        Ok(began.elapsed())
    }

    /// The command has ended. What is kept is on disk before anybody is told, unless that takes too
    /// long or fails: memory has it all the same, and a restart before it is on disk finds the
    /// command in doubt.
    pub async fn settle(mut self, ended: Ended<'_>, now: Told) -> Result<(), WriteError> {
        let (fate, key) = (Fate::of(ended), self.key.clone());
        let its = (key.id, self.number);
        let saved = match &fate {
            Fate::Keep(kept) => {
                let kept = kept.clone();
                let change = move || key.change(Saved::Kept(kept.save()), now);
                self.shared.save_end(its, change).await
            }
            Fate::Doubt => {
                let change = move || key.change(Saved::InDoubt, now);
                self.shared.save_end(its, change).await
            }
            Fate::Free => Ok(()), // nobody waits until the store has forgotten it
        };
        let end = End::of(&fate, ended);
        let state = match fate {
            Fate::Keep(kept) => Some(KeyState::Kept(kept)),
            Fate::Doubt => Some(KeyState::InDoubt),
            Fate::Free => None,
        };
        self.settle_as(state);
        self.tell.send_replace(Some(end));
        saved
    }

    /// From now on the key is in this state, or free.
    fn settle_as(&mut self, state: Option<KeyState>) {
        self.is_settled = true;
        let (id, fingerprint) = (self.key.id, self.key.fingerprint);
        if state.is_none() && *self.is_written.get_mut() {
            self.shared.take_back(id); // first: who claims the key anew writes it after that
        }
        let mut table = self.shared.table();
        table.remove(&id);
        if let Some(state) = state {
            let entry = KeyEntry {
                fingerprint,
                run: self.number,
                state,
                end: Some(Moment::now() + self.shared.window),
                until: None,
            };
            table.put(id, entry);
        }
    }

    fn change(&self, state: Saved, now: Told) -> Change {
        self.key.change(state, now)
    }

    /// The same key, for an answer that comes once the command has been [settled](Self::settle) in
    /// doubt.
    pub fn unsettled(&self) -> Unsettled {
        Unsettled {
            shared: self.shared.clone(),
            key: self.key.clone(),
            run: self.number,
        }
    }
}

/// A key whose command is in doubt, as its answer has not come in time.
#[derive(Debug)]
pub struct Unsettled {
    shared: Arc<SharedKeys>,
    key: Key,
    /// The command.
    run: u64,
}

impl Unsettled {
    /// The answer has come after all: of this command, which may have the key no more. What is kept
    /// is on disk before anybody is told, unless that takes too long or fails.
    pub async fn settle(self, answer: &Answer, now: Told) -> Result<(), WriteError> {
        let Self { shared, key, run } = self;
        let (id, kept) = match Fate::of(Some(Ok(answer))) {
            Fate::Keep(kept) => (key.id, Some(kept)),
            Fate::Free => (key.id, None),
            Fate::Doubt => return Ok(()),
        };
        if !shared.table().is_in_doubt(&id, run) {
            return Ok(());
        }
        let to_save = kept.clone();
        let change = move || match &to_save {
            Some(kept) => key.change(Saved::Kept(kept.save()), now),
            None => Change::Remove(id),
        };
        let saved = shared.save_end((id, run), change).await;
        let mut table = shared.table();
        if table.is_in_doubt(&id, run) {
            table.resolve(id, kept.map(KeyState::Kept));
        }
        saved
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_settled {
            let may_have_left = self.progress.sent() != Sent::No;
            self.settle_as(may_have_left.then_some(KeyState::InDoubt));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::kept::answer;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::clock::WallClock;
    use crate::state;

    const HOUR: Duration = Duration::from_secs(3600);

    fn config() -> config::IdempotencyKeys {
        config::IdempotencyKeys::default()
    }

    /// So many hours after 1970, by both clocks.
    fn at(hours: u64) -> Told {
        let now = UNIX_EPOCH + HOUR * u32::try_from(hours).unwrap();
        Told {
            now,
            earliest: now,
            latest: now,
            is_confirmed: true,
            correction: 0,
        }
    }

    /// Our clock showed 1970 at the start, and was set since.
    fn skew() -> Skew {
        Skew::begun(WallClock::System, UNIX_EPOCH)
    }

    /// Linksfield tells its time, at a start at which our clock showed 1970.
    fn linksfield_tells(skew: &Skew, now: Told) {
        let date = httpdate::fmt_http_date(now.now).parse().unwrap();
        skew.record(&date, Moment::now(), UNIX_EPOCH, Duration::ZERO);
    }

    fn key(text: &str) -> Key {
        let params = Params::parse(b"{}").unwrap();
        let text = Spelling::read(text).unwrap();
        Key::new(&text, "P1", None, "/order", &params)
    }

    fn run(keys: &Keys, key: &Key, progress: &Progress) -> Run {
        match keys.claim(key, progress) {
            Ok(Claim::Run(run)) => run,
            other => panic!("{other:?}"),
        }
    }

    fn census(running: usize, kept: usize, in_doubt: usize) -> Census {
        Census {
            running,
            kept,
            in_doubt,
        }
    }

    #[test]
    fn what_a_key_belongs_to_is_part_of_it() {
        let params = |text: &str| Params::parse(text.as_bytes()).unwrap();
        let [k, k2] = ["k", "k2"].map(|text| Spelling::read(text).unwrap());
        let one = Key::new(&k, "P1", Some("a"), "/x", &params("{}"));
        for other in [
            Key::new(&k2, "P1", Some("a"), "/x", &params("{}")),
            Key::new(&k, "P2", Some("a"), "/x", &params("{}")),
            Key::new(&k, "P1", Some("b"), "/x", &params("{}")),
            Key::new(&k, "P1", None, "/x", &params("{}")),
            Key::new(&k, "P1", Some(""), "/x", &params("{}")),
            Key::new(&k, "P1", Some("a"), "/y", &params("{}")),
            Key::new(&k, "P1", Some("a/x"), "", &params("{}")),
        ] {
            assert_ne!(other.id, one.id);
        }
        let asked = Key::new(&k, "P1", Some("a"), "/x", &params(r#"{"a":1}"#));
        assert_eq!(asked.id, one.id);
        assert_ne!(asked.fingerprint, one.fingerprint);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_vanishes_leaves_doubt_only_if_it_may_have_left() {
        let keys = Keys::new(&config(), None, Vec::new(), skew());
        let progress = Progress::default();
        drop(run(&keys, &key("a"), &progress));
        assert_eq!(keys.census(), census(0, 0, 0));

        let vanishing = run(&keys, &key("a"), &progress);
        let Ok(Claim::Wait(mut waiter)) = keys.claim(&key("a"), &progress) else {
            panic!()
        };
        assert!(progress.begin());
        drop(vanishing);
        let end = waiter.end(Instant::now() + HOUR).await;
        assert!(matches!(end, Some(End::CalledOff)), "look again");
        let again = keys.claim(&key("a"), &progress);
        assert!(matches!(again, Ok(Claim::InDoubt)), "{again:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_begins_when_the_command_ends() {
        let keys = Keys::new(&config(), None, Vec::new(), skew());
        let progress = Progress::default();
        let running = run(&keys, &key("a"), &progress);
        tokio::time::advance(HOUR * 100).await;
        assert_eq!(keys.census(), census(1, 0, 0));
        running
            .settle(Some(Ok(&answer(200))), at(100))
            .await
            .unwrap();
        tokio::time::advance(HOUR * 23).await;
        assert_eq!(keys.census(), census(0, 1, 0));
        tokio::time::advance(HOUR).await;
        assert_eq!(keys.census(), census(0, 0, 0));
        assert_eq!(keys.0.table().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_late_settles_no_other_command_of_its_key() {
        let keys = Keys::new(&config(), None, Vec::new(), skew());
        let (progress, failed) = (Progress::default(), Error::UpstreamTimeout(Sent::Unknown));
        let failed = Arc::new(failed);
        let lose = async || {
            let run = run(&keys, &key("a"), &progress);
            let unsettled = run.unsettled();
            run.settle(Some(Err(&failed)), at(1)).await.unwrap();
            unsettled
        };
        let first = lose().await;
        tokio::time::advance(HOUR * 24).await;
        assert_eq!(keys.census(), census(0, 0, 0), "its window has ended");
        let second = lose().await;
        first.settle(&answer(200), at(25)).await.unwrap();
        assert_eq!(keys.census(), census(0, 0, 1), "not the first one's");
        second.settle(&answer(200), at(25)).await.unwrap();
        assert_eq!(keys.census(), census(0, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_ends_by_what_has_passed_and_one_of_before_the_start_not_by_a_clock_alone() {
        let record = |since: u64, is_confirmed| Record {
            since: Time {
                number: since * 3600,
                is_confirmed,
            },
            fingerprint: [0; 32],
            state: Saved::InDoubt,
        };
        let saved = || {
            vec![
                ([1; 32], record(10, true)),
                ([2; 32], record(10, false)), // our clock was not confirmed then
                ([3; 32], record(9999, true)), // it was ahead
            ]
        };
        let skew = skew();
        let keys = Keys::new(&config(), None, saved(), skew.clone());
        linksfield_tells(&skew, at(33));
        assert_eq!(keys.census(), census(0, 0, 3));
        linksfield_tells(&skew, at(35));
        linksfield_tells(&skew, at(35));
        assert_eq!(keys.census(), census(0, 0, 2));
        let progress = Progress::default();
        let running = run(&keys, &key("a"), &progress);
        crate::clock::tests::sleep_for(HOUR * 23);
        running
            .settle(Some(Ok(&answer(200))), at(60))
            .await
            .unwrap();
        assert_eq!(keys.census(), census(0, 1, 2));
        crate::clock::tests::sleep_for(HOUR);
        assert_eq!(keys.census(), census(0, 1, 0), "a further window");
        crate::clock::tests::sleep_for(HOUR * 23);
        assert_eq!(keys.census(), census(0, 0, 0));
    }

    #[tokio::test]
    async fn after_a_restart_a_key_has_what_is_left_of_its_window_and_one_that_ran_is_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), std::time::UNIX_EPOCH)
            .await
            .unwrap();
        let keys = Keys::new(&config(), Some(store), Vec::new(), skew());
        let progress = Progress::default();
        let deadline = Instant::now() + HOUR * 1000;
        let begin = async |text: &str, now| {
            let run = run(&keys, &key(text), &progress);
            assert!(!run.is_durable());
            run.make_durable(now, deadline).await.unwrap();
            assert!(run.is_durable());
            run
        };
        let kept = begin("kept", at(0)).await;
        kept.settle(Some(Ok(&answer(200))), at(10)).await.unwrap();
        let failed = Arc::new(Error::UpstreamTimeout(Sent::Unknown));
        let lost = begin("lost", at(0)).await;
        lost.settle(Some(Err(&failed)), at(9)).await.unwrap();
        let called_off = begin("called-off", at(0)).await;
        called_off.settle(None, at(10)).await.unwrap();
        std::mem::forget(begin("running", at(10)).await); // as if killed
        let old = begin("old", at(0)).await;
        old.settle(Some(Ok(&answer(200))), at(0)).await.unwrap();
        drop(keys);
        // The forgotten one has the file; what a restart would find is in a copy of it.
        let copy = folder.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(folder.path().join(state::FILE), copy.join(state::FILE)).unwrap();

        let (store, saved) = Store::open(&copy, std::time::UNIX_EPOCH).await.unwrap();
        assert_eq!(saved.keys.len(), 4);
        let skew = skew();
        let keys = Keys::new(&config(), Some(store), saved.keys, skew.clone());
        assert_eq!(keys.census(), census(0, 2, 2), "our clock alone ends none");
        linksfield_tells(&skew, at(33));
        assert_eq!(keys.census(), census(0, 1, 1));
        let claim = |text| keys.claim(&key(text), &progress).unwrap();
        assert!(matches!(claim("kept"), Claim::Known(kept) if *kept == Kept::of(&answer(200))));
        assert!(matches!(claim("running"), Claim::InDoubt));
        assert!(matches!(claim("lost"), Claim::Run(_)), "24 h have passed");
        tokio::time::pause();
        tokio::time::advance(HOUR).await;
        assert_eq!(keys.census(), census(0, 0, 0));
    }
}
