//! How is the file opened, so that nothing it has held is taken for never having been there?

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageBackend as _};

use super::error::{OpenError, REPLACED};
use super::format::{DAMAGED, FILE, builder, read, why_blank};
use super::look::{Found, look};
use super::marker::Marker;
use super::record::Saved;

/// The store in `folder`, made where it is missing, the marker beside it and all that it holds.
pub(super) fn open(folder: &Path, now: SystemTime) -> Result<(Database, Marker, Saved), OpenError> {
    let above = match look(folder)? {
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
            return Err(OpenError::lost(&path, marker.path(), reason));
        }
        file.set_len(0).map_err(unusable(&path))?; // begun, and cut short
    }
    let mut database = builder().create_with_backend(file).map_err(not_opened)?;
    // What a crash has left unfinished is undone by now. Of what was finished nothing may be
    // missing or altered.
    let is_sound = database
        .check_integrity()
        .map_err(|error| damaged(error.into()))?;
    if !is_sound {
        std::fs::rename(&path, folder.join(DAMAGED)).map_err(unusable(&path))?;
        return Err(OpenError::altered(folder.join(DAMAGED)));
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (saved, has_held_keys) = read(&database, now.as_secs() / 60).map_err(damaged)?;
    if marker.is_there() && !has_held_keys {
        return Err(OpenError::lost(&path, marker.path(), REPLACED));
    }
    if !saved.keys.is_empty() {
        marker.put().map_err(unusable(folder))?; // an older version made no marker
    }
    Ok((database, marker, saved))
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
