//! What Linksfield answers, where it is not what was expected: odd heads, codings, pages, and the
//! words of balancers.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::http2::offering;
use crate::support::answer::{Answer, Fault, answer, raw, wire, with_lines};
use crate::support::frames::{Frames, Told};
use crate::support::upstream::Request;
use crate::support::{Gate, Gateway, Reply, Upstream, gateway, page, success, until, upstream};
use crate::tls::certificate_with;

const QUERY: &str = "/package/queryOrder";
const ORDER: &str = "/package/orderPackage";
const ALL: [(&str, &str); 1] = [("X-Linksfield-Pages", "all")];

/// The page that was asked for, or the answer to an order.
fn body_for(request: &Request) -> Vec<u8> {
    if request.path() == "/cube/v4/package/orderPackage" {
        return success(&json!({"order_id": "L1"})).body;
    }
    let asked = request.json();
    let (number, size) = (asked["page_no"].as_u64(), asked["page_size"].as_u64());
    page(number.unwrap_or(1), size.unwrap_or(2), 7).body
}

/// An upstream that answers with these bytes, and a gateway whose breaker stays closed.
async fn answering(
    bytes: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Upstream, Gateway) {
    let upstream = upstream().script(bytes).run().await;
    let gateway = gateway(&upstream)
        .set("upstream.breaker.consecutive", "100000")
        .set("upstream.breaker.min_calls", "100000")
        .run()
        .await;
    (upstream, gateway)
}

async fn keyed(gateway: &Gateway, key: &str) -> Reply {
    let headers = [("Idempotency-Key", key), ("X-Request-Id", key)];
    gateway.post(ORDER, &headers, "{}").await
}

fn is_hit(reply: &Reply) -> bool {
    let status = reply.header("cache-status").unwrap_or_default();
    status.contains("; hit")
}

fn is_replay(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

#[tokio::test]
async fn an_odd_line_in_a_header_that_nobody_reads_loses_nothing() {
    let many = "X-Trace: a\r\n".repeat(150);
    let rows = [
        ("a space before the colon", "X-Cookie : a\r\n"),
        ("a tab before the colon", "X-Cookie\t: a\r\n"),
        ("a fold", "X-Policy: a;\r\n b\r\n"),
        ("a fold by a tab", "X-Policy: a;\r\n\tb\r\n"),
        ("a fold of nothing", "X-Policy: a;\r\n \r\n"),
        ("a control character", "Set-Cookie: a\u{1}b\r\n"),
        ("DEL", "Set-Cookie: a\u{7f}b\r\n"),
        ("a NUL", "Set-Cookie: a\0b\r\n"),
        (
            "a carriage return within a line",
            "Set-Cookie: a\rRetry-After: 7\r\n",
        ),
        ("two at its end", "Set-Cookie: a\r\r\n"),
        ("an odd name", "X(Cookie): a\r\n"),
        ("a blank in a name", "X Cookie: a\r\n"),
        ("no colon", "nonsense\r\n"),
        ("no name", ": a\r\n"),
        ("more than 100 lines", &many),
        ("a used header with a space", "Retry-After : 7\r\n"),
        ("a used header with a fold", "Content-Language:\r\n en\r\n"),
        ("a used header with DEL", "Retry-After: 7\u{7f}\r\n"),
    ];
    let lines = Arc::new(Mutex::new(String::new()));
    let interim = Arc::new(Mutex::new(String::new()));
    let (written, before) = (lines.clone(), interim.clone());
    let (upstream, gateway) = answering(move |request| {
        let answer = with_lines(&written.lock().unwrap(), &body_for(request));
        wire([before.lock().unwrap().as_bytes(), &answer].concat())
    })
    .await;
    for (number, (name, odd)) in (1..).zip(&rows) {
        for of_interim in [false, true] {
            let head = "HTTP/1.1 103 Early Hints\r\n".to_owned() + odd + "\r\n";
            *interim.lock().unwrap() = if of_interim { head } else { String::new() };
            *lines.lock().unwrap() = if of_interim {
                String::new()
            } else {
                (*odd).to_owned()
            };
            let device = format!("{number}-{of_interim}");
            let calls = upstream.calls();
            let query = |number| json!({"device_id": device, "page_no": number, "page_size": 2});

            let first = gateway.query(&query(1)).await;
            assert_eq!(first.status, 200, "{name}: {first:?}");
            assert!(is_hit(&gateway.query(&query(1)).await), "{name}: kept");
            let whole = gateway.post(QUERY, &ALL, query(1).to_string()).await;
            assert_eq!(whole.status, 200, "{name}: {whole:?}");
            assert_eq!(
                whole.json()["data"]["package_order_num"],
                7,
                "{name}: crawled"
            );
            let order = keyed(&gateway, &device).await;
            assert_eq!(order.status, 200, "{name}: {order:?}");
            assert!(is_replay(&keyed(&gateway, &device).await), "{name}");
            assert_eq!(upstream.calls() - calls, 6, "{name}");
        }
    }
    assert_eq!(upstream.connections_opened(), 1, "it goes on");
}

#[tokio::test]
async fn odd_trailers_lose_nothing_either() {
    let many = "X: a\r\n".repeat(150);
    for trailers in [
        "",
        "X: a\r\n",
        "X : a\r\n b\r\n",
        "nonsense\r\n",
        "X: a\u{1}\r\n",
        &many,
    ] {
        let trailers = trailers.to_owned();
        let (upstream, gateway) = answering(move |request| {
            let body = String::from_utf8(body_for(request)).unwrap();
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n";
            let length = body.len();
            wire(format!("{head}\r\n{length:x}\r\n{body}\r\n0\r\n{trailers}\r\n"))
        })
        .await;
        for number in 1..=3 {
            assert_eq!(gateway.page(number).await.status, 200);
            assert!(is_hit(&gateway.page(number).await));
        }
        assert_eq!(keyed(&gateway, "one").await.status, 200);
        assert!(is_replay(&keyed(&gateway, "one").await));
        assert_eq!(upstream.connections_opened(), 1, "it goes on");
    }
}

#[tokio::test]
async fn after_an_answer_with_two_lengths_nothing_is_read_from_its_connection() {
    let (upstream, gateway) = answering(|request| {
        let body = String::from_utf8(body_for(request)).unwrap();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n";
        let length = body.len();
        wire(format!("{head}\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"))
    })
    .await;
    for number in 1..=3 {
        assert_eq!(gateway.page(number).await.status, 200);
        assert_eq!(gateway.order().await.status, 200);
    }
    assert_eq!((upstream.calls(), upstream.connections_opened()), (6, 6));
}

/// Heads and bodies that are no HTTP, or can be read in more than one way.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let body = success(&json!({"order_id": "L1"})).body;
    let length = body.len();
    let head = |lines: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}\r\n\r\n");
        [head.as_bytes(), &body].concat()
    };
    let chunked = |chunks: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes()
    };
    let beginning = |line: &str| {
        let head = format!("{line}\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &body].concat()
    };
    vec![
        (
            "a length with a space before the colon",
            head(&format!("Content-Length : {length}")),
        ),
        (
            "a folded length",
            head(&format!("Content-Length:\r\n {length}")),
        ),
        (
            "a length with a fold after it",
            head(&format!("Content-Length: {length}\r\n ")),
        ),
        (
            "a length with a sign",
            head(&format!("Content-Length: +{length}")),
        ),
        ("no number", head("Content-Length: many")),
        ("an empty length", head("Content-Length: ")),
        (
            "a length with a control character",
            head(&format!("Content-Length: {length}\u{1}")),
        ),
        (
            "a control character in its name",
            head(&format!("Content-\u{1}Length: {length}")),
        ),
        (
            "a length in a line that begins with a blank",
            head(&format!(" Content-Length: {length}")),
        ),
        (
            "two lengths",
            head(&format!("Content-Length: {length}\r\nContent-Length: 3")),
        ),
        (
            "two lengths in a line",
            head(&format!("Content-Length: {length}, 3")),
        ),
        (
            "a length beyond all numbers",
            head("Content-Length: 99999999999999999999"),
        ),
        (
            "a coding with a space before the colon",
            head("Transfer-Encoding : chunked"),
        ),
        (
            "a folded transfer coding",
            head("Transfer-Encoding:\r\n chunked"),
        ),
        (
            "another transfer coding",
            head("Transfer-Encoding: gzip, chunked"),
        ),
        ("chunked twice", head("Transfer-Encoding: chunked, chunked")),
        (
            "a transfer coding that is none",
            head("Transfer-Encoding: xchunked"),
        ),
        ("an empty transfer coding", head("Transfer-Encoding: ")),
        (
            "a folded content coding",
            head(&format!(
                "Content-Encoding: gz\r\n ip\r\nContent-Length: {length}"
            )),
        ),
        (
            "a content coding with a space",
            head(&format!(
                "Content-Encoding : gzip\r\nContent-Length: {length}"
            )),
        ),
        (
            "a carriage return that could end a line, before a length",
            head(&format!("X: a\rContent-Length: {length}")),
        ),
        (
            "a NUL in a length",
            head(&format!("Content-Length: {length}\0")),
        ),
        ("a status of two digits", beginning("HTTP/1.1 20 OK")),
        ("a status that is none", beginning("HTTP/1.1 000 OK")),
        ("another version", beginning("HTTP/3.0 200 OK")),
        ("no HTTP", b"<html>It works!</html>\r\n\r\n".to_vec()),
        (
            "a head without an end",
            format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000)).into_bytes(),
        ),
        ("a chunk without a size", chunked("x\r\n{}\r\n0\r\n\r\n")),
        (
            "a chunk beyond all sizes",
            chunked("ffffffffffffffff0\r\n{}"),
        ),
        (
            "a chunk with more than its size",
            chunked("2\r\n{}}\r\n0\r\n\r\n"),
        ),
        (
            "a switch of protocols",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
                .to_vec(),
        ),
    ]
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_an_error_that_says_why_and_ends_its_connection() {
    let rows = malformed();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let written = bytes.clone();
    let (upstream, gateway) = answering(move |_| wire(written.lock().unwrap().clone())).await;
    let expected = (502, "upstream_invalid_answer".to_owned(), "yes".to_owned());
    for (number, (name, malformed)) in (1_u64..).zip(&rows) {
        bytes.lock().unwrap().clone_from(malformed);
        let (calls, connections) = (upstream.calls(), upstream.connections_opened());
        let id = format!("query-{number}");
        let asked = json!({"page_no": number, "page_size": 2}).to_string();
        let query = gateway.post(QUERY, &[("X-Request-Id", &id)], &asked).await;
        assert_eq!(query.problem(), expected, "{name}");
        let status = query.header("proxy-status").unwrap();
        assert!(
            status.ends_with("error=http_protocol_error"),
            "{name}: {status}"
        );
        let key = format!("order-{number}");
        assert_eq!(keyed(&gateway, &key).await.problem(), expected, "{name}");
        for request in [&id, &key] {
            let line = gateway.exchange_of(request).await;
            let cause = line["cause"].as_str().unwrap_or_default();
            assert!(!cause.is_empty(), "{name}: {line}");
        }
        let again = keyed(&gateway, &key).await.problem();
        assert_eq!(again.1, "command_in_doubt", "{name}");
        let seen = (
            upstream.calls() - calls,
            upstream.connections_opened() - connections,
        );
        assert_eq!(seen, (2, 2), "{name}: neither asked again nor used again");
    }
    let failures = gateway
        .metric("upstream_calls_total", &[("end", "failure")])
        .await;
    assert_eq!(
        failures,
        f64::from(2 * u32::try_from(rows.len()).unwrap()),
        "as the breaker counts them"
    );
}

#[tokio::test]
async fn the_log_says_why_there_was_no_connection_and_why_one_broke() {
    let upstream = upstream()
        .answers(page(1, 2, 7).fault(Fault::Cut))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let ask = async |id: &str| {
        gateway.post(QUERY, &[("X-Request-Id", id)], "{}").await;
        let line = gateway.exchange_of(id).await;
        line["cause"].as_str().unwrap_or_default().to_owned()
    };
    let cut = ask("cut").await;
    assert!(
        cut.contains("end of file before message length reached"),
        "{cut}"
    );
    upstream.stop().await;
    let refused = ask("refused").await;
    assert!(refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_answer_nobody() {
    let forged = with_lines("", &success(&json!({"forged": true})).body);
    let at_once = {
        let forged = forged.clone();
        move |request: &Request| {
            let answer = with_lines("", &body_for(request));
            wire([answer, forged.clone()].concat())
        }
    };
    let (upstream, gateway) = answering(at_once).await;
    for number in 1..=20 {
        let reply = gateway.page(number).await;
        assert_eq!(reply.json()["data"]["page"]["cur_page_no"], number);
        let order = gateway.order().await;
        assert_eq!(order.json()["data"]["order_id"], "L1", "{order:?}");
    }
    assert_eq!(upstream.connections_opened(), 40, "none is used again");

    // Right after the answer: whether they are there when the next request leaves is left to
    // chance. They are not its answer.
    let open = Gate::new();
    open.open();
    let (forged_later, later) = (forged.clone(), open.clone());
    let (_upstream, gateway) = answering(move |request| {
        wire(with_lines("", &body_for(request))).and_then(&later, forged_later.clone())
    })
    .await;
    for number in 1..=50 {
        let reply = gateway.page(number).await;
        assert_eq!(
            reply.json()["data"]["page"]["cur_page_no"],
            number,
            "{reply:?}"
        );
    }

    // While it is idle.
    let gate = Gate::new();
    let held = gate.clone();
    let (upstream, gateway) = answering(move |request| {
        wire(with_lines("", &body_for(request))).and_then(&held, forged.clone())
    })
    .await;
    assert_eq!(gateway.page(1).await.status, 200);
    gate.open();
    until("it is closed", async || {
        gateway.metric("upstream_connections", &[]).await == 0.0
    })
    .await;
    let reply = gateway.page(2).await;
    assert_eq!(reply.json()["data"]["page"]["cur_page_no"], 2);
    assert_eq!(upstream.connections_opened(), 2);
}

#[tokio::test]
async fn by_tls_the_same_is_forgiven_and_the_same_answers_nobody() {
    for forged in [false, true] {
        let (acceptor, authority) = certificate_with("localhost", &[]);
        let upstream = upstream()
            .tls(acceptor)
            .script(move |request| {
                let answer = with_lines("X-Cookie : a\r\n", &body_for(request));
                let more = with_lines("", &success(&json!({"forged": true})).body);
                wire(if forged {
                    [answer, more].concat()
                } else {
                    answer
                })
            })
            .run()
            .await;
        let gateway = gateway(&upstream);
        let path = gateway.file("ca.pem", &authority);
        let gateway = gateway.set("upstream.ca_file", &format!("{path:?}"));
        let gateway = gateway.run().await;
        for number in 1..=10 {
            let reply = gateway.page(number).await;
            assert_eq!(reply.json()["data"]["page"]["cur_page_no"], number);
            let order = gateway.order().await;
            assert_eq!(order.json()["data"]["order_id"], "L1", "{order:?}");
        }
        let expected = if forged { 20 } else { 1 };
        assert_eq!(upstream.connections_opened(), expected);
    }
}

#[tokio::test]
async fn by_http2_a_malformed_answer_is_told_as_one() {
    const STATUS_200: u8 = 0x88;
    let heads: [(&str, &[u8]); 3] = [
        ("another length", &[STATUS_200, 0x0f, 0x0d, 0x01, b'5']),
        ("an odd name", &[STATUS_200, 0x00, 0x01, b'X', 0x01, b'a']),
        ("no status", &[0x0f, 0x0d, 0x01, b'2']),
    ];
    for (name, head) in heads {
        let (acceptor, authority) = certificate_with("localhost", &["h2"]);
        let vendor = Frames::listen(acceptor).await;
        let gateway = offering(&vendor.url(), &authority, 1).run().await;
        tokio::spawn(async move {
            loop {
                let mut peer = vendor.accept().await;
                tokio::spawn(async move {
                    while let told = peer.told_beside_pings().await
                        && told != Told::Ended
                    {
                        if let Told::Request(call) = told {
                            peer.send(0x1, 0x4, call, head).await; // HEADERS, END_HEADERS
                            peer.send(0x0, 0x1, call, b"{}").await; // DATA, END_STREAM
                        }
                    }
                });
            }
        });
        let expected = (502, "upstream_invalid_answer".to_owned(), "yes".to_owned());
        assert_eq!(gateway.page(1).await.problem(), expected, "{name}");
        assert_eq!(keyed(&gateway, "one").await.problem(), expected, "{name}");
        let line = gateway.exchange_of("one").await;
        let cause = line["cause"].as_str().unwrap_or_default();
        assert!(cause.contains("protocol"), "{name}: {line}");
        let again = keyed(&gateway, "one").await.problem();
        assert_eq!(again.1, "command_in_doubt", "{name}");
    }
}

#[tokio::test]
async fn a_content_coding_that_is_none_changes_nothing() {
    let codings = [
        "identity",
        "",
        "none",
        "utf-8",
        "Identity",
        "identity, identity",
    ];
    let coding = Arc::new(Mutex::new(String::new()));
    let written = coding.clone();
    let (upstream, gateway) = answering(move |request| {
        let coding = written.lock().unwrap().clone();
        raw(200, body_for(request)).header("Content-Encoding", &coding)
    })
    .await;
    for name in codings {
        name.clone_into(&mut coding.lock().unwrap());
        let query = json!({"device_id": format!("[{name}]"), "page_no": 1, "page_size": 2});
        let first = gateway.query(&query).await;
        assert_eq!(
            (first.status, first.header("content-encoding")),
            (200, None),
            "{name:?}"
        );
        assert!(is_hit(&gateway.query(&query).await), "{name:?}: kept");
        let whole = gateway.post(QUERY, &ALL, query.to_string()).await;
        assert_eq!(whole.status, 200, "{name:?}: crawled");
        let key = format!("<{name}>").replace(' ', "");
        assert_eq!(keyed(&gateway, &key).await.header("content-encoding"), None);
        assert!(is_replay(&keyed(&gateway, &key).await), "{name:?}");
    }
    assert_eq!(upstream.connections_opened(), 1);
    assert_eq!(
        gateway.metric("upstream_encoded_answers_total", &[]).await,
        0.0
    );
}

#[tokio::test]
async fn what_is_encoded_is_passed_on_with_its_coding_and_never_kept() {
    let plain = success(&json!({"order_id": "L1"})).body;
    let answers: [(&str, Answer, &str); 5] = [
        (
            "gzip",
            raw(200, b"\x1f\x8bno JSON".to_vec()).header("Content-Encoding", "gzip"),
            "gzip",
        ),
        (
            "plain all the same",
            raw(200, plain.clone()).header("Content-Encoding", "GZIP"),
            "GZIP",
        ),
        (
            "a list",
            raw(200, plain.clone()).header("Content-Encoding", "identity, zstd"),
            "identity, zstd",
        ),
        (
            "two lines",
            wire(with_lines(
                "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
                &plain,
            )),
            "identity, br",
        ),
        (
            "a refusal",
            raw(400, plain).header("Content-Encoding", "x-gzip"),
            "x-gzip",
        ),
    ];
    for (name, sent, coding) in answers {
        let status = sent.status;
        let (upstream, gateway) = answering(move |_| sent.clone()).await;
        for call in 1..=2 {
            let reply = gateway.page(1).await;
            assert_eq!(
                (reply.status, reply.header("content-encoding")),
                (status, Some(coding))
            );
            assert!(!is_hit(&reply), "{name}");
            assert_eq!(upstream.calls(), call, "{name}");
        }
        let first = keyed(&gateway, "one").await;
        assert_eq!(
            (first.status, first.header("content-encoding")),
            (status, Some(coding))
        );
        assert_eq!(
            keyed(&gateway, "one").await.problem().1,
            "command_in_doubt",
            "{name}"
        );
        assert_eq!(
            gateway.metric("upstream_encoded_answers_total", &[]).await,
            3.0,
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_answer_to_a_command_that_cannot_be_read_is_not_given_again() {
    let rows = [
        ("HTML", raw(200, "<html>"), false),
        ("nothing", raw(200, ""), false),
        (
            "not UTF-8",
            raw(
                200,
                b"{\"code\":\"0000\",\"message\":\"\xff\",\"success\":true}".to_vec(),
            ),
            false,
        ),
        (
            "a redirect",
            raw(302, "").header("Location", "https://x.example/"),
            false,
        ),
        ("JSON of another shape", raw(200, "[1]"), true),
        ("no content", raw(204, ""), true),
        ("a refusal in HTML", raw(404, "<html>"), true),
        (
            "until the connection ends, by an old coding, cut",
            wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n[1]")
                .fault(Fault::WireThenClose),
            false,
        ),
    ];
    for (name, sent, is_kept) in rows {
        let status = sent.status;
        let (upstream, gateway) = answering(move |_| sent.clone()).await;
        let first = keyed(&gateway, "one").await;
        assert_eq!(first.status, status, "{name}");
        let second = keyed(&gateway, "one").await;
        assert_eq!(is_replay(&second), is_kept, "{name}: {second:?}");
        assert_eq!(upstream.calls(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_length_beside_the_coding_identity_tells_where_the_body_ends() {
    let (upstream, gateway) = answering(|request| {
        let body = body_for(request);
        let is_cut = request.path().ends_with("/cut");
        let length = body.len() + usize::from(is_cut);
        let head = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: {length}\r\n\r\n"
        );
        let fault = if is_cut {
            Fault::WireThenClose
        } else {
            Fault::Wire
        };
        wire([head.as_bytes(), &body].concat()).fault(fault)
    })
    .await;
    for number in 1..=2 {
        let reply = gateway.page(number).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(is_hit(&gateway.page(number).await));
    }
    assert_eq!(keyed(&gateway, "one").await.status, 200);
    assert!(is_replay(&keyed(&gateway, "one").await));
    assert_eq!((upstream.calls(), upstream.connections_opened()), (3, 1));
    let cut = gateway.post("/cut", &[], "{}").await;
    let expected = (502, "upstream_disconnected".into(), "yes".into());
    assert_eq!(cut.problem(), expected);
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_not_kept_whatever_its_head_says() {
    let (upstream, gateway) = answering(|request| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Type: application/json\r\n\r\n";
        wire([head.as_bytes(), &body_for(request)].concat()).fault(Fault::WireThenClose)
    })
    .await;
    for call in 1..=2 {
        let reply = gateway.page(1).await;
        let status = reply.header("cache-status").unwrap();
        assert!(status.ends_with("detail=unframed"), "{status}");
        assert_eq!(upstream.calls(), call);
    }
}

#[tokio::test]
async fn what_is_not_utf_8_is_no_page() {
    let page = page(1, 2, 7).body;
    let ignored = String::from_utf8(page).unwrap().replace("成功", "\u{1}");
    let bytes: Vec<u8> = ignored
        .bytes()
        .map(|byte| if byte == 1 { 0xff } else { byte })
        .collect();
    let (_upstream, gateway) = answering(move |_| raw(200, bytes.clone())).await;
    let expected = (502, "upstream_invalid_answer".into(), "yes".into());
    assert_eq!(gateway.page(1).await.problem(), expected);
    assert_eq!(gateway.page(1).await.problem(), expected, "not kept");
}

#[tokio::test]
async fn a_byte_order_mark_before_an_answer_is_taken_and_handed_on() {
    let marked = |mut answer: Answer| {
        answer.body.splice(..0, *b"\xef\xbb\xbf");
        answer
    };
    let (upstream, gateway) = answering(move |request| {
        let asked = request.json();
        match asked["page_no"].as_u64() {
            Some(number) => marked(page(number, 2, 3)),
            None => marked(success(&json!({"order_id": "ORDER_1"}))),
        }
    })
    .await;
    let first = gateway.page(1).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.body, marked(page(1, 2, 3)).body);
    let second = gateway.page(1).await;
    assert_eq!((second.body, upstream.calls()), (first.body, 1), "kept");

    let all = gateway
        .post(QUERY, &ALL, r#"{"page_no":1,"page_size":2}"#)
        .await;
    let orders = all.json()["data"]["package_order"].clone();
    assert_eq!(orders.as_array().map(Vec::len), Some(3), "{all:?}");

    let calls = upstream.calls();
    for is_repeat in [false, true] {
        let reply = keyed(&gateway, "marked").await;
        assert_eq!(reply.header("x-linksfield-in-doubt"), None, "{reply:?}");
        assert_eq!(is_replay(&reply), is_repeat);
    }
    assert_eq!(upstream.calls(), calls + 1);
}

#[tokio::test]
async fn what_a_balancer_says_by_its_status_is_told_as_that() {
    let html = |status| raw(status, "<html>").header("Content-Type", "text/html");
    let envelope = |status| {
        answer(
            status,
            &json!({"code": "x", "data": null, "success": false}),
        )
    };
    #[rustfmt::skip]
    let rows = [
        (html(429).header("Retry-After", "7"), 429, Some("upstream_throttled"), Some("7"), "neither"),
        (html(429), 429, Some("upstream_throttled"), Some("1"), "neither"), // when the gateway asks again
        (html(429).header("Retry-After", "soon"), 429, Some("upstream_throttled"), Some("1"), "neither"),
        (html(503).header("Retry-After", "7"), 503, Some("upstream_unavailable"), Some("7"), "failure"),
        (html(503), 502, Some("upstream_invalid_answer"), None, "failure"),
        (html(502).header("Retry-After", "7"), 502, Some("upstream_invalid_answer"), None, "failure"),
        (envelope(429).header("Retry-After", "7"), 429, None, Some("7"), "neither"),
        (envelope(503).header("Retry-After", "7"), 503, None, Some("7"), "failure"),
    ];
    for (sent, status, code, retry_after, end) in rows {
        let name = format!("{} {:?}", sent.status, sent.headers);
        let cause = code.map(|_| format!("HTTP {}: not the vendor's envelope", sent.status));
        let (upstream, gateway) = answering(move |_| sent.clone()).await;
        let reply = gateway.post(QUERY, &[("X-Request-Id", "query")], "{}");
        let reply = reply.await;
        let line = gateway.exchange_of("query").await;
        assert_eq!(line["cause"], json!(cause), "{name}");
        let outcome = if end == "neither" {
            "throttled"
        } else {
            "transient"
        };
        assert_eq!(line["outcome"], outcome, "{name}");
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (status, retry_after),
            "{name}"
        );
        if let Some(code) = code {
            assert_eq!(
                reply.problem(),
                (status, code.into(), "yes".into()),
                "{name}"
            );
            let detail = reply.json()["detail"].to_string();
            let says_when = detail.contains("try again after Retry-After");
            assert_eq!(says_when, retry_after.is_some(), "{name}: {detail}");
        }
        assert_eq!(
            gateway
                .metric("upstream_calls_total", &[("end", end)])
                .await,
            1.0,
            "{name}"
        );
        assert_eq!(upstream.calls(), 1, "{name}");
        if status == 503 {
            gateway.page(2).await;
            assert_eq!(upstream.calls(), 2, "{name}: it pauses nobody else");
        }
    }
}

#[tokio::test]
async fn a_page_stands_in_for_a_balancers_refusal() {
    for status in [429, 503] {
        let fails = Arc::new(Mutex::new(false));
        let failing = fails.clone();
        let upstream = upstream()
            .script(move |request| {
                if *failing.lock().unwrap() {
                    raw(status, "<html>").header("Retry-After", "7")
                } else {
                    raw(200, body_for(request))
                }
            })
            .run()
            .await;
        let gateway = gateway(&upstream)
            .set("routes./package/queryOrder.fresh_for", "\"0s\"")
            .set("routes./package/queryOrder.stale_for", "\"0s\"")
            .run()
            .await;
        let page = gateway.page(1).await;
        *fails.lock().unwrap() = true;
        let stale = gateway.page(1).await;
        assert_eq!((stale.status, &stale.body), (200, &page.body));
        let told = stale.header("cache-status").unwrap();
        assert!(told.contains(&format!("fwd-status={status}")), "{told}");
    }
}

#[tokio::test]
async fn a_challenge_is_passed_on_with_the_401_that_it_explains() {
    let envelope = json!({"code": "401", "data": null, "success": false});
    let sent = answer(401, &envelope).header("WWW-Authenticate", "Bearer realm=\"x\"");
    let gate = Gate::new();
    let held = sent.clone().behind(&gate);
    let (_upstream, gateway) = answering(move |request| match request.path() {
        "/cube/v4/package/orderPackage" => held.clone(),
        _ => sent.clone().header("X-Other", "y"),
    })
    .await;
    let challenge = Some("Bearer realm=\"x\"");
    let query = gateway.page(1).await;
    assert_eq!(
        (query.status, query.header("www-authenticate")),
        (401, challenge)
    );
    let open = async {
        gate.arrived().await;
        until("both wait", async || {
            gateway.metric("requests_in_flight", &[]).await == 2.0
        })
        .await;
        gate.open();
    };
    let (first, second, ()) = tokio::join!(keyed(&gateway, "a"), keyed(&gateway, "a"), open);
    for reply in [first, second] {
        assert_eq!(
            (reply.status, reply.header("www-authenticate")),
            (401, challenge)
        );
    }
    let (_upstream, gateway) =
        answering(|request| raw(200, body_for(request)).header("WWW-Authenticate", "Basic")).await;
    assert_eq!(gateway.page(1).await.header("www-authenticate"), None);
}

#[tokio::test]
async fn a_redirect_is_not_handed_on_and_the_log_names_its_host() {
    let to = "https://login.example:8443/sign-in?token=secret";
    for status in [301, 302, 303, 307, 308] {
        let (upstream, gateway) =
            answering(move |_| raw(status, "<html>").header("Location", to)).await;
        let id = [("X-Request-Id", "query")];
        let query = gateway.post(QUERY, &id, "{}").await;
        let expected = (502, "upstream_invalid_answer".into(), "yes".into());
        assert_eq!(query.problem(), expected);
        let order = keyed(&gateway, "order").await;
        assert_eq!(order.status, status);
        for reply in [query, order] {
            assert_eq!(reply.header("location"), None);
        }
        for request in ["query", "order"] {
            let line = gateway.exchange_of(request).await;
            assert_eq!(line["redirect_host"], "login.example:8443", "{line}");
        }
        let line = gateway.exchange_of("query").await;
        assert_eq!(line["cause"], format!("HTTP {status}: a redirect"));
        assert!(!gateway.output().contains("sign-in"), "only the host");
        assert_eq!(upstream.calls(), 2);
    }
}

/// A vendor that gives at most two orders a page, whatever it is asked for.
fn capped(request: &Request, says_so: bool) -> Answer {
    let asked = request.json();
    let number = asked["page_no"].as_u64().unwrap_or(1);
    let size = asked["page_size"].as_u64().unwrap_or(2);
    let mut answer = page(number, size.min(2), 7);
    if !says_so {
        let text = String::from_utf8(answer.body).unwrap();
        let told = format!(r#""page_size":{size}"#);
        let text = text.replace(r#""page_size":2"#, &told);
        let pages = format!(r#""total_pages":{}"#, 7_u64.div_ceil(size));
        answer.body = text.replace(r#""total_pages":4"#, &pages).into();
    }
    answer
}

#[tokio::test]
async fn a_page_of_another_number_or_size_is_handed_on_and_belongs_to_no_snapshot() {
    let upstream = upstream()
        .script(|request| match request.json()["device_id"].as_str() {
            Some("moved") => page(2, 2, 7),
            _ => capped(request, true),
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    #[rustfmt::skip]
    let rows = [
        (json!({"device_id": "A", "page_no": 1, "page_size": 2}), true),
        (json!({"device_id": "A", "page_no": "1", "page_size": "2"}), true),
        (json!({"device_id": "A", "page_no": 1, "page_size": 100}), false),
        (json!({"device_id": "A", "page_no": "1", "page_size": "100"}), false),
        (json!({"device_id": "moved", "page_no": 1, "page_size": 2}), false),
        (json!({"device_id": "moved", "page_no": "1"}), false),
        (json!({"device_id": "moved", "page_size": 2}), true),
        (json!({"device_id": "A"}), true),
    ];
    for (asked, is_its_own) in rows {
        let calls = upstream.calls();
        for is_second in [false, true] {
            let reply = gateway.query(&asked).await;
            assert_eq!(reply.status, 200, "{asked}");
            assert_eq!(is_hit(&reply), is_second, "{asked}: under its own key");
            let snapshot = reply.header("x-linksfield-snapshot");
            assert_eq!(snapshot.is_some(), is_its_own, "{asked}");
        }
        assert_eq!(upstream.calls(), calls + 1);
    }

    // It contradicts nobody, though its totals say otherwise.
    let own = json!({"device_id": "A", "page_no": 2, "page_size": 2});
    let before = gateway.query(&own).await;
    assert_eq!(before.status, 200);
    gateway
        .query(&json!({"device_id": "A", "page_no": 9, "page_size": 2}))
        .await;
    assert!(is_hit(&gateway.query(&own).await));
}

#[tokio::test]
async fn a_crawl_goes_by_the_size_that_was_used() {
    for says_so in [true, false] {
        let upstream = upstream()
            .script(move |request| capped(request, says_so))
            .run()
            .await;
        let gateway = gateway(&upstream).run().await;
        let asked = json!({"device_id": "A", "page_size": 5}).to_string();
        let whole = gateway.post(QUERY, &ALL, &asked).await;
        assert_eq!(whole.status, 200, "{whole:?}");
        let data = whole.json()["data"].clone();
        assert_eq!(
            (&data["package_order_num"], upstream.calls()),
            (&json!(7), 4)
        );
        let codes: Vec<_> = (0..7).map(|order| format!("L{order:09}")).collect();
        let orders = data["package_order"].as_array().unwrap();
        let told: Vec<_> = orders.iter().map(|order| &order["orderCode"]).collect();
        assert_eq!(told, codes.iter().collect::<Vec<_>>());
        assert!(
            is_hit(&gateway.post(QUERY, &ALL, &asked).await),
            "the document is kept"
        );
        for number in 1..=4 {
            let page = json!({"device_id": "A", "page_no": number, "page_size": 5});
            assert!(
                !is_hit(&gateway.query(&page).await),
                "not as a page of that size"
            );
        }
    }
}

#[tokio::test]
async fn a_crawl_by_the_size_that_was_used_keeps_to_its_bounds() {
    let upstream = upstream()
        .script(|request| capped(request, false))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.max_pages", "3")
        .run()
        .await;
    let reply = gateway.post(QUERY, &ALL, r#"{"page_size":5}"#).await;
    assert_eq!(
        reply.problem(),
        (422, "too_many_pages".into(), "yes".into())
    );
    let detail = reply.json()["detail"].clone();
    assert!(
        detail.as_str().unwrap().contains("there are 4 pages"),
        "{detail}"
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn pages_whose_sizes_do_not_fit_together_make_an_error_that_says_so() {
    let first = |size, later: fn(u64) -> Answer| {
        upstream().script(move |request| match request.json()["page_no"].as_u64() {
            Some(1) => page(1, size, 7),
            number => later(number.unwrap()),
        })
    };
    let rows = [
        (
            "smaller",
            first(3, |number| page(number, 2, 7)),
            "the first page has 3, a later one 2",
        ),
        (
            "larger",
            first(2, |number| page(number, 3, 7)),
            "the first page has 2, a later one 3",
        ),
        (
            "no more",
            first(2, |number| page(number + 10, 2, 7)),
            "pages were read",
        ),
        (
            "none",
            upstream().script(|_| page(9, 2, 7)),
            "pages were read",
        ),
        (
            "an empty first page",
            upstream().script(|_| {
                let text = String::from_utf8(page(9, 2, 7).body).unwrap();
                raw(200, text.replace("\"cur_page_no\":9", "\"cur_page_no\":1"))
            }),
            "orders (0) than total_count says (7): the first page has 0, and a page_size of 5 was asked for",
        ),
    ];
    for (name, builder, expected) in rows {
        let upstream = builder.run().await;
        let gateway = gateway(&upstream).run().await;
        let reply = gateway.post(QUERY, &ALL, r#"{"page_size":5}"#).await;
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{name}: {detail}");
        assert!(upstream.calls() <= 4, "{name}");
    }
}
