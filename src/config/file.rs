//! How is a file read that others write, and that may be anything?
//!
//! What is read again and again must be a regular file: of a FIFO or a device nobody knows when it
//! ends, or what reading it does. And nobody waits for long: what hangs with its disk is a thread
//! of its own, and none of the runtime's, so that neither the other files nor the end of the
//! process wait for it.
//!
//! A thread that hangs cannot be ended, and on a mount that is dead it hangs for ever, though
//! another one has taken the mount's place. So the file is read again by a further thread now and
//! then.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::clock::wall_clock;
use crate::open_files;

/// Bytes: more than the certificates of a whole operating system.
pub(super) const LARGEST: usize = 4 << 20;

/// So long all are read one after the other; one that takes longer is left to the thread that reads
/// it, and the others are read beside it.
const HEAD_START: Duration = Duration::from_secs(1);

/// So much longer they have, all together.
const PATIENCE: Duration = Duration::from_secs(4);

/// A file that hangs is read again after that, and each time after twice as long as before: 14
/// times in a day.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// So many threads of one file may hang: more than come together in a year.
const MOST_READERS: usize = 24;

/// Reads files, in one of two ways.
#[derive(Debug)]
pub struct Files {
    takes_streams: bool,
    /// Those that somebody still reads.
    hanging: Mutex<HashMap<PathBuf, Hang>>,
}

/// A file whose readers hang.
#[derive(Debug)]
struct Hang {
    /// When what came to nothing was begun; nothing once the file could be read again.
    since: Option<SystemTime>,
    /// When the file is read again, if it still hangs then.
    again: Instant,
    /// How long that is after the last time.
    pause: Duration,
    /// On a mount that was replaced they never end.
    readers: Vec<JoinHandle<()>>,
}

impl Hang {
    fn new(now: Instant) -> Self {
        Self {
            since: None,
            again: now,
            pause: Duration::ZERO,
            readers: Vec::new(),
        }
    }

    /// Forgets the readers that have come to an end. Where one has, the file can be read.
    fn look(&mut self) {
        let before = self.readers.len();
        self.readers.retain(|reader| !reader.is_finished());
        if self.readers.len() < before {
            self.since = None;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.again && self.readers.len() < MOST_READERS
    }

    fn error(&self, since: SystemTime) -> io::Error {
        let hangs = Hangs {
            since: self.since.unwrap_or(since),
            is_given_up: self.readers.len() >= MOST_READERS,
        };
        io::Error::new(io::ErrorKind::TimedOut, hangs)
    }

    /// It hung for this one too.
    fn add(&mut self, reader: JoinHandle<()>, now: Instant, pause: Duration) {
        self.readers.push(reader);
        (self.pause, self.again) = (pause, now + pause);
    }
}

/// What was in a file.
#[derive(Clone)]
pub(super) struct Content {
    /// At most one more than [`LARGEST`].
    pub bytes: Vec<u8>,
    /// Who may do what.
    pub mode: u32,
}

/// By path.
pub(super) type Contents = HashMap<PathBuf, io::Result<Content>>;

impl Files {
    /// For what is read again and again: regular files only (or links to them), and nothing that
    /// hangs.
    pub fn watched() -> Self {
        Self {
            takes_streams: false,
            hanging: Mutex::default(),
        }
    }

    /// For what is read once, for somebody who waits: `<(…)` and `/dev/stdin` are as good as a
    /// file.
    pub fn once() -> Self {
        Self {
            takes_streams: true,
            ..Self::watched()
        }
    }

    /// What is in all of these. It takes [`HEAD_START`] and [`PATIENCE`] at most, however many
    /// hang.
    pub(super) fn read<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Contents {
        let paths: BTreeSet<PathBuf> = paths.map(Path::to_owned).collect();
        if self.takes_streams {
            let read = |path: PathBuf| (path.clone(), stream(&path));
            return paths.into_iter().map(read).collect();
        }
        let mut hanging = self.hanging.lock();
        hanging.values_mut().for_each(Hang::look);
        hanging.retain(|_, hang| !hang.readers.is_empty());
        let (since, begun) = (wall_clock(), Instant::now());
        let (mut wanted, mut again) = (Vec::new(), HashMap::new());
        let (tell, told) = channel();
        for path in &paths {
            let known = hanging.get(path).filter(|hang| hang.since.is_some());
            let Some(hang) = known else {
                wanted.push(path.clone());
                continue;
            };
            if hang.is_due(begun)
                && let Ok(reader) = spawn([path.clone()], tell.clone())
            {
                again.insert(path.clone(), reader);
            }
        }
        let mut contents = Contents::new();
        let late = read_beside(wanted, &mut contents);
        wait_for(&mut again, &told, begun + HEAD_START, &mut contents);
        let now = Instant::now();
        for (path, reader) in late {
            let hang = hanging.entry(path).or_insert_with(|| Hang::new(now));
            hang.since = Some(since);
            hang.add(reader, now, FIRST_PAUSE);
        }
        for path in paths {
            let Some(hang) = hanging.get_mut(&path) else {
                continue;
            };
            if let Some(reader) = again.remove(&path) {
                hang.add(reader, now, hang.pause * 2);
            }
            match contents.entry(path) {
                Entry::Occupied(_) => hang.since = None,
                Entry::Vacant(nothing) => {
                    nothing.insert(Err(hang.error(since)));
                }
            }
        }
        contents
    }

    /// The text in this one.
    pub(super) fn text(&self, path: &Path) -> io::Result<String> {
        let read = self.read(std::iter::once(path)).remove(path);
        let bytes = read
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?
            .bytes;
        if bytes.len() > LARGEST {
            return Err(io::Error::other("it is larger than 4 MiB"));
        }
        String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }
}

/// The same words as long as it hangs, so that it is told once.
#[derive(Debug, thiserror::Error)]
#[error(
    "it hangs: nothing has come of it since {}",
    humantime::format_rfc3339_seconds(*since)
)]
struct Hangs {
    since: SystemTime,
    /// As many readers hang as may.
    is_given_up: bool,
}

/// What to do about it.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "correct the path, or create the file",
        io::ErrorKind::PermissionDenied => {
            "let the user of the gateway read it; in a pod, with an fsGroup"
        }
        io::ErrorKind::InvalidInput => "name a regular file, or a link to one",
        io::ErrorKind::TimedOut if is_given_up(error) => {
            "see to the disk or the mount that it is on, and restart the gateway: it has tried so often that it does not read it \
             again, unless one of the tries comes to an end"
        }
        io::ErrorKind::TimedOut => {
            "see to the disk or the mount that it is on; a running gateway reads it again by itself"
        }
        _ if open_files::are_exhausted(error) => open_files::REMEDY,
        _ => "name a readable file",
    }
}

fn is_given_up(error: &io::Error) -> bool {
    let hangs = error.get_ref().and_then(|inner| inner.downcast_ref());
    hangs.is_some_and(|hangs: &Hangs| hangs.is_given_up)
}

type FileRead = (PathBuf, io::Result<Content>);

/// Reads these, and returns who still reads the others.
fn read_beside(wanted: Vec<PathBuf>, contents: &mut Contents) -> HashMap<PathBuf, JoinHandle<()>> {
    let mut late = HashMap::new();
    let (tell, told) = channel();
    let mut left = wanted.into_iter();
    // One thread reads one after the other, while that is quick.
    let (ask, asked) = channel();
    if let Ok(reader) = spawn(asked, tell.clone()) {
        let until = Instant::now() + HEAD_START;
        for path in left.by_ref() {
            let _ = ask.send(path.clone());
            let patience = until.saturating_duration_since(Instant::now());
            let Ok((_, content)) = told.recv_timeout(patience) else {
                late.insert(path, reader);
                break;
            };
            contents.insert(path, content);
        }
    }
    // Beside one that takes long, each of the others has a thread of its own.
    for path in left {
        match spawn([path.clone()], tell.clone()) {
            Ok(reader) => drop(late.insert(path, reader)),
            Err(error) => drop(contents.insert(path, Err(error))),
        }
    }
    wait_for(&mut late, &told, Instant::now() + PATIENCE, contents);
    late
}

/// Takes what these readers tell until then, and leaves those that have told nothing.
fn wait_for(
    readers: &mut HashMap<PathBuf, JoinHandle<()>>,
    told: &Receiver<FileRead>,
    until: Instant,
    contents: &mut Contents,
) {
    while !readers.is_empty() {
        let patience = until.saturating_duration_since(Instant::now());
        let Ok((path, content)) = told.recv_timeout(patience) else {
            break;
        };
        readers.remove(&path);
        contents.insert(path, content);
    }
}

fn spawn(
    paths: impl IntoIterator<Item = PathBuf> + Send + 'static,
    tell: Sender<FileRead>,
) -> io::Result<JoinHandle<()>> {
    let read_all = move || {
        for path in paths {
            let content = regular(&path);
            let _ = tell.send((path, content));
        }
    };
    thread::Builder::new().name("files".into()).spawn(read_all)
}

fn regular(path: &Path) -> io::Result<Content> {
    // It is looked at before it is opened: to open a device may do something.
    check_regular(path.metadata()?.file_type())?;
    // And whoever has put a FIFO there meanwhile keeps nobody waiting for its other end.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let about = file.metadata()?;
    check_regular(about.file_type())?;
    content(file, &about)
}

fn stream(path: &Path) -> io::Result<Content> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    content(file, &about)
}

fn content(file: File, about: &Metadata) -> io::Result<Content> {
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    let mode = about.permissions().mode();
    Ok(Content { bytes, mode })
}

fn check_regular(kind: FileType) -> io::Result<()> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    let reason = format!("it is {what}, not a regular file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_file_that_hangs_is_read_again_soon_then_seldom_and_never_by_more_than_so_many_threads() {
        let end = Arc::new(Mutex::new(()));
        let held = end.lock();
        let reader = || {
            let end = end.clone();
            thread::spawn(move || drop(end.lock()))
        };
        let begun = Instant::now();
        let mut hang = Hang::new(begun);
        hang.add(reader(), begun, FIRST_PAUSE);
        let mut times = Vec::new();
        // As often as an impatient operator would reload.
        for seconds in (0..3600 * 24 * 800).step_by(5) {
            let now = begun + Duration::from_secs(seconds);
            if hang.is_due(now) {
                times.push(seconds);
                assert!(remedy(&hang.error(SystemTime::UNIX_EPOCH)).contains("by itself"));
                hang.add(reader(), now, hang.pause * 2);
            }
        }
        assert_eq!(times[..4], [5, 15, 35, 75]);
        let within = |days: u64| times.iter().filter(|at| **at < days * 24 * 3600).count();
        assert_eq!((within(1), within(365)), (14, 22));
        assert_eq!(hang.readers.len(), MOST_READERS);

        let told = hang.error(SystemTime::UNIX_EPOCH);
        assert!(remedy(&told).contains("restart the gateway"), "{told}");

        hang.since = Some(SystemTime::UNIX_EPOCH);
        hang.look();
        assert!(hang.since.is_some(), "none has ended");
        drop(held);
        while !hang.readers.iter().any(JoinHandle::is_finished) {
            thread::yield_now();
        }
        hang.look();
        assert!(hang.since.is_none() && hang.readers.len() < MOST_READERS);
    }
}
