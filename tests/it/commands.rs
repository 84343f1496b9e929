//! A command is sent at most once, whatever its caller, the vendor and the network do.

use serde_json::json;

use crate::support::answer::{Fault, raw};
use crate::support::client::post;
use crate::support::{Gate, Reply, failure, gateway, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";

fn is_hit(reply: &Reply) -> bool {
    reply
        .header("cache-status")
        .is_some_and(|status| status.contains("; hit"))
}

#[tokio::test]
async fn each_command_is_sent_once_and_its_answer_is_never_kept() {
    let upstream = upstream()
        .answers(success(&json!({"order_id": "ORDER_1"})))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    for calls in 1..=3 {
        let reply = gateway.order().await;
        assert_eq!(reply.json()["data"]["order_id"], "ORDER_1");
        assert_eq!(
            reply.header("cache-status"),
            Some("linksfield-gateway; fwd=bypass")
        );
        assert_eq!(upstream.calls(), calls);
    }
    let both = tokio::join!(gateway.order(), gateway.order());
    assert_eq!(
        (both.0.status, both.1.status, upstream.calls()),
        (200, 200, 5),
        "equal commands are two commands"
    );
}

#[tokio::test]
async fn whatever_the_vendor_answers_to_a_command_passes_untouched() {
    let large = success(&json!({"x": "x".repeat(100_000)}));
    for sent in [
        failure("4711"),
        raw(200, "no envelope").header("Content-Type", "text/plain"),
        raw(204, ""),
        raw(404, "<html>"),
        raw(429, failure("1").body).header("Retry-After", "7"),
        raw(503, ""),
        raw(200, b"\x1f\x8bno JSON".to_vec()).header("Content-Encoding", "gzip"),
        large.clone(),
        large.clone().fault(Fault::Chunked),
        large.fault(Fault::CloseDelimited),
    ] {
        let upstream = upstream().answers(sent.clone()).run().await;
        let gateway = gateway(&upstream)
            .set("upstream.max_answer", "\"4KiB\"")
            .run()
            .await;
        for path in [ORDER, "/not/configured"] {
            let reply = gateway.post(path, &[], "{}").await;
            assert_eq!((reply.status, &reply.body), (sent.status, &sent.body));
            for name in ["content-type", "content-encoding", "retry-after"] {
                let expected = sent
                    .headers
                    .iter()
                    .find(|(other, _)| other.eq_ignore_ascii_case(name));
                assert_eq!(
                    reply.header(name),
                    expected.map(|(_, value)| value.as_str()),
                    "{name}"
                );
            }
        }
        assert_eq!(upstream.calls(), 2);
    }
}

#[tokio::test]
async fn a_command_whose_caller_leaves_while_it_waits_is_never_sent() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .run()
        .await;
    let mut query = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
    gate.arrived().await;
    let mut leaving = gateway.connect().await;
    leaving
        .send(&post(ORDER, &[("X-Request-Id", "leaving")], b"{}"))
        .await;
    until("the command waits", async || {
        gateway.metric("queue_length", &[]).await == 1.0
    })
    .await;
    drop(leaving);
    until("the command is called off", async || {
        gateway.metric("queue_length", &[]).await == 0.0
    })
    .await;
    gate.open();
    assert_eq!(query.reply().await.status, 200);
    assert!(
        is_hit(&gateway.query(&json!({"page_no": 1})).await),
        "nothing was invalidated"
    );
    assert_eq!(gateway.order().await.status, 200);
    let paths: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.path().to_owned())
        .collect();
    assert_eq!(
        paths,
        [
            "/cube/v4/package/queryOrder",
            "/cube/v4/package/orderPackage"
        ]
    );
    let line = gateway.exchange_of("leaving").await;
    assert_eq!(
        (&line["result"], line.get("status")),
        (&json!("command"), None)
    );
}

#[tokio::test]
async fn a_command_whose_caller_leaves_after_it_was_sent_runs_to_its_end() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| match request.path() {
            "/cube/v4/package/orderPackage" => success(&json!({})).behind(&held),
            _ => page(1, 2, 105),
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let mut leaving = gateway.connect().await;
    leaving
        .send(&post(ORDER, &[("X-Request-Id", "leaving")], b"{}"))
        .await;
    gate.arrived().await;
    gateway.page(1).await; // filled while the command runs
    assert!(is_hit(&gateway.page(1).await));
    drop(leaving);
    gateway.exchange_of("leaving").await;
    gate.open();
    let end = || {
        gateway
            .log()
            .into_iter()
            .find(|line| line["message"] == "command finished without its caller")
    };
    until("the end of the command", async || end().is_some()).await;
    let end = end().unwrap();
    assert_eq!(
        (&end["request_id"], &end["outcome"], &end["sent"]),
        (&json!("leaving"), &json!("success"), &json!("yes"))
    );
    assert!(!is_hit(&gateway.page(1).await), "its outcome invalidates");
    assert_eq!(
        gateway.metric("commands_unknown_outcome_total", &[]).await,
        0.0
    );
}

#[tokio::test]
async fn a_deadline_that_ends_in_the_queue_means_not_sent() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .run()
        .await;
    let mut query = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
    gate.arrived().await;
    let timeout = [("X-Request-Timeout", "100ms")];
    for path in [ORDER, "/package/queryOrder"] {
        let reply = gateway.post(path, &timeout, r#"{"page_no":2}"#).await;
        assert_eq!(
            reply.problem(),
            (503, "overloaded".into(), "no".into()),
            "{path}"
        );
        assert!(reply.header("retry-after").is_some(), "{path}");
    }
    gate.open();
    query.reply().await;
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| request.path() != "/cube/v4/package/orderPackage")
    );
}

#[tokio::test]
async fn a_deadline_that_ends_after_the_command_was_sent_means_unknown() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({})).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let reply = gateway
        .post(
            ORDER,
            &[("X-Request-Timeout", "200ms"), ("X-Request-Id", "late")],
            "{}",
        )
        .await;
    assert_eq!(
        reply.problem(),
        (504, "upstream_timeout".into(), "unknown".into())
    );
    assert_eq!(gateway.exchange_of("late").await["level"], "WARN");
    gate.open();
    let ended = || {
        gateway.log().into_iter().any(|line| {
            line["message"] == "command finished without its caller" && line["request_id"] == "late"
        })
    };
    until("the end of the command", async || ended()).await;
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_command_without_an_answer_is_in_doubt_and_never_repeated() {
    for fault in [Fault::Drop, Fault::Reset, Fault::Hang] {
        let upstream = upstream()
            .answers(success(&json!({})).fault(fault))
            .run()
            .await;
        let gateway = gateway(&upstream)
            .set("routes./package/orderPackage.timeout", "\"200ms\"")
            .run()
            .await;
        let (status, _, sent) = gateway.order().await.problem();
        assert_eq!(
            (status, &*sent),
            (if fault == Fault::Hang { 504 } else { 502 }, "unknown"),
            "{fault:?}"
        );
        assert_eq!(upstream.calls(), 1, "{fault:?}");
        let route = [("route", ORDER), ("tenant", "acme")];
        assert_eq!(
            gateway
                .metric("commands_unknown_outcome_total", &route)
                .await,
            1.0,
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_command_that_cannot_connect_is_not_sent_and_invalidates_nothing() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    gateway.page(1).await;
    upstream.stop().await;
    until("the end of its connection is seen", async || {
        gateway.metric("upstream_connections", &[]).await == 0.0
    })
    .await;
    let reply = gateway.order().await;
    assert_eq!(
        reply.problem(),
        (502, "upstream_unreachable".into(), "no".into())
    );
    assert_eq!(
        reply.header("proxy-status"),
        Some("linksfield-gateway; error=connection_refused")
    );
    assert!(is_hit(&gateway.page(1).await));
    assert_eq!(
        gateway.metric("commands_unknown_outcome_total", &[]).await,
        0.0
    );
}
