//! SIGTERM loses no request.

use crate::support::client::post;
use crate::support::{Gate, connect, gateway, page, success, until, upstream};

const BODY: &[u8] = br#"{"page_no":1}"#;

#[tokio::test]
async fn what_is_in_flight_is_finished_and_the_exit_code_is_0() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let mut gateway = gateway(&upstream).run().await;
    let mut query = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
    gate.arrived().await;
    let mut command = gateway.connect().await;
    command
        .send(&post("/package/orderPackage", &[], b"{}"))
        .await;
    gate.arrived().await;
    let mut half = gateway.connect().await;
    let request = post("/package/queryOrder", &[], BODY);
    half.send(&request[..20]).await;
    let mut idle = gateway.connect().await;
    until("all have connected", async || {
        gateway.metric("connections", &[]).await == 4.0
    })
    .await;

    gateway.signal("TERM");
    idle.ended().await;
    gate.open();
    for connection in [&mut query, &mut command] {
        let reply = connection.reply().await;
        assert_eq!(
            (reply.status, reply.header("connection")),
            (200, Some("close"))
        );
        connection.ended().await;
    }
    half.send(&request[20..]).await;
    assert_eq!(
        half.reply().await.status,
        200,
        "a request of which a byte was read is answered"
    );
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(gateway.output().contains("drained"));
}

#[tokio::test]
async fn for_the_delay_it_is_not_ready_and_still_accepts() {
    let upstream = upstream().run().await;
    let mut gateway = gateway(&upstream)
        .set("server.drain_delay", "\"1s\"")
        .run()
        .await;
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    gateway.signal("TERM");
    until("not ready", async || {
        gateway.admin("/readyz").await.status == 503
    })
    .await;
    assert_eq!(gateway.admin("/livez").await.status, 200);
    let reply = gateway.page(1).await;
    assert_eq!(
        (reply.status, reply.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(
        tokio::net::TcpStream::connect(&gateway.address)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_command_whose_caller_has_left_is_waited_for() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&serde_json::json!({})).behind(&gate))
        .run()
        .await;
    let mut gateway = gateway(&upstream).run().await;
    let mut leaving = gateway.connect().await;
    leaving
        .send(&post(
            "/package/orderPackage",
            &[("X-Request-Id", "leaving")],
            b"{}",
        ))
        .await;
    gate.arrived().await;
    drop(leaving);
    gateway.exchange_of("leaving").await;
    gateway.signal("TERM");
    until("not listening", async || {
        tokio::net::TcpStream::connect(&gateway.address)
            .await
            .is_err()
    })
    .await;
    gate.open();
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(
        gateway
            .output()
            .contains("command finished without its caller"),
        "{}",
        gateway.output()
    );
}

#[tokio::test]
async fn the_drain_is_bounded() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let mut gateway = gateway(&upstream)
        .set("server.drain_timeout", "\"200ms\"")
        .run()
        .await;
    let _waiting = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
    gate.arrived().await;
    let mut scrape = connect(&gateway.admin).await;
    scrape.send(b"GET /metrics HT").await; // an operator's connection holds nobody up either
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(gateway.output().contains("drain_timeout has passed"));
}

#[tokio::test]
async fn an_answer_that_its_caller_still_reads_is_written_to_its_end() {
    let large = crate::support::raw_success(&"x".repeat(8 << 20));
    for (path, idle) in [
        ("/package/queryOrder", "\"1h\""),
        ("/package/orderPackage", "\"1h\""),
        ("/package/orderPackage", "\"50ms\""),
    ] {
        let upstream = upstream().answers(large.clone()).run().await;
        let mut gateway = gateway(&upstream)
            .set("upstream.max_answer", "\"16MiB\"")
            .set("server.idle_timeout", idle)
            .set("routes./package/queryOrder.pages", "false")
            .run()
            .await;
        let mut slow = gateway.connect().await;
        slow.send(&post(path, &[], b"{}")).await;
        slow.answered().await;
        gateway.signal("TERM");
        until("not listening", async || {
            tokio::net::TcpStream::connect(&gateway.address)
                .await
                .is_err()
        })
        .await;
        assert_eq!(slow.reply().await.body, large.body, "{path}");
        assert_eq!(gateway.exit().await.code(), Some(0));
        assert!(gateway.output().contains("drained"));
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_after_a_miss_holds_nobody_up() {
    let slow = page(1, 2, 105).after(std::time::Duration::from_millis(20));
    let upstream = upstream().answers(slow).run().await;
    let mut gateway = gateway(&upstream)
        .set("server.drain_timeout", "\"1h\"")
        .run()
        .await;
    let mut idle = Vec::new();
    for number in 0..20 {
        let mut connection = gateway.connect().await;
        let body = format!(r#"{{"page_no":{number}}}"#);
        let path = ["/package/queryOrder", "/package/orderPackage"][number % 2];
        let request = post(path, &[], body.as_bytes());
        assert_eq!(connection.exchange(&request).await.status, 200);
        idle.push(connection);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_command_that_the_end_cuts_off_is_recorded_as_unknown() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&serde_json::json!({})).behind(&gate))
        .run()
        .await;
    let mut gateway = gateway(&upstream)
        .set("server.drain_timeout", "\"100ms\"")
        .run()
        .await;
    let mut command = gateway.connect().await;
    command
        .send(&post("/package/orderPackage", &[], b"{}"))
        .await;
    gate.arrived().await;
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
    let cut_off = |line: &serde_json::Value| {
        line["outcome"] == "cut_off" && line["sent"] == "unknown" && line["level"] == "WARN"
    };
    until("recorded", async || gateway.log().iter().any(cut_off)).await;
}
