//! What may operators do with memory? See what it holds, and drop it.

use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::Queries;
use super::cache::Named;
use crate::gateway::request::route::Routes;
use crate::gateway::request::tenant::Tenants;
use crate::telemetry::Answers;
use crate::words::InvalidationCause;

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

impl Queries {
    /// What memory holds and how much it answers, in all and by route and tenant.
    pub fn show_cache(&self, routes: &Routes, tenants: &Tenants) -> Value {
        let this = &*self.0;
        this.cache.sweep(); // what can never be served again is not what it holds
        let (statistics, census) = (this.cache.statistics(), this.cache.census());
        let answered = this.metrics.answers();
        let mut total = Answers::default();
        let mut parts = Vec::new();
        let mut queries: Vec<_> = routes.queries().collect();
        queries.sort_by_key(|(_, route)| route.label);
        let mut tenants: Vec<_> = tenants.iter().collect();
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
    pub fn purge(&self, what: &Purge, routes: &Routes, tenants: &Tenants) -> Result<usize, String> {
        let this = &*self.0;
        let is_part = what.tenant.is_some() || what.route.is_some() || what.device.is_some();
        if what.all == is_part {
            return Err(
                "name what to purge: {\"all\": true}, or any of tenant, route and device".into(),
            );
        }
        if let Some(name) = &what.tenant
            && tenants.named(name).is_none()
        {
            return Err(format!("no tenant is called {name:?}"));
        }
        if let Some(path) = &what.route
            && !routes.queries().any(|(known, _)| **known == **path)
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

        for tenant in tenants.iter() {
            for (path, route) in routes.queries() {
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
        this.metrics.invalidation(InvalidationCause::Purge);
        let entries = this.cache.sweep();
        let (tenant, route) = (what.tenant.as_deref(), what.route.as_deref());
        let of_device = what.device.is_some();
        info!(tenant, route, of_device, entries, "purged");
        Ok(entries)
    }
}
