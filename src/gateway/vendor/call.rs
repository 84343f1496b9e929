//! How is Linksfield called? One call, and for queries the further attempts that may follow it.
//!
//! A call passes, in this order: the brakes, the breaker and what is usual (who would be refused
//! waits for nothing), its turn and its slot (the permit), a connection, the state disk, the
//! signature, and the connection again with the bytes. What it ended with is then told to whoever
//! learns from it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Vendor;
use super::breaker::Open;
use super::quota::{Ask, Permit, Throttled};
use super::skew::Told;
use super::unclassified::{self, Asked, At, News, Said};
use crate::clock::Moment;
use crate::gateway::brakes::Subject;
use crate::gateway::error::Error;
use crate::gateway::progress::Progress;
use crate::gateway::request::Call;
use crate::gateway::vendor::upstream::{
    Answer, Exchanged, Late, Message, NoAnswer, Slot, Stream, Vacancy,
};
use crate::telemetry::Exchange;
use crate::telemetry::trace::Trace;
use crate::words::{CallEnd, CallReason, Class, Ending, Fault, Outcome, WhichSecret};

/// A call that is proven not to have been processed is made anew, so often.
const MOST_ANEW: usize = 3;

/// A call changes its slot so often at most, then it waits for the one it has.
const MOST_CHANGES: usize = 3;

/// How a call of Linksfield is made, and why.
#[derive(Debug, Clone)]
pub struct Errand {
    /// What its owner records of it.
    pub timing: Timing,
    /// Who goes first where calls wait.
    pub class: Class,
    /// Why it is made.
    pub reason: CallReason,
    /// When who began it needs the answer.
    pub deadline: Instant,
    /// How long it waits for its turn: a fill is of use to others too.
    pub patience: Instant,
    /// When its answer is of no use any more, where that is before the time for one exchange ends.
    pub ends_at: Option<Instant>,
    /// For how long its connection may have been idle.
    pub max_idle: Duration,
}

/// When a call began to wait for its permit and when it got it, for the record of who began it.
#[derive(Debug, Clone)]
pub struct Timing(Arc<CallTimes>);

#[derive(Debug)]
struct CallTimes {
    begun: Instant,
    granted: OnceLock<Instant>,
    disk: Mutex<DiskWait>,
}

/// How long the state disk was waited for, which is no time of the vendor's.
#[derive(Debug, Default)]
struct DiskWait {
    waited: Duration,
    /// Since when it is waited for now.
    since: Option<Instant>,
}

impl Timing {
    /// Of a call that begins now.
    pub fn begin() -> Self {
        Self(Arc::new(CallTimes {
            begun: Instant::now(),
            granted: OnceLock::new(),
            disk: Mutex::default(),
        }))
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.0.begun
    }

    fn granted(&self, at: Instant) {
        let _ = self.0.granted.set(at);
    }

    fn granted_at(&self) -> Option<Instant> {
        self.0.granted.get().copied()
    }

    /// Waits for the state disk.
    async fn on_disk<T>(&self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        self.disk().since = Some(began);
        let done = work.await;
        let mut disk = self.disk();
        disk.since = None;
        disk.waited += began.elapsed();
        done
    }

    fn disk(&self) -> MutexGuard<'_, DiskWait> {
        self.0.disk.lock()
    }

    /// Tells the record how the time was spent, as far as the call has come.
    pub fn tell(&self, exchange: &mut Exchange<'_>) {
        let (now, granted) = (Instant::now(), self.granted_at());
        let disk = self.disk();
        let waited = disk.waited + disk.since.map_or(Duration::ZERO, |since| now - since);
        exchange.call.queue = Some(granted.unwrap_or(now) - self.0.begun);
        exchange.call.upstream = granted.map(|granted| (now - granted).saturating_sub(waited));
    }
}

/// A call that was answered.
pub struct Answered {
    /// What came, as far as it is read.
    pub answer: Answer,
    /// When its request was sent.
    pub sent_at: Moment,
    /// Until when what is left of the answer must have come.
    pub deadline: Instant,
    /// What the rest of the answer comes through; given up before the permit is.
    pub stream: Stream,
    /// The slot, until the answer has come.
    pub permit: Permit<Slot>,
}

/// A call that was not answered, or not in time.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub error: Error,
    /// What may come after all, where the vendor still has the request.
    pub later: Option<Later>,
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self { error, later: None }
    }
}

impl From<Open> for Unanswered {
    fn from(open: Open) -> Self {
        Error::from(open).into()
    }
}

/// The answer that may still come when the time for it has passed.
#[derive(Debug)]
pub struct Later(oneshot::Receiver<(Answer, Moment)>);

impl Later {
    /// The answer, and when its request was sent; none if the vendor has ended the connection, or
    /// was waited for no longer.
    pub async fn answer(self) -> Option<(Answer, Moment)> {
        self.0.await.ok()
    }
}

/// What its owner does with a call before the first byte leaves, beside what every call needs.
pub trait Preparation: Sync {
    /// Could it be done? Who cannot be prepared does not wait for a turn.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Is all on disk that must be there?
    fn is_durable(&self) -> bool {
        true
    }

    /// Writes it, by this time at the latest.
    fn make_durable(
        &self,
        _now: Told,
        _deadline: Instant,
    ) -> impl Future<Output = Result<Duration, Error>> + Send {
        std::future::ready(Ok(Duration::ZERO))
    }

    /// The first byte leaves next.
    fn begin(&self);
}

/// A query needs nothing more: its claim is told to those who wait for any of its attempts.
struct OfQuery<'a>(&'a Progress);

impl Preparation for OfQuery<'_> {
    fn begin(&self) {
        self.0.begin();
    }
}

/// A call that has its permit, until it has ended.
struct Attempt<'a, P> {
    call: &'a Call,
    errand: &'a Errand,
    secret: WhichSecret,
    progress: &'a Progress,
    preparation: &'a P,
    subject: Subject,
    /// When its answer must have come. What the state disk takes is added to it.
    deadline: Instant,
    /// Are the calls of the day on disk with this one among them, or is there no store?
    is_saved: bool,
    /// With this call every slot is held: by calls whose time has passed, and that the vendor has
    /// not ended.
    is_stuck: bool,
}

/// Why a call that had its permit has no answer.
enum Unsent {
    /// It was made, and counts.
    Failed(Unanswered),
    /// It was not made.
    NotMade(Error),
}

impl From<Error> for Unsent {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Vendor {
    /// Asks a query: again where the vendor fails, as long as somebody waits, the budget allows it
    /// and there is time; and once with the tenant's other secret where the signature is refused.
    pub async fn ask(
        &self,
        call: &Call,
        mut errand: Errand,
        progress: &Progress,
    ) -> Result<Answered, Unanswered> {
        let this = &*self.0;
        let retries = &this.lasting.retries;
        let signers = &call.tenant.signers;
        let (mut secret, mut is_other) = (signers.active(), false);
        let mut failures = 0;
        loop {
            let attempt = progress.attempt();
            let result = self
                .call(call, &errand, secret, &attempt, &OfQuery(progress))
                .await;
            let outcome = result.as_ref().map(|answered| answered.answer.outcome);
            if outcome.is_ok() {
                progress.answered();
            }
            if failures == 0 && !is_other && errand.timing.granted_at().is_some() {
                retries.first();
            }
            match (outcome.ok(), signers.other(secret)) {
                (Some(Outcome::BadSignature), Some(other)) if !is_other => {
                    (secret, is_other) = (other, true);
                    errand.reason = CallReason::Retry;
                    continue;
                }
                (Some(outcome), _)
                    if is_other && outcome == Outcome::Success && signers.proven(secret) =>
                {
                    let metrics = &this.metrics;
                    metrics.secret_switched(call.tenant.label, secret);
                }
                _ => {}
            }
            let answer = result.as_ref().map(|answered| &answered.answer);
            let end = end_of(answer.map_err(|unanswered| &unanswered.error), call);
            // The vendor still works at an attempt that is held: another one beside it would only
            // take one more slot.
            let is_held = answer.is_err_and(|unanswered| unanswered.later.is_some());
            if end != CallEnd::Failure || is_held || !progress.is_awaited() {
                return result;
            }
            failures += 1;
            let Some(granted_at) = errand.timing.granted_at() else {
                return result;
            };
            let ends_at = errand
                .ends_at
                .unwrap_or_else(|| granted_at + self.time_for(call));
            let wait = retries.next(failures, fastrand::f64());
            let asked_for = answer.ok();
            let asked_for = asked_for.and_then(|answer| answer.retry_after(self.wall_clock()));
            let Some(at) = wait
                .map(|wait| Instant::now() + wait.max(asked_for.unwrap_or_default()))
                .filter(|at| *at < ends_at)
            else {
                return result;
            };
            drop(result); // and its permit
            let pause = async {
                sleep_until(at).await;
                Ok(())
            };
            let brakes = &this.lasting.brakes;
            brakes.unless_applied(&call.subject(), pause).await?;
            if !progress.is_awaited() {
                return Err(called_off().into()); // nobody hears this
            }
            this.metrics.retried();
            errand.reason = CallReason::Retry;
            errand.ends_at = Some(ends_at);
            errand.patience = errand.patience.min(ends_at);
            errand.deadline = errand.deadline.min(ends_at);
        }
    }

    /// One call of Linksfield: who may make it, its permit, what is sent, and what its end says of
    /// the vendor.
    pub async fn call(
        &self,
        call: &Call,
        errand: &Errand,
        secret: WhichSecret,
        progress: &Progress,
        preparation: &impl Preparation,
    ) -> Result<Answered, Unanswered> {
        let this = &*self.0;
        let (lasting, usual_answers) = (&this.lasting, &this.usual_answers);
        let (brakes, breaker, subject) = (&lasting.brakes, &lasting.breaker, call.subject());
        let at = At {
            route: call.target.route.label,
            tenant: call.tenant.label,
        };
        brakes.check(&subject)?; // who would be refused then does not wait for its turn
        breaker.check()?;
        usual_answers.check(at, call.asked())?;
        preparation.check()?;
        let permit = self.permit(call, errand, progress, errand.patience);
        let permit = brakes.unless_applied(&subject, permit).await?;
        // Looked at again: others' calls have ended while this one waited.
        let admission = breaker.admit()?;
        let usual = usual_answers.admit(at, call.asked())?;
        let granted_at = Instant::now();
        errand.timing.granted(granted_at);
        let given = granted_at + self.time_for(call);
        let given = errand.ends_at.map_or(given, |end| end.min(given));
        let mut attempt = Attempt {
            call,
            errand,
            secret,
            progress,
            preparation,
            subject,
            deadline: given,
            is_saved: lasting.store.is_none(),
            is_stuck: false,
        };
        let mut result = match self.send(&mut attempt, permit).await {
            Ok(sent) => Ok(sent),
            Err(Unsent::Failed(unanswered)) => Err(unanswered),
            Err(Unsent::NotMade(error)) => return Err(error.into()), // it says nothing of the vendor
        };
        let ending = match &result {
            Ok(answered) => Ending::Answered(answered.answer.outcome),
            Err(unanswered) => Ending::Failed(unanswered.error.code()),
        };
        let ended_at = Instant::now();
        let answer = result.as_mut().map(|answered| &mut answered.answer);
        let answer = answer.map_err(|unanswered| &unanswered.error);
        let told = self.told_by(answer, usual, call, ended_at);
        admission.end(told, ended_at);
        if attempt.is_stuck {
            breaker.trip(ended_at);
        }
        let duration = ended_at - granted_at;
        this.latencies[at.route.0].record(duration); // who waits for the next one waits for the disk too
        let on_disk = attempt.deadline - given;
        self.record(&attempt, ending, duration.saturating_sub(on_disk));
        result
    }

    /// Sends a call that has its permit: again where it is proven that the vendor has not processed
    /// it.
    async fn send<P: Preparation>(
        &self,
        attempt: &mut Attempt<'_, P>,
        mut permit: Permit<Slot>,
    ) -> Result<Answered, Unsent> {
        let lasting = &self.0.lasting;
        let (brakes, progress) = (&lasting.brakes, attempt.progress);
        let subject = attempt.subject.clone();
        let mut anew = 0;
        loop {
            let ready = self.ready(&mut permit, attempt);
            let stream = match brakes.unless_applied(&subject, ready).await {
                Ok(stream) => stream,
                Err(error) if error.fault() == Fault::Upstream => return Err(error.into()),
                Err(error) => return Err(Unsent::NotMade(error)),
            };
            if !progress.begin() {
                return Err(Unsent::NotMade(called_off())); // nobody hears this
            }
            attempt.preparation.begin();
            let (sent_at, signed_at) = (Moment::now(), self.wall_clock());
            let thrift = permit.count(lasting.skew.tell(signed_at));
            lasting.thriftiness.set(thrift);
            let message = attempt
                .call
                .message(attempt.secret, signed_at, subject.clone());
            let upstream = &self.0.upstream;
            let exchange = upstream.exchange(stream, message, attempt.deadline, progress);
            match exchange.await {
                Exchanged::Answered(mut answer, stream) => {
                    self.compare_clocks(&answer, sent_at, signed_at);
                    self.slow_down(&mut answer, &permit);
                    return Ok(Answered {
                        answer,
                        sent_at,
                        deadline: attempt.deadline,
                        stream,
                        permit,
                    });
                }
                Exchanged::Late(late) => {
                    permit.give_up();
                    attempt.is_stuck = permit.hold();
                    return Err(Unsent::Failed(Unanswered {
                        error: Error::UpstreamTimeout(progress.sent()),
                        later: Some(self.hold(late, permit, sent_at)),
                    }));
                }
                Exchanged::Failed(NoAnswer::NotSent(_)) if anew < MOST_ANEW => anew += 1,
                Exchanged::Failed(NoAnswer::Refused(error)) if anew < MOST_ANEW => {
                    anew += 1;
                    self.record(attempt, Ending::Failed(error.code()), sent_at.elapsed());
                    drop(permit); // the vendor may have counted this one: the next takes a turn of its own
                    let until = attempt.errand.patience.min(attempt.deadline);
                    attempt.is_saved = lasting.store.is_none();
                    let another = self.permit(attempt.call, attempt.errand, progress, until);
                    permit = brakes.unless_applied(&subject, another).await?;
                }
                Exchanged::Failed(
                    NoAnswer::NotSent(error) | NoAnswer::Refused(error) | NoAnswer::Failed(error),
                ) => return Err(error.into()),
            }
        }
    }

    /// Counts what came of one that was sent.
    fn record<P>(&self, attempt: &Attempt<'_, P>, ending: Ending, duration: Duration) {
        let (route, tenant) = (attempt.call.target.route.label, attempt.call.tenant.label);
        let (metrics, reason) = (&self.0.metrics, attempt.errand.reason);
        metrics.upstream_call(route, tenant, ending, reason, duration);
    }

    /// How long one exchange may take.
    fn time_for(&self, call: &Call) -> Duration {
        let timeout = call.target.route.timeout;
        timeout.unwrap_or(self.0.exchange_timeout)
    }

    /// What the call goes through, with all on disk that must be there before its first byte. The
    /// disk's time is not taken from Linksfield's: the deadline is that much later.
    async fn ready<P: Preparation>(
        &self,
        permit: &mut Permit<Slot>,
        attempt: &mut Attempt<'_, P>,
    ) -> Result<Stream, Error> {
        let timing = &attempt.errand.timing;
        loop {
            // A disk takes its time: whether the connection may still be used is looked at after
            // it.
            let max_idle = attempt.errand.max_idle;
            let stream = self.connect(permit, max_idle, attempt.deadline).await?;
            if !attempt.preparation.is_durable() {
                let durable = attempt
                    .preparation
                    .make_durable(self.time_known(), attempt.deadline);
                attempt.deadline += timing.on_disk(durable).await?;
            } else if !attempt.is_saved {
                permit.count(self.time_known());
                let saved = self.save_calls(attempt.deadline);
                attempt.deadline += timing.on_disk(saved).await;
                attempt.is_saved = true;
            } else {
                return Ok(stream);
            }
        }
    }

    /// The time for the exchange has passed, and the vendor has the request: it may go on working
    /// at it, whatever becomes of the connection, so the slot stays taken until it has ended it.
    /// What it says meanwhile is of use all the same.
    fn hold(&self, late: Late, permit: Permit<Slot>, sent_at: Moment) -> Later {
        let (tell, later) = oneshot::channel();
        let (vendor, at_most) = (self.clone(), self.0.hold);
        tokio::spawn(async move {
            let Ok((stream, Ok(mut answer))) = timeout(at_most, late).await else {
                return;
            };
            if answer.rest.is_none() {
                vendor.slow_down(&mut answer, &permit);
                drop((stream, permit));
                let _ = tell.send((answer, sent_at));
            }
        });
        Later(later)
    }

    /// The vendor has had too many calls, if that is its answer.
    fn slow_down(&self, answer: &mut Answer, permit: &Permit<Slot>) {
        if answer.outcome == Outcome::Throttled {
            let now = self.wall_clock();
            let retry_after = answer.retry_after(now);
            if permit.throttled(retry_after) == Throttled::Foreign {
                self.0.metrics.foreign_throttle();
            }
            answer.come_again_in(permit.next_call_in(), now);
        }
    }

    /// The right to make the call, for which it waits until `until`; refused if the call can no
    /// longer be answered in time when its turn comes: what was foreseen when the wait began may
    /// have been too little.
    async fn permit(
        &self,
        call: &Call,
        errand: &Errand,
        progress: &Progress,
        until: Instant,
    ) -> Result<Permit<Slot>, Error> {
        let usual = || self.0.latencies[call.target.route.label.0].p90();
        let ask = Ask {
            tenant: call.tenant.label.0,
            class: errand.class,
            is_listed: call.target.route.is_listed,
            progress,
            deadline: errand.deadline,
            usual: usual(),
        };
        let lasting = &self.0.lasting;
        let permit = lasting.quota.acquire_until(ask, until).await;
        let permit = permit.inspect_err(|error| {
            if matches!(error, Error::BreakerOpen { .. }) {
                lasting.breaker.trip(Instant::now()); // every slot is held
            }
        })?;
        if !permit.has_waited() {
            return Ok(permit);
        }
        let awaited_until = progress.awaited_until().unwrap_or(errand.deadline);
        let in_time = errand.deadline.max(awaited_until);
        let excess = (Instant::now() + usual()).saturating_duration_since(in_time);
        if excess.is_zero() {
            return Ok(permit);
        }
        permit.decline();
        Err(Error::Overloaded {
            retry_after: excess,
        })
    }

    /// The calls of the day are on disk before one more leaves, so that not even a crash begins a
    /// new day. Where that fails the call is made all the same: `keep_saving` (`instance.rs`)
    /// tells of it. Tells how long it took.
    async fn save_calls(&self, deadline: Instant) -> Duration {
        let began = Instant::now();
        if let Some(store) = &self.0.lasting.store {
            let quota = self.0.lasting.quota.clone();
            let saved = store.save_calls(move || quota.history().saved());
            let _ = timeout_at(deadline, saved).await;
        }
        began.elapsed()
    }

    /// What the end of a call says about the vendor, counted. An answer that nothing classifies has
    /// another outcome from then on where it is the usual one of its route and tenant.
    fn told_by(
        &self,
        result: Result<&mut Answer, &Error>,
        usual: unclassified::Admission<'_>,
        call: &Call,
        now: Instant,
    ) -> CallEnd {
        let told = result.as_deref().map_err(|error| *error);
        let (metrics, end) = (&self.0.metrics, end_of(told, call));
        let (route, tenant) = (call.target.route.label, call.tenant.label);
        let verdict = usual.end(&Said::of(told.ok(), end), call.asked(), now);
        match verdict.news {
            Some(News::Begins(answer)) => {
                metrics.episode_begins(route, tenant, &answer, answer.remedy());
            }
            Some(News::Ends) => metrics.episode_ends(route, tenant),
            None => {}
        }
        // To the breaker of all it is none: that is not closed to others by what one route and
        // tenant get.
        let counted = if verdict.is_failure {
            CallEnd::Failure
        } else {
            end
        };
        metrics.upstream_ended(counted);
        let Ok(answer) = result else { return end };
        match answer.outcome {
            _ if answer.is_encoded() => metrics.encoded_answer(),
            Outcome::BadSignature => metrics.bad_signature(tenant),
            Outcome::Unknown if !is_no_envelope(answer) => metrics.unknown_code(),
            _ => {}
        }
        if verdict.is_failure {
            answer.outcome = Outcome::Usual;
        }
        end
    }

    /// What the call goes through: its slot's connection, or another's while others keep it from
    /// using that one: whichever has room first.
    async fn connect(
        &self,
        permit: &mut Permit<Slot>,
        max_idle: Duration,
        deadline: Instant,
    ) -> Result<Stream, Error> {
        let (upstream, mut changes) = (&self.0.upstream, 0);
        let vacancy = loop {
            let slot = Slot::clone(permit);
            if let Some(vacancy) = upstream.try_find(&slot, max_idle).await {
                break vacancy;
            }
            let vacant = timeout_at(deadline, upstream.find(&slot, max_idle));
            tokio::select! {
                biased;
                () = permit.change_slot(), if changes < MOST_CHANGES => changes += 1,
                found = vacant => match found {
                    Ok(vacancy) => break vacancy,
                    Err(_) => return Err(Error::Overloaded { retry_after: Duration::ZERO }),
                },
            }
        };
        match vacancy {
            Vacancy::Connected(stream) => Ok(stream),
            Vacancy::Empty(slot) => {
                // In memory of its own: with it every call's future would be larger by two
                // handshakes.
                let stream = Box::pin(upstream.connect(slot, deadline)).await?;
                if stream.is_shared() {
                    permit.slot_has_grown();
                }
                Ok(stream)
            }
        }
    }

    fn compare_clocks(&self, answer: &Answer, sent_at: Moment, signed_at: SystemTime) {
        let Some(date) = &answer.date else {
            return;
        };
        let this = &*self.0;
        let (skew, quota) = (&this.lasting.skew, &this.lasting.quota);
        if let Some(seconds) = skew.record(date, sent_at, signed_at, sent_at.elapsed()) {
            this.metrics.clocks_differ(seconds);
        }
        quota.learn(self.time_known());
    }
}

impl Call {
    /// What is asked, and by whom.
    fn asked(&self) -> Asked<'_> {
        Asked {
            params: self.params.as_str(),
            caller: self.caller.as_deref(),
        }
    }

    /// What is sent, signed at this time.
    fn message(&self, secret: WhichSecret, signed_at: SystemTime, subject: Subject) -> Message<'_> {
        let signer = self.tenant.signers.of(secret);
        Message {
            path: &self.target.path,
            language: &self.language,
            traceparent: self.trace.as_ref().and_then(Trace::header),
            body: signer.sign(&self.params, &self.tenant.access_code, signed_at),
            subject: Some(subject),
        }
    }
}

/// Of a call that its caller has called off.
fn called_off() -> Error {
    Error::Overloaded {
        retry_after: Duration::ZERO,
    }
}

/// What the end of a call says about the vendor. What is no envelope is a failure where the
/// configuration says what is asked: elsewhere a caller chooses what is answered.
fn end_of(result: Result<&Answer, &Error>, call: &Call) -> CallEnd {
    match result {
        Ok(answer) => match answer.outcome {
            Outcome::Success => CallEnd::Success,
            Outcome::Transient => CallEnd::Failure,
            Outcome::Throttled => CallEnd::Neither,
            Outcome::Unknown if is_no_envelope(answer) => {
                let is_wrong = call.target.route.is_listed && answer.status == StatusCode::OK;
                if is_wrong {
                    CallEnd::Failure
                } else {
                    CallEnd::Neither
                }
            }
            // Of a server in between: of the vendor itself it says nothing.
            Outcome::CallerError if is_no_envelope(answer) => CallEnd::Neither,
            // To all routes it says no more, and it is not asked again.
            Outcome::CallerError | Outcome::BadSignature | Outcome::Unknown | Outcome::Usual => {
                CallEnd::Refused
            }
        },
        Err(Error::BreakerOpen { .. }) => CallEnd::Neither, // it was not asked
        Err(error) => match error.fault() {
            Fault::Upstream => CallEnd::Failure,
            Fault::Gateway | Fault::Caller => CallEnd::Neither,
        },
    }
}

/// Not the vendor's words: a broken proxy's, say. What is larger than what is read, or compressed,
/// may be.
fn is_no_envelope(answer: &Answer) -> bool {
    !answer.is_envelope && answer.rest.is_none() && !answer.is_encoded()
}
