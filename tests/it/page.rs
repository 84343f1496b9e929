//! The admin page, as it comes from the server. What a browser makes of it, `.ci/admin-page` tells.

use serde_json::json;

use crate::support::answer::{Fault, raw};
use crate::support::client::post;
use crate::support::{
    Gateway, Reply, Shim, connect, failure, gateway, page, success, until, upstream,
};

const TOKEN: &str = "admin-token-0123456789";
const EVIL: &str = r#"<script>alert("1")</script>&'"#;

/// The page, as a browser on this machine asks for it, and its reply.
async fn look(gateway: &Gateway, headers: &str) -> (Reply, String) {
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", gateway.admin);
    let reply = connect(&gateway.admin)
        .await
        .exchange(request.as_bytes())
        .await;
    let text = String::from_utf8(reply.body.clone()).unwrap();
    (reply, text)
}

/// The values of an attribute.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let parts = page.split(attribute).skip(1);
    parts.map(|part| part.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn the_page_is_made_of_files_of_the_binary_and_nothing_may_be_loaded_from_elsewhere() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let (reply, page) = look(&gateway, "").await;
    assert_eq!(reply.status, 200);
    let header = |name| reply.header(name).unwrap();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"));
    for directive in ["base-uri", "form-action", "frame-ancestors"] {
        assert!(policy.contains(&format!("{directive} 'none'")), "{policy}");
    }
    for script in page.split("<script").skip(1) {
        assert!(script.starts_with(" src=\"/"), "{script}");
    }
    assert!(!page.contains("style=\"") && !page.contains("<style"));
    let files = [values(&page, "href=\""), values(&page, "src=\"")].concat();
    let types = [
        ("/icon.svg", "image/svg+xml"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/script.js", "text/javascript; charset=utf-8"),
    ];
    for file in files.iter().filter(|file| !file.starts_with('#')) {
        let reply = gateway.admin(file).await;
        assert_eq!(reply.status, 200, "{file}");
        let named = types.iter().find(|(name, _)| name == file);
        if let Some((_, content_type)) = named {
            assert_eq!(reply.header("content-type"), Some(*content_type));
        }
    }
    assert!(types.iter().all(|(name, _)| files.contains(name)));
    for path in ["/", "/style.css"] {
        let reply = gateway.post_to_admin(path, &[], "{}").await;
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
    let mut connection = connect(&gateway.admin).await;
    connection
        .send(b"HEAD / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        .await;
    connection.answered().await;
}

#[tokio::test]
async fn what_comes_from_outside_is_text_on_the_page() {
    let upstream = upstream().takes_any_signature().run().await;
    let builder = gateway(&upstream);
    let file = builder.file(&EVIL.replace('/', "-"), "secret-2");
    let gateway = builder
        .tenant("second", "P2", "secret-2")
        .set("tenants.second.access_code", &format!("{EVIL:?}"))
        .set("tenants.second.secret_file", &format!("{file:?}"))
        .run()
        .await;
    std::fs::remove_file(file).unwrap();
    assert_eq!(gateway.reload().await.status, 200, "its secret is refused");
    let (_, page) = look(&gateway, "").await;
    assert!(!page.contains("<script>"), "{page}");
    assert_eq!(page.matches("&#60;script&#62;alert").count(), 3);
}

#[tokio::test]
async fn the_page_says_what_somebody_has_to_know_first() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let (_, well) = look(&gateway, "").await;
    assert!(well.contains("All is well."), "{well}");

    gateway.rewrite("tenants.acme.commands", "false");
    assert_eq!(gateway.reload().await.status, 200);
    let (_, braked) = look(&gateway, "").await;
    assert!(braked.contains("Commands of the tenant acme are switched off."));
    assert!(!braked.contains("All is well."));

    gateway.rewrite("tenants.acme.commands", "true");
    let refused = ("routes./package/orderPackage.kind", "\"refuse\"");
    gateway.rewrite(refused.0, refused.1);
    assert_eq!(gateway.reload().await.status, 200);
    let (_, braked) = look(&gateway, "").await;
    assert!(braked.contains("The route /package/orderPackage is refused."));
    assert!(!braked.contains("All is well."));

    gateway.rewrite(refused.0, "\"command\"");
    for (brake, value) in [("server.commands", "false"), ("upstream.paused", "true")] {
        gateway.rewrite(brake, value);
        assert_eq!(gateway.reload().await.status, 200);
        let (_, braked) = look(&gateway, "").await;
        assert!(braked.contains(brake) && !braked.contains("All is well."));
    }

    gateway.rewrite("server.lisen", "\"nowhere\"");
    assert_eq!(gateway.reload().await.status, 422);
    let (_, refused) = look(&gateway, "").await;
    assert!(refused.contains("the last good one stays"), "{refused}");
    assert!(refused.contains("server.lisen"), "{refused}");
    assert!(refused.contains("UTC: refused"), "{refused}");
    let configuration = refused.split("<pre id=\"configuration\"").nth(1);
    assert!(configuration.unwrap().contains("commands = false"));
}

#[tokio::test]
async fn the_page_says_first_that_the_state_disk_hangs() {
    let upstream = upstream().run().await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let path = folder.path().join("state");
    let gateway = gateway(&upstream)
        .set("server.state_dir", &format!("{:?}", path.to_str().unwrap()))
        .under(&shim)
        .run()
        .await;
    let lost = "server.state_dir cannot be written, or its disk hangs";
    let (_, before) = look(&gateway, "").await;
    assert!(!before.contains(lost));
    shim.hang();
    let key = [("Idempotency-Key", "one")];
    let refused = gateway.post("/package/orderPackage", &key, "{}").await;
    assert_eq!(refused.problem().1, "state_store_unavailable");
    gateway.rewrite("upstream.paused", "true");
    assert_eq!(gateway.reload().await.status, 200);
    until("it is known to hang", async || {
        let (_, page) = look(&gateway, "").await;
        let paused = page.find("upstream.paused is on").unwrap();
        page.find(lost).is_some_and(|place| place < paused) && !page.contains("restart once")
    })
    .await;
    shim.let_go();
    until("it hangs no more", async || {
        !look(&gateway, "").await.1.contains(lost)
    })
    .await;
}

#[tokio::test]
async fn the_page_says_how_linksfield_the_budget_and_the_commands_are() {
    let upstream = upstream()
        .script(|request| match request.path() {
            "/cube/v4/package/orderPackage" => success(&json!({})).fault(Fault::Drop),
            _ => raw(500, ""),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "13")
        .set("upstream.limits.command_reserve", "0.2")
        .set("server.drain_delay", "\"1h\"")
        .run()
        .await;
    let key = [("Idempotency-Key", "once")];
    let reply = gateway.post("/package/orderPackage", &key, "{}").await;
    assert_eq!(reply.problem().2, "unknown");
    for number in 1..=9 {
        assert_eq!(gateway.page(number).await.status, 502);
    }
    let (_, before) = look(&gateway, "").await;
    assert!(before.contains("Commands in doubt: 1."), "{before}");
    assert!(before.contains("in doubt, with a key or without, since the start: 1."));
    assert!(before.contains("<td>upstream_disconnected</td><td class=\"bad\">unknown</td>"));
    assert!(before.contains("3 of 13") && before.contains("for queries: 0"));
    assert!(before.contains("The queries&#39; part of the day is spent"));
    assert!(before.contains("breaker open"));
    gateway.signal("TERM");
    until("it drains", async || {
        look(&gateway, "")
            .await
            .1
            .contains("Draining: not ready any more")
    })
    .await;
}

#[tokio::test]
async fn the_page_counts_by_route_tenant_and_caller() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream)
        .caller("billing", "token-of-billing", &["acme"], false)
        .run()
        .await;
    let bearer = [("Authorization", "Bearer token-of-billing")];
    for _ in 0..4 {
        let body = r#"{"page_no":1,"page_size":2}"#;
        gateway.post("/package/queryOrder", &bearer, body).await;
    }
    gateway.order().await; // without a token
    let (_, page) = look(&gateway, "").await;
    let row = |name: &str| {
        let rows = page
            .split("<tr>")
            .find(|row| row.contains(&format!("<th scope=\"row\">{name}</th>")));
        let cells = rows.unwrap().split("<td").skip(1);
        let text = |cell: &str| cell.split(['>', '<']).nth(1).unwrap().to_owned();
        cells.map(text).collect::<Vec<_>>()
    };
    assert_eq!(row("/package/queryOrder")[2..], ["4", "75 %", "0", "1"]);
    assert_eq!(row("acme"), ["P000270", "on", "4", "75 %", "0", "1", "0"]);
    assert_eq!(row("billing"), ["acme", "no", "4", "75 %", "0"]);
    assert!(page.contains("data-name=\"hit\" data-value=\"3\""));
    assert!(page.contains("data-name=\"refused\" data-value=\"1\""));
}

#[tokio::test]
async fn the_last_errors_are_shown_and_their_request_ids_to_whoever_may_see_requests() {
    let upstream = upstream().answers(failure("4711")).run().await;
    let builder = gateway(&upstream);
    let file = builder.file("admin-token", TOKEN);
    let with_token = builder
        .set("server.admin_token_file", &format!("{file:?}"))
        .run()
        .await;
    let local = gateway(&upstream).run().await;
    let beyond_loopback = gateway(&upstream)
        .set("server.admin_listen", "\"0.0.0.0:0\"")
        .run()
        .await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let rows = [
        (&local, "", true),
        (&with_token, "", false),
        (&with_token, &*bearer, true),
        (&with_token, "Authorization: Bearer another\r\n", false),
        (&beyond_loopback, "", false),
    ];
    for (gateway, headers, shows_ids) in rows {
        let request_id = [("X-Request-Id", "the-id-of-this-one")];
        let body = r#"{"device_id": "89860012018111220455", "device_id": 1}"#;
        let reply = gateway.post("/package/queryOrder", &request_id, body).await;
        assert_eq!(reply.status, 400);
        let (_, page) = look(gateway, headers).await;
        assert!(page.contains("<td>invalid_json</td><td>no</td><td>/package/queryOrder</td>"));
        assert_eq!(
            page.contains("the-id-of-this-one"),
            shows_ids,
            "{headers:?}"
        );
        assert!(!page.contains("89860012018111220455") && !page.contains(TOKEN));
    }
    // A page of another site, whose name was made to point here.
    let request = b"GET / HTTP/1.1\r\nHost: evil.example:6181\r\n\r\n";
    let reply = connect(&local.admin).await.exchange(request).await;
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("invalid_json") && !text.contains("the-id-of-this-one"));
}

#[tokio::test]
async fn requests_are_explained_on_the_page_where_they_may_be() {
    let upstream = upstream().run().await;
    let builder = gateway(&upstream);
    let file = builder.file("admin-token", TOKEN);
    let with_token = builder
        .set("server.admin_token_file", &format!("{file:?}"))
        .run()
        .await;
    let local = gateway(&upstream).run().await;
    let beyond_loopback = gateway(&upstream)
        .set("server.admin_listen", "\"0.0.0.0:0\"")
        .run()
        .await;
    for (gateway, has_form, asks_for_token) in [
        (&local, true, false),
        (&with_token, true, true),
        (&beyond_loopback, false, false),
    ] {
        let (_, page) = look(gateway, "").await;
        assert_eq!(page.contains("<form id=\"explain\""), has_form);
        assert_eq!(
            page.contains("name=\"token\" type=\"password\""),
            asks_for_token
        );
    }
    // As the page's script asks, and as another site's would.
    let own = format!("http://{}", local.admin);
    for (origin, status) in [(&*own, 200), ("http://evil.example", 403), ("null", 403)] {
        let headers = [("Origin", origin), ("Host", &*local.admin)];
        let request = post("/explain", &headers, b"{}");
        let request = String::from_utf8(request).unwrap();
        let request = request.replacen("Host: gateway\r\n", "", 1);
        let reply = connect(&local.admin)
            .await
            .exchange(request.as_bytes())
            .await;
        assert_eq!(reply.status, status, "{origin}");
    }
}
