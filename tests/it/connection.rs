//! HTTP that could be read in two ways, and callers that are no services.

use crate::support::client::post;
use crate::support::{connect, gateway, success, upstream};

const BODY: &str = r#"{"page_no":1}"#;

#[tokio::test]
async fn what_another_server_might_read_differently_is_refused() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let head = "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n";
    let rows = [
        (
            "no Host",
            format!("POST /package/queryOrder HTTP/1.1\r\n{head}"),
            400,
            "malformed_request",
        ),
        (
            "two Hosts",
            format!("POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nHost: b\r\n{head}"),
            400,
            "malformed_request",
        ),
        (
            "a Host that is none",
            format!("POST /package/queryOrder HTTP/1.1\r\nHost: me@evil/\r\n{head}"),
            400,
            "malformed_request",
        ),
        (
            "two tenants",
            format!("POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nX-Linksfield-Tenant: a\r\nX-Linksfield-Tenant: b\r\n{head}"),
            400,
            "malformed_request",
        ),
        (
            "absolute-form",
            format!("POST http://evil.example/package/queryOrder HTTP/1.1\r\nHost: a\r\n{head}"),
            400,
            "malformed_request",
        ),
        (
            "CONNECT",
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            400,
            "malformed_request",
        ),
        (
            "another transfer coding",
            "POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".into(),
            400,
            "malformed_request",
        ),
        (
            "a compressed body",
            format!("POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n{head}"),
            415,
            "unsupported_media_type",
        ),
        (
            "two content types",
            format!("POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n{head}"),
            415,
            "unsupported_media_type",
        ),
        (
            "an asterisk",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            400,
            "invalid_path",
        ),
        (
            "a dot segment",
            format!("POST /package/../device/x HTTP/1.1\r\nHost: a\r\n{head}"),
            400,
            "invalid_path",
        ),
        (
            "an encoded slash",
            format!("POST /package%2FqueryOrder HTTP/1.1\r\nHost: a\r\n{head}"),
            400,
            "invalid_path",
        ),
        (
            "an encoded dot",
            format!("POST /package/%2e%2e/x HTTP/1.1\r\nHost: a\r\n{head}"),
            400,
            "invalid_path",
        ),
        (
            "a double slash",
            format!("POST //package/queryOrder HTTP/1.1\r\nHost: a\r\n{head}"),
            400,
            "invalid_path",
        ),
        (
            "a query string",
            format!("POST /package/queryOrder?page_no=1 HTTP/1.1\r\nHost: a\r\n{head}"),
            400,
            "invalid_path",
        ),
        (
            "GET",
            "GET /package/queryOrder HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            405,
            "method_not_allowed",
        ),
        (
            "DELETE",
            "DELETE /package/orderPackage HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            405,
            "method_not_allowed",
        ),
    ];
    for (name, head, status, code) in rows {
        let reply = gateway
            .connect()
            .await
            .exchange(format!("{head}{BODY}").as_bytes())
            .await;
        assert_eq!(
            reply.problem(),
            (status, code.into(), "no".into()),
            "{name}"
        );
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn what_is_no_http_at_all_gets_a_400_or_a_closed_connection() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let twice = format!(
        "POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\nContent-Length: 12\r\n\r\n{BODY}"
    );
    for bytes in [
        twice.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
    ] {
        let mut connection = gateway.connect().await;
        connection.send(bytes).await;
        if let Ok(Some(reply)) = connection.read().await {
            assert_eq!(reply.status, 400, "{bytes:?}");
        }
        connection.ended().await;
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn transfer_encoding_beside_content_length_frames_the_body_and_nothing_behind_it_is_run() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let smuggled = "POST /package/orderPackage HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let request = format!(
        "POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\nd\r\n{BODY}\r\n0\r\n\r\n{smuggled}",
        BODY.len() + 10 + smuggled.len(),
    );
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(request.as_bytes()).await.status, 200);
    connection.ended().await;
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_body_that_was_refused_unread_is_never_run_as_a_request() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let inner = post("/package/orderPackage", &[], b"{}");
    let outer = post(
        "/package/queryOrder",
        &[("Content-Type", "text/plain")],
        &inner,
    );
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&outer).await.status, 415);
    if let Ok(Some(reply)) = connection
        .exchange_again(&post("/package/queryOrder", &[], BODY.as_bytes()))
        .await
    {
        assert_eq!(reply.json()["code"], "0000");
    }
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| request.path() != "/cube/v4/package/orderPackage")
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut connection = gateway.connect().await;
    let requests: Vec<u8> = (1..=5)
        .flat_map(|number| {
            post(
                "/package/queryOrder",
                &[],
                format!(r#"{{"page_no":{number}}}"#).as_bytes(),
            )
        })
        .collect();
    connection.send(&requests).await;
    for number in 1..=5 {
        assert_eq!(
            connection.reply().await.json()["data"]["page"]["cur_page_no"],
            number
        );
    }
}

#[tokio::test]
async fn a_web_page_can_neither_query_nor_order() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for origin in [
        "http://evil.example",
        "null",
        "https://127.0.0.1:6180",
        "http://gateway",
    ] {
        for path in ["/package/queryOrder", "/package/orderPackage"] {
            let reply = gateway.post(path, &[("Origin", origin)], BODY).await;
            assert_eq!(
                reply.problem(),
                (403, "foreign_origin".into(), "no".into()),
                "{origin}"
            );
        }
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn only_json_is_taken_and_an_empty_body_is_an_empty_object() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=gbk",
    ] {
        let reply = gateway
            .post(
                "/package/queryOrder",
                &[("Content-Type", content_type)],
                BODY,
            )
            .await;
        assert_eq!(
            reply.problem(),
            (415, "unsupported_media_type".into(), "no".into()),
            "{content_type}"
        );
    }
    assert_eq!(upstream.calls(), 0);
    for headers in [
        &[("Content-Type", "application/json; charset=UTF-8")][..],
        &[],
    ] {
        assert_eq!(
            gateway
                .post("/package/queryOrder", headers, "")
                .await
                .status,
            200
        );
    }
    let bare = "POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        gateway
            .connect()
            .await
            .exchange(bare.as_bytes())
            .await
            .status,
        200
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let kept = gateway
        .post("/package/queryOrder", &[("X-Request-Id", "a-B_9.z")], BODY)
        .await;
    assert_eq!(kept.header("x-request-id"), Some("a-B_9.z"));
    let made = gateway
        .post("/package/queryOrder", &[("X-Request-Id", "no good")], "[")
        .await;
    let id = made.header("x-request-id").unwrap().to_owned();
    assert_ne!(id, "no good");
    assert_eq!(made.json()["request_id"], id);
}

#[tokio::test]
async fn a_415_says_what_to_send_and_charsets_in_which_json_is_utf_8_get_none() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let query = async |headers: &[(&str, &str)]| {
        let reply = gateway.post("/package/queryOrder", headers, BODY).await;
        let told = (reply.header("accept"), reply.header("accept-encoding"));
        let told = (told.0.map(str::to_owned), told.1.map(str::to_owned));
        (reply, told)
    };
    for content_type in [
        "application/json; charset=us-ascii",
        "application/json;charset=US-ASCII",
        "application/json; charset=\"us-ascii\"",
        "application/json; Charset=\"Us-Ascii\"; profile=x",
        "application/json; charset=\"utf\\-8\"",
        "application/json; charset = utf-8",
        "application/json; profile=\"a;charset=gbk\"",
        "application/json;",
    ] {
        let (reply, _) = query(&[("Content-Type", content_type)]).await;
        assert_eq!(reply.status, 200, "{content_type}: {reply:?}");
    }
    for content_type in [
        "application/json; charset=iso-8859-1",
        "application/json; charset=\"utf-16\"",
        "application/json; charset = gbk",
        "application/json; charset=us-ascii; charset=gbk",
        "application/json; charset=",
        "application/vnd.api+json",
        "text/json",
    ] {
        let (reply, told) = query(&[("Content-Type", content_type)]).await;
        assert_eq!(reply.status, 415, "{content_type}");
        assert_eq!(told, (Some("application/json".into()), None));
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("charset=utf-8"), "{detail}");
    }
    for coding in ["gzip", "GZIP", "br, identity", "aws-chunked"] {
        let (reply, told) = query(&[("Content-Encoding", coding)]).await;
        assert_eq!(reply.status, 415, "{coding}");
        assert_eq!(told, (None, Some("identity".into())));
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("Content-Encoding"), "{detail}");
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_whole_url_is_taken_if_its_authority_is_that_of_host() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let rows = [
        ("http://gateway:6180", "gateway:6180", true),
        ("HTTP://GateWay:6180", "gateway:6180", true),
        ("http://gateway", "GATEWAY", true),
        ("http://gateway:80", "gateway", true),
        ("http://gateway", "gateway:80", true),
        ("http://gateway:", "gateway", true),
        ("http://[::1]:6180", "[::1]:6180", true),
        ("http://[FE80::1]", "[fe80::1]:80", true),
        ("http://gateway:6180/cube/v4", "gateway:6180", true),
        ("http://evil.example", "gateway", false),
        ("http://gateway:6181", "gateway:6180", false),
        ("http://gateway:6180", "gateway", false),
        ("http://gateway:443", "gateway", false),
        ("http://gateway.", "gateway", false),
        ("http://me@gateway", "gateway", false),
        ("http://gateway@evil.example", "gateway", false),
        ("https://gateway", "gateway", false),
        ("ftp://gateway", "gateway", false),
    ];
    let head = "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n";
    for (origin, host, is_taken) in rows {
        for version in ["1.1", "1.0"] {
            let request = format!(
                "POST {origin}/package/queryOrder HTTP/{version}\r\nHost: {host}\r\n{head}{BODY}"
            );
            let mut connection = gateway.connect().await;
            let reply = connection.exchange(request.as_bytes()).await;
            if is_taken {
                assert_eq!(reply.status, 200, "{origin} {host}: {reply:?}");
            } else {
                let refused = (400, "malformed_request".into(), "no".into());
                assert_eq!(reply.problem(), refused, "{origin} {host}");
                assert!(reply.json()["detail"].to_string().contains("Host"));
            }
        }
    }
    for lines in ["", "Host: gateway\r\nHost: gateway\r\n"] {
        let request =
            format!("POST http://gateway/package/queryOrder HTTP/1.1\r\n{lines}{head}{BODY}");
        let mut connection = gateway.connect().await;
        let reply = connection.exchange(request.as_bytes()).await;
        assert_eq!(reply.problem().1, "malformed_request", "{lines:?}");
    }
    assert_eq!(upstream.calls(), 1);
    let rows = [
        ("http://evil.example", 400),
        ("http://gateway", 200),
        ("", 200),
    ];
    for (origin, status) in rows {
        let request = format!("GET {origin}/livez HTTP/1.1\r\nHost: gateway\r\n\r\n");
        let mut connection = connect(&gateway.admin).await;
        let reply = connection.exchange(request.as_bytes()).await;
        assert_eq!(reply.status, status, "admin: {origin}");
    }
}

#[tokio::test]
async fn a_fragment_in_the_target_is_refused_however_it_comes() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let is_named = |reply: &crate::support::Reply| {
        assert_eq!(reply.problem().1, "invalid_path", "{reply:?}");
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("fragment"), "{detail}");
    };
    let query = |target: &str| post(target, &[], BODY.as_bytes());
    for target in [
        "/package/queryOrder#",
        "/package/queryOrder#x",
        "/package/queryOrder#x#y?z",
        "/package/queryOrder?#x",
        "http://gateway/package/queryOrder#x",
    ] {
        let mut connection = gateway.connect().await;
        let reply = connection.exchange(&query(target)).await;
        is_named(&reply);
        let mut connection = gateway.connect().await;
        for byte in query(target) {
            connection.send(&[byte]).await;
        }
        is_named(&connection.reply().await);
    }
    assert_eq!(upstream.calls(), 0);

    // After one another, and with the sign in places where it may be.
    let mut connection = gateway.connect().await;
    let good = post(
        "/package/queryOrder",
        &[("X-Issue", "#7")],
        br#"{"page_no":1,"x":"POST /package/queryOrder#x HTTP/1.1"}"#,
    );
    let bad = query("/package/queryOrder#x");
    for is_good in [true, false, true, false, false, true] {
        let request = if is_good { &good } else { &bad };
        let reply = connection.exchange(request).await;
        if is_good {
            assert_eq!(reply.status, 200, "{reply:?}");
        } else {
            is_named(&reply);
        }
        if reply.header("connection") == Some("close") {
            connection = gateway.connect().await;
        }
    }
    connection
        .send(&[&good[..], &good, b"\r\n", &good].concat())
        .await;
    for _ in 0..3 {
        assert_eq!(connection.reply().await.status, 200);
    }
    // Of those that were sent at once, none is answered behind the first with a fragment.
    let calls = upstream.calls();
    let order = post("/package/orderPackage", &[], BODY.as_bytes());
    let bad_order = post("/package/orderPackage#x", &[], BODY.as_bytes());
    for split in [20, good.len() + 20, good.len() + bad_order.len() - 3] {
        let mut connection = gateway.connect().await;
        let all = [&good[..], &bad_order, &order].concat();
        let (first, second) = all.split_at(split);
        connection.send(first).await;
        connection.send(second).await;
        assert_eq!(connection.reply().await.status, 200);
        if let Some(reply) = connection.read().await.unwrap() {
            is_named(&reply);
        }
    }
    assert_eq!(upstream.calls(), calls);
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&good).await.status, 200);
    is_named(&connection.exchange(&bad).await);
    assert_eq!(upstream.calls(), 1);

    let mut admin = connect(&gateway.admin).await;
    let reply = admin
        .exchange(b"GET /livez#x HTTP/1.1\r\nHost: gateway\r\n\r\n")
        .await;
    is_named(&reply);
}

#[tokio::test]
async fn a_slash_at_the_end_of_a_path_is_named_in_its_refusal() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for path in [
        "/package/queryOrder/",
        "/cube/v4/package/queryOrder/",
        "/package/orderPackage/",
        "/not/configured/",
    ] {
        let reply = gateway.post(path, &[], BODY).await;
        assert_eq!(reply.problem().1, "invalid_path", "{path}");
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("slash at its end"), "{path}: {detail}");
    }
    assert_eq!(upstream.calls(), 0);
    for path in ["/metrics/", "/cache/purge/"] {
        let reply = gateway.admin(path).await;
        assert_eq!(reply.status, 404);
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.contains("slash at its end"), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_no_part_of_it() {
    let upstream = upstream().run().await; // it checks signatures
    let gateway = gateway(&upstream).run().await;
    gateway.post("/package/queryOrder", &[], BODY).await;
    let marked = ["\u{feff}", BODY].concat();
    let hit = gateway.post("/package/queryOrder", &[], &marked).await;
    assert!(
        hit.header("cache-status").unwrap().contains("; hit"),
        "{hit:?}"
    );
    let order = gateway.post("/package/orderPackage", &[], &marked).await;
    assert_eq!(order.status, 200);
    assert!(upstream.last().body.starts_with('{'));
    assert_eq!(upstream.calls(), 2);
    let explained = gateway.post_to_admin("/explain", &[], &marked).await;
    assert_eq!(explained.json()["params"], BODY);
    let purged = gateway
        .post_to_admin("/cache/purge", &[], "\u{feff}{\"all\":true}")
        .await;
    assert_eq!(purged.json()["purged"], 0, "the order has");
    let level = gateway
        .post_to_admin("/log-level", &[], "\u{feff}info")
        .await;
    assert_eq!(level.status, 200);
}

#[tokio::test]
async fn a_body_in_utf_16_or_utf_32_is_told_so() {
    let upstream = upstream()
        .answers(success(&serde_json::json!({})))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let utf_16 = |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        BODY.encode_utf16().flat_map(to_bytes).collect()
    };
    let utf_32 = |to_bytes: fn(u32) -> [u8; 4]| -> Vec<u8> {
        BODY.chars().map(u32::from).flat_map(to_bytes).collect()
    };
    let rows = [
        ("UTF-16", &b"\xff\xfe"[..], utf_16(u16::to_le_bytes)),
        ("UTF-16", b"\xfe\xff", utf_16(u16::to_be_bytes)),
        ("UTF-32", b"\xff\xfe\0\0", utf_32(u32::to_le_bytes)),
        ("UTF-32", b"\0\0\xfe\xff", utf_32(u32::to_be_bytes)),
    ];
    for (encoding, mark, body) in rows {
        for mark in [mark, b""] {
            let body = [mark, &body].concat();
            let reply = gateway.post("/package/orderPackage", &[], &body).await;
            assert_eq!(reply.problem().1, "invalid_json", "{body:?}");
            let detail = reply.json()["detail"].to_string();
            assert!(detail.contains(encoding), "{body:?}: {detail}");
            assert!(detail.contains("UTF-8"), "{body:?}: {detail}");
        }
    }
    assert_eq!(upstream.calls(), 0);
}
