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
