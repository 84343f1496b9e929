//! `[callers.NAME]`: who may ask.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[callers.NAME]`: a service that may ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Caller {
    /// Holds the token that it sends as `Authorization: Bearer`.
    pub token_file: PathBuf,
    /// The tenants it may name.
    pub tenants: Vec<String>,
    /// Whether it may send commands.
    pub commands: bool,
}
