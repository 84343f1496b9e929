//! Where Linksfield fails: asking again, not asking at all, the other secret, another clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::answer::{Answer, Fault, raw};
use crate::support::{Gate, SECRET, failure, gateway, page, success, until, upstream};

const QUERY: &str = "/package/queryOrder";

/// The first so many calls fail like this, the next ones are answered.
fn at_first(failures: usize, bad: Answer) -> impl Into<Vec<Answer>> {
    let mut answers = vec![bad; failures];
    answers.push(page(1, 2, 105));
    answers
}

#[tokio::test]
async fn a_query_is_asked_again_where_the_vendor_fails_and_only_there() {
    #[rustfmt::skip]
    let rows = [
        ("dropped", page(1, 2, 7).fault(Fault::Drop), true),
        ("reset", page(1, 2, 7).fault(Fault::Reset), true),
        ("cut", page(1, 2, 7).fault(Fault::Cut), true),
        ("500", raw(500, failure("x").body), true),
        ("503", raw(503, "<html>"), true),
        ("a transient code", failure("5030"), true),
        ("no envelope", raw(200, "<html>"), true),
        ("429", raw(429, failure("x").body), false),
        ("a bad signature", raw(403, failure("x").body), false),
        ("a caller's error", raw(400, failure("x").body), false),
        ("an unknown code", failure("4711"), false),
    ];
    for (name, bad, again) in rows {
        let upstream = upstream().answers_in_turn(at_first(2, bad)).run().await;
        let gateway = gateway(&upstream)
            .set("upstream.retry.attempts", "3")
            .set("upstream.retry.backoff", "\"1ms\"")
            .set("upstream.codes.transient", "[\"5030\"]")
            .run()
            .await;
        let reply = gateway.page(1).await;
        let calls = if again { 3 } else { 1 };
        assert_eq!(upstream.calls(), calls, "{name}");
        assert_eq!(
            reply.status == 200 && reply.body == page(1, 2, 105).body,
            again,
            "{name}"
        );
        let retries = gateway.metric("upstream_retries_total", &[]).await;
        assert_eq!(retries, f64::from(u32::from(again) * 2), "{name}");
        // Fresh timestamp and signature each: the upstream checks both.
        assert!(
            upstream
                .requests()
                .iter()
                .all(|request| request.is_signed_with(SECRET))
        );
    }
}

#[tokio::test]
async fn a_command_is_never_asked_again() {
    for bad in [
        raw(503, failure("x").body),
        page(1, 2, 7).fault(Fault::Drop),
        page(1, 2, 7).fault(Fault::Cut),
    ] {
        let upstream = upstream().answers(bad).run().await;
        let gateway = gateway(&upstream)
            .set("upstream.retry.attempts", "5")
            .run()
            .await;
        gateway.order().await;
        assert_eq!(upstream.calls(), 1);
    }
}

#[tokio::test]
async fn retries_end_with_their_number_their_budget_and_the_time_of_one_exchange() {
    let upstream = upstream().answers(raw(503, failure("x").body)).run().await;
    let never = [
        ("upstream.breaker.consecutive", "1000"),
        ("upstream.breaker.min_calls", "1000"),
    ];
    let rows = [
        (
            [
                ("upstream.retry.attempts", "3"),
                ("upstream.retry.backoff", "\"1ms\""),
            ],
            3,
        ),
        (
            [
                ("upstream.retry.attempts", "9"),
                ("upstream.retry.backoff", "\"1h\""),
            ],
            1,
        ),
    ];
    for (settings, calls) in rows {
        let before = upstream.calls();
        let mut builder = gateway(&upstream).set("upstream.retry.max_backoff", "\"1h\"");
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        let gateway = builder.run().await;
        assert_eq!(gateway.page(1).await.status, 503);
        assert_eq!(upstream.calls() - before, calls);
    }
    let before = upstream.calls();
    let mut builder = gateway(&upstream)
        .set("upstream.retry.attempts", "3")
        .set("upstream.retry.backoff", "\"1ms\"")
        .set("upstream.retry.min_per_second", "0.0");
    for (key, value) in never {
        builder = builder.set(key, value);
    }
    let gateway = builder.run().await;
    for number in 0..100 {
        gateway.page(number).await;
    }
    let retries = upstream.calls() - before - 100;
    assert!(
        (29..=30).contains(&retries),
        "a fifth of 100, and ten to begin with: {retries}"
    );
}

#[tokio::test]
async fn an_open_breaker_asks_nothing_serves_old_pages_and_closes_when_one_call_succeeds() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let upstream = upstream()
        .script(move |request| {
            if failing.load(Ordering::SeqCst) {
                raw(503, failure("x").body)
            } else {
                page(request.json()["page_no"].as_u64().unwrap_or(1), 2, 105)
            }
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .set("upstream.breaker.open_for", "\"300ms\"")
        .run()
        .await;
    let old = gateway.page(1).await;
    fails.store(true, Ordering::SeqCst);
    for number in 2..=11 {
        assert_eq!(gateway.page(number).await.status, 503);
    }
    let calls = upstream.calls();
    assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 1.0);
    let refused = gateway.page(12).await;
    assert_eq!(refused.problem(), (503, "breaker_open".into(), "no".into()));
    let detail = refused.json()["detail"].to_string();
    assert!(detail.contains("failed again and again"), "{detail}");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(gateway.order().await.problem().1, "breaker_open");
    let stale = gateway.page(1).await;
    assert_eq!((stale.status, &stale.body), (200, &old.body));
    let told = stale.header("cache-status").unwrap();
    assert!(told.ends_with("detail=breaker_open"), "{told}");
    assert_eq!(upstream.calls(), calls, "nothing was asked");

    until("one call at a time is tried, and fails", async || {
        gateway.page(12).await;
        upstream.calls() == calls + 2
    })
    .await;
    fails.store(false, Ordering::SeqCst);
    until("it closes", async || gateway.page(12).await.status == 200).await;
    assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 0.0);
}

#[tokio::test]
async fn what_says_nothing_about_the_vendor_opens_no_breaker() {
    for answer in [
        failure("4711"),
        raw(400, failure("x").body),
        raw(403, failure("x").body),
        raw(429, failure("x").body),
    ] {
        let upstream = upstream().answers(answer).run().await;
        let gateway = gateway(&upstream).run().await;
        for number in 0..30 {
            gateway.page(number).await;
        }
        assert_eq!(upstream.calls(), 30);
        assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 0.0);
    }
}

#[tokio::test]
async fn during_a_rotation_the_secret_that_a_query_has_proven_is_used_for_commands_too() {
    const NEW: &str = "the-new-secret";
    let takes_new = Arc::new(AtomicBool::new(false));
    let is_new = takes_new.clone();
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    let upstream = upstream()
        .takes_any_signature()
        .script(move |request| {
            let secret = if is_new.load(Ordering::SeqCst) {
                NEW
            } else {
                SECRET
            };
            if !request.is_signed_with(secret) {
                counted.fetch_add(1, Ordering::SeqCst);
                return raw(403, failure("bad").body);
            }
            match request.path() {
                "/cube/v4/package/orderPackage" => success(&json!({})),
                _ => page(request.json()["page_no"].as_u64().unwrap_or(1), 2, 105),
            }
        })
        .run()
        .await;
    let builder = gateway(&upstream);
    let (new, old) = (builder.file("new", NEW), builder.file("old", SECRET));
    let gateway = builder.run().await;
    assert_eq!(gateway.page(1).await.status, 200);
    assert_eq!(gateway.order().await.status, 200);

    // The new secret is mounted before Linksfield knows it: what has worked goes on.
    gateway.rewrite("tenants.acme.secret_file", &format!("{new:?}"));
    gateway.rewrite("tenants.acme.previous_secret_file", &format!("{old:?}"));
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(gateway.order().await.status, 200);
    assert_eq!(gateway.page(2).await.status, 200);
    assert_eq!(refused.load(Ordering::SeqCst), 0);

    // Linksfield switches: a query finds out, with one call more, and commands follow.
    takes_new.store(true, Ordering::SeqCst);
    assert_eq!(gateway.page(3).await.status, 200);
    assert_eq!(refused.load(Ordering::SeqCst), 1);
    assert_eq!(gateway.order().await.status, 200);
    assert_eq!(gateway.page(4).await.status, 200);
    assert_eq!(refused.load(Ordering::SeqCst), 1);
    let switches = [("tenant", "acme"), ("secret", "current")];
    assert_eq!(
        gateway.metric("secret_switches_total", &switches).await,
        1.0
    );
}

#[tokio::test]
async fn a_secret_that_is_wrong_costs_one_call_more_at_most() {
    let upstream = upstream()
        .takes_any_signature()
        .answers(raw(403, failure("bad").body))
        .run()
        .await;
    let builder = gateway(&upstream);
    let old = builder.file("old", "another");
    let gateway = builder
        .set("tenants.acme.previous_secret_file", &format!("{old:?}"))
        .run()
        .await;
    assert_eq!(gateway.page(1).await.status, 403);
    assert_eq!(upstream.calls(), 2);
    assert_eq!(gateway.order().await.status, 403);
    assert_eq!(upstream.calls(), 3, "a command is not sent to find out");
    assert_eq!(gateway.metric("secret_switches_total", &[]).await, 0.0);
}

#[tokio::test]
async fn clocks_that_differ_are_measured_and_told() {
    let upstream = upstream().run().await; // its Date stands still
    let gateway = gateway(&upstream).run().await;
    for number in 1..=3 {
        gateway
            .post(QUERY, &[], format!(r#"{{"page_no":{number}}}"#))
            .await;
    }
    let skew = gateway.metric("upstream_clock_skew_seconds", &[]).await;
    assert!(skew.abs() > 30.0, "{skew}");
    until("it is told", async || {
        let lines = gateway.log();
        let told = |line: &&serde_json::Value| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("clock"))
        };
        lines.iter().filter(told).count() == 1
    })
    .await;
}

#[tokio::test]
async fn a_query_is_not_asked_again_once_nobody_waits_any_more() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(raw(500, failure("x").body).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.retry.attempts", "3")
        .set("upstream.retry.backoff", "\"1ms\"")
        .run()
        .await;
    let timeout = [("x-request-timeout", "100ms")];
    let reply = gateway.post(QUERY, &timeout, "{}").await;
    assert_eq!(reply.status, 504);
    assert_eq!(upstream.calls(), 1);
    gate.open();
    until("the fill has ended", async || {
        gateway.metric("fills_in_flight", &[]).await == 0.0
    })
    .await;
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_connection_that_was_answered_before_all_was_sent_is_not_used_again() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap(); // so that the rest stays with the gateway
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let port = listener.local_addr().unwrap().port();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    tokio::spawn(async move {
        let body = success(&json!({})).body;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            stream.read_exact(&mut [0]).await.unwrap();
            let answer = [head.as_bytes(), &body].concat();
            stream.write_all(&answer).await.unwrap();
            open.push(stream); // what comes more is not read
        }
    });
    let vendor = upstream().run().await;
    let gateway = gateway(&vendor)
        .set(
            "upstream.base_url",
            &format!("\"http://127.0.0.1:{port}/cube/v4\""),
        )
        .set("server.max_body", "\"8MiB\"")
        .run()
        .await;
    let body = json!({ "x": "x".repeat(7 << 20) }).to_string();
    for connections in 1..=2 {
        let reply = gateway.post("/package/orderPackage", &[], &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(opened.load(Ordering::SeqCst), connections);
    }
}
