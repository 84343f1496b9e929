//! A refusal does not wait for the body of its request, and costs neither itself nor the next
//! request.

use futures::future::join_all;

use crate::support::client::{Connection, post};
use crate::support::upstream::Request;
use crate::support::{Gateway, connect, gateway, until, upstream};

const TOKEN: &str = "token-of-the-shop-0001";
const BEARER: (&str, &str) = ("Authorization", "Bearer token-of-the-shop-0001");

/// Refused by its head: what is sent first, how it is answered.
struct Refused {
    name: &'static str,
    line: &'static str,
    headers: &'static [(&'static str, &'static str)],
    answer: (u16, &'static str),
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

const REFUSED: [Refused; 9] = [
    Refused {
        name: "a query string",
        line: "POST /package/orderPackage?x=1",
        headers: &[BEARER, JSON],
        answer: (400, "invalid_path"),
    },
    Refused {
        name: "two tenants",
        line: "POST /package/orderPackage",
        headers: &[
            BEARER,
            JSON,
            ("X-Linksfield-Tenant", "a"),
            ("X-Linksfield-Tenant", "b"),
        ],
        answer: (400, "malformed_request"),
    },
    Refused {
        name: "a time that is none",
        line: "POST /package/orderPackage",
        headers: &[BEARER, JSON, ("X-Request-Timeout", "soon")],
        answer: (400, "invalid_header"),
    },
    Refused {
        name: "no key",
        line: "POST /package/refund",
        headers: &[BEARER, JSON],
        answer: (400, "idempotency_key_required"),
    },
    Refused {
        name: "a stranger",
        line: "POST /package/orderPackage",
        headers: &[JSON],
        answer: (401, "unauthenticated"),
    },
    Refused {
        name: "a web page",
        line: "POST /package/orderPackage",
        headers: &[BEARER, JSON, ("Origin", "http://evil.example")],
        answer: (403, "foreign_origin"),
    },
    Refused {
        name: "a path that is not configured",
        line: "POST /package/no",
        headers: &[BEARER, JSON],
        answer: (404, "unlisted_path"),
    },
    Refused {
        name: "another method",
        line: "PUT /package/orderPackage",
        headers: &[BEARER, JSON],
        answer: (405, "method_not_allowed"),
    },
    Refused {
        name: "no JSON",
        line: "POST /package/orderPackage",
        headers: &[BEARER, ("Content-Type", "text/plain")],
        answer: (415, "unsupported_media_type"),
    },
];

impl Refused {
    fn head(&self, version: &str, framing: &str) -> Vec<u8> {
        let lines = self.headers.iter();
        let lines: String = lines
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let line = self.line;
        format!("{line} {version}\r\nHost: gateway\r\n{lines}{framing}\r\n\r\n").into_bytes()
    }
}

/// A body, and the header fields that frame it.
fn bodies() -> [(String, Vec<u8>); 4] {
    let sized = |size: usize| (format!("Content-Length: {size}"), vec![b'x'; size]);
    let chunk = "5;a=b\r\nGET /\r\n".repeat(2_000);
    let trailers = "0\r\nExpires: never\r\nX-Sum: 1\r\n\r\n";
    [
        sized(2),
        sized(9_000),
        sized(100_000),
        (
            "Transfer-Encoding: chunked".into(),
            format!("{chunk}{trailers}").into(),
        ),
    ]
}

async fn shop(upstream: &crate::support::Upstream) -> Gateway {
    gateway(upstream)
        .caller("shop", TOKEN, &["acme"], true)
        .set("server.unlisted_paths", "\"refuse\"")
        .set("routes./package/refund.kind", "\"command\"")
        .set("routes./package/refund.idempotency", "\"required\"")
        .run()
        .await
}

async fn orders(connection: &mut Connection, name: &str) {
    let order = post("/package/orderPackage", &[BEARER], b"{}");
    assert_eq!(connection.exchange(&order).await.status, 200, "{name}");
}

#[tokio::test]
async fn a_request_follows_a_refusal_that_came_before_the_body() {
    let upstream = upstream().run().await;
    let gateway = shop(&upstream).await;
    let follows = async |refused: &Refused| {
        let name = refused.name;
        let mut connection = gateway.connect().await;
        for (framing, body) in bodies() {
            connection.send(&refused.head("HTTP/1.1", &framing)).await;
            let reply = connection.reply().await;
            let (status, code) = refused.answer;
            assert_eq!(
                reply.problem(),
                (status, code.into(), "no".into()),
                "{name}"
            );
            assert_eq!(reply.header("connection"), None, "{name}, {framing}");
            let (first, rest) = body.split_at(body.len() / 2);
            connection.send(first).await;
            connection.send(rest).await;
            orders(&mut connection, name).await;
        }
    };
    join_all(REFUSED.iter().map(follows)).await;
    assert_eq!(upstream.calls(), bodies().len() * REFUSED.len());
}

#[tokio::test]
async fn a_request_follows_a_refused_one_that_came_whole() {
    let upstream = upstream().run().await;
    let gateway = shop(&upstream).await;
    let order = post("/package/orderPackage", &[BEARER], b"{}");
    for refused in &REFUSED {
        let mut connection = gateway.connect().await;
        for (framing, body) in bodies() {
            let request = [&refused.head("HTTP/1.1", &framing)[..], &body, &order].concat();
            let reply = connection.exchange(&request).await;
            assert_eq!(
                reply.status, refused.answer.0,
                "{}, {framing}",
                refused.name
            );
            assert_eq!(connection.reply().await.status, 200, "{}", refused.name);
        }
    }
}

#[tokio::test]
async fn nothing_in_a_dropped_body_runs_as_a_request() {
    let upstream = upstream().run().await;
    let gateway = shop(&upstream).await;
    let inside = post("/package/orderPackage", &[BEARER], br#"{"from":"inside"}"#);
    let chunk = [
        format!("{:x}\r\n", inside.len()).as_bytes(),
        &inside,
        b"\r\n",
    ]
    .concat();
    let chunked = [&chunk[..], b"0\r\nX-Sum: 1\r\n\r\n"].concat();
    let sized = format!("Content-Length: {}", inside.len());
    let coded = "Transfer-Encoding: chunked";
    let twice = format!("{coded}\r\n{coded}");
    let both = format!("Content-Length: {}\r\n{coded}", chunked.len() + 999);
    let broken = [b"zz\r\n", &inside[..]].concat();
    let refused_with = async |refused: &Refused| {
        for (framing, body) in [(&sized[..], &inside), (coded, &chunked)] {
            let head = refused.head("HTTP/1.1", framing);
            let mut apart = gateway.connect().await;
            assert_eq!(apart.exchange(&head).await.status, refused.answer.0);
            for bytes in body.chunks(40) {
                apart.send(bytes).await;
            }
            orders(&mut apart, refused.name).await;
            let mut at_once = gateway.connect().await;
            let reply = at_once.exchange(&[&head[..], body].concat()).await;
            assert_eq!(reply.status, refused.answer.0);
            orders(&mut at_once, refused.name).await;
        }
        for (framing, cut) in [
            ("Content-Length: 999", &inside[..]),
            ("Content-Length: 9999999", &inside),
            (coded, &chunk),
            (coded, &chunk[..chunk.len() - 1]),
            (coded, &chunk[..20]),
            (coded, &broken),
            (&twice, &chunked),
            (&both, &chunked),
            ("Transfer-Encoding: gzip, chunked", &chunked),
        ] {
            let mut connection = gateway.connect().await;
            let head = refused.head("HTTP/1.1", framing);
            connection.send(&[&head[..], cut].concat()).await;
            connection.finish().await; // no more comes: it may have given up before its answer
            let _ = connection.read().await;
            connection.ended().await;
        }
    };
    join_all(REFUSED.iter().map(refused_with)).await;
    assert_eq!(upstream.calls(), 4 * REFUSED.len());
    let from_inside = |request: &Request| request.json()["from"] == "inside";
    assert!(!upstream.requests().iter().any(from_inside));
}

/// Sends `first`, and `rest` once an answer has come: that is still whole, and the connection ends
/// without a reset.
async fn is_answered_and_ends(address: &str, name: &str, first: &[u8], rest: &[u8], status: u16) {
    let mut connection = connect(address).await;
    connection.send(first).await;
    connection.answered().await;
    for bytes in rest.chunks(rest.len() / 2) {
        let sent = connection.try_send(bytes).await;
        assert!(sent.is_ok(), "{name}: {sent:?}");
    }
    let reply = connection.reply().await;
    assert_eq!(reply.status, status, "{name}");
    assert_eq!(reply.header("connection"), Some("close"), "{name}");
    connection.end().await;
}

#[tokio::test]
async fn a_refusal_that_ends_the_connection_says_so_and_is_not_lost_in_a_reset() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_body", "\"64KiB\"")
        .set("server.body_timeout", "\"100ms\"")
        .run()
        .await;
    let head = |version, content_type, headers: &str| {
        let line = format!("POST /package/queryOrder HTTP/{version}");
        format!("{line}\r\nHost: a\r\nContent-Type: {content_type}\r\n{headers}\r\n\r\n")
    };
    let json = |headers: &str| head("1.1", "application/json", headers);
    let text = |headers: &str| head("1.1", "text/plain", headers);
    let old = |headers: &str| head("1.0", "text/plain", headers);
    let short = "Content-Length: 9000";
    let long = "Content-Length: 9000000";
    let chunked = "Transfer-Encoding: chunked";
    let twice = format!("{chunked}\r\n{chunked}");
    let chunk = format!("10001\r\n{}\r\n", "x".repeat(65_537));
    let filling = format!("x-long: {}", "x".repeat(40_000));
    let rows = [
        ("too large", json(long), 413),
        ("too large in chunks", json(chunked) + &chunk, 413),
        ("too large to drop", text(long), 415),
        ("too large to drop in chunks", text(chunked) + &chunk, 415),
        ("slow", json(short), 408),
        (
            "not asked for",
            text(&format!("{short}\r\nExpect: 100-continue")),
            415,
        ),
        ("HTTP/1.0", old(short), 415),
        (
            "HTTP/1.0 kept alive",
            old(&format!("{short}\r\nConnection: keep-alive")),
            415,
        ),
        (
            "to be closed",
            text(&format!("{long}\r\nConnection: close")),
            415,
        ),
        ("no chunk", json(chunked) + "zz\r\n", 400),
        ("no chunk to drop", text(chunked) + "zz\r\n", 415),
        ("two framings", text(&format!("{short}\r\n{chunked}")), 415),
        ("chunked twice", text(&twice), 415),
        (
            "another coding",
            json("Transfer-Encoding: gzip, chunked"),
            400,
        ),
        (
            "two lengths",
            json(&format!("{short}\r\nContent-Length: 1")),
            400,
        ),
        ("no method", json(short).replace("POST", "P@ST("), 400),
        ("a long head", json(&filling), 431),
        ("a head of many lines", json(&"x: y\r\n".repeat(200)), 431),
    ];
    for (name, first, status) in rows {
        let rest = vec![b'x'; 4_000_000];
        is_answered_and_ends(&gateway.address, name, first.as_bytes(), &rest, status).await;
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_told_so_although_its_body_is_still_on_its_way() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_connections", "1")
        .run()
        .await;
    let mut first = gateway.connect().await;
    let query = post("/package/queryOrder", &[], b"{}");
    let (begin, end) = query.split_at(query.len() - 1);
    first.send(begin).await; // a request in flight makes no room
    let order = post("/package/orderPackage", &[], &b"x".repeat(100_000));
    let (head, body) = order.split_at(order.len() - 100_000);
    is_answered_and_ends(&gateway.address, "beyond", head, body, 503).await;
    first.send(end).await;
    assert_eq!(first.reply().await.status, 200);
}

#[tokio::test]
async fn the_admin_listener_refuses_in_the_same_way() {
    let upstream = upstream().run().await;
    let builder = gateway(&upstream);
    let token = builder.file("admin-token", "an-admin-token-of-some-length");
    let gateway = builder
        .set("server.admin_token_file", &format!("{token:?}"))
        .run()
        .await;
    for (line, status) in [
        ("POST /reload", 401),
        ("POST /log-level", 401),
        ("POST /nowhere", 404),
        ("PUT /cache/purge", 405),
        ("POST /metrics", 405),
        ("GET /livez", 200),
    ] {
        let mut connection = connect(&gateway.admin).await;
        for (framing, body) in bodies() {
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
            let reply = connection.exchange(head.as_bytes()).await;
            assert_eq!(
                (reply.status, reply.header("connection")),
                (status, None),
                "{line}"
            );
            connection.send(&body).await;
        }
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n");
        let rest = vec![b'x'; 4_000_000];
        is_answered_and_ends(&gateway.admin, line, head.as_bytes(), &rest, status).await;
    }
}

#[tokio::test]
async fn a_drip_of_bytes_holds_no_place() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_connections", "1")
        .set("server.header_timeout", "\"50ms\"") // what is dropped is no head
        .run()
        .await;
    for framing in ["Content-Length: 9000", "Transfer-Encoding: chunked"] {
        let mut drip = gateway.connect().await;
        let head =
            format!("POST /?x HTTP/1.1\r\nHost: a\r\nX-Request-Id: drip\r\n{framing}\r\n\r\n");
        drip.send(head.as_bytes()).await;
        gateway.exchange_of("drip").await; // its line waits for no byte
        let query = post("/package/queryOrder", &[], b"{}");
        until("its place is free", async || {
            drip.send(b"1").await; // taken meanwhile, without a reset
            gateway.connect().await.exchange(&query).await.status == 200
        })
        .await;
        let reply = drip.reply().await;
        assert_eq!(reply.problem(), (400, "invalid_path".into(), "no".into()));
        drip.end().await;
        until("nobody is connected", async || {
            gateway.metric("connections", &[]).await == 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_is_neither_a_slow_head_nor_idleness() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.header_timeout", "\"50ms\"")
        .set("server.idle_timeout", "\"50ms\"")
        .run()
        .await;
    let refused = post("/package/queryOrder?x", &[], &b"x".repeat(9_000));
    let query = post("/package/queryOrder", &[], b"{}");
    let (head, body) = refused.split_at(refused.len() - 9_000);
    let (first, rest) = body.split_at(4_000);
    let mut connection = gateway.connect().await;
    for bytes in [head, first] {
        connection.send(bytes).await;
        gateway.connect().await.ended().await; // the time of a head has passed
    }
    connection.send(&[rest, &query].concat()).await;
    assert_eq!(connection.reply().await.status, 400);
    assert_eq!(connection.reply().await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_dropped_holds_up_no_end_and_is_not_cut_off_by_it() {
    let upstream = upstream().run().await;
    for is_sent in [true, false] {
        let mut gateway = gateway(&upstream)
            .set("server.drain_timeout", "\"1h\"")
            .run()
            .await;
        let order = post("/package/orderPackage?x", &[], &b"x".repeat(9_000));
        let (head, body) = order.split_at(order.len() - 9_000);
        let mut connection = gateway.connect().await;
        connection.send(head).await;
        connection.answered().await;
        gateway.signal("TERM");
        until("not listening", async || {
            crate::support::client::try_to_connect(&gateway.address)
                .await
                .is_err()
        })
        .await;
        if is_sent {
            connection.send(body).await;
        }
        assert_eq!(connection.reply().await.status, 400);
        connection.end().await;
        assert_eq!(gateway.exit().await.code(), Some(0));
        assert!(gateway.output().contains("drained"));
    }
}

#[tokio::test]
async fn what_is_pipelined_behind_the_last_answer_does_not_reset_it() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let last = post("/package/queryOrder", &[("Connection", "close")], b"{}");
    let next = post("/package/orderPackage", &[], &b"x".repeat(100_000));
    let first = [&last[..], &next].concat();
    is_answered_and_ends(&gateway.address, "pipelined", &first, &next, 200).await;
    assert_eq!(upstream.calls(), 1);
}
