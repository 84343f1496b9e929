//! Are base URL, secret, signing and clock right? Spends one call at the real vendor to find out.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Done, Failed, load, print, print_warnings, runtime, unknown_tenant, wall_clock};
use crate::body::without_mark;
use crate::config::Files;
use crate::gateway::brakes::Brakes;
use crate::gateway::error::Error;
use crate::gateway::language::Languages;
use crate::gateway::params::Params;
use crate::gateway::progress::Progress;
use crate::gateway::sign::Signer;
use crate::gateway::tenant::Tenants;
use crate::gateway::upstream::{
    Answer, Exchanged, Message, NoAnswer, Outcome, Protocol, Shape, Slot, Traffic, Upstream,
    Vacancy,
};

/// A query that costs nothing, and whose smallest answer is small.
const PATH: &str = "/package/queryOrder";
const BODY: &[u8] = br#"{"page_no":1,"page_size":1}"#;

/// The clock skew that the vendor tolerates is 10 minutes for its Cube family, and not known for this one.
const TOLERABLE_SKEW: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The configuration, in TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The tenant whose account is used.
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// Sign wrongly on purpose, to learn which code the vendor answers then.
    #[arg(long)]
    wrong_signature: bool,
}

pub(super) fn run(options: &Options) -> Done {
    let (mut config, secrets, _) = load(&options.config, &Files::once())?;
    print_warnings(&secrets.warnings);
    let uses_http2 = std::mem::replace(&mut config.upstream.http2, true); // offered here in any case
    let tenants = Tenants::new(&config, &secrets)?;
    let tenant = tenants
        .named(&options.tenant)
        .ok_or_else(|| unknown_tenant(&config, &options.tenant))?;
    let ca = secrets.ca.as_ref();
    let brakes = Brakes::new(&config);
    let upstream = Upstream::new(&config.upstream, ca, brakes, Traffic::default());
    let upstream = Arc::new(upstream);
    let signer = if options.wrong_signature {
        Signer::new(&SecretString::from("00"), &config.signing)?
    } else {
        tenant.signers.of(tenant.signers.active()).clone()
    };
    let languages = Languages::new(&config.upstream.languages);
    let params = Params::parse(BODY)?;

    let asked = runtime(1)?.block_on(async {
        let deadline = Instant::now() + config.upstream.timeout;
        let slot = Slot::default();
        let connected = match upstream.find(&slot, Duration::ZERO).await {
            Vacancy::Connected(stream) => Ok(stream),
            Vacancy::Empty(slot) => upstream.connect(slot, deadline).await,
        };
        let stream = connected.map_err(NoAnswer::Failed)?;
        let protocol = stream.protocol();
        let (progress, sent_at) = (Progress::default(), Instant::now());
        progress.begin();
        let body = signer.sign(&params, &tenant.access_code, wall_clock());
        let message = Message {
            path: PATH,
            language: languages.choose(None),
            traceparent: None,
            body,
            subject: None,
        };
        let exchanged = upstream
            .exchange(stream, message, deadline, &progress)
            .await;
        match exchanged {
            Exchanged::Answered(answer, _) => Ok((answer, sent_at.elapsed(), protocol)),
            Exchanged::Failed(failure) => Err(failure),
            Exchanged::Late(_) => {
                let error = Error::UpstreamTimeout(progress.sent());
                Err(NoAnswer::Failed(error))
            }
        }
    });
    let (answer, duration, protocol) = asked.map_err(|failure| match failure {
        NoAnswer::Failed(error) | NoAnswer::NotSent(error) | NoAnswer::Refused(error) => {
            Failed(with_causes(&error))
        }
    })?;
    let mut report = format!(
        "asked   {}{PATH} for one order of the tenant {}\n",
        config.upstream.base_url, tenant.name
    );
    describe(&mut report, &answer, duration, wall_clock());
    let is_https = config.upstream.base_url.is_https();
    let _ = writeln!(
        report,
        "http    {}",
        version(protocol, is_https, uses_http2)
    );
    let verdict = if options.wrong_signature {
        refused(&answer)
    } else {
        accepted(&answer)
    };
    match verdict {
        Ok(verdict) => print(&format!("{report}{verdict}\n")),
        Err(verdict) => Err(Failed(format!("{report}{verdict}"))),
    }
}

fn describe(report: &mut String, answer: &Answer, duration: Duration, now: SystemTime) {
    #[derive(Deserialize)]
    struct Told {
        message: Option<String>,
    }
    let told = serde_json::from_slice::<Told>(without_mark(&answer.body))
        .ok()
        .and_then(|told| told.message);
    let code = answer
        .vendor_code
        .as_deref()
        .unwrap_or("none: the body is not the vendor's envelope");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(report, "{name:7} {value}");
    };
    line(
        "answer",
        &format!(
            "HTTP {} after {:.3} s",
            answer.status,
            duration.as_secs_f64()
        ),
    );
    line("code", code);
    if let Some(message) = told {
        // Of the vendor's text only what a terminal shows as text.
        line(
            "message",
            &message
                .chars()
                .filter(|character| !character.is_control())
                .take(200)
                .collect::<String>(),
        );
    }
    line("clock", &clock(answer, duration, now));
}

/// The vendor's `Date` against our clock at the middle of the exchange; `Date` has whole seconds.
fn clock(answer: &Answer, duration: Duration, now: SystemTime) -> String {
    let date = answer
        .date
        .as_ref()
        .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let Some(date) = date else {
        return "the answer has no Date, so the skew is not known".into();
    };
    let middle = now - duration / 2;
    let (skew, direction) = match middle.duration_since(date) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew > TOLERABLE_SKEW {
        format!(
            "ours is {} s {direction} the vendor's: set it right, signatures carry the time",
            skew.as_secs()
        )
    } else {
        "ours and the vendor's agree".into()
    }
}

/// What the vendor has chosen of HTTP/2 and HTTP/1.1.
fn version(chosen: Protocol, is_https: bool, uses_http2: bool) -> &'static str {
    match (chosen, is_https, uses_http2) {
        (Protocol::Http2, _, true) => "HTTP/2, as upstream.http2 is on",
        (Protocol::Http2, _, false) => {
            "the vendor takes HTTP/2: with upstream.http2 = true a connection carries many requests at a time"
        }
        (Protocol::Http1, false, _) => "HTTP/1.1: without TLS HTTP/2 is not offered",
        (Protocol::Http1, true, false) => "HTTP/1.1: the vendor does not take HTTP/2",
        (Protocol::Http1, true, true) => {
            "HTTP/1.1: the vendor does not take HTTP/2, so upstream.http2 has no effect"
        }
    }
}

fn accepted(answer: &Answer) -> Result<String, String> {
    let code = answer.vendor_code.as_deref().unwrap_or_default();
    match answer.outcome {
        Outcome::Success if matches!(answer.shape(), Shape::Page(_)) => Ok("Base URL, secret and signing are right.".into()),
        Outcome::Success => Err("A success, but not of the shape of an order query: is this the base URL of the right API?".into()),
        Outcome::BadSignature => Err("The signature was not accepted: check the secret, then the [signing] section with calibrate.".into()),
        Outcome::Throttled => Err("The vendor's limits are reached, so nothing is known: try again later.".into()),
        Outcome::Transient => Err("The vendor fails for now, so nothing is known: try again later.".into()),
        Outcome::CallerError | Outcome::Unknown | Outcome::Usual if !answer.is_envelope => {
            Err("Whoever answered is not this API: check upstream.base_url, its path included.".into())
        }
        Outcome::CallerError | Outcome::Unknown | Outcome::Usual => Err(format!(
            "The vendor refused with code {code:?}. If --wrong-signature brings the same code, it means a bad signature:\n\
             check the secret, then the [signing] section with calibrate."
        )),
    }
}

fn refused(answer: &Answer) -> Result<String, String> {
    match (answer.outcome, answer.vendor_code.as_deref()) {
        (Outcome::Success, _) => Err("The vendor accepted a wrong signature: is this a test system that checks none?".into()),
        (Outcome::Throttled | Outcome::Transient, _) => Err("The vendor did not get to the signature: try again later.".into()),
        (_, Some(code)) if answer.status.is_success() => Ok(format!(
            "A wrong signature is answered with this code. Put it into the configuration:\n\n[upstream.codes]\nbad_signature = [{code:?}]"
        )),
        (Outcome::BadSignature, _) => Ok("A wrong signature is answered with this status, which always counts: nothing to configure.".into()),
        _ => Err("Whoever answered is not this API: check upstream.base_url, its path included.".into()),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
