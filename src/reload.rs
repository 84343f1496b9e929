//! How does a running gateway get another configuration, or other secrets?
//!
//! What is read is validated whole and swapped in at once: a request is answered under one
//! configuration from its head to its answer. What cannot be used changes nothing: the
//! configuration in effect stays, and so does each secret.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::{Mutex, MutexGuard};
use tokio::signal::unix::Signal;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

use crate::build::{build, take_effect};
use crate::clock::wall_clock;
use crate::config::{Config, Files, Problem, Problems, Secrets, Warning};
use crate::gateway::Lasting;
use crate::live::{Live, now};
use crate::open_files;
use crate::signing::sign::InvalidSecret;
use crate::telemetry::{Metrics, log};

/// Editors and mounts make a change of several steps.
const SETTLED: Duration = Duration::from_millis(100);

/// Reads the configuration's file again. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<ReloaderParts>);

#[derive(Debug)]
struct ReloaderParts {
    path: PathBuf,
    files: Files,
    live: Live,
    lasting: Lasting,
    read: Mutex<LastGood>,
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

/// What makes the gateway read its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It starts.
    Start,
    /// The system tells of a change, or it is time to look for one.
    FileWatcher,
    /// SIGHUP.
    Hangup,
    /// `POST /reload`.
    Request,
}

impl Trigger {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::FileWatcher => "file watcher",
            Self::Hangup => "SIGHUP",
            Self::Request => "POST /reload",
        }
    }
}

/// How what is in effect came into effect.
#[derive(Debug, Clone)]
pub struct LastChange {
    /// When.
    pub at: SystemTime,
    /// By what.
    pub by: Trigger,
    /// The keys that got another value; none if it was a secret, or the start.
    pub keys: Vec<String>,
    /// The keys of the secrets, and of the certificates, that others were read for.
    pub secrets: Vec<String>,
}

/// What was read last and could be used.
#[derive(Debug)]
struct LastGood {
    config: Config,
    secrets: Secrets,
    last_change: LastChange,
    /// What was told last of what could not be used: it is told once.
    told: String,
    /// What deserved a thought then, and has been told.
    warnings: Vec<Warning>,
}

/// What a reload has brought.
#[derive(Debug)]
pub struct Reloaded {
    /// Is another configuration, or another secret, in effect?
    pub changed: bool,
    /// The keys of the configuration that have another value now.
    pub changed_keys: Vec<String>,
    /// The keys of secrets, and of certificates, that others are in effect for now.
    pub changed_secrets: Vec<String>,
    /// The keys of the brakes that are on, whoever put them on.
    pub brakes: Vec<String>,
    /// The change that has brought what is in effect: this one, or one before it.
    pub last_change: LastChange,
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
    Build(#[from] InvalidSecret),
}

impl Reloader {
    /// For a gateway that runs under `config` from this file; the `warnings` have been told.
    pub fn new(
        path: &Path,
        (config, secrets): (Config, Secrets),
        warnings: Vec<Warning>,
        live: Live,
        lasting: Lasting,
    ) -> Self {
        let at = wall_clock();
        let last_change = LastChange {
            at,
            by: Trigger::Start,
            keys: Vec::new(),
            secrets: Vec::new(),
        };
        Self(Arc::new(ReloaderParts {
            path: path.to_owned(),
            files: Files::watched(),
            live,
            lasting,
            read: Mutex::new(LastGood {
                config,
                secrets,
                last_change,
                told: String::new(),
                warnings,
            }),
            last: Mutex::new(LastRead { at, refusal: None }),
        }))
    }

    /// Reads the file and what it names, and brings it into effect if it differs from what is.
    /// Nothing comes of it if it panics.
    pub async fn reload(&self, by: Trigger) -> Option<Result<Reloaded, ReloadError>> {
        let this = self.clone();
        apart(move || this.reload_now(by)).await
    }

    fn reload_now(&self, by: Trigger) -> Result<Reloaded, ReloadError> {
        let mut read = self.read();
        let result = self.bring_into_effect(&mut read, by);
        let refusal = match &result {
            Ok(reloaded) => {
                self.0.live.current().record_read(&reloaded.kept);
                let kept = reloaded.kept.iter();
                let told = kept.map(|problem| format!("{}: {}", problem.key, problem.reason));
                told.collect::<Vec<_>>().join("\n")
            }
            Err(error) => {
                let metrics = self.metrics();
                metrics.configuration_read(false, now());
                metrics.secrets_refused(0); // the file is what cannot be used: no brake in it can be applied
                error.to_string()
            }
        };
        *self.last() = LastRead {
            at: wall_clock(),
            refusal: (!refusal.is_empty()).then(|| refusal.clone()),
        };
        let needs_restart = result.iter().flat_map(|reloaded| &reloaded.needs_restart);
        let told = needs_restart.fold(refusal, |told, key| told + "\n" + key);
        // Whoever sends SIGHUP has no other answer than the log, though the watcher may have been
        // quicker.
        let is_asked = by == Trigger::Hangup;
        let is_news = told != read.told;
        read.told = told;
        let warnings = result.iter().flat_map(|reloaded| &reloaded.warnings);
        let warnings: Vec<_> = warnings.cloned().collect();
        let told = match result {
            Ok(_) => std::mem::replace(&mut read.warnings, warnings),
            Err(_) => Vec::new(),
        };
        drop(read);
        tell(&result, (is_asked, is_news), &told);
        result
    }

    fn bring_into_effect(&self, read: &mut LastGood, by: Trigger) -> Result<Reloaded, ReloadError> {
        let files = &self.0.files;
        let (mut config, mut warnings) = Config::load(&self.0.path, files)?;
        let (secrets, kept) = config.reload_secrets(files, &read.secrets, &read.config)?;
        warnings.extend(secrets.warnings.iter().cloned());
        warnings.extend(config.files_warning(open_files::limit()));
        let needs_restart = config.keep_what_needs_a_restart(&read.config);
        let is_same_config = config == read.config;
        let changed_keys = config.differs_in(&read.config);
        let changed_secrets = secrets.differs_in(&read.secrets, &config);
        let changed = !is_same_config || secrets != read.secrets;
        if changed {
            let before = self.0.live.current();
            let before_it = Some((&*before, &read.secrets));
            let current = build(&config, &secrets, &self.0.lasting, before_it)?;
            let (successor, metrics) = (current.gateway.clone(), current.metrics.clone());
            self.0.live.replace(current);
            let brakes = self.0.lasting.vendor.brakes();
            brakes.apply(&config); // for what has begun under the one before
            take_effect(&config, &metrics);
            if !is_same_config {
                before.gateway.supersede(&successor);
            }
            if config.log.level != read.config.log.level {
                log::set_levels(&config.log.level); // else what was set at run time stays
            }
            read.config = config;
            read.secrets = secrets;
            read.last_change = LastChange {
                at: wall_clock(),
                by,
                keys: changed_keys.clone(),
                secrets: changed_secrets.clone(),
            };
        }
        Ok(Reloaded {
            changed,
            changed_keys,
            changed_secrets,
            brakes: read.config.brakes(),
            last_change: read.last_change.clone(),
            needs_restart,
            warnings,
            kept,
        })
    }

    /// Reloads at SIGHUP, when the system tells of a change, and at every interval. Never ends.
    pub async fn watch(self, mut hangups: Signal) {
        let changed = Arc::new(Notify::new());
        let watch = Watch::start(changed.clone());
        let mut ticks = interval(self.0.live.current().config.server.reload_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // the first one is now
        let mut by = Trigger::FileWatcher;
        loop {
            let (this, watch) = (self.clone(), watch.clone());
            let _ = apart(move || {
                watch.watch(this.folders());
                // Once more now: a change between what was read last and the watch would be seen
                // only at the next look.
                this.reload_now(by)
            })
            .await;
            by = tokio::select! {
                _ = hangups.recv() => {
                    info!("reload asked for by SIGHUP");
                    Trigger::Hangup
                }
                () = changed.notified() => {
                    sleep(SETTLED).await;
                    Trigger::FileWatcher
                }
                _ = ticks.tick() => Trigger::FileWatcher,
            };
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

    fn metrics(&self) -> Arc<Metrics> {
        self.0.live.current().metrics.clone()
    }

    /// How it went when the file was read last.
    pub fn last_read(&self) -> LastRead {
        self.last().clone()
    }

    fn last(&self) -> MutexGuard<'_, LastRead> {
        self.0.last.lock()
    }

    fn read(&self) -> MutexGuard<'_, LastGood> {
        self.0.read.lock()
    }
}

/// One line for each thing that somebody has to know. The warnings that were told before are told
/// again with a change only.
fn tell(
    result: &Result<Reloaded, ReloadError>,
    (is_asked, is_news): (bool, bool),
    told: &[Warning],
) {
    match result {
        Ok(reloaded) => {
            let list = |keys: &[String]| (!keys.is_empty()).then(|| keys.join(", "));
            if reloaded.changed {
                let keys = list(&reloaded.changed_keys);
                let secrets = list(&reloaded.changed_secrets);
                info!(keys, secrets, "configuration or secrets changed");
            } else if is_asked {
                let change = &reloaded.last_change;
                let (since, by) = (format_rfc3339_seconds(change.at), change.by.as_str());
                let brakes = list(&reloaded.brakes);
                info!(%since, by, brakes, "configuration and secrets are unchanged");
            }
            // One may come without a change: of a brake that the environment overrides.
            let warnings = reloaded.warnings.iter();
            for Warning {
                key,
                reason,
                remedy,
            } in warnings.filter(|warning| reloaded.changed || !told.contains(warning))
            {
                warn!(key, reason, remedy, "configuration");
            }
            for key in reloaded.needs_restart.iter().filter(|_| is_news) {
                warn!(key, "changed, and counts from the next start on");
            }
            for Problem {
                key,
                reason,
                remedy,
            } in reloaded.kept.iter().filter(|_| is_news || is_asked)
            {
                error!(
                    key,
                    reason, remedy, "secret refused, the last good one stays"
                );
            }
        }
        Err(ReloadError::Problems(problems)) if is_news || is_asked => {
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
        Err(cause) if is_news || is_asked => {
            error!(%cause, "configuration refused, the last good one stays");
        }
        Err(_) => {}
    }
}

/// Does what may wait for a disk on a thread of its own: the end of the process waits for those of
/// the runtime. Nothing comes of it if it panics.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let work = move || drop(tell.send(work()));
    let begun = thread::Builder::new().name("reload".into()).spawn(work);
    if let Err(cause) = begun {
        warn!(%cause, "the configuration cannot be read now");
    }
    told.await.ok()
}

/// The thread that asks the system to tell of changes, which hangs where a folder does.
#[derive(Clone)]
struct Watch(SyncSender<(HashSet<PathBuf>, mpsc::Sender<()>)>);

impl Watch {
    fn start(changed: Arc<Notify>) -> Self {
        let (tell, told) = mpsc::sync_channel::<(_, mpsc::Sender<()>)>(1);
        let work = move || {
            let mut watched = Watched::new(changed);
            for (folders, done) in told {
                watched.watch(folders);
                let _ = done.send(());
            }
        };
        let begun = thread::Builder::new().name("watch".into()).spawn(work);
        if let Err(cause) = begun {
            warn!(%cause, "changes of files are not told by the system, only looked for");
        }
        Self(tell)
    }

    /// Once this has returned, a change in these is told; but nobody waits for long, nor behind one
    /// that hangs.
    fn watch(&self, folders: HashSet<PathBuf>) {
        let (done, is_done) = mpsc::channel();
        if self.0.try_send((folders, done)).is_ok() {
            let _ = is_done.recv_timeout(Duration::from_secs(1));
        }
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
