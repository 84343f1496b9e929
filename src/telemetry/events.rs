//! What is counted, and told, beside the exchanges? Calls of Linksfield and what they say, the
//! configuration, and what is rare.

use std::fmt::Display;
use std::time::Duration;

use tracing::{info, warn};

use super::labels::{RouteLabel, TenantLabel};
use super::log;
use super::metrics::Metrics;
use super::snapshot::Episode;
use crate::words::{
    CallEnd, CallReason, Ending, InvalidationCause, ListenerName, Sent, WhichSecret,
};

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub struct CommandEnd<'a> {
    /// Did it reach Linksfield?
    pub sent: Sent,
    /// What came of it; none if it was still under way when the process ended, or if it panicked.
    pub ending: Option<Ending>,
    /// The envelope's `code`.
    pub vendor_code: Option<&'a str>,
    /// What the sources of the failure say.
    pub cause: Option<&'a str>,
    /// May it have been carried out without anybody knowing?
    pub in_doubt: bool,
    /// From its beginning to its end.
    pub duration: Duration,
}

impl CommandEnd<'_> {
    /// The spelling of its end in logs and on the admin page.
    fn outcome(&self) -> &'static str {
        self.ending.map_or("cut_off", Ending::as_str)
    }
}

impl Metrics {
    /// The configuration's file was read, at this time in seconds since 1970, and could be used or
    /// not.
    pub fn configuration_read(&self, usable: bool, at: f64) {
        let families = &self.families.configuration;
        families.file_usable.set(usable.into());
        if usable {
            families.file_usable_at.set(at);
        }
    }

    /// The configuration in effect.
    pub fn configuration_in_effect(&self, hash: &str) {
        let info = &self.families.configuration.info;
        info.reset();
        info.with_label_values(&[hash]).set(1);
    }

    /// So many of the secrets, tokens and files of certificates could not be used.
    pub fn secrets_refused(&self, number: usize) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.families.configuration.secrets_refused.set(number);
    }

    /// A tenant's secrets were read, and could be used or not.
    pub fn secret_read(&self, tenant: &str, usable: bool, at: f64) {
        let families = &self.families.configuration;
        let is_usable = families.secret_usable.with_label_values(&[tenant]);
        is_usable.set(usable.into());
        if usable {
            let usable_at = families.secret_usable_at.with_label_values(&[tenant]);
            usable_at.set(at);
        }
    }

    /// A call of Linksfield has ended.
    pub fn upstream_call(
        &self,
        route: RouteLabel,
        tenant: TenantLabel,
        ending: Ending,
        reason: CallReason,
        duration: Duration,
    ) {
        let (route, tenant) = self.names(route, tenant);
        let (outcome, reason) = (ending.as_str(), reason.as_str());
        let families = &self.families.calls;
        families
            .by_outcome
            .with_label_values(&[route, tenant, outcome, reason])
            .inc();
        families
            .duration
            .with_label_values(&[route, outcome])
            .observe(duration.as_secs_f64());
    }

    /// What a call says about the vendor, as the breaker takes it.
    pub fn upstream_ended(&self, end: CallEnd) {
        let family = &self.families.calls.by_end;
        family.with_label_values(&[end.as_str()]).inc();
    }

    /// The vendor did not accept a tenant's signature.
    pub fn bad_signature(&self, tenant: TenantLabel) {
        let tenant = self.labels.tenant(tenant);
        let family = &self.families.calls.bad_signatures;
        family.with_label_values(&[tenant]).inc();
    }

    /// The vendor answered with a `code` that the configuration does not know.
    pub fn unknown_code(&self) {
        self.families.calls.unknown_codes.inc();
    }

    /// From now on an answer that nothing classifies is taken for the vendor's failure: it is the
    /// usual one there.
    pub fn episode_begins(
        &self,
        route: RouteLabel,
        tenant: TenantLabel,
        answer: &dyn Display,
        remedy: &str,
    ) {
        let (route, tenant) = self.names(route, tenant);
        warn!(
            tenant,
            route,
            %answer,
            remedy,
            "an unclassified answer is the usual one, and is taken for a failure of the vendor"
        );
    }

    /// Something else was answered there.
    pub fn episode_ends(&self, route: RouteLabel, tenant: TenantLabel) {
        let (route, tenant) = self.names(route, tenant);
        info!(
            tenant,
            route, "the unclassified answer is the usual one no more"
        );
    }

    /// Where an answer that nothing classifies is the usual one, for a person to read.
    pub fn episode(&self, route: RouteLabel, tenant: TenantLabel, answer: String) -> Episode {
        let (route, tenant) = self.names(route, tenant);
        Episode {
            route: route.to_owned(),
            tenant: tenant.to_owned(),
            answer,
        }
    }

    /// The vendor encoded an answer, which nobody had asked for.
    pub fn encoded_answer(&self) {
        self.families.calls.encoded_answers.inc();
    }

    /// A path came that is not configured.
    pub fn unlisted_path(&self) {
        self.families.requests.unlisted_paths.inc();
    }

    /// The vendor had too many calls, although by our count there was room.
    pub fn foreign_throttle(&self) {
        self.families.calls.foreign_throttles.inc();
    }

    /// A query is asked again.
    pub fn retried(&self) {
        self.families.calls.retries.inc();
    }

    /// A query was taken with the tenant's other secret, which is the active one from now on.
    pub fn secret_switched(&self, tenant: TenantLabel, secret: WhichSecret) {
        let (tenant, secret) = (self.labels.tenant(tenant), secret.as_str());
        let switches = self
            .families
            .configuration
            .secret_switches
            .with_label_values(&[tenant, secret]);
        switches.inc();
        warn!(
            tenant,
            secret, "the signature was refused, the other secret is used from now on"
        );
    }

    /// The vendor's clock is so many seconds ahead of ours.
    pub fn clocks_differ(&self, seconds: f64) {
        warn!(
            seconds,
            "the vendor's clock and ours have gone apart, or have come together again"
        );
    }

    /// A command left, and may have been carried out without anybody knowing.
    pub fn command_in_doubt(&self, route: RouteLabel, tenant: TenantLabel) {
        let (route, tenant) = self.names(route, tenant);
        self.families
            .commands
            .unknown_outcome
            .with_label_values(&[route, tenant])
            .inc();
    }

    /// Something was refused before it was an exchange.
    pub fn refused(&self, code: &str) {
        let family = &self.families.requests.errors;
        family.with_label_values(&[code, Sent::No.as_str()]).inc();
    }

    /// A connection without a whole request was closed on this listener to make room for another
    /// one.
    pub fn connection_evicted(&self, listener: ListenerName) {
        let evicted = &self.families.connections.evicted;
        evicted.with_label_values(&[listener.as_str()]).inc();
    }

    /// Pages were made unfindable.
    pub fn invalidation(&self, cause: InvalidationCause) {
        self.families
            .cache
            .invalidations
            .with_label_values(&[cause.as_str()])
            .inc();
    }

    /// A command whose caller stopped waiting has ended: its own record, as nobody hears of it.
    pub fn abandoned_command(
        &self,
        request_id: &str,
        route: RouteLabel,
        tenant: TenantLabel,
        ended: &CommandEnd<'_>,
    ) {
        let (route, tenant) = self.names(route, tenant);
        if ended.in_doubt {
            self.recent
                .add(request_id, route, tenant, ended.outcome(), ended.sent);
        }
        let message = "command finished without its caller";
        command_line(request_id, route, tenant, ended, ended.in_doubt, message);
    }

    /// A command in doubt was answered after all.
    pub fn late_answer(
        &self,
        request_id: &str,
        route: RouteLabel,
        tenant: TenantLabel,
        ended: &CommandEnd<'_>,
    ) {
        let (route, tenant) = self.names(route, tenant);
        let family = &self.families.commands.answered_late;
        family.with_label_values(&[route, tenant]).inc();
        let message = "command answered after its time";
        command_line(request_id, route, tenant, ended, false, message);
    }

    /// What became of a command could not be saved under its key, or not in time: a repeat gets it
    /// from memory; after a restart that comes before it is on disk, it finds the command in doubt.
    pub fn key_not_saved(
        &self,
        request_id: &str,
        route: RouteLabel,
        tenant: TenantLabel,
        sent: Sent,
        error: &(dyn std::error::Error + 'static),
    ) {
        let (route, tenant) = self.names(route, tenant);
        self.families.commands.keys_not_saved.inc();
        warn!(
            target: log::COMMANDS,
            request_id,
            tenant,
            route,
            sent = sent.as_str(),
            error,
            "idempotency key not saved"
        );
    }

    /// The names of these labels.
    pub(super) fn names(&self, route: RouteLabel, tenant: TenantLabel) -> (&str, &str) {
        (self.labels.route(route), self.labels.tenant(tenant))
    }
}

/// The line of a command's end that nobody waits for.
fn command_line(
    request_id: &str,
    route: &str,
    tenant: &str,
    ended: &CommandEnd<'_>,
    is_warning: bool,
    message: &'static str,
) {
    let outcome = ended.outcome();
    let CommandEnd {
        sent,
        ending: _,
        vendor_code,
        cause,
        in_doubt,
        duration,
    } = *ended;
    let (sent, duration) = (sent.as_str(), duration.as_secs_f64());
    macro_rules! line {
        ($level:ident) => {
            $level!(
                target: log::COMMANDS,
                request_id,
                tenant,
                route,
                outcome,
                vendor_code,
                cause,
                sent,
                in_doubt,
                duration,
                "{message}"
            )
        };
    }
    if is_warning {
        line!(warn);
    } else {
        line!(info);
    }
}
