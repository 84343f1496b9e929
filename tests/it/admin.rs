//! What operators see of the cache, and what they may do to it.

use serde_json::{Value, json};

use crate::support::answer::{Fault, answer, raw};
use crate::support::client::post;
use crate::support::{Gate, Reply, connect, failure, gateway, page, success, upstream};

const QUERY: &str = "/package/queryOrder";

/// What the caller is told about memory's part in this answer.
fn cache_status(reply: &Reply) -> &str {
    reply.header("cache-status").unwrap()
}

fn is_hit(reply: &Reply) -> bool {
    cache_status(reply).contains("; hit")
}

#[tokio::test]
async fn the_cache_shows_what_it_holds_by_route_and_tenant() {
    let upstream = upstream()
        .tenant("P2", "secret-2")
        .answers(page(1, 2, 105))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "secret-2")
        .run()
        .await;
    for (tenant, device) in [("acme", "1"), ("acme", "2"), ("acme", "1"), ("second", "1")] {
        let body = json!({"device_id": device}).to_string();
        let headers = [("X-Linksfield-Tenant", tenant)];
        assert_eq!(gateway.post(QUERY, &headers, body).await.status, 200);
    }
    let cache = gateway.admin("/cache").await;
    assert_eq!(cache.header("content-type"), Some("application/json"));
    let cache = cache.json();
    let by = |tenant: &str| {
        let parts = cache["by_route_and_tenant"].as_array().unwrap();
        let part = parts.iter().find(|part| part["tenant"] == tenant).unwrap();
        assert_eq!(part["route"], QUERY);
        part.clone()
    };
    assert_eq!(
        (&cache["entries"], &cache["queries"]),
        (&json!(3), &json!(4))
    );
    assert_eq!(cache["hit_ratio"], json!(0.25));
    assert_eq!(by("acme")["entries"], 2);
    assert_eq!(by("acme")["hit_ratio"], json!(1.0 / 3.0));
    assert_eq!(by("second")["entries"], 1);
    assert_eq!(by("second")["hit_ratio"], json!(0.0));
    let bytes = |part: &Value| part["bytes"].as_u64().unwrap();
    assert!(bytes(&by("second")) > page(1, 2, 105).body.len() as u64);
    assert_eq!(bytes(&by("acme")) + bytes(&by("second")), bytes(&cache));
}

#[tokio::test]
async fn a_purge_drops_what_it_names_and_nothing_else() {
    let upstream = upstream()
        .tenant("P2", "secret-2")
        .script(|request| match request.path() {
            "/cube/v4/package/other" => success(&json!({"x": 1})),
            _ => page(1, 2, 105),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "secret-2")
        .set("routes./package/other.kind", "\"query\"")
        .run()
        .await;
    let asks = [
        ("acme", QUERY, json!({"device_id": "1"})),
        ("acme", QUERY, json!({"device_id": "2"})),
        ("acme", QUERY, json!({})),
        ("acme", "/package/other", json!({"device_id": "1"})),
        ("second", QUERY, json!({"device_id": "1"})),
    ];
    let rows = [
        (json!({"all": true}), [0, 1, 2, 3, 4].to_vec()),
        (json!({"tenant": "acme"}), vec![0, 1, 2, 3]),
        (json!({"route": QUERY}), vec![0, 1, 2, 4]),
        // A query that names no device may show any.
        (json!({"device": "1"}), vec![0, 2, 3, 4]),
        (json!({"device": "3"}), vec![2]),
        (
            json!({"tenant": "acme", "route": QUERY, "device": "1"}),
            vec![0, 2],
        ),
        (json!({"tenant": "second", "device": "7"}), vec![]),
    ];
    for (purge, expected) in rows {
        for (tenant, path, body) in &asks {
            let headers = [("X-Linksfield-Tenant", *tenant)];
            gateway.post(path, &headers, body.to_string()).await;
        }
        let reply = gateway
            .post_to_admin("/cache/purge", &[], purge.to_string())
            .await;
        assert_eq!(reply.status, 200, "{purge}");
        assert_eq!(reply.json(), json!({"purged": expected.len()}), "{purge}");
        for (number, (tenant, path, body)) in asks.iter().enumerate() {
            let headers = [("X-Linksfield-Tenant", *tenant)];
            let reply = gateway.post(path, &headers, body.to_string()).await;
            assert_eq!(
                is_hit(&reply),
                !expected.contains(&number),
                "{purge} {number}"
            );
        }
    }
    let purges = gateway.metric("invalidations_total", &[("cause", "purge")]);
    assert_eq!(purges.await, 7.0);
}

#[tokio::test]
async fn only_pages_that_could_be_served_are_counted() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for number in 1..=5 {
        gateway.page(number).await;
    }
    gateway.order().await; // none of them can be served any more
    gateway.page(1).await;
    assert_eq!(gateway.admin("/cache").await.json()["entries"], 1);
    let purge = gateway.post_to_admin("/cache/purge", &[], r#"{"all":true}"#);
    assert_eq!(purge.await.json(), json!({"purged": 1}));
}

#[tokio::test]
async fn an_explanation_knows_how_long_a_fill_usually_takes() {
    let slow = page(1, 2, 105).after(std::time::Duration::from_millis(300));
    let upstream = upstream().answers(slow).run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .run()
        .await;
    gateway.page(1).await;
    let body = r#"{"page_no":1,"page_size":2}"#;
    for (timeout, result) in [("200ms", "stale"), ("19s", "miss")] {
        let headers = [("X-Request-Timeout", timeout)];
        let explained = gateway.post_to_admin("/explain", &headers, body).await;
        assert_eq!(explained.json()["result"], result, "{timeout}");
    }
}

#[tokio::test]
async fn a_fill_that_runs_during_a_purge_brings_no_page() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers_in_turn([page(1, 2, 105).behind(&gate), page(1, 2, 106)])
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let purge = async {
        gate.arrived().await;
        let purge = gateway.post_to_admin("/cache/purge", &[], r#"{"all":true}"#);
        assert_eq!(purge.await.json(), json!({"purged": 0}));
        gate.open();
    };
    let (first, ()) = tokio::join!(gateway.page(1), purge);
    assert!(cache_status(&first).ends_with("; detail=invalidated"));
    let second = gateway.page(1).await;
    assert!(cache_status(&second).contains("; fwd=miss; stored"));
    assert_ne!(first.body, second.body);
}

#[tokio::test]
async fn what_cannot_be_purged_is_refused_and_purges_nothing() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream).run().await;
    gateway.page(1).await;
    let json = ("Content-Type", "application/json");
    let rows = [
        ("", &[json][..], 400, "name what to purge"),
        ("{}", &[json], 400, "name what to purge"),
        (r#"{"all":false}"#, &[json], 400, "name what to purge"),
        (
            r#"{"all":true,"tenant":"acme"}"#,
            &[json],
            400,
            "name what to purge",
        ),
        (
            r#"{"tenant":"nobody"}"#,
            &[json],
            400,
            "no tenant is called \"nobody\"",
        ),
        (
            r#"{"route":"/package/orderPackage"}"#,
            &[json],
            400,
            "no query is configured",
        ),
        (r#"{"device":""}"#, &[json], 400, "one ICCID"),
        (r#"{"device":"8986*"}"#, &[json], 400, "one ICCID"),
        (
            r#"{"tenants":"acme"}"#,
            &[json],
            400,
            "unknown field `tenants`",
        ),
        ("[]", &[json], 400, "what to purge"),
        ("{\"all\":", &[json], 400, "EOF while parsing"),
        (
            r#"{"all":true}"#,
            &[("Content-Type", "text/plain")],
            415,
            "application/json",
        ),
        (
            r#"{"all":true}"#,
            &[json, ("Origin", "http://evil.example")],
            403,
            "web pages",
        ),
    ];
    for (body, headers, status, text) in rows {
        let reply = gateway.post_to_admin("/cache/purge", headers, body).await;
        let said = String::from_utf8(reply.body.clone()).unwrap();
        assert_eq!(reply.status, status, "{body} {said}");
        assert!(said.contains(text), "{body}: {said}");
    }
    // The head alone: it is refused before its body comes, which then could not be written any
    // more.
    let large = post("/cache/purge", &[], &vec![b' '; 1024 * 1024 + 1]);
    let mut connection = connect(&gateway.admin).await;
    connection
        .send(&large[..large.len() - 1024 * 1024 - 1])
        .await;
    let reply = connection.reply().await;
    assert_eq!(reply.status, 413);
    assert!(is_hit(&gateway.page(1).await));
}

#[tokio::test]
async fn what_changes_something_or_shows_a_request_needs_the_token() {
    const TOKEN: &str = "admin-token-0123456789";
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let builder = gateway(&upstream);
    let file = builder.file("admin-token", TOKEN);
    let with_token = builder
        .set("server.admin_token_file", &format!("{file:?}"))
        .run()
        .await;
    let beyond_loopback = gateway(&upstream)
        .set("server.admin_listen", "\"0.0.0.0:0\"")
        .run()
        .await;
    let bearer = format!("Bearer {TOKEN}");
    let rows = [
        (&with_token, None, 401),
        (&with_token, Some("Bearer admin-token-0123456780"), 401),
        (&with_token, Some("Bearer "), 401),
        (&with_token, Some(TOKEN), 401),
        (&with_token, Some(&*bearer), 200),
        (&beyond_loopback, None, 403),
        (&beyond_loopback, Some(&*bearer), 403),
    ];
    for (gateway, authorization, status) in rows {
        let headers: Vec<_> = authorization
            .map(|value| ("Authorization", value))
            .into_iter()
            .collect();
        let requests = [
            ("/cache/purge", r#"{"all":true}"#),
            ("/explain", "{}"),
            ("/reload", ""),
            ("/log-level", "info"),
        ];
        for (path, body) in requests {
            let reply = gateway.post_to_admin(path, &headers, body).await;
            assert_eq!(reply.status, status, "{path} {authorization:?}");
            let challenge = (status == 401).then_some("Bearer");
            assert_eq!(reply.header("www-authenticate"), challenge);
            assert!(!String::from_utf8(reply.body).unwrap().contains(TOKEN));
        }
        for path in [
            "/",
            "/metrics",
            "/livez",
            "/readyz",
            "/config",
            "/cache",
            "/log-level",
        ] {
            assert_eq!(gateway.admin(path).await.status, 200, "{path}");
        }
    }
    assert!(!with_token.output().contains(TOKEN));
}

#[tokio::test]
async fn a_path_or_method_that_the_admin_listener_lacks_is_told_what_there_is() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let reply = gateway.admin("/nothing").await;
    assert_eq!(reply.status, 404);
    let text = String::from_utf8(reply.body).unwrap();
    for path in [
        "/metrics",
        "/livez",
        "/readyz",
        "/config",
        "/cache",
        "/cache/purge",
        "/explain",
        "/reload",
        "/log-level",
    ] {
        assert!(text.contains(path), "{text}");
        assert_ne!(gateway.admin(path).await.status, 404);
    }
    let rows = [
        ("/cache/purge", "POST"),
        ("/explain", "POST"),
        ("/reload", "POST"),
    ];
    for (path, allow) in rows {
        let reply = gateway.admin(path).await;
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, Some(allow)),
            "{path}"
        );
    }
    let reply = gateway.post_to_admin("/cache", &[], "{}").await;
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[tokio::test]
async fn who_takes_one_port_for_the_other_is_told_which_key_names_the_right_one() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for path in ["/", "/cube/v4/"] {
        for method in ["GET", "POST"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\n\r\n");
            let reply = gateway.connect().await.exchange(request.as_bytes()).await;
            assert_eq!(
                (reply.status, reply.problem().1.as_str()),
                (400, "invalid_path")
            );
            let detail = reply.json()["detail"].to_string();
            for part in ["port of the callers", "admin page", "server.admin_listen"] {
                assert!(detail.contains(part), "{method} {path}: {detail}");
            }
            assert!(!detail.contains("leave it out"), "{detail}");
        }
    }
    let reply = gateway.post_to_admin(QUERY, &[], "{}").await;
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("server.listen"), "{text}");
}

#[tokio::test]
async fn a_request_is_explained_and_not_sent() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream).run().await;
    let explain = async |headers: &[(&str, &str)], path: &str, body: &str| {
        let path = format!("/explain?path={path}");
        let reply = gateway.post_to_admin(&path, headers, body).await;
        assert_eq!(reply.status, 200);
        let text = String::from_utf8(reply.body.clone()).unwrap();
        assert!(!text.contains(crate::support::SECRET));
        reply.json()
    };
    let body = r#"{ "page_size": 2, "page_no": 1 }"#;

    let unasked = explain(&[], QUERY, body).await;
    assert_eq!(unasked["kind"], "query");
    assert_eq!(
        (&unasked["tenant"], &unasked["result"]),
        (&json!("acme"), &json!("miss"))
    );
    assert_eq!(
        (&unasked["page"], &unasked["joins_a_fill"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(unasked["params"], r#"{"page_no":1,"page_size":2}"#);
    assert!(
        unasked["reason"]
            .as_str()
            .unwrap()
            .starts_with("no page is in memory")
    );

    let asked = gateway.page(1).await;
    let mut sent = upstream.last().json();
    let kept = explain(&[], QUERY, body).await;
    assert_eq!(
        (&kept["result"], &kept["page"]["state"]),
        (&json!("hit"), &json!("fresh"))
    );
    assert_eq!(
        kept["page"]["snapshot"].as_str(),
        asked.header("x-linksfield-snapshot")
    );
    assert_eq!(kept["page"]["fresh_for"], json!(30.0));
    assert_eq!(kept["page"]["bytes"], json!(asked.body.len()));
    assert_eq!(kept["key"], unasked["key"]);
    // The text that is signed: what was sent but for the signature, at another time.
    let mut signed: Value = serde_json::from_str(kept["canonical_text"].as_str().unwrap()).unwrap();
    sent.as_object_mut().unwrap().remove("sign");
    signed["timestamp"] = sent["timestamp"].clone();
    assert_eq!(signed, sent);

    let refused = explain(&[("Cache-Control", "no-cache")], QUERY, body).await;
    assert_eq!(refused["result"], "miss");
    assert_eq!(
        refused["reason"],
        "Cache-Control refuses the page in memory"
    );
    let alone = explain(&[("Cache-Control", "no-store")], QUERY, body).await;
    assert_eq!(alone["result"], "bypass");
    let other = explain(
        &[("Cache-Control", "only-if-cached")],
        QUERY,
        r#"{"page_no":9}"#,
    )
    .await;
    assert_eq!(other["result"], "refused");

    let command = explain(&[], "/package/orderPackage", r#"{"device_id":"1"}"#).await;
    assert_eq!(
        (&command["kind"], &command["invalidates"]),
        (&json!("command"), &json!([QUERY]))
    );
    assert_eq!(command["settle"], json!(5.0));
    let unlisted = explain(&[], "/nobody/configured/this", "{}").await;
    assert!(
        unlisted["reason"]
            .as_str()
            .unwrap()
            .contains("not configured")
    );
    assert_eq!(upstream.calls(), 1);

    gateway.order().await;
    let invalidated = explain(&[], QUERY, body).await;
    assert_eq!(invalidated["result"], "miss");
    let reason = invalidated["reason"].as_str().unwrap();
    assert!(
        reason.contains("invalidated") || reason.starts_with("no page"),
        "{reason}"
    );
}

#[tokio::test]
async fn explaining_what_would_be_refused_gives_the_refusal() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let rows = [
        (
            "/explain",
            r#"{"a":1,"a":2}"#,
            &[][..],
            (400, "invalid_json"),
        ),
        (
            "/explain",
            "{}",
            &[("X-Linksfield-Tenant", "nobody")],
            (400, "unknown_tenant"),
        ),
        (
            "/explain",
            "{}",
            &[("X-Request-Timeout", "soon")],
            (400, "invalid_header"),
        ),
        ("/explain?path=/a//b", "{}", &[], (400, "invalid_path")),
        ("/explain?path=", "{}", &[], (400, "invalid_path")),
    ];
    for (path, body, headers, (status, code)) in rows {
        let reply = gateway.post_to_admin(path, headers, body).await;
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (status, &json!(code)),
            "{path} {body}"
        );
    }
    let reply = gateway.post_to_admin("/explain?route=x", &[], "{}").await;
    assert_eq!(reply.status, 400);
    assert!(
        String::from_utf8(reply.body)
            .unwrap()
            .contains("/explain?path=/package/queryOrder")
    );
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn an_answer_that_is_not_stored_says_why() {
    let rows = [
        ("a failure", failure("4711"), &[][..], "no_success"),
        (
            "another status",
            raw(201, page(1, 2, 105).body),
            &[],
            "no_success",
        ),
        ("no page", success(&json!({})), &[], "no_page"),
        (
            "no end",
            page(1, 2, 105).fault(Fault::CloseDelimited),
            &[],
            "unframed",
        ),
        (
            "compressed",
            page(1, 2, 105).header("Content-Encoding", "gzip"),
            &[],
            "encoded",
        ),
        (
            "no-store",
            page(1, 2, 105),
            &[("Cache-Control", "no-store")],
            "no_store",
        ),
        (
            "success false",
            answer(200, &json!({"code": "0000", "success": false, "data": {}})),
            &[],
            "no_success",
        ),
    ];
    for (what, answer, headers, detail) in rows {
        let upstream = upstream().answers(answer).run().await;
        let gateway = gateway(&upstream).run().await;
        let reply = gateway.post(QUERY, headers, "{}").await;
        let status = cache_status(&reply);
        assert!(
            status.ends_with(&format!("; detail={detail}")),
            "{what}: {status}"
        );
        assert!(!status.contains("stored;"), "{what}: {status}");
    }
}
