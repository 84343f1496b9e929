//! The brakes that docs/runbook.md opens with, in its own lines.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::json;

use crate::support::answer::raw;
use crate::support::gateway::Gateway;
use crate::support::{Gate, SECRET, Upstream, failure, gateway, page, success, until, upstream};

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// The block of the brake with this title: what is between its fences.
fn block(title: &str) -> &'static str {
    let (_, after) = RUNBOOK
        .split_once(&format!("\n**{title}.**"))
        .unwrap_or_else(|| panic!("the runbook has the brake {title:?}"));
    let block = after.split("```").nth(1).unwrap();
    block.split_once('\n').unwrap().1
}

/// Writes the line of a brake into the configuration, and has it read.
async fn brake(gateway: &Gateway, title: &str) {
    let text = block(title);
    let lines: Vec<_> = text.lines().collect();
    let [section, line] = lines[..] else {
        panic!("one line in its section: {text}")
    };
    let section = section.trim_matches(['[', ']']).replace('"', "");
    let (key, value) = line.split_once(" = ").unwrap();
    gateway.rewrite(&format!("{section}.{key}"), value);
    let reply = gateway.reload().await; // the system may have told of the change before
    assert_eq!(reply.status, 200, "{title}");
    assert_eq!(reply.json()["needs_restart"], json!([]), "{title}");
}

/// Puts back what was before, and has it read.
async fn release(gateway: &Gateway, before: &str) {
    gateway.replace("gateway.toml", before);
    assert_eq!(gateway.reload().await.status, 200);
}

fn configuration(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.folder().join("gateway.toml")).unwrap()
}

const ORDER: &str = r#"{"device_id":"89860012018111220455"}"#;

/// What an order of this tenant gets: its status, and the code of an error.
async fn order(gateway: &Gateway, tenant: &str, path: &str) -> (u16, String) {
    let reply = gateway
        .post(path, &[("x-linksfield-tenant", tenant)], ORDER)
        .await;
    let code = reply.json()["code"].as_str().unwrap().to_owned();
    (reply.status, code)
}

fn error(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn commands_of_a_tenant_a_route_or_everybody_are_refused_and_queries_are_not() {
    let upstream = upstream()
        .tenant("P2", SECRET)
        .answers(success(&json!({})))
        .run()
        .await;
    let (ordering, unlisted) = ("/package/orderPackage", "/not/configured");
    let taken = error(200, "0000");
    let (disabled, refused) = (error(403, "commands_disabled"), error(403, "route_refused"));
    let rows = [
        (
            "Refuse the commands of a tenant",
            [&disabled, &taken, &disabled],
        ),
        ("Refuse a route", [&refused, &refused, &taken]),
        (
            "Refuse the commands of everybody",
            [&disabled, &disabled, &disabled],
        ),
    ];
    for (title, expected) in rows {
        let gateway = gateway(&upstream).tenant("bolt", "P2", SECRET).run().await;
        let asked = async || {
            [
                order(&gateway, "acme", ordering).await,
                order(&gateway, "bolt", ordering).await,
                order(&gateway, "acme", unlisted).await,
            ]
        };
        let before = configuration(&gateway);
        assert_eq!(asked().await.each_ref(), [&taken; 3]);
        brake(&gateway, title).await;
        assert_eq!(asked().await.each_ref(), expected, "{title}");
        let query = gateway
            .post(
                "/package/queryOrder",
                &[("x-linksfield-tenant", "acme")],
                "{}",
            )
            .await;
        assert_eq!(query.status, 200, "{title}");
        release(&gateway, &before).await;
        assert_eq!(asked().await.each_ref(), [&taken; 3], "{title}");
    }
}

#[tokio::test]
async fn with_calls_paused_memory_answers_and_nothing_is_sent() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .run()
        .await;
    let before = configuration(&gateway);
    let first = gateway.page(1).await;
    assert_eq!((first.status, upstream.calls()), (200, 1));

    brake(&gateway, "Serve from memory only").await;
    let old = gateway.page(1).await;
    assert_eq!((old.status, &old.body), (200, &first.body));
    let status = old.header("cache-status").unwrap();
    assert!(status.contains("fwd=stale") && status.contains("detail=upstream_paused"));
    for reply in [gateway.page(2).await, gateway.order().await] {
        let problem = reply.json();
        let told = (reply.status, &problem["code"], &problem["sent"]);
        assert_eq!(told, (503, &json!("upstream_paused"), &json!("no")));
    }
    assert_eq!(upstream.calls(), 1);

    release(&gateway, &before).await;
    assert_eq!(gateway.page(2).await.status, 200);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn the_rate_is_lowered() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    brake(&gateway, "Lower the rate").await;
    let limit = gateway.metric("quota_limit", &[("window", "second")]).await;
    let allowed = gateway.metric("quota_allowed_rate", &[]).await;
    assert_eq!((limit, allowed), (2.0, 2.0));
}

#[tokio::test]
async fn pages_are_dropped() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    gateway.page(1).await;
    let command = block("Drop pages from memory");
    let path = command.split("6181").nth(1).unwrap();
    let path = path.split_whitespace().next().unwrap();
    let body = command.split('\'').rev().nth(1).unwrap();
    let reply = gateway.post_to_admin(path, &[], body).await;
    assert_eq!(reply.json()["purged"], 1);
    gateway.page(1).await;
    assert_eq!(upstream.calls(), 2);
}

const TOKEN: &str = "a-token-of-a-shop";
const BEARER: (&str, &str) = ("Authorization", "Bearer a-token-of-a-shop");

#[tokio::test]
async fn once_a_reload_has_answered_no_order_that_waits_is_sent() {
    const LISTED: &str = "/package/orderPackage";
    let rows = [
        ("server.commands", "false", LISTED, "commands_disabled"),
        (
            "tenants.acme.commands",
            "false",
            LISTED,
            "commands_disabled",
        ),
        (
            "callers.shop.commands",
            "false",
            LISTED,
            "commands_forbidden",
        ),
        (
            "routes./package/orderPackage.kind",
            "\"refuse\"",
            LISTED,
            "route_refused",
        ),
        (
            "server.unlisted_paths",
            "\"refuse\"",
            "/not/configured",
            "unlisted_path",
        ),
        ("upstream.paused", "true", LISTED, "upstream_paused"),
    ];
    for (key, value, path, code) in rows {
        let gate = Gate::new();
        let upstream = upstream()
            .answers(success(&json!({})).behind(&gate))
            .run()
            .await;
        let gateway = gateway(&upstream)
            .caller("shop", TOKEN, &["acme"], true)
            .set("routes./package/orderPackage.invalidates", "[]")
            .run()
            .await;
        let orders = join_all((0..16).map(|number| {
            let id = format!("order-{number}");
            let (gateway, key) = (&gateway, format!("key-{}", number / 2 * 2));
            async move {
                // Some have a key, and some wait for another one under the same key.
                let headers = [BEARER, ("x-request-id", &id), ("idempotency-key", &key)];
                let headers = if number < 8 {
                    &headers[..]
                } else {
                    &headers[..2]
                };
                gateway.post(path, headers, ORDER).await
            }
        }));
        let brake = async {
            for _ in 0..3 {
                gate.arrived().await;
            }
            until("all that came wait or are under way", async || {
                gateway.metric("requests_in_flight", &[]).await == 16.0
                    && gateway.metric("queue_length", &[]).await >= 8.0
            })
            .await;
            gateway.rewrite(key, value);
            let reply = gateway.reload().await;
            assert_eq!(reply.status, 200, "{key}");
            let on = key.replace("/package/orderPackage", "\"/package/orderPackage\"");
            assert_eq!(reply.json()["brakes"], json!([on]));
            assert_eq!(upstream.calls(), 3, "{key}");
            until("those that waited have gone", async || {
                gateway.metric("queue_length", &[]).await == 0.0
            })
            .await;
            gate.open();
        };
        let (replies, ()) = tokio::join!(orders, brake);
        assert_eq!(upstream.calls(), 3, "{key}");
        let (taken, refused): (Vec<_>, Vec<_>) =
            replies.iter().partition(|reply| reply.status == 200);
        assert!((3..=6).contains(&taken.len()), "{key}: {}", taken.len());
        for reply in refused {
            let (_, told, sent) = reply.problem();
            assert_eq!((&*told, &*sent), (code, "no"), "{key}");
        }
        assert_eq!(
            gateway.metric("commands_unknown_outcome_total", &[]).await,
            0.0
        );
        gateway.rewrite(key, if value == "false" { "true" } else { "false" });
    }
}

/// Answers with pages, these behind the gate.
async fn pages(gate: &Gate, is_held: fn(u64) -> bool) -> Upstream {
    let held = gate.clone();
    upstream()
        .script(move |request| {
            let number = request.json()["page_no"].as_u64().unwrap();
            let answer = page(number, 2, 105);
            if is_held(number) {
                answer.behind(&held)
            } else {
                answer
            }
        })
        .run()
        .await
}

#[tokio::test]
async fn a_crawl_asks_for_no_further_page_once_calls_are_paused() {
    let gate = Gate::new();
    let upstream = pages(&gate, |number| number == 3).await;
    let gateway = gateway(&upstream).run().await;
    let all = [("x-linksfield-pages", "all")];
    let crawl = gateway.post("/package/queryOrder", &all, r#"{"page_size":2}"#);
    let brake = async {
        gate.arrived().await;
        gateway.rewrite("upstream.paused", "true");
        assert_eq!(gateway.reload().await.status, 200);
        gate.open();
    };
    let (reply, ()) = tokio::join!(crawl, brake);
    assert_eq!(
        (reply.status, reply.problem().1),
        (503, "upstream_paused".into())
    );
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn a_query_that_waits_gets_its_old_page_once_calls_are_paused_and_not_if_its_route_is_refused()
 {
    for (key, value, status, told) in [
        ("upstream.paused", "true", 200, "upstream_paused"),
        (
            "routes./package/queryOrder.kind",
            "\"refuse\"",
            403,
            "route_refused",
        ),
    ] {
        let gate = Gate::new();
        let upstream = pages(&gate, |number| number != 1).await;
        let gateway = gateway(&upstream)
            .set("routes./package/queryOrder.fresh_for", "\"0s\"")
            .set("routes./package/queryOrder.stale_for", "\"0s\"")
            .set("routes./package/queryOrder.stale_patience", "\"1h\"")
            .run()
            .await;
        let old = gateway.page(1).await;
        let others = join_all((2..5).map(|number| gateway.page(number)));
        let waits = async {
            for _ in 0..3 {
                gate.arrived().await;
            }
            gateway.page(1).await
        };
        let brake = async {
            until("one waits", async || {
                gateway.metric("queue_length", &[]).await == 1.0
            })
            .await;
            gateway.rewrite(key, value);
            assert_eq!(gateway.reload().await.status, 200);
        };
        let answered = async {
            let (reply, ()) = tokio::join!(waits, brake);
            gate.open();
            reply
        };
        let (_, reply) = tokio::join!(others, answered);
        assert_eq!(reply.status, status, "{key}");
        if status == 200 {
            assert_eq!(reply.body, old.body);
            assert!(reply.header("cache-status").unwrap().contains(told));
        } else {
            assert_eq!(reply.problem().1, told);
        }
        assert_eq!(upstream.calls(), 4);
    }
}

#[tokio::test]
async fn a_query_between_two_attempts_is_not_asked_again_once_calls_are_paused() {
    let upstream = upstream().answers(raw(500, failure("x").body)).run().await;
    let gateway = Arc::new(
        gateway(&upstream)
            .set("upstream.retry.attempts", "3")
            .set("upstream.retry.backoff", "\"10s\"")
            .set("upstream.retry.max_backoff", "\"10s\"")
            .run()
            .await,
    );
    let brake = async {
        until("the first attempt has failed", async || {
            gateway
                .metric("upstream_requests_total", &[("outcome", "transient")])
                .await
                == 1.0
        })
        .await;
        gateway.rewrite("upstream.paused", "true");
        assert_eq!(gateway.reload().await.status, 200);
    };
    let (reply, ()) = tokio::join!(gateway.page(1), brake);
    assert_eq!(
        reply.problem(),
        (503, "upstream_paused".into(), "no".into())
    );
    assert_eq!(upstream.calls(), 1);
}
