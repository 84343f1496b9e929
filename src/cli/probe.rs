//! Are base URL, secret, signing and clock right? Spends one call at the real vendor to find out.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Done, Failed, load, print, print_warnings, runtime, unknown_tenant, wall_clock};
use crate::config::{BaseUrl, Files};
use crate::gateway::brakes::Brakes;
use crate::gateway::error::Error;
use crate::gateway::progress::Progress;
use crate::gateway::request::language::Languages;
use crate::gateway::request::tenant::Tenants;
use crate::gateway::vendor::upstream::{
    Answer, Exchanged, Message, NoAnswer, Protocol, SUCCESS, Shape, Slot, Traffic, UNPRINTABLE,
    Upstream, Vacancy,
};
use crate::signing::params::{Params, without_mark};
use crate::signing::sign::Signer;
use crate::words::Outcome;

/// A query that costs nothing, and whose smallest answer is small.
const PATH: &str = "/package/queryOrder";
const BODY: &[u8] = br#"{"page_no":1,"page_size":1}"#;

/// The clock skew that the vendor tolerates is 10 minutes for its Cube family, and not known for
/// this one.
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
    let base_url = &config.upstream.base_url;
    let is_https = base_url.is_https();
    let _ = writeln!(
        report,
        "http    {}",
        version(protocol, is_https, uses_http2)
    );
    let verdict = if options.wrong_signature {
        refused(&answer, base_url)
    } else {
        accepted(&answer, base_url)
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
    let code = match answer.vendor_code.as_deref() {
        Some(code) => code,
        None if answer.rest.is_some() => "none: the answer is larger than upstream.max_answer",
        None => "none: the body is not the vendor's envelope",
    };
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
        line("message", &printable(&message));
    }
    line("clock", &clock(answer, duration, now));
}

/// Of the vendor's text what a terminal shows as text: nothing that hides, moves or turns round
/// what stands beside it.
fn printable(text: &str) -> String {
    let characters = text.chars();
    let characters = characters.map(|character| match character {
        _ if character.is_whitespace() => ' ',
        _ => character,
    });
    // What need not be escaped is seen. (A mark is only escaped where it has no letter before it.)
    let is_seen = |character: &char| {
        matches!(character, '"' | '\'' | '\\')
            || format!("a{character}").escape_debug().count() == 2
    };
    characters.filter(is_seen).take(200).collect()
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

/// What to suspect first, or that nothing is wrong.
fn accepted(answer: &Answer, base_url: &BaseUrl) -> Result<String, String> {
    let answered = answered(answer);
    match answer.outcome {
        Outcome::Success if matches!(answer.shape(), Shape::Page(_)) => {
            Ok("Base URL, secret and signing are right.".into())
        }
        Outcome::Success => Err(format!(
            "A success, but not of the shape of an order query ({answered}): is upstream.base_url, which is {base_url}, that of the \
             right API?"
        )),
        _ => Err(not_judged(answer, base_url).unwrap_or_else(|| {
            if answer.outcome == Outcome::BadSignature {
                "The signature was not accepted: check the secret, then the [signing] section with calibrate.".into()
            } else {
                format!(
                    "The vendor refused: {answered}. If --wrong-signature brings the same code, it means a bad signature:\n\
                     check the secret, then the [signing] section with calibrate."
                )
            }
        })),
    }
}

/// Which code tells of a bad signature, or why this answer does not show it.
fn refused(answer: &Answer, base_url: &BaseUrl) -> Result<String, String> {
    if answer.outcome == Outcome::Success {
        return Err(
            "The vendor accepted a wrong signature: is this a test system that checks none?".into(),
        );
    }
    if let Some(reason) = not_judged(answer, base_url) {
        return Err(reason);
    }
    let answered = answered(answer);
    match (answer.outcome, answer.vendor_code.as_deref()) {
        (Outcome::BadSignature, _) => Ok(format!(
            "A wrong signature is answered with {answered}, which counts as one already: nothing to configure."
        )),
        (_, Some(code)) if code != UNPRINTABLE => Ok(format!(
            "A wrong signature is answered with this code. Put it into the configuration:\n\n[upstream.codes]\nbad_signature = [{code:?}]"
        )),
        _ => Err(format!(
            "A wrong signature is answered with {answered}, a code that cannot be configured: ask Linksfield what it means."
        )),
    }
}

/// Why an answer that is no success says nothing about the signature, if so: what to suspect first
/// instead.
fn not_judged(answer: &Answer, base_url: &BaseUrl) -> Option<String> {
    let answered = answered(answer);
    let check = format!("check upstream.base_url, its path included; it is {base_url}");
    let is_redirect = answer.status.is_redirection() && answer.status != StatusCode::NOT_MODIFIED;
    let is_elsewhere = matches!(answer.status.as_u16(), 404 | 405 | 410 | 421);
    let reason = match answer.outcome {
        Outcome::Throttled => format!(
            "The vendor's limits are reached ({answered}), so nothing is known: try again later."
        ),
        Outcome::Transient => format!(
            "The vendor, or a server before it, fails for now ({answered}), so nothing is known: try again later. If it \
             stays so, {check}."
        ),
        // A code that is configured is the vendor's word, whatever the status.
        Outcome::BadSignature if answer.is_envelope => return None,
        _ if is_redirect => {
            let host = answer.redirect_host.as_deref().unwrap_or("another path");
            format!(
                "The answer is a redirect to {host} ({answered}), and none is followed: {check}."
            )
        }
        _ if is_elsewhere => format!("Nothing takes an order query there ({answered}): {check}."),
        _ if answer.is_encoded() => format!(
            "The answer is compressed, which nobody asked for, and cannot be read ({answered}): what stands between the \
             gateway and the vendor? Then {check}."
        ),
        Outcome::BadSignature => format!(
            "Access is refused, and not by this API ({answered}): is this machine's address let in? Then {check}; last the \
             secret."
        ),
        _ if answer.rest.is_some() => format!(
            "The answer is larger than upstream.max_answer and was not read to its end ({answered}), so nothing is known: raise \
             that, or {check}."
        ),
        _ if !answer.is_envelope => {
            format!("Whoever answered is not this API ({answered}): {check}.")
        }
        _ if answer.vendor_code.as_deref() == Some(SUCCESS) => format!(
            "The code of a success, but the answer is none ({answered}): is upstream.base_url, which is {base_url}, that \
             of the right API?"
        ),
        _ => return None,
    };
    Some(reason)
}

fn answered(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    match &answer.vendor_code {
        Some(code) => format!("HTTP {status} with code {code:?}"),
        None if answer.rest.is_some() => format!("HTTP {status}"),
        None => format!("HTTP {status} without the vendor's envelope"),
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

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use hyper::header::{CONTENT_ENCODING, HeaderValue};

    use super::*;
    use crate::config::Codes;
    use crate::gateway::vendor::upstream::AnswerMeaning;

    const REFUSED: &str = r#"{"code":"4711","data":null,"message":"x","success":false}"#;
    const SIGNATURE: &str = r#"{"code":"1001","success":false}"#;
    const PAGE: &str = r#"{"code":"0000","success":true,"data":{"package_order":[],
        "page":{"cur_page_no":1,"page_size":1,"total_count":0,"total_pages":0}}}"#;
    const BASE_URL: &str = "https://vendor.example/cube/v5";

    fn answer(status: u16, body: &'static str) -> Answer {
        let codes = Codes {
            bad_signature: vec!["1001".into()],
            ..Codes::default()
        };
        let status = StatusCode::from_u16(status).unwrap();
        let meaning = AnswerMeaning::of(status, body.as_bytes(), &codes);
        Answer {
            status,
            headers: HeaderMap::new(),
            redirect_host: (status != 304 && status.is_redirection())
                .then(|| "login.example".into()),
            date: None,
            body: body.into(),
            rest: None,
            is_framed: true,
            outcome: meaning.outcome,
            is_envelope: meaning.is_envelope,
            is_readable: meaning.is_json,
            vendor_code: meaning.vendor_code,
            has_unknown_code: meaning.has_unknown_code,
        }
    }

    #[test]
    fn the_first_suspect_is_what_the_answer_is_evidence_of() {
        let base_url: BaseUrl = BASE_URL.parse().unwrap();
        let (url, secret, later) = (BASE_URL, "check the secret", "try again later");
        // For a right signature, for a wrong one: what is told first.
        let rows = [
            (200, PAGE, "are right", "accepted a wrong signature"),
            (200, SIGNATURE, secret, "already: nothing to configure"),
            (404, SIGNATURE, secret, "already: nothing to configure"),
            (200, REFUSED, secret, "[\"4711\"]"),
            (400, REFUSED, secret, "[\"4711\"]"),
            (422, REFUSED, secret, "[\"4711\"]"),
            (401, REFUSED, secret, "already: nothing to configure"),
            (403, REFUSED, secret, "already: nothing to configure"),
            (404, REFUSED, url, url),
            (404, "<html>", url, url),
            (404, "", url, url),
            (405, REFUSED, url, url),
            (410, REFUSED, url, url),
            (421, REFUSED, url, url),
            (302, "", "login.example", "login.example"),
            (307, REFUSED, url, url),
            (304, "", "is not this API", "is not this API"),
            (200, "<html>", url, url),
            (200, "{}", url, url),
            (204, "", url, url),
            (400, "<html>", url, url),
            (401, "<html>", "address let in", "address let in"),
            (403, "<html>", "address let in", "address let in"),
            (200, r#"{"code":"0000"}"#, url, url),
            (201, PAGE, url, url),
            (
                200,
                r#"{"code":"0000","success":true}"#,
                url,
                "accepted a wrong",
            ),
            (
                200,
                r#"{"code":"a b","success":false}"#,
                secret,
                "cannot be configured",
            ),
            (408, "", later, later),
            (429, REFUSED, later, later),
            (429, "<html>", later, later),
            (500, REFUSED, later, later),
            (502, "<html>", later, later),
            (503, "", later, later),
        ];
        for (status, body, of_right, of_wrong) in rows {
            let answer = answer(status, body);
            let ways = [
                (accepted(&answer, &base_url), of_right),
                (refused(&answer, &base_url), of_wrong),
            ];
            for (told, part) in ways {
                let text = told.as_ref().unwrap_or_else(|text| text);
                assert!(text.contains(part), "{status} {body}: {text}");
                let blames_the_secret = text.contains(secret);
                assert_eq!(blames_the_secret, part == secret, "{status} {body}: {text}");
                if part == url || part == later {
                    assert!(text.contains(&format!("HTTP {status}")), "{text}");
                }
            }
        }
    }

    #[test]
    fn of_the_vendors_text_only_what_is_seen_is_shown() {
        for (text, shown) in [
            ("\u{202e}live\u{2066}", "live"),
            ("a\u{200b}\u{feff}\u{ad}b", "ab"),
            ("a\u{2028}b\nc\u{a0}d", "a b c d"),
            ("\u{1b}[31mx\u{9b}\u{e000}", "[31mx"),
            ("签名错误，\"x\" 'y' \\", "签名错误，\"x\" 'y' \\"),
            ("e\u{301} हिन्दी", "e\u{301} हिन्दी"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable(&"x".repeat(500)).len(), 200);
    }

    #[test]
    fn what_cannot_be_read_for_its_encoding_is_told_so() {
        let base_url: BaseUrl = BASE_URL.parse().unwrap();
        let mut answer = answer(200, "x");
        answer
            .headers
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        for told in [accepted(&answer, &base_url), refused(&answer, &base_url)] {
            let told = told.unwrap_err();
            assert!(told.contains("compressed"), "{told}");
        }
    }
}
