//! The configuration: schema, defaults, checks. Each field already has the type it is used with.
//!
//! A file is read in three steps: the text becomes a table, the environment's overrides are laid over it (`environment`), and
//! the table becomes a [`Config`] (`read`), which is then held against the rules across fields (`check`). Every step tells all
//! that it finds, not the first. The file names where secrets are; [`Config::load_secrets`] alone holds them, so a `Config`
//! can be shown to anybody (`show`).
//!
//! No message of this module quotes a value of the file: a secret in the wrong place is still a secret.

mod base_url;
mod brakes;
mod check;
mod environment;
mod faults;
mod file;
mod limits;
mod open_files;
mod problem;
mod read;
mod restart;
mod route;
mod schema;
mod secrets;
mod show;
mod twice;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread::available_parallelism,
    time::Duration,
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::{
    base_url::{BaseUrl, BaseUrlError},
    environment::variable_of,
    faults::{Breaker, Retry},
    file::Files,
    limits::{CRAWLS, Day, Limit, Limits, STREAMS},
    problem::{Problem, Problems, Warning},
    route::{Idempotency, Kind, Route, ambiguity},
    schema::dotted,
    secrets::{Ca, Secrets, TenantSecret, read_secret},
};

use crate::signing::form::Signing;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The side of the callers.
    pub server: Server,
    /// The log.
    pub log: Log,
    /// The side of the vendor.
    pub upstream: Upstream,
    /// How requests are signed.
    pub signing: Signing,
    /// The cache.
    pub cache: Cache,
    /// What is remembered of commands that came with a key.
    pub idempotency: IdempotencyKeys,
    /// Who may ask, by the name that logs and metrics use.
    pub callers: BTreeMap<String, Caller>,
    /// In whose name the gateway asks, by the name that callers, logs and metrics use.
    pub tenants: BTreeMap<String, Tenant>,
    /// What may be done with a path; a path that is not here is a command.
    pub routes: BTreeMap<String, Route>,
}

/// `[server]`: listeners, bounds and the drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where callers connect. Beyond loopback it needs `callers` or `allow_unauthenticated`.
    pub listen: SocketAddr,
    /// Where metrics, probes and the admin page are.
    pub admin_listen: SocketAddr,
    /// Holds the token for what changes something or shows a request; without it, these exist only on loopback.
    #[serde(serialize_with = "show::or_unset")]
    pub admin_token_file: Option<PathBuf>,
    /// Serve whoever can connect, though `listen` is beyond loopback.
    pub allow_unauthenticated: bool,
    /// Threads that serve callers. The default is the number of cores that the process may use, or its CPU quota rounded
    /// down, at least one and at most two.
    pub worker_threads: NonZeroUsize,
    /// A caller's deadline where it names none, and the most it may name; queueing included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The largest request body.
    #[serde(serialize_with = "show::size")]
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
    /// How often this file and those that it names are looked at, beside at once where the system tells of a change.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// The brake for everybody: `false` refuses all commands.
    pub commands: bool,
    /// What becomes of paths that are not in `routes`.
    pub unlisted_paths: UnlistedPaths,
    /// Keeps what must survive a restart.
    #[serde(serialize_with = "show::or_unset")]
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
            max_connections: at_least_one(10_000),
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

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`; or by target: `info,hyper=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

impl Log {
    /// What is wrong with the level, if anything is.
    pub fn problem(&self) -> Option<Problem> {
        let is_level = |word: &str| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .contains(&word.to_lowercase().as_str())
        };
        let is_directive = |directive: &str| match directive.split_once('=') {
            None => is_level(directive),
            Some((target, level)) => {
                let allowed =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
                !target.is_empty() && target.bytes().all(allowed) && is_level(level)
            }
        };
        let mut directives = self.level.split(',').map(str::trim);
        (!directives.all(is_directive)).then(|| {
            Problem::new(
                "log.level",
                "it is no level and no list of targets with their levels",
                "write off, error, warn, info, debug or trace, or a list such as \"info,hyper=debug\"",
            )
        })
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[upstream]`: the vendor and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the file"
)]
pub struct Upstream {
    /// Where the vendor is. It has no default.
    pub base_url: BaseUrl,
    /// Send signed requests unencrypted to another machine.
    pub allow_plaintext: bool,
    /// What may be sent as `Accept-Language`; the first where a caller names none that matches.
    pub languages: Vec<String>,
    /// To connect, TLS included.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// One exchange with the vendor, retries included.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// HTTP/1.1: how long a connection that was given up keeps its slot, until the vendor has ended it.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Certificates (PEM) to trust instead of the bundled roots.
    #[serde(serialize_with = "show::or_unset")]
    pub ca_file: Option<PathBuf>,
    /// The largest answer.
    #[serde(serialize_with = "show::size")]
    pub max_answer: ByteSize,
    /// Offer HTTP/2 by ALPN, beside HTTP/1.1: where the vendor takes it, a connection carries many requests at a time.
    pub http2: bool,
    /// The brake: `true` makes no call. Queries are answered from memory, as long as an old page may stand in for a failure.
    pub paused: bool,
    /// Tell the vendor which trace of the caller's a request belongs to.
    pub forward_traceparent: bool,
    /// What the vendor allows.
    pub limits: Limits,
    /// What the vendor's business codes mean.
    pub codes: Codes,
    /// How often a query is asked again.
    pub retry: Retry,
    /// When nothing is asked for a while.
    pub breaker: Breaker,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            base_url: BaseUrl::default(),
            allow_plaintext: false,
            languages: vec!["zh-CN".to_owned(), "en-US".to_owned()],
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(15),
            hold: Duration::from_secs(120),
            ca_file: None,
            max_answer: ByteSize::mib(8),
            http2: false,
            paused: false,
            forward_traceparent: false,
            limits: Limits::default(),
            codes: Codes::default(),
            retry: Retry::default(),
            breaker: Breaker::default(),
        }
    }
}

/// `[upstream.codes]`: business codes that mean more than "failed". HTTP 401, 403, 429 and 5xx count always.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Codes {
    /// The signature was refused.
    pub bad_signature: Vec<String>,
    /// The request is wrong, and would be at any other time: an order of what does not exist, say.
    pub caller_error: Vec<String>,
    /// Too many requests.
    pub throttled: Vec<String>,
    /// A fault on the vendor's side that may pass.
    pub transient: Vec<String>,
}

/// `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Memory that cached answers may take.
    #[serde(serialize_with = "show::size")]
    pub max_size: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_size: ByteSize::mib(64),
        }
    }
}

/// `[idempotency]`: what is remembered of commands that came with an `idempotency-key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencyKeys {
    /// How long, from the end of the command.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// So many keys; beyond, new ones are refused.
    pub max_keys: NonZeroUsize,
    /// Memory, and room on disk, that their answers may take; beyond, new keys are refused.
    #[serde(serialize_with = "show::size")]
    pub max_size: ByteSize,
}

impl Default for IdempotencyKeys {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(24 * 3600),
            max_keys: at_least_one(100_000),
            max_size: ByteSize::mib(64),
        }
    }
}

/// `[callers.NAME]`: a service that may ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Caller {
    /// Holds the token that it sends as `Authorization: Bearer`.
    pub token_file: PathBuf,
    /// The tenants it may name.
    pub tenants: Vec<String>,
    /// Whether it may send commands.
    pub commands: bool,
}

/// `[tenants.NAME]`: an account at the vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// The account's partner code.
    pub access_code: String,
    /// Holds its secret.
    #[serde(serialize_with = "show::or_unset")]
    pub secret_file: Option<PathBuf>,
    /// Or the environment variable that holds it, for laptops only.
    #[serde(serialize_with = "show::or_unset")]
    pub secret_env: Option<String>,
    /// Holds the secret before a rotation, while it lasts.
    #[serde(serialize_with = "show::or_unset")]
    pub previous_secret_file: Option<PathBuf>,
    /// The brake: `false` refuses this tenant's commands.
    pub commands: bool,
    /// Answers queries that name no tenant.
    pub default: bool,
    /// How many calls it gets for one of a tenant of weight 1, while both want some.
    pub weight: NonZeroU32,
    /// Its own calls in any one second; divided by `instances` like the vendor's limits.
    pub requests_per_second: Limit,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            access_code: String::new(),
            secret_file: None,
            secret_env: None,
            previous_secret_file: None,
            commands: true,
            default: false,
            weight: NonZeroU32::MIN,
            requests_per_second: Limit::None,
        }
    }
}

/// As many as can run at a time, two at most; the first look counts. (Two that shared a core took 10 to 15 % more CPU for a
/// hit than one, and the 99th percentile was longer.)
fn worker_threads() -> NonZeroUsize {
    const MOST: NonZeroUsize = at_least_one(2);
    static THREADS: OnceLock<NonZeroUsize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(MOST, |cores| cores.min(MOST)))
}

/// For defaults; 0 becomes 1.
const fn at_least_one(number: usize) -> NonZeroUsize {
    match NonZeroUsize::new(number) {
        Some(number) => number,
        None => NonZeroUsize::MIN,
    }
}

impl Config {
    /// Reads the file and the environment, and checks what they say.
    pub fn load(path: &Path, files: &Files) -> Result<(Self, Vec<Warning>), Problems> {
        let source = path.display().to_string();
        let text = files
            .text(path)
            .map_err(|error| unreadable(&source, &error))?;
        Self::parse(&text, &source, environment::variables())
    }

    /// The same, and reads the secrets, and tells all that is wrong with either, and what is wrong `beside` them.
    pub fn load_whole(
        path: &Path,
        files: &Files,
        secret_files: &Files,
        beside: impl FnOnce(&Self) -> Option<Problem>,
    ) -> Result<(Self, Secrets, Vec<Warning>), Problems> {
        let source = path.display().to_string();
        let text = files
            .text(path)
            .map_err(|error| unreadable(&source, &error))?;
        let examined = Self::examine(&text, &source, environment::variables())?;
        let (config, mut problems, mut warnings) = examined;
        let (secrets, mut found) = match config.load_secrets(secret_files) {
            Ok(secrets) => (Some(secrets), Vec::new()),
            Err(found) => (None, found.problems),
        };
        found.extend(beside(&config));
        let reported = problems.iter().map(|problem| problem.key.clone());
        let reported = reported.collect();
        let is_news = |problem: &Problem| !check::is_reported(&reported, &problem.key);
        problems.extend(found.into_iter().filter(is_news));
        match secrets {
            Some(secrets) if problems.is_empty() => {
                warnings.extend(secrets.warnings.iter().cloned());
                Ok((config, secrets, warnings))
            }
            _ => Err(Problems::new(&source, problems)),
        }
    }

    /// Where the admin listener is to be, by the environment, else by this file, else by default. What else may be wrong is
    /// not asked: a gateway goes on with the last good file.
    pub fn admin_listen(path: Option<&Path>) -> Result<SocketAddr, Problems> {
        let source = path.map_or("environment".into(), |path| path.display().to_string());
        let text = match path.map(|path| Files::watched().text(path)) {
            None => String::new(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Some(read) => read.map_err(|error| unreadable(&source, &error))?,
        };
        let mut table = read::admin_listen(&text);
        environment::overlay(&mut table, environment::variables(), &mut Vec::new());
        let written = table
            .get("server")
            .and_then(|server| server.get("admin_listen"));
        let Some(written) = written else {
            return Ok(Server::default().admin_listen);
        };
        let address = written.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| {
            let reason = "it is not an IP address with its port";
            let problem = Problem::new("server.admin_listen", reason, "correct it, or use --admin");
            Problems::new(&source, vec![problem])
        })
    }

    /// Checks what a text and an environment say. `source` is the name of the text in messages.
    pub fn parse(
        text: &str,
        source: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), Problems> {
        let (config, problems, warnings) = Self::examine(text, source, env)?;
        if problems.is_empty() {
            return Ok((config, warnings));
        }
        Err(Problems::new(source, problems))
    }

    /// What can be used of a text and an environment, and what cannot.
    fn examine(
        text: &str,
        source: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Problem>, Vec<Warning>), Problems> {
        let mut problems = Vec::new();
        let mut table = read::table(text).map_err(|problems| Problems::new(source, problems))?;
        let file = table.clone();
        let overridden = environment::overlay(&mut table, env, &mut problems);
        let config = read::config(&mut table, &mut problems);
        let mut warnings = check::check(&config, &table, &mut problems);
        let of_problems = problems.iter_mut().map(|it| (&it.key, &mut it.reason));
        let of_warnings = warnings.iter_mut().map(|it| (&it.key, &mut it.reason));
        for (key, reason) in of_problems.chain(of_warnings) {
            if let Some(by) = overridden.get(key) {
                *reason = format!("{reason} (the value comes from {})", by.variable);
            }
        }
        warnings.extend(environment::overruled(file, &config, &overridden));
        Ok((config, problems, warnings))
    }

    /// Reads the files and variables that hold the secrets, and `ca_file`. Paths are relative to the working directory.
    pub fn load_secrets(&self, files: &Files) -> Result<Secrets, Problems> {
        secrets::load(self, files, environment::variable)
    }

    /// Reads them again. A secret that cannot be used is left as it was `before`, and told.
    pub fn reload_secrets(
        &self,
        files: &Files,
        before: &Secrets,
        running: &Self,
    ) -> Result<(Secrets, Vec<Problem>), Problems> {
        secrets::reload(self, files, environment::variable, (before, running))
    }

    /// The files that hold secrets, and `ca_file`.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let tenants = self.tenants.values();
        let tenants =
            tenants.flat_map(|tenant| [&tenant.secret_file, &tenant.previous_secret_file]);
        let callers = self.callers.values().map(|caller| &caller.token_file);
        let others = [&self.server.admin_token_file, &self.upstream.ca_file];
        let files = tenants.chain(others).flatten().chain(callers);
        files.map(PathBuf::as_path)
    }
}

fn unreadable(source: &str, error: &io::Error) -> Problems {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "correct the path; config/gateway.toml is an example to begin with"
        }
        _ => file::remedy(error),
    };
    let reason = format!("the file cannot be read: {error}");
    Problems::new(
        source,
        vec![Problem::new("the file itself", reason, remedy)],
    )
}

#[cfg(test)]
mod tests;
