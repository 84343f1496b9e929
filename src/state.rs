//! What must survive a restart? Idempotency keys and the history of calls, in one file that one process has.
//!
//! The rules are elsewhere: plain values go in and come out. A write that has succeeded has reached the disk. A thread of
//! its own (`state/writer.rs`) carries them out in the order in which they were asked for; nobody waits for it for more
//! than a second.

#![expect(clippy::result_large_err, reason = "the library's error is what it is")]

mod look;
mod marker;
mod quiet;
mod writer;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::TableHandle as _;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableTable, StorageBackend, TableDefinition};
use tokio::task::spawn_blocking;

use self::look::Found;
pub use self::look::refusal;
use self::marker::Marker;
use self::quiet::quietly;
pub use self::writer::Hangs;
use self::writer::{Work, Writer};

/// The file's name in `server.state_dir`.
pub const FILE: &str = "state.redb";

/// What the file is called once something was missing or altered in it. The library repairs what it can, so that the
/// next start would find nothing wrong.
const DAMAGED: &str = "state.redb.damaged";

/// What a file of the library begins with.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// What has become of a store that was to have a note of its keys.
const REPLACED: &str = "was replaced by a new one";

/// What is said of a store at which the library panics.
const UNREADABLE: &str = "it cannot be read";

/// What is said of a store of which the library has had to repair more than a crash leaves.
const ALTERED: &str = "something in it was altered or is missing";

/// Bytes: a store that has never held a key has the calls of two days at most, and is smaller.
const LARGEST_NEW: u64 = 8 << 20;

/// What all is read once, at the start; memory has what is asked for later.
const CACHE: usize = 4 << 20;

/// Is set in a time that was written before Linksfield had told its own: where ours was wrong, so is that. (Who does not
/// know the mark takes it for one that is far ahead, and keeps what it belongs to.)
const UNCONFIRMED: u64 = 1 << 63;

/// State, seconds since 1970, fingerprint, status, the envelope's `code`, headers, body.
type Row<'a> = (u8, u64, &'a [u8; 32], u16, &'a str, &'a [u8], &'a [u8]);
const KEYS: TableDefinition<'_, &[u8; 32], Row<'_>> = TableDefinition::new("idempotency_keys");
/// Minutes since 1970, and the calls begun in them.
const CALLS: TableDefinition<'_, u64, u32> = TableDefinition::new("calls_by_minute");
/// The minute since 1970 in which the store was made: of calls before it nothing is known.
const KNOWN_SINCE: TableDefinition<'_, (), u64> = TableDefinition::new("calls_known_since");

/// Has a row once the store was about to hold its first key. Keys end, it stays: a store without it has never held one.
const HAS_HELD_KEYS: TableDefinition<'_, (), ()> = TableDefinition::new("has_held_keys");

/// By how many seconds our clock was to be corrected when the calls were saved, as Linksfield's had shown.
const CORRECTION: TableDefinition<'_, (), i64> = TableDefinition::new("clock_correction");

/// The hash that stands for a key and its scope.
pub type KeyId = [u8; 32];

/// A time as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, or minutes, since 1970.
    pub number: u64,
    /// Linksfield's clock and ours were known to agree, or its was taken.
    pub is_confirmed: bool,
}

impl Time {
    const fn load(saved: u64) -> Self {
        Self {
            number: saved & !UNCONFIRMED,
            is_confirmed: saved & UNCONFIRMED == 0,
        }
    }

    const fn save(self) -> u64 {
        let mark = if self.is_confirmed { 0 } else { UNCONFIRMED };
        self.number & !UNCONFIRMED | mark
    }
}

/// The calls of each minute.
pub type Calls = BTreeMap<Time, u32>;

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// In seconds: when it came to be what it is.
    pub since: Time,
    /// The hash of what was asked.
    pub fingerprint: [u8; 32],
    /// How far it has come.
    pub state: State,
}

/// How far a keyed command has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It was about to be sent.
    Running,
    /// It was sent, and what came of it is not known.
    InDoubt,
    /// This was the answer.
    Kept(Answer),
}

/// An answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The envelope's `code`, or nothing.
    pub vendor_code: String,
    /// Lines of `name: value`.
    pub headers: Vec<u8>,
    /// The body.
    pub body: bytes::Bytes,
}

/// A change of what is known of a key.
#[derive(Debug)]
pub enum Change {
    /// This is known from now on.
    Put(KeyId, Record),
    /// Nothing is.
    Remove(KeyId),
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither there nor to be made.
    #[error("server.state_dir: {}; {}", self.reason(), self.remedy())]
    Unusable {
        /// The directory or the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It belongs to another process.
    #[error("server.state_dir: {}; {}", self.reason(), self.remedy())]
    InUse(PathBuf),
    /// It is there and cannot be read.
    #[error("server.state_dir: {}; {}", self.reason(), self.remedy())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is not there any more, holds nothing, or is another one that has never held a key.
    #[error("server.state_dir: {}; {}", self.reason(), self.remedy())]
    Lost {
        /// The file.
        path: PathBuf,
        /// What says that it has had keys.
        marker: PathBuf,
        /// What is there instead.
        reason: &'static str,
    },
}

impl OpenError {
    /// What is wrong.
    pub fn reason(&self) -> String {
        match self {
            Self::Unusable { path, source } => format!("{}: {source}", path.display()),
            Self::InUse(path) => format!("{} is in use by another process", path.display()),
            Self::Damaged { path, reason } => {
                let path = path.display();
                format!("{path} is damaged or of another version ({reason})")
            }
            Self::Lost {
                path,
                marker,
                reason,
            } => {
                let (path, marker) = (path.display(), marker.display());
                format!("{path} {reason}, but it has held idempotency keys, as {marker} says")
            }
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => {
                "it must be a directory that the gateway may read and write, and state.redb in it a regular file of the gateway's user"
            }
            Self::InUse(_) => "give each gateway a directory of its own",
            Self::Damaged { .. } => {
                "bring back a copy, or move it away, and state.redb.used with it, to start without: its idempotency keys are then \
                 forgotten, so look at what the commands of the last hours have done before any is repeated"
            }
            Self::Lost { .. } => {
                "bring back a copy, or remove state.redb.used to start without: the keys are then forgotten, so look at what the \
                 commands of the last hours have done before any is repeated"
            }
        }
    }
}

/// Why something was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The library's words.
    #[error("{0}")]
    Failed(Box<str>),
    /// The disk takes too long.
    #[error("the disk takes too long")]
    Late,
}

/// The open store. Cloning is cheap.
#[derive(Clone)]
pub struct Store(Writer);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// What the store held when it was opened.
#[derive(Debug, Default)]
pub struct Saved {
    /// All keys.
    pub keys: Vec<(KeyId, Record)>,
    /// Calls by minutes.
    pub calls: Calls,
    /// The minute since 1970 from which on they are known.
    pub calls_known_since: u64,
    /// By how many seconds our clock was to be corrected then.
    pub correction: i64,
    /// It was begun just now: of what was before, nothing is known.
    pub is_new: bool,
}

impl Store {
    /// Opens the store in `folder`, made where it is missing, and reads all that it holds.
    pub async fn open(folder: &Path, now: SystemTime) -> Result<(Self, Saved), OpenError> {
        let (folder, path) = (folder.to_owned(), folder.join(FILE));
        let file = path.clone();
        let opened = spawn_blocking(move || quietly(|| open(&folder, now))).await;
        let (database, marker, saved) = opened.ok().flatten().unwrap_or_else(|| {
            Err(OpenError::Damaged {
                path,
                reason: UNREADABLE.into(),
            })
        })?;
        let mut disk = Disk { database, marker };
        let writer = Writer::start(move |work| disk.carry_out(work));
        let writer = writer.map_err(|source| OpenError::Unusable { path: file, source })?;
        Ok((Self(writer), saved))
    }

    /// Carries out all changes of keys, or none. What they are is asked when it is their turn; whoever stops waiting
    /// before that has asked for nothing.
    pub async fn write_keys(
        &self,
        changes: impl FnOnce() -> Vec<Change> + Send + 'static,
    ) -> Result<(), WriteError> {
        self.0.write(Work::Keys(Box::new(changes))).await
    }

    /// The same, without waiting.
    pub fn write_keys_later(&self, changes: impl FnOnce() -> Vec<Change> + Send + 'static) {
        self.0.write_later(Work::Keys(Box::new(changes)));
    }

    /// Saves how many calls each minute had, and by how many seconds our clock is to be corrected; of other minutes nothing is
    /// known any more. What it is is asked when it is its turn, so that what several ask for is one write. While the disk
    /// hangs nobody waits.
    pub async fn save_calls(
        &self,
        calls: impl FnOnce() -> (Calls, i64) + Send + 'static,
    ) -> Result<(), WriteError> {
        let calls = Work::Calls(Box::new(calls));
        if self.hangs() {
            self.0.write_later(calls);
            return Err(WriteError::Late);
        }
        self.0.write(calls).await
    }

    /// Has a write been under way for too long? Then nothing that must be on disk can be, until that ends.
    pub fn hangs(&self) -> bool {
        self.0.hangs()
    }

    /// How often it has hung.
    pub fn count_hangs(&self) -> Hangs {
        self.0.count_hangs()
    }

    /// Does a write hang, or has the last one failed?
    pub fn is_failing(&self) -> bool {
        self.0.is_failing()
    }

    /// Has the last write failed?
    pub fn has_failed(&self) -> bool {
        self.0.has_failed()
    }
}

/// What the writer's thread writes to.
struct Disk {
    database: Database,
    marker: Marker,
}

impl Disk {
    fn carry_out(&mut self, work: Work) -> Result<(), WriteError> {
        // Of some faults of a disk the library does not only complain; it panics.
        let written = catch_unwind(AssertUnwindSafe(|| self.write(work)));
        match written {
            Ok(written) => written.map_err(|error| WriteError::Failed(error.to_string().into())),
            Err(_) => Err(WriteError::Failed("the library failed".into())),
        }
    }

    fn write(&mut self, work: Work) -> Result<(), redb::Error> {
        match work {
            Work::Keys(changes) => {
                let changes = changes();
                let is_put = |change: &Change| matches!(change, Change::Put(..));
                if changes.iter().any(is_put) && !self.marker.is_there() {
                    // Order matters. A crash after the note leaves a store that waits for its first key; a marker beside a
                    // store without the note means that keys are lost; and no key is there before the marker is.
                    note_keys(&self.database)?;
                    self.marker.put()?;
                }
                write_keys(&self.database, &changes)
            }
            Work::Calls(calls) => {
                let (calls, correction) = calls();
                write_calls(&self.database, &calls, correction)
            }
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.create_with_file_format_v3(true); // the only one that later versions of the library read
    builder.set_cache_size(CACHE);
    builder
}

fn open(folder: &Path, now: SystemTime) -> Result<(Database, Marker, Saved), OpenError> {
    let above = match look::look(folder)? {
        Found::Nothing(above) => above,
        Found::Store(_) => folder,
    };
    let path = folder.join(FILE);
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Unusable { path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(unusable(above))?;
    let mut marker = Marker::find(folder).map_err(unusable(folder))?;
    let file = open_file(&path, !marker.is_there()).map_err(unusable(&path))?;
    // The file's name is on disk too, before anything relies on what is in it.
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(unusable(folder))?;
    let damaged = |error: redb::Error| OpenError::Damaged {
        path: path.clone(),
        reason: error.to_string(),
    };
    let not_opened = |error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.clone()),
        error => damaged(error.into()),
    };
    let file = FileBackend::new(file).map_err(not_opened)?; // from here on it is nobody else's
    let read_first = |length| file.read(0, length);
    let why_blank = file.len().and_then(|length| why_blank(length, read_first));
    if let Some(reason) = why_blank.map_err(unusable(&path))? {
        if marker.is_there() {
            return Err(lost(&path, &marker, reason));
        }
        file.set_len(0).map_err(unusable(&path))?; // begun, and cut short
    }
    let mut database = builder().create_with_backend(file).map_err(not_opened)?;
    // What a crash has left unfinished is undone by now. Of what was finished nothing may be missing or altered.
    let is_sound = database
        .check_integrity()
        .map_err(|error| damaged(error.into()))?;
    if !is_sound {
        std::fs::rename(&path, folder.join(DAMAGED)).map_err(unusable(&path))?;
        return Err(altered(folder));
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (saved, has_held_keys) = read(&database, now.as_secs() / 60).map_err(damaged)?;
    if marker.is_there() && !has_held_keys {
        return Err(lost(&path, &marker, REPLACED));
    }
    if !saved.keys.is_empty() {
        marker.put().map_err(unusable(folder))?; // an older version made no marker
    }
    Ok((database, marker, saved))
}

fn lost(path: &Path, marker: &Marker, reason: &'static str) -> OpenError {
    OpenError::Lost {
        path: path.to_owned(),
        marker: marker.path(),
        reason,
    }
}

/// Of what was set aside.
fn altered(folder: &Path) -> OpenError {
    OpenError::Damaged {
        path: folder.join(DAMAGED),
        reason: ALTERED.into(),
    }
}

/// Why nothing can have been kept in a file of this length, if so. The library writes the magic number last, when it makes one,
/// and the names of tables in clear: a file that has lost its beginning still has ours. One that is larger than any new store
/// is not searched for them.
fn why_blank(
    length: u64,
    read_first: impl Fn(usize) -> io::Result<Vec<u8>>,
) -> io::Result<Option<&'static str>> {
    if length == 0 {
        return Ok(Some("is empty"));
    }
    if length > LARGEST_NEW {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let beginning = read_first(length.min(MAGIC.len()))?;
    if beginning.iter().any(|byte| *byte != 0) {
        return Ok(None);
    }
    let name = KEYS.name().as_bytes();
    let content = read_first(length)?;
    let has_table = content.windows(name.len()).any(|part| part == name);
    Ok((!has_table).then_some("was never written"))
}

/// For its owner only, whatever the umask says and whoever made it.
fn open_file(path: &Path, may_be_new: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(may_be_new)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Reads everything, and makes the tables that are missing. Has it ever held a key?
fn read(database: &Database, minute: u64) -> Result<(Saved, bool), redb::Error> {
    let transaction = database.begin_write()?;
    let mut saved = Saved::default();
    let has_held_keys;
    {
        let keys = transaction.open_table(KEYS)?;
        for row in keys.iter()? {
            let (id, row) = row?;
            saved.keys.push((*id.value(), record(row.value())));
        }
        let mut note = transaction.open_table(HAS_HELD_KEYS)?;
        if !saved.keys.is_empty() {
            note.insert((), ())?; // an older version made none
        }
        has_held_keys = note.get(())?.is_some();
        let calls = transaction.open_table(CALLS)?;
        for row in calls.iter()? {
            let (minute, calls) = row?;
            saved
                .calls
                .insert(Time::load(minute.value()), calls.value());
        }
        let correction = transaction.open_table(CORRECTION)?;
        saved.correction = correction.get(())?.map_or(0, |saved| saved.value());
        let mut known_since = transaction.open_table(KNOWN_SINCE)?;
        let told = known_since.get(())?.map(|since| since.value());
        saved.calls_known_since = told.unwrap_or(minute);
        // (An older version told of no minute.)
        saved.is_new = told.is_none() && saved.keys.is_empty() && saved.calls.is_empty();
        if told.is_none() {
            known_since.insert((), minute)?;
        }
    }
    transaction.commit()?;
    Ok((saved, has_held_keys))
}

/// Notes that there are to be keys.
fn note_keys(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(HAS_HELD_KEYS)?.insert((), ())?;
    Ok(transaction.commit()?)
}

fn write_keys(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(KEYS)?;
        for change in changes {
            match change {
                Change::Put(id, record) => table.insert(id, row(record))?,
                Change::Remove(id) => table.remove(id)?,
            };
        }
    }
    Ok(transaction.commit()?) // with an fsync, unless told otherwise
}

fn write_calls(database: &Database, calls: &Calls, correction: i64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(CALLS)?;
        table.retain(|minute, _| calls.contains_key(&Time::load(minute)))?;
        for (minute, calls) in calls {
            let minute = minute.save();
            let is_there = table
                .get(minute)?
                .is_some_and(|saved| saved.value() == *calls);
            if !is_there {
                table.insert(minute, calls)?;
            }
        }
        transaction.open_table(CORRECTION)?.insert((), correction)?;
    }
    Ok(transaction.commit()?)
}

const RUNNING: u8 = 0;
const IN_DOUBT: u8 = 1;
const KEPT: u8 = 2;

fn row(record: &Record) -> Row<'_> {
    let (since, fingerprint) = (record.since.save(), &record.fingerprint);
    let bare = |state| (state, since, fingerprint, 0, "", &[][..], &[][..]);
    match &record.state {
        State::Running => bare(RUNNING),
        State::InDoubt => bare(IN_DOUBT),
        State::Kept(answer) => (
            KEPT,
            since,
            fingerprint,
            answer.status,
            &answer.vendor_code,
            &answer.headers,
            &answer.body,
        ),
    }
}

/// What is not understood may have been sent.
fn record((state, since, fingerprint, status, vendor_code, headers, body): Row<'_>) -> Record {
    let state = match state {
        RUNNING => State::Running,
        KEPT => State::Kept(Answer {
            status,
            vendor_code: vendor_code.to_owned(),
            headers: headers.to_vec(),
            body: bytes::Bytes::copy_from_slice(body),
        }),
        _ => State::InDoubt,
    };
    Record {
        since: Time::load(since),
        fingerprint: *fingerprint,
        state,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use redb::backends::InMemoryBackend;

    use super::*;

    fn kept(body: &'static [u8]) -> Record {
        Record {
            since: Time {
                number: 7,
                is_confirmed: false,
            },
            fingerprint: [9; 32],
            state: State::Kept(Answer {
                status: 200,
                vendor_code: "0000".into(),
                headers: b"content-type: application/json\n".to_vec(),
                body: bytes::Bytes::from_static(body),
            }),
        }
    }

    fn bare(state: State) -> Record {
        Record { state, ..kept(b"") }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_was_written_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let (store, saved) = Store::open(&path, UNIX_EPOCH).await.unwrap();
        assert!(saved.keys.is_empty() && saved.calls.is_empty());
        let rows = [
            ([1; 32], kept(b"{}")),
            ([2; 32], bare(State::Running)),
            ([3; 32], bare(State::InDoubt)),
        ];
        let put = |(id, record): &(KeyId, Record)| Change::Put(*id, record.clone());
        let put_all = rows.clone();
        store
            .write_keys(move || put_all.iter().map(put).collect())
            .await
            .unwrap();
        let changes = vec![
            Change::Put([4; 32], kept(b"x")),
            Change::Remove([4; 32]),
            Change::Remove([5; 32]),
        ];
        store.write_keys(|| changes).await.unwrap();
        let minute = |number, is_confirmed| Time {
            number,
            is_confirmed,
        };
        let calls = [(minute(10, true), 1), (minute(11, false), 2)];
        store.save_calls(move || (calls.into(), -5)).await.unwrap();
        let calls = [(minute(11, false), 3), (minute(11, true), 4)];
        store.save_calls(move || (calls.into(), -5)).await.unwrap();
        drop(store);

        let (_store, saved) = Store::open(&path, UNIX_EPOCH).await.unwrap();
        assert_eq!(saved.keys, rows);
        assert_eq!((saved.calls, saved.correction), (calls.into(), -5));
    }

    #[tokio::test]
    async fn folder_and_file_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        drop(Store::open(&path, UNIX_EPOCH).await.unwrap());
        let file = path.join(FILE);
        assert_eq!((mode(&path), mode(&file)), (0o700, 0o600));
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        drop(Store::open(&path, UNIX_EPOCH).await.unwrap());
        assert_eq!(mode(&file), 0o600);
    }

    #[tokio::test]
    async fn a_store_that_is_open_is_not_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        let again = Store::open(folder.path(), UNIX_EPOCH).await;
        assert!(matches!(again, Err(OpenError::InUse(_))), "{again:?}");
    }

    #[tokio::test]
    async fn a_damaged_file_and_a_folder_that_is_none_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        drop(Store::open(folder.path(), UNIX_EPOCH).await.unwrap());
        let whole = std::fs::read(&file).unwrap();
        let mut zeroed = whole.clone();
        zeroed[64..].fill(0);
        for content in [
            b"not a store".to_vec(),
            whole[..whole.len() / 2].to_vec(),
            zeroed,
        ] {
            std::fs::write(&file, content).unwrap();
            let opened = Store::open(folder.path(), UNIX_EPOCH).await;
            assert!(
                matches!(opened, Err(OpenError::Damaged { .. })),
                "{opened:?}"
            );
        }
        let opened = Store::open(&file, UNIX_EPOCH).await;
        assert!(
            matches!(opened, Err(OpenError::Unusable { .. })),
            "{opened:?}"
        );
    }

    #[tokio::test]
    async fn an_altered_answer_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        store
            .write_keys(|| vec![Change::Put([1; 32], kept(b"a body to be found"))])
            .await
            .unwrap();
        drop(store);
        let file = folder.path().join(FILE);
        let mut content = std::fs::read(&file).unwrap();
        let body = b"a body to be found";
        let places: Vec<usize> = (0..content.len() - body.len())
            .filter(|at| content[*at..].starts_with(body))
            .collect();
        for place in &places {
            content[*place] = b'A';
        }
        assert!(!places.is_empty());
        std::fs::write(&file, content).unwrap();
        for _ in 0..2 {
            let opened = Store::open(folder.path(), UNIX_EPOCH).await;
            assert!(
                matches!(opened, Err(OpenError::Damaged { .. })),
                "{opened:?}"
            );
        }
        drop(std::fs::File::create(folder.path().join(DAMAGED)).unwrap());
        std::fs::remove_file(&file).unwrap();
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        assert!(
            matches!(opened, Err(OpenError::Damaged { .. })),
            "what was set aside is not forgotten: {opened:?}"
        );
    }

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_is_not_overtaken() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        for _ in 0..20 {
            let mut left =
                Box::pin(store.write_keys(|| vec![Change::Put([1; 32], bare(State::Running))]));
            let _ = futures::poll!(left.as_mut()); // begun
            drop(left);
            store
                .write_keys(|| vec![Change::Remove([1; 32])])
                .await
                .unwrap();
        }
        drop(store);
        let (_store, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        assert!(saved.keys.is_empty());
    }

    /// What the file held, and whether the marker was there.
    type Moment = (Vec<u8>, bool);

    /// A disk that remembers what it held after each step.
    #[derive(Debug, Default)]
    struct Recorder {
        disk: InMemoryBackend,
        /// Where the marker is to be.
        marker: PathBuf,
        moments: Arc<Mutex<Vec<Moment>>>,
    }

    impl Recorder {
        fn remember(&self) -> io::Result<()> {
            let length = self.disk.len()?.try_into().unwrap();
            let moment = (self.disk.read(0, length)?, self.marker.exists());
            self.moments.lock().unwrap().push(moment);
            Ok(())
        }
    }

    impl StorageBackend for Recorder {
        fn len(&self) -> io::Result<u64> {
            self.disk.len()
        }

        fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
            self.disk.read(offset, length)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.disk.set_len(length)?;
            self.remember()
        }

        fn sync_data(&self, eventual: bool) -> io::Result<()> {
            self.disk.sync_data(eventual)
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.disk.write(offset, data)?;
            self.remember()
        }
    }

    /// What a file holds at each moment of its making, from the empty one on.
    fn moments_of_a_new_file() -> Vec<Vec<u8>> {
        let disk = Recorder::default();
        let moments = disk.moments.clone();
        let mut database = builder().create_with_backend(disk).unwrap();
        assert!(database.check_integrity().unwrap());
        read(&database, 7).unwrap();
        drop(database);
        let moments = std::mem::take(&mut *moments.lock().unwrap());
        let mut moments: Vec<_> = moments.into_iter().map(|(content, _)| content).collect();
        moments.extend([Vec::new(), vec![0; 4096]]);
        moments.dedup();
        moments
    }

    #[tokio::test]
    async fn a_file_whose_making_was_cut_short_at_any_moment_is_a_new_one_unless_it_has_had_keys() {
        let moments = moments_of_a_new_file();
        assert!(moments.len() > 20);
        let mut is_old = false;
        for (number, moment) in moments.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(FILE);
            std::fs::write(&file, moment).unwrap();
            let opened = Store::open(folder.path(), UNIX_EPOCH).await;
            let (store, saved) = opened.unwrap_or_else(|error| panic!("moment {number}: {error}"));
            assert!(saved.keys.is_empty());
            // In the end it holds what is read at a start: it is one of before then.
            assert!(saved.is_new || moment.starts_with(b"redb"));
            is_old |= !saved.is_new;
            let put = || vec![Change::Put([1; 32], bare(State::Running))];
            store.write_keys(put).await.unwrap();
            drop(store);
            let (_, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
            assert!(saved.keys.len() == 1 && !saved.is_new);

            std::fs::write(&file, moment).unwrap();
            let opened = Store::open(folder.path(), UNIX_EPOCH).await;
            let is_lost = matches!(opened, Err(OpenError::Lost { .. }));
            assert!(is_lost, "moment {number}: {opened:?}");
            if !moment.starts_with(b"redb") {
                assert_eq!(&std::fs::read(&file).unwrap(), moment);
            }
        }
        assert!(is_old);
    }

    /// All moments of the writing of a first key.
    fn moments_of_a_first_key() -> Vec<Moment> {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder {
            marker: folder.path().join(marker::NAME),
            ..Recorder::default()
        };
        let moments = recorder.moments.clone();
        let database = builder().create_with_backend(recorder).unwrap();
        read(&database, 7).unwrap();
        moments.lock().unwrap().clear();
        let marker = Marker::find(folder.path()).unwrap();
        let put = || vec![Change::Put([1; 32], bare(State::Running))];
        let mut disk = Disk { database, marker };
        disk.write(Work::Keys(Box::new(put))).unwrap();
        let mut moments = std::mem::take(&mut *moments.lock().unwrap());
        // The marker came between two moments of the file.
        if let Some(at) = moments.iter().position(|(_, is_marked)| *is_marked)
            && let Some(before) = at.checked_sub(1)
        {
            moments.insert(at, (moments[before].0.clone(), true));
        }
        moments.dedup();
        moments
    }

    #[tokio::test]
    async fn a_first_key_that_is_cut_short_at_any_moment_neither_refuses_the_start_nor_lacks_its_marker()
     {
        let moments = moments_of_a_first_key();
        let count = |is_with: bool| moments.iter().filter(|moment| moment.1 == is_with).count();
        assert!(count(false) > 2 && count(true) > 2, "each has a commit");
        let mut has_key = false;
        for (number, (content, is_marked)) in moments.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(FILE), content).unwrap();
            if *is_marked {
                std::fs::write(folder.path().join(marker::NAME), "").unwrap();
            }
            let opened = Store::open(folder.path(), UNIX_EPOCH).await;
            let (store, saved) = opened.unwrap_or_else(|error| panic!("moment {number}: {error}"));
            has_key = !saved.keys.is_empty();
            assert!(*is_marked || !has_key, "moment {number}");
            let put = || vec![Change::Put([2; 32], bare(State::Running))];
            store.write_keys(put).await.unwrap();
            drop(store);
            let (_, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
            assert_eq!(saved.keys.len(), 1 + usize::from(has_key));
            assert!(folder.path().join(marker::NAME).exists());
        }
        assert!(has_key, "in the end it is written");
    }

    #[test]
    fn a_store_that_is_read_while_it_is_written_to_is_not_taken_for_another_one() {
        let moments = moments_of_a_first_key();
        let marked: Vec<_> = moments.iter().filter(|moment| moment.1).collect();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(marker::NAME), "").unwrap();
        for pair in marked.windows(2) {
            let (before, after) = (&pair[0].0, &pair[1].0);
            for part in 0..=16 {
                let cut = before.len().min(after.len()) * part / 16;
                let read = [&before[..cut], &after[cut..]].concat();
                std::fs::write(folder.path().join(FILE), read).unwrap();
                let refusal = refusal(folder.path());
                assert!(refusal.is_none(), "{refusal:?}");
            }
        }
    }

    #[tokio::test]
    async fn no_key_is_written_before_the_marker_is() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join(marker::NAME);
        let put = || vec![Change::Put([1; 32], bare(State::Running))];
        let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        let remove = || vec![Change::Remove([1; 32])];
        store.write_keys(remove).await.unwrap();
        assert!(!marker.exists(), "it has no key");
        std::fs::create_dir(&marker).unwrap(); // so that it cannot be written
        assert!(store.write_keys(put).await.is_err());
        drop(store);
        std::fs::remove_dir(&marker).unwrap();
        let (store, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        assert!(saved.keys.is_empty());
        store.write_keys(put).await.unwrap();
        assert_eq!(mode(&marker), 0o600);
    }

    #[tokio::test]
    async fn only_a_marked_store_that_neither_has_nor_has_had_a_key_is_lost() {
        // Has keys, the note, the marker; is it lost?
        let stores = [
            (false, false, false, false), // new, or of an older version, and its keys have ended
            (false, false, true, true),
            (false, true, false, false), // about to hold its first key
            (false, true, true, false),  // its keys have ended
            (true, false, false, false), // of an older version
            (true, false, true, false),
            (true, true, false, false), // the marker was removed
            (true, true, true, false),
        ];
        for row in stores {
            let (has_keys, is_noted, is_marked, is_lost) = row;
            let folder = tempfile::tempdir().unwrap();
            let (file, marker) = (folder.path().join(FILE), folder.path().join(marker::NAME));
            let database = builder().create(&file).unwrap();
            let put = Change::Put([1; 32], bare(State::Running));
            write_keys(
                &database,
                if has_keys {
                    std::slice::from_ref(&put)
                } else {
                    &[]
                },
            )
            .unwrap();
            if is_noted {
                note_keys(&database).unwrap();
            }
            drop(database);
            if is_marked {
                std::fs::write(&marker, "").unwrap();
            }
            for _ in 0..2 {
                match Store::open(folder.path(), UNIX_EPOCH).await {
                    Ok((_, saved)) => {
                        assert!(!is_lost, "{row:?}");
                        assert_eq!(saved.keys.len(), usize::from(has_keys), "{row:?}");
                    }
                    Err(OpenError::Lost { .. }) => assert!(is_lost, "{row:?}"),
                    Err(error) => panic!("{row:?}: {error}"),
                }
                assert_eq!(marker.exists(), is_marked || has_keys, "{row:?}");
            }
            if is_lost {
                continue;
            }
            let database = builder().create(&file).unwrap();
            let (_, has_held_keys) = read(&database, 7).unwrap();
            assert_eq!(has_held_keys, has_keys || is_noted, "{row:?}");
        }
    }

    #[tokio::test]
    async fn a_file_without_its_beginning_that_has_had_keys_is_damaged_though_nothing_else_says_so()
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        let put = || vec![Change::Put([1; 32], bare(State::Running))];
        store.write_keys(put).await.unwrap();
        drop(store);
        std::fs::remove_file(folder.path().join(marker::NAME)).unwrap(); // as of an older version
        let mut content = std::fs::read(&file).unwrap();
        content[..4096].fill(0);
        std::fs::write(&file, content).unwrap();
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        let is_damaged = matches!(opened, Err(OpenError::Damaged { .. }));
        assert!(is_damaged, "{opened:?}");
    }
}
