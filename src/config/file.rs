//! How is a file read that others write, and that may be anything?
//!
//! What is read again and again must be a regular file: of a FIFO or a device nobody knows when it ends, or what reading it does.
//! And nobody waits for long: what hangs with its disk is a thread of its own, and none of the runtime's, so that neither the
//! other files nor the end of the process wait for it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::open_files;

/// Bytes: more than the certificates of a whole operating system.
pub(super) const LARGEST: usize = 4 << 20;

/// So long all are read one after the other; one that takes longer is left to the thread that reads it, and the others are
/// read beside it.
const HEAD_START: Duration = Duration::from_secs(1);

/// So much longer they have, all together.
const PATIENCE: Duration = Duration::from_secs(4);

/// Reads files, in one of two ways.
#[derive(Debug)]
pub struct Files {
    takes_streams: bool,
    /// Those that hung when they were read last, and who still reads them.
    hanging: Mutex<HashMap<PathBuf, JoinHandle<()>>>,
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
    /// For what is read again and again: regular files only (or links to them), and nothing that hangs.
    pub fn watched() -> Self {
        Self {
            takes_streams: false,
            hanging: Mutex::default(),
        }
    }

    /// For what is read once, for somebody who waits: `<(…)` and `/dev/stdin` are as good as a file.
    pub fn once() -> Self {
        Self {
            takes_streams: true,
            ..Self::watched()
        }
    }

    /// What is in all of these. It takes [`HEAD_START`] and [`PATIENCE`] at most, however many hang.
    pub(super) fn read<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Contents {
        let paths: BTreeSet<PathBuf> = paths.map(Path::to_owned).collect();
        if self.takes_streams {
            let read = |path: PathBuf| (path.clone(), stream(&path));
            return paths.into_iter().map(read).collect();
        }
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        hanging.retain(|_, reader| !reader.is_finished());
        let (known, wanted) = paths
            .into_iter()
            .partition::<Vec<_>, _>(|path| hanging.contains_key(path));
        let mut contents = Contents::new();
        let late = read_beside(wanted, &mut contents);
        for path in known.iter().chain(late.keys()) {
            let hangs = io::Error::new(io::ErrorKind::TimedOut, HANGS);
            contents.insert(path.clone(), Err(hangs));
        }
        hanging.extend(late);
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

const HANGS: &str = "it hangs: for five seconds nothing has come of it";

/// What to do about it.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "correct the path, or create the file",
        io::ErrorKind::PermissionDenied => {
            "let the user of the gateway read it; in a pod, with an fsGroup"
        }
        io::ErrorKind::InvalidInput => "name a regular file, or a link to one",
        io::ErrorKind::TimedOut => "see to the disk or the mount that it is on",
        _ if open_files::are_exhausted(error) => open_files::REMEDY,
        _ => "name a readable file",
    }
}

type Read = (PathBuf, io::Result<Content>);

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
    let until = Instant::now() + PATIENCE;
    while !late.is_empty() {
        let patience = until.saturating_duration_since(Instant::now());
        let Ok((path, content)) = told.recv_timeout(patience) else {
            break;
        };
        late.remove(&path);
        contents.insert(path, content);
    }
    late
}

fn spawn(
    paths: impl IntoIterator<Item = PathBuf> + Send + 'static,
    tell: Sender<Read>,
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
