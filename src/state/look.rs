//! What refuses a start can be seen before it? Nothing is made, locked or changed for it, so that
//! this may be asked while a gateway has the store.
//!
//! It is not asked whether another process has the store, or whether all in it is sound: that needs
//! the lock.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::StorageBackend as _;
use redb::backends::InMemoryBackend;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::{OpenError, REPLACED};
use super::format::{DAMAGED, FILE, MAGIC, builder, read, why_blank};
use super::marker::Marker;

/// Bytes: a store that has never held a key has the calls of two days at most, and is smaller.
const LARGEST_NEW: u64 = 8 << 20;

/// What is there.
pub(super) enum Found<'a> {
    /// No store: one is to be made in this folder, or in one that is to be made in it.
    Nothing(&'a Path),
    /// Something that may be a store.
    Store(Store),
}

/// A store's file, and the marker beside it.
pub(super) struct Store {
    path: PathBuf,
    length: u64,
    owner: u32,
    mode: u32,
    file: File,
    marker: Marker,
}

/// Why a start with this folder would be refused, if that can be seen. What a start learns by doing
/// it is asked for here.
pub fn refusal(folder: &Path) -> Option<OpenError> {
    let found = match look(folder) {
        Ok(found) => found,
        Err(refusal) => return Some(refusal),
    };
    let file = folder.join(FILE);
    let forbids = |place, what, path: &Path| {
        let source = access(place, what).err()?.into();
        let path = path.to_owned();
        Some(OpenError::Unusable { path, source })
    };
    match found {
        Found::Nothing(above) if above != folder => {
            forbids(above, Access::WRITE_OK | Access::EXEC_OK, above)
        }
        Found::Nothing(folder) => forbids(folder, Access::WRITE_OK, &file)
            .or_else(|| forbids(folder, Access::READ_OK, folder)),
        Found::Store(store) => forbids(&file, Access::WRITE_OK, &file)
            .or_else(|| store.foreign())
            .or_else(|| forbids(folder, Access::READ_OK, folder))
            .or_else(|| store.replaced()),
    }
}

/// What there is, or why it cannot be taken.
pub(super) fn look(folder: &Path) -> Result<Found<'_>, OpenError> {
    let path = folder.join(FILE);
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Unusable { path, source }
    };
    let nearest = nearest_folder(folder)?;
    if nearest != folder {
        return Ok(Found::Nothing(nearest));
    }
    if folder.join(DAMAGED).exists() {
        return Err(OpenError::altered(folder.join(DAMAGED)));
    }
    let marker = Marker::find(folder).map_err(unusable(folder))?;
    let about = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if marker.is_there() {
                Err(OpenError::lost(&path, marker.path(), "is missing"))
            } else {
                Ok(Found::Nothing(folder))
            };
        }
        about => about.map_err(unusable(&path))?,
    };
    if !about.is_file() {
        // To open a device may do something.
        return Err(unusable(&path)(io::Error::other("it is no regular file")));
    }
    let file = File::open(&path).map_err(unusable(&path))?;
    let blank = why_blank(about.len(), |length| read_first(&file, length));
    let blank = blank.map_err(unusable(&path))?;
    if let Some(reason) = blank.filter(|_| marker.is_there()) {
        return Err(OpenError::lost(&path, marker.path(), reason));
    }
    let beginning = read_first(&file, MAGIC.len()).map_err(unusable(&path))?;
    if blank.is_none() && beginning != MAGIC {
        let reason = "it is no store".into();
        return Err(OpenError::Damaged { path, reason });
    }
    Ok(Found::Store(Store {
        path,
        length: about.len(),
        owner: about.uid(),
        mode: about.permissions().mode(),
        file,
        marker,
    }))
}

/// This folder, or the nearest one above it that is there, where it can be made.
fn nearest_folder(folder: &Path) -> Result<&Path, OpenError> {
    for path in folder.ancestors() {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let unusable = |source| {
            let path = path.to_owned();
            Err(OpenError::Unusable { path, source })
        };
        match path.metadata() {
            Ok(about) if about.is_dir() => return Ok(path),
            Ok(_) => return unusable(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return unusable(error),
            Err(_) if path.is_symlink() => {
                return unusable(io::Error::other("it is a link to nothing"));
            }
            Err(_) => {}
        }
    }
    Ok(folder)
}

/// So many bytes, or all where there are fewer: others may write to the file meanwhile.
fn read_first(mut file: &File, length: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.take(length as u64).read_to_end(&mut content)?;
    Ok(content)
}

impl Store {
    /// The start makes it its owner's alone, which only the owner may.
    fn foreign(&self) -> Option<OpenError> {
        let user = geteuid();
        let is_foreign = !user.is_root() && user.as_raw() != self.owner;
        let is_open = self.mode & 0o777 != 0o600;
        (is_foreign && is_open).then(|| OpenError::Unusable {
            path: self.path.clone(),
            source: Errno::PERM.into(),
        })
    }

    /// Is it another one, which has never held a key? A small copy is asked. It may be cut by who
    /// writes to the file meanwhile: then it says nothing. But a store that has its marker has had
    /// its note before.
    fn replaced(&self) -> Option<OpenError> {
        if !self.marker.is_there() || self.length > LARGEST_NEW {
            return None;
        }
        let has_held_keys = catch_unwind(AssertUnwindSafe(|| self.has_held_keys()));
        let is_new = matches!(has_held_keys, Ok(Some(false)));
        is_new.then(|| OpenError::lost(&self.path, self.marker.path(), REPLACED))
    }

    fn has_held_keys(&self) -> Option<bool> {
        let copy = InMemoryBackend::new();
        copy.set_len(self.length).ok()?;
        let content = read_first(&self.file, self.length.try_into().ok()?).ok()?;
        copy.write(0, &content).ok()?;
        let mut database = builder().create_with_backend(copy).ok()?;
        let is_sound = database.check_integrity().ok()?;
        let (_, has_held_keys) = read(&database, 0).ok()?;
        is_sound.then_some(has_held_keys)
    }
}
