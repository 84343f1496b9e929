//! What makes two queries the same? Base URL, access code, path, language and parameters; nothing else, nothing less.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tokio::time::Instant;

use super::narrowing::Named;
use super::scope::{Invalidated, Scope, Validity};
use crate::gateway::params::Params;

/// The key of a page.
#[derive(Debug, Clone)]
pub struct Key {
    scope: Arc<Scope>,
    language: Arc<str>,
    params: Arc<str>,
}

impl Key {
    /// `language` is the one that is sent upstream.
    pub fn new(scope: Arc<Scope>, language: Arc<str>, params: &Params) -> Self {
        Self {
            scope,
            language,
            params: params.as_str().into(),
        }
    }

    /// Whose pages of which path it belongs to.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The key that all pages of its query have in common.
    #[must_use]
    pub fn of_all_pages(&self) -> Self {
        Self {
            params: self.params().without("page_no").as_str().into(),
            ..self.clone()
        }
    }

    /// The validity of its page; see [`Scope::validity`].
    pub fn validity(&self, generation: u64, sent_at: Instant) -> Result<Validity, Invalidated> {
        self.scope
            .validity(generation, sent_at, || Named::of(&self.params()))
    }

    /// Bytes that it takes beside those it shares with other keys.
    pub fn size(&self) -> usize {
        self.params.len()
    }

    fn params(&self) -> Params {
        Params::parse(self.params.as_bytes()).expect("the normal form of parameters")
    }

    fn parts(&self) -> (&str, &str, (&str, &str, &str)) {
        (&self.params, &self.language, self.scope.identity())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}
