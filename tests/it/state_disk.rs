//! A state disk that hangs: calls go on, keyed commands are refused, hits wait for nothing, and nothing is Linksfield's
//! fault. A state file that is lost: what had keys is never taken for new.

use std::path::Path;

use serde_json::json;

use crate::matrix::{assert_told, cell, twice};
use crate::support::gateway::{Gateway, keyed_order as order, with_state};
use crate::support::{Gate, Reply, Shim, gateway, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";

fn unavailable() -> (u16, String, String) {
    (503, "state_store_unavailable".into(), "no".into())
}

fn is_replay(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

async fn failing(gateway: &Gateway) -> bool {
    gateway.metric("state_store_failing", &[]).await == 1.0
}

fn lines(gateway: &Gateway, level: &str, message: &str) -> usize {
    let log = gateway.log();
    let told = log.iter().filter(|line| {
        line["level"] == level
            && line["message"]
                .as_str()
                .unwrap_or_default()
                .contains(message)
    });
    told.count()
}

#[tokio::test]
async fn while_the_disk_hangs_calls_go_on_keyed_commands_are_refused_and_afterwards_all_is_as_before()
 {
    let upstream = upstream()
        .script(|request| match request.path() {
            "/cube/v4/package/queryOrder" => {
                page(request.json()["page_no"].as_u64().unwrap(), 2, 9)
            }
            _ => success(&json!({})),
        })
        .run()
        .await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let run = async || {
        let builder = with_state(gateway(&upstream), &folder).under(&shim);
        let builder = builder.set("upstream.limits.requests_per_day", "5000");
        // Who waits for the disk as long as for Linksfield has no time left for that.
        let builder = builder.set("upstream.timeout", "\"1s\"");
        // Of which no order invalidates the pages.
        let info = "{ kind = \"query\", fresh_for = \"1h\" }";
        builder.set("routes./info", info).run().await
    };
    let gateway = run().await;
    assert_eq!(order(&gateway, "before").await.status, 200);
    assert_eq!(gateway.post("/info", &[], "{}").await.status, 200);
    assert!(!failing(&gateway).await);

    shim.hang();
    // The first of these is begun and lands later; the others wait behind it.
    let first = ["first", "second", "third"].map(|key| order(&gateway, key));
    for refused in futures::future::join_all(first).await {
        assert_eq!(refused.problem(), unavailable());
        let detail = refused.json()["detail"].to_string();
        assert!(detail.contains("again with the same key"), "{detail}");
    }
    until("it is known to hang", async || failing(&gateway).await).await;
    let calls = upstream.calls();
    for number in 2..12 {
        assert_eq!(gateway.page(number).await.status, 200);
        let refused = order(&gateway, &format!("key-{number}")).await;
        assert_eq!(refused.problem(), unavailable());
        assert_eq!(gateway.order().await.status, 200, "without a key");
        let hit = gateway.post("/info", &[], "{}").await;
        assert!(hit.header("cache-status").unwrap().contains("hit"));
    }
    assert!(is_replay(&order(&gateway, "before").await), "memory knows");
    assert_eq!(upstream.calls(), calls + 20);
    assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 0.0);
    let failures = gateway.metric("upstream_calls_total", &[("end", "failure")]);
    assert_eq!(failures.await, 0.0);
    until("it is told", async || lines(&gateway, "WARN", "hangs") > 0).await;
    assert!(failing(&gateway).await);

    shim.let_go();
    until("it hangs no more", async || !failing(&gateway).await).await;
    until("it is told", async || {
        lines(&gateway, "INFO", "hangs no more") > 0
    })
    .await;
    assert_eq!(lines(&gateway, "WARN", "hangs"), 1, "{}", gateway.output());
    assert_eq!(lines(&gateway, "INFO", "hangs no more"), 1);
    assert_eq!(
        order(&gateway, "second").await.status,
        200,
        "it was never sent"
    );
    assert_eq!(order(&gateway, "last").await.status, 200); // and all before it is written
    drop(gateway); // which kills it

    let gateway = run().await;
    for key in ["before", "second", "last"] {
        assert!(is_replay(&order(&gateway, key).await), "{key}");
    }
    for key in ["first", "third", "key-2"] {
        let reply = order(&gateway, key).await;
        assert!(
            reply.status == 200 && !is_replay(&reply),
            "{key} runs: {reply:?}"
        );
    }
    let sent = upstream.requests().len();
    let counted = 5000.0
        - gateway
            .metric("quota_remaining", &[("window", "day")])
            .await;
    assert_eq!(
        counted,
        f64::from(u32::try_from(sent).unwrap()),
        "a call is missing"
    );
}

#[tokio::test]
async fn a_command_under_way_when_the_hang_begins_is_answered_again_and_is_on_disk_when_it_ends() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({})).behind(&gate))
        .run()
        .await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let run = async || {
        with_state(gateway(&upstream), &folder)
            .under(&shim)
            .run()
            .await
    };
    let gateway = run().await;
    let hang = async {
        gate.arrived().await;
        shim.hang();
        gate.open();
    };
    let headers = [("Idempotency-Key", "one"), ("X-Request-Timeout", "4s")]; // it does not wait for the disk
    let first = gateway.post(ORDER, &headers, r#"{"key":"one"}"#);
    let (reply, ()) = tokio::join!(first, hang);
    assert_eq!(reply.status, 200);
    assert!(is_replay(&order(&gateway, "one").await), "memory knows");
    shim.let_go();
    until("it hangs no more", async || !failing(&gateway).await).await;
    assert!(is_replay(&order(&gateway, "one").await));
    assert_eq!(order(&gateway, "two").await.status, 200); // and all before it is written
    drop(gateway); // which kills it

    let gateway = run().await;
    assert!(is_replay(&order(&gateway, "one").await), "so does the disk");
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_process_ends_within_its_drain_time_though_its_disk_hangs() {
    let upstream = upstream().run().await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let mut gateway = with_state(gateway(&upstream), &folder)
        .set("upstream.limits.requests_per_day", "5000")
        .set("server.drain_timeout", "\"5s\"")
        .under(&shim)
        .run()
        .await;
    shim.hang();
    assert_eq!(order(&gateway, "one").await.problem(), unavailable());
    let line = gateway.exchange_of("one").await;
    let seconds = |name: &str| line[name].as_f64().unwrap();
    let of_others = seconds("duration") - seconds("upstream");
    assert!(
        of_others > 0.9,
        "the disk's second is none of the vendor's: {line}"
    );
    assert_eq!(gateway.page(1).await.status, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn while_the_disk_hangs_each_request_gets_what_the_document_says() {
    let upstream = upstream().run().await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let gateway = with_state(gateway(&upstream), &folder)
        .set("routes./info", "{ kind = \"query\", fresh_for = \"1h\" }")
        .under(&shim)
        .run()
        .await;
    assert_eq!(gateway.post("/info", &[], "{}").await.status, 200);
    shim.hang();
    let mut calls = upstream.calls();
    let mut told = |reply: &Reply| {
        let before = std::mem::replace(&mut calls, upstream.calls());
        cell(reply, upstream.calls() - before)
    };
    let miss = told(&gateway.page(1).await);
    let fresh = told(&gateway.post("/info", &[], "{}").await);
    let command = told(&gateway.order().await);
    let keyed = [
        told(&order(&gateway, "one").await),
        told(&order(&gateway, "one").await),
    ];
    let keyed = twice(&keyed[0], &keyed[1]);
    assert_told(
        "the state disk",
        &[("hangs", vec![miss, fresh, command, keyed])],
    );
    shim.let_go();
}

#[tokio::test]
async fn a_state_that_has_had_keys_and_is_lost_is_a_reason_not_to_start_until_somebody_says_so() {
    let upstream = upstream().run().await;
    let write =
        |state: &Path, content: &[u8]| std::fs::write(state.join("state.redb"), content).unwrap();
    let remove = |state: &Path| std::fs::remove_file(state.join("state.redb")).unwrap();
    let ways = [
        "is empty",
        "is missing",
        "was never written",
        "is damaged",
        "was replaced by a new one",
        "is missing, and its marker was cut",
        "was replaced by a new one, and its marker was cut",
    ];
    for way in ways {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let builder = || with_state(gateway(&upstream), &folder);
        drop(builder().run().await);
        let new = std::fs::read(state.join("state.redb")).unwrap();
        let reason = way.split(',').next().unwrap();
        let lose = |state: &Path| match reason {
            "is empty" => write(state, b""),
            "was never written" => write(state, &[0; 8192]),
            "is damaged" => write(state, b"no store"),
            "was replaced by a new one" => write(state, &new),
            _ => remove(state),
        };
        if way != "is damaged" {
            lose(&state); // it has had no key
        }
        let gateway = builder().run().await;
        assert_eq!(order(&gateway, "one").await.status, 200);
        drop(gateway);

        lose(&state);
        if way.ends_with("cut") {
            std::fs::write(state.join("state.redb.used"), "").unwrap();
        }
        let names = || {
            let names = std::fs::read_dir(&state).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        for _ in 0..2 {
            let told = builder().refused().await;
            for part in ["server.state_dir", "state.redb", reason, "state.redb.used"] {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
        assert_eq!(names(), before, "what is left is left as it is");

        for name in names() {
            std::fs::remove_file(state.join(name)).unwrap(); // as the message says
        }
        assert_eq!(order(&builder().run().await, "one").await.status, 200);
    }
}

#[tokio::test]
async fn a_state_of_before_the_marker_is_taken_and_marked() {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let run = async || with_state(gateway(&upstream), &folder).run().await;
    let marker = folder.path().join("state/state.redb.used");
    let gateway = run().await;
    assert!(!marker.exists(), "it has no key");
    assert_eq!(order(&gateway, "one").await.status, 200);
    drop(gateway);
    std::fs::remove_file(&marker).unwrap();
    let gateway = run().await;
    assert!(is_replay(&order(&gateway, "one").await));
    assert!(marker.exists());
}
