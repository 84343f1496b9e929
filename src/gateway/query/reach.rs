//! What does a command reach? The queries of its tenant that its route names, or all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::cache::{Named, Scope};
use crate::clock::Moment;
use crate::config::Config;
use crate::gateway::request::route::{Kind, Route, Routes};
use crate::gateway::request::tenant::{Tenant, Tenants};
use crate::signing::params::Params;
use crate::telemetry::TenantLabel;

/// One scope for each tenant and query.
#[derive(Debug, Default)]
pub struct Scopes {
    routes: usize,
    by_tenant_and_route: Vec<Option<Arc<Scope>>>,
    by_origin: HashMap<Origin, Arc<Scope>>,
}

/// Those of the latest configuration: a command that began under an earlier one reaches them too.
pub type Latest = Arc<ArcSwap<Scopes>>;

/// What answers depend on beside the requests: pages of one origin are of no use under another.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Origin {
    base_url: Arc<str>,
    /// `signing.version` is sent with each request, and may change what the vendor answers.
    version: String,
    access_code: Arc<str>,
    path: Arc<str>,
    pages: bool,
}

impl Scopes {
    /// The scopes of all tenants and queries under this configuration. Those of the one before stay
    /// where nothing has changed on which answers depend.
    pub fn new(config: &Config, routes: &Routes, tenants: &Tenants, before: &Self) -> Self {
        let base_url: Arc<str> = config.upstream.base_url.to_string().into();
        let mut scopes = Self {
            routes: config.routes.len(),
            by_tenant_and_route: vec![None; config.tenants.len() * config.routes.len()],
            by_origin: HashMap::new(),
        };
        for tenant in tenants.iter() {
            for (path, route) in routes.queries() {
                let origin = Origin {
                    base_url: base_url.clone(),
                    version: config.signing.version.clone(),
                    access_code: tenant.access_code.clone(),
                    path: path.clone(),
                    pages: matches!(&route.kind, Kind::Query(policy) if policy.pages),
                };
                let known = before.by_origin.get(&origin);
                let scope = known.cloned().unwrap_or_else(|| {
                    let (base_url, access_code) = (base_url.clone(), tenant.access_code.clone());
                    Arc::new(Scope::new(base_url, access_code, path.clone()))
                });
                let place = tenant.label.0 * config.routes.len() + route.label.0;
                scopes.by_tenant_and_route[place] = Some(scope.clone());
                scopes.by_origin.insert(origin, scope);
            }
        }
        scopes
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Scope>> {
        self.by_origin.values()
    }

    /// The scope of a query.
    pub fn of(&self, tenant: &Tenant, route: &Route) -> &Arc<Scope> {
        let scope = &self.by_tenant_and_route[tenant.label.0 * self.routes + route.label.0];
        scope
            .as_ref()
            .expect("every query has a scope for every tenant")
    }

    /// What a command may change: of the queries that its route names, those that show what it
    /// names; without such a list, and on a path that is not configured, every query of its tenant.
    pub fn reach(
        self: &Arc<Self>,
        tenant: &Tenant,
        route: &Route,
        params: &Params,
        latest: &Latest,
    ) -> Reach {
        let (listed, settle) = match &route.kind {
            Kind::Command {
                invalidates,
                settle,
                ..
            } => (invalidates.clone(), *settle),
            Kind::Query(_) | Kind::Refuse => (None, Duration::ZERO),
        };
        let named = match listed {
            Some(_) => Named::of(params),
            None => Named::nothing(),
        };
        Reach {
            tenant: tenant.label,
            access_code: tenant.access_code.clone(),
            listed,
            of: self.clone(),
            latest: latest.clone(),
            named: named.into(),
            settle,
        }
    }

    /// Those of one tenant.
    fn of_tenant(&self, tenant: TenantLabel) -> impl Iterator<Item = &Arc<Scope>> {
        let start = tenant.0 * self.routes;
        self.by_tenant_and_route[start..start + self.routes]
            .iter()
            .flatten()
    }
}

/// What a command may change.
#[derive(Debug)]
pub struct Reach {
    /// Its label in `of`.
    tenant: TenantLabel,
    access_code: Arc<str>,
    /// None: every query.
    listed: Option<Arc<[Arc<str>]>>,
    /// Those of the configuration that it began under.
    of: Arc<Scopes>,
    latest: Latest,
    named: Arc<Named>,
    settle: Duration,
}

impl Reach {
    /// The query paths that it reaches.
    pub fn paths(&self) -> Vec<&str> {
        self.scopes().map(|scope| &**scope.path()).collect()
    }

    /// From now on nothing is found that was filled before. After an outcome, at `ended_at`, the
    /// vendor may show the old state until it has settled: what is filled meanwhile is found no
    /// longer than that.
    pub fn invalidate(&self, ended_at: Option<Moment>) {
        let settles_at = ended_at.map(|ended_at| ended_at + self.settle);
        let latest = self.latest.load();
        for scope in self.scopes().chain(self.new_in(&latest)) {
            scope.invalidate(self.named.clone(), settles_at);
        }
    }

    /// What a configuration that came meanwhile has brought. (Mostly there is none: all tenants'
    /// are not gone through.)
    fn new_in<'a>(&'a self, latest: &'a Arc<Scopes>) -> impl Iterator<Item = &'a Arc<Scope>> {
        let is_another = !Arc::ptr_eq(&self.of, latest);
        let all = is_another.then(|| latest.all());
        all.into_iter().flatten().filter(|scope| {
            let (_, access_code, _) = scope.identity();
            *self.access_code == *access_code
                && self.is_listed(scope.path())
                && !self.scopes().any(|known| Arc::ptr_eq(known, scope))
        })
    }

    fn scopes(&self) -> impl Iterator<Item = &Arc<Scope>> {
        let all = self.of.of_tenant(self.tenant);
        all.filter(|scope| self.is_listed(scope.path()))
    }

    fn is_listed(&self, path: &Arc<str>) -> bool {
        let listed = self.listed.as_ref();
        listed.is_none_or(|paths| paths.contains(path))
    }
}
