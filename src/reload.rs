//! How does a running gateway get another configuration, or other secrets?
//!
//! What is read is validated whole and swapped in at once: a request is answered under one configuration from its head to
//! its answer. What cannot be used changes nothing: the configuration in effect stays, and so does each secret.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hyper::Response;
use hyper::body::Incoming;
use hyper::http::request;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use sha1::{Digest as _, Sha1};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

use crate::admin::Access;
use crate::body::Body;
use crate::config::{Config, Problem, Problems, Secrets, Warning, dotted};
use crate::gateway::{Gateway, wall_clock};
use crate::server::Service;
use crate::telemetry::{Metrics, log};
use crate::{Build, StartError};

/// Editors and mounts make a change of several steps.
const SETTLED: Duration = Duration::from_millis(100);

/// What is in effect now.
#[derive(Debug)]
pub struct Current {
    /// Answers the callers.
    pub gateway: Gateway,
    /// Counts under the labels of its configuration.
    pub metrics: Arc<Metrics>,
    /// Its configuration; it names where secrets are and holds none.
    pub config: Config,
    /// The same as text.
    pub configuration: String,
    /// Who may change something or see a request.
    pub access: Access,
}

impl Current {
    /// Tells its configuration from others.
    pub fn hash(&self) -> String {
        let hash = Sha1::digest(self.configuration.as_bytes());
        let start = hash.iter().take(6);
        let start = start.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        format!("{start:012x}")
    }
}

/// Always the latest [`Current`]. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Live(Arc<ArcSwap<Current>>);

impl Live {
    /// `current`, until another one comes.
    pub fn new(current: Current) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(current)))
    }

    /// What is in effect now; whoever holds it is not disturbed by what comes.
    pub fn current(&self) -> Arc<Current> {
        self.0.load_full()
    }
}

impl Service for Live {
    async fn answer(&self, head: &request::Parts, body: Incoming) -> Response<Body> {
        self.current().gateway.handle(head, body).await
    }

    fn is_authenticated(&self, head: &request::Parts) -> bool {
        self.0.load().gateway.is_authenticated(head)
    }

    fn refuse_connection(&self) -> Response<Body> {
        self.current().gateway.refuse_connection()
    }

    fn connection_evicted(&self) {
        self.current().metrics.connection_evicted("data");
    }

    fn connection_refused(&self) {
        self.current().gateway.connection_refused();
    }

    fn head_refused(&self) {
        self.current().gateway.head_refused();
    }
}

/// Reads the configuration's file again. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    live: Live,
    read: Mutex<Read>,
    last: Mutex<LastRead>,
}

/// How it went when the file was read last. Of its own: nobody who looks waits for a disk.
#[derive(Debug, Clone)]
pub struct LastRead {
    /// When.
    pub at: SystemTime,
    /// What could not be used; none if all could.
    pub refusal: Option<String>,
}

/// What was read last and could be used.
#[derive(Debug)]
struct Read {
    config: Config,
    secrets: Secrets,
    /// What was told last of what could not be used: it is told once.
    told: String,
}

/// What a reload has brought.
#[derive(Debug)]
pub struct Reloaded {
    /// Is another configuration, or another secret, in effect?
    pub changed: bool,
    /// The keys of the configuration that have another value now.
    pub changed_keys: Vec<String>,
    /// Keys whose new value counts from the next start on.
    pub needs_restart: Vec<String>,
    /// What deserves a thought.
    pub warnings: Vec<Warning>,
    /// Secrets that could not be used; the last good ones are in effect.
    pub kept: Vec<Problem>,
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file, or a secret without a last good one, cannot be used.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// A part cannot be built.
    #[error(transparent)]
    Build(#[from] StartError),
}

impl Reloader {
    /// For a gateway that runs under `config` from this file.
    pub fn new(path: &Path, config: Config, secrets: Secrets, live: Live) -> Self {
        let this = Self(Arc::new(Inner {
            path: path.to_owned(),
            live,
            read: Mutex::new(Read {
                config,
                secrets,
                told: String::new(),
            }),
            last: Mutex::new(LastRead {
                at: wall_clock(),
                refusal: None,
            }),
        }));
        let read = this.read();
        this.record(&read.config, &[]);
        drop(read);
        this
    }

    /// Reads the file and what it names, and brings it into effect if it differs from what is.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        let mut read = self.read();
        let result = self.bring_into_effect(&mut read);
        let refusal = match &result {
            Ok(reloaded) => {
                self.record(&read.config, &reloaded.kept);
                let kept = reloaded.kept.iter();
                let told = kept.map(|problem| format!("{}: {}", problem.key, problem.reason));
                told.collect::<Vec<_>>().join("\n")
            }
            Err(error) => {
                self.metrics().configuration_read(false, now());
                error.to_string()
            }
        };
        *self.last() = LastRead {
            at: wall_clock(),
            refusal: (!refusal.is_empty()).then(|| refusal.clone()),
        };
        let needs_restart = result.iter().flat_map(|reloaded| &reloaded.needs_restart);
        let told = needs_restart.fold(refusal, |told, key| told + "\n" + key);
        let is_news = told != read.told;
        read.told = told;
        drop(read);
        tell(&result, is_news);
        result
    }

    fn bring_into_effect(&self, read: &mut Read) -> Result<Reloaded, ReloadError> {
        let (mut config, mut warnings) = Config::load(&self.0.path)?;
        let (secrets, kept) = config.reload_secrets(&read.secrets, &read.config)?;
        warnings.extend(secrets.warnings.iter().cloned());
        let needs_restart = config.keep_what_needs_a_restart(&read.config);
        let is_same_config = config == read.config;
        let changed_keys = config.differs_in(&read.config);
        let changed = !is_same_config || secrets != read.secrets;
        if changed {
            let before = self.0.live.current();
            let build = Build {
                config: &config,
                secrets: &secrets,
            };
            let built_from = Build {
                config: &read.config,
                secrets: &read.secrets,
            };
            let current = build.successor(&before, &built_from)?;
            let successor = current.gateway.clone();
            let metrics = current.metrics.clone();
            self.0.live.0.store(Arc::new(current));
            successor.brakes().apply(&config); // for what has begun under the one before
            metrics.take_effect(&build.constants());
            if !is_same_config {
                before.gateway.supersede(&successor);
            }
            if config.log.level != read.config.log.level {
                log::set_levels(&config.log.level); // else what was set at run time stays
            }
            read.config = config;
            read.secrets = secrets;
        }
        Ok(Reloaded {
            changed,
            changed_keys,
            needs_restart,
            warnings,
            kept,
        })
    }

    /// Reloads at SIGHUP, when the system tells of a change, and at every interval. Never ends.
    pub async fn watch(self) {
        let changed = Arc::new(Notify::new());
        let mut watched = Watched::new(changed.clone());
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut ticks = interval(self.read().config.server.reload_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // the first one is now
        loop {
            watched.watch(self.folders());
            // Once more now: a change between what was read last and the watch would be seen only at the next look.
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.reload()).await;
            let hung_up = async {
                match &mut hangup {
                    Some(signal) => signal.recv().await.is_some(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = hung_up => info!("reload asked for by SIGHUP"),
                () = changed.notified() => sleep(SETTLED).await,
                _ = ticks.tick() => {}
            }
        }
    }

    /// A mounted file changes by a rename beside it, so its folder is watched.
    fn folders(&self) -> HashSet<PathBuf> {
        let read = self.read();
        let secrets = read.config.secret_files();
        let files = secrets.chain([self.0.path.as_path()]);
        let folder = |file: &Path| match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        files.map(folder).collect()
    }

    fn record(&self, config: &Config, kept: &[Problem]) {
        let (current, at) = (self.0.live.current(), now());
        // With a secret that cannot be read a start would fail.
        current.metrics.configuration_read(kept.is_empty(), at);
        current.metrics.secrets_refused(kept.len());
        current.metrics.configuration_in_effect(&current.hash());
        for name in config.tenants.keys() {
            let key = dotted(&["tenants", name]) + ".";
            let usable = !kept.iter().any(|problem| problem.key.starts_with(&key));
            current.metrics.secret_read(name, usable, at);
        }
    }

    fn metrics(&self) -> Arc<Metrics> {
        self.0.live.current().metrics.clone()
    }

    /// How it went when the file was read last.
    pub fn last_read(&self) -> LastRead {
        self.last().clone()
    }

    fn last(&self) -> MutexGuard<'_, LastRead> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.0.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line for each thing that somebody has to know.
fn tell(result: &Result<Reloaded, ReloadError>, is_news: bool) {
    match result {
        Ok(reloaded) => {
            if reloaded.changed {
                let keys = reloaded.changed_keys.join(", ");
                info!(keys, "configuration or secrets changed");
                for Warning {
                    key,
                    reason,
                    remedy,
                } in &reloaded.warnings
                {
                    warn!(key, reason, remedy, "configuration");
                }
            }
            for key in reloaded.needs_restart.iter().filter(|_| is_news) {
                warn!(key, "changed, and counts from the next start on");
            }
            for Problem {
                key,
                reason,
                remedy,
            } in reloaded.kept.iter().filter(|_| is_news)
            {
                error!(
                    key,
                    reason, remedy, "secret refused, the last good one stays"
                );
            }
        }
        Err(ReloadError::Problems(problems)) if is_news => {
            for Problem {
                key,
                reason,
                remedy,
            } in &problems.problems
            {
                error!(
                    key,
                    reason, remedy, "configuration refused, the last good one stays"
                );
            }
        }
        Err(cause) if is_news => error!(%cause, "configuration refused, the last good one stays"),
        Err(_) => {}
    }
}

/// The folders that the system tells of.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    folders: HashSet<PathBuf>,
}

impl Watched {
    fn new(changed: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                changed.notify_one();
            }
        });
        if let Err(cause) = &watcher {
            warn!(%cause, "changes of files are not told by the system, only looked for");
        }
        Self {
            watcher: watcher.ok(),
            folders: HashSet::new(),
        }
    }

    fn watch(&mut self, folders: HashSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(cause) = watcher.watch(new, RecursiveMode::NonRecursive) {
                warn!(folder = %new.display(), %cause, "changes are not told by the system, only looked for");
            }
        }
        self.folders = folders;
    }
}

fn now() -> f64 {
    let now = wall_clock().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
