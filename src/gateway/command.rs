//! How is a command sent once, whatever becomes of its caller, and however often it asks under one
//! key? The owner of the idempotency keys, and of the commands under way.

pub mod doubt;
pub mod keys;

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::keys::{Claim, End, Kept, Key, Keys, Run};
use super::error::Error;
use super::progress::Progress;
use super::query::cache::Named;
use super::query::reach::{Latest, Reach, Scopes};
use super::request::Call;
use super::request::route::Kind;
use super::response;
use super::vendor::Vendor;
use super::vendor::call::{Answered, Errand, Later, Preparation, Timing, Unanswered};
use super::vendor::skew::Told;
use crate::body::Body;
use crate::clock::Moment;
use crate::gateway::vendor::upstream::{Answer, COMMAND_MAX_IDLE};
use crate::id::RequestId;
use crate::task::DetachOnDrop;
use crate::telemetry::{CommandEnd, CommandLevels, Exchange, Metrics, RouteLabel, TenantLabel};
use crate::words::{
    CallReason, Class, Ending, Fault, InvalidationCause, Outcome, RequestResult, Sent,
};

/// The commands of one configuration. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Commands(Arc<CommandParts>);

#[derive(Debug)]
struct CommandParts {
    vendor: Vendor,
    lasting: LastingCommands,
    /// The queries that commands may change, of this configuration and of the latest one.
    scopes: Arc<Scopes>,
    latest: Latest,
    metrics: Arc<Metrics>,
}

/// What is known of commands, under whatever configuration. A clone is the same.
#[derive(Debug, Clone)]
pub struct LastingCommands {
    keys: Keys,
    /// The drain waits for them.
    under_way: TaskTracker,
}

impl LastingCommands {
    /// Nothing is under way yet.
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            under_way: TaskTracker::new(),
        }
    }

    /// How many commands are under way.
    pub fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    /// Waits until every command that is under way has ended.
    pub async fn finished(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}

impl Commands {
    /// The commands of this configuration, which may change these queries.
    pub fn new(
        vendor: Vendor,
        lasting: &LastingCommands,
        scopes: Arc<Scopes>,
        latest: Latest,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(CommandParts {
            vendor,
            lasting: lasting.clone(),
            scopes,
            latest,
            metrics,
        }))
    }

    /// The idempotency keys.
    pub fn keys(&self) -> &Keys {
        &self.0.lasting.keys
    }

    /// How many are under way.
    pub fn in_flight(&self) -> usize {
        self.0.lasting.in_flight()
    }

    /// The values of now, for the metrics.
    pub fn levels(&self) -> CommandLevels {
        CommandLevels {
            keys: self.keys().census(),
            store_failing: self.keys().store_is_failing(),
        }
    }

    /// What would be done with this command; nothing is sent.
    pub fn explain(&self, call: &Call) -> Value {
        let route = &call.target.route;
        let (requires_key, settle) = match &route.kind {
            Kind::Command {
                requires_key,
                settle,
                ..
            } => (*requires_key, *settle),
            Kind::Query(_) | Kind::Refuse => (false, Duration::ZERO),
        };
        json!({
            "kind": "command",
            "result": RequestResult::Command.as_str(),
            "reason": if route.is_listed {
                "this path is configured as a command"
            } else {
                "this path is not configured, and what is not configured as a query is a command"
            },
            "invalidates": self.reach(call).paths(),
            "settle": settle.as_secs_f64(),
            "requires_idempotency_key": requires_key,
        })
    }

    /// What a command may change.
    fn reach(&self, call: &Call) -> Reach {
        let (this, route) = (&*self.0, &call.target.route);
        this.scopes
            .reach(&call.tenant, route, &call.params, &this.latest)
    }

    /// Under a key a command is sent once: whoever comes later gets what the first has got, or will
    /// get.
    pub async fn answer(
        &self,
        call: Call,
        key: Option<Key>,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        exchange.result = RequestResult::Command;
        let Some(key) = key else {
            let progress = Progress::default();
            return self
                .send_command(call, None, progress, deadline, exchange)
                .await;
        };
        loop {
            let progress = Progress::default();
            let end = match self.0.lasting.keys.claim(&key, &progress)? {
                Claim::Run(run) => {
                    return self
                        .send_command(call, Some(run), progress, deadline, exchange)
                        .await;
                }
                Claim::Known(kept) => Some(End::Answered(kept)),
                Claim::InDoubt => Some(End::InDoubt),
                Claim::Wait(mut waiter) => {
                    let end = waiter.end(deadline).await;
                    if end.is_none() {
                        let (route, tenant) = (exchange.labels.route, exchange.labels.tenant);
                        count_doubt(&self.0.metrics, waiter.progress(), route, tenant);
                    }
                    end
                }
            };
            match end {
                Some(End::Answered(kept)) => return Ok(replay(&kept, false, exchange)),
                Some(End::Doubted(kept)) => return Ok(replay(&kept, true, exchange)),
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

    /// Called off while no byte has left, else driven to its end, whoever still waits.
    async fn send_command(
        &self,
        call: Call,
        key: Option<Run>,
        progress: Progress,
        deadline: Instant,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Body>, Arc<Error>> {
        let timing = Timing::begin();
        let errand = Errand {
            timing: timing.clone(),
            class: Class::Command,
            reason: CallReason::Caller,
            deadline,
            patience: deadline,
            ends_at: None,
            max_idle: COMMAND_MAX_IDLE,
        };
        let course = Course {
            request_id: exchange.request_id.clone(),
            route: call.target.route.label,
            tenant: call.tenant.label,
            started: timing.begun(),
            progress: progress.clone(),
            _counted: self.0.lasting.under_way.token(),
        };
        let run = || self.clone().run_command(call, course, key, errand);
        let metrics = self.0.metrics.clone();
        let mut command = DetachOnDrop::new(run, move |ended: EndedCommand| ended.record(&metrics));
        let _unless_it_has_left = CancelOnDrop(progress.clone()); // dropped before the command goes on as a task
        let ended = timeout_at(deadline, &mut command).await;
        timing.tell(exchange);
        let answered = match ended.map(|ended| ended.and_then(|ended| ended.result)) {
            Ok(Some(result)) => result?,
            Ok(None) => return Err(Error::Internal(progress.sent()).into()), // it has panicked
            Err(_) if progress.cancel() => {
                return Err(Error::Overloaded {
                    retry_after: Duration::ZERO,
                }
                .into());
            }
            Err(_) => {
                let (route, tenant) = (exchange.labels.route, exchange.labels.tenant);
                count_doubt(&self.0.metrics, &progress, route, tenant);
                return Err(Error::UpstreamTimeout(progress.sent()).into());
            }
        };
        let answer = &answered.answer;
        let in_doubt = doubt::after_answer(answer);
        let fault = if in_doubt {
            Some(Fault::Upstream) // whatever its answer is
        } else {
            response::fault_of(answer.outcome)
        };
        exchange.failure.fault = fault;
        exchange.call.outcome = Some(answer.outcome);
        exchange.call.vendor_code.clone_from(&answer.vendor_code);
        exchange
            .call
            .redirect_host
            .clone_from(&answer.redirect_host);
        exchange.call.sent = Some(Sent::Yes);
        exchange.call.in_doubt = Some(in_doubt);
        Ok(response::of_command(
            answered.answer,
            answered.deadline,
            (answered.stream, answered.permit),
        ))
    }

    async fn run_command(
        self,
        call: Call,
        course: Course, // dropped after the key: the drain waits for that
        key: Option<Run>,
        errand: Errand,
    ) -> EndedCommand {
        let metrics = &self.0.metrics;
        let (progress, route, tenant) = (&course.progress, course.route, course.tenant);
        let reach = self.reach(&call);
        let start = Start {
            key: key.as_ref(),
            reach: &reach,
        };
        let unless_it_ends = CutOff {
            metrics,
            course: &course,
        };
        let secret = call.tenant.signers.active(); // one that a query has proven, during a rotation
        let result = tokio::select! {
            biased;
            () = progress.cancelled() => None, // no byte has left, and nobody waits
            result = self.0.vendor.call(&call, &errand, secret, progress, &start) => Some(result),
        };
        let (result, later) = match result {
            None => (None, None),
            Some(Ok(answered)) => (Some(Ok(Box::new(answered))), None),
            Some(Err(Unanswered { error, later })) => (Some(Err(Arc::new(error))), later),
        };
        if progress.sent() != Sent::No {
            reach.invalidate(Some(Moment::now()));
            metrics.invalidation(InvalidationCause::Command);
        }
        let request_id = course.request_id.as_str();
        let unsettled = key.as_ref().map(Run::unsettled);
        let ended = result.as_ref().map(|result| match result {
            Ok(answered) => Ok(&answered.answer),
            Err(error) => Err(error),
        });
        let in_doubt = ended.is_some_and(is_in_doubt);
        if in_doubt {
            count_doubt(metrics, progress, route, tenant); // before those are told who wait with the key
        }
        if let Some(key) = key
            && let Err(error) = key.settle(ended, self.0.vendor.time_known()).await
        {
            let sent = progress.sent();
            metrics.key_not_saved(request_id, route, tenant, sent, &error);
        }
        if let Some(Err(error)) = &result
            && let Error::StateStoreUnavailable(cause) = &**error
        {
            metrics.key_not_saved(request_id, route, tenant, Sent::No, cause);
        }
        std::mem::forget(unless_it_ends);
        if let Some(later) = later {
            let late = LateCommand {
                request_id: course.request_id.clone(),
                started: course.started,
                call: call.clone(),
                key: unsettled,
            };
            tokio::spawn(self.clone().settle_late(late, later)); // the drain does not wait for it
        }
        EndedCommand { result, course }
    }

    /// The vendor still has a command whose time has passed: what it says after all settles the
    /// doubt.
    async fn settle_late(self, command: LateCommand, later: Later) {
        let Some((mut answer, _)) = later.answer().await else {
            return;
        };
        let (this, call) = (&*self.0, &command.call);
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        let caller = call.caller.as_deref();
        if this.vendor.is_usual_of_queries(tenant, caller, &answer) {
            answer.outcome = Outcome::Usual;
        }
        self.reach(call).invalidate(Some(Moment::now()));
        this.metrics.invalidation(InvalidationCause::Command);
        let request_id = command.request_id.as_str();
        if let Some(key) = command.key
            && let Err(error) = key.settle(&answer, self.0.vendor.time_known()).await
        {
            this.metrics
                .key_not_saved(request_id, route, tenant, Sent::Yes, &error);
        }
        let end = CommandEnd {
            sent: Sent::Yes,
            ending: Some(Ending::Answered(answer.outcome)),
            vendor_code: answer.vendor_code.as_deref(),
            cause: None,
            in_doubt: doubt::after_answer(&answer),
            duration: command.started.elapsed(),
        };
        this.metrics.late_answer(request_id, route, tenant, &end);
    }
}

/// What happens right before the first byte of a command: its key is on disk, and what it may
/// change is not found any more.
struct Start<'a> {
    key: Option<&'a Run>,
    reach: &'a Reach,
}

impl Preparation for Start<'_> {
    fn check(&self) -> Result<(), Error> {
        self.key.map_or(Ok(()), Run::check_store)
    }

    fn is_durable(&self) -> bool {
        self.key.is_none_or(Run::is_durable)
    }

    async fn make_durable(&self, now: Told, deadline: Instant) -> Result<Duration, Error> {
        match self.key {
            Some(key) => key.make_durable(now, deadline).await,
            None => Ok(Duration::ZERO),
        }
    }

    fn begin(&self) {
        self.reach.invalidate(None);
    }
}

/// A command whose answer has not come in time.
struct LateCommand {
    request_id: RequestId,
    started: Instant,
    call: Call,
    key: Option<keys::Unsettled>,
}

/// Counts a command that is in doubt: once, however many are told.
fn count_doubt(metrics: &Metrics, progress: &Progress, route: RouteLabel, tenant: TenantLabel) {
    if progress.is_first_doubt() {
        metrics.command_in_doubt(route, tenant);
    }
}

fn is_in_doubt(ended: Result<&Answer, &Arc<Error>>) -> bool {
    match ended {
        Ok(answer) => doubt::after_answer(answer),
        Err(error) => doubt::after_error(error),
    }
}

/// The answer that an earlier command under the same key has got.
fn replay(kept: &Kept, in_doubt: bool, exchange: &mut Exchange<'_>) -> Response<Body> {
    exchange.is_replay = true;
    exchange.call.vendor_code.clone_from(&kept.vendor_code);
    exchange.failure.fault = in_doubt.then_some(Fault::Upstream);
    exchange.call.sent = Some(Sent::Yes);
    exchange.call.in_doubt = Some(in_doubt);
    response::of_kept(kept)
}

struct EndedCommand {
    /// None: it was called off. (Boxed, as it is handed on a few times.)
    result: Option<Result<Box<Answered>, Arc<Error>>>,
    course: Course,
}

impl EndedCommand {
    /// Nobody was there to be told. The drain waits for `course` to go, and that outlives what has
    /// been answered and its permit.
    fn record(self, metrics: &Metrics) {
        let Self { course, result } = self;
        match &result {
            None => {}
            Some(Ok(answered)) => {
                let answer = &answered.answer;
                let code = answer.vendor_code.as_deref();
                let in_doubt = is_in_doubt(Ok(answer));
                let ending = Ending::Answered(answer.outcome);
                course.record(metrics, Some(ending), code, None, in_doubt);
            }
            Some(Err(error)) => {
                let (cause, in_doubt) = (error.cause_text(), is_in_doubt(Err(error)));
                let ending = Ending::Failed(error.code());
                course.record(metrics, Some(ending), None, cause.as_deref(), in_doubt);
            }
        }
    }
}

/// What a command is recorded with when its caller has gone.
struct Course {
    request_id: RequestId,
    route: RouteLabel,
    tenant: TenantLabel,
    started: Instant,
    progress: Progress,
    /// The drain waits for it.
    _counted: TaskTrackerToken,
}

impl Course {
    fn record(
        &self,
        metrics: &Metrics,
        ending: Option<Ending>,
        vendor_code: Option<&str>,
        cause: Option<&str>,
        in_doubt: bool,
    ) {
        let end = CommandEnd {
            sent: self.progress.sent(),
            ending,
            vendor_code,
            cause,
            in_doubt,
            duration: self.started.elapsed(),
        };
        metrics.abandoned_command(self.request_id.as_str(), self.route, self.tenant, &end);
    }
}

/// What to ask before a command whose outcome is not known is sent once more. It names fields, not
/// what they hold.
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

/// Records a command that is still under way when the process ends, or that has panicked.
struct CutOff<'a> {
    metrics: &'a Metrics,
    course: &'a Course,
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        let course = self.course;
        let in_doubt = course.progress.sent() != Sent::No;
        if in_doubt {
            count_doubt(self.metrics, &course.progress, course.route, course.tenant);
        }
        course.record(self.metrics, None, None, None, in_doubt);
    }
}

/// Cancels a call, if that is still possible, when its caller stops waiting for whatever reason.
struct CancelOnDrop(Progress);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
