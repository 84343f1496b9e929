//! How is a command sent once, whatever becomes of its caller, and however often it asks under one key?

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::cache::Named;
use super::call::{Answered, Errand, Timing};
use super::error::{Error, Fault, Sent};
use super::keys::{Claim, End, Key, Run};
use super::progress::Progress;
use super::quota::Class;
use super::route::Kind;
use super::upstream::COMMAND_MAX_IDLE;
use super::{Call, Gateway, response, wall_clock};
use crate::body::Body;
use crate::telemetry::{self, CommandEnd, Exchange, Metrics};

impl Gateway {
    /// Under a key a command is sent once: whoever comes later gets what the first has got, or will get.
    pub(super) async fn command(
        &self,
        call: Call,
        key: Option<Key>,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        exchange.result = telemetry::Result::Command;
        let Some(key) = key else {
            let progress = Progress::default();
            return self
                .send_command(call, None, progress, deadline, exchange)
                .await;
        };
        loop {
            let progress = Progress::default();
            let end = match self.0.keys.claim(&key, &progress)? {
                Claim::Run(run) => {
                    return self
                        .send_command(call, Some(run), progress, deadline, exchange)
                        .await;
                }
                Claim::Known(kept) => Some(End::Answered(kept)),
                Claim::InDoubt => Some(End::InDoubt),
                Claim::Wait(waiter) => waiter.end(deadline).await,
            };
            match end {
                Some(End::Answered(kept)) => {
                    exchange.is_replay = true;
                    exchange.vendor_code.clone_from(&kept.vendor_code);
                    exchange.sent = Some(Sent::Yes.as_str());
                    return Ok(response::of_kept(&kept));
                }
                Some(End::InDoubt) => {
                    let look_first = look_first(&call);
                    return Err(Error::CommandInDoubt { look_first }.into());
                }
                Some(End::Failed(error)) => return Err(error),
                // The first goes on, and may yet be sent although it was not until now.
                None => return Err(Error::UpstreamTimeout(Sent::Unknown).into()),
                Some(End::CalledOff) => {} // the next one's turn
            }
        }
    }

    /// A command has a task of its own: called off while no byte has left, else run to its end, whoever still waits.
    async fn send_command(
        &self,
        call: Call,
        key: Option<Run>,
        progress: Progress,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        let _unless_it_has_left = CancelOnDrop(progress.clone());
        let (tell, told) = oneshot::channel();
        let timing = Timing::default();
        timing.begin();
        let errand = Errand {
            timing: timing.clone(),
            class: Class::Command,
            reason: "caller",
            deadline,
            patience: deadline,
            ends_at: None,
            max_idle: COMMAND_MAX_IDLE,
        };
        let request_id = exchange.request_id.clone();
        let command =
            self.clone()
                .run_command(call, key, errand, progress.clone(), request_id, tell);
        self.0.commands.spawn(Box::pin(command)); // else it is copied from hand to hand until it runs
        let told = timeout_at(deadline, told).await;
        timing.tell(exchange);
        let answered = match told {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(Error::Internal(progress.sent()).into()), // the command's task is gone
            Err(_) if progress.cancel() => {
                return Err(Error::Overloaded {
                    retry_after: Duration::ZERO,
                }
                .into());
            }
            Err(_) => return Err(Error::UpstreamTimeout(progress.sent()).into()),
        };
        exchange
            .vendor_code
            .clone_from(&answered.answer.vendor_code);
        exchange.fault = response::fault_of(answered.answer.outcome).map(Fault::as_str);
        exchange.sent = Some(Sent::Yes.as_str());
        Ok(response::of_command(
            answered.answer,
            answered.deadline,
            (answered.line, answered.permit),
        ))
    }

    async fn run_command(
        self,
        call: Call,
        key: Option<Run>,
        errand: Errand,
        progress: Progress,
        request_id: String,
        tell: oneshot::Sender<Result<Answered, Arc<Error>>>,
    ) {
        let metrics = &self.0.metrics;
        let started = Instant::now();
        let (this, target) = (&*self.0, &call.target);
        let reach = this
            .scopes
            .reach(&call.tenant, &target.route, &call.params, &this.latest);
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        let unless_it_ends = CutOff {
            metrics,
            request_id: &request_id,
            route,
            tenant,
            started,
            progress: &progress,
        };
        let secret = call.tenant.signers.active(); // one that a query has proven, during a rotation
        let result = tokio::select! {
            () = progress.cancelled() => None, // no byte has left, and nobody waits
            result = self.call(&call, &errand, secret, &progress, key.as_ref(), || reach.invalidate(None)) => Some(result),
        };
        let result = result.map(|result| result.map_err(Arc::new));
        if progress.sent() != Sent::No {
            reach.invalidate(Some(Instant::now()));
            metrics.invalidation("command");
        }
        if let Some(key) = key {
            let ended = result.as_ref().map(|result| match result {
                Ok(answered) => Ok(&answered.answer),
                Err(error) => Err(error),
            });
            if let Err(error) = key.settle(ended, wall_clock()).await {
                let sent = progress.sent().as_str();
                metrics.key_not_saved(&request_id, route, tenant, sent, &error);
            }
        }
        if let Some(Err(error)) = &result
            && let Error::StateStoreUnavailable(cause) = &**error
        {
            metrics.key_not_saved(&request_id, route, tenant, Sent::No.as_str(), cause);
        }
        std::mem::forget(unless_it_ends);
        let Some(result) = result else { return };
        if matches!(&result, Err(error) if error.sent() == Sent::Unknown) {
            metrics.command_outcome_unknown(route, tenant);
        }
        if let Err(result) = tell.send(result) {
            let (outcome, vendor_code) = match &result {
                Ok(answered) => (
                    answered.answer.outcome.as_str(),
                    answered.answer.vendor_code.as_deref(),
                ),
                Err(error) => (error.code(), None),
            };
            let duration = started.elapsed();
            let end = CommandEnd {
                sent: progress.sent().as_str(),
                outcome,
                vendor_code,
                duration,
            };
            metrics.abandoned_command(&request_id, route, tenant, &end);
        }
    }
}

/// What to ask before a command whose outcome is not known is sent once more. It names fields, not what they hold.
fn look_first(call: &Call) -> String {
    let Kind::Command {
        invalidates: Some(queries),
        ..
    } = &call.target.route.kind
    else {
        return "find out with a query".into();
    };
    let Some(query) = queries.first() else {
        return "find out".into();
    };
    match Named::fields(&call.params).as_slice() {
        [] => format!("ask {query}"),
        fields => format!("ask {query} by {}", fields.join(" and ")),
    }
}

/// Records a command that is still under way when the process ends.
struct CutOff<'a> {
    metrics: &'a Metrics,
    request_id: &'a str,
    route: usize,
    tenant: usize,
    started: Instant,
    progress: &'a Progress,
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        let sent = self.progress.sent();
        if sent != Sent::No {
            self.metrics
                .command_outcome_unknown(self.route, self.tenant);
        }
        let end = CommandEnd {
            sent: sent.as_str(),
            outcome: "cut_off",
            vendor_code: None,
            duration: self.started.elapsed(),
        };
        self.metrics
            .abandoned_command(self.request_id, self.route, self.tenant, &end);
    }
}

/// Cancels a call, if that is still possible, when its caller stops waiting for whatever reason.
struct CancelOnDrop(Progress);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
