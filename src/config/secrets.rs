//! The secrets that the configuration names.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::problem::Warning;

/// What the files and variables that a configuration names hold.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// By tenant.
    pub tenants: BTreeMap<String, TenantSecret>,
    /// Tokens by caller.
    pub callers: BTreeMap<String, SecretString>,
    /// Of the admin listener.
    pub admin_token: Option<SecretString>,
    /// Certificates (PEM) to trust instead of the bundled roots.
    pub ca: Option<Vec<u8>>,
    /// What deserves a thought.
    pub warnings: Vec<Warning>,
}

/// The secrets of one tenant.
#[derive(Debug, Clone)]
pub struct TenantSecret {
    /// The one to sign with.
    pub current: SecretString,
    /// The one before it, during a rotation.
    pub previous: Option<SecretString>,
}
