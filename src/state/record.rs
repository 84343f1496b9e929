//! What is kept? The nouns that go into the store and come out of it.

use std::collections::BTreeMap;

/// Is set in a time that was written before Linksfield had told its own: where our clock was wrong,
/// so is that time. An older version does not know the mark: it takes the time for one that is far
/// ahead, and keeps what it belongs to.
const UNCONFIRMED: u64 = 1 << 63;

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
    pub(super) const fn load(saved: u64) -> Self {
        Self {
            number: saved & !UNCONFIRMED,
            is_confirmed: saved & UNCONFIRMED == 0,
        }
    }

    pub(super) const fn save(self) -> u64 {
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
