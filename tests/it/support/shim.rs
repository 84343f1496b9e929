//! A disk or a file that hangs, a wall clock that is wrong, a machine that has slept: for one
//! process, as `shim.c` makes them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::gateway::Builder;

/// What is done to a gateway that runs [`under`](Builder::under) it.
pub struct Shim(TempDir);

impl Shim {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// From now on no write to the state file goes on, and no look into a file called `slow.toml`.
    pub fn hang(&self) {
        self.tell("hang", "");
    }

    pub fn let_go(&self) {
        std::fs::remove_file(self.0.path().join("hang")).unwrap();
    }

    /// From now on this file cannot be opened: whoever tries waits.
    pub fn hang_at(&self, path: &Path) {
        self.tell("stuck", path.to_str().unwrap());
    }

    /// From now on it can, as on a mount that has taken the place of a dead one; who waits already
    /// goes on waiting.
    pub fn replace_what_hangs(&self) {
        self.tell("stuck", "");
    }

    pub fn let_go_of_it(&self) {
        std::fs::remove_file(self.0.path().join("stuck")).unwrap();
    }

    /// From now on the wall clock is ahead by so many seconds.
    pub fn set_wall(&self, ahead: i64) {
        self.tell("wall", &ahead.to_string());
    }

    /// The machine has slept for so many seconds in all.
    pub fn set_slept(&self, seconds: u64) {
        self.tell("slept", &seconds.to_string());
    }

    fn tell(&self, name: &str, text: &str) {
        let new = self.0.path().join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.0.path().join(name)).unwrap();
    }
}

impl Builder {
    /// Its state disk and its clocks are what this says.
    pub fn under(self, shim: &Shim) -> Self {
        self.environment("LD_PRELOAD", library().to_str().unwrap())
            .environment("SHIM_FOLDER", shim.0.path().to_str().unwrap())
    }
}

/// Compiled once for all tests of a run.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/shim.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim.so");
        let mine = library.with_extension(std::process::id().to_string());
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([mine.as_os_str(), source.as_ref()])
            .status()
            .expect("a C compiler, which the crypto of rustls needs too");
        assert!(compiled.success());
        std::fs::rename(&mine, &library).unwrap(); // another run may do the same now
        library
    })
}
