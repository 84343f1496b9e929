//! `[server]`: the side of the callers.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::written;

/// The default of `max_connections`.
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(10_000).expect("above 0");

/// `[server]`: listeners, bounds and the drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where callers connect. Beyond loopback it needs `callers` or `allow_unauthenticated`.
    pub listen: SocketAddr,
    /// Where metrics, probes and the admin page are.
    pub admin_listen: SocketAddr,
    /// Holds the token for what changes something or shows a request; without it, these exist only
    /// on loopback.
    #[serde(serialize_with = "written::or_unset")]
    pub admin_token_file: Option<PathBuf>,
    /// Serve whoever can connect, though `listen` is beyond loopback.
    pub allow_unauthenticated: bool,
    /// Threads that serve callers. The default is the number of cores that the process may use, or
    /// its CPU quota rounded down, at least one and at most two.
    pub worker_threads: NonZeroUsize,
    /// A caller's deadline where it names none, and the most it may name; queueing included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The largest request body.
    #[serde(serialize_with = "written::size")]
    pub max_body: ByteSize,
    /// Connections of callers at a time; at the bound one that waits for its peer makes room.
    pub max_connections: NonZeroUsize,
    /// From accept, or from the first byte of a later request, to the end of the head.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Without progress: of the body, or of a caller who reads slowly.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Keep-alive between requests: longer than callers keep theirs, so that they close first.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// After SIGTERM, no longer ready but still accepting.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long requests in flight have to finish.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How often this file and those that it names are looked at. Where the system tells of a
    /// change, they are looked at at once as well.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// The brake for everybody: `false` refuses all commands.
    pub commands: bool,
    /// What becomes of paths that are not in `routes`.
    pub unlisted_paths: UnlistedPaths,
    /// Keeps what must survive a restart.
    #[serde(serialize_with = "written::or_unset")]
    pub state_dir: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6180)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6181)),
            admin_token_file: None,
            allow_unauthenticated: false,
            worker_threads: worker_threads(),
            request_timeout: Duration::from_secs(20),
            max_body: ByteSize::mib(1),
            max_connections: MAX_CONNECTIONS,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
            reload_interval: Duration::from_secs(30),
            commands: true,
            unlisted_paths: UnlistedPaths::default(),
            state_dir: None,
        }
    }
}

/// What becomes of a path that is not in `routes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlistedPaths {
    /// It is signed and forwarded as a command.
    #[default]
    Forward,
    /// It is refused.
    Refuse,
}

/// As many as can run at a time, two at most; the first look counts. (Two that shared a core took
/// 10 to 15 % more CPU for a hit than one, and the 99th percentile was longer.)
fn worker_threads() -> NonZeroUsize {
    const MOST: NonZeroUsize = NonZeroUsize::new(2).expect("above 0");
    static THREADS: OnceLock<NonZeroUsize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(MOST, |cores| cores.min(MOST)))
}
