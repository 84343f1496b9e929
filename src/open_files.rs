//! How many files may be open at a time, and who gets them? Connections are files to the system.
//!
//! Callers never take the last ones: the admin listener, the calls of Linksfield and a reload have
//! theirs, so that whoever floods the one listener is seen on the other.

use std::fs::File;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections that may ask for metrics and probes at a time.
pub const ADMIN_CONNECTIONS: usize = 256;

/// Connections beyond a listener's limit that are told so, and as many that linger: they have had
/// their last answer, and their caller may still be writing. Further ones are closed at once.
pub const BEYOND: usize = 64;

/// What to do where there are too few.
pub const REMEDY: &str = "raise the limit of open files where the gateway is started (LimitNOFILE= of systemd, --ulimit nofile= of Docker, \
     ulimit -n of a shell), or lower server.max_connections";

/// Raises the limit as far as the process may: Docker and many a shell begin with 1024.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let current = maximum;
        // Where that is not allowed, the limit stays, and what it is counts.
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
    }
}

/// How many the process may have open.
pub fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Is that why something failed: the process, or the machine, has as many open as it may?
pub fn are_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What opening one more fails with now, if that is why. (Whoever resolves a name does not say so.)
pub fn exhaustion() -> Option<io::Error> {
    File::open("/").err().filter(are_exhausted)
}

/// The connections that a listener takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Those that are served.
    pub connections: usize,
    /// Of those beyond them so many are told so, and as many linger.
    pub beyond: usize,
}

impl Room {
    fn within(files: usize, connections: usize) -> Self {
        let beyond = (files / 6).min(BEYOND);
        Self {
            connections: connections.min(files - 2 * beyond).max(1),
            beyond,
        }
    }
}

/// Who gets how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// On `server.listen`.
    pub callers: Room,
    /// On `server.admin_listen`.
    pub admin: Room,
}

impl Shares {
    /// Of this limit: first the process' `own`, then what the admin listener wants, but a quarter
    /// of the rest at most. The others are for callers, who want so many `connections`.
    pub fn of(limit: usize, own: usize, connections: usize) -> Self {
        let rest = limit.saturating_sub(own);
        let admin = (ADMIN_CONNECTIONS + 2 * BEYOND).min(rest / 4);
        Self {
            callers: Room::within(rest - admin, connections),
            admin: Room::within(admin, ADMIN_CONNECTIONS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_take_what_the_process_and_the_admin_listener_leave() {
        let room = |connections, beyond| Room {
            connections,
            beyond,
        };
        for (limit, callers, admin) in [
            (usize::MAX, room(10_000, 64), room(256, 64)),
            (20_000, room(10_000, 64), room(256, 64)),
            (1024, room(600, 64), room(162, 40)),
            (128, room(38, 9), room(12, 3)),
            (64, room(6, 1), room(2, 0)),
            (16, room(1, 0), room(1, 0)),
        ] {
            let shares = Shares::of(limit, 54, 10_000);
            assert_eq!(shares, Shares { callers, admin }, "{limit}");
        }
    }
}
