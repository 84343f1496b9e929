//! `[tenants.NAME]`: in whose name the gateway asks.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::limits::Limit;
use super::written;

/// `[tenants.NAME]`: an account at the vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// The account's partner code.
    pub access_code: String,
    /// Holds its secret.
    #[serde(serialize_with = "written::or_unset")]
    pub secret_file: Option<PathBuf>,
    /// Or the environment variable that holds it, for laptops only.
    #[serde(serialize_with = "written::or_unset")]
    pub secret_env: Option<String>,
    /// Holds the secret before a rotation, while it lasts.
    #[serde(serialize_with = "written::or_unset")]
    pub previous_secret_file: Option<PathBuf>,
    /// The brake: `false` refuses this tenant's commands.
    pub commands: bool,
    /// Answers queries that name no tenant.
    pub default: bool,
    /// How many calls it gets for one of a tenant of weight 1, while both want some.
    pub weight: NonZeroU32,
    /// Its own calls in any one second; divided by `instances` like the vendor's limits.
    pub requests_per_second: Limit,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            access_code: String::new(),
            secret_file: None,
            secret_env: None,
            previous_secret_file: None,
            commands: true,
            default: false,
            weight: NonZeroU32::MIN,
            requests_per_second: Limit::None,
        }
    }
}
