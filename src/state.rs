//! What must survive a restart? Idempotency keys and the history of calls, in one file that one
//! process has.
//!
//! The rules are elsewhere: plain values go in and come out (`state/record.rs`). A write that has
//! succeeded has reached the disk. A thread of its own (`state/writer.rs`) carries them out in the
//! order in which they were asked for; nobody waits for it for more than a second. How the file
//! looks is `state/format.rs`; a start opens it (`state/open.rs`) only where it is the one that was
//! there before (`state/look.rs`, `state/marker.rs`).

#![expect(clippy::result_large_err, reason = "the library's error is what it is")]

mod error;
mod format;
mod look;
mod marker;
mod open;
mod quiet;
mod record;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::SystemTime;

use redb::Database;
use tokio::task::spawn_blocking;

use self::error::UNREADABLE;
pub use self::error::{OpenError, WriteError};
pub use self::format::FILE;
use self::format::{note_keys, write_calls, write_keys};
pub use self::look::refusal;
use self::marker::Marker;
use self::open::open;
use self::quiet::quietly;
pub use self::record::{Answer, Calls, Change, KeyId, Record, Saved, State, Time};
pub use self::writer::Hangs;
use self::writer::{Work, Writer};

/// The open store. Cloning is cheap.
#[derive(Clone)]
pub struct Store(Writer);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
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

    /// Carries out all changes of keys, or none. What they are is asked when it is their turn;
    /// whoever stops waiting before that has asked for nothing.
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

    /// Saves how many calls each minute had, and by how many seconds our clock is to be corrected;
    /// of other minutes nothing is known any more. What it is is asked when it is its turn, so that
    /// what several ask for is one write. While the disk hangs nobody waits.
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

    /// Has a write been under way for too long? Then nothing that must be on disk can be, until
    /// that ends.
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
                    // Order matters. A crash after the note leaves a store that waits for its first
                    // key; a marker beside a store without the note means that keys are lost; and
                    // no key is there before the marker is.
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

#[cfg(test)]
mod tests;
