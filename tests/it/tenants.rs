//! Whose account a request uses, and who may use it.

use crate::support::{gateway, until, upstream};

const QUERY: &str = "/package/queryOrder";
const ORDER: &str = "/package/orderPackage";
const UNLISTED: &str = "/not/configured";

#[tokio::test]
async fn the_tenant_is_the_header_else_the_access_code_else_the_default_for_queries() {
    let upstream = upstream().tenant("P2", "secret-2").run().await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "secret-2")
        .set("tenants.acme.default", "true")
        .run()
        .await;
    let rows = [
        (QUERY, Some("second"), "{}", Ok("P2")),
        (QUERY, None, r#"{"access_code":"P2"}"#, Ok("P2")),
        (QUERY, None, "{}", Ok("P000270")),
        (QUERY, Some("second"), r#"{"access_code":"P2"}"#, Ok("P2")),
        (
            QUERY,
            Some("second"),
            r#"{"access_code":"P000270"}"#,
            Err((400, "tenant_mismatch")),
        ),
        (QUERY, Some("third"), "{}", Err((400, "unknown_tenant"))),
        (
            QUERY,
            Some("second"),
            r#"{"access_code":"P3"}"#,
            Err((400, "unknown_tenant")),
        ),
        (
            QUERY,
            None,
            r#"{"access_code":"P3"}"#,
            Err((400, "unknown_tenant")),
        ),
        (
            QUERY,
            None,
            r#"{"access_code":7}"#,
            Err((400, "invalid_json")),
        ),
        (ORDER, Some("second"), "{}", Ok("P2")),
        (ORDER, None, r#"{"access_code":"P000270"}"#, Ok("P000270")),
        (ORDER, None, "{}", Err((400, "tenant_required"))),
        (UNLISTED, None, "{}", Err((400, "tenant_required"))),
    ];
    for (path, header, body, expected) in rows {
        let headers: Vec<_> = header
            .map(|name| ("X-Linksfield-Tenant", name))
            .into_iter()
            .collect();
        let calls = upstream.calls();
        let reply = gateway.post(path, &headers, body).await;
        match expected {
            Ok(access_code) if path != QUERY => assert_eq!(
                upstream.last().json()["access_code"],
                access_code,
                "{path} {header:?} {body}"
            ),
            Ok(_) => assert_eq!(reply.status, 200, "{path} {header:?} {body}"),
            Err((status, code)) => {
                assert_eq!(
                    reply.problem(),
                    (status, code.into(), "no".into()),
                    "{path} {header:?} {body}"
                );
                assert_eq!(upstream.calls(), calls);
            }
        }
    }
    let queried: Vec<_> = upstream
        .requests()
        .iter()
        .filter(|request| request.path().ends_with(QUERY))
        .map(|request| request.json()["access_code"].clone())
        .collect();
    assert_eq!(
        queried,
        ["P2", "P000270"],
        "one call for each account, the rest are hits"
    );
}

#[tokio::test]
async fn the_only_tenant_needs_no_name() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for path in [QUERY, ORDER, UNLISTED] {
        assert_eq!(gateway.post(path, &[], "{}").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_caller_does_only_what_it_is_allowed() {
    let upstream = upstream().tenant("P2", "secret-2").run().await;
    let gateway = gateway(&upstream)
        .tenant("second", "P2", "secret-2")
        .caller("reader", "token-of-the-reader-0001", &["acme"], false)
        .caller(
            "writer",
            "token-of-the-writer-0001",
            &["acme", "second"],
            true,
        )
        .run()
        .await;
    let (reader, writer) = (
        Some("Bearer token-of-the-reader-0001"),
        Some("bearer token-of-the-writer-0001"),
    );
    let rows = [
        (QUERY, None, "P000270", Err((401, "unauthenticated"))),
        (
            QUERY,
            Some("Bearer wrong"),
            "P000270",
            Err((401, "unauthenticated")),
        ),
        (
            QUERY,
            Some("Bearer"),
            "P000270",
            Err((401, "unauthenticated")),
        ),
        (
            QUERY,
            Some("Basic token-of-the-reader-0001"),
            "P000270",
            Err((401, "unauthenticated")),
        ),
        (
            "/no/such/path",
            None,
            "P000270",
            Err((401, "unauthenticated")),
        ),
        (QUERY, reader, "P000270", Ok(())),
        (QUERY, reader, "P2", Err((403, "tenant_forbidden"))),
        (ORDER, reader, "P000270", Err((403, "commands_forbidden"))),
        (
            UNLISTED,
            reader,
            "P000270",
            Err((403, "commands_forbidden")),
        ),
        (QUERY, writer, "P2", Ok(())),
        (ORDER, writer, "P2", Ok(())),
        (UNLISTED, writer, "P000270", Ok(())),
    ];
    for (path, authorization, access_code, expected) in rows {
        let headers: Vec<_> = authorization
            .map(|value| ("Authorization", value))
            .into_iter()
            .collect();
        let reply = gateway
            .post(
                path,
                &headers,
                format!(r#"{{"access_code":"{access_code}"}}"#),
            )
            .await;
        match expected {
            Ok(()) => assert_eq!(reply.status, 200, "{path} {authorization:?} {access_code}"),
            Err((status, code)) => assert_eq!(
                reply.problem(),
                (status, code.into(), "no".into()),
                "{path} {authorization:?} {access_code}"
            ),
        }
        assert_eq!(
            reply.header("www-authenticate"),
            (reply.status == 401).then_some("Bearer")
        );
    }
    assert_eq!(upstream.calls(), 4);
    until("the counters", async || {
        gateway
            .metric("requests_total", &[("caller", "writer")])
            .await
            == 3.0
    })
    .await;
    assert_eq!(
        gateway
            .metric(
                "requests_total",
                &[("caller", "other"), ("tenant", "other")]
            )
            .await,
        5.0
    );
}

#[tokio::test]
async fn the_brake_stops_the_commands_of_a_tenant_and_a_refused_route_everybody() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("tenants.acme.commands", "false")
        .set("routes./device/pauseService.kind", "\"refuse\"")
        .set("server.unlisted_paths", "\"refuse\"")
        .run()
        .await;
    assert_eq!(gateway.post(QUERY, &[], "{}").await.status, 200);
    for (path, status, code) in [
        (ORDER, 403, "commands_disabled"),
        ("/device/pauseService", 403, "route_refused"),
        (UNLISTED, 404, "unlisted_path"),
    ] {
        assert_eq!(
            gateway.post(path, &[], "{}").await.problem(),
            (status, code.into(), "no".into())
        );
    }
    assert_eq!(upstream.calls(), 1);
}
