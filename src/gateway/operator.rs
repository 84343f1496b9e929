//! What may operators do? See what memory holds, drop it, and have a request explained without sending it.

use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use super::error::Error;
use super::{Gateway, wall_clock};
use crate::gateway::query::cache::Named;
use crate::gateway::request::head::Fields;
use crate::gateway::request::route::Kind;
use crate::telemetry::Answers;

/// Whose pages are dropped: those that all of what is named applies to.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Purge {
    /// All pages.
    all: bool,
    /// Those of this tenant.
    tenant: Option<String>,
    /// Those of this configured query.
    route: Option<String>,
    /// Those that may show this device.
    device: Option<String>,
}

impl Gateway {
    /// What memory holds and how much it answers, in all and by route and tenant.
    pub fn show_cache(&self) -> Value {
        let this = &*self.0;
        this.cache.sweep(); // what can never be served again is not what it holds
        let (statistics, census) = (this.cache.statistics(), this.cache.census());
        let answered = this.metrics.answers();
        let mut total = Answers::default();
        let mut parts = Vec::new();
        let mut queries: Vec<_> = this.routes.queries().collect();
        queries.sort_by_key(|(_, route)| route.label);
        let mut tenants: Vec<_> = this.tenants.iter().collect();
        tenants.sort_by_key(|tenant| tenant.label);
        for (path, _) in queries {
            for tenant in &tenants {
                let owner = (tenant.access_code.to_string(), path.to_string());
                let share = census.get(&owner).copied().unwrap_or_default();
                let series = (path.to_string(), tenant.name.to_string());
                let answers = answered.get(&series).copied().unwrap_or_default();
                total += answers;
                parts.push(json!({
                    "route": path.as_ref(),
                    "tenant": tenant.name.as_ref(),
                    "entries": share.entries,
                    "bytes": share.bytes,
                    "queries": answers.count(),
                    "hit_ratio": answers.hit_ratio(),
                }));
            }
        }
        json!({
            "entries": statistics.entries,
            "bytes": statistics.bytes,
            "evictions": statistics.evictions,
            "fills": statistics.fills,
            "queries": total.count(),
            "hit_ratio": total.hit_ratio(),
            "by_route_and_tenant": parts,
        })
    }

    /// Drops pages, and makes fills that run now bring none; tells how many pages were dropped.
    pub fn purge(&self, what: &Purge) -> Result<usize, String> {
        let this = &*self.0;
        let is_part = what.tenant.is_some() || what.route.is_some() || what.device.is_some();
        if what.all == is_part {
            return Err(
                "name what to purge: {\"all\": true}, or any of tenant, route and device".into(),
            );
        }
        if let Some(name) = &what.tenant
            && this.tenants.named(name).is_none()
        {
            return Err(format!("no tenant is called {name:?}"));
        }
        if let Some(path) = &what.route
            && !this.routes.queries().any(|(known, _)| **known == **path)
        {
            return Err(format!("no query is configured as {path:?}"));
        }
        let named = match &what.device {
            None => Named::nothing(),
            Some(iccid) => Named::device(iccid),
        };
        if !named.is_clear() || what.device.as_deref().is_some_and(str::is_empty) {
            return Err("device: name one ICCID, in letters and digits".into());
        }
        this.cache.sweep(); // so that those are counted that this drops

        for tenant in this.tenants.iter() {
            for (path, route) in this.routes.queries() {
                let is_meant = what
                    .tenant
                    .as_ref()
                    .is_none_or(|name| **name == *tenant.name)
                    && what.route.as_ref().is_none_or(|route| **route == **path);
                if is_meant {
                    let scope = this.scopes.of(tenant, route);
                    scope.invalidate(named.clone(), None);
                }
            }
        }
        this.metrics.invalidation("purge");
        let entries = this.cache.sweep();
        let (tenant, route) = (what.tenant.as_deref(), what.route.as_deref());
        let of_device = what.device.is_some();
        info!(tenant, route, of_device, entries, "purged");
        Ok(entries)
    }

    /// What would be done with a request of this path, these headers and this body; nothing is sent. Who asks is not
    /// looked at, and no secret is told.
    pub fn explain(&self, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<Value, Error> {
        let this = &*self.0;
        let now = Instant::now();
        let target = this.routes.find(path)?;
        let fields = Fields::of(headers);
        let asked = self.asked(&target, &fields, now)?;
        let mut call = self.understand(target, &fields, body)?;
        let route = call.target.route.clone();
        let mut explanation = json!({
            "path": call.target.path.as_ref(),
            "tenant": call.tenant.name.as_ref(),
            "language": call.language.tag.as_ref(),
        });
        let more = match &route.kind {
            Kind::Query(policy) => {
                let question = self.question(&mut call, policy, &asked, now);
                let usual = this.usual((route.label, call.tenant.label), asked.all_pages);
                let explained = this.cache.explain(&question, usual);
                json!({
                    "kind": "query",
                    "result": explained.result,
                    "reason": explained.reason,
                    "joins_a_fill": explained.joins,
                    "key": question.key.to_string(),
                    "page": explained.page.map(|page| json!({
                        "state": page.state,
                        "snapshot": page.snapshot,
                        "age": page.age.as_secs_f64(),
                        "fresh_for": page.fresh_for.as_secs_f64(),
                        "stale_for": policy.stale_for.as_secs_f64(),
                        "stale_if_error": policy.stale_if_error.as_secs_f64(),
                        "bytes": page.bytes,
                    })),
                })
            }
            Kind::Command {
                settle,
                requires_key,
                ..
            } => {
                let (tenant, params) = (&call.tenant, &call.params);
                let reach = this.scopes.reach(tenant, &route, params, &this.latest);
                json!({
                    "kind": "command",
                    "result": "command",
                    "reason": if route.is_listed {
                        "this path is configured as a command"
                    } else {
                        "this path is not configured, and what is not configured as a query is a command"
                    },
                    "invalidates": reach.paths(),
                    "settle": settle.as_secs_f64(),
                    "requires_idempotency_key": requires_key,
                })
            }
            Kind::Refuse => unreachable!("no refused path is found"),
        };
        let signed = call.tenant.signers.of(call.tenant.signers.active()).signed(
            &call.params,
            &call.tenant.access_code,
            wall_clock(),
        );
        explanation["params"] = call.params.as_str().into();
        explanation["canonical_text"] = signed.text.into();
        if let (Value::Object(explanation), Value::Object(more)) = (&mut explanation, more) {
            explanation.extend(more);
        }
        Ok(explanation)
    }
}
