//! Who leaves when every place is taken?

use std::io;
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::support::client::{Connection, Reply, connect_with_window, post};
use crate::support::{
    Gate, Gateway, Upstream, connect, gateway, page, raw_success, until, upstream,
};

const QUERY: &str = "/package/queryOrder";
const BODY: &[u8] = br#"{"page_no":1}"#;

const TOKEN: &str = "token-of-the-reader-0001";
const BEARER: (&str, &str) = ("Authorization", "Bearer token-of-the-reader-0001");

fn request() -> Vec<u8> {
    post(QUERY, &[], BODY)
}

/// A gateway that asks for a token, with so many places.
async fn with_tokens(upstream: &Upstream, places: usize) -> Gateway {
    gateway(upstream)
        .caller("reader", TOKEN, &["acme"], false)
        .set("server.max_connections", &places.to_string())
        .run()
        .await
}

/// Asks with the token: from then on the connection is known.
async fn ask(connection: &mut Connection) {
    let request = post(QUERY, &[BEARER], BODY);
    assert_eq!(connection.exchange(&request).await.status, 200);
}

async fn known(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect().await;
    ask(&mut connection).await;
    connection
}

async fn is_served(connection: &mut Connection) {
    assert_eq!(connection.exchange(&request()).await.status, 200);
}

/// A connection that has been answered and is idle.
async fn idle(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect().await;
    is_served(&mut connection).await;
    connection
}

/// The gateway has ended it, without a word and without a reset.
async fn has_left(mut connection: Connection) {
    assert_eq!(connection.rest().await, b"");
}

async fn is_refused(gateway: &Gateway) {
    let mut connection = gateway.connect().await;
    let refused = connection.exchange(&request()).await;
    let told = (503, "too_many_connections".into(), "no".into());
    assert_eq!(refused.problem(), told);
    assert!(refused.header("retry-after").is_some());
    connection.ended().await;
}

async fn is_answered(address: &str, request: &[u8]) -> bool {
    let answer = connect(address).await.exchange_again(request).await;
    matches!(answer, Ok(Some(reply)) if reply.status == 200)
}

async fn has_connections(gateway: &Gateway, number: f64) {
    until("so many connections", async || {
        gateway.metric("connections", &[]).await == number
    })
    .await;
}

async fn evicted(gateway: &Gateway, listener: &str) -> f64 {
    let listener = [("listener", listener)];
    gateway.metric("connections_evicted_total", &listener).await
}

#[tokio::test]
async fn the_connection_that_has_been_idle_for_the_longest_time_makes_room() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_connections", "4")
        .run()
        .await;
    // Without a word they are idle from accept on; else from a moment after the answer on.
    let mut first = gateway.connect().await;
    let (second, third) = (gateway.connect().await, gateway.connect().await);
    let mut fourth = gateway.connect().await;
    for connection in [&mut fourth, &mut first] {
        is_served(connection).await;
    }

    let mut newcomers = Vec::new();
    for longest_idle in [second, third] {
        newcomers.push(idle(&gateway).await);
        has_left(longest_idle).await;
    }
    assert_eq!(evicted(&gateway, "data").await, 2.0);
    for connection in newcomers.iter_mut().chain([&mut first, &mut fourth]) {
        is_served(connection).await;
    }
    assert_eq!(gateway.metric("connections", &[]).await, 4.0);
}

#[tokio::test]
async fn however_many_are_idle_whoever_asks_is_answered() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_connections", "20")
        .run()
        .await;
    let mut silent = join_all((0..100).map(|_| gateway.connect())).await;
    for _ in 0..50 {
        silent.push(gateway.connect().await);
        is_served(&mut gateway.connect().await).await;
    }
    let code = [("code", "too_many_connections")];
    assert_eq!(gateway.metric("errors_total", &code).await, 0.0);
    assert!(gateway.metric("connections", &[]).await <= 20.0);
}

#[tokio::test]
async fn a_request_in_flight_of_a_caller_never_makes_room() {
    let gate = Gate::new();
    let large = raw_success(&"x".repeat(7_000_000));
    let upstream = upstream()
        .answers_in_turn([large.clone(), page(1, 2, 105).behind(&gate)])
        .run()
        .await;
    let gateway = gateway(&upstream)
        .caller("reader", TOKEN, &["acme"], false)
        .set("server.max_connections", "4")
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    let mut unread = connect_with_window(&gateway.address, 64 * 1024).await;
    let request = post(QUERY, &[BEARER], BODY);
    unread.send(&request).await;
    unread.answered().await;
    let mut waiting = gateway.connect().await;
    waiting
        .send(&post(QUERY, &[BEARER], br#"{"page_no":2}"#))
        .await;
    gate.arrived().await;
    let mut parts = Vec::new();
    for length in [request.len() - BODY.len(), request.len() - 1] {
        let mut part = gateway.connect().await;
        part.send(&request[..length]).await;
        parts.push((part, length));
    }
    has_connections(&gateway, 4.0).await;
    is_refused(&gateway).await;
    let code = [("code", "too_many_connections")];
    assert_eq!(gateway.metric("errors_total", &code).await, 1.0);

    gate.open();
    assert_eq!(unread.reply().await.body, large.body);
    assert_eq!(waiting.reply().await.status, 200);
    for (part, length) in &mut parts {
        part.send(&request[*length..]).await;
        assert_eq!(part.reply().await.status, 200, "{length}");
    }
    assert_eq!(evicted(&gateway, "data").await, 0.0);
    until("one that has been answered makes room", async || {
        let newcomer = gateway.connect().await.exchange(&request).await;
        newcomer.status == 200
    })
    .await;
}

#[tokio::test]
async fn the_begin_of_a_request_that_came_with_the_last_one_is_not_lost() {
    let upstream = upstream().run().await;
    let mut gateway = gateway(&upstream)
        .set("server.max_connections", "2")
        .run()
        .await;
    let request = request();
    let mut early = gateway.connect().await;
    early.send(&[&request[..], &request[..20]].concat()).await;
    assert_eq!(early.reply().await.status, 200);
    let silent = gateway.connect().await;
    let mut newcomer = idle(&gateway).await;
    has_left(silent).await;
    early.send(&[&request[20..], &request[..30]].concat()).await;
    assert_eq!(early.reply().await.status, 200);
    is_served(&mut newcomer).await;

    gateway.signal("TERM");
    has_left(newcomer).await;
    early.send(&request[30..]).await;
    assert_eq!(early.reply().await.status, 200);
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn who_has_authenticated_makes_room_last() {
    let upstream = upstream().run().await;
    let gateway = with_tokens(&upstream, 3).await;
    let first = known(&gateway).await;
    for _ in 0..2 {
        let stranger = gateway.connect().await;
        let mut refused = gateway.connect().await;
        assert_eq!(refused.exchange(&request()).await.status, 401);
        known(&gateway).await;
        has_left(stranger).await;
        drop(refused);
        has_connections(&gateway, 1.0).await;
    }
    let _others = [known(&gateway).await, known(&gateway).await];
    let stranger = gateway.connect().await;
    until("one of them makes room even for a stranger", async || {
        evicted(&gateway, "data").await == 3.0
    })
    .await;
    has_left(first).await;
    known(&gateway).await;
    has_left(stranger).await;
}

#[tokio::test]
async fn callers_who_connect_at_once_all_get_a_place_of_known_ones() {
    let upstream = upstream().run().await;
    loop {
        let gateway = with_tokens(&upstream, 20).await;
        let _idle = join_all((0..20).map(|_| known(&gateway))).await;
        let start = Instant::now();
        let mut newcomers = Vec::new();
        for _ in 0..10 {
            newcomers.push(gateway.connect().await);
        }
        until(
            "as many of them as strangers may be have places",
            async || evicted(&gateway, "data").await >= 5.0,
        )
        .await;
        let request = post(QUERY, &[BEARER], BODY);
        let asked = newcomers.iter_mut().map(|it| it.exchange_again(&request));
        let answers = join_all(asked).await;
        let is_served = |answer: &io::Result<Option<Reply>>| matches!(answer, Ok(Some(reply)) if reply.status == 200);
        if answers.iter().all(is_served) {
            join_all(newcomers.iter_mut().map(ask)).await;
            return assert_eq!(evicted(&gateway, "data").await, 10.0);
        }
        // Else the machine stood still, and they said nothing for longer than a stranger may.
        assert!(start.elapsed() > Duration::from_secs(1), "{answers:?}");
    }
}

/// Never ends: one byte more on each, again and again.
async fn drip(connections: &mut [Connection]) {
    loop {
        for connection in &mut *connections {
            let _ = connection.try_send(b"x").await; // it may have left
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // its pace
    }
}

#[tokio::test]
async fn a_crowd_keeps_nobody_out_whatever_it_holds_back_and_takes_no_place_of_a_known_one() {
    let upstream = upstream().run().await;
    let head = post("/?x", &[], &[b'x'; 9_000]);
    let (head, _) = head.split_at(head.len() - 9_000);
    let crowds = async |begin: &[u8], is_dripping: bool, size: usize| {
        let gateway = with_tokens(&upstream, 20).await;
        let mut idle = join_all((0..5).map(|_| known(&gateway))).await;
        let mut crowd = Vec::new();
        for _ in 0..size {
            let mut stranger = gateway.connect().await;
            stranger.send(begin).await;
            crowd.push(stranger);
        }
        let newcomers = join_all((0..5).map(|_| known(&gateway)));
        if is_dripping {
            tokio::select! {
                () = drip(&mut crowd) => {}
                _ = newcomers => {}
            }
        } else {
            newcomers.await;
        }
        join_all(idle.iter_mut().map(ask)).await;
    };
    // The larger ones are more than may wait for a place.
    for size in [40, 150] {
        tokio::join!(
            crowds(b"", false, size),
            crowds(b"P", false, size),
            crowds(b"POST / HTTP/1.1\r\nx: ", true, size),
            crowds(head, false, size),
            crowds(head, true, size),
        );
    }
}

#[tokio::test]
async fn who_leaves_a_chunked_body_out_holds_no_place_though_its_refusal_waits_for_it() {
    let upstream = upstream().run().await;
    let gateway = with_tokens(&upstream, 20).await;
    let head = format!("POST {QUERY} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let again = async || {
        loop {
            let mut stranger = gateway.connect().await;
            let _ = stranger.try_send(head.as_bytes()).await;
            let _ = stranger.exchange_again(b"").await; // until it is told, or has left
        }
    };
    let newcomers = async {
        for _ in 0..12 {
            known(&gateway).await;
        }
    };
    tokio::select! {
        _ = join_all((0..80).map(|_| again())) => {}
        () = newcomers => {}
    }
}

/// Sends so many requests at once on each of as many connections that hold few bytes, and reads
/// nothing.
async fn with_much_unread(address: &str, connections: usize, request: &[u8]) -> Vec<Connection> {
    let requests = request.repeat(200);
    join_all((0..connections).map(async |_| {
        let mut connection = connect_with_window(address, 2048).await;
        connection.send(&requests).await;
        connection
    }))
    .await
}

/// Never ends: a few answers are read on each, and more are asked for, again and again.
async fn read_slowly(connections: &mut [Connection], request: &[u8]) {
    let requests = request.repeat(5);
    loop {
        for connection in &mut *connections {
            if connection.try_bytes(1_000).await.is_ok() {
                let _ = connection.try_send(&requests).await; // it may have left
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // its pace
    }
}

#[tokio::test]
async fn strangers_who_read_their_answers_slowly_keep_nobody_out_and_a_caller_may() {
    let upstream = upstream().run().await;
    let gateway = with_tokens(&upstream, 20).await;
    let _ = known(&gateway).await;
    let caller = post(QUERY, &[BEARER], BODY);
    let mut callers = with_much_unread(&gateway.address, 1, &caller).await;
    callers[0].answered().await;
    let mut strangers = with_much_unread(&gateway.address, 19, &request()).await;
    has_connections(&gateway, 20.0).await;
    let newcomers = async {
        for _ in 0..25 {
            until("a newcomer is served", async || {
                is_answered(&gateway.address, &caller).await
            })
            .await;
        }
    };
    let request = request();
    tokio::select! {
        () = read_slowly(&mut strangers, &request) => {}
        () = newcomers => {}
    }
    assert!(evicted(&gateway, "data").await > 0.0);
    for _ in 0..200 {
        assert_eq!(callers[0].reply().await.status, 200);
    }
}

#[tokio::test]
async fn probes_are_answered_however_many_do_not_read_on_the_admin_listener() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let _crowd = with_much_unread(&gateway.admin, 300, request).await;
    until("a probe is answered", async || {
        is_answered(&gateway.admin, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await
    })
    .await;
    assert!(evicted(&gateway, "admin").await > 0.0);
}

#[tokio::test]
async fn probes_are_answered_however_many_hold_back_the_rest_on_the_admin_listener() {
    let upstream = upstream().run().await;
    for begin in [
        "",
        "G",
        "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
    ] {
        let gateway = gateway(&upstream).run().await;
        let stranger = async || {
            let mut stranger = connect(&gateway.admin).await;
            stranger.send(begin.as_bytes()).await;
            stranger
        };
        let mut crowd = join_all((0..300).map(|_| stranger())).await;
        for _ in 0..20 {
            crowd.push(stranger().await);
            assert_eq!(gateway.admin("/livez").await.status, 200, "{begin}");
        }
        assert!(evicted(&gateway, "admin").await > 0.0);
    }
}

#[tokio::test]
async fn one_beyond_the_limit_has_no_longer_for_its_head_than_for_a_place() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("server.max_connections", "1")
        .set("server.header_timeout", "\"1h\"")
        .set("server.body_timeout", "\"1h\"")
        .run()
        .await;
    let request = request();
    let (begin, end) = request.split_at(request.len() - 1);
    let mut first = gateway.connect().await;
    first.send(begin).await;
    let mut beyond = Vec::new();
    for begin in [&request[..0], &request[..1]] {
        let mut connection = gateway.connect().await;
        connection.send(begin).await;
        beyond.push(connection);
    }
    is_refused(&gateway).await;
    for mut connection in beyond {
        connection.ended().await;
    }
    first.send(end).await;
    assert_eq!(first.reply().await.status, 200);
}
