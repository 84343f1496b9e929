//! A caching, signing reverse proxy in front of the Linksfield IoT-SIM platform.
//!
//! Internal services send plain JSON. The gateway adds the tenant's `access_code`, a `timestamp`, the `version` and the
//! signature, forwards to Linksfield and hands the answer back byte for byte. Pages of queries stay in memory for a
//! while; commands, which may cost money, never do.
//!
//! # The life of a request
//!
//! 1. [`server`] accepts the connection. Its I/O wrapper keeps the times that a peer may take (for a head, between
//!    requests, to read an answer) and decides, while draining or at the bound of connections, which are idle; at the bound
//!    one that waits for its peer makes room (`server/places.rs`). It shows the line of a request to
//!    `target.rs`, as hyper drops a fragment unsaid. What a refusal leaves unread of its request is dropped
//!    (`server/unread.rs`), so that neither the refusal nor the next request is lost. Callers never take the last of the files
//!    that may be open: `open_files.rs` keeps some for the admin listener, for calls and for reloads.
//! 2. [`gateway`] is the table of contents: [`Gateway::handle`](gateway::Gateway::handle) calls the stations below in
//!    this order, and nothing else knows the order. It refuses what is not a well-formed POST of JSON.
//! 3. `gateway/route.rs` reads the path: *query* or *command*, and its policy. What is not configured is a command.
//! 4. `gateway/tenant.rs` says who asks: the *caller* by its bearer token, and the *tenant* whose account is used.
//! 5. `gateway/params.rs` brings the body into normal form, once. Cache key and wire body are made from that text, and
//!    the signed text is shaped from it.
//! 6. A **query** goes to `gateway/cache.rs`: a fresh page is answered there and then, a *stale* one too while it is fetched
//!    again; otherwise the request joins the running *fill* of its key or starts one, in a task of its own. Where that
//!    fails, an old page may stand in. Pages of one query belong to a *snapshot*; all of them at once are fetched by a
//!    *crawl* (`gateway/crawl.rs`).
//!    A **command** (`gateway/command.rs`) that comes with an idempotency key asks `gateway/keys.rs` whether one was sent
//!    under it. Its request drives it; where that has gone, it goes on as a task of its own. It raises the *generation* of
//!    what it may change: right before its first byte, and again after any outcome but "proven not sent".
//! 7. `gateway/call.rs` makes the call, and where a query fails and the budget allows, another one. Nothing is asked while
//!    the *breaker* is open, nor against a *brake* (`gateway/brakes.rs`), which is looked at once more as the first byte
//!    leaves. `gateway/quota.rs` grants a permit: one of the connection slots, or with HTTP/2 a part of one, and no call is
//!    made that can no longer be answered in time by then; `gateway/upstream.rs` connects it; an idempotency key, and how
//!    many calls the day has seen, are written to [`state`]; `gateway/sign.rs` signs with the time of now, after the permit
//!    and anew for each attempt; then the bytes leave. A call whose time has passed *holds* its slot until the vendor has
//!    ended it.
//! 8. Of HTTP/1.1, `gateway/upstream/head.rs` looks at each head before hyper does: what is odd where nobody needs it is
//!    forgiven, what frames the body never is. `gateway/upstream.rs` says what the answer means, by HTTP status and by the
//!    envelope's `code`. Only a success of the expected shape is stored. An answer that nothing classifies is passed on,
//!    until it is the usual one (`gateway/unclassified.rs`). Whether a command is *in doubt* (it may have been carried out
//!    without anybody knowing) has one rule (`gateway/doubt.rs`).
//! 9. `gateway/error.rs` makes a failure a response. [`telemetry`] records the exchange: one histogram, and one log line, which
//!    a thread of its own writes.
//!
//! ```text
//! main → cli → config                 gateway → tenant → sign ─┐
//! main → lib → reload → gateway       gateway → cache ─────────┴→ params, route
//!        lib → admin → telemetry      gateway → quota, upstream
//!                                     gateway → keys, call → state
//! reload implements what server and admin serve; server knows none of them
//! leaves: config, telemetry, body, id, state, clock, open_files, target; error (imports body, id, state), progress (imports
//! error's `Sent`)
//! ```
//!
//! # Invariants
//!
//! - No secret, signature, token or body reaches a log, a metric, an error or the effective configuration.
//! - One tenant never reads another's page: the [`Scope`](gateway::cache::Scope) of a cache key has no default.
//! - A command is sent at most once, but for one that the vendor has refused unread (HTTP/2). It is cancelled only while it
//!   is certain that no byte has left (with HTTP/2 its head may have, and the first byte of its body, which are no order), or
//!   that it was refused (`gateway/progress.rs` is where the two sides of that race meet).
//! - Under an idempotency key one command is sent, until the key's window ends. With a state directory the key is on disk
//!   before the first byte leaves, and what it may have done is in doubt after a restart, never forgotten; where the store of
//!   before is lost, there is no start. Neither key nor parameters are kept, only hashes of them.
//! - Whoever waits, waits with a deadline; whatever a peer can stretch has a bound in the configuration. No request waits for
//!   whoever reads the log: lines that find no room are dropped and counted, those about commands last. None waits for the
//!   state disk for more than a second: a call goes on without it, a keyed command is refused. No reload waits for a file that
//!   hangs for more than five, and the end of the process for none.
//! - A page filled before an invalidation is never found after it: the generation stands in the entry and is compared
//!   at every lookup.
//! - Pages with one snapshot id do not contradict each other. (`docs/caching.md` has all that callers may rely on.)
//! - A request is answered under one configuration from its head to its answer (`reload.rs` swaps them whole). The brakes
//!   alone are live: once a reload has answered, no first byte leaves against them, and who waits is dismissed.
//! - The limits of the vendor hold within this process, and only there. A connection counts until the vendor has closed it,
//!   however it was given up (for `upstream.hold` at most: a server that works at a request may not notice that its peer has
//!   gone); an exchange whose time has passed is read to its end meanwhile, so that a late answer fills the cache or settles
//!   the doubt about a command. With a state directory a call of the day is on disk before it leaves, unless the disk hangs.
//! - Nothing that is kept is forgotten by the wall clock alone, which may be wrong by a month or be set: what grows old goes by a
//!   clock that nobody sets, and that goes on while the machine sleeps (`clock.rs`). Keys and calls of before a start count
//!   until Linksfield's `Date` agrees that they are over (`gateway/skew.rs`), or for a further window. Nor by that `Date`
//!   alone: what is written goes by the later of the two clocks, what erases by the earlier, and a fixed day begins by both.
//!
//! # Lexicon
//!
//! *downstream* the callers' side · *upstream* Linksfield · *exchange* one request and its response · *tenant* one
//! Linksfield account · *caller* a service known by its token · *route* a path and its policy · *query* a route that only
//! reads · *command* every other · *fill* the one upstream call that answers a miss · *coalesced* waiting for somebody
//! else's fill · *snapshot* the pages of one query that belong together · *crawl* a fill of all pages of a query ·
//! *generation* a number that an invalidation raises · *permit* the right to use a connection slot for one
//! call · *line* what that call goes through: the slot's connection, or one stream of it · *drain* finishing what is in
//! flight before the process ends.

pub mod admin;
pub mod body;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gateway;
pub mod id;
pub mod open_files;
pub mod reload;
pub mod server;
pub mod simulator;
pub mod state;
pub mod target;
pub mod telemetry;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::{Access, Admin};
use crate::config::{Config, Secrets, Warning};
use crate::gateway::brakes::Brakes;
use crate::gateway::keys::Keys;
use crate::gateway::quota::{self, History, Quota};
use crate::gateway::route::Routes;
use crate::gateway::sign::InvalidSecret;
use crate::gateway::skew::Skew;
use crate::gateway::tenant::{Callers, Tenants};
use crate::gateway::upstream::{Slot, Traffic, Upstream};
use crate::gateway::{Gateway, wall_clock};
use crate::reload::{Current, Live, Reloader};
use crate::server::{Drain, Limits, Times, serve};
use crate::state::{Hangs, Saved, Store, WriteError};
use crate::telemetry::{Constants, Labels, Metrics};

/// What a probe and a scrape need: whoever connects and says nothing holds a place for no longer than that.
const ADMIN_TIMES: Times = Times {
    header: Duration::from_secs(2),
    write: Duration::from_secs(5),
    idle: Duration::from_secs(5),
};

/// How many times `server.body_timeout` nothing of an answer may leave: the system of a peer that reads on shuts its window
/// until a good part of its buffer, which may have grown to megabytes, is empty.
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

/// What a gateway is built from.
struct Build<'a> {
    config: &'a Config,
    secrets: &'a Secrets,
}

/// What a gateway keeps, whatever its configuration.
struct Kept {
    keys: Keys,
    store: Option<Store>,
    skew: Skew,
}

impl Build<'_> {
    /// The first one of the process.
    fn first(&self, kept: Kept, history: Option<&History>) -> Result<Current, StartError> {
        let metrics = Arc::new(Metrics::new(self.labels()));
        metrics.take_effect(&self.constants());
        let ca = self.secrets.ca.as_ref();
        let brakes = Brakes::new(self.config);
        let traffic = Traffic::default();
        let upstream = Upstream::new(&self.config.upstream, ca, brakes.clone(), traffic);
        let quota = Quota::new(&quota_limits(self.config), wall_clock(), history);
        let tenants = Tenants::new(self.config, self.secrets)?;
        let vendor = (upstream.into(), brakes, quota);
        let parts = self.parts(tenants, vendor, kept, &metrics);
        Ok(self.current(Gateway::new(self.config, parts), metrics))
    }

    /// One that goes on where another is; that was built from `built_from`.
    fn successor(&self, before: &Current, built_from: &Self) -> Result<Current, StartError> {
        let (config, secrets) = (self.config, self.secrets);
        let metrics = before.metrics.relabelled(self.labels());
        let metrics = Arc::new(metrics);
        let is_same_vendor =
            config.upstream == built_from.config.upstream && secrets.ca == built_from.secrets.ca;
        let upstream = before.gateway.upstream();
        let upstream = if is_same_vendor {
            upstream // its TLS sessions and connections
        } else {
            let traffic = upstream.traffic().clone(); // connections of before are open still
            let brakes = before.gateway.brakes();
            Upstream::new(&config.upstream, secrets.ca.as_ref(), brakes, traffic).into()
        };
        let before_it = (before.gateway.tenants(), built_from.secrets);
        let tenants = Tenants::following(config, secrets, Some(before_it))?;
        let (quota, kept) = (
            before.gateway.quota(),
            Kept {
                keys: before.gateway.keys(),
                store: before.gateway.store(),
                skew: before.gateway.skew(),
            },
        );
        quota.change(&quota_limits(config)); // nothing below can fail
        let vendor = (upstream, before.gateway.brakes(), quota);
        let parts = self.parts(tenants, vendor, kept, &metrics);
        Ok(self.current(before.gateway.successor(config, parts), metrics))
    }

    fn parts(
        &self,
        tenants: Tenants,
        (upstream, brakes, quota): (Arc<Upstream>, Brakes, Quota<Slot>),
        Kept { keys, store, skew }: Kept,
        metrics: &Arc<Metrics>,
    ) -> gateway::Parts {
        gateway::Parts {
            tenants,
            callers: Callers::new(self.config, self.secrets),
            upstream,
            brakes,
            quota,
            keys,
            store,
            skew,
            metrics: metrics.clone(),
        }
    }

    fn current(&self, gateway: Gateway, metrics: Arc<Metrics>) -> Current {
        let token = self.secrets.admin_token.clone();
        Current {
            gateway,
            metrics,
            config: self.config.clone(),
            configuration: self.config.effective(),
            access: Access::new(token, self.config.server.admin_listen),
        }
    }

    fn labels(&self) -> Labels {
        Labels {
            routes: Routes::labels(self.config),
            kinds: Routes::kinds(self.config),
            tenants: Tenants::labels(self.config),
            callers: Callers::labels(self.config),
        }
    }

    fn constants(&self) -> Constants {
        Constants {
            cache_capacity: self.config.cache.max_size.as_u64(),
            commands: self.config.server.commands,
            is_paused: self.config.upstream.paused,
            error_codes: gateway::error::CODES,
        }
    }
}

/// A gateway whose listeners are bound.
#[derive(Debug)]
pub struct Instance {
    live: Live,
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
        let (store, saved) = match &config.server.state_dir {
            Some(folder) => {
                let (store, saved) = Store::open(folder, wall_clock()).await?;
                if saved.is_new {
                    let folder = folder.display();
                    warn!(%folder, "server.state_dir held no state, a new one is begun: no idempotency key of before is known");
                }
                (Some(store), saved)
            }
            None => (None, Saved::default()),
        };
        let skew = Skew::new(wall_clock());
        let keys = Keys::new(&config.idempotency, store.clone(), saved.keys, skew.clone());
        let history = store.is_some().then_some(History {
            known_since: saved.calls_known_since,
            minutes: saved.calls,
            correction: saved.correction,
        });
        let build = Build { config, secrets };
        let kept = Kept {
            keys,
            store: store.clone(),
            skew,
        };
        let current = build.first(kept, history.as_ref())?;
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

    /// Reads this file again when it changes, and when one of `hangups` comes; it started with `config` and `secrets`, and
    /// has told the `warnings`.
    #[must_use]
    pub fn reloading(
        mut self,
        path: &Path,
        (config, secrets): (Config, Secrets),
        warnings: Vec<Warning>,
        hangups: Signal,
    ) -> Self {
        let reloader = Reloader::new(path, (config, secrets), warnings, self.live.clone());
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

    /// Serves until `shutdown` resolves, then drains: readiness fails at once, the listener closes after `drain_delay`,
    /// what is in flight finishes, at the latest after `drain_timeout`.
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
            ("data", self.data.local_addr()),
            ("admin", self.admin.local_addr()),
        ] {
            if let Ok(address) = address {
                info!(listener, %address, "listening");
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

        let quota = live.current().gateway.quota();
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
            live.current().gateway.commands_finished().await;
        };
        if timeout(self.drain_timeout, finished).await.is_ok() {
            info!("drained");
        } else {
            let current = live.current();
            let connections = current.metrics.connections().get();
            let requests = current.metrics.requests_in_flight().get();
            let commands = current.gateway.commands_in_flight();
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

/// Saves the calls of the day while they change: each is saved before it leaves, and here when the last ones of a minute
/// have ended. Tells where that fails, and when the disk begins to hang and no longer does.
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

/// The admin listener gets a thread of its own: it answers while the gateway's threads are busy, and costs them nothing.
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

/// This process's share of the vendor's limits. A tenant's index is the place of its label.
fn quota_limits(config: &Config) -> quota::Limits {
    let limits = &config.upstream.limits;
    quota::Limits {
        per_second: limits.share(limits.requests_per_second),
        connections: limits.slots(),
        per_day: limits.share(limits.requests_per_day),
        day_begins_at: limits.day.begins_at_utc_second(),
        command_reserve: limits.command_reserve,
        queue: limits.queue,
        tenants: config
            .tenants
            .values()
            .map(|tenant| quota::Share {
                weight: tenant.weight.get(),
                per_second: limits.share(tenant.requests_per_second),
            })
            .collect(),
    }
}
