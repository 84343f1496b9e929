//! Every row of the table of errors, met from outside, and its paragraph in the documents.

use std::collections::BTreeSet;

use crate::support::answer::{Fault, raw};
use crate::support::client::post;
use crate::support::{Gate, Reply, gateway, page, until, upstream};

const QUERY: &str = "/package/queryOrder";
const ORDER: &str = "/package/orderPackage";

/// A bug cannot be met from outside; a unit test visits its row.
const NOT_FROM_OUTSIDE: [&str; 1] = ["internal"];

#[tokio::test]
async fn every_error_is_a_problem_and_an_envelope_and_has_its_paragraph() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .tenant("P2", "secret-2")
        .script(move |request| match request.json()["page_no"].as_u64() {
            Some(number) if request.json()["device_id"] == "moves" => page(number, 2, number * 4),
            Some(1) => page(1, 2, 105).behind(&held),
            Some(2) => raw(200, "<html>"),
            Some(3) => page(3, 2, 105).fault(Fault::Cut),
            Some(4) => raw(429, "<html>"),
            Some(5) => raw(503, "<html>").header("Retry-After", "7"),
            _ => page(9, 2, 105),
        })
        .run()
        .await;
    let builder = || {
        gateway(&upstream)
            .tenant("second", "P2", "secret-2")
            .set("tenants.second.commands", "false")
    };
    let open = builder()
        .set("upstream.limits.queue", "0")
        .set("server.body_timeout", "\"200ms\"")
        .set("server.max_body", "\"1KiB\"")
        .set("routes./refused.kind", "\"refuse\"")
        .set("routes./package/queryOrder.max_pages", "20")
        .run()
        .await;
    let token = "token-of-the-reader-0001";
    let crawled = builder()
        .set("upstream.limits.requests_per_day", "100")
        .run()
        .await;
    let closed = builder()
        .caller("reader", token, &["acme"], false)
        .set("server.unlisted_paths", "\"refuse\"")
        .set("server.max_connections", "1")
        .run()
        .await;
    let bearer = format!("Bearer {token}");
    let bearer: &[(&str, &str)] = &[("Authorization", &bearer)];
    let acme = r#"{"access_code":"P000270"}"#;
    let json = [("Content-Type", "application/json")];
    let plain: &[(&str, &str)] = &[];

    let mut seen = BTreeSet::new();
    let mut met = |reply: &Reply, status: u16, code: &str, sent: &str| {
        assert_eq!(reply.problem(), (status, code.to_owned(), sent.to_owned()));
        let problem = reply.json();
        assert_eq!(problem["type"], format!("docs/errors.md#{code}"));
        assert_eq!(
            (&problem["status"], &problem["success"], &problem["data"]),
            (&status.into(), &false.into(), &serde_json::Value::Null)
        );
        assert_eq!(problem["message"], problem["detail"]);
        assert!(
            !problem["title"].as_str().unwrap().is_empty()
                && !problem["detail"].as_str().unwrap().is_empty()
        );
        assert_eq!(reply.header("x-request-id"), problem["request_id"].as_str());
        assert!(
            reply
                .header("proxy-status")
                .unwrap()
                .starts_with("linksfield-gateway; error=")
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        seen.insert(code.to_owned());
    };

    let posts = [
        (
            QUERY,
            &[("Content-Type", "text/plain")][..],
            "{}",
            415,
            "unsupported_media_type",
        ),
        (
            QUERY,
            &[("Origin", "http://evil.example")],
            "{}",
            403,
            "foreign_origin",
        ),
        (
            QUERY,
            &[("X-Request-Timeout", "soon")],
            "{}",
            400,
            "invalid_header",
        ),
        (
            QUERY,
            &[("X-Linksfield-Tenant", "nobody")],
            "{}",
            400,
            "unknown_tenant",
        ),
        (
            QUERY,
            &[("X-Linksfield-Tenant", "second")],
            acme,
            400,
            "tenant_mismatch",
        ),
        (QUERY, plain, "[", 400, "invalid_json"),
        (QUERY, &json, &" ".repeat(2000), 413, "body_too_large"),
        (ORDER, &json, "{}", 400, "tenant_required"),
        (
            ORDER,
            &json,
            r#"{"access_code":"P2"}"#,
            403,
            "commands_disabled",
        ),
        ("/refused", &json, acme, 403, "route_refused"),
        ("/a//b", &json, acme, 400, "invalid_path"),
    ];
    for (path, headers, body, status, code) in posts {
        met(&open.post(path, headers, body).await, status, code, "no");
    }
    for (path, headers, body, status, code) in [
        (QUERY, plain, acme, 401, "unauthenticated"),
        (
            QUERY,
            bearer,
            r#"{"access_code":"P2"}"#,
            403,
            "tenant_forbidden",
        ),
        (ORDER, bearer, acme, 403, "commands_forbidden"),
        ("/not/configured", bearer, acme, 404, "unlisted_path"),
    ] {
        until("a free connection", async || {
            closed.metric("connections", &[]).await == 0.0
        })
        .await;
        met(&closed.post(path, headers, body).await, status, code, "no");
    }
    let raws = [
        ("POST /a HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
            408,
            "body_timeout",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            400,
            "body_incomplete",
        ),
    ];
    for (request, status, code) in raws {
        met(
            &open.connect().await.exchange(request.as_bytes()).await,
            status,
            code,
            "no",
        );
    }

    let mut first = closed.connect().await;
    let asking = post(QUERY, bearer, acme.as_bytes());
    first.send(&asking[..asking.len() - 1]).await; // one that waits for less would make room
    until("the first is counted", async || {
        closed.metric("connections", &[]).await == 1.0
    })
    .await;
    met(
        &closed.post(QUERY, bearer, acme).await,
        503,
        "too_many_connections",
        "no",
    );
    drop(first);

    for (number, status, code, sent) in [
        (2, 502, "upstream_invalid_answer", "yes"),
        (3, 502, "upstream_disconnected", "yes"),
    ] {
        met(
            &open
                .post(
                    QUERY,
                    &json,
                    format!(r#"{{"access_code":"P000270","page_no":{number}}}"#),
                )
                .await,
            status,
            code,
            sent,
        );
    }
    let throttled = builder().run().await; // nobody else is asked for a while
    for (number, status, code) in [
        (5, 503, "upstream_unavailable"),
        (4, 429, "upstream_throttled"),
    ] {
        let body = format!(r#"{{"access_code":"P000270","page_no":{number}}}"#);
        let reply = throttled.post(QUERY, &json, body).await;
        met(&reply, status, code, "yes");
    }
    let mut busy = Vec::new();
    for size in 1..=3 {
        let mut connection = open.connect().await;
        let request = format!(r#"{{"access_code":"P000270","page_no":1,"page_size":{size}}}"#);
        connection.send(&post(QUERY, &[], request.as_bytes())).await;
        gate.arrived().await;
        busy.push(connection);
    }
    met(
        &open.post(ORDER, &json, acme).await,
        503,
        "overloaded",
        "no",
    );
    let only = [("Cache-Control", "only-if-cached")];
    let fresh_body = r#"{"access_code":"P000270","page_no":9,"page_size":9}"#;
    met(
        &open.post(QUERY, &only, fresh_body).await,
        504,
        "not_cached",
        "no",
    );
    let late = [("X-Request-Timeout", "50ms")];
    met(
        &open
            .post(
                QUERY,
                &late,
                r#"{"access_code":"P000270","page_no":1,"page_size":1}"#,
            )
            .await,
        504,
        "upstream_timeout",
        "unknown",
    );
    gate.open();
    for connection in &mut busy {
        connection.reply().await;
    }
    let all = [("X-Linksfield-Pages", "all")];
    let moving = r#"{"access_code":"P000270","device_id":"moves"}"#;
    for (gateway, body, status, code) in [
        (&open, acme, 422, "too_many_pages"),
        (&crawled, acme, 429, "quota_exhausted"),
        (&crawled, moving, 503, "pages_moved"),
    ] {
        met(&gateway.post(QUERY, &all, body).await, status, code, "yes");
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let keyed = || {
        builder()
            .set(
                "server.state_dir",
                &format!("{:?}", state.to_str().unwrap()),
            )
            .set("routes./package/orderPackage.idempotency", "\"required\"")
            .set("idempotency.max_keys", "2")
    };
    let gateway = keyed().run().await;
    met(
        &gateway.post(ORDER, &json, acme).await,
        400,
        "idempotency_key_required",
        "no",
    );
    let lost = r#"{"access_code":"P000270","page_no":3}"#;
    for (key, body, status, code, sent) in [
        ("1", lost, 502, "upstream_disconnected", "yes"),
        ("1", lost, 409, "command_in_doubt", "unknown"),
        ("1", acme, 422, "idempotency_mismatch", "no"),
        ("2", lost, 502, "upstream_disconnected", "yes"),
        ("3", acme, 503, "idempotency_store_full", "no"),
    ] {
        let key = [("Idempotency-Key", key)];
        met(&gateway.post(ORDER, &key, body).await, status, code, sent);
    }
    drop(gateway);
    let size = std::fs::metadata(state.join("state.redb")).unwrap().len();
    let full = keyed()
        .set("idempotency.max_keys", "1000")
        .largest_file(size / 512)
        .run()
        .await;
    let mut key = 10;
    let refused = loop {
        key += 1;
        let headers = [("Idempotency-Key", &*key.to_string())];
        let reply = full.post(ORDER, &headers, acme).await;
        if reply.status == 503 {
            break reply;
        }
        assert!(key < 500, "the disk is never full");
    };
    met(&refused, 503, "state_store_unavailable", "no");
    let saved = |line: &serde_json::Value| line["message"] == "idempotency key not saved";
    until("it is logged", async || full.log().iter().any(saved)).await;

    upstream.stop().await;
    met(
        &open.post(ORDER, &json, acme).await,
        502,
        "upstream_unreachable",
        "no",
    );
    open.rewrite("upstream.breaker.consecutive", "1");
    assert_eq!(open.reload().await.status, 200);
    open.post(ORDER, &json, acme).await;
    met(
        &open.post(ORDER, &json, acme).await,
        503,
        "breaker_open",
        "no",
    );

    open.rewrite("upstream.paused", "true");
    assert_eq!(open.reload().await.status, 200);
    met(
        &open.post(ORDER, &json, acme).await,
        503,
        "upstream_paused",
        "no",
    );

    let paragraphs = include_str!("../../docs/errors.md")
        .lines()
        .filter_map(|line| line.strip_prefix("## "));
    let expected: BTreeSet<String> = paragraphs
        .filter(|code| !NOT_FROM_OUTSIDE.contains(code))
        .map(str::to_owned)
        .collect();
    assert_eq!(seen, expected);
}
