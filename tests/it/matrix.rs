//! What a caller gets in each failure of Linksfield: the table of `docs/faults.md`, cell by cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::answer::{Answer, Fault, raw};
use crate::support::gateway::Gateway;
use crate::support::{Reply, Upstream, failure, gateway, page, success, until, upstream};

/// How Linksfield fails.
#[derive(Clone)]
enum Failure {
    /// It answers like this.
    Answers(Answer),
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
    vec![
        ("connection refused", Failure::Refused),
        ("reset before the request", Failure::Resets),
        ("reset after the request", fault(Fault::Reset)),
        ("cut in mid-body", fault(Fault::Cut)),
        ("no answer", fault(Fault::Hang)),
        ("an answer that trickles", fault(Fault::Trickle)),
        ("500", answers(500, refusal())),
        ("503 with Retry-After: 30", Failure::Answers(busy)),
        ("429", answers(429, refusal())),
        ("bad signature (403)", answers(403, refusal())),
        (
            "business error (200, another code)",
            answers(200, refusal()),
        ),
        ("not JSON", answers(200, b"<html>".to_vec())),
        ("oversized", Failure::Answers(oversized)),
        ("delimited by close", fault(Fault::CloseDelimited)),
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
                Failure::Answers(answer) if failing.load(Ordering::SeqCst) => answer.clone(),
                _ => page(1, 2, 105),
            })
            .run()
            .await;
        let is_slow = matches!(failure, Failure::Answers(answer)
            if matches!(answer.fault, Some(Fault::Hang | Fault::Trickle)));
        let timeout = if is_slow { "\"1s\"" } else { "\"15s\"" };
        let gateway = gateway(&upstream)
            .set("routes./package/queryOrder.fresh_for", fresh_for)
            .set("routes./package/queryOrder.stale_for", "\"0s\"")
            .set("upstream.retry.attempts", "2")
            .set("upstream.retry.backoff", "\"1ms\"")
            .set("upstream.timeout", timeout)
            .set("upstream.connect_timeout", "\"10s\"")
            .set("upstream.max_answer", "\"64KiB\"")
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
        self.calls = self.upstream.calls();
        self.fails.store(true, Ordering::SeqCst);
        match self.failure {
            Failure::Answers(_) => {}
            Failure::Refused => self.upstream.stop().await,
            Failure::Resets => self.upstream.reset_connections(),
        }
        self
    }

    /// Status; `sent` of an error of ours, else what memory had to do with it; the calls that the vendor has seen.
    fn cell(&self, reply: &Reply) -> String {
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
        format!(
            "{} {told} · {}",
            reply.status,
            self.upstream.calls() - self.calls
        )
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
            case.cell(&reply)
        };
        let outcomes = [order().await, order().await];
        let is_again = outcomes[0] == outcomes[1];
        let calls = case.upstream.calls() - case.calls;
        let is_freed = outcomes[0].starts_with("429") || outcomes[0].starts_with("403");
        assert!(
            calls <= 1 || is_freed,
            "a command that may have been done is never sent twice"
        );
        if is_again {
            format!("{}, and again", outcomes[0])
        } else {
            format!("{}, then {}", outcomes[0], outcomes[1])
        }
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

/// A cell of the document: several outcomes where both can be, as the reset may be noticed before a byte has left.
fn is_told(cell: &str, told: &str) -> bool {
    told.split(" or ").any(|one| one == cell)
}

#[tokio::test]
async fn in_each_failure_each_request_gets_what_the_document_says() {
    let document = include_str!("../../docs/faults.md");
    let lines = document.lines().filter(|line| line.starts_with("| "));
    let told: Vec<Vec<&str>> = lines
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut rows = Vec::new();
    for (name, failure) in failures() {
        rows.push((name, row(failure).await)); // one after the other: each starts five gateways
    }
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
