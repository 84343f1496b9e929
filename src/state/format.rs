//! What does the file look like, and how is it read and written?

use std::io;

use redb::{Builder, Database, ReadableTable, TableDefinition, TableHandle as _};

use super::record::{Answer, Calls, Change, Record, Saved, State, Time};

/// The file's name in `server.state_dir`.
pub const FILE: &str = "state.redb";

/// What the file is called once something was missing or altered in it. The library repairs what it
/// can, so that the next start would find nothing wrong.
pub(super) const DAMAGED: &str = "state.redb.damaged";

/// Bytes: a store that has never held a key has the calls of two days at most, and is smaller.
pub(super) const LARGEST_NEW: u64 = 8 << 20;

/// What a file of the library begins with.
pub(super) const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Little: everything is read once, at the start, and memory has what is asked for later.
const CACHE: usize = 4 << 20;

/// State, seconds since 1970, fingerprint, status, the envelope's `code`, headers, body.
type KeyRow<'a> = (u8, u64, &'a [u8; 32], u16, &'a str, &'a [u8], &'a [u8]);
const KEYS: TableDefinition<'_, &[u8; 32], KeyRow<'_>> = TableDefinition::new("idempotency_keys");
/// Minutes since 1970, and the calls begun in them.
const CALLS: TableDefinition<'_, u64, u32> = TableDefinition::new("calls_by_minute");
/// The minute since 1970 in which the store was made: of calls before it nothing is known.
const KNOWN_SINCE: TableDefinition<'_, (), u64> = TableDefinition::new("calls_known_since");

/// Has a row once the store was about to hold its first key. Keys end, it stays: a store without it
/// has never held one.
const HAS_HELD_KEYS: TableDefinition<'_, (), ()> = TableDefinition::new("has_held_keys");

/// By how many seconds our clock was to be corrected when the calls were saved, as Linksfield's had
/// shown.
const CORRECTION: TableDefinition<'_, (), i64> = TableDefinition::new("clock_correction");

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.create_with_file_format_v3(true); // the only one that later versions of the library read
    builder.set_cache_size(CACHE);
    builder
}
/// Why nothing can have been kept in a file of this length, if so. When the library makes a file,
/// it writes the magic number last, and the names of tables in clear: a file that has lost its
/// beginning still has ours.
pub(super) fn why_blank(
    length: u64,
    read_first: impl Fn(usize) -> io::Result<Vec<u8>>,
) -> io::Result<Option<&'static str>> {
    if length == 0 {
        return Ok(Some("is empty"));
    }
    if length > LARGEST_NEW {
        return Ok(None); // not searched: no new store is so large
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

/// Reads everything, and makes the tables that are missing. Has it ever held a key?
pub(super) fn read(database: &Database, minute: u64) -> Result<(Saved, bool), redb::Error> {
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
pub(super) fn note_keys(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(HAS_HELD_KEYS)?.insert((), ())?;
    Ok(transaction.commit()?)
}

pub(super) fn write_keys(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
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

pub(super) fn write_calls(
    database: &Database,
    calls: &Calls,
    correction: i64,
) -> Result<(), redb::Error> {
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

fn row(record: &Record) -> KeyRow<'_> {
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
fn record((state, since, fingerprint, status, vendor_code, headers, body): KeyRow<'_>) -> Record {
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
