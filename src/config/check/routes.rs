//! The rules of `[routes]`.

use std::time::Duration;

use super::{Check, is_reported};
use crate::config::{Kind, Route, ambiguity, schema::dotted};

impl Check<'_> {
    pub(super) fn routes(&mut self) {
        let config = self.config;
        for (path, route) in &config.routes {
            self.route_path(path);
            // Without a kind that was written, what the other keys mean is not known.
            if is_reported(&self.reported, &dotted(&["routes", path, "kind"])) {
                continue;
            }
            if self.kind_is_written(path) {
                self.foreign_keys(path, route);
                self.route(path, route);
            } else {
                self.problem(
                    &dotted(&["routes", path, "kind"]),
                    "it is missing",
                    "write kind = \"query\" if the path only reads, \"command\" if it changes something, \"refuse\" to close it",
                );
            }
        }
    }

    fn route_path(&mut self, path: &str) {
        let key = dotted(&["routes", path]);
        if let Some(rule) = ambiguity(path) {
            self.problem(&key, format!("no request can name it: {rule}"), "write it as it stands in the vendor's documentation, such as \"/package/queryOrder\"");
        }
        let base = self.config.upstream.base_url.path();
        if !base.is_empty()
            && path
                .strip_prefix(base)
                .is_some_and(|rest| rest.starts_with('/'))
        {
            let reason =
                "the path begins with that of upstream.base_url, which is added to it once more";
            let remedy = "write the path without it";
            let route = self.config.routes.get(path);
            if route.is_some_and(|route| route.kind == Kind::Refuse) {
                self.problem(&key, reason, remedy); // a brake that would stop nothing
            } else {
                self.warn(&key, reason, remedy);
            }
        }
    }

    fn kind_is_written(&self, path: &str) -> bool {
        self.route_table(path)
            .is_some_and(|route| route.contains_key("kind"))
    }

    fn route_table(&self, path: &str) -> Option<&toml::Table> {
        self.table.get("routes")?.get(path)?.as_table()
    }

    /// Keys that mean nothing for the route's kind: whoever wrote them expects something that will
    /// not happen.
    fn foreign_keys(&mut self, path: &str, route: &Route) {
        let kind = route.kind;
        if kind == Kind::Refuse {
            return; // the brake is one line: what the route was may stay written
        }
        let written = self
            .route_table(path)
            .into_iter()
            .flat_map(|table| table.keys());
        let foreign: Vec<String> = written.filter(|key| !kind.has_key(key)).cloned().collect();
        for key in foreign {
            let owner = [Kind::Query, Kind::Command]
                .into_iter()
                .find(|kind| kind.has_key(&key));
            let owner = owner.map_or("another kind", Kind::as_str);
            self.problem(
                &dotted(&["routes", path, &key]),
                format!(
                    "the key belongs to kind = \"{owner}\", and this route is kind = \"{}\"",
                    kind.as_str()
                ),
                format!("remove it, or make the route kind = \"{owner}\""),
            );
        }
    }

    fn route(&mut self, path: &str, route: &Route) {
        let key = |last: &str| dotted(&["routes", path, last]);
        // Freshness of zero means: ask every time, but once for all who ask at the same time.
        self.duration(&key("fresh_for"), route.fresh_for, true);
        self.duration(&key("stale_for"), route.stale_for, true);
        self.duration(&key("stale_if_error"), route.stale_if_error, true);
        self.duration(&key("stale_patience"), route.stale_patience, true);
        self.duration(&key("min_refresh"), route.min_refresh, true);
        self.duration(&key("crawl_timeout"), route.crawl_timeout, false);
        self.duration(&key("settle"), route.settle, true);
        if let Some(timeout) = route.timeout {
            self.duration(&key("timeout"), timeout, false);
            // A command goes on without its caller; a query that nobody waits for helps the next
            // one only.
            if route.kind == Kind::Query && timeout >= self.config.server.request_timeout {
                self.warn(
                    &key("timeout"),
                    "it is not shorter than server.request_timeout: callers give up first",
                    "make it shorter than server.request_timeout",
                );
            }
        }
        if route.kind == Kind::Query
            && route.fresh_for.saturating_add(route.stale_for) > Duration::from_secs(24 * 3600)
        {
            self.warn(
                &key("fresh_for"),
                "with stale_for, an answer may be served for more than a day, and orders also change at the vendor",
                "seconds to minutes are usual",
            );
        }
        for (index, name) in route.invalidates.iter().flatten().enumerate() {
            let named = self.config.routes.get(name).map(|route| route.kind);
            // The brake is one line: a query that is refused for now may stay named where it was.
            if !matches!(named, Some(Kind::Query | Kind::Refuse)) {
                self.problem(
                    &key("invalidates"),
                    format!("entry {} is no configured query", index + 1),
                    "name paths of routes with kind = \"query\"; leave the key out to invalidate every query of the tenant",
                );
            }
        }
    }
}
