//! A vendor that does not notice when a connection is closed: a server with a thread for each
//! request works on, and so counts it on. Behind a [`Gate`] the upstream of the tests is such a
//! one.

use serde_json::json;

use crate::support::answer::{Answer, Fault};
use crate::support::gateway::{Builder, Gateway};
use crate::support::{Gate, Upstream, gateway, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";
const BODY: &str = r#"{"device_id":"89860012018111220455"}"#;

/// Answers pages behind a gate, and orders too.
async fn slow_vendor(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    upstream()
        .script(move |request| answer(request.path(), &request.json()).behind(&gate))
        .run()
        .await
}

fn answer(path: &str, asked: &serde_json::Value) -> Answer {
    if path.ends_with("orderPackage") {
        success(&json!({"order_id": "ORDER_1"}))
    } else {
        page(asked["page_no"].as_u64().unwrap(), 2, 105)
    }
}

/// An exchange ends quickly, no caller has to wait for long.
fn impatient(upstream: &Upstream) -> Builder {
    gateway(upstream).set("upstream.timeout", "\"200ms\"")
}

/// Asks for this page until its call has been given up; on a slow machine one may end before it was
/// sent.
async fn give_up(gateway: &Gateway, number: u64) {
    let before = held(gateway).await;
    until("its slot is held", async || {
        let (status, ..) = gateway.page(number).await.problem();
        assert_eq!(status, 504);
        held(gateway).await > before
    })
    .await;
}

async fn held(gateway: &Gateway) -> f64 {
    gateway.metric("upstream_slots_held", &[]).await
}

async fn nothing_is_held(gateway: &Gateway) {
    until("no slot is held", async || held(gateway).await == 0.0).await;
}

#[tokio::test]
async fn a_vendor_that_does_not_notice_a_close_never_has_more_calls_than_it_allows() {
    let gate = Gate::new();
    let upstream = slow_vendor(&gate).await;
    let gateway = impatient(&upstream).run().await;
    for number in 1..=3 {
        give_up(&gateway, number).await;
    }
    assert_eq!((held(&gateway).await, upstream.running()), (3.0, 3));

    // Longer than any connection lingers: who asks now would be sent on one more.
    let patient = [("x-request-timeout", "15s")];
    let query = gateway.post("/package/queryOrder", &patient, r#"{"page_no":9}"#);
    for reply in [query.await, gateway.post(ORDER, &patient, BODY).await] {
        let refused = (503, "breaker_open".into(), "no".into());
        assert_eq!(reply.problem(), refused, "at once");
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("every connection"), "{detail}");
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 1.0);
    assert_eq!((upstream.calls(), upstream.running()), (3, 3));
    assert_eq!(upstream.highest_connections(), 3);

    gate.open();
    nothing_is_held(&gateway).await;
    until("the first one tries, and closes it", async || {
        gateway.page(4).await.status == 200
    })
    .await;
    assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 0.0);
    for number in 1..=3 {
        let late = gateway.page(number).await;
        let status = late.header("cache-status").unwrap();
        assert!(status.contains("; hit"), "what came late is kept: {status}");
        assert_eq!(late.body, page(number, 2, 105).body);
    }
    assert!(upstream.highest_connections() <= 3);
}

#[tokio::test]
async fn the_same_query_is_not_asked_beside_an_attempt_that_is_held() {
    let gate = Gate::new();
    let upstream = slow_vendor(&gate).await;
    let gateway = impatient(&upstream)
        .set("upstream.retry.attempts", "3")
        .set("upstream.retry.backoff", "\"1ms\"")
        .run()
        .await;
    give_up(&gateway, 1).await;
    let open = async {
        until("one more waits for it", async || {
            gateway.metric("requests_in_flight", &[]).await == 1.0
        })
        .await;
        gate.open();
    };
    let (reply, ()) = tokio::join!(gateway.page(1), open);
    assert_eq!(reply.status, 200);
    let status = reply.header("cache-status").unwrap();
    assert!(
        status.contains("; hit") || status.contains("; collapsed"),
        "{status}"
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn an_order_that_is_answered_late_is_in_doubt_until_then_and_no_longer() {
    let gate = Gate::new();
    let upstream = slow_vendor(&gate).await;
    let gateway = impatient(&upstream).run().await;
    let key = [("idempotency-key", "k"), ("x-request-id", "late")];
    until("it has left, and was given up", async || {
        let reply = gateway.post(ORDER, &key, BODY).await;
        reply.problem() == (504, "upstream_timeout".into(), "unknown".into())
    })
    .await;
    let reply = gateway.post(ORDER, &key[..1], BODY).await;
    assert_eq!(reply.problem().1, "command_in_doubt");

    gate.open();
    until("the doubt is settled", async || {
        gateway
            .metric("idempotency_keys", &[("state", "kept")])
            .await
            == 1.0
    })
    .await;
    let reply = gateway.post(ORDER, &key[..1], BODY).await;
    assert_eq!(
        (reply.status, &reply.json()["data"]["order_id"]),
        (200, &json!("ORDER_1"))
    );
    assert_eq!(reply.header("idempotency-replayed"), Some("true"));
    assert_eq!(upstream.calls(), 1);
    let settled = gateway.metric("commands_answered_late_total", &[]).await;
    assert_eq!(settled, 1.0);
    let page = String::from_utf8(gateway.admin("/").await.body).unwrap();
    let told = "since the start: 1. Answered later: 1. The log names each (in_doubt).";
    assert!(page.contains(told), "{page}");
    let line = gateway
        .log()
        .into_iter()
        .find(|line| line["message"] == "command answered after its time")
        .expect("it is told");
    assert_eq!(
        (&line["request_id"], &line["outcome"]),
        (&json!("late"), &json!("success"))
    );
    nothing_is_held(&gateway).await;
}

#[tokio::test]
async fn a_slot_is_held_until_the_vendor_ends_the_connection_says_too_much_or_its_time_ends() {
    let large = || {
        let mut answer = page(1, 2, 105);
        answer.body.resize(64 << 10, b' ');
        answer
    };
    let rows = [
        ("closed", page(1, 2, 105).fault(Fault::Drop), "2m", true),
        ("reset", page(1, 2, 105).fault(Fault::Reset), "2m", true),
        ("cut", page(1, 2, 105).fault(Fault::Cut), "2m", true),
        ("too much", large(), "2m", true),
        ("the time", page(1, 2, 105), "300ms", false),
    ];
    for (name, slow, hold, opens) in rows {
        let gate = Gate::new();
        let first = slow.behind(&gate);
        let upstream = upstream()
            .answers_in_turn([first, page(2, 2, 105)])
            .run()
            .await;
        let gateway = impatient(&upstream)
            .set("upstream.max_answer", "\"4KiB\"")
            .set("upstream.hold", &format!("{hold:?}"))
            .set("upstream.limits.connections", "1")
            .run()
            .await;
        give_up(&gateway, 1).await;
        if opens {
            assert_eq!(gateway.page(2).await.status, 503, "{name}");
            gate.open();
        }
        until("another call is made", async || {
            gateway.page(2).await.status == 200
        })
        .await;
        assert!(upstream.calls() >= 2, "{name}");
        nothing_is_held(&gateway).await;
    }
}

#[tokio::test]
async fn a_call_goes_through_a_slot_that_is_free_and_not_through_those_just_given_up() {
    let gate = Gate::new();
    let held_back = gate.clone();
    let upstream = upstream()
        .script(move |request| {
            let asked = request.json();
            let answer = answer(request.path(), &asked);
            if asked["page_no"].as_u64().unwrap() <= 2 {
                answer.behind(&held_back)
            } else {
                answer
            }
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.hold", "\"0s\"")
        .set("upstream.limits.connections", "5")
        .set("routes./package/queryOrder.timeout", "\"1s\"")
        .run()
        .await;
    let slow = tokio::join!(gateway.page(1), gateway.page(2));
    assert_eq!((slow.0.status, slow.1.status), (504, 504));
    until("both have been given up", async || {
        gateway.metric("upstream_requests_in_flight", &[]).await == 0.0
    })
    .await;
    for number in 3..10 {
        assert_eq!(gateway.page(number).await.status, 200, "{number}");
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_what_is_held() {
    let gate = Gate::new();
    let upstream = slow_vendor(&gate).await;
    let mut gateway = impatient(&upstream)
        .set("server.drain_timeout", "\"1h\"")
        .run()
        .await;
    give_up(&gateway, 1).await;
    assert_eq!(
        gateway
            .post(ORDER, &[("idempotency-key", "k")], BODY)
            .await
            .status,
        504
    );
    assert_eq!(held(&gateway).await, 2.0);
    gateway.signal("TERM");
    assert!(gateway.exit().await.success());
}
