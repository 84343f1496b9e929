//! Pages belong together, and reads see writes: what a caller in mid-crawl and a caller who has
//! just ordered see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::support::{Gate, Reply, gateway, page, success, until, upstream};

fn snapshot(reply: &Reply) -> &str {
    reply.header("x-linksfield-snapshot").unwrap()
}

fn is_hit(reply: &Reply) -> bool {
    reply.header("cache-status").unwrap().contains("; hit")
}

#[tokio::test]
async fn the_pages_of_a_query_carry_one_id_until_one_contradicts() {
    let total = Arc::new(AtomicU64::new(105));
    let told = total.clone();
    let upstream = upstream()
        .script(move |request| {
            let asked = request.json();
            let [number, size] = ["page_no", "page_size"].map(|key| asked[key].as_u64().unwrap());
            page(number, size, told.load(Ordering::SeqCst))
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let pages = [
        gateway.page(1).await,
        gateway.page(2).await,
        gateway.page(53).await,
    ];
    assert!(
        pages
            .iter()
            .all(|page| snapshot(page) == snapshot(&pages[0]))
    );
    let other = gateway.query(&json!({"page_no": 1, "page_size": 3})).await;
    assert_ne!(
        snapshot(&other),
        snapshot(&pages[0]),
        "another size makes other pages"
    );

    total.store(106, Ordering::SeqCst); // somebody orders elsewhere
    assert_eq!(
        snapshot(&gateway.page(2).await),
        snapshot(&pages[0]),
        "from memory"
    );
    let third = gateway.page(3).await;
    assert_ne!(
        snapshot(&third),
        snapshot(&pages[0]),
        "in mid-crawl the id changes"
    );
    let again = gateway.page(1).await;
    assert!(!is_hit(&again), "the old pages are not fresh any more");
    assert_eq!(snapshot(&again), snapshot(&third));
}

#[tokio::test]
async fn an_unpaged_query_has_no_snapshot() {
    let upstream = upstream().answers(success(&json!({"x": 1}))).run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.pages", "false")
        .run()
        .await;
    assert_eq!(gateway.page(1).await.header("x-linksfield-snapshot"), None);
}

#[tokio::test]
async fn an_order_spares_what_names_another_device_or_order() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let rows = [
        (
            r#"{"device_id":"A"}"#,
            r#"{"page_no":1,"device_id":"B"}"#,
            true,
        ),
        (
            r#"{"device_id":"A"}"#,
            r#"{"page_no":1,"device_id":"A"}"#,
            false,
        ),
        (r#"{"device_id":"A"}"#, r#"{"page_no":1}"#, false),
        (
            r#"{"device_id":"A"}"#,
            r#"{"page_no":1,"order_id":"L1"}"#,
            false,
        ),
        (
            r#"{"deviceList":["A","B"]}"#,
            r#"{"page_no":1,"device_id":"C"}"#,
            false,
        ),
        (
            r#"{"order_id":"L1"}"#,
            r#"{"page_no":1,"order_id":"L2"}"#,
            true,
        ),
        ("{}", r#"{"page_no":1,"order_id":"L2"}"#, false),
    ];
    let query = |body| gateway.post("/package/queryOrder", &[], body);
    for (command, asked, spared) in rows {
        for (path, spared) in [
            ("/package/orderPackage", spared),
            ("/not/configured", false),
        ] {
            query(asked).await;
            assert!(is_hit(&query(asked).await));
            assert_eq!(gateway.post(path, &[], command).await.status, 200);
            assert_eq!(
                is_hit(&query(asked).await),
                spared,
                "{path} {command} {asked}"
            );
        }
    }
}

#[tokio::test]
async fn what_was_fetched_before_a_command_has_settled_is_gone_once_it_has() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"1h\"")
        .set("routes./package/orderPackage.settle", "\"300ms\"")
        .run()
        .await;
    gateway.order().await;
    let first = gateway.page(1).await;
    assert!(is_hit(&gateway.page(1).await), "until then it serves");
    until("it is fetched again", async || {
        !is_hit(&gateway.page(1).await)
    })
    .await;
    assert_ne!(snapshot(&gateway.page(1).await), snapshot(&first));
    assert!(is_hit(&gateway.page(1).await), "for good");
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn an_old_page_does_not_stand_in_once_a_command_was_sent() {
    let gate = Gate::new();
    let held = gate.clone();
    let fails = Arc::new(AtomicU64::new(0));
    let failing = fails.clone();
    let upstream = upstream()
        .script(move |request| match request.path() {
            "/cube/v4/package/orderPackage" => success(&json!({})).behind(&held),
            _ if failing.load(Ordering::SeqCst) == 1 => crate::support::answer::raw(503, "down"),
            _ => page(1, 2, 105),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .run()
        .await;
    gateway.page(1).await;
    fails.store(1, Ordering::SeqCst);
    assert_eq!(gateway.page(1).await.status, 200, "it stands in");
    let order = gateway.order();
    let look = async {
        gate.arrived().await;
        let reply = gateway.page(1).await;
        gate.open();
        reply
    };
    let (_, reply) = tokio::join!(order, look);
    assert_eq!(reply.status, 502, "no page of before the order");
}
