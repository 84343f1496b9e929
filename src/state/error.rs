//! Why can the store not be opened, or something not be written?

use std::io;
use std::path::{Path, PathBuf};

/// What is said of a store at which the library panics.
pub(super) const UNREADABLE: &str = "it cannot be read";

/// What is said of a store of which the library has had to repair more than a crash leaves.
pub(super) const ALTERED: &str = "something in it was altered or is missing";

/// What has become of a store that was to have a note of its keys.
pub(super) const REPLACED: &str = "was replaced by a new one";

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
    pub(super) fn lost(path: &Path, marker: PathBuf, reason: &'static str) -> Self {
        Self::Lost {
            path: path.to_owned(),
            marker,
            reason,
        }
    }

    /// Of what was set aside.
    pub(super) fn altered(path: PathBuf) -> Self {
        Self::Damaged {
            path,
            reason: ALTERED.into(),
        }
    }

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
