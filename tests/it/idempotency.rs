//! Under one key a command is sent once, whatever its callers, the vendor, the network and the
//! process do.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::answer::{Answer, Fault, raw};
use crate::support::client::{Connection, post, try_to_connect};
use crate::support::gateway::{Builder, Gateway, with_state};
use crate::support::{Gate, Reply, Upstream, failure, gateway, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";
const ICCID: &str = "89860012018111220455";

/// What a repeat of a command gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Repeat {
    /// The same answer; nothing is sent.
    Same,
    /// 409; nothing is sent.
    InDoubt,
    /// It is sent.
    Sent,
}

async fn order(gateway: &Gateway, key: &str, body: &Value) -> Reply {
    let key = [("Idempotency-Key", key)];
    gateway.post(ORDER, &key, body.to_string()).await
}

async fn connect_and_order(gateway: &Gateway, headers: &[(&str, &str)]) -> Connection {
    let mut connection = gateway.connect().await;
    connection.send(&post(ORDER, headers, b"{}")).await;
    connection
}

fn is_replay(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

fn in_doubt() -> (u16, String, String) {
    (409, "command_in_doubt".into(), "unknown".into())
}

async fn keys(gateway: &Gateway, state: &str) -> f64 {
    gateway
        .metric("idempotency_keys", &[("state", state)])
        .await
}

#[tokio::test]
async fn what_a_repeat_gets_follows_from_what_the_vendor_answered() {
    let ok = success(&json!({"order_id": "ORDER_1"}));
    let large = success(&json!({"x": "x".repeat(100_000)}));
    let rows = [
        (ok.clone(), Repeat::Same),
        (ok.clone().fault(Fault::Chunked), Repeat::Same),
        (ok.clone().fault(Fault::CloseDelimited), Repeat::Same),
        (raw(400, failure("4711").body), Repeat::Same),
        (raw(404, "<html>"), Repeat::Same),
        (failure("4711"), Repeat::Same),
        (raw(200, "no envelope"), Repeat::InDoubt),
        (raw(200, "[]"), Repeat::Same),
        (raw(204, ""), Repeat::Same),
        (raw(429, ""), Repeat::Sent),
        (failure("2002"), Repeat::Sent),
        (raw(401, failure("4711").body), Repeat::Sent),
        (failure("1001"), Repeat::Sent),
        (failure("3003"), Repeat::InDoubt),
        (raw(200, "no JSON"), Repeat::InDoubt),
        (raw(500, failure("4711").body), Repeat::InDoubt),
        (raw(503, "").header("Retry-After", "1"), Repeat::InDoubt),
        (
            raw(200, "no envelope").fault(Fault::CloseDelimited),
            Repeat::InDoubt,
        ),
        (ok.clone().fault(Fault::Cut), Repeat::InDoubt),
        (ok.clone().fault(Fault::Drop), Repeat::InDoubt),
        (ok.clone().fault(Fault::Reset), Repeat::InDoubt),
        (ok.clone().fault(Fault::Hang), Repeat::InDoubt),
        (large, Repeat::InDoubt),
    ];
    let answers: Vec<Answer> = rows.iter().map(|(answer, _)| answer.clone()).collect();
    let number = |row: &Value| usize::try_from(row["row"].as_u64().unwrap()).unwrap();
    let calls_of = |upstream: &Upstream, row| {
        let requests = upstream.requests();
        let of_row = requests.iter().filter(|got| number(&got.json()) == row);
        of_row.count()
    };
    for with_store in [false, true] {
        let answers = answers.clone();
        let upstream = upstream()
            .script(move |request| answers[number(&request.json())].clone())
            .run()
            .await;
        let folder = tempfile::tempdir().unwrap();
        let run = async || {
            let builder = gateway(&upstream)
                .set("upstream.max_answer", "\"4KiB\"")
                .set("upstream.breaker.consecutive", "1000")
                .set("upstream.breaker.min_calls", "1000")
                .set("upstream.codes.throttled", "[\"2002\"]")
                .set("upstream.codes.bad_signature", "[\"1001\"]")
                .set("upstream.codes.transient", "[\"3003\"]")
                .set("routes./package/orderPackage.timeout", "\"300ms\"");
            let builder = if with_store {
                with_state(builder, &folder)
            } else {
                builder
            };
            builder.run().await
        };
        let gateway = run().await;
        let body = |row: usize| json!({"row": row, "device_id": ICCID});
        let mut firsts = Vec::new();
        for (row, (_, expected)) in rows.iter().enumerate() {
            let key = format!("key-{row}");
            let first = order(&gateway, &key, &body(row)).await;
            assert!(!is_replay(&first), "row {row}");
            let second = order(&gateway, &key, &body(row)).await;
            let calls = calls_of(&upstream, row);
            match expected {
                Repeat::Same => {
                    assert!(is_replay(&second), "row {row}: {second:?}");
                    assert_eq!(
                        (second.status, &second.body),
                        (first.status, &first.body),
                        "row {row}"
                    );
                    assert_eq!(second.header("content-type"), first.header("content-type"));
                    assert_eq!(calls, 1, "row {row}");
                }
                Repeat::InDoubt => {
                    assert_eq!((second.problem(), calls), (in_doubt(), 1), "row {row}");
                    let detail = second.json()["detail"].as_str().unwrap().to_owned();
                    assert!(
                        detail.contains("ask /package/queryOrder by device_id before")
                            && !detail.contains(ICCID),
                        "{detail}"
                    );
                }
                Repeat::Sent => {
                    assert!(!is_replay(&second), "row {row}");
                    assert_eq!((second.status, calls), (first.status, 2), "row {row}");
                }
            }
            firsts.push(first);
        }
        for (state, repeat) in [("kept", Repeat::Same), ("in_doubt", Repeat::InDoubt)] {
            let expected = rows.iter().filter(|(_, expected)| *expected == repeat);
            let expected = u32::try_from(expected.count()).unwrap();
            assert_eq!(keys(&gateway, state).await, f64::from(expected));
        }
        assert_eq!(keys(&gateway, "running").await, 0.0);
        assert_eq!(gateway.metric("idempotency_replays_total", &[]).await, 8.0);
        assert!(!gateway.output().contains(ICCID));
        if !with_store {
            continue;
        }

        drop(gateway);
        let gateway = run().await;
        for (row, (_, expected)) in rows.iter().enumerate() {
            let repeated = order(&gateway, &format!("key-{row}"), &body(row)).await;
            let calls = calls_of(&upstream, row);
            match expected {
                Repeat::Same => {
                    let first = &firsts[row];
                    assert!(is_replay(&repeated), "row {row}");
                    assert_eq!(
                        (repeated.status, &repeated.body),
                        (first.status, &first.body)
                    );
                    assert_eq!(
                        repeated.header("content-type"),
                        first.header("content-type")
                    );
                    assert_eq!(calls, 1, "row {row}");
                }
                Repeat::InDoubt => {
                    assert_eq!((repeated.problem(), calls), (in_doubt(), 1), "row {row}");
                }
                Repeat::Sent => assert_eq!(calls, 3, "row {row}"),
            }
        }
    }
}

#[tokio::test]
async fn equal_commands_with_one_key_at_once_are_one_call_with_equal_answers() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({"order_id": "ORDER_1"})).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let (mut connections, key) = (Vec::new(), [("Idempotency-Key", "one")]);
    for _ in 0..10 {
        connections.push(connect_and_order(&gateway, &key).await);
    }
    gate.arrived().await;
    until("all have come", async || {
        gateway.metric("requests_in_flight", &[]).await == 10.0
    })
    .await;
    assert_eq!(keys(&gateway, "running").await, 1.0);
    gate.open();
    let replies = join_all(connections.iter_mut().map(Connection::reply)).await;
    for reply in &replies {
        assert_eq!((reply.status, &reply.body), (200, &replies[0].body));
    }
    assert_eq!(replies.iter().filter(|reply| is_replay(reply)).count(), 9);
    assert_eq!(upstream.calls(), 1);
    assert_eq!(gateway.metric("idempotency_replays_total", &[]).await, 9.0);
}

#[tokio::test]
async fn those_who_wait_share_a_failure_and_later_ones_are_told_to_look() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({})).behind(&gate).fault(Fault::Drop))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let key = [("Idempotency-Key", "one")];
    let mut first = connect_and_order(&gateway, &key).await;
    gate.arrived().await;
    let mut second = connect_and_order(&gateway, &key).await;
    until("both have come", async || {
        gateway.metric("requests_in_flight", &[]).await == 2.0
    })
    .await;
    gate.open();
    let lost = (502, "upstream_disconnected".into(), "unknown".into());
    assert_eq!(first.reply().await.problem(), lost);
    assert_eq!(second.reply().await.problem(), lost);
    assert_eq!(
        order(&gateway, "one", &json!({})).await.problem(),
        in_doubt()
    );
    assert_eq!(upstream.calls(), 1);
    let unknown = gateway.metric("commands_unknown_outcome_total", &[]).await;
    assert_eq!(unknown, 1.0);
}

#[tokio::test]
async fn a_repeat_waits_no_longer_than_it_says_and_the_answer_is_kept_though_all_have_left() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({})).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let key = [("Idempotency-Key", "one")];
    let leaving = connect_and_order(&gateway, &key).await;
    gate.arrived().await;
    drop(leaving);
    let hurried = [key[0], ("X-Request-Timeout", "100ms")];
    let reply = gateway.post(ORDER, &hurried, "{}").await;
    assert_eq!(
        reply.problem(),
        (504, "upstream_timeout".into(), "unknown".into())
    );
    gate.open();
    until("the command's end", async || {
        keys(&gateway, "kept").await == 1.0
    })
    .await;
    let repeated = order(&gateway, "one", &json!({})).await;
    assert_eq!((repeated.status, is_replay(&repeated)), (200, true));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_command_called_off_in_the_queue_leaves_its_key_to_whoever_waits_with_it() {
    for with_store in [false, true] {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = upstream()
            .script(move |request| match request.path() {
                "/cube/v4/package/orderPackage" => success(&json!({})),
                _ => page(1, 2, 105).behind(&held),
            })
            .run()
            .await;
        let folder = tempfile::tempdir().unwrap();
        let builder = gateway(&upstream).set("upstream.limits.connections", "1");
        let builder = if with_store {
            with_state(builder, &folder)
        } else {
            builder
        };
        let gateway = builder.run().await;
        let mut query = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
        gate.arrived().await;
        let key = [("Idempotency-Key", "one")];
        let leaving = connect_and_order(&gateway, &key).await;
        until("the first waits for its turn", async || {
            gateway.metric("queue_length", &[]).await == 1.0
        })
        .await;
        let mut staying = connect_and_order(&gateway, &key).await;
        until("the second waits for the first", async || {
            gateway.metric("requests_in_flight", &[]).await == 3.0
        })
        .await;
        drop(leaving);
        until("the first has left", async || {
            gateway.metric("requests_in_flight", &[]).await == 2.0
        })
        .await;
        gate.open();
        query.reply().await;
        let reply = staying.reply().await;
        assert_eq!((reply.status, is_replay(&reply)), (200, false));
        assert_eq!(upstream.calls(), 2);

        upstream.stop().await;
        for _ in 0..2 {
            let reply = order(&gateway, "two", &json!({})).await;
            assert_eq!(
                reply.problem(),
                (502, "upstream_unreachable".into(), "no".into()),
                "what was not sent leaves no trace"
            );
        }
    }
}

#[tokio::test]
async fn a_reload_keeps_the_keys_of_what_has_run_and_of_what_runs() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| match request.json()["slow"].as_u64() {
            Some(_) => success(&json!({"order_id": "ORDER_2"})).behind(&held),
            None => success(&json!({"order_id": "ORDER_1"})),
        })
        .run()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = with_state(gateway(&upstream), &folder).run().await;
    assert_eq!(order(&gateway, "done", &json!({})).await.status, 200);
    let mut first = gateway.connect().await;
    let request = post(ORDER, &[("Idempotency-Key", "slow")], br#"{"slow":1}"#);
    first.send(&request).await;
    gate.arrived().await;
    gateway.rewrite("upstream.timeout", "\"14s\"");
    gateway.rewrite("idempotency.max_keys", "1");
    let reloaded = gateway.reload().await;
    assert_eq!(reloaded.status, 200);
    let said = String::from_utf8(reloaded.body).unwrap();
    assert!(said.contains("idempotency.max_keys"), "{said}");
    assert!(is_replay(&order(&gateway, "done", &json!({})).await));
    let mut second = gateway.connect().await;
    second.send(&request).await;
    until("the second waits for the first", async || {
        gateway.metric("requests_in_flight", &[]).await == 2.0
    })
    .await;
    gate.open();
    let (first, second) = (first.reply().await, second.reply().await);
    assert_eq!((first.status, &first.body), (200, &second.body));
    assert!(is_replay(&second) && !is_replay(&first));
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_key_belongs_to_one_set_of_parameters() {
    let upstream = upstream().answers(success(&json!({}))).run().await;
    let gateway = gateway(&upstream).run().await;
    let first = json!({"device_id": ICCID, "order_period": "1"});
    assert_eq!(order(&gateway, "one", &first).await.status, 200);
    let key = [("Idempotency-Key", "one")];
    let same = format!(r#" {{"order_period":"1","x":"","device_id":"{ICCID}","sign":"old"}}"#);
    assert!(is_replay(&gateway.post(ORDER, &key, same).await));
    let other = json!({"device_id": ICCID, "order_period": "2"});
    let reply = order(&gateway, "one", &other).await;
    assert_eq!(
        reply.problem(),
        (422, "idempotency_mismatch".into(), "no".into())
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_key_belongs_to_one_tenant_one_caller_and_one_path() {
    let upstream = upstream()
        .tenant("P2", "secret-2")
        .answers(success(&json!({})))
        .run()
        .await;
    let (billing, portal) = ("token-of-billing-0001", "token-of-portal-0001");
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "secret-2")
        .caller("billing", billing, &["acme", "second"], true)
        .caller("portal", portal, &["acme"], true)
        .run()
        .await;
    let mut calls = 0;
    for (token, tenant, path) in [
        (billing, "acme", ORDER),
        (billing, "second", ORDER),
        (portal, "acme", ORDER),
        (portal, "acme", "/not/configured"),
        (portal, "acme", "/not/configured/either"),
    ] {
        calls += 1;
        let authorization = format!("Bearer {token}");
        let headers = [
            ("Authorization", &*authorization),
            ("X-Linksfield-Tenant", tenant),
            ("Idempotency-Key", "one"),
        ];
        for is_repeat in [false, true] {
            let reply = gateway.post(path, &headers, "{}").await;
            assert_eq!((reply.status, is_replay(&reply)), (200, is_repeat));
            assert_eq!(upstream.calls(), calls, "{token} {tenant} {path}");
        }
    }
}

#[tokio::test]
async fn a_key_is_visible_ascii_demanded_where_the_route_says_so_and_ignored_by_queries() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/orderPackage.idempotency", "\"required\"")
        .run()
        .await;
    let long = "x".repeat(256);
    let long_string = format!("\"{long}\"");
    for key in ["", "a b", "ключ", &long, &long_string, "\"\"", "\"ключ\""] {
        let headers = [("Idempotency-Key", key)];
        let reply = gateway.post(ORDER, &headers, "{}").await;
        assert_eq!(
            reply.problem(),
            (400, "invalid_header".into(), "no".into()),
            "{key}"
        );
        let reply = gateway
            .post("/package/queryOrder", &headers, r#"{"page_no":1}"#)
            .await;
        assert_eq!((reply.status, is_replay(&reply)), (200, false), "{key}");
    }
    let reply = gateway.order().await;
    assert_eq!(
        reply.problem(),
        (400, "idempotency_key_required".into(), "no".into())
    );
    assert_eq!(upstream.calls(), 1, "the one query");
    let reply = order(&gateway, &long[1..], &json!({})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(gateway.post("/unlisted", &[], "{}").await.status, 200);
}

#[tokio::test]
async fn a_key_is_one_key_with_quotes_or_without() {
    let upstream = upstream()
        .script(|_| success(&json!({"order_id": "ORDER_1"})))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let long = "x".repeat(255);
    let (bare, string) = (long.clone(), format!("\"{long}\""));
    let rows = [
        vec!["k", r#""k""#],
        vec![r#""K""#, "K"],
        vec![r#"a"b"#, r#""a\"b""#],
        vec![r"a\b", r#""a\\b""#],
        vec![r#""unclosed"#, r#""\"unclosed""#],
        vec![r#"""#, r#""\"""#],
        vec![r#""a b""#],
        vec![r#"" ""#],
        vec![r#""\"quoted\"""#],
        vec!["quoted", r#""quoted""#],
        vec![r#""bad\escape""#],
        vec![&bare, &string],
    ];
    for (number, spellings) in rows.iter().enumerate() {
        let body = json!({"row": number});
        for spelling in [spellings.clone(), spellings.clone()].concat() {
            let reply = order(&gateway, spelling, &body).await;
            assert_eq!(reply.status, 200, "{spelling}: {reply:?}");
            assert_eq!(upstream.calls(), number + 1, "{spelling}");
        }
        let other = order(&gateway, spellings[0], &json!({"another": 1})).await;
        assert_eq!(other.problem().1, "idempotency_mismatch");
    }
}

#[tokio::test]
async fn one_key_in_two_spellings_at_once_is_one_call() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |_| success(&json!({"order_id": "ORDER_1"})).behind(&held))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let mut callers = Vec::new();
    for key in ["k", "\"k\"", "k", "\"k\""] {
        callers.push(connect_and_order(&gateway, &[("Idempotency-Key", key)]).await);
        until("it is in flight", async || {
            let in_flight = gateway.metric("requests_in_flight", &[]).await;
            (in_flight - f64::from(u32::try_from(callers.len()).unwrap())).abs() < 0.5
        })
        .await;
    }
    gate.arrived().await;
    gate.open();
    for caller in &mut callers {
        assert_eq!(caller.reply().await.json()["data"]["order_id"], "ORDER_1");
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn what_stands_behind_a_key_in_quotes_is_refused_with_the_reason() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for key in [
        r#""k";x=1"#,
        r#""k"; x"#,
        r#""k" ;x"#,
        r#""k";"#,
        r#""a", "b""#,
        r#""a""b""#,
        r#""a"b"#,
    ] {
        let reply = order(&gateway, key, &json!({})).await;
        let refused = (400, "invalid_header".into(), "no".into());
        assert_eq!(reply.problem(), refused, "{key}");
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("behind the closing quote"), "{detail}");
    }
    let reply = order(&gateway, "a b", &json!({})).await;
    let detail = reply.json()["detail"].to_string();
    assert!(detail.contains("with spaces"), "{detail}");
    assert_eq!(upstream.calls(), 0);
}

/// The file was written by the last version that told `"k"` from `k`: `gzip -9n` of its
/// `state.redb`.
fn state_of_an_older_version(folder: &std::path::Path) {
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/state-keys-as-sent.redb.gz"
    );
    let unpacked = Command::new("gzip").args(["-dc", fixture]).output();
    let unpacked = unpacked.unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    std::fs::create_dir(folder.join("state")).unwrap();
    std::fs::write(folder.join("state/state.redb"), unpacked.stdout).unwrap();
}

#[tokio::test]
async fn a_key_that_an_older_version_has_stored_is_found_in_either_spelling() {
    let upstream = upstream()
        .script(|_| success(&json!({"order_id": "ORDER_2"})))
        .run()
        .await;
    let folder = tempfile::tempdir().unwrap();
    state_of_an_older_version(folder.path());
    let gateway = with_state(gateway(&upstream), &folder).run().await;
    let (one, two, lost) = (
        json!({"device_id": "1"}),
        json!({"device_id": "2"}),
        json!({"device_id": "lost"}),
    );
    for (spelling, body, expected) in [
        ("kept-bare", &one, Repeat::Same),
        (r#""kept-bare""#, &one, Repeat::Same),
        ("kept-quoted", &one, Repeat::Same),
        (r#""kept-quoted""#, &one, Repeat::Same),
        (r#"kept-"escaped\"#, &one, Repeat::Same),
        (r#""kept-\"escaped\\""#, &one, Repeat::Same),
        (r#""unclosed"#, &one, Repeat::Same),
        (r#""\"unclosed""#, &one, Repeat::Same),
        ("lost-bare", &lost, Repeat::InDoubt),
        (r#""lost-bare""#, &lost, Repeat::InDoubt),
        ("lost-quoted", &lost, Repeat::InDoubt),
        (r#""lost-quoted""#, &lost, Repeat::InDoubt),
        // They were two keys.
        ("both", &one, Repeat::Same),
        (r#""both""#, &one, Repeat::Same),
        ("both", &two, Repeat::Same),
        (r#""both""#, &two, Repeat::Same),
        ("new", &one, Repeat::Sent),
    ] {
        let calls = upstream.calls();
        let reply = order(&gateway, spelling, body).await;
        match expected {
            Repeat::Same => {
                assert!(is_replay(&reply), "{spelling}: {reply:?}");
                assert_eq!(reply.json()["data"]["order_id"], "ORDER_1");
            }
            Repeat::InDoubt => assert_eq!(reply.problem(), in_doubt(), "{spelling}"),
            Repeat::Sent => assert_eq!(reply.json()["data"]["order_id"], "ORDER_2"),
        }
        let is_sent = upstream.calls() > calls;
        assert_eq!(is_sent, expected == Repeat::Sent, "{spelling}");
    }
    for spelling in ["kept-quoted", r#""kept-quoted""#, "both", r#""both""#] {
        let reply = order(&gateway, spelling, &json!({"another": 1})).await;
        assert_eq!(reply.problem().1, "idempotency_mismatch", "{spelling}");
    }
}

#[tokio::test]
async fn where_there_is_no_room_new_keys_are_refused_and_none_is_forgotten() {
    for (bound, value) in [("max_keys", "1"), ("max_size", "\"50B\"")] {
        let upstream = upstream().answers(success(&json!({}))).run().await;
        let gateway = gateway(&upstream)
            .set(&format!("idempotency.{bound}"), value)
            .run()
            .await;
        assert_eq!(order(&gateway, "one", &json!({})).await.status, 200);
        let reply = order(&gateway, "two", &json!({})).await;
        assert_eq!(
            reply.problem(),
            (503, "idempotency_store_full".into(), "no".into()),
            "{bound}"
        );
        assert!(is_replay(&order(&gateway, "one", &json!({})).await));
        assert_eq!(gateway.order().await.status, 200, "without a key");
        assert_eq!(upstream.calls(), 2);
    }
}

#[tokio::test]
async fn a_key_is_new_again_when_its_window_has_ended() {
    let upstream = upstream().answers(success(&json!({}))).run().await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = with_state(gateway(&upstream), &folder)
        .set("idempotency.window", "\"200ms\"")
        .set("idempotency.max_keys", "1")
        .run()
        .await;
    for calls in 1..=3 {
        let reply = order(&gateway, "one", &json!({})).await;
        assert_eq!((reply.status, upstream.calls()), (200, calls));
        until("the window ends", async || {
            keys(&gateway, "kept").await == 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_command_under_way_when_the_process_is_killed_is_in_doubt_afterwards() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({})).behind(&gate))
        .run()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let first = with_state(gateway(&upstream), &folder).run().await;
    let _waits = connect_and_order(&first, &[("Idempotency-Key", "one")]).await;
    gate.arrived().await;
    drop(first); // which kills it
    gate.open();
    let second = with_state(gateway(&upstream), &folder).run().await;
    assert_eq!(keys(&second, "in_doubt").await, 1.0);
    assert_eq!(
        order(&second, "one", &json!({})).await.problem(),
        in_doubt()
    );
    assert_eq!(
        order(&second, "one", &json!({"a": 1})).await.problem().1,
        "idempotency_mismatch"
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn the_calls_of_the_day_are_counted_on_after_a_restart_or_a_crash() {
    for signal in ["TERM", "KILL"] {
        counted_on_after(signal).await;
    }
}

async fn counted_on_after(signal: &str) {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let run = async || {
        with_state(gateway(&upstream), &folder)
            .set("upstream.limits.requests_per_day", "3")
            .set("upstream.limits.command_reserve", "0.0")
            .run()
            .await
    };
    let mut first = run().await;
    for number in 1..=3 {
        assert_eq!(first.page(number).await.status, 200);
    }
    first.signal(signal);
    first.exit().await;
    let second = run().await;
    let assumed = second.metric("quota_assumed", &[]).await;
    assert_eq!(assumed, 1.0, "the store is younger than a day");
    let refused = (429, "quota_exhausted".into(), "no".into());
    assert_eq!(second.page(4).await.problem(), refused);
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn the_store_is_its_owners_alone_and_holds_neither_keys_nor_parameters() {
    const KEY: &str = "key-nobody-may-see-0001";
    const TOKEN: &str = "token-nobody-may-see-0001";
    let upstream = upstream()
        .answers(success(&json!({"order_id": "ORDER_1"})))
        .run()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = with_state(gateway(&upstream), &folder)
        .set("log.level", "\"trace\"")
        .caller("billing", TOKEN, &["acme"], true)
        .run()
        .await;
    let authorization = format!("Bearer {TOKEN}");
    let headers = [("Authorization", &*authorization), ("Idempotency-Key", KEY)];
    let body = json!({"device_id": ICCID}).to_string();
    for _ in 0..2 {
        assert_eq!(gateway.post(ORDER, &headers, &body).await.status, 200);
    }
    let path = folder.path().join("state/state.redb");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    let stored = std::fs::read(&path).unwrap();
    let contains = |text: &str| {
        stored
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(contains("ORDER_1"), "the answer is there");
    let sign = upstream.last().json()["sign"].as_str().unwrap().to_owned();
    for secret in [KEY, ICCID, TOKEN, crate::support::SECRET, &sign] {
        assert!(!contains(secret), "{secret} is in the store");
        assert!(!gateway.output().contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_store_in_use_or_damaged_is_a_reason_not_to_start() {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let serve = || {
        let builder = with_state(gateway(&upstream), &folder);
        let config = builder.write();
        let output = builder
            .command(&["serve", "--config", &config])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    };
    let first = with_state(gateway(&upstream), &folder).run().await;
    let (code, error) = serve();
    assert_eq!(code, Some(1));
    assert!(
        error.contains("server.state_dir") && error.contains("in use by another process"),
        "{error}"
    );
    drop(first);
    std::fs::write(folder.path().join("state/state.redb"), "no store").unwrap();
    let (code, error) = serve();
    assert_eq!(code, Some(1));
    assert!(
        error.contains("server.state_dir") && error.contains("damaged"),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_saved_is_given_again_and_in_doubt_after_a_restart() {
    let upstream = upstream()
        .answers(success(&json!({"x": "x".repeat(4 << 20)})))
        .run()
        .await;
    let folder = tempfile::tempdir().unwrap();
    drop(with_state(gateway(&upstream), &folder).run().await);
    let file = folder.path().join("state/state.redb");
    let size = file.metadata().unwrap().len();
    let full = with_state(gateway(&upstream), &folder)
        .largest_file(size / 512 + 64)
        .run()
        .await;
    assert_eq!(order(&full, "one", &json!({})).await.status, 200);
    let replay = order(&full, "one", &json!({})).await;
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    let failures = full.metric("idempotency_save_failures_total", &[]).await;
    assert_eq!(failures, 1.0, "{}", full.output());
    assert_eq!(full.metric("state_store_failing", &[]).await, 1.0);
    let unsaved = (503, "state_store_unavailable".into(), "no".into());
    assert_eq!(order(&full, "two", &json!({})).await.problem(), unsaved);
    assert_eq!(full.order().await.status, 200, "without a key");
    assert_eq!(upstream.calls(), 2);
    drop(full);
    let gateway = with_state(gateway(&upstream), &folder).run().await;
    assert_eq!(
        order(&gateway, "one", &json!({})).await.problem(),
        in_doubt()
    );
    assert_eq!(order(&gateway, "two", &json!({})).await.status, 200);
}

#[tokio::test]
async fn check_says_where_keys_are_kept_and_warns_where_a_restart_would_forget_required_ones() {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let check = |builder: Builder| {
        let config = builder.write();
        let output = builder
            .command(&["check", "--config", &config])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let required =
        || gateway(&upstream).set("routes./package/orderPackage.idempotency", "\"required\"");
    let warning = "keys are required and kept in memory only";
    for (builder, place, is_warned) in [
        (gateway(&upstream), "in memory only", false),
        (required(), "in memory only", true),
        (
            with_state(required(), &folder),
            "in memory and in server.state_dir",
            false,
        ),
    ] {
        let (shown, warned) = check(builder);
        let line = shown
            .lines()
            .find(|line| line.contains("idempotency keys:"));
        assert!(line.unwrap().contains(place), "{shown}");
        assert_eq!(warned.contains(warning), is_warned, "{warned}");
    }
}

/// A repeatable run: `KILL_SEED=… cargo test`, with the seed that a failure has printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let given = option_env!("KILL_SEED").and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("KILL_SEED={seed}");
        Self(seed)
    }

    /// `SplitMix64`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Sends keyed commands until its gateway is gone; tells by its counter how many it has begun.
async fn keep_ordering(address: String, client: u64, round: u64, begun: Arc<AtomicUsize>) {
    loop {
        let number = begun.fetch_add(1, Ordering::SeqCst);
        let key = format!("{round}-{client}-{number}");
        let body = json!({ "key": key }).to_string();
        let request = post(ORDER, &[("Idempotency-Key", &key)], body.as_bytes());
        let Ok(mut connection) = try_to_connect(&address).await else {
            return;
        };
        match connection.exchange_again(&request).await {
            Ok(Some(reply)) => assert_eq!(reply.status, 200, "{reply:?}"),
            Ok(None) | Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_no_command_that_has_left_is_missing_from_the_store() {
    const ROUNDS: u64 = 20;
    const CLIENTS: u64 = 4;
    let mut random = Random::new();
    let upstream = upstream()
        .answers(success(&json!({})).after(Duration::from_millis(1)))
        .run()
        .await;
    let sent = || {
        let requests = upstream.requests();
        let keys = requests
            .iter()
            .map(|request| request.json()["key"].as_str().unwrap().to_owned());
        keys.collect::<Vec<_>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let run = async || with_state(gateway(&upstream), &folder).run().await;
    let mut gateway = run().await;
    let (mut kept, mut in_doubt) = (0, 0);
    for round in 0..ROUNDS {
        let before = upstream.calls();
        let begun: Vec<Arc<AtomicUsize>> = (0..CLIENTS).map(|_| Arc::default()).collect();
        let clients: Vec<_> = (0..CLIENTS)
            .zip(&begun)
            .map(|(client, begun)| {
                let address = gateway.address.clone();
                tokio::spawn(keep_ordering(address, client, round, begun.clone()))
            })
            .collect();
        let calls = before + 1 + usize::try_from(random.below(12)).unwrap();
        while upstream.calls() < calls {
            tokio::task::yield_now().await; // finer than `until` looks
        }
        for _ in 0..random.below(3000) {
            tokio::task::yield_now().await;
        }
        drop(gateway); // which kills it
        for client in clients {
            client.await.unwrap();
        }
        until("the upstream has read all that has left", async || {
            upstream.open_connections() == 0
        })
        .await;

        gateway = run().await;
        let arrived = sent();
        for (client, begun) in (0..CLIENTS).zip(&begun) {
            for number in 0..begun.load(Ordering::SeqCst) {
                let key = format!("{round}-{client}-{number}");
                let reply = order(&gateway, &key, &json!({ "key": key })).await;
                let has_arrived = arrived.contains(&key);
                match reply.status {
                    200 if is_replay(&reply) => kept += 1,
                    200 => assert!(!has_arrived, "{key} was sent twice"),
                    _ => {
                        let problem = reply.problem();
                        assert_eq!(problem.1, "command_in_doubt", "{key}");
                        in_doubt += 1;
                    }
                }
            }
        }
        let mut all = sent();
        let number = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), number, "a key has reached the vendor twice");
    }
    println!("{kept} answers kept, {in_doubt} commands in doubt");
    assert!(kept > 0 && in_doubt > 0);
}
