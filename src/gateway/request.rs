//! What is asked, by whom, and in which words?
//!
//! A head and a body become a [`Call`]: whoever answers it looks at nothing else of the request but
//! its [`Wishes`].

pub mod directives;
pub mod head;
pub mod language;
pub mod route;
pub mod tenant;

use std::sync::Arc;

use tokio::time::Instant;

use self::directives::Directives;
use self::language::Language;
use self::route::{Kind, Target};
use self::tenant::Tenant;
use super::brakes::Subject;
use crate::signing::params::Params;
use crate::telemetry::trace::Trace;

/// A request that is understood: what it asks, for whom, in which words.
#[derive(Debug, Clone)]
pub struct Call {
    /// The route, and the path by which it was found.
    pub target: Target,
    /// Whose account is used.
    pub tenant: Arc<Tenant>,
    /// Who asks; none where no callers are configured.
    pub caller: Option<Arc<str>>,
    /// The body in normal form.
    pub params: Params,
    /// The language of the answer.
    pub language: Arc<Language>,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
}

impl Call {
    /// What brakes look at.
    pub fn subject(&self) -> Subject {
        Subject {
            is_command: !matches!(self.target.route.kind, Kind::Query(_)),
            path: self.target.path.clone(),
            tenant: self.tenant.name.clone(),
            caller: self.caller.clone(),
        }
    }
}

/// What a request's head says about its answer.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// What of memory may answer it.
    pub directives: Directives,
    /// Until when its caller waits.
    pub deadline: Instant,
    /// Has the caller named that time?
    pub names_deadline: bool,
    /// Are all pages wanted, as one document?
    pub all_pages: bool,
}
