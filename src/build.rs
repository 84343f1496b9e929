//! How is a gateway built from a configuration and its secrets?

use std::sync::Arc;

use crate::access::Access;
use crate::config::{Config, Secrets};
use crate::gateway::request::route::Routes;
use crate::gateway::request::tenant::{Callers, Tenants};
use crate::gateway::{Configured, Gateway, Lasting, error};
use crate::live::Current;
use crate::signing::sign::InvalidSecret;
use crate::telemetry::{Constants, Labels, Metrics};

/// Builds a gateway over what lasts. `before` is the one that it follows, with its secrets: its
/// counters go on, and of two secrets of a tenant the one that was active stays so.
///
/// Nothing has changed where this fails. Else the vendor's limits are those of this configuration.
pub fn build(
    config: &Config,
    secrets: &Secrets,
    lasting: &Lasting,
    before: Option<(&Current, &Secrets)>,
) -> Result<Current, InvalidSecret> {
    let tenants_before = before.map(|(before, secrets)| (before.gateway.tenants(), secrets));
    let tenants = Tenants::following(config, secrets, tenants_before)?; // nothing below can fail
    let metrics = Arc::new(match before {
        Some((before, _)) => before.metrics.relabelled(labels(config)),
        None => Metrics::new(labels(config)),
    });
    let configured = Configured {
        config,
        ca: secrets.ca.as_ref(),
        tenants,
        callers: Callers::new(config, secrets),
        metrics: metrics.clone(),
    };
    Ok(Current {
        gateway: Gateway::new(configured, lasting),
        metrics,
        config: config.clone(),
        configuration: config.effective(),
        access: Access::new(secrets.admin_token.clone(), config.server.admin_listen),
    })
}

/// Tells the metrics what this configuration says, once it is in effect.
pub fn take_effect(config: &Config, metrics: &Metrics) {
    metrics.take_effect(&Constants {
        cache_capacity: config.cache.max_size.as_u64(),
        commands: config.server.commands,
        is_paused: config.upstream.paused,
        error_codes: error::CODES,
    });
}

fn labels(config: &Config) -> Labels {
    Labels {
        routes: Routes::labels(config),
        kinds: Routes::kinds(config),
        tenants: Tenants::labels(config),
        callers: Callers::labels(config),
    }
}
