//! Which sections does the file have?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::caller::Caller;
use super::idempotency::IdempotencyKeys;
use super::log::Log;
use super::route::Route;
use super::server::Server;
use super::tenant::Tenant;
use super::upstream::Upstream;
use crate::signing::form::Signing;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The side of the callers.
    pub server: Server,
    /// The log.
    pub log: Log,
    /// The side of the vendor.
    pub upstream: Upstream,
    /// How requests are signed.
    pub signing: Signing,
    /// The cache.
    pub cache: Cache,
    /// What is remembered of commands that came with a key.
    pub idempotency: IdempotencyKeys,
    /// Who may ask, by the name that logs and metrics use.
    pub callers: BTreeMap<String, Caller>,
    /// In whose name the gateway asks, by the name that callers, logs and metrics use.
    pub tenants: BTreeMap<String, Tenant>,
    /// What may be done with a path; a path that is not here is a command.
    pub routes: BTreeMap<String, Route>,
}
