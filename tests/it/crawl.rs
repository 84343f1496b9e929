//! All pages of a query as one document.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::answer::{Answer, Fault, raw};
use crate::support::upstream::Request;
use crate::support::{Gate, Reply, failure, gateway, page, success, until, upstream};

const ALL: [(&str, &str); 1] = [("X-Linksfield-Pages", "all")];

fn asked(request: &Request) -> Answer {
    let asked = request.json();
    page(
        asked["page_no"].as_u64().unwrap(),
        asked["page_size"].as_u64().unwrap(),
        105,
    )
}

fn snapshot(reply: &Reply) -> &str {
    reply.header("x-linksfield-snapshot").unwrap()
}

#[tokio::test]
async fn a_whole_query_is_crawled_once_for_everybody_and_its_pages_are_kept_under_one_snapshot() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| asked(request).behind(&held))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let ask = || {
        gateway.post(
            "/package/queryOrder",
            &ALL,
            r#"{"page_size":10,"page_no":3}"#,
        )
    };
    let release = async {
        until("all wait", async || {
            gateway.metric("requests_in_flight", &[]).await >= 20.0
        })
        .await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(join_all((0..20).map(|_| ask())), release);
    for reply in &replies {
        assert_eq!((reply.status, &reply.body), (200, &replies[0].body));
    }
    let numbers: Vec<Value> = upstream
        .requests()
        .iter()
        .map(|request| request.json()["page_no"].clone())
        .collect();
    assert_eq!(
        numbers,
        (1..=11).map(Value::from).collect::<Vec<_>>(),
        "once, one after the other"
    );
    let document = replies[0].json();
    let expected =
        json!({"cur_page_no": 1, "page_size": 105, "total_count": 105, "total_pages": 1});
    assert_eq!(document["data"]["page"], expected);
    assert_eq!(document["data"]["package_order_num"], 105);
    assert_eq!(
        document["data"]["package_order"].as_array().unwrap().len(),
        105
    );
    assert_eq!(document["data"].get("sign"), None);
    assert_eq!(document["code"], "0000");

    let third = gateway.query(&json!({"page_no": 3, "page_size": 10})).await;
    assert!(third.header("cache-status").unwrap().contains("; hit"));
    assert_eq!(snapshot(&third), snapshot(&replies[0]));
    assert!(
        ask()
            .await
            .header("cache-status")
            .unwrap()
            .contains("; hit")
    );
    assert_eq!(upstream.calls(), 11);
    let reason = [("reason", "crawl")];
    assert_eq!(
        gateway.metric("upstream_requests_total", &reason).await,
        11.0
    );
}

#[tokio::test]
async fn a_page_has_a_hundred_orders_unless_the_caller_says_otherwise() {
    let upstream = upstream().script(asked).run().await;
    let gateway = gateway(&upstream).run().await;
    gateway.post("/package/queryOrder", &ALL, "{}").await;
    let bodies: Vec<_> = upstream.requests().iter().map(Request::json).collect();
    assert_eq!((bodies.len(), &bodies[1]["page_size"]), (2, &json!(100)));
}

#[tokio::test]
async fn who_is_refused_for_what_the_first_page_says_is_refused_without_a_call_as_long_as_that_is_fresh()
 {
    let upstream = upstream().script(asked).run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.max_pages", "10")
        .run()
        .await;
    for sent in ["yes", "no", "no"] {
        let reply = gateway
            .post("/package/queryOrder", &ALL, r#"{"page_size":10}"#)
            .await;
        assert_eq!(reply.problem(), (422, "too_many_pages".into(), sent.into()));
    }
    let first = gateway.query(&json!({"page_no": 1, "page_size": 10})).await;
    assert!(first.header("cache-status").unwrap().contains("; hit"));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn what_could_not_be_sent_is_no_call_of_the_day() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved); // nobody listens there yet
    let vendor = upstream().script(asked).run().await;
    let gateway = gateway(&vendor)
        .set(
            "upstream.base_url",
            &format!("\"http://{address}/cube/v4\""),
        )
        .set("upstream.limits.requests_per_day", "40")
        .set("upstream.breaker.consecutive", "1000")
        .set("upstream.breaker.min_calls", "1000")
        .run()
        .await;
    for number in 0..40 {
        assert_eq!(gateway.page(number).await.problem().0, 502);
    }
    vendor.also_at(address).await;
    let reply = gateway
        .post("/package/queryOrder", &ALL, r#"{"page_size":50}"#)
        .await;
    assert_eq!(reply.status, 200, "two more calls, of 39");
}

#[tokio::test]
async fn those_who_say_no_store_share_a_crawl_that_has_not_begun_and_it_is_not_kept() {
    let upstream = upstream().script(asked).run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .run()
        .await;
    let ask = || {
        let headers = const { &[("X-Linksfield-Pages", "all"), ("Cache-Control", "no-store")] };
        gateway.post("/package/queryOrder", headers, r#"{"page_size":50}"#)
    };
    let replies = join_all((0..10).map(|_| ask())).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let calls = upstream.calls();
    assert!(calls <= 6, "of two crawls at most: {calls}");
    let first = gateway.query(&json!({"page_no": 1, "page_size": 50})).await;
    assert!(!first.header("cache-status").unwrap().contains("; hit"));
}

#[tokio::test]
async fn a_crawl_waits_behind_a_full_queue_and_is_not_thrown_away() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| {
            let asked = request.json();
            let (number, size) = (asked["page_no"].as_u64(), asked["page_size"].as_u64());
            let answer = page(number.unwrap(), size.unwrap(), 105);
            match (number, size) {
                (Some(2), Some(50)) | (_, Some(2)) => answer.behind(&held),
                _ => answer,
            }
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .set("upstream.limits.queue", "2")
        .run()
        .await;
    let crawl = gateway.post("/package/queryOrder", &ALL, r#"{"page_size":50}"#);
    let others = async {
        gate.arrived().await; // the second page is under way
        let singles = join_all((1..=5).map(|number| gateway.page(number)));
        let release = async {
            until("the queue is full", async || {
                gateway.metric("queue_length", &[]).await >= 2.0
                    && gateway.metric("requests_in_flight", &[]).await <= 3.0
            })
            .await;
            gate.open();
        };
        tokio::join!(singles, release).0
    };
    let (crawl, others) = tokio::join!(crawl, others);
    assert_eq!(crawl.status, 200);
    let refused = others.iter().filter(|reply| reply.status == 503);
    assert_eq!(refused.count(), 3);
}

#[tokio::test]
async fn what_no_document_can_be_made_of_is_not_crawled_twice() {
    #[rustfmt::skip]
    let rows = [
        ("half a surrogate pair", r#"{"orderCode":"L1","packageName":"\ud83d"}"#, 5, (502, "upstream_invalid_answer"), 1),
        ("a key twice", r#"{"orderCode":"L1","x":1,"x":2}"#, 5, (502, "upstream_invalid_answer"), 1),
        ("other totals than orders", r#"{"orderCode":"L1"}"#, 10, (502, "upstream_invalid_answer"), 5),
        ("no codes", r#"{"orderCode":null,"deviceId":"A"}"#, 5, (200, ""), 5),
    ];
    for (name, order, total, (status, code), calls) in rows {
        let upstream = upstream()
            .script(move |request| {
                let number = request.json()["page_no"].as_u64().unwrap();
                let order = order.replace("L1", &format!("L{number}"));
                raw(200, format!(
                    r#"{{"code":"0000","success":true,"message":"x","data":{{"page":{{"cur_page_no":{number},"page_size":1,"total_count":{total},"total_pages":5}},"package_order_num":1,"package_order":[{order}]}}}}"#
                ))
            })
            .run()
            .await;
        let gateway = gateway(&upstream).run().await;
        let reply = gateway
            .post("/package/queryOrder", &ALL, r#"{"page_size":1}"#)
            .await;
        assert_eq!(reply.status, status, "{name}");
        assert_eq!(upstream.calls(), calls, "{name}");
        if status != 200 {
            assert_eq!(reply.json()["code"], code, "{name}");
        }
    }
}

#[tokio::test]
async fn a_document_that_would_be_too_large_is_refused_after_its_first_page() {
    let upstream = upstream().script(asked).run().await;
    let gateway = gateway(&upstream)
        .set("upstream.max_answer", "\"2KiB\"")
        .run()
        .await;
    let reply = gateway
        .post("/package/queryOrder", &ALL, r#"{"page_size":10}"#)
        .await;
    assert_eq!(
        reply.problem(),
        (422, "too_many_pages".into(), "yes".into())
    );
    assert!(reply.json()["detail"].as_str().unwrap().contains("2048"));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn an_order_that_stands_on_one_page_twice_has_not_moved() {
    let upstream = upstream()
        .script(|request| {
            let number = request.json()["page_no"].as_u64().unwrap();
            let orders = [["L1", "L1"], ["L2", "L3"]][usize::try_from(number).unwrap() - 1];
            let orders = orders.map(|code| json!({ "orderCode": code }));
            success(&json!({
                "page": {"cur_page_no": number, "page_size": 2, "total_count": 4, "total_pages": 2},
                "package_order": orders,
            }))
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let reply = gateway
        .post("/package/queryOrder", &ALL, r#"{"page_size":2}"#)
        .await;
    assert_eq!(
        reply.json()["data"]["package_order"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn who_began_a_crawl_is_told_its_age_too() {
    let upstream = upstream()
        .script(|request| asked(request).after(Duration::from_millis(400)))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let reply = gateway
        .post("/package/queryOrder", &ALL, r#"{"page_size":35}"#)
        .await;
    let age: u64 = reply.header("age").unwrap().parse().unwrap();
    assert!(age >= 1, "three calls of 0.4 s");
    assert_eq!(gateway.page(1).await.header("age"), None);
}

#[tokio::test]
async fn the_first_page_decides_whether_the_others_are_fetched() {
    let upstream = upstream().script(asked).run().await;
    let limited = gateway(&upstream)
        .set("routes./package/queryOrder.max_pages", "10")
        .run()
        .await;
    let ask = r#"{"page_size":10}"#;
    let reply = limited.post("/package/queryOrder", &ALL, ask).await;
    assert_eq!(
        reply.problem(),
        (422, "too_many_pages".into(), "yes".into())
    );
    assert_eq!(upstream.calls(), 1);

    let poor = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "100")
        .run()
        .await;
    let reply = poor.post("/package/queryOrder", &ALL, ask).await; // 10 more of 89: a tenth is for commands
    assert_eq!(
        reply.problem(),
        (429, "quota_exhausted".into(), "yes".into())
    );
    assert!(reply.json()["detail"].as_str().unwrap().contains("89"));
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_crawl_begins_again_once_if_the_orders_move_and_gives_up_then() {
    for (moves, expected) in [(1, 200), (2, 503)] {
        let total = Arc::new(AtomicU64::new(25));
        let upstream = upstream()
            .script(move |request| {
                let number = request.json()["page_no"].as_u64().unwrap();
                if number == 2 && total.load(Ordering::SeqCst) < 25 + moves {
                    total.fetch_add(1, Ordering::SeqCst);
                }
                page(number, 10, total.load(Ordering::SeqCst))
            })
            .run()
            .await;
        let gateway = gateway(&upstream).run().await;
        let reply = gateway
            .post("/package/queryOrder", &ALL, r#"{"page_size":10}"#)
            .await;
        assert_eq!(reply.status, expected);
        if expected == 200 {
            assert_eq!(
                reply.json()["data"]["package_order"]
                    .as_array()
                    .unwrap()
                    .len(),
                26
            );
            assert_eq!(upstream.calls(), 5);
        } else {
            assert_eq!(reply.problem(), (503, "pages_moved".into(), "yes".into()));
            assert_eq!(upstream.calls(), 4);
        }
    }
}

#[tokio::test]
async fn what_fails_in_mid_crawl_is_told_and_nothing_is_kept() {
    let rows = [
        (failure("4711"), 200),
        (raw(503, failure("x").body), 503),
        (raw(200, "<html>"), 502),
        (success(&json!({})), 502), // no page: it must not pass as all of them
        (page(2, 50, 105).header("Content-Encoding", "gzip"), 502),
        (page(2, 50, 105).fault(Fault::Cut), 502),
    ];
    for (sent, expected) in rows {
        let answer = sent.clone();
        let upstream = upstream()
            .script(move |request| match request.json()["page_no"].as_u64() {
                Some(2) => answer.clone(),
                _ => asked(request),
            })
            .run()
            .await;
        let gateway = gateway(&upstream).run().await;
        let reply = gateway
            .post("/package/queryOrder", &ALL, r#"{"page_size":50}"#)
            .await;
        assert_eq!(reply.status, expected);
        if expected != 502 {
            assert_eq!(reply.body, sent.body);
        }
        let first = gateway.query(&json!({"page_no": 1, "page_size": 50})).await;
        assert!(!first.header("cache-status").unwrap().contains("; hit"));
    }
}

#[tokio::test]
async fn single_queries_pass_a_crawl() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .tenant("P2", "secret-2")
        .tenant("P3", "secret-3")
        .script(move |request| match request.json()["page_size"].as_u64() {
            Some(50) => asked(request).behind(&held),
            _ => asked(request),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "secret-2")
        .tenant("third", "P3", "secret-3")
        .set("tenants.acme.default", "true")
        .run()
        .await;
    let mut crawls = Vec::new();
    for access_code in ["P000270", "P2", "P3"] {
        let body = json!({"page_size": 50, "access_code": access_code}).to_string();
        let mut connection = gateway.connect().await;
        let request = crate::support::client::post("/package/queryOrder", &ALL, body.as_bytes());
        connection.send(&request).await;
        crawls.push(connection);
    }
    gate.arrived().await;
    until("the others wait for the one call", async || {
        gateway.metric("queue_length", &[]).await == 2.0
    })
    .await;
    for number in 1..=5 {
        assert_eq!(
            gateway.page(number).await.status,
            200,
            "two connections are left for those who wait"
        );
    }
    gate.open();
    for connection in &mut crawls {
        assert_eq!(connection.reply().await.status, 200);
    }
}

#[tokio::test]
async fn all_pages_can_be_asked_of_pages_only() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let unpaged = "/package/orderPackage";
    let reply = gateway.post(unpaged, &ALL, "{}").await;
    assert_eq!(reply.problem(), (400, "invalid_header".into(), "no".into()));
    let some = [("X-Linksfield-Pages", "some")];
    let reply = gateway.post("/package/queryOrder", &some, "{}").await;
    assert_eq!(reply.problem(), (400, "invalid_header".into(), "no".into()));
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn pages_of_which_nobody_can_tell_whether_they_are_whole_make_a_document_that_is_not_kept() {
    let upstream = upstream()
        .script(|request| asked(request).fault(Fault::CloseDelimited))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    for _ in 0..2 {
        let reply = gateway
            .post("/package/queryOrder", &ALL, r#"{"page_size":50}"#)
            .await;
        let orders = reply.json()["data"]["package_order"].clone();
        assert_eq!(orders.as_array().unwrap().len(), 105);
        let status = reply.header("cache-status").unwrap();
        assert!(status.ends_with("detail=unframed"), "{status}");
    }
    assert_eq!(upstream.calls(), 6);
}

#[tokio::test]
async fn a_vendor_that_answers_another_page_than_it_was_asked_for_is_not_believed() {
    let upstream = upstream()
        .script(|request| match request.json()["page_no"].as_u64() {
            Some(2) => page(3, 50, 105),
            _ => asked(request),
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let reply = gateway
        .post("/package/queryOrder", &ALL, r#"{"page_size":50}"#)
        .await;
    assert_eq!(reply.problem(), (503, "pages_moved".into(), "yes".into()));
}

#[tokio::test]
async fn an_old_document_stands_in_where_a_crawl_fails_but_not_for_too_many_pages() {
    let total = Arc::new(AtomicU64::new(105));
    let told = total.clone();
    let upstream = upstream()
        .script(move |request| match told.load(Ordering::SeqCst) {
            0 => raw(503, failure("x").body),
            total => page(request.json()["page_no"].as_u64().unwrap(), 50, total),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .set("routes./package/queryOrder.max_pages", "3")
        .run()
        .await;
    let ask = || gateway.post("/package/queryOrder", &ALL, r#"{"page_size":50}"#);
    let first = ask().await;
    total.store(0, Ordering::SeqCst);
    let second = ask().await;
    assert_eq!((second.status, &second.body), (200, &first.body));
    let told = second.header("cache-status").unwrap();
    assert!(told.contains("; fwd=stale; fwd-status=503"), "{told}");
    assert_eq!(snapshot(&second), snapshot(&first));
    total.store(201, Ordering::SeqCst);
    assert_eq!(
        ask().await.problem(),
        (422, "too_many_pages".into(), "yes".into())
    );
}

#[tokio::test]
async fn a_crawl_ends_at_its_time() {
    for answer in [
        page(1, 2, 105).after(Duration::from_millis(30)),
        page(1, 2, 105).fault(Fault::Hang), // its last call is not waited for either
    ] {
        ends_at_its_time(answer).await;
    }
}

async fn ends_at_its_time(answer: Answer) {
    let upstream = upstream()
        .script(move |request| {
            let number = request.json()["page_no"].as_u64().unwrap();
            let body = page(number, 2, 105).body;
            Answer {
                body,
                ..answer.clone()
            }
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.crawl_timeout", "\"100ms\"")
        .run()
        .await;
    let reply = gateway
        .post("/package/queryOrder", &ALL, r#"{"page_size":2}"#)
        .await;
    let (status, code, _) = reply.problem();
    assert_eq!((status, &*code), (504, "upstream_timeout"));
    until("the crawl has ended", async || {
        gateway.metric("fills_in_flight", &[]).await == 0.0
    })
    .await;
    assert!(upstream.calls() < 10);
}

#[tokio::test]
async fn one_query_of_a_tenant_is_crawled_at_a_time_so_that_few_are_in_memory() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| asked(request).behind(&held))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let crawl = async |device: u64| {
        let body = json!({"device_id": device, "page_size": 50}).to_string();
        gateway.post("/package/queryOrder", &ALL, body).await
    };
    let release = async {
        until("all wait", async || {
            gateway.metric("requests_in_flight", &[]).await >= 3.0
        })
        .await;
        gate.open();
    };
    let (first, second, third, ()) = tokio::join!(crawl(1), crawl(2), crawl(3), release);
    assert_eq!([first.status, second.status, third.status], [200; 3]);
    let devices: Vec<Value> = upstream
        .requests()
        .iter()
        .map(|request| request.json()["device_id"].clone())
        .collect();
    let runs = devices.chunk_by(|a, b| a == b).map(<[Value]>::len);
    assert_eq!(runs.collect::<Vec<_>>(), [3, 3, 3], "one after the other");
}
