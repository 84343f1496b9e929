//! The vendor's limits, counted as the vendor would.

use futures::future::join_all;
use serde_json::json;
use std::time::Duration;

use crate::support::answer::{Fault, raw};
use crate::support::{Gate, failure, gateway, page, success, until, upstream};

#[tokio::test]
async fn there_are_never_more_connections_than_allowed_even_while_calls_fail() {
    let faults = [
        None,
        Some(Fault::Drop),
        Some(Fault::Reset),
        Some(Fault::Cut),
        Some(Fault::CloseDelimited),
        Some(Fault::CloseAfter),
    ];
    let upstream = upstream()
        .script(move |request| {
            let number = request.json()["page_no"].as_u64().unwrap();
            let mut answer = page(number, 2, 105).after(Duration::from_millis(number % 7));
            answer.fault = faults[usize::try_from(number).unwrap() % faults.len()];
            answer
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.breaker.min_calls", "1000")
        .run()
        .await;
    let replies = join_all((1..=120).map(|number| gateway.page(number))).await;
    assert!(
        replies
            .iter()
            .all(|reply| [200, 502].contains(&reply.status))
    );
    assert!(
        upstream.highest_connections() <= 3,
        "{}",
        upstream.highest_connections()
    );
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for number in 1..=10 {
        gateway.page(number).await;
    }
    assert_eq!((upstream.calls(), upstream.connections_opened()), (10, 1));
}

#[tokio::test]
async fn in_no_second_are_there_more_calls_than_allowed() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_second", "6")
        .set("upstream.limits.instances", "2")
        .set("upstream.limits.connections", "20")
        .run()
        .await;
    let replies = join_all((1..=8).map(|number| gateway.page(number))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(upstream.calls(), 8);
    assert!(
        upstream.highest_calls_in_any_second() <= 3,
        "{}",
        upstream.highest_calls_in_any_second()
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .set("upstream.limits.queue", "1")
        .run()
        .await;
    let running = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
    gate.arrived().await;
    let waiting = gateway.connect_and_ask(r#"{"page_no":2}"#).await;
    until("the second waits", async || {
        gateway.metric("queue_length", &[]).await == 1.0
    })
    .await;
    let refused = gateway.query(&json!({"page_no": 3})).await;
    assert_eq!(refused.problem(), (503, "overloaded".into(), "no".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    gate.open();
    for mut connection in [running, waiting] {
        assert_eq!(connection.reply().await.status, 200);
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn queries_leave_the_days_reserve_to_commands_on_configured_paths() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "5")
        .set("upstream.limits.command_reserve", "0.4")
        .run()
        .await;
    for number in 1..=3 {
        assert_eq!(gateway.page(number).await.status, 200);
    }
    let refused = gateway.page(4).await;
    let problem = (429, "quota_exhausted".into(), "no".into());
    assert_eq!(refused.problem(), problem);
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((86_300..=86_400).contains(&retry_after), "{retry_after}");
    assert_eq!(gateway.page(1).await.status, 200, "memory costs nothing");
    let unlisted = gateway.post("/sms/send", &[], "{}").await;
    assert_eq!(unlisted.problem(), problem);
    for expected in [200, 200, 429] {
        assert_eq!(gateway.order().await.status, expected);
    }
    assert_eq!(upstream.calls(), 5);
}

#[tokio::test]
async fn a_vendor_that_throttles_is_left_alone_for_as_long_as_it_says() {
    let upstream = upstream()
        .answers(raw(429, failure("1").body).header("Retry-After", "30"))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    assert_eq!(gateway.page(1).await.status, 429);
    let refused = gateway.page(2).await; // it waits for 19 s
    assert_eq!(refused.problem(), (503, "overloaded".into(), "no".into()));
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((10..=12).contains(&retry_after), "{retry_after}");
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn as_the_days_budget_shrinks_less_is_asked_and_commands_go_last() {
    let upstream = upstream()
        .script(|request| match request.path() {
            "/cube/v4/package/queryOrder" => {
                page(request.json()["page_no"].as_u64().unwrap_or(1), 2, 105)
            }
            _ => success(&json!({"x": 1})),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "22")
        .set("upstream.limits.command_reserve", "0.09") // two of them
        .set("routes./package/queryOrder.fresh_for", "\"1h\"")
        .set(
            "routes./stale",
            "{ kind = \"query\", fresh_for = \"0s\", stale_for = \"1h\" }",
        )
        .set(
            "routes./old",
            "{ kind = \"query\", fresh_for = \"0s\", stale_for = \"0s\", stale_if_error = \"1h\" }",
        )
        .run()
        .await;
    let ask = async |path, cache_control| {
        let reply = gateway
            .post(path, &[("Cache-Control", cache_control)], "{}")
            .await;
        let status = reply.header("cache-status").unwrap_or_default().to_owned();
        (
            reply.status,
            status.split("; ").nth(1).unwrap_or_default().to_owned(),
        )
    };
    let hit = || (200, "hit".to_owned());
    let mut numbers = 1..;
    let mut use_up_to = async |calls: usize| {
        while upstream.calls() < calls {
            gateway.page(numbers.next().unwrap()).await;
        }
        gateway.metric("thrift_level", &[]).await
    };
    ask("/stale", "").await;
    ask("/old", "").await;
    let forced = || ask("/package/queryOrder", "no-cache");
    assert_eq!(forced().await.0, 200);

    assert_eq!(use_up_to(15).await, 1.0); // five of twenty are left
    assert_eq!(ask("/stale", "").await, hit());
    assert_eq!(forced().await, (200, "fwd=request".to_owned()));
    assert_eq!(upstream.calls(), 16, "no background refresh");
    assert_eq!(use_up_to(17).await, 2.0);
    assert_eq!(ask("/old", "").await, hit(), "stale for longer");
    assert_eq!(upstream.calls(), 17);
    assert_eq!(use_up_to(19).await, 3.0);
    let refused = gateway
        .post(
            "/package/queryOrder",
            &[("Cache-Control", "no-cache")],
            "{}",
        )
        .await;
    assert_eq!(
        refused.problem(),
        (429, "quota_exhausted".into(), "no".into())
    );
    assert_eq!(
        gateway.post("/package/queryOrder", &[], "{}").await.status,
        200
    );
    assert_eq!(use_up_to(20).await, 4.0);
    assert_eq!(gateway.page(99).await.problem().1, "quota_exhausted");
    assert_eq!(
        [gateway.order().await.status, gateway.order().await.status],
        [200, 200]
    );
    assert_eq!(gateway.order().await.problem().1, "quota_exhausted");
    let remaining = |window| [("window", window)];
    assert_eq!(
        gateway.metric("quota_remaining", &remaining("day")).await,
        0.0
    );
    assert_eq!(gateway.metric("quota_limit", &remaining("day")).await, 22.0);
    assert_eq!(gateway.metric("quota_assumed", &[]).await, 1.0);
}
