//! The behaviours that the `cache-tests` suites (<https://cache-tests.fyi>) ask of HTTP caches,
//! asked of a cache of answers to POST; the identifiers are theirs. `docs/caching.md` lists what is
//! supported, and why the rest is not.
//!
//! Freshness comes from the route, so a page is made stale by a route whose pages are fresh for no
//! time at all.

use serde_json::json;

use crate::support::answer::{Answer, Fault, raw};
use crate::support::{Gate, Reply, failure, gateway, page, success, until, upstream};

/// A page is fresh for a minute; stale at once, and served while one fill runs; stale, and served
/// where a fill fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    Fresh,
    Stale,
    StandsIn,
}

impl Kept {
    fn policy(self) -> [(&'static str, &'static str); 3] {
        let windows = match self {
            Self::Fresh => ["\"1m\"", "\"0s\"", "\"0s\""],
            Self::Stale => ["\"0s\"", "\"1m\"", "\"1m\""],
            Self::StandsIn => ["\"0s\"", "\"0s\"", "\"1m\""],
        };
        let keys = ["fresh_for", "stale_for", "stale_if_error"];
        [0, 1, 2].map(|place| (keys[place], windows[place]))
    }
}

/// `hit`, and whether it is stale; or `fwd=…`.
fn how(reply: &Reply) -> String {
    let status = reply.header("cache-status").unwrap_or("none");
    let mut parts = status.split("; ").skip(1);
    let first = parts.next().unwrap_or(status).to_owned();
    let ttl = parts.find_map(|part| part.strip_prefix("ttl=")?.parse::<i64>().ok());
    match ttl {
        Some(..=0) if first == "hit" => format!("{first}, stale"),
        _ => first,
    }
}

const ONE: &str = r#"{"page_no":1,"page_size":2}"#;

/// The first answer is a page of 105 orders, the second one is `next`. What does the second request
/// get?
async fn second(kept: Kept, headers: &[(&str, &str)], next: Answer) -> (Reply, usize) {
    let upstream = upstream()
        .answers_in_turn([page(1, 2, 105), next])
        .run()
        .await;
    let mut gateway = gateway(&upstream);
    for (key, value) in kept.policy() {
        gateway = gateway.set(&format!("routes./package/queryOrder.{key}"), value);
    }
    let gateway = gateway.set("upstream.timeout", "\"300ms\"").run().await;
    assert_eq!(
        gateway.post("/package/queryOrder", &[], ONE).await.status,
        200
    );
    let reply = gateway.post("/package/queryOrder", headers, ONE).await;
    (reply, upstream.calls())
}

#[tokio::test]
async fn the_directives_of_a_request_are_honoured() {
    use Kept::{Fresh, Stale, StandsIn};
    #[rustfmt::skip]
    let rows = [
        ("freshness-max-age", Fresh, "", "hit", 1),
        ("ccreq-ma0", Fresh, "max-age=0", "fwd=request", 2),
        ("ccreq-ma1", Fresh, "max-age=1", "hit", 1),
        ("ccreq-ma1, stale", Stale, "max-age=60", "fwd=stale", 2),
        ("ccreq-max-stale", Stale, "max-stale=1000", "hit, stale", 2),
        ("ccreq-max-stale, beyond stale_for", StandsIn, "max-stale=1000", "hit, stale", 2),
        ("ccreq-max-stale, without limit", StandsIn, "max-stale", "hit, stale", 2),
        ("ccreq-max-stale, with max-age", Stale, "max-age=60, max-stale=60", "hit, stale", 2),
        ("ccreq-min-fresh", Fresh, "min-fresh=2000", "fwd=request", 2),
        ("ccreq-min-fresh, enough", Fresh, "min-fresh=30", "hit", 1),
        ("ccreq-min-fresh, stale", Stale, "min-fresh=0", "fwd=stale", 2),
        ("ccreq-no-cache", Fresh, "no-cache", "fwd=request", 2),
        ("ccreq-no-store", Fresh, "no-store", "fwd=bypass", 2),
        ("ccreq-oic, there", Fresh, "only-if-cached", "hit", 1),
        ("ccreq-oic, stale", Stale, "only-if-cached", "hit, stale", 1),
        ("ccreq-oic, old", StandsIn, "only-if-cached", "none", 1),
        ("pragma-request-no-cache", Fresh, "", "hit", 1),
        ("no directive of requests", Fresh, "s-maxage=0, must-revalidate, private, x", "hit", 1),
    ];
    for (id, kept, cache_control, expected, calls) in rows {
        let headers = [("Cache-Control", cache_control), ("Pragma", "no-cache")];
        let (reply, called) = second(kept, &headers, page(1, 2, 105)).await;
        assert_eq!(how(&reply), expected, "{id}: {reply:?}");
        assert!(called <= calls, "{id}: {called} calls");
        if expected == "none" {
            assert_eq!(
                reply.problem(),
                (504, "not_cached".into(), "no".into()),
                "{id}"
            );
        }
    }
}

#[tokio::test]
async fn nothing_in_memory_is_a_504_to_who_asks_for_nothing_else() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let only = [("Cache-Control", "only-if-cached")];
    let reply = gateway.post("/package/queryOrder", &only, ONE).await; // ccreq-oic
    assert_eq!(reply.problem(), (504, "not_cached".into(), "no".into()));
    assert_eq!(upstream.calls(), 0);
    let refused = [("result", "refused")];
    assert_eq!(gateway.metric("requests_total", &refused).await, 1.0);
}

#[tokio::test]
async fn an_old_page_stands_in_where_the_vendor_fails_and_only_there() {
    let throttled = "4290";
    #[rustfmt::skip]
    let rows = [
        ("stale-close", page(1, 2, 7).fault(Fault::Drop), Some(("upstream_disconnected", None))),
        ("stale-close, reset", page(1, 2, 7).fault(Fault::Reset), Some(("upstream_disconnected", None))),
        ("stale-sie-close, cut body", page(1, 2, 7).fault(Fault::Cut), Some(("upstream_disconnected", None))),
        ("no answer in time", page(1, 2, 7).fault(Fault::Hang), Some(("upstream_timeout", None))),
        ("stale-503", raw(503, failure("x").body), Some(("transient", Some("503")))),
        ("stale-sie-503, no envelope", raw(503, "<html>"), Some(("upstream_invalid_answer", Some("503")))),
        ("500", raw(500, failure("x").body), Some(("transient", Some("500")))),
        ("429", raw(429, failure("x").body), Some(("throttled", Some("429")))),
        ("a throttling code", failure(throttled), Some(("throttled", Some("200")))),
        ("a transient code", failure("5030"), Some(("transient", Some("200")))),
        ("no envelope", raw(200, "<html>"), Some(("upstream_invalid_answer", Some("200")))),
        ("a business error", failure("4711"), None),
        ("a caller's error", raw(400, failure("4711").body), None),
        ("a bad signature", raw(403, failure("4711").body), None),
        ("another success", page(1, 2, 106), None),
        ("a success of no shape", success(&json!({"x": 1})), None),
    ];
    for (id, next, expected) in rows {
        let upstream = upstream()
            .answers_in_turn([page(1, 2, 105), next.clone()])
            .run()
            .await;
        let gateway = gateway(&upstream)
            .set("routes./package/queryOrder.fresh_for", "\"0s\"")
            .set("routes./package/queryOrder.stale_for", "\"0s\"")
            .set("upstream.codes.throttled", &format!("[{throttled:?}]"))
            .set("upstream.codes.transient", "[\"5030\"]")
            .set("upstream.timeout", "\"300ms\"")
            .run()
            .await;
        let first = gateway.page(1).await;
        let reply = gateway.page(1).await;
        match expected {
            Some((detail, status)) => {
                assert_eq!((reply.status, &reply.body), (200, &first.body), "{id}");
                let told = reply.header("cache-status").unwrap();
                let status =
                    status.map_or(String::new(), |status| format!("; fwd-status={status}"));
                let start = format!("linksfield-gateway; fwd=stale{status}; ttl=");
                assert!(told.starts_with(&start), "{id}: {told}");
                assert!(
                    told.ends_with(&format!("; detail={detail}")),
                    "{id}: {told}"
                );
                assert!(reply.header("age").is_some(), "{id}");
            }
            None => assert_eq!(
                (reply.status, &reply.body),
                (next.status, &next.body),
                "{id}"
            ),
        }
        assert_eq!(upstream.calls(), 2, "{id}");
    }
}

#[tokio::test]
async fn no_old_page_stands_in_for_a_caller_who_refuses_it_nor_beyond_its_time() {
    for (kept, cache_control) in [
        (Kept::StandsIn, "no-cache"),
        (Kept::StandsIn, "no-store"),
        (Kept::StandsIn, "max-age=60"),
        (Kept::Stale, "no-cache"),
        (Kept::Fresh, "no-cache"),
    ] {
        let headers = [("Cache-Control", cache_control)];
        let (reply, _) = second(kept, &headers, raw(503, failure("x").body)).await;
        assert_eq!(reply.status, 503, "{kept:?} {cache_control}");
    }
    let upstream = upstream()
        .answers_in_turn([page(1, 2, 105), raw(503, failure("x").body)])
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_if_error", "\"1ms\"")
        .run()
        .await;
    gateway.page(1).await;
    until("too old", async || gateway.page(1).await.status == 503).await;
}

#[tokio::test]
async fn a_stale_page_is_answered_at_once_while_exactly_one_fill_runs() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers_in_turn([page(1, 2, 105), page(1, 2, 106).behind(&gate)])
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .run()
        .await;
    let old = gateway.page(1).await;
    for _ in 0..20 {
        let reply = gateway.page(1).await;
        assert_eq!(
            (how(&reply).as_str(), &reply.body),
            ("hit, stale", &old.body)
        );
    }
    gate.arrived().await;
    assert_eq!(upstream.calls(), 2);
    let reason = [("reason", "revalidate")];
    gate.open();
    until("the new page", async || {
        gateway.page(1).await.body != old.body
    })
    .await;
    assert!(gateway.metric("upstream_requests_total", &reason).await >= 1.0);
    assert!(
        gateway
            .metric("requests_total", &[("result", "stale")])
            .await
            >= 20.0
    );
}

#[tokio::test]
async fn who_says_no_cache_is_counted_and_shares_a_fill_that_was_not_sent_yet() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .run()
        .await;
    let first = gateway.connect_and_ask(ONE).await;
    gate.arrived().await; // sent: who says no-cache now may not share it
    let ask = || gateway.post("/package/queryOrder", &[("Cache-Control", "no-cache")], ONE);
    let release = async {
        until("all wait", async || {
            gateway.metric("requests_in_flight", &[]).await >= 11.0
        })
        .await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(futures::future::join_all((0..10).map(|_| ask())), release);
    drop(first);
    let shared = |reply: &&Reply| reply.header("cache-status").unwrap().contains("collapsed");
    assert_eq!(replies.iter().filter(shared).count(), 9);
    assert_eq!(upstream.calls(), 2);
    let reason = [("reason", "no_cache")];
    assert_eq!(
        gateway.metric("upstream_requests_total", &reason).await,
        1.0
    );
}

#[tokio::test]
async fn a_page_younger_than_min_refresh_is_served_to_who_says_no_cache() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.min_refresh", "\"1m\"")
        .run()
        .await;
    gateway.page(1).await;
    let no_cache = [("Cache-Control", "no-cache")];
    let reply = gateway.post("/package/queryOrder", &no_cache, ONE).await;
    assert_eq!(how(&reply), "hit");
}

#[tokio::test]
async fn an_old_page_is_there_at_the_callers_deadline_or_when_patience_ends() {
    let hang = || page(1, 2, 105).fault(Fault::Hang);
    for (timeout, patience) in [(Some("400ms"), "\"1h\""), (None, "\"200ms\"")] {
        let upstream = upstream()
            .answers_in_turn([page(1, 2, 105), hang()])
            .run()
            .await;
        let gateway = gateway(&upstream)
            .set("routes./package/queryOrder.fresh_for", "\"0s\"")
            .set("routes./package/queryOrder.stale_for", "\"0s\"")
            .set("routes./package/queryOrder.stale_patience", patience)
            .run()
            .await;
        gateway.page(1).await;
        let headers: Vec<_> = timeout
            .map(|timeout| ("X-Request-Timeout", timeout))
            .into_iter()
            .collect();
        let reply = gateway.post("/package/queryOrder", &headers, ONE).await;
        let told = reply.header("cache-status").unwrap();
        assert_eq!(reply.status, 200, "{timeout:?}");
        assert!(
            told.contains("fwd=stale") && told.contains("detail=upstream_timeout"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn an_old_page_is_there_at_once_where_a_fill_would_not_come_in_time() {
    let gate = Gate::new();
    let slow = page(1, 2, 105).after(std::time::Duration::from_millis(300));
    let upstream = upstream()
        .answers_in_turn([slow, page(1, 2, 106).behind(&gate)])
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .run()
        .await;
    let old = gateway.page(1).await;
    let hurried = [("X-Request-Timeout", "200ms")]; // a call takes 300
    let reply = gateway.post("/package/queryOrder", &hurried, ONE).await;
    assert_eq!(
        (how(&reply).as_str(), &reply.body),
        ("hit, stale", &old.body)
    );
    gate.arrived().await; // the fill goes on for the next caller
    gate.open();
    until("the new page", async || {
        gateway.page(1).await.body != old.body
    })
    .await;
}

#[tokio::test]
async fn an_old_page_stands_in_where_we_ourselves_must_refuse() {
    let gate = Gate::new();
    let upstream = upstream()
        .script({
            let gate = gate.clone();
            move |request| match request.json()["page_no"].as_u64() {
                Some(1) => page(1, 2, 105),
                _ => page(2, 2, 105).behind(&gate),
            }
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .set("upstream.limits.connections", "1")
        .set("upstream.limits.queue", "0")
        .run()
        .await;
    gateway.page(1).await;
    let held = gateway
        .connect_and_ask(r#"{"page_no":2,"page_size":2}"#)
        .await;
    gate.arrived().await;
    let reply = gateway.page(1).await;
    let told = reply.header("cache-status").unwrap();
    assert!(told.ends_with("detail=overloaded"), "{told}");
    gate.open();
    drop(held);
}

#[tokio::test]
async fn what_comes_with_a_page_is_kept_as_the_suites_of_stored_headers_status_and_interim_ask() {
    #[rustfmt::skip]
    let rows = [
        ("interim-102, interim-103", page(1, 2, 105).fault(Fault::Interim), true),
        ("headers-store-Content-Type", page(1, 2, 105).header("Content-Type", "application/json;x=y"), true),
        ("headers-store-Content-Language", page(1, 2, 105).header("Content-Language", "zh-CN"), true),
        ("headers-store-Retry-After", page(1, 2, 105).header("Retry-After", "7"), true),
        ("headers-store-Set-Cookie", page(1, 2, 105).header("Set-Cookie", "a=b"), true),
        ("cc-resp-no-store", page(1, 2, 105).header("Cache-Control", "no-store"), true),
        ("vary-star", page(1, 2, 105).header("Vary", "*"), true),
        ("freshness-expires-past", page(1, 2, 105).header("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"), true),
        ("age-parse", page(1, 2, 105).header("Age", "7200"), true),
        ("status-203", raw(203, page(1, 2, 105).body), false),
        ("status-404", raw(404, page(1, 2, 105).body), false),
        ("status-410", raw(410, page(1, 2, 105).body), false),
        ("status-500", raw(500, page(1, 2, 105).body), false),
        ("status-599", raw(599, page(1, 2, 105).body), false),
    ];
    for (id, answer, is_kept) in rows {
        let upstream = upstream().answers(answer.clone()).run().await;
        let gateway = gateway(&upstream).run().await;
        gateway.page(1).await;
        let reply = gateway.page(1).await;
        assert_eq!(how(&reply) == "hit", is_kept, "{id}");
        assert_eq!(
            (reply.status, &reply.body),
            (answer.status, &answer.body),
            "{id}"
        );
        for name in ["content-type", "content-language"] {
            let sent = answer
                .headers
                .iter()
                .find(|(header, _)| header.eq_ignore_ascii_case(name));
            assert_eq!(
                reply.header(name),
                sent.map(|(_, value)| value.as_str()),
                "{id}"
            );
        }
        for name in ["set-cookie", "retry-after"] {
            assert_eq!(reply.header(name), None, "{id}");
        }
        if is_kept {
            assert_eq!(reply.header("age"), Some("0"), "{id}: by our own clock");
        }
    }
}

#[tokio::test]
async fn the_method_query_asks_as_post_does_and_shares_its_pages() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let query = |method: &str| {
        format!(
            "{method} /package/queryOrder HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ONE}",
            ONE.len()
        )
    };
    let mut connection = gateway.connect().await;
    let first = connection.exchange(query("QUERY").as_bytes()).await;
    let second = connection.exchange(query("POST").as_bytes()).await;
    assert_eq!(
        (how(&first).as_str(), how(&second).as_str()),
        ("fwd=miss", "hit")
    );
    assert_eq!(first.body, second.body);
    assert_eq!(upstream.requests()[0].method(), "POST");
}
