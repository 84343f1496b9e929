//! The record of one exchange: what is known of it, and how is that counted and written?

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;
use tracing::field::display;
use tracing::{info, warn};

use super::labels::{CallerLabel, RouteLabel, TenantLabel};
use super::log;
use super::metrics::Metrics;
use super::trace::Trace;
use crate::id::RequestId;
use crate::words::{Fault, Outcome, RequestResult, Sent};

/// The record of one exchange: filled in by the gateway, written when dropped, even if the caller
/// leaves.
#[derive(Debug)]
pub struct Exchange<'a> {
    metrics: &'a Metrics,
    /// When the head had come.
    pub started: Instant,
    /// The request's id.
    pub request_id: RequestId,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
    /// Whose series it is counted in.
    pub labels: ExchangeLabels,
    /// How it was answered.
    pub result: RequestResult,
    /// The status of the answer; none if the caller left before it.
    pub status: Option<u16>,
    /// Why it did not get what it asked for.
    pub failure: FailureRecord,
    /// What is known of the call of Linksfield that was made for it.
    pub call: CallRecord,
    /// Was no call of Linksfield made for it?
    pub saved_a_call: bool,
    /// Is it the answer that an earlier command under the same key has got?
    pub is_replay: bool,
    /// The age of a page from memory.
    pub age: Option<Duration>,
}

/// The labels of an exchange: until each is known, the one that stands for what is not configured.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeLabels {
    /// That of its path.
    pub route: RouteLabel,
    /// That of the account that is used.
    pub tenant: TenantLabel,
    /// That of the service that asks.
    pub caller: CallerLabel,
}

/// Why an exchange did not get what it asked for.
#[derive(Debug, Default)]
pub struct FailureRecord {
    /// The code of a failure of ours.
    pub error: Option<&'static str>,
    /// Whose fault it is, also where the vendor's answer is no success.
    pub fault: Option<Fault>,
    /// What the sources of a failure say, also of one that an old page stands in for.
    pub cause: Option<String>,
}

/// What is known of the call that was made for an exchange.
#[derive(Debug, Default)]
pub struct CallRecord {
    /// Did the request reach Linksfield? None for a page from memory.
    pub sent: Option<Sent>,
    /// May a command have been carried out without anybody knowing? None for a query, and for a
    /// command whose caller left before its end.
    pub in_doubt: Option<bool>,
    /// What Linksfield's answer means; none where no call was made for it, or none was answered.
    pub outcome: Option<Outcome>,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
    /// The host that Linksfield has sent it to.
    pub redirect_host: Option<String>,
    /// The time spent waiting for a permit.
    pub queue: Option<Duration>,
    /// The time that Linksfield took.
    pub upstream: Option<Duration>,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let metrics = self.metrics;
        let duration = self.started.elapsed().as_secs_f64();
        metrics.families.requests.in_flight.dec();
        metrics.request_handle(self).inc();
        metrics.tenant_handle(self).inc();
        metrics.request_duration_handle(self).observe(duration);
        if self.is_replay {
            metrics.families.commands.replays.inc();
        }
        if let Some(age) = self.age {
            metrics.served_age_handle(self).observe(age.as_secs_f64());
        }
        if let Some(fault) = self.failure.fault {
            let family = &metrics.families.requests.failed;
            family.with_label_values(&[fault.as_str()]).inc();
        }
        if let Some(code) = self.failure.error {
            let sent = self.call.sent.unwrap_or(Sent::No);
            let family = &metrics.families.requests.errors;
            family.with_label_values(&[code, sent.as_str()]).inc();
            let (route, tenant) = metrics.names(self.labels.route, self.labels.tenant);
            let id = self.request_id.as_str();
            metrics.recent.add(id, route, tenant, code, sent);
        } else if self.call.in_doubt == Some(true) {
            let (route, tenant) = metrics.names(self.labels.route, self.labels.tenant);
            let (id, sent) = (
                self.request_id.as_str(),
                self.call.sent.unwrap_or(Sent::Unknown),
            );
            metrics.recent.add(id, route, tenant, "in_doubt", sent);
        } else if self.saved_a_call {
            match self.result {
                RequestResult::Hit => metrics.saved.hit.inc(),
                RequestResult::Stale => metrics.saved.stale.inc(),
                RequestResult::Coalesced => metrics.saved.coalesced.inc(),
                _ => {}
            }
        }
        self.log(duration);
    }
}

impl Exchange<'_> {
    fn log(&self, duration: f64) {
        let labels = &self.metrics.labels;
        let (request_id, result, status) =
            (self.request_id.as_str(), self.result.as_str(), self.status);
        let (caller, tenant, route) = (
            labels.caller(self.labels.caller),
            labels.tenant(self.labels.tenant),
            labels.route(self.labels.route),
        );
        let trace = self.trace.as_ref();
        let trace_id = trace.map(|trace| display(trace.id()));
        let parent_span_id = trace.map(|trace| display(trace.parent()));
        let span_id = trace.and_then(Trace::span).map(display);
        let replayed = self.is_replay.then_some(true);
        let (vendor_code, error) = (self.call.vendor_code.as_deref(), self.failure.error);
        let outcome = self.call.outcome.map(Outcome::as_str);
        let (sent, in_doubt) = (self.call.sent.map(Sent::as_str), self.call.in_doubt);
        let (cause, redirect_host) = (
            self.failure.cause.as_deref(),
            self.call.redirect_host.as_deref(),
        );
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        let (queue, upstream, age) = (
            seconds(self.call.queue),
            seconds(self.call.upstream),
            seconds(self.age),
        );
        macro_rules! line {
            ($level:ident, $target:expr) => {
                $level!(
                    target: $target,
                    request_id,
                    trace_id,
                    parent_span_id,
                    span_id,
                    caller,
                    tenant,
                    route,
                    result,
                    outcome,
                    vendor_code,
                    error,
                    cause,
                    redirect_host,
                    sent,
                    in_doubt,
                    replayed,
                    status,
                    duration,
                    queue,
                    upstream,
                    age,
                    "exchange finished"
                )
            };
        }
        match self.result {
            RequestResult::Command if in_doubt == Some(true) => line!(warn, log::COMMANDS),
            RequestResult::Command => line!(info, log::COMMANDS),
            _ => line!(info, module_path!()),
        }
    }
}

impl Metrics {
    /// The record of an exchange that begins now.
    pub fn exchange(&self, request_id: RequestId) -> Exchange<'_> {
        self.families.requests.in_flight.inc();
        Exchange {
            metrics: self,
            started: Instant::now(),
            request_id,
            trace: None,
            labels: ExchangeLabels {
                route: RouteLabel(self.labels.routes.len() - 1),
                tenant: TenantLabel(self.labels.tenants.len() - 1),
                caller: CallerLabel(self.labels.callers.len() - 1),
            },
            result: RequestResult::Refused,
            status: None,
            failure: FailureRecord::default(),
            call: CallRecord::default(),
            saved_a_call: false,
            is_replay: false,
            age: None,
        }
    }

    fn request_duration_handle(&self, exchange: &Exchange<'_>) -> &Histogram {
        let handle = exchange.labels.route.0 * RequestResult::ALL.len() + exchange.result as usize;
        self.request_duration_handles[handle].get_or_init(|| {
            self.families.requests.duration.with_label_values(&[
                self.labels.route(exchange.labels.route),
                exchange.result.as_str(),
            ])
        })
    }

    fn served_age_handle(&self, exchange: &Exchange<'_>) -> &Histogram {
        self.served_age[exchange.labels.route.0].get_or_init(|| {
            let route = self.labels.route(exchange.labels.route);
            self.families
                .requests
                .served_age
                .with_label_values(&[route])
        })
    }

    fn tenant_handle(&self, exchange: &Exchange<'_>) -> &IntCounter {
        let handle = exchange.labels.tenant.0 * RequestResult::ALL.len() + exchange.result as usize;
        self.tenant_handles[handle].get_or_init(|| {
            self.families.requests.by_tenant.with_label_values(&[
                self.labels.tenant(exchange.labels.tenant),
                exchange.result.as_str(),
            ])
        })
    }

    fn request_handle(&self, exchange: &Exchange<'_>) -> &IntCounter {
        let pair = exchange.labels.caller.0 * self.labels.tenants.len() + exchange.labels.tenant.0;
        let handles = self.request_handles[pair].get_or_init(|| {
            let number = self.labels.routes.len() * RequestResult::ALL.len();
            (0..number).map(|_| OnceLock::new()).collect()
        });
        handles[exchange.labels.route.0 * RequestResult::ALL.len() + exchange.result as usize]
            .get_or_init(|| {
                self.families.requests.total.with_label_values(&[
                    self.labels.route(exchange.labels.route),
                    self.labels.tenant(exchange.labels.tenant),
                    self.labels.caller(exchange.labels.caller),
                    exchange.result.as_str(),
                ])
            })
    }
}
