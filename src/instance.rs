//! How does a gateway start, run and end?
//!
//! It starts with the store, as what it kept decides what may be sent; then the parts are built,
//! and last the listeners bound. It ends by draining: nobody new, what is in flight to its end, and
//! the admin listener last.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::build::{build, take_effect};
use crate::clock::{self, WallClock};
use crate::config::{Config, Secrets, Warning};
use crate::gateway::Lasting;
use crate::gateway::command::LastingCommands;
use crate::gateway::command::keys::Keys;
use crate::gateway::query::LastingQueries;
use crate::gateway::vendor::LastingVendor;
use crate::gateway::vendor::quota::{History, Quota};
use crate::gateway::vendor::skew::Skew;
use crate::gateway::vendor::upstream::Slot;
use crate::live::Live;
use crate::open_files;
use crate::reload::Reloader;
use crate::server::{Drain, Limits, Times, serve};
use crate::signing::sign::InvalidSecret;
use crate::state::{self, Hangs, Saved, Store, WriteError};
use crate::words::ListenerName;

/// What a probe and a scrape need: whoever connects and says nothing holds a place for no longer
/// than that.
const ADMIN_TIMES: Times = Times {
    header: Duration::from_secs(2),
    write: Duration::from_secs(5),
    idle: Duration::from_secs(5),
};

/// How many times `server.body_timeout` nothing of an answer may leave: the system of a peer that
/// reads on shuts its window until a good part of its buffer, which may have grown to megabytes, is
/// empty.
const SHUT_WINDOWS: u32 = 3;

/// Why a gateway cannot start, although its configuration was accepted.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be bound.
    #[error("{key} = {address}: {source}")]
    Bind {
        /// The key of the listener.
        key: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A secret cannot be used.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    /// The store cannot be opened.
    #[error(transparent)]
    State(#[from] state::OpenError),
    /// The runtime of the admin listener cannot be started.
    #[error("cannot start the admin listener: {0}")]
    Admin(#[source] io::Error),
}

/// A gateway whose listeners are bound.
#[derive(Debug)]
pub struct Instance {
    live: Live,
    lasting: Lasting,
    store: Option<Store>,
    reloader: Option<(Reloader, Signal)>,
    data: TcpListener,
    admin: std::net::TcpListener,
    limits: Limits,
    admin_limits: Limits,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Instance {
    /// Builds the parts, joins them and binds the listeners.
    pub async fn start(config: &Config, secrets: &Secrets) -> Result<Self, StartError> {
        let clock = WallClock::System;
        let (store, saved) = match &config.server.state_dir {
            Some(folder) => {
                let (store, saved) = Store::open(folder, clock.now()).await?;
                if saved.is_new {
                    let folder = folder.display();
                    warn!(%folder, "server.state_dir held no state, a new one is begun: no idempotency key of before is known");
                }
                (Some(store), saved)
            }
            None => (None, Saved::default()),
        };
        let skew = Skew::new(clock);
        let keys = Keys::new(&config.idempotency, store.clone(), saved.keys, skew.clone());
        let history = store.is_some().then_some(History {
            known_since: saved.calls_known_since,
            minutes: saved.calls,
            correction: saved.correction,
        });
        let lasting = Lasting {
            vendor: LastingVendor::new(config, store.clone(), history.as_ref(), skew),
            queries: LastingQueries::new(config),
            commands: LastingCommands::new(keys),
        };
        let current = build(config, secrets, &lasting, None)?;
        take_effect(config, &current.metrics);
        current.record_read(&[]);
        let server = &config.server;
        let bind = async |key, address| {
            TcpListener::bind(address)
                .await
                .map_err(|source| StartError::Bind {
                    key,
                    address,
                    source,
                })
        };
        let data = bind("server.listen", server.listen).await?;
        let admin = bind("server.admin_listen", server.admin_listen).await?;
        let shares = config.shares(open_files::limit());
        current.metrics.may_have(shares.callers.connections);
        Ok(Self {
            live: Live::new(current),
            lasting,
            store,
            reloader: None,
            data,
            admin: admin.into_std().map_err(StartError::Admin)?,
            limits: Limits {
                room: shares.callers,
                times: Times {
                    header: server.header_timeout,
                    write: server.body_timeout.saturating_mul(SHUT_WINDOWS),
                    idle: server.idle_timeout,
                },
            },
            admin_limits: Limits {
                room: shares.admin,
                times: ADMIN_TIMES,
            },
            drain_delay: server.drain_delay,
            drain_timeout: server.drain_timeout,
        })
    }

    /// Reads this file again when it changes, and when one of `hangups` comes; it started with
    /// `config` and `secrets`, and has told the `warnings`.
    #[must_use]
    pub fn reloading(
        mut self,
        path: &Path,
        (config, secrets): (Config, Secrets),
        warnings: Vec<Warning>,
        hangups: Signal,
    ) -> Self {
        let (live, lasting) = (self.live.clone(), self.lasting.clone());
        let reloader = Reloader::new(path, (config, secrets), warnings, live, lasting);
        self.reloader = Some((reloader, hangups));
        self
    }

    /// Where callers connect to.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.data.local_addr()
    }

    /// Where metrics and probes are.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `shutdown` resolves, then drains: readiness fails at once, the listener closes
    /// after `drain_delay`, what is in flight finishes, at the latest after `drain_timeout`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let drain = Drain::default();
        let admin_drain = Drain::default();
        let live = self.live;
        let (reloader, hangups) = self.reloader.unzip();
        let admin = Admin::new(admin::Parts {
            live: live.clone(),
            reloader: reloader.clone(),
            drain: drain.clone(),
        });
        let looking = tokio::spawn(clock::keep_looking());
        let watching = reloader.zip(hangups);
        let watching = watching.map(|(reloader, hangups)| tokio::spawn(reloader.watch(hangups)));
        for (listener, address) in [
            (ListenerName::Data, self.data.local_addr()),
            (ListenerName::Admin, self.admin.local_addr()),
        ] {
            if let Ok(address) = address {
                info!(listener = listener.as_str(), %address, "listening");
            }
        }
        let admin_thread = run_admin(self.admin, admin, self.admin_limits, admin_drain.clone())?;
        let connections = live.current().metrics.connections().clone();
        let data = tokio::spawn(serve(
            self.data,
            live.clone(),
            self.limits,
            drain.clone(),
            Some(connections),
        ));

        let quota = self.lasting.vendor.quota().clone();
        let saving = self
            .store
            .clone()
            .map(|store| tokio::spawn(keep_saving(store, quota.clone())));

        shutdown.await;
        info!("draining");
        if let Some(watching) = watching {
            watching.abort();
        }
        drain.announce();
        tokio::time::sleep(self.drain_delay).await;
        drain.close();
        let finished = async {
            let _ = data.await; // every connection has ended, so nobody can begin a command any more
            self.lasting.commands.finished().await;
        };
        if timeout(self.drain_timeout, finished).await.is_ok() {
            info!("drained");
        } else {
            let current = live.current();
            let connections = current.metrics.connections().get();
            let requests = current.metrics.requests_in_flight().get();
            let commands = self.lasting.commands.in_flight();
            warn!(
                connections,
                requests, commands, "drain_timeout has passed, ending all the same"
            );
        }
        if let (Some(store), Some(saving)) = (self.store, saving) {
            saving.abort();
            if let Err(error) = store.save_calls(move || quota.history().saved()).await {
                warn!(%error, "the calls of the day could not be saved");
            }
        }
        looking.abort();
        admin_drain.close();
        let _ = tokio::task::spawn_blocking(|| admin_thread.join()).await;
        Ok(())
    }
}

/// Saves the calls of the day while they change: each is saved before it leaves, and here when the
/// last ones of a minute have ended. Tells where that fails, and when the disk begins to hang and
/// no longer does.
async fn keep_saving(store: Store, quota: Quota<Slot>) {
    let (mut saved, mut has_failed) = (History::default(), false);
    let mut told = Hangs::default();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        told = tell_of_hangs(told, store.count_hangs());
        let history = quota.history();
        if history == saved {
            continue;
        }
        let latest = quota.clone();
        match store.save_calls(move || latest.history().saved()).await {
            Ok(()) => (saved, has_failed) = (history, false),
            Err(WriteError::Late) => {} // told as a hang
            Err(_) if has_failed => {}  // told already
            Err(error) => {
                warn!(%error, "the calls of the day could not be saved");
                has_failed = true;
            }
        }
    }
}

fn tell_of_hangs(told: Hangs, hangs: Hangs) -> Hangs {
    if hangs.begun > told.begun {
        warn!("server.state_dir hangs: keyed commands are refused, calls are counted in memory");
    }
    if hangs.ended > told.ended {
        let seconds = hangs.lasted.as_secs_f64();
        info!(seconds, "server.state_dir hangs no more");
    }
    hangs
}

/// The admin listener gets a thread of its own: it answers while the gateway's threads are busy,
/// and costs them nothing.
fn run_admin(
    listener: std::net::TcpListener,
    admin: Admin,
    limits: Limits,
    drain: Drain,
) -> Result<std::thread::JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Admin)?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener).map_err(StartError::Admin)?
    };
    let serve = move || {
        let served = serve(listener, admin, limits, drain.clone(), None);
        runtime.block_on(async {
            tokio::select! {
                () = served => {}
                () = drain.closed_for(Duration::from_secs(1)) => {} // a scrape that hangs holds nobody up
            }
        });
    };
    std::thread::Builder::new()
        .name("admin".into())
        .spawn(serve)
        .map_err(StartError::Admin)
}
