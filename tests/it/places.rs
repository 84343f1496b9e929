//! Who leaves when every place is taken?

use futures::future::join_all;

use crate::support::client::{Connection, connect_with_window, post};
use crate::support::{Gate, Gateway, connect, gateway, page, raw_success, until, upstream};

const QUERY: &str = "/package/queryOrder";
const BODY: &[u8] = br#"{"page_no":1}"#;

fn request() -> Vec<u8> {
    post(QUERY, &[], BODY)
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
async fn a_request_in_flight_never_makes_room() {
    let gate = Gate::new();
    let large = raw_success(&"x".repeat(7_000_000));
    let upstream = upstream()
        .answers_in_turn([large.clone(), page(1, 2, 105).behind(&gate)])
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("server.max_connections", "5")
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    let mut unread = connect_with_window(&gateway.address, 64 * 1024).await;
    unread.send(&request()).await;
    unread.answered().await;
    let mut waiting = gateway.connect_and_ask(r#"{"page_no":2}"#).await;
    gate.arrived().await;
    let request = request();
    let mut parts = Vec::new();
    for length in [1, request.len() - BODY.len(), request.len() - 1] {
        let mut part = gateway.connect().await;
        part.send(&request[..length]).await;
        parts.push((part, length));
    }
    has_connections(&gateway, 5.0).await;
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
    let token = "token-of-the-reader-0001";
    let gateway = gateway(&upstream)
        .caller("reader", token, &["acme"], false)
        .set("server.max_connections", "3")
        .run()
        .await;
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let ask = async |connection: &mut Connection| {
        let request = post(QUERY, &headers, BODY);
        assert_eq!(connection.exchange(&request).await.status, 200);
    };
    let mut known = gateway.connect().await;
    ask(&mut known).await;
    for _ in 0..2 {
        let stranger = gateway.connect().await;
        let mut refused = gateway.connect().await;
        assert_eq!(refused.exchange(&request()).await.status, 401);
        ask(&mut gateway.connect().await).await;
        has_left(stranger).await;
        drop(refused);
        has_connections(&gateway, 1.0).await;
    }
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = gateway.connect().await;
        ask(&mut other).await;
        others.push(other);
    }
    let stranger = gateway.connect().await;
    until("one of them makes room even for a stranger", async || {
        evicted(&gateway, "data").await == 3.0
    })
    .await;
    ask(&mut gateway.connect().await).await;
    has_left(stranger).await;
}

#[tokio::test]
async fn probes_are_answered_however_many_say_nothing_on_the_admin_listener() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut silent = join_all((0..300).map(|_| connect(&gateway.admin))).await;
    for _ in 0..20 {
        silent.push(connect(&gateway.admin).await);
        assert_eq!(gateway.admin("/livez").await.status, 200);
    }
    assert!(evicted(&gateway, "admin").await > 0.0);
}
