//! Has the store ever held a key? A file beside it says so, so that a store that is lost is never
//! taken for a new one.
//!
//! It is on disk before the first key is, and after the store's own note of the same: a store
//! without the note is not the one that it speaks of. Its presence is all that it says: what it
//! holds is for people, and may be cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The file's name in `server.state_dir`.
pub(super) const NAME: &str = "state.redb.used";

const TEXT: &[u8] = b"state.redb beside this file has held idempotency keys. Without it, the gateway does not start while this file \
is here: who removes this file lets it forget them.\n";

pub(super) struct Marker {
    folder: PathBuf,
    is_there: bool,
}

impl Marker {
    /// Looks for it.
    pub fn find(folder: &Path) -> io::Result<Self> {
        let is_there = match folder.join(NAME).symlink_metadata() {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let folder = folder.to_owned();
        Ok(Self { folder, is_there })
    }

    pub fn is_there(&self) -> bool {
        self.is_there
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Once this has returned, it is on disk.
    pub fn put(&mut self) -> io::Result<()> {
        if self.is_there {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.path())?;
        file.write_all(TEXT)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?; // its name
        self.is_there = true;
        Ok(())
    }
}
