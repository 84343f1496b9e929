//! What makes two queries the same? Base URL, access code, path, language and parameters; nothing
//! else, nothing less.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;

use super::narrowing::Named;
use super::scope::{Invalidated, Scope, Validity};
use crate::clock::Moment;
use crate::signing::params::Params;

/// The text of parameters, in the key itself if it is as short as queries mostly are: elsewhere in
/// memory it would be one more place that no core has at hand when it is compared. (With 72 bytes
/// of it a key, counted, is two lines of memory.)
type KeyText = SmallVec<[u8; 72]>;

/// The key of a page.
#[derive(Clone)]
pub struct Key {
    scope: Arc<Scope>,
    language: Arc<str>,
    params: KeyText,
    /// All pages of the query, as one document.
    is_whole: bool,
}

impl Key {
    /// `language` is the one that is sent upstream.
    pub fn new(scope: Arc<Scope>, language: Arc<str>, params: &Params) -> Self {
        Self {
            scope,
            language,
            params: KeyText::from_slice(params.as_str().as_bytes()),
            is_whole: false,
        }
    }

    /// The key of the document that all pages of these parameters make.
    pub fn whole(scope: Arc<Scope>, language: Arc<str>, params: &Params) -> Self {
        Self {
            is_whole: true,
            ..Self::new(scope, language, params)
        }
    }

    /// The key of one page of the document of this key.
    #[must_use]
    pub fn page(&self, number: u64) -> Self {
        let params = self.params().with("page_no", number);
        Self::new(self.scope.clone(), self.language.clone(), &params)
    }

    /// Whose pages of which path it belongs to.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The key that all pages of its query have in common.
    #[must_use]
    pub fn of_all_pages(&self) -> Self {
        let params = self.params().without("page_no");
        Self::new(self.scope.clone(), self.language.clone(), &params)
    }

    /// The validity of its page; see [`Scope::validity`].
    pub fn validity(&self, generation: u64, sent_at: Moment) -> Result<Validity, Invalidated> {
        self.scope
            .validity(generation, sent_at, || Named::of(&self.params()))
    }

    /// The validity of a page whose fill begins now.
    pub fn begin(&self, now: Moment) -> Validity {
        let generation = self.scope.generation();
        self.validity(generation, now).unwrap_or(Validity {
            generation,
            until: Some(now), // not to be joined, nor kept
        })
    }

    /// Bytes that it takes beside those it shares with other keys.
    pub fn size(&self) -> usize {
        self.params.len()
    }

    fn params(&self) -> Params {
        Params::of_normal_form(self.text().to_owned())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.params).expect("it is that of parameters")
    }

    /// A scope is told by its place in memory, which no other has while one key of it is left:
    /// there is one scope for each base URL, access code and path under one configuration, and
    /// pages of an earlier one are not found.
    fn parts(&self) -> (&[u8], &str, bool, *const Scope) {
        let scope = Arc::as_ptr(&self.scope);
        (&self.params, &self.language, self.is_whole, scope)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base_url, access_code, path) = self.scope.identity();
        let whole = if self.is_whole { " all pages" } else { "" };
        let (language, params) = (&self.language, self.text());
        write!(
            f,
            "{base_url}{path} {access_code} {language} {params}{whole}"
        )
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
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
