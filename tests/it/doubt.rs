//! A command is in doubt, or is not, by one rule: with a key or without, in headers, log, counter
//! and key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::answer::{Answer, Fault, raw};
use crate::support::client::post;
use crate::support::gateway::{Builder, Gateway};
use crate::support::{Gate, Reply, Upstream, failure, gateway, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";

/// A gateway whose breaker stays closed, and for which a vendor is slow after 300 ms and an answer
/// large beyond 4 KiB.
fn patient(upstream: &Upstream) -> Builder {
    gateway(upstream)
        .set("upstream.max_answer", "\"4KiB\"")
        .set("upstream.breaker.consecutive", "1000")
        .set("upstream.breaker.min_calls", "1000")
        .set("upstream.codes.transient", "[\"3003\"]")
        .set("upstream.codes.caller_error", "[\"4004\"]")
        .set("upstream.codes.throttled", "[\"2002\"]")
        .set("routes./package/orderPackage.timeout", "\"300ms\"")
        .set("upstream.hold", "\"0s\"") // else three that are given up hold all slots
}

fn said(reply: &Reply) -> (Option<&str>, Option<&str>) {
    let header = |name| reply.header(name);
    (header("x-linksfield-sent"), header("x-linksfield-in-doubt"))
}

async fn counted(gateway: &Gateway) -> f64 {
    let route = [("route", ORDER), ("tenant", "acme")];
    gateway
        .metric("commands_unknown_outcome_total", &route)
        .await
}

async fn failed_upstream(gateway: &Gateway) -> f64 {
    let fault = [("fault", "upstream")];
    gateway.metric("failed_requests_total", &fault).await
}

/// Ways that leave it in doubt, with whether an answer to it began.
fn ways_in_doubt() -> Vec<(&'static str, Answer, &'static str)> {
    let ok = || success(&json!({"order_id": "ORDER_1"}));
    let html = "<html>an answer of something in between</html>";
    let zipped = b"\x1f\x8b\x08\x00zipped".to_vec();
    vec![
        (
            "500 with an envelope",
            raw(500, failure("4711").body),
            "yes",
        ),
        ("500 of a success", raw(500, ok().body), "yes"),
        ("502", raw(502, html), "yes"),
        (
            "503 with Retry-After",
            raw(503, "").header("Retry-After", "1"),
            "yes",
        ),
        ("599", raw(599, ""), "yes"),
        ("408", raw(408, html), "yes"),
        ("a transient code", failure("3003"), "yes"),
        (
            "a transient code with 400",
            raw(400, failure("3003").body),
            "yes",
        ),
        ("cut", ok().fault(Fault::Cut), "yes"),
        ("no byte of an answer", ok().fault(Fault::Drop), "unknown"),
        ("reset", ok().fault(Fault::Reset), "unknown"),
        ("timed out", ok().fault(Fault::Hang), "unknown"),
        ("timed out in the answer", ok().fault(Fault::Trickle), "yes"),
        (
            "too large",
            success(&json!({"x": "x".repeat(100_000)})),
            "yes",
        ),
        (
            "gzip",
            raw(200, zipped).header("Content-Encoding", "gzip"),
            "yes",
        ),
        (
            "404 with something zipped",
            raw(404, "zip").header("Content-Encoding", "gzip"),
            "yes",
        ),
        (
            "gzip, it says",
            ok().header("Content-Encoding", "gzip"),
            "yes",
        ),
        ("not JSON", raw(200, html), "yes"),
        ("half of JSON", raw(200, r#"{"code":"0000","succ"#), "yes"),
        (
            "not UTF-8",
            raw(
                200,
                b"{\"code\":\"0000\",\"message\":\"\xff\",\"success\":true}".to_vec(),
            ),
            "yes",
        ),
        (
            "not UTF-8, no envelope",
            raw(200, b"[\"\xff\"]".to_vec()),
            "yes",
        ),
        ("nothing", raw(200, ""), "yes"),
        ("201 and nothing", raw(201, ""), "yes"),
        (
            "a body that may be cut",
            raw(200, "[]").fault(Fault::CloseDelimited),
            "yes",
        ),
        (
            "302",
            raw(302, ok().body).header("Location", "https://elsewhere/"),
            "yes",
        ),
        ("304", raw(304, ""), "yes"),
    ]
}

/// Ways that say what became of it, and whether a repeat under its key is sent.
fn clear_ways() -> Vec<(&'static str, Answer, bool)> {
    let ok = || success(&json!({"order_id": "ORDER_1"}));
    vec![
        ("a success", ok(), false),
        ("a success, chunked", ok().fault(Fault::Chunked), false),
        (
            "a success until the close",
            ok().fault(Fault::CloseDelimited),
            false,
        ),
        (
            "identity",
            ok().header("Content-Encoding", "identity"),
            false,
        ),
        ("204", raw(204, ""), false),
        ("201", raw(201, ok().body), false),
        (
            "JSON that is no envelope",
            raw(200, r#"{"operateCode":"S"}"#),
            false,
        ),
        ("an unknown code", failure("4711"), false),
        ("a caller's error", failure("4004"), false),
        ("400", raw(400, failure("4711").body), false),
        ("404 with HTML", raw(404, "<html>"), false),
        ("429", raw(429, failure("4711").body), true),
        ("a throttling code", failure("2002"), true),
        ("401", raw(401, failure("4711").body), true),
        ("403 with HTML", raw(403, "<html>"), true),
    ]
}

fn row_of(body: &Value) -> usize {
    usize::try_from(body["row"].as_u64().unwrap()).unwrap()
}

/// One order: its answer, its log line, and by how much the counters rose.
struct Ordered {
    reply: Reply,
    line: Value,
    counted: f64,
    failed: f64,
}

async fn order(gateway: &Gateway, row: usize, id: &str, key: Option<&str>) -> Ordered {
    let before = (counted(gateway).await, failed_upstream(gateway).await);
    let headers: Vec<_> = [("X-Request-Id", id)]
        .into_iter()
        .chain(key.map(|key| ("Idempotency-Key", key)))
        .collect();
    let reply = gateway
        .post(ORDER, &headers, json!({"row": row}).to_string())
        .await;
    let line = gateway.exchange_of(id).await;
    Ordered {
        reply,
        line,
        counted: counted(gateway).await - before.0,
        failed: failed_upstream(gateway).await - before.1,
    }
}

async fn vendor(answers: Vec<Answer>) -> Upstream {
    upstream()
        .script(move |request| answers[row_of(&request.json())].clone())
        .run()
        .await
}

#[tokio::test]
async fn each_way_to_be_in_doubt_is_told_logged_and_counted_once_with_a_key_or_without() {
    let ways = ways_in_doubt();
    let upstream = vendor(ways.iter().map(|(_, answer, _)| answer.clone()).collect()).await;
    let gateway = patient(&upstream).run().await;
    for (row, (name, _, sent)) in ways.iter().enumerate() {
        for key in [None, Some(format!("key-{row}"))] {
            let id = format!("{row}-{}", key.is_some());
            let ordered = order(&gateway, row, &id, key.as_deref()).await;
            assert_eq!(said(&ordered.reply), (Some(*sent), Some("true")), "{name}");
            let line = &ordered.line;
            let logged = (&line["level"], &line["in_doubt"], &line["sent"]);
            assert_eq!(
                logged,
                (&json!("WARN"), &json!(true), &json!(sent)),
                "{name}"
            );
            assert_eq!((ordered.counted, ordered.failed), (1.0, 1.0), "{name}");
            if line["error"].is_string() {
                let detail = ordered.reply.json()["detail"].to_string();
                assert!(detail.contains("look before you send it again"), "{detail}");
            }

            let Some(key) = key else { continue };
            let calls = upstream.calls();
            let id = format!("{row}-again");
            let again = order(&gateway, row, &id, Some(&key)).await;
            assert_eq!(again.reply.problem().1, "command_in_doubt", "{name}");
            assert_eq!(
                said(&again.reply),
                (Some("unknown"), Some("true")),
                "{name}"
            );
            assert_eq!(
                (&again.line["in_doubt"], again.counted),
                (&json!(true), 0.0)
            );
            assert_eq!(upstream.calls(), calls, "{name}");
        }
    }
    let page = String::from_utf8(gateway.admin("/").await.body).unwrap();
    let all = format!("since the start: {}.", 2 * ways.len());
    assert!(page.contains(&all), "{page}");
    assert!(page.contains("<td>in_doubt</td>"), "{page}");
}

#[tokio::test]
async fn what_says_what_became_of_a_command_is_not_in_doubt_and_says_that_it_was_sent() {
    let ways = clear_ways();
    let upstream = vendor(ways.iter().map(|(_, answer, _)| answer.clone()).collect()).await;
    let gateway = patient(&upstream).run().await;
    for (row, (name, _, is_sent_again)) in ways.iter().enumerate() {
        let key = format!("key-{row}");
        let rounds = [
            ("plain", None),
            ("keyed", Some(&*key)),
            ("again", Some(&*key)),
        ];
        for (round, key) in rounds {
            let calls = upstream.calls();
            let ordered = order(&gateway, row, &format!("{row}-{round}"), key).await;
            assert_eq!(said(&ordered.reply), (Some("yes"), None), "{name}, {round}");
            let line = &ordered.line;
            let logged = (&line["level"], &line["in_doubt"]);
            assert_eq!(logged, (&json!("INFO"), &json!(false)), "{name}, {round}");
            assert_eq!(ordered.counted, 0.0, "{name}, {round}");
            let is_sent = upstream.calls() > calls;
            assert_eq!(
                is_sent,
                round != "again" || *is_sent_again,
                "{name}, {round}"
            );
        }
    }
}

#[tokio::test]
async fn what_was_not_sent_is_not_in_doubt_and_a_query_is_never() {
    let upstream = upstream().answers(raw(502, "<html>")).run().await;
    let gateway = patient(&upstream).run().await;
    let query = gateway.page(1).await;
    assert_eq!(said(&query).1, None, "{query:?}");
    let refused = gateway.post(ORDER, &[], "no JSON").await;
    assert_eq!(said(&refused), (Some("no"), None));
    upstream.stop().await;
    let id = [("X-Request-Id", "unreachable")];
    let unreachable = gateway.post(ORDER, &id, "{}").await;
    assert_eq!(said(&unreachable), (Some("no"), None));
    let line = gateway.exchange_of("unreachable").await;
    assert_eq!(
        (&line["level"], &line["in_doubt"]),
        (&json!("INFO"), &json!(false))
    );
    assert_eq!(counted(&gateway).await, 0.0);
}

#[tokio::test]
async fn those_who_wait_with_a_key_are_told_too_and_it_counts_once() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(raw(502, "<html>").behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let mut connections = Vec::new();
    for _ in 0..5 {
        let mut connection = gateway.connect().await;
        let key = [("Idempotency-Key", "one")];
        connection.send(&post(ORDER, &key, b"{}")).await;
        connections.push(connection);
    }
    gate.arrived().await;
    until("all have come", async || {
        gateway.metric("requests_in_flight", &[]).await == 5.0
    })
    .await;
    gate.open();
    for connection in &mut connections {
        let reply = connection.reply().await;
        assert_eq!(
            (reply.status, said(&reply)),
            (502, (Some("yes"), Some("true")))
        );
    }
    assert_eq!((upstream.calls(), counted(&gateway).await), (1, 1.0));
    until("each has failed by Linksfield's fault", async || {
        failed_upstream(&gateway).await == 5.0
    })
    .await;
}

/// The line of a command that has ended after its caller had gone.
async fn ended_alone(gateway: &Gateway, id: &str) -> Value {
    let find = || {
        gateway.log().into_iter().find(|line| {
            line["message"] == "command finished without its caller" && line["request_id"] == id
        })
    };
    until("the end of the command", async || find().is_some()).await;
    find().unwrap()
}

#[tokio::test]
async fn a_command_whose_caller_has_gone_is_in_doubt_by_its_end() {
    for (answer, in_doubt, level) in [
        (raw(502, "<html>"), true, "WARN"),
        (success(&json!({})).fault(Fault::Cut), true, "WARN"),
        (success(&json!({})), false, "INFO"),
    ] {
        let gate = Gate::new();
        let upstream = upstream().answers(answer.behind(&gate)).run().await;
        let gateway = gateway(&upstream).run().await;
        let mut connection = gateway.connect().await;
        let id = [("X-Request-Id", "gone")];
        connection.send(&post(ORDER, &id, b"{}")).await;
        gate.arrived().await;
        drop(connection);
        let line = gateway.exchange_of("gone").await;
        assert_eq!(
            (&line["status"], &line["in_doubt"]),
            (&Value::Null, &Value::Null)
        );
        gate.open();
        let line = ended_alone(&gateway, "gone").await;
        assert_eq!(
            (&line["level"], &line["in_doubt"]),
            (&json!(level), &json!(in_doubt))
        );
        assert_eq!(counted(&gateway).await, f64::from(u8::from(in_doubt)));
    }
}

#[tokio::test]
async fn who_gives_up_waiting_is_in_doubt_and_the_commands_end_does_not_count_it_again() {
    for answer in [success(&json!({})), raw(502, "<html>")] {
        let gate = Gate::new();
        let upstream = upstream().answers(answer.clone().behind(&gate)).run().await;
        let gateway = gateway(&upstream).run().await;
        let hurried = [
            ("X-Request-Timeout", "200ms"),
            ("X-Request-Id", "late"),
            ("Idempotency-Key", "one"),
        ];
        for _ in 0..2 {
            let reply = gateway.post(ORDER, &hurried, "{}").await; // the second one waits for the first
            assert_eq!(reply.problem().1, "upstream_timeout");
            assert_eq!(said(&reply), (Some("unknown"), Some("true")));
        }
        let line = gateway.exchange_of("late").await;
        assert_eq!(
            (&line["level"], &line["in_doubt"]),
            (&json!("WARN"), &json!(true))
        );
        assert_eq!(counted(&gateway).await, 1.0);
        gate.open();
        let line = ended_alone(&gateway, "late").await;
        assert_eq!(line["in_doubt"], answer.status != 200);
        assert_eq!(counted(&gateway).await, 1.0);
    }
}

#[tokio::test]
async fn a_429_that_is_passed_on_says_when_to_come_again() {
    let gate = Gate::new();
    let (calls, held) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let upstream = upstream()
        .script(move |request| match request.json()["page_no"].as_u64() {
            Some(1) => raw(429, failure("x").body).header("Retry-After", "600"),
            Some(2) => raw(429, failure("x").body).behind(&held),
            _ if calls.fetch_add(1, Ordering::SeqCst) < 2 => raw(429, failure("x").body),
            _ => page(1, 2, 105),
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    for path in ["/package/queryOrder", ORDER] {
        let reply = gateway.post(path, &[], r#"{"page_no":3}"#).await;
        let told = (reply.status, reply.header("retry-after"));
        assert_eq!(
            told,
            (429, Some("1")),
            "{path}: no limit and no pause is known"
        );
    }
    let mut under_way = gateway.connect_and_ask(r#"{"page_no":2}"#).await;
    gate.arrived().await;
    let own = gateway.page(1).await;
    assert_eq!((own.status, own.header("retry-after")), (429, Some("600")));
    gate.open();
    let reply = under_way.reply().await;
    let told: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(
        reply.status == 429 && (2..=600).contains(&told),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_passed_on_429_that_cannot_be_read_says_what_the_gateway_knows() {
    for unreadable in [
        "soon",
        "",
        "-5",
        "+5",
        "1.5",
        "99999999999999999999",
        "Sun, 06 Nov",
    ] {
        let upstream = upstream()
            .script(move |_| raw(429, failure("x").body).header("Retry-After", unreadable))
            .run()
            .await;
        let gateway = gateway(&upstream).run().await;
        for path in ["/package/queryOrder", ORDER] {
            let reply = gateway.post(path, &[], r#"{"page_no":3}"#).await;
            let told = reply.header("retry-after").unwrap_or_default();
            assert!(
                reply.status == 429 && told.parse::<u64>().is_ok_and(|seconds| seconds >= 1),
                "{path} {unreadable:?}: {reply:?}"
            );
        }
    }
}
