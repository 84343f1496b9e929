//! The vendor's own documentation page, and what every user meets first.

use serde_json::json;

use crate::support::{gateway, upstream};

/// The request of the vendor's page for `POST /package/queryOrder`, as it stands there, with its
/// old signature.
const VENDOR_REQUEST: &str = include_str!("../../benches/peers/request.json");

#[tokio::test]
async fn the_vendors_own_example_goes_through_and_its_bare_twin_is_a_hit() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("routes./package/queryOrder.fresh_for", "\"1h\"")
        .run()
        .await;

    let first = gateway
        .post(
            "/package/queryOrder",
            &[("Accept-Language", "zh-CN")],
            VENDOR_REQUEST,
        )
        .await;
    assert_eq!(first.status, 200);
    assert_eq!(
        first.json()["data"]["page"],
        json!({"cur_page_no": 1, "page_size": 2, "total_count": 105, "total_pages": 53})
    );
    let status = first.header("cache-status").unwrap();
    assert!(status.starts_with("linksfield-gateway; fwd=miss; stored; ttl=3"));
    assert_eq!(first.header("age"), None);
    assert_eq!(first.header("cache-control"), Some("no-store"));

    let twin = gateway
        .post(
            "/cube/v4/package/queryOrder",
            &[],
            r#"{"page_size":2,"page_no":1}"#,
        )
        .await;
    assert_eq!(twin.body, first.body, "byte for byte");
    let status = twin.header("cache-status").unwrap();
    let ttl: u64 = status
        .strip_prefix("linksfield-gateway; hit; ttl=")
        .and_then(|ttl| ttl.parse().ok())
        .unwrap();
    let age: u64 = twin.header("age").unwrap().parse().unwrap();
    assert_eq!(ttl + age, 3600);
    assert_eq!(upstream.calls(), 1);
    assert_eq!(upstream.last().path(), "/cube/v4/package/queryOrder");
}

#[tokio::test]
async fn the_header_set_of_javas_http_client_works_on_a_connection_that_is_kept() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut connection = gateway.connect().await;
    let body = br#"{"page_no":1,"page_size":2}"#;
    let request = [
        "POST /package/queryOrder HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 27\r\nHost: gateway\r\n\
         HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/21\r\n\
         Content-Type: application/json\r\n\r\n"
            .as_bytes(),
        body,
    ]
    .concat();
    for _ in 0..2 {
        let reply = connection.exchange(&request).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("upgrade"), None);
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn query_is_a_method_of_query_routes() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let body = r#"{"page_no":1,"page_size":2}"#;
    let request = |path: &str| {
        format!(
            "QUERY {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{body}"
        )
    };
    let mut connection = gateway.connect().await;
    let first = connection
        .exchange(request("/package/queryOrder").as_bytes())
        .await;
    assert_eq!(first.status, 200);
    assert_eq!(gateway.page(1).await.body, first.body);
    assert_eq!(upstream.calls(), 1, "the methods share their pages");
    assert!(upstream.last().line.starts_with("POST "));
    let refused = connection
        .exchange(request("/package/orderPackage").as_bytes())
        .await;
    assert_eq!(
        (refused.status, refused.header("allow")),
        (405, Some("POST"))
    );
}
