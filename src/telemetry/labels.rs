//! What do labels stand for? The names of one configuration.

/// The names behind the labels, in the order of the configuration; the last of each is "other".
#[derive(Debug)]
pub struct Labels {
    /// Configured paths.
    pub routes: Vec<String>,
    /// What each of them is.
    pub kinds: Vec<RouteKind>,
    /// Configured tenants.
    pub tenants: Vec<String>,
    /// Configured callers.
    pub callers: Vec<String>,
}

/// The place of a route among the labels of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteLabel(pub usize);

/// The place of a tenant among the labels of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantLabel(pub usize);

/// The place of a caller among the labels of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerLabel(pub usize);

/// What a route is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// It only reads.
    Query,
    /// It changes something.
    Command,
    /// It is closed.
    Refuse,
}

impl Labels {
    pub(super) fn route(&self, label: RouteLabel) -> &str {
        &self.routes[label.0]
    }

    pub(super) fn tenant(&self, label: TenantLabel) -> &str {
        &self.tenants[label.0]
    }

    pub(super) fn caller(&self, label: CallerLabel) -> &str {
        &self.callers[label.0]
    }

    /// Has the configuration a series with this label?
    pub(super) fn has(&self, label: &str, value: &str) -> bool {
        let names = match label {
            "route" => &self.routes,
            "tenant" => &self.tenants,
            "caller" => &self.callers,
            _ => return true,
        };
        names.iter().any(|name| name == value)
    }
}
