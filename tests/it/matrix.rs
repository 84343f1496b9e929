//! What a caller gets in each failure of Linksfield: the table of `docs/faults.md`, cell by cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::http2::offering;
use crate::support::answer::{Answer, Fault, raw, wire, with_lines};
use crate::support::frames::{Frames, INTERNAL_ERROR, NO_ERROR, Peer, REFUSED_STREAM, Told};
use crate::support::gateway::Gateway;
use crate::support::{Reply, Upstream, failure, gateway, page, success, until, upstream};
use crate::tls::certificate_with;

/// How Linksfield fails.
#[derive(Clone)]
enum Failure {
    /// It answers like this.
    Answers(Answer),
    /// It has answered everything like this, for so long that it is the usual answer.
    Usually(Answer),
    /// Nobody listens.
    Refused,
    /// Its side resets each connection before it reads a request.
    Resets,
}

fn failures() -> Vec<(&'static str, Failure)> {
    let good = || page(1, 2, 105);
    let fault = |fault| Failure::Answers(good().fault(fault));
    let answers = |status, body: Vec<u8>| Failure::Answers(raw(status, body));
    let refusal = || failure("4711").body;
    let oversized = success(&serde_json::json!({ "x": "x".repeat(70_000) }));
    let busy = raw(503, refusal()).header("Retry-After", "30");
    let heads = |lines| Failure::Answers(wire(with_lines(lines, &good().body)));
    let switch = wire("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n");
    let encoded = raw(200, b"\x1f\x8b".to_vec()).header("Content-Encoding", "gzip");
    let not_utf_8 = b"{\"code\":\"0000\",\"message\":\"\xff\",\"success\":true}".to_vec();
    let redirect = raw(302, "").header("Location", "https://login.example/");
    let html = |status, retry_after| {
        Failure::Answers(raw(status, "<html>").header("Retry-After", retry_after))
    };
    vec![
        ("connection refused", Failure::Refused),
        ("reset before the request", Failure::Resets),
        ("reset after the request", fault(Fault::Reset)),
        ("cut in mid-body", fault(Fault::Cut)),
        ("no answer", fault(Fault::Hang)),
        ("an answer that trickles", fault(Fault::Trickle)),
        ("500", answers(500, refusal())),
        ("503 with Retry-After: 30", Failure::Answers(busy)),
        ("502 with HTML", answers(502, b"<html>".to_vec())),
        ("408", answers(408, refusal())),
        ("a transient code (200)", answers(200, failure("3003").body)),
        ("429", answers(429, refusal())),
        ("bad signature (403)", answers(403, refusal())),
        (
            "business error (200, another code)",
            answers(200, refusal()),
        ),
        (
            "an unknown code to everything",
            Failure::Usually(failure("4711")),
        ),
        (
            "an unknown code with 400 to everything",
            Failure::Usually(raw(400, failure("4711").body)),
        ),
        (
            "a firewall's HTML (403) to everything",
            Failure::Usually(raw(403, "<html>")),
        ),
        ("not JSON", answers(200, b"<html>".to_vec())),
        ("oversized", Failure::Answers(oversized)),
        ("delimited by close", fault(Fault::CloseDelimited)),
        ("an odd header line", heads("X-Cookie : a\r\n")),
        (
            "a folded Content-Length",
            heads("Content-Length:\r\n 3\r\n"),
        ),
        ("a switch of protocols (101)", Failure::Answers(switch)),
        ("compressed unasked", Failure::Answers(encoded)),
        ("not UTF-8", answers(200, not_utf_8)),
        ("a redirect", Failure::Answers(redirect)),
        ("429 of a balancer, Retry-After: 7", html(429, "7")),
        ("503 of a balancer, Retry-After: 30", html(503, "30")),
    ]
}

/// A gateway before a vendor that is well until [`fail`](Case::fail).
struct Case {
    upstream: Upstream,
    gateway: Gateway,
    fails: Arc<AtomicBool>,
    failure: Failure,
    calls: usize,
}

impl Case {
    async fn of(failure: &Failure, fresh_for: &str) -> Self {
        let fails = Arc::new(AtomicBool::new(false));
        let (failing, answer) = (fails.clone(), failure.clone());
        let upstream = upstream()
            .script(move |_| match &answer {
                Failure::Answers(answer) | Failure::Usually(answer)
                    if failing.load(Ordering::SeqCst) =>
                {
                    answer.clone()
                }
                _ => page(1, 2, 105),
            })
            .run()
            .await;
        let is_slow = matches!(failure, Failure::Answers(answer)
            if matches!(answer.fault, Some(Fault::Hang | Fault::Trickle)));
        let timeout = if is_slow { "\"3s\"" } else { "\"15s\"" };
        let gateway = gateway(&upstream)
            .set("routes./package/queryOrder.fresh_for", fresh_for)
            .set("routes./package/queryOrder.stale_for", "\"0s\"")
            .set("upstream.retry.attempts", "2")
            .set("upstream.retry.backoff", "\"1ms\"")
            .set("upstream.timeout", timeout)
            .set("upstream.connect_timeout", "\"10s\"")
            .set("upstream.max_answer", "\"64KiB\"")
            .set("upstream.codes.transient", "[\"3003\"]")
            .set("upstream.breaker.open_for", "\"1h\"")
            .run()
            .await;
        Self {
            upstream,
            gateway,
            fails,
            failure: failure.clone(),
            calls: 0,
        }
    }

    /// Brings a page into memory.
    async fn remember(&self) {
        until("a page is in memory", async || {
            self.gateway.page(1).await.status == 200
        })
        .await;
    }

    async fn fail(mut self) -> Self {
        if matches!(self.failure, Failure::Usually(_)) {
            self.gateway.page(50).await; // a success
        }
        self.fails.store(true, Ordering::SeqCst);
        match self.failure {
            Failure::Answers(_) => {}
            Failure::Usually(_) => {
                for number in 51..=70 {
                    self.gateway.page(number).await;
                }
            }
            Failure::Refused => self.upstream.stop().await,
            Failure::Resets => self.upstream.reset_connections(),
        }
        self.calls = self.upstream.calls();
        self
    }

    fn cell(&self, reply: &Reply) -> String {
        cell(reply, self.upstream.calls() - self.calls)
    }
}

/// Status; `sent` of an error of ours, else what memory had to do with it; the calls that the
/// vendor has seen.
pub fn cell(reply: &Reply, calls: usize) -> String {
    let status = reply.header("cache-status").unwrap_or_default();
    let is_ours = reply.header("content-type") == Some("application/problem+json");
    let told = if is_ours {
        let (_, code, sent) = reply.problem();
        format!("`{code}`, sent {sent}")
    } else if reply.header("idempotency-replayed") == Some("true") {
        "the answer of the first".to_owned()
    } else {
        let (_, told) = status.split_once("; ").unwrap_or_default();
        let kept = told.split("; ").filter(|part| !part.starts_with("ttl="));
        kept.collect::<Vec<_>>().join(", ")
    };
    format!("{} {told} · {calls}", reply.status)
}

/// Of a command with a key, twice.
pub fn twice(first: &str, second: &str) -> String {
    if first == second {
        format!("{first}, and again")
    } else {
        format!("{first}, then {second}")
    }
}

async fn row(failure: Failure) -> Vec<String> {
    let miss = async {
        let case = Case::of(&failure, "\"0s\"").await.fail().await;
        case.cell(&case.gateway.page(1).await)
    };
    let in_memory = async |fresh_for| {
        let case = Case::of(&failure, fresh_for).await;
        case.remember().await;
        let case = case.fail().await;
        case.cell(&case.gateway.page(1).await)
    };
    let command = async {
        let case = Case::of(&failure, "\"0s\"").await.fail().await;
        let cell = case.cell(&case.gateway.order().await);
        let calls = case.upstream.calls() - case.calls;
        assert!(calls <= 1, "a command is never sent twice");
        cell
    };
    let with_a_key = async {
        let case = Case::of(&failure, "\"0s\"").await.fail().await;
        let order = async || {
            let key = [("Idempotency-Key", "one")];
            let reply = case.gateway.post("/package/orderPackage", &key, "{}").await;
            let is_in_doubt = reply.header("x-linksfield-in-doubt") == Some("true");
            (case.cell(&reply), is_in_doubt)
        };
        let (first, is_in_doubt) = order().await;
        let outcomes = [first, order().await.0];
        assert_eq!(
            is_in_doubt,
            outcomes[1].contains("`command_in_doubt`"),
            "what is in doubt says so: {outcomes:?}"
        );
        let calls = case.upstream.calls() - case.calls;
        let is_freed = outcomes[0].starts_with("429") || outcomes[0].starts_with("403");
        assert!(
            calls <= 1 || is_freed,
            "a command that may have been done is never sent twice"
        );
        twice(&outcomes[0], &outcomes[1])
    };
    let before_a_command = async {
        let case = Case::of(&failure, "\"1h\"").await;
        case.remember().await;
        let case = case.fail().await;
        let order = case.gateway.order().await;
        let is_not_sent = order.header("content-type") == Some("application/problem+json")
            && order.json()["sent"] == "no";
        let after = case.gateway.page(1).await;
        let is_hit = after
            .header("cache-status")
            .unwrap_or_default()
            .contains("; hit");
        assert!(
            is_not_sent || !is_hit,
            "no page of before a command is served"
        );
    };
    let (miss, fresh, stale, command, keyed, ()) = tokio::join!(
        miss,
        in_memory("\"1h\""),
        in_memory("\"0s\""),
        command,
        with_a_key,
        before_a_command
    );
    vec![miss, fresh, stale, command, keyed]
}

/// A cell of the document: several outcomes where both can be, as the reset may be noticed before a
/// byte has left.
fn is_told(cell: &str, told: &str) -> bool {
    told.split(" or ").any(|one| one == cell)
}

/// The rows of the document's table with this first heading must be these.
pub fn assert_told(heading: &str, rows: &[(&str, Vec<String>)]) {
    let document = include_str!("../../docs/faults.md");
    let lines = document
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let told: Vec<Vec<&str>> = lines
        .skip(2)
        .take_while(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let table: String = rows
        .iter()
        .map(|(name, cells)| format!("| {name} | {} |\n", cells.join(" | ")))
        .collect();
    assert_eq!(told.len(), rows.len(), "the table is\n{table}");
    for ((name, cells), told) in rows.iter().zip(&told) {
        let agrees = told.len() == cells.len() + 1
            && told[0] == *name
            && cells
                .iter()
                .zip(&told[1..])
                .all(|(cell, told)| is_told(cell, told));
        assert!(
            agrees,
            "{name} is told otherwise: {told:?}; the table is\n{table}"
        );
    }
}

#[tokio::test]
async fn in_each_failure_each_request_gets_what_the_document_says() {
    let mut rows = Vec::new();
    for (name, failure) in failures() {
        rows.push((name, row(failure).await)); // one after the other: each starts five gateways
    }
    assert_told("Linksfield", &rows);
}

/// What Linksfield does with a call by HTTP/2.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Refuses,
    RefusesOnce,
    Resets,
    /// In the middle of its answer.
    ResetsLate,
    /// A GOAWAY leaves the call out; the next connection is well.
    GoesAwayBefore,
    /// A GOAWAY includes the call, and the connection ends.
    GoesAwayWith,
    /// A GOAWAY includes the call, and it is answered.
    GoesAwayAfter,
    Cuts,
    Hangs,
}

const FATES: [(&str, Fate); 9] = [
    ("stream refused", Fate::RefusesOnce),
    ("stream refused, again and again", Fate::Refuses),
    ("stream reset", Fate::Resets),
    ("stream reset in mid-answer", Fate::ResetsLate),
    ("GOAWAY that leaves the call out", Fate::GoesAwayBefore),
    ("GOAWAY that includes it, then the end", Fate::GoesAwayWith),
    (
        "GOAWAY that includes it, then the answer",
        Fate::GoesAwayAfter,
    ),
    ("connection cut", Fate::Cuts),
    ("no answer", Fate::Hangs),
];

/// Serves all connections.
async fn play(vendor: Frames, fate: Fate, calls: Arc<AtomicUsize>) {
    loop {
        let peer = vendor.accept().await;
        tokio::spawn(play_one(peer, fate, calls.clone()));
    }
}

async fn play_one(mut peer: Peer, fate: Fate, calls: Arc<AtomicUsize>) {
    loop {
        let call = match peer.told_beside_pings().await {
            Told::Request(call) => call,
            Told::Ended => return,
            _ => continue,
        };
        let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        match fate {
            Fate::Refuses => peer.reset(call, REFUSED_STREAM).await,
            Fate::RefusesOnce if is_first => peer.reset(call, REFUSED_STREAM).await,
            Fate::Resets => peer.reset(call, INTERNAL_ERROR).await,
            Fate::ResetsLate => {
                peer.begin_to_answer(call).await;
                peer.reset(call, NO_ERROR).await;
            }
            Fate::GoesAwayBefore if is_first => peer.go_away(0, NO_ERROR).await,
            Fate::GoesAwayWith => {
                peer.go_away(call, NO_ERROR).await;
                return;
            }
            Fate::GoesAwayAfter => {
                peer.go_away(call, NO_ERROR).await;
                peer.answer(call).await;
            }
            Fate::Cuts => return,
            Fate::Hangs => {}
            Fate::RefusesOnce | Fate::GoesAwayBefore => peer.answer(call).await,
        }
    }
}

async fn row_of_http2(fate: Fate) -> Vec<String> {
    let case = async || {
        let (acceptor, authority) = certificate_with("localhost", &["h2"]);
        let vendor = Frames::listen(acceptor).await;
        let timeout = if matches!(fate, Fate::Hangs) {
            "\"3s\""
        } else {
            "\"15s\""
        };
        let gateway = offering(&vendor.url(), &authority, 1)
            .set("upstream.retry.attempts", "2")
            .set("upstream.retry.backoff", "\"1ms\"")
            .set("upstream.timeout", timeout)
            .run()
            .await;
        let calls = Arc::default();
        tokio::spawn(play(vendor, fate, Arc::clone(&calls)));
        (gateway, calls)
    };
    let seen = |calls: &AtomicUsize| calls.load(Ordering::SeqCst);
    let miss = async {
        let (gateway, calls) = case().await;
        cell(&gateway.page(1).await, seen(&calls))
    };
    let command = async {
        let (gateway, calls) = case().await;
        cell(&gateway.order().await, seen(&calls))
    };
    let with_a_key = async {
        let (gateway, calls) = case().await;
        let order = async || {
            let key = [("Idempotency-Key", "one")];
            let reply = gateway.post("/package/orderPackage", &key, "{}").await;
            cell(&reply, seen(&calls))
        };
        twice(&order().await, &order().await)
    };
    let (miss, command, keyed) = tokio::join!(miss, command, with_a_key);
    vec![miss, command, keyed]
}

#[tokio::test]
async fn in_each_failure_of_http2_each_request_gets_what_the_document_says() {
    let mut rows = Vec::new();
    for (name, fate) in FATES {
        rows.push((name, row_of_http2(fate).await));
    }
    assert_told("Linksfield, by HTTP/2", &rows);
}
