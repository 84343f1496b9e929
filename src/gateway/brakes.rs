//! What is switched off now? The switches that operators reach for when something is wrong hold for
//! requests that have begun too.
//!
//! A request is answered under the configuration that it began with, but for these:
//! `server.commands`, `server.unlisted_paths`, `commands` of a tenant or a caller, `kind =
//! "refuse"` of a route, and `upstream.paused`. Once [`apply`](Brakes::apply) has returned, no
//! first byte leaves against them: who waits is dismissed, and [`leave`](Brakes::leave) guards the
//! moment in which a request goes into its connection.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use tokio::sync::Notify;

use super::error::Error;
use crate::config::{Config, Kind, UnlistedPaths};

/// The brakes of the process. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Brakes(Arc<BrakesState>);

#[derive(Debug)]
struct BrakesState {
    applied: ArcSwap<Applied>,
    changed: Notify,
    /// Shared by connections that move on, exclusive to whoever waits until all have done so.
    leaving: RwLock<()>,
}

/// The brakes of one configuration. By name: labels are another configuration's.
#[derive(Debug, PartialEq, Eq)]
struct Applied {
    is_paused: bool,
    refuses_commands: bool,
    refuses_unlisted: bool,
    /// Configured paths; is it refused?
    routes: HashMap<String, bool, RandomState>,
    /// Those whose commands are refused.
    tenants: HashSet<String>,
    callers: HashSet<String>,
}

/// What a brake looks at: who wants to send what.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Does it change something?
    pub is_command: bool,
    /// The path below the base URL.
    pub path: Arc<str>,
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The caller's name, where callers are configured.
    pub caller: Option<Arc<str>>,
}

impl Brakes {
    /// Those of the first configuration.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(BrakesState {
            applied: ArcSwap::from_pointee(Applied::of(config)),
            changed: Notify::new(),
            leaving: RwLock::new(()),
        }))
    }

    /// Those of another configuration, from now on. Returns once whatever was about to leave has
    /// left or been kept back.
    pub fn apply(&self, config: &Config) {
        let applied = Applied::of(config);
        if **self.0.applied.load() == applied {
            return;
        }
        self.0.applied.store(Arc::new(applied));
        self.0.changed.notify_waiters();
        // A connection that moves on now may have looked before the store. Whoever moves on later
        // looks after it.
        drop(
            self.0
                .leaving
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Held while a connection moves on: from its look at the brakes until the bytes are with the
    /// system.
    pub fn leave(&self) -> RwLockReadGuard<'_, ()> {
        self.0
            .leaving
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// May a request be sent now?
    pub fn check(&self, subject: &Subject) -> Result<(), Error> {
        let applied = self.0.applied.load();
        applied.check_refusal(subject)?;
        if applied.is_paused {
            return Err(Error::UpstreamPaused);
        }
        Ok(())
    }

    /// An error if a brake forbids this request even where memory could answer it.
    pub fn check_refusal(&self, subject: &Subject) -> Result<(), Error> {
        self.0.applied.load().check_refusal(subject)
    }

    /// Waits until a request may not be sent, and tells why.
    pub async fn applied_to(&self, subject: &Subject) -> Error {
        loop {
            let changed = self.0.changed.notified(); // of what happens from here on
            if let Err(error) = self.check(subject) {
                return error;
            }
            changed.await;
        }
    }

    /// Does what must be done before a request is sent, unless a brake stops it first.
    pub async fn unless_applied<T>(
        &self,
        subject: &Subject,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.check(subject)?;
        tokio::select! {
            biased; // mostly there is nothing to wait for
            done = work => done,
            error = self.applied_to(subject) => Err(error),
        }
    }
}

impl Applied {
    fn of(config: &Config) -> Self {
        let tenants = config.tenants.iter();
        let callers = config.callers.iter();
        Self {
            is_paused: config.upstream.paused,
            refuses_commands: !config.server.commands,
            refuses_unlisted: config.server.unlisted_paths == UnlistedPaths::Refuse,
            routes: config
                .routes
                .iter()
                .map(|(path, route)| (path.clone(), route.kind == Kind::Refuse))
                .collect(),
            tenants: tenants
                .filter(|(_, tenant)| !tenant.commands)
                .map(|(name, _)| name.clone())
                .collect(),
            callers: callers
                .filter(|(_, caller)| !caller.commands)
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }

    fn check_refusal(&self, subject: &Subject) -> Result<(), Error> {
        match self.routes.get(&*subject.path) {
            Some(true) => return Err(Error::RouteRefused),
            None if self.refuses_unlisted => return Err(Error::UnlistedPath),
            _ => {}
        }
        if !subject.is_command {
            return Ok(());
        }
        let caller = subject.caller.as_deref();
        if caller.is_some_and(|name| self.callers.contains(name)) {
            return Err(Error::CommandsForbidden);
        }
        if self.refuses_commands {
            return Err(Error::AllCommandsDisabled);
        }
        if self.tenants.contains(&*subject.tenant) {
            return Err(Error::CommandsDisabled(subject.tenant.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            r#"
            upstream.base_url = "http://127.0.0.1:1"
            tenants.acme = {{ access_code = "P1", secret_file = "secret" }}
            callers.shop = {{ token_file = "token", tenants = ["acme"], commands = true }}
            routes."/query".kind = "query"
            routes."/order".kind = "command"
            {more}
            "#
        );
        let text = text.parse::<toml::Table>().unwrap().to_string();
        Config::parse(&text, "test", std::iter::empty()).unwrap().0
    }

    fn subject(path: &str) -> Subject {
        Subject {
            is_command: path != "/query",
            path: path.into(),
            tenant: "acme".into(),
            caller: Some("shop".into()),
        }
    }

    #[test]
    fn each_brake_stops_what_it_names_and_nothing_else() {
        const ALL: [&str; 3] = ["/query", "/order", "/unlisted"];
        type Row = (fn(&mut Config), &'static str, &'static [&'static str]);
        let rows: [Row; 6] = [
            (|it| it.upstream.paused = true, "upstream_paused", &ALL),
            (
                |it| it.server.commands = false,
                "commands_disabled",
                &ALL[1..],
            ),
            (
                |it| it.server.unlisted_paths = UnlistedPaths::Refuse,
                "unlisted_path",
                &ALL[2..],
            ),
            (
                |it| it.tenants.get_mut("acme").unwrap().commands = false,
                "commands_disabled",
                &ALL[1..],
            ),
            (
                |it| it.callers.get_mut("shop").unwrap().commands = false,
                "commands_forbidden",
                &ALL[1..],
            ),
            (
                |it| it.routes.get_mut("/query").unwrap().kind = Kind::Refuse,
                "route_refused",
                &ALL[..1],
            ),
        ];
        for (change, code, stopped) in rows {
            let brakes = Brakes::new(&config(""));
            assert!(ALL.iter().all(|path| brakes.check(&subject(path)).is_ok()));
            let mut changed = config("");
            change(&mut changed);
            brakes.apply(&changed);
            for path in ALL {
                let told = brakes.check(&subject(path)).map_err(|error| error.code());
                let expected = if stopped.contains(&path) {
                    Err(code)
                } else {
                    Ok(())
                };
                assert_eq!(told, expected, "{path} {code}");
            }
            brakes.apply(&config(""));
            assert!(ALL.iter().all(|path| brakes.check(&subject(path)).is_ok()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_when_a_brake_is_applied() {
        let brakes = Brakes::new(&config(""));
        let (order, query) = (subject("/order"), subject("/query"));
        let mut ordering = Box::pin(brakes.applied_to(&order));
        let mut asking = Box::pin(brakes.applied_to(&query));
        assert!(futures::poll!(&mut ordering).is_pending());
        assert!(futures::poll!(&mut asking).is_pending());
        let mut changed = config("");
        changed.server.commands = false;
        brakes.apply(&changed);
        assert_eq!(ordering.await.code(), "commands_disabled");
        assert!(futures::poll!(&mut asking).is_pending());
    }
}
