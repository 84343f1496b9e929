//! HTTP that could be read in two ways, and callers that are no services.

use crate::support::client::post;
use crate::support::{gateway, upstream};

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
