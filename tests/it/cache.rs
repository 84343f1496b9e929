//! What a caller may rely on when a page comes from memory.

use futures::future::join_all;
use serde_json::json;

use crate::support::answer::{Fault, answer, raw};
use crate::support::client::post;
use crate::support::{Gate, failure, gateway, page, success, until, upstream};

fn lookup(reply: &crate::support::Reply) -> &str {
    let status = reply.header("cache-status").unwrap();
    match status {
        status if status.contains("; hit") => "hit",
        status if status.contains("; collapsed") => "coalesced",
        _ => "miss",
    }
}

#[tokio::test]
async fn two_hundred_identical_misses_make_one_call() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let ask = join_all((0..200).map(|_| gateway.page(1)));
    let release = async {
        until("all wait", async || {
            gateway.metric("requests_in_flight", &[]).await >= 200.0
        })
        .await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(ask, release);
    assert!(
        replies
            .iter()
            .all(|reply| reply.status == 200 && reply.body == replies[0].body)
    );
    assert_eq!(
        replies
            .iter()
            .filter(|reply| lookup(reply) == "miss")
            .count(),
        1
    );
    assert_eq!(
        replies
            .iter()
            .filter(|reply| lookup(reply) == "coalesced")
            .count(),
        199
    );
    assert_eq!(upstream.calls(), 1);
    assert_eq!(
        gateway
            .metric("upstream_calls_saved_total", &[("reason", "coalesced")])
            .await,
        199.0
    );
}

#[tokio::test]
async fn a_failure_is_one_call_and_counts_as_coalesced_for_who_only_waited() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(raw(503, failure("x").body).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let leaves = gateway
        .connect_and_ask(r#"{"page_no":1,"page_size":2}"#)
        .await;
    gate.arrived().await;
    let release = async {
        until("all wait", async || {
            gateway.metric("requests_in_flight", &[]).await >= 6.0
        })
        .await;
        drop(leaves);
        until("one has left", async || {
            gateway.metric("requests_in_flight", &[]).await < 6.0
        })
        .await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(join_all((0..5).map(|_| gateway.page(1))), release);
    assert!(replies.iter().all(|reply| reply.status == 503));
    for (result, expected) in [("miss", 1.0), ("coalesced", 5.0)] {
        let labels = [("result", result)];
        let counted = gateway.metric("requests_total", &labels).await;
        assert_eq!(counted, expected, "{result}");
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn what_memory_is_worth_is_judged_when_the_body_has_come() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/orderPackage.settle", "\"200ms\"")
        .run()
        .await;
    gateway.order().await;
    gateway.page(1).await; // serves until the order has settled
    let request = post(
        "/package/queryOrder",
        &[],
        br#"{"page_no":1,"page_size":2}"#,
    );
    let (head, end) = request.split_at(request.len() - 1);
    let mut slow = gateway.connect().await;
    slow.send(head).await;
    until("the order has settled", async || {
        let explained = gateway.post_to_admin("/explain", &[], r#"{"page_no":1,"page_size":2}"#);
        explained.await.json()["result"] == "miss"
    })
    .await;
    slow.send(end).await;
    assert_eq!(lookup(&slow.reply().await), "miss");
}

#[tokio::test]
async fn parameters_that_are_very_long_are_not_kept() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream).run().await;
    let ask = |length: usize| {
        let body = json!({"x": "x".repeat(length)}).to_string();
        gateway.post("/package/queryOrder", &[], body)
    };
    ask(8000).await;
    assert_eq!(lookup(&ask(8000).await), "hit");
    for _ in 0..2 {
        let status = ask(9000).await.header("cache-status").unwrap().to_owned();
        assert!(status.ends_with("detail=too_large"), "{status}");
    }
}

#[tokio::test]
async fn what_memory_has_no_room_for_says_so() {
    let upstream = upstream()
        .answers(success(&json!({"x": "x".repeat(10_000)})))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("cache.max_size", "\"8KiB\"")
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    for _ in 0..2 {
        let reply = gateway.page(1).await;
        let status = reply.header("cache-status").unwrap();
        assert_eq!(status, "linksfield-gateway; fwd=miss; detail=too_large");
    }
}

#[tokio::test]
async fn a_fill_goes_on_for_the_others_when_the_caller_who_began_it_leaves() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let mut first = gateway.connect().await;
    first
        .send(&post(
            "/package/queryOrder",
            &[],
            br#"{"page_no":1,"page_size":2}"#,
        ))
        .await;
    gate.arrived().await;
    let second = async {
        drop(first);
        until("the first has left", async || {
            gateway.metric("requests_in_flight", &[]).await < 2.0
        })
        .await;
        gate.open();
    };
    let (reply, ()) = tokio::join!(gateway.page(1), second);
    assert_eq!((reply.status, lookup(&reply)), (200, "coalesced"));
    assert_eq!(lookup(&gateway.page(1).await), "hit");
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn only_a_whole_success_of_the_expected_shape_is_kept() {
    let rows = [
        ("a page", page(1, 2, 105), true),
        ("in chunks", page(1, 2, 105).fault(Fault::Chunked), true),
        (
            "after an interim response",
            page(1, 2, 105).fault(Fault::Interim),
            true,
        ),
        (
            "the last answer of its connection",
            page(1, 2, 105).fault(Fault::CloseAfter),
            true,
        ),
        (
            "with cookies and cache headers",
            page(1, 2, 105)
                .header("Set-Cookie", "a=b")
                .header("Cache-Control", "no-store")
                .header("Vary", "*"),
            true,
        ),
        ("a business failure", failure("4711"), false),
        (
            "success false",
            answer(200, &json!({"code": "0000", "success": false, "data": {}})),
            false,
        ),
        ("no data", success(&json!(null)), false),
        (
            "data of another shape",
            success(&json!({"package_order": []})),
            false,
        ),
        ("another status", raw(201, page(1, 2, 105).body), false),
        ("a server error", raw(500, page(1, 2, 105).body), false),
        ("throttled", raw(429, failure("x").body), false),
        (
            "delimited by close",
            page(1, 2, 105).fault(Fault::CloseDelimited),
            false,
        ),
        (
            "encoded",
            raw(200, b"\x1f\x8bno JSON".to_vec()).header("Content-Encoding", "gzip"),
            false,
        ),
    ];
    for (name, sent, kept) in rows {
        let upstream = upstream().answers(sent.clone()).run().await;
        let gateway = gateway(&upstream).run().await;
        for call in 1..=2 {
            let reply = gateway.page(1).await;
            assert_eq!(
                (reply.status, &reply.body),
                (sent.status, &sent.body),
                "{name}: as it came"
            );
            assert_eq!(lookup(&reply) == "hit", kept && call == 2, "{name}");
            assert_eq!(reply.header("set-cookie"), None, "{name}");
            assert_eq!(reply.header("vary"), None, "{name}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{name}");
        }
        assert_eq!(upstream.calls(), if kept { 1 } else { 2 }, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_envelope_is_no_answer_to_a_query() {
    let huge = success(&json!({"page": {}, "x": "x".repeat(5000)}));
    let rows = [
        (
            "HTML",
            raw(200, "<html>"),
            "upstream_invalid_answer",
            "http_protocol_error",
            "yes",
        ),
        (
            "HTML of a broken proxy",
            raw(503, "<html>"),
            "upstream_invalid_answer",
            "http_protocol_error",
            "yes",
        ),
        (
            "nothing",
            raw(200, ""),
            "upstream_invalid_answer",
            "http_protocol_error",
            "yes",
        ),
        (
            "an array",
            raw(200, "[]"),
            "upstream_invalid_answer",
            "http_protocol_error",
            "yes",
        ),
        (
            "too large",
            huge,
            "upstream_invalid_answer",
            "http_response_body_size",
            "yes",
        ),
        (
            "cut off",
            page(1, 2, 105).fault(Fault::Cut),
            "upstream_disconnected",
            "http_response_incomplete",
            "yes",
        ),
        (
            "no answer",
            page(1, 2, 105).fault(Fault::Drop),
            "upstream_disconnected",
            "connection_terminated",
            "unknown",
        ),
        (
            "a reset",
            page(1, 2, 105).fault(Fault::Reset),
            "upstream_disconnected",
            "connection_terminated",
            "unknown",
        ),
    ];
    for (name, sent, code, proxy_error, reached) in rows {
        let upstream = upstream().answers(sent).run().await;
        let gateway = gateway(&upstream)
            .set("upstream.max_answer", "\"4KiB\"")
            .run()
            .await;
        let reply = gateway.page(1).await;
        assert_eq!(
            reply.problem(),
            (502, code.into(), reached.into()),
            "{name}"
        );
        assert_eq!(
            reply.header("proxy-status"),
            Some(&*format!("linksfield-gateway; error={proxy_error}")),
            "{name}"
        );
        gateway.page(1).await;
        assert_eq!(upstream.calls(), 2, "{name}: a failure is not kept");
    }
}

#[tokio::test]
async fn a_page_that_is_no_longer_fresh_is_fetched_again() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"50ms\"")
        .run()
        .await;
    gateway.page(1).await;
    until("a second call", async || {
        gateway.page(1).await;
        upstream.calls() == 2
    })
    .await;
}

#[tokio::test]
async fn what_makes_a_query_another_one() {
    let upstream = upstream().tenant("P2", "other-secret").run().await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "other-secret")
        .set("tenants.acme.default", "true")
        .run()
        .await;
    let plain: &[(&str, &str)] = &[];
    let rows = [
        (r#"{"page_no":1,"page_size":2}"#, plain, "miss"),
        (r#"{"page_size":2,"page_no":1}"#, plain, "hit"),
        (
            r#"{"page_no":1,"page_size":2,"device_id":"","order_id":null,"x":[],"y":{}}"#,
            plain,
            "hit",
        ),
        (
            r#"{"access_code":"P000270","timestamp":"1","version":"9","sign":"x","page_no":1,"page_size":2}"#,
            plain,
            "hit",
        ),
        (
            r#"{"page_no":1,"page_size":2}"#,
            &[
                ("X-Linksfield-Tenant", "acme"),
                ("Cookie", "a=b"),
                ("X-Other", "1"),
            ],
            "hit",
        ),
        (
            r#"{"page_no":1,"page_size":2}"#,
            &[("Accept-Language", "zh")],
            "hit",
        ),
        (
            r#"{"page_no":1,"page_size":2}"#,
            &[("Accept-Language", "en-GB")],
            "miss",
        ),
        (
            r#"{"page_no":1,"page_size":2}"#,
            &[("Accept-Language", "en-US")],
            "hit",
        ),
        (
            r#"{"page_no":1,"page_size":2}"#,
            &[("X-Linksfield-Tenant", "second")],
            "miss",
        ),
        (
            r#"{"access_code":"P2","page_no":1,"page_size":2}"#,
            plain,
            "hit",
        ),
        (r#"{"page_no":1,"page_size":2.0}"#, plain, "miss"),
        (r#"{"page_no":1,"page_size":"2"}"#, plain, "miss"),
        (
            r#"{"page_no":1,"page_size":2,"device_id":" "}"#,
            plain,
            "miss",
        ),
        (
            r#"{"page_no":1,"page_size":2,"Device_id":"0"}"#,
            plain,
            "miss",
        ),
    ];
    for (body, headers, expected) in rows {
        let reply = gateway.post("/package/queryOrder", headers, body).await;
        assert_eq!(
            (reply.status, lookup(&reply)),
            (200, expected),
            "{body} {headers:?}"
        );
    }
    let languages: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.header("accept-language").unwrap().to_owned())
        .collect();
    assert_eq!(languages[..2], ["zh-CN", "en-US"]);
}

#[tokio::test]
async fn an_order_makes_the_pages_of_its_tenant_unfindable_and_nobody_elses() {
    let upstream = upstream().tenant("P2", "other-secret").run().await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "other-secret")
        .set("tenants.acme.default", "true")
        .run()
        .await;
    let of = |tenant: &'static str| {
        gateway.post(
            "/package/queryOrder",
            const { &[] },
            format!(r#"{{"access_code":"{tenant}","page_no":1}}"#),
        )
    };
    for path in ["/package/orderPackage", "/not/configured"] {
        of("P000270").await;
        of("P2").await;
        assert_eq!(
            (lookup(&of("P000270").await), lookup(&of("P2").await)),
            ("hit", "hit")
        );
        let ordered = gateway
            .post(path, &[("X-Linksfield-Tenant", "acme")], "{}")
            .await;
        assert_eq!(ordered.status, 200);
        assert_eq!(
            (lookup(&of("P000270").await), lookup(&of("P2").await)),
            ("miss", "hit"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_fill_that_began_before_an_order_answers_those_who_waited_and_nobody_else() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| match request.path() {
            "/cube/v4/package/queryOrder" if request.json()["held"] == 1 => {
                page(1, 2, 105).behind(&held)
            }
            _ => page(1, 2, 106),
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let ask = || gateway.connect_and_ask(r#"{"page_no":1,"page_size":2,"held":1}"#);
    let mut before = ask().await;
    gate.arrived().await;
    assert_eq!(gateway.order().await.status, 200);
    let mut after = ask().await;
    gate.arrived().await; // a fill of its own: it has not joined the older one
    gate.open();
    assert_eq!(lookup(&before.reply().await), "miss");
    assert_eq!(lookup(&after.reply().await), "miss");
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn the_memory_stays_bounded_and_new_queries_are_still_kept() {
    let upstream = upstream()
        .script(|_| success(&json!({"x": "x".repeat(10_000)})))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("cache.max_size", "\"256KiB\"")
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    for number in 0..100 {
        gateway.page(number).await;
        assert_eq!(lookup(&gateway.page(number).await), "hit", "{number}");
    }
    let capacity = gateway.metric("cache_capacity_bytes", &[]).await;
    until("within the bound", async || {
        gateway.metric("cache_bytes", &[]).await <= capacity
    })
    .await;
    assert!(gateway.metric("cache_entries", &[]).await >= 15.0);
    assert!(gateway.metric("cache_evictions_total", &[]).await >= 70.0);
}

#[tokio::test]
async fn a_caller_stops_waiting_at_its_deadline_and_the_fill_goes_on() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let reply = gateway
        .post(
            "/package/queryOrder",
            &[("X-Request-Timeout", "300ms")],
            r#"{"page_no":1,"page_size":2}"#,
        )
        .await;
    assert_eq!(
        reply.problem(),
        (504, "upstream_timeout".into(), "unknown".into())
    );
    gate.open();
    until("the fill is kept", async || {
        lookup(&gateway.page(1).await) == "hit"
    })
    .await;
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_vendor_that_never_answers_is_given_up() {
    let upstream = upstream()
        .answers(page(1, 2, 105).fault(Fault::Hang))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.timeout", "\"200ms\"")
        .set("upstream.hold", "\"100ms\"")
        .run()
        .await;
    assert_eq!(
        gateway.page(1).await.problem(),
        (504, "upstream_timeout".into(), "unknown".into())
    );
    until("its connection is closed", async || {
        upstream.open_connections() == 0
    })
    .await;
}
