//! Everything that a client can stretch has a bound.

use std::time::{Duration, Instant};

use crate::support::client::{connect_with_window, post};
use crate::support::{gateway, page, raw_success, until, upstream};

const BODY: &[u8] = br#"{"page_no":1}"#;

#[tokio::test]
async fn a_client_that_sends_no_head_in_time_is_dropped() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.header_timeout", "\"200ms\"")
        .run()
        .await;
    let mut silent = gateway.connect().await;
    let mut slow = gateway.connect().await;
    slow.send(b"POST /package/queryOrder HT").await;
    let mut later = gateway.connect().await;
    assert_eq!(
        later
            .exchange(&post("/package/queryOrder", &[], BODY))
            .await
            .status,
        200
    );
    later.send(b"P").await;
    for connection in [&mut silent, &mut slow, &mut later] {
        connection.ended().await;
    }
    until("no connection", async || {
        gateway.metric("connections", &[]).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time_than_one_that_stays_away() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.header_timeout", "\"300ms\"")
        .run()
        .await;
    let first = gateway.connect().await;
    let mut later = gateway.connect().await;
    let request = post("/package/queryOrder", &[], BODY);
    assert_eq!(later.exchange(&request).await.status, 200);
    for mut connection in [first, later] {
        let mut bytes = b"POST /package/queryOrder HTTP/1.1\r\nx-long: "
            .iter()
            .chain(std::iter::repeat(&b'x'));
        until("the connection ends", async || {
            let byte = bytes.next().expect("it repeats");
            connection.try_send(&[*byte]).await.is_err()
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_longer_than_a_head_may_take_and_then_closed() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.header_timeout", "\"50ms\"")
        .set("server.idle_timeout", "\"600ms\"")
        .run()
        .await;
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(
            connection
                .exchange(&post("/package/queryOrder", &[], BODY))
                .await
                .status,
            200
        );
        let answered = Instant::now();
        let mut other = gateway.connect().await;
        other.ended().await; // header_timeout has passed for a connection that came later
        assert!(answered.elapsed() >= Duration::from_millis(50));
    }
    connection.ended().await;
}

#[tokio::test]
async fn a_connection_is_closed_when_idle_although_its_request_came_at_once_and_took_long() {
    let slow = page(1, 2, 105).after(Duration::from_millis(150));
    let upstream = upstream().answers(slow).run().await;
    let gateway = gateway(&upstream)
        .set("server.header_timeout", "\"100ms\"")
        .set("server.idle_timeout", "\"100ms\"")
        .run()
        .await;
    let ask = async |number: usize| {
        let mut connection = gateway.connect().await;
        let body = format!(r#"{{"page_no":{}}}"#, number % 3);
        let request = post("/package/queryOrder", &[], body.as_bytes());
        assert_eq!(connection.exchange(&request).await.status, 200);
        connection.ended().await;
    };
    futures::future::join_all((0..20).map(ask)).await;
}

#[tokio::test]
async fn hits_that_are_pipelined_for_longer_than_a_head_may_take_are_all_answered() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.header_timeout", "\"100ms\"")
        .run()
        .await;
    let mut connection = gateway.connect().await;
    let request = post("/package/queryOrder", &[], BODY);
    let half = request.len() / 2;
    connection.send(&request[..half]).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        connection
            .send(&[&request[half..], &request[..half]].concat())
            .await;
        assert_eq!(connection.reply().await.status, 200);
    }
}

#[tokio::test]
async fn a_body_without_progress_is_a_408_and_the_connection_ends() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.body_timeout", "\"200ms\"")
        .run()
        .await;
    let mut connection = gateway.connect().await;
    let request = post("/package/queryOrder", &[], BODY);
    connection.send(&request[..request.len() - 4]).await;
    let reply = connection.reply().await;
    assert_eq!(reply.problem(), (408, "body_timeout".into(), "no".into()));
    assert_eq!(reply.header("connection"), Some("close"));
    connection.ended().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_off_at_the_deadline() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut connection = gateway.connect().await;
    let request = post(
        "/package/queryOrder",
        &[("X-Request-Timeout", "200ms")],
        BODY,
    );
    connection.send(&request[..request.len() - 4]).await;
    assert_eq!(
        connection.reply().await.problem(),
        (408, "body_timeout".into(), "no".into())
    );
}

#[tokio::test]
async fn a_body_beyond_the_cap_is_refused_however_its_length_is_told() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_body", "\"1KiB\"")
        .run()
        .await;
    let largest = format!(r#"{{"a":"{}"}}"#, "x".repeat(1024 - 8));
    assert_eq!(
        gateway
            .post("/package/queryOrder", &[], &largest)
            .await
            .status,
        200
    );

    let refused = gateway
        .post("/package/queryOrder", &[], format!("{largest} "))
        .await;
    assert_eq!(
        refused.problem(),
        (413, "body_too_large".into(), "no".into())
    );

    let chunked = format!(
        "POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{largest} \r\n"
    );
    let refused = gateway.connect().await.exchange(chunked.as_bytes()).await;
    assert_eq!(
        refused.problem(),
        (413, "body_too_large".into(), "no".into())
    );

    let mut asking = gateway.connect().await;
    asking.send(b"POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 9999\r\n\r\n").await;
    assert_eq!(
        asking.reply().await.status,
        413,
        "refused before the body is asked for"
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut asking = gateway.connect().await;
    asking.send(b"POST /package/queryOrder HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n").await;
    assert_eq!(asking.reply().await.status, 100);
    assert_eq!(asking.exchange(BODY).await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_dropped() {
    let upstream = upstream()
        .answers(raw_success(&"x".repeat(7_000_000)))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("server.body_timeout", "\"300ms\"")
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    let mut deaf = gateway.connect().await;
    for _ in 0..8 {
        deaf.send(&post("/package/queryOrder", &[], BODY)).await;
    }
    until("the answer is under way", async || upstream.calls() == 1).await;
    until("no connection", async || {
        gateway.metric("connections", &[]).await == 0.0
    })
    .await;
    assert_eq!(
        gateway.post("/package/queryOrder", &[], BODY).await.status,
        200,
        "others are served"
    );
}

#[tokio::test]
async fn a_client_that_reads_slowly_and_never_stops_gets_its_whole_answer() {
    let large = raw_success(&"x".repeat(7_000_000));
    let upstream = upstream().answers(large.clone()).run().await;
    let stop = Duration::from_millis(1_500); // three times body_timeout
    let gateway = gateway(&upstream)
        .set("server.body_timeout", "\"500ms\"")
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    let request = post("/package/queryOrder", &[], BODY);
    // Each part is more than the window. What the kernel could hold of an answer is so much more
    // that the reader would take longer for a third of it than a stop may last.
    let part = 192 * 1024;
    loop {
        let mut slow = connect_with_window(&gateway.address, 64 * 1024).await;
        slow.send(&request).await;
        let mut answer = slow.bytes(part).await;
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let read = async {
            for _ in 0..9 {
                tokio::time::sleep(stop / 4).await; // its pace
                answer.extend(slow.try_bytes(part).await?);
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
            let left = head.unwrap() + 4 + large.body.len() - answer.len();
            answer.extend(slow.try_bytes(left).await?);
            Ok::<_, std::io::Error>(())
        }
        .await;
        let stopped = longest.max(last.elapsed());
        match read {
            Ok(()) => return assert!(answer.ends_with(&large.body)),
            // Not the gateway's fault: the machine stood still, and so did the reader.
            Err(_) if stopped > stop / 2 => {}
            Err(error) => panic!("{error} after {} bytes", answer.len()),
        }
    }
}

#[tokio::test]
async fn a_head_beyond_the_bounds_is_refused() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let many: String = (0..200)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    let long = format!("x-long: {}\r\n", "x".repeat(40_000));
    for headers in [many, long] {
        let mut connection = gateway.connect().await;
        let head = format!("POST /package/queryOrder HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        if let Ok(Some(reply)) = connection.exchange_again(head.as_bytes()).await {
            assert_eq!(reply.status, 431);
        }
        connection.ended().await;
    }
    assert_eq!(upstream.calls(), 0);
}
