//! What refuses a start can be seen before it? Nothing is made, locked or changed for it, so that
//! this may be asked while a gateway has the store.
//!
//! It is not asked whether another process has the store: that needs the lock. Whether all in it is
//! sound is asked of a copy, where that is small and nobody writes to the store meanwhile.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::StorageBackend;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::{ALTERED, OpenError, REPLACED, UNREADABLE};
use super::format::{DAMAGED, FILE, LARGEST_NEW, MAGIC, builder, read, why_blank};
use super::marker::Marker;
use super::quiet::quietly;

/// So often it is looked whether a store stays as it is while it is read. One that a gateway writes
/// to says nothing.
const LOOKS: usize = 5;

/// As many links as the system follows.
const MOST_LINKS: usize = 40;

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
    is_blank: bool,
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
        Found::Nothing(folder) => forbids(&place_of(&file), Access::WRITE_OK, &file)
            .or_else(|| forbids(folder, Access::READ_OK, folder)),
        Found::Store(store) => forbids(&file, Access::WRITE_OK, &file)
            .or_else(|| store.foreign())
            .or_else(|| forbids(folder, Access::READ_OK, folder))
            .or_else(|| store.content_refusal()),
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
        is_blank: blank.is_some(),
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

    /// Is it damaged, or another one, which has never held a key?
    fn content_refusal(&self) -> Option<OpenError> {
        if self.is_blank {
            return None; // a start makes it anew
        }
        let path = || self.path.clone();
        let content = match self.content() {
            Ok(content) => content?,
            Err(source) => {
                let path = path();
                return Some(OpenError::Unusable { path, source });
            }
        };
        let damaged = |reason| OpenError::Damaged {
            path: path(),
            reason,
        };
        match quietly(|| has_held_keys(content)) {
            None => Some(damaged(UNREADABLE.into())),
            Some(Err(error)) => Some(damaged(error.to_string())),
            Some(Ok(None)) => Some(damaged(ALTERED.into())),
            Some(Ok(Some(false))) if self.marker.is_there() => {
                Some(OpenError::lost(&self.path, self.marker.path(), REPLACED))
            }
            Some(Ok(Some(_))) => None,
        }
    }

    /// All of it, as it was at one moment: what is the same when it is read again was so when that
    /// began. A gateway whose process ended then would leave this, and could be started with it.
    /// Nothing of a store that is large, or is written to.
    fn content(&self) -> io::Result<Option<Vec<u8>>> {
        let most = usize::try_from(LARGEST_NEW).map_err(io::Error::other)?;
        let read = || read_first(&self.file, most + 1);
        let mut before = read()?;
        for _ in 0..LOOKS {
            if before.len() > most {
                break;
            }
            let content = read()?;
            if content == before {
                return Ok(Some(content));
            }
            before = content;
        }
        Ok(None)
    }
}

/// The folder in which this file would be made: another one where the file is a link to nothing.
fn place_of(file: &Path) -> PathBuf {
    let mut file = file.to_owned();
    let mut folder = file.clone();
    for _ in 0..MOST_LINKS {
        folder.clone_from(&file);
        folder.pop();
        match file.read_link() {
            Ok(target) => file = folder.join(target),
            Err(_) => break,
        }
    }
    folder.join(".") // which only a folder has
}

/// Has the store with this content ever held a key? Nothing if something in it was altered.
fn has_held_keys(content: Vec<u8>) -> Result<Option<bool>, redb::Error> {
    let mut database = builder().create_with_backend(Copy(Mutex::new(content)))?;
    let is_sound = database.check_integrity()?;
    let (_, has_held_keys) = read(&database, 0)?;
    Ok(is_sound.then_some(has_held_keys))
}

/// A store in memory. It fails where a file would, and does not grow without bound, whatever a
/// damaged store asks for.
#[derive(Debug)]
struct Copy(Mutex<Vec<u8>>);

impl Copy {
    fn part<T>(
        &self,
        offset: u64,
        length: usize,
        with: impl FnOnce(&mut [u8]) -> T,
    ) -> io::Result<T> {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = usize::try_from(offset).ok();
        let part = begin.and_then(|begin| content.get_mut(begin..begin.checked_add(length)?));
        let beyond = || {
            let reason = "failed to fill whole buffer"; // as of a file
            io::Error::new(io::ErrorKind::UnexpectedEof, reason)
        };
        part.map(with).ok_or_else(beyond)
    }
}

impl StorageBackend for Copy {
    fn len(&self) -> io::Result<u64> {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(content.len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.part(offset, length, |part| part.to_vec())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if length > 2 * LARGEST_NEW {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        content.resize(length.try_into().map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.part(offset, data.len(), |part| part.copy_from_slice(data))
    }
}
