//! What does a call get? The order of the checks, the failures that strike between them, the
//! effect, and the counters.
//!
//! Nothing here waits: all of a call happens at one moment, under one lock, and is told later.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::code::{self, Answer, Code, Language, Refusal};
use super::endpoints::{self, Call};
use super::generator::Generator;
use super::json::{self, Object};
use super::limits::Limits;
use super::params::Params;
use super::settings::{Breakage, Settings, Stage, TimestampUnit};
use super::sign::Signer;
use super::world::World;

/// Timestamps from here on are milliseconds, if either unit is accepted: the year 5138 in seconds,
/// 1973 in milliseconds.
const MILLISECONDS_BEGIN: u64 = 100_000_000_000;
/// Which calls fail, where it is a share of them.
const FAILURES_SEED: u64 = 7;

/// Who may call.
pub(super) struct Account {
    pub(super) access_code: String,
    pub(super) signer: Signer,
}

/// A call that was read whole.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// Below the base path.
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
    pub(super) language: Language,
    /// Since 1970.
    pub(super) now: Duration,
}

/// The answer, and what is done to the connection on its way.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) breakage: Option<Breakage>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            breakage: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    world: World,
    counters: Counters,
    limits: Limits,
    failures: Generator,
}

/// Since the start or the last reset.
#[derive(Debug, Default, Clone, Serialize)]
struct Counters {
    /// All that arrived below the base path, by path.
    calls: BTreeMap<&'static str, u64>,
    bad_signatures: u64,
    stale_timestamps: u64,
    refused_by_limit: Refused,
    failures: u64,
}

#[derive(Debug, Default, Clone, Serialize)]
struct Refused {
    requests_per_second: u64,
    requests_per_day: u64,
    connections: u64,
}

/// What the control endpoint shows.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    state: &'a Settings,
    counters: Counted<'a>,
}

#[derive(Debug, Serialize)]
struct Counted<'a> {
    total_calls: u64,
    #[serde(flatten)]
    counters: &'a Counters,
    highest_calls_in_any_second: usize,
    connections: usize,
    highest_connections: usize,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            world: World::new(),
            counters: Counters::default(),
            limits: Limits::default(),
            failures: Generator::new(FAILURES_SEED),
        }
    }

    /// World and counters back to the start; the settings stay.
    pub(super) fn reset(&mut self) {
        self.world = World::new();
        self.counters = Counters::default();
        self.limits.reset();
        self.failures = Generator::new(FAILURES_SEED);
    }

    pub(super) fn report(&self) -> Report<'_> {
        Report {
            state: &self.settings,
            counters: Counted {
                total_calls: self.counters.calls.values().sum(),
                counters: &self.counters,
                highest_calls_in_any_second: self.limits.highest_calls(),
                connections: self.limits.connections(),
                highest_connections: self.limits.highest_connections(),
            },
        }
    }

    /// A connection's first call is about to be read.
    pub(super) fn connect(&mut self, source: IpAddr) -> Result<(), &'static Code> {
        self.limits.connect(source, &self.settings)
    }

    pub(super) fn refuse_connection(&mut self) {
        self.counters.refused_by_limit.connections += 1;
    }

    pub(super) fn disconnect(&mut self, source: IpAddr) {
        self.limits.disconnect(source);
    }

    /// The head of a call has arrived.
    pub(super) fn arrive(
        &mut self,
        source: IpAddr,
        path: &str,
        now: Instant,
    ) -> Result<(), &'static Code> {
        let path = endpoints::known(path).unwrap_or("other");
        *self.counters.calls.entry(path).or_default() += 1;
        let outcome = self.limits.call(source, now, &self.settings);
        let refused = &mut self.counters.refused_by_limit;
        match outcome {
            Err(refusal) if *refusal == code::TOO_MANY_IN_A_SECOND => {
                refused.requests_per_second += 1;
            }
            Err(_) => refused.requests_per_day += 1,
            Ok(()) => {}
        }
        outcome
    }

    /// Failures, signature, time, effect, in that order.
    pub(super) fn answer(&mut self, account: &Account, call: &Received<'_>) -> Reply {
        if let Some(reply) = self.fail(Stage::Before, call, None) {
            return reply;
        }
        let params = match self.verify(account, call) {
            Ok(params) => params,
            Err(refusal) => return Answer::refusal(&refusal, call.language).into(),
        };
        if let Some(reply) = self.fail(Stage::After, call, None) {
            return reply;
        }
        let params = Params(&params);
        let sign = params.optional("sign").unwrap_or_default();
        let verified = Call {
            params,
            sign,
            answer_sign: account.signer.answer(sign),
            now: i64::try_from(call.now.as_secs()).unwrap_or(i64::MAX / 2),
        };
        let answer = match endpoints::answer(&mut self.world, call.path, &verified) {
            Ok(data) => Answer::success(&data, call.language),
            Err(refusal) => Answer::refusal(&refusal, call.language),
        };
        match self.fail(Stage::AfterEffect, call, Some(&answer)) {
            Some(reply) => reply,
            None => answer.into(),
        }
    }

    /// The parameters, if their signature and timestamp are good. The timestamp is judged last:
    /// before the signature it is anybody's.
    fn verify(&mut self, account: &Account, call: &Received<'_>) -> Result<Object, Refusal> {
        let object = json::parse(call.body)
            .map_err(|error| Refusal::of(&code::INVALID_BODY, &error.to_string()))?;
        let params = Params(&object);
        let access_code = params.required("access_code")?;
        let timestamp = params.required("timestamp")?;
        params.required("version")?;
        let sign = params.required("sign")?;
        if access_code != account.access_code {
            return Err(Refusal::from(&code::UNKNOWN_ACCESS_CODE));
        }
        if !account.signer.is_signed(&object, sign) {
            self.counters.bad_signatures += 1;
            return Err(Refusal::from(&code::BAD_SIGNATURE));
        }
        let stamped = instant(timestamp, self.settings.timestamp_unit);
        let stamped = stamped.ok_or_else(|| Refusal::of(&code::INVALID_PARAMETER, "timestamp"))?;
        if stamped.abs_diff(call.now) > self.settings.timestamp_window {
            self.counters.stale_timestamps += 1;
            return Err(Refusal::from(&code::STALE_TIMESTAMP));
        }
        Ok(object)
    }

    /// The failure that strikes here, if one was asked for. A connection that only breaks breaks on
    /// `answer`, if there is one already.
    fn fail(
        &mut self,
        stage: Stage,
        call: &Received<'_>,
        answer: Option<&Answer>,
    ) -> Option<Reply> {
        let settings = &mut self.settings;
        let status = settings.fail_status;
        let breakage = settings.fail;
        let asked = status.is_some() || settings.fail_code.is_some() || breakage.is_some();
        let here = settings.apply == stage
            && settings
                .fail_path
                .as_ref()
                .is_none_or(|path| path == call.path);
        if !asked || !here || settings.fail_count == Some(0) {
            return None;
        }
        if !self.failures.chance(settings.fail_rate) {
            return None;
        }
        if let Some(count) = &mut settings.fail_count {
            *count -= 1;
        }
        self.counters.failures += 1;
        let code = settings.fail_code.as_deref();
        let answer = match answer {
            Some(answer) if status.is_none() && code.is_none() => answer.clone(),
            _ => Answer::failure(status, code, call.language),
        };
        Some(Reply { answer, breakage })
    }
}

/// The moment a timestamp names; its unit is told by its size, or given.
fn instant(timestamp: &str, unit: TimestampUnit) -> Option<Duration> {
    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = timestamp.parse().ok()?;
    Some(match unit {
        TimestampUnit::Seconds => Duration::from_secs(number),
        TimestampUnit::Auto if number < MILLISECONDS_BEGIN => Duration::from_secs(number),
        TimestampUnit::Auto | TimestampUnit::Milliseconds => Duration::from_millis(number),
    })
}

#[cfg(test)]
mod tests;
