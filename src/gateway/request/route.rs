//! What is asked: is the path a query or a command, and what is its policy?
//!
//! Every path that is not configured as a query is a command. A path that two servers could read in
//! two ways is refused, so that no spelling of a configured path slips past its policy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use hyper::Method;

use crate::config::{Config, Idempotency, Kind as ConfiguredKind, UnlistedPaths, ambiguity};
use crate::gateway::error::Error;
use crate::telemetry::{RouteKind, RouteLabel};

/// Said to whoever opens the address of the gateway in a browser, mostly in search of the admin
/// page.
const AT_THE_ROOT: &str = "this is the port of the callers (server.listen), who POST JSON to a path of Linksfield's such as \
     /package/queryOrder; the admin page is at / of another port, which server.admin_listen names";

/// All routes under one base URL.
#[derive(Debug)]
pub struct Routes {
    /// The base URL's own path, which a request may carry too.
    base_path: String,
    /// Only such as a request can name: the configuration takes no others.
    by_path: HashMap<Arc<str>, Arc<Route>, RandomState>,
    /// The policy of paths that are not configured; none if they are refused.
    unlisted: Option<Arc<Route>>,
}

/// A path or, for what is not configured, all other paths; with their policy.
#[derive(Debug)]
pub struct Route {
    /// The place of its label among the routes' labels.
    pub label: RouteLabel,
    /// Is it configured?
    pub is_listed: bool,
    /// What may be done with it.
    pub kind: Kind,
    /// The time for one exchange with the vendor, where it differs from `upstream.timeout`.
    pub timeout: Option<Duration>,
}

/// What may be done with a path.
#[derive(Debug)]
pub enum Kind {
    /// It only reads.
    Query(Policy),
    /// It may change something and cost money.
    Command {
        /// The query paths whose pages it may change; none: all of them.
        invalidates: Option<Arc<[Arc<str>]>>,
        /// How long after it the vendor may still show the old state.
        settle: Duration,
        /// Must it have an idempotency key?
        requires_key: bool,
    },
    /// It is refused.
    Refuse,
}

/// How long the pages of a query serve.
#[derive(Debug, Clone)]
pub struct Policy {
    /// A page younger than this is a hit.
    pub fresh_for: Duration,
    /// How long after that it may be served while one fill runs.
    pub stale_for: Duration,
    /// How long after `fresh_for` it may be served because the vendor fails.
    pub stale_if_error: Duration,
    /// How long a caller without a deadline of its own waits for a fill that an old page can stand
    /// in for.
    pub stale_patience: Duration,
    /// A page younger than this is served although the caller says `no-cache`.
    pub min_refresh: Duration,
    /// Does the answer have the shape of a page?
    pub pages: bool,
    /// How many pages may be fetched for one document.
    pub max_pages: u64,
    /// How long that may take.
    pub crawl_timeout: Duration,
}

/// What [`Routes::find`] has found.
#[derive(Debug, Clone)]
pub struct Target {
    /// The policy.
    pub route: Arc<Route>,
    /// The path below the base URL.
    pub path: Arc<str>,
}

/// The label of every path that is not configured.
pub const UNLISTED: &str = "other";

impl Routes {
    /// Reads the configured routes. The label of a route is its place in [`labels`](Self::labels).
    pub fn new(config: &Config) -> Self {
        let mut by_path = HashMap::default();
        for (label, (path, route)) in config.routes.iter().enumerate() {
            let kind = match route.kind {
                ConfiguredKind::Query => Kind::Query(Policy {
                    fresh_for: route.fresh_for,
                    stale_for: route.stale_for,
                    stale_if_error: route.stale_if_error,
                    stale_patience: route.stale_patience,
                    min_refresh: route.min_refresh,
                    pages: route.pages,
                    max_pages: route.max_pages.get(),
                    crawl_timeout: route.crawl_timeout,
                }),
                ConfiguredKind::Command => Kind::Command {
                    invalidates: route
                        .invalidates
                        .as_ref()
                        .map(|paths| paths.iter().map(|path| path.as_str().into()).collect()),
                    settle: route.settle,
                    requires_key: route.idempotency == Idempotency::Required,
                },
                ConfiguredKind::Refuse => Kind::Refuse,
            };
            let timeout = route.timeout;
            by_path.insert(
                Arc::from(path.as_str()),
                Arc::new(Route {
                    label: RouteLabel(label),
                    is_listed: true,
                    kind,
                    timeout,
                }),
            );
        }
        let unlisted = (config.server.unlisted_paths == UnlistedPaths::Forward).then(|| {
            Arc::new(Route {
                label: RouteLabel(config.routes.len()),
                is_listed: false,
                kind: Kind::Command {
                    invalidates: None,
                    settle: crate::config::Route::default().settle,
                    requires_key: false,
                },
                timeout: None,
            })
        });
        let base_path = config.upstream.base_url.path().to_owned();
        Self {
            base_path,
            by_path,
            unlisted,
        }
    }

    /// The labels of all routes, that of the unlisted paths last.
    pub fn labels(config: &Config) -> Vec<String> {
        config
            .routes
            .keys()
            .cloned()
            .chain([UNLISTED.to_owned()])
            .collect()
    }

    /// What each of these labels stands for.
    pub fn kinds(config: &Config) -> Vec<RouteKind> {
        let kinds = config.routes.values().map(|route| match route.kind {
            ConfiguredKind::Query => RouteKind::Query,
            ConfiguredKind::Command => RouteKind::Command,
            ConfiguredKind::Refuse => RouteKind::Refuse,
        });
        kinds.chain([RouteKind::Command]).collect() // what is not configured is a command
    }

    /// The label of a configured path.
    pub fn label(&self, path: &str) -> Option<RouteLabel> {
        self.by_path.get(path).map(|route| route.label)
    }

    /// The configured queries, with their paths.
    pub fn queries(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Route>)> {
        self.by_path
            .iter()
            .filter(|(_, route)| matches!(route.kind, Kind::Query(_)))
    }

    /// Finds the route of a request's path. A path that begins with the base URL's own path has it
    /// removed once.
    pub fn find(&self, path: &str) -> Result<Target, Error> {
        let below = path
            .strip_prefix(&self.base_path)
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path);
        if let Some((path, route)) = self.by_path.get_key_value(below) {
            return match route.kind {
                Kind::Refuse => Err(Error::RouteRefused),
                _ => Ok(Target {
                    route: route.clone(),
                    path: path.clone(),
                }),
            };
        }
        if below == "/" {
            return Err(Error::InvalidPath(AT_THE_ROOT));
        }
        if let Some(rule) = ambiguity(path) {
            return Err(Error::InvalidPath(rule));
        }
        match &self.unlisted {
            Some(route) => Ok(Target {
                route: route.clone(),
                path: below.into(),
            }),
            None => Err(Error::UnlistedPath),
        }
    }
}

impl Target {
    /// `POST` everywhere, `QUERY` (RFC 10008) where nothing can change.
    pub fn check_method(&self, method: &Method) -> Result<(), Error> {
        let is_query = matches!(self.route.kind, Kind::Query(_));
        match method.as_str() {
            "POST" => Ok(()),
            "QUERY" if is_query => Ok(()),
            _ => Err(Error::MethodNotAllowed {
                allow: if is_query { "POST, QUERY" } else { "POST" },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(extra: &str) -> Routes {
        let text = format!(
            r#"
            {extra}
            [upstream]
            base_url = "http://127.0.0.1:1/cube/v4"
            [tenants.acme]
            access_code = "P000270"
            secret_file = "secret"
            [routes."/package/queryOrder"]
            kind = "query"
            [routes."/package/orderPackage"]
            kind = "command"
            [routes."/device/pauseService"]
            kind = "refuse"
            "#
        );
        Routes::new(&Config::parse(&text, "test", std::iter::empty()).unwrap().0)
    }

    #[test]
    fn what_is_not_configured_as_a_query_is_a_command() {
        let routes = routes("");
        let kind = |path: &str| {
            routes
                .find(path)
                .map(|target| matches!(target.route.kind, Kind::Query(_)))
        };
        assert!(kind("/package/queryOrder").unwrap());
        assert!(!kind("/package/orderPackage").unwrap());
        assert!(!kind("/package/QueryOrder").unwrap());
        assert!(!kind("/a/path/nobody/configured").unwrap());
        assert_eq!(
            kind("/device/pauseService").unwrap_err().code(),
            "route_refused"
        );
    }

    #[test]
    fn unlisted_paths_are_refused_where_the_configuration_says_so() {
        let routes = routes("[server]\nunlisted_paths = \"refuse\"");
        assert!(routes.find("/package/queryOrder").is_ok());
        assert_eq!(
            routes.find("/package/else").unwrap_err().code(),
            "unlisted_path"
        );
    }

    #[test]
    fn the_base_urls_own_path_is_removed_once() {
        let routes = routes("");
        let path = |path: &str| routes.find(path).unwrap().path;
        assert_eq!(&*path("/cube/v4/package/queryOrder"), "/package/queryOrder");
        assert_eq!(&*path("/package/queryOrder"), "/package/queryOrder");
        assert_eq!(&*path("/cube/v4/cube/v4/x"), "/cube/v4/x");
        assert_eq!(&*path("/cube/v4x/y"), "/cube/v4x/y");
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_refused() {
        let routes = routes("");
        for path in [
            "",
            "*",
            "/",
            "x",
            "//",
            "/package//queryOrder",
            "/package/./queryOrder",
            "/package/../queryOrder",
            "/package/queryOrder/",
            "/package/queryOrder;x=1",
            "/package%2fqueryOrder",
            "/package/%2e%2e/x",
            "/package/query%4Frder",
            "/a\\b",
            "/a b",
            "/ü",
        ] {
            assert_eq!(
                routes.find(path).unwrap_err().code(),
                "invalid_path",
                "{path:?}"
            );
        }
    }
}
