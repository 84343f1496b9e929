//! The brakes that docs/runbook.md opens with, in its own lines.

use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::{SECRET, gateway, success, upstream};

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
