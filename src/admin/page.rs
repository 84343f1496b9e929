//! What does the page show? The state at a glance, as a person reads it; the template makes it
//! HTML, and escapes it.
//!
//! The page is the only form of this: its script reads it again, and draws from the figures that
//! stand in it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use askama::Template;
use bytesize::ByteSize;

use crate::access::Access;
use crate::config::{Config, Kind, Route, UnlistedPaths};
use crate::gateway::request::tenant::UNKNOWN;
use crate::live::Current;
use crate::reload::LastRead;
use crate::telemetry::recent::Failure;
use crate::telemetry::totals::{Requests, Totals};
use crate::telemetry::{REVISION, Snapshot, log};
use crate::words::{RequestResult, Sent};

/// What a browser may do with the page: load the files beside it, and ask the listener it came
/// from.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page's files, with their types.
pub const FILES: [(&str, &str, &str); 3] = [
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
    (
        "/script.js",
        "text/javascript; charset=utf-8",
        include_str!("page/script.js"),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// A clock this far from Linksfield's deserves a thought; its timestamps are signed.
const CLOCK_APART: f64 = 30.0;

/// So long before its end a certificate deserves a thought.
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What the page is made from.
#[derive(Debug)]
pub struct Shown<'a> {
    /// What is in effect.
    pub current: &'a Current,
    /// How it went when the configuration's file was read last; none where it came from no file.
    pub last_read: Option<LastRead>,
    /// Is the process ending?
    pub is_draining: bool,
    /// How long it has run.
    pub up_for: Duration,
    /// May the reader see requests?
    pub shows_requests: bool,
    /// Now.
    pub now: SystemTime,
}

#[derive(Template)]
#[template(path = "index.html", config = "src/admin/page/askama.toml")]
struct Page<'a> {
    version: &'static str,
    revision: &'static str,
    now: String,
    concerns: Vec<Concern>,
    cards: Vec<Card>,
    results: Vec<(&'static str, u64)>,
    calls: u64,
    outcomes: &'a BTreeMap<String, u64>,
    call_seconds: f64,
    mean_latency: String,
    windows: Vec<Window>,
    shows_ids: bool,
    failures: &'a [Failure],
    routes: Vec<RouteRow<'a>>,
    tenants: Vec<TenantRow<'a>>,
    callers: Vec<CallerRow<'a>>,
    can_explain: bool,
    needs_token: bool,
    example_path: &'static str,
    languages: &'a [String],
    configuration: &'a str,
}

/// How much something matters: a class of the style sheet.
type Weight = &'static str;
const PLAIN: Weight = "plain";
const GOOD: Weight = "good";
const WARN: Weight = "warn";
const BAD: Weight = "bad";

/// Something that somebody should know first.
struct Concern {
    weight: Weight,
    text: String,
}

struct Card {
    title: &'static str,
    weight: Weight,
    value: String,
    lines: Vec<String>,
}

/// A limit of the vendor's, and what is left of it.
struct Window {
    name: &'static str,
    title: &'static str,
    limit: u64,
    left: u64,
}

struct RouteRow<'a> {
    path: &'a str,
    is_listed: bool,
    kind: &'static str,
    policy: String,
    sums: Sums,
}

struct TenantRow<'a> {
    name: &'a str,
    is_configured: bool,
    access_code: &'a str,
    commands: &'static str,
    sums: Sums,
    unknown: u64,
}

struct CallerRow<'a> {
    name: &'a str,
    tenants: String,
    commands: &'static str,
    sums: Sums,
}

/// The figures of a row.
struct Sums {
    requests: u64,
    from_memory: String,
    refused: u64,
    calls: u64,
}

/// The page, as HTML.
pub fn render(shown: &Shown<'_>) -> Result<String, askama::Error> {
    let current = shown.current;
    let (totals, snapshot) = (current.metrics.totals(), current.gateway.snapshot());
    let config = &current.config;
    let windows = windows(config, &snapshot);
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        revision: REVISION,
        now: time(shown.now),
        concerns: concerns(shown, &totals, &snapshot),
        cards: cards(shown, &totals, &snapshot, &windows),
        results: totals.requests.by_result().collect(),
        calls: totals.calls,
        outcomes: &totals.calls_by_outcome,
        call_seconds: totals.call_seconds,
        mean_latency: mean_latency(&totals),
        windows,
        shows_ids: shown.shows_requests,
        failures: &totals.failures,
        routes: routes(config, &totals),
        tenants: tenants(config, &totals),
        callers: callers(config, &totals),
        can_explain: !matches!(current.access, Access::Nobody),
        needs_token: matches!(current.access, Access::Token(_)),
        example_path: super::EXPLAINED_PATH,
        languages: &config.upstream.languages,
        configuration: &current.configuration,
    };
    page.render()
}

impl Page<'_> {
    #[expect(
        clippy::unused_self,
        clippy::trivially_copy_pass_by_ref,
        reason = "a template calls it"
    )]
    fn grouped(&self, number: &u64) -> String {
        grouped(*number)
    }

    #[expect(clippy::unused_self, reason = "a template calls it")]
    fn time(&self, at: &SystemTime) -> String {
        time(*at)
    }
}

/// What somebody should know first.
fn concerns(shown: &Shown<'_>, totals: &Totals, snapshot: &Snapshot) -> Vec<Concern> {
    let mut all = Vec::new();
    let mut add = |weight, text: String| all.push(Concern { weight, text });
    concerns_of_us(shown, snapshot, &mut add);
    concerns_of_linksfield(shown, snapshot, &mut add);
    concerns_of_commands(totals, snapshot, &mut add);
    concerns_of_the_day(snapshot, &mut add);
    all
}

/// Adds one.
type Add<'a> = &'a mut dyn FnMut(&'static str, String);

fn concerns_of_us(shown: &Shown<'_>, snapshot: &Snapshot, add: Add<'_>) {
    if snapshot.commands.store_failing {
        let text = "server.state_dir cannot be written, or its disk hangs: commands with an idempotency key are refused, all else goes on. See the log and the runbook (StateStoreLost).";
        let remedy = if snapshot.state_store_failed {
            " A write has failed: restart once the disk is well."
        } else {
            ""
        };
        add(BAD, format!("{text}{remedy}"));
    }
    if shown.is_draining {
        add(
            WARN,
            "Draining: not ready any more; what is in flight finishes.".into(),
        );
    }
    let config = &shown.current.config;
    if config.upstream.paused {
        let text = "upstream.paused is on: Linksfield is not asked, queries are answered from memory only.";
        add(WARN, text.into());
    }
    if !config.server.commands {
        let text = "server.commands is off: the commands of everybody are refused.";
        add(WARN, text.into());
    }
    let refused = config.routes.iter();
    let refused = refused.filter(|(_, route)| route.kind == Kind::Refuse);
    for (path, _) in refused {
        add(WARN, format!("The route {path} is refused."));
    }
    if let Some(refusal) = refusal(shown) {
        let text = "The configuration or a secret was refused, and the last good one stays";
        add(BAD, format!("{text}: {refusal}"));
    }
    for (name, _) in shown
        .current
        .config
        .tenants
        .iter()
        .filter(|(_, tenant)| !tenant.commands)
    {
        add(
            WARN,
            format!("Commands of the tenant {name} are switched off."),
        );
    }
}

fn concerns_of_linksfield(shown: &Shown<'_>, snapshot: &Snapshot, add: Add<'_>) {
    if snapshot.breaker_open {
        let text = "Linksfield fails: nothing is asked now, or one call at a time. Old pages are served where they may be.";
        add(BAD, text.into());
    }
    for episode in &snapshot.episodes {
        let (route, tenant, answer) = (&episode.route, &episode.tenant, &episode.answer);
        let text = format!(
            "Linksfield's usual answer to {route} of {tenant} is {answer}, which nothing classifies: taken for its failure, and asked by one call at a time."
        );
        add(BAD, text);
    }
    if snapshot.upstream.slots_held > 0 {
        let text = "Connections held by calls that Linksfield does not end, though their time has passed: {}.";
        add(
            WARN,
            text.replace("{}", &snapshot.upstream.slots_held.to_string()),
        );
    }
    if let Some(seconds) = snapshot
        .upstream
        .clock_skew
        .filter(|seconds| seconds.abs() >= CLOCK_APART)
    {
        let text = "The clocks are apart: Linksfield's is";
        add(
            WARN,
            format!(
                "{text} {}. Signatures carry the time, so Linksfield may refuse them all: see the node's time service.",
                ahead(seconds)
            ),
        );
    }
    if let Some(at) = certificate_end(snapshot).filter(|at| *at < shown.now + CERTIFICATE_ENDS_SOON)
    {
        add(
            WARN,
            format!("Linksfield's certificate ends at {}.", time(at)),
        );
    }
}

fn concerns_of_commands(totals: &Totals, snapshot: &Snapshot, add: Add<'_>) {
    let in_doubt = snapshot.commands.keys.in_doubt;
    if in_doubt > 0 {
        let text =
            "Commands in doubt: {}. Look with a query before one is sent again under a new key.";
        add(BAD, text.replace("{}", &in_doubt.to_string()));
    }
    if totals.commands.in_doubt > 0 {
        let (all, late) = (totals.commands.in_doubt, totals.commands.answered_late);
        let text = format!(
            "Commands that were in doubt, with a key or without, since the start: {}. Answered later: {}. The log names each (in_doubt).",
            grouped(all),
            grouped(late)
        );
        add(WARN, text);
    }
}

fn concerns_of_the_day(snapshot: &Snapshot, add: Add<'_>) {
    match snapshot.quota.thrift {
        0 => {}
        4 => add(
            BAD,
            "The queries' part of the day is spent: they are refused unless memory answers them."
                .into(),
        ),
        thrift => add(
            WARN,
            format!("The day's budget runs short: {}.", spared(thrift)),
        ),
    }
}

fn cards(shown: &Shown<'_>, totals: &Totals, snapshot: &Snapshot, windows: &[Window]) -> Vec<Card> {
    vec![
        readiness(shown),
        vendor(totals, snapshot),
        day(snapshot, windows),
        second(snapshot, windows),
        under_way(shown.current, snapshot),
        in_doubt(totals, snapshot),
        memory(shown.current, totals, snapshot),
        configuration(shown),
    ]
}

fn readiness(shown: &Shown<'_>) -> Card {
    let (weight, value) = if shown.is_draining {
        (WARN, "draining")
    } else {
        (GOOD, "ready")
    };
    let up_for = Duration::from_secs(shown.up_for.as_secs());
    let connections = shown.current.metrics.connections().get();
    Card {
        title: "This process",
        weight,
        value: value.into(),
        lines: vec![
            format!("up for {}", humantime::format_duration(up_for)),
            format!("connections of callers: {connections}"),
        ],
    }
}

fn vendor(totals: &Totals, snapshot: &Snapshot) -> Card {
    let (weight, value) = if snapshot.breaker_open {
        (BAD, "breaker open")
    } else if !snapshot.episodes.is_empty() {
        (BAD, "breaker open in part")
    } else {
        (GOOD, "breaker closed")
    };
    let clock = snapshot
        .upstream
        .clock_skew
        .map_or("not known yet".into(), ahead);
    let mut lines = vec![
        format!("mean latency: {}", mean_latency(totals)),
        format!("clock: {clock}"),
    ];
    lines.extend(certificate_end(snapshot).map(|at| format!("certificate until: {}", time(at))));
    Card {
        title: "Linksfield",
        weight,
        value: value.into(),
        lines,
    }
}

fn day(snapshot: &Snapshot, windows: &[Window]) -> Card {
    let quota = &snapshot.quota;
    let left = |name| windows.iter().find(|window| window.name == name);
    let Some(day) = left("day") else {
        return Card {
            title: "Budget of the day",
            weight: PLAIN,
            value: "no limit".into(),
            lines: Vec::new(),
        };
    };
    let mut lines = Vec::new();
    if let Some(queries) = left("day_queries") {
        lines.push(format!("for queries: {}", grouped(queries.left)));
    }
    if day.left < day.limit {
        let at = quota.resets_at.iter().find(|(name, _)| *name == "day");
        lines.extend(at.map(|(_, at)| format!("more comes at {}", time(since_1970(*at)))));
    }
    if quota.assumed {
        lines.push("calls of before the start are not known".into());
    }
    Card {
        title: "Budget of the day",
        weight: match quota.thrift {
            0 => PLAIN,
            4 => BAD,
            _ => WARN,
        },
        value: format!("{} of {}", grouped(day.left), grouped(day.limit)),
        lines,
    }
}

fn second(snapshot: &Snapshot, windows: &[Window]) -> Card {
    let left = |name| windows.iter().find(|window| window.name == name);
    let of = |window: &Window| format!("{} of {}", grouped(window.left), grouped(window.limit));
    let mut lines = Vec::new();
    let rate = snapshot.quota.allowed_rate;
    if rate.is_finite() {
        lines.push(format!("allowed now: {} a second", short(rate)));
    }
    lines.extend(left("connections").map(|window| format!("connections: {}", of(window))));
    Card {
        title: "Budget of the second",
        weight: PLAIN,
        value: left("second").map_or("no limit".into(), of),
        lines,
    }
}

fn under_way(current: &Current, snapshot: &Snapshot) -> Card {
    let queue = snapshot.quota.queue_length.iter();
    let waiting: usize = queue.map(|(_, number)| number).sum();
    Card {
        title: "Requests in flight",
        weight: PLAIN,
        value: current.metrics.requests_in_flight().get().to_string(),
        lines: vec![
            format!("calls that wait for their turn: {waiting}"),
            format!("fills: {}", snapshot.cache.fills_in_flight),
            format!("commands: {}", current.gateway.commands_in_flight()),
        ],
    }
}

fn in_doubt(totals: &Totals, snapshot: &Snapshot) -> Card {
    let keys = snapshot.commands.keys;
    let weight = match (keys.in_doubt, totals.commands.in_doubt) {
        (0, 0) => PLAIN,
        (0, _) => WARN,
        _ => BAD,
    };
    Card {
        title: "Commands in doubt",
        weight,
        value: keys.in_doubt.to_string(),
        lines: vec![
            format!(
                "in doubt since the start: {}",
                grouped(totals.commands.in_doubt)
            ),
            format!("keys: {} running, {} kept", keys.running, keys.kept),
        ],
    }
}

fn memory(current: &Current, totals: &Totals, snapshot: &Snapshot) -> Card {
    let bytes = ByteSize::b(snapshot.cache.bytes);
    Card {
        title: "Queries from memory",
        weight: PLAIN,
        value: from_memory(totals.requests),
        lines: vec![
            format!("pages: {}", grouped(snapshot.cache.entries)),
            format!("{bytes} of {}", current.config.cache.max_size),
            format!(
                "dropped for want of room: {}",
                grouped(snapshot.cache.evictions)
            ),
        ],
    }
}

fn configuration(shown: &Shown<'_>) -> Card {
    let mut lines = vec![match &shown.last_read {
        None => "it came from no file".into(),
        Some(LastRead { at, refusal: None }) => format!("read at {}: in effect", time(*at)),
        Some(LastRead { at, .. }) => format!("read at {}: refused", time(*at)),
    }];
    lines.extend(log::levels().map(|levels| format!("log level {levels}")));
    Card {
        title: "Configuration",
        weight: if refusal(shown).is_some() { BAD } else { PLAIN },
        value: shown.current.hash(),
        lines,
    }
}

fn refusal<'a>(shown: &'a Shown<'_>) -> Option<&'a str> {
    shown.last_read.as_ref()?.refusal.as_deref()
}

fn windows(config: &Config, snapshot: &Snapshot) -> Vec<Window> {
    let quota = &snapshot.quota;
    let limit = |name| {
        let mut limits = quota.limit.iter();
        limits
            .find(|(window, _)| *window == name)
            .map_or(0.0, |(_, limit)| *limit)
    };
    let for_queries = 1.0 - config.upstream.limits.command_reserve;
    let remaining = quota.remaining.iter();
    let windows = remaining.map(|&(name, left)| {
        let (title, limit) = match name {
            "second" => ("this second", limit(name)),
            "connections" => ("connections", limit(name)),
            "day_queries" => ("the day, for queries", limit("day") * for_queries),
            _ => ("the day", limit(name)),
        };
        Window {
            name,
            title,
            limit: whole(limit),
            left: whole(left),
        }
    });
    windows.collect()
}

fn routes<'a>(config: &'a Config, totals: &Totals) -> Vec<RouteRow<'a>> {
    let row = |path: &'a str, is_listed, kind, policy| RouteRow {
        path,
        is_listed,
        kind,
        policy,
        sums: sums(path, &totals.by_route, &totals.calls_by_route),
    };
    let (kind, policy) = match config.server.unlisted_paths {
        UnlistedPaths::Forward => (Kind::Command, "every path that is not configured"),
        UnlistedPaths::Refuse => (Kind::Refuse, "every path that is not configured"),
    };
    let listed = config.routes.iter();
    listed
        .map(|(path, route)| row(path, true, route.kind.as_str(), policy_of(route)))
        .chain([row(UNKNOWN, false, kind.as_str(), policy.into())])
        .collect()
}

fn policy_of(route: &Route) -> String {
    let seconds = humantime::format_duration;
    match route.kind {
        Kind::Query => format!(
            "fresh for {}, stale for {}, for {} while Linksfield fails",
            seconds(route.fresh_for),
            seconds(route.stale_for),
            seconds(route.stale_if_error)
        ),
        Kind::Command => match &route.invalidates {
            None => "invalidates every query of its tenant".into(),
            Some(paths) if paths.is_empty() => "invalidates nothing".into(),
            Some(paths) => format!("invalidates {}", paths.join(", ")),
        },
        Kind::Refuse => String::new(),
    }
}

fn tenants<'a>(config: &'a Config, totals: &Totals) -> Vec<TenantRow<'a>> {
    let row = |name: &'a str, tenant: Option<&'a crate::config::Tenant>| TenantRow {
        name,
        is_configured: tenant.is_some(),
        access_code: tenant.map_or("", |tenant| &tenant.access_code),
        commands: tenant.map_or("", |tenant| {
            if tenant.commands && config.server.commands {
                "on"
            } else {
                "off"
            }
        }),
        sums: sums(name, &totals.by_tenant, &totals.calls_by_tenant),
        unknown: totals
            .commands
            .in_doubt_by_tenant
            .get(name)
            .copied()
            .unwrap_or_default(),
    };
    let listed = config.tenants.iter();
    listed
        .map(|(name, tenant)| row(name, Some(tenant)))
        .chain([row(UNKNOWN, None)])
        .collect()
}

fn callers<'a>(config: &'a Config, totals: &Totals) -> Vec<CallerRow<'a>> {
    let row = |name: &'a str, tenants: String, commands| CallerRow {
        name,
        tenants,
        commands,
        sums: sums(name, &totals.by_caller, &BTreeMap::new()),
    };
    let listed = config.callers.iter();
    listed
        .map(|(name, caller)| {
            let commands = if caller.commands { "yes" } else { "no" };
            row(name, caller.tenants.join(", "), commands)
        })
        .chain([row(UNKNOWN, String::new(), "")])
        .collect()
}

fn sums(label: &str, requests: &BTreeMap<String, Requests>, calls: &BTreeMap<String, u64>) -> Sums {
    let requests = requests.get(label).copied().unwrap_or_default();
    Sums {
        requests: requests.total(),
        from_memory: from_memory(requests),
        refused: requests.of(RequestResult::Refused),
        calls: calls.get(label).copied().unwrap_or_default(),
    }
}

/// The share of the queries that a page in memory answered.
fn from_memory(requests: Requests) -> String {
    let answered = requests.of(RequestResult::Hit) + requests.of(RequestResult::Stale);
    let queries = requests.total()
        - requests.of(RequestResult::Command)
        - requests.of(RequestResult::Refused);
    match queries {
        0 => "–".into(),
        _ => format!("{} %", (answered * 100 + queries / 2) / queries),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mean_latency(totals: &Totals) -> String {
    match totals.calls {
        0 => "not known yet".into(),
        calls => format!("{} s", short(totals.call_seconds / calls as f64)),
    }
}

/// What the day's budget demands to spare.
fn spared(thrift: u8) -> &'static str {
    match thrift {
        1 => "nothing is fetched again in the background",
        2 => "old pages are served for longer, and nothing is fetched again in the background",
        _ => "no caller can have a fresh page fetched again, and old ones are served for longer",
    }
}

fn ahead(seconds: f64) -> String {
    let (by, direction) = (
        short(seconds.abs()),
        if seconds < 0.0 { "behind" } else { "ahead of" },
    );
    format!("{by} s {direction} ours")
}

fn certificate_end(snapshot: &Snapshot) -> Option<SystemTime> {
    let at = u64::try_from(snapshot.upstream.certificate_expires_at?).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
}

fn since_1970(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// `2026-11-25 01:42:19 UTC`
fn time(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// Three digits are enough.
fn short(number: f64) -> String {
    let text = match number {
        number if number >= 100.0 => return format!("{number:.0}"),
        number if number >= 1.0 => format!("{number:.1}"),
        number => format!("{number:.3}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `5,000`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "limits and what is left of them are counts"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        let rows = [
            (0, "0"),
            (999, "999"),
            (5000, "5,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in rows {
            assert_eq!(grouped(number), text);
        }
        assert_eq!([0.0123, 1.25, 120.4].map(short), ["0.012", "1.2", "120"]);
        assert_eq!(ahead(-2.0), "2 s behind ours");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_034_939);
        assert_eq!(time(at), "2025-11-25 01:42:19 UTC");
    }
}
