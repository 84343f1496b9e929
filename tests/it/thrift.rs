//! Near the end of the day's budget nobody can have a page fetched again that memory has fresh,
//! whatever the words.

use serde_json::json;

use crate::support::{Reply, gateway, page, until, upstream};

const QUERY: &str = "/package/queryOrder";

#[tokio::test]
async fn at_the_lowest_thrift_no_words_of_a_caller_have_a_fresh_page_fetched_again() {
    let script = |request: &crate::support::upstream::Request| {
        page(request.json()["page_no"].as_u64().unwrap_or(1), 2, 4)
    };
    let upstream = upstream().script(script).run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "100")
        .set("upstream.limits.command_reserve", "0")
        .set("routes./package/queryOrder.fresh_for", "\"1h\"")
        .run()
        .await;
    let all = [("x-linksfield-pages", "all")];
    let ask = async |words: &str, pages: &[(&str, &str)], number: u64| -> Reply {
        let headers = [&[("Cache-Control", words)], pages].concat();
        let body = json!({"page_no": number, "page_size": 2}).to_string();
        gateway.post(QUERY, &headers, body).await
    };
    assert_eq!(ask("", &all, 1).await.status, 200); // two pages
    let mut number = 100;
    until("the lowest level", async || {
        number += 1;
        assert_eq!(ask("", &[], number).await.status, 200);
        gateway.metric("thrift_level", &[]).await == 3.0
    })
    .await;
    let calls = upstream.calls();
    for words in [
        "no-cache",
        "no-store",
        "No-Store, max-stale",
        "no-cache, no-store",
        "max-age=0",
        "min-fresh=86400",
        "max-age=0, no-store",
    ] {
        for pages in [&[][..], &all] {
            let refused = ask(words, pages, 1).await;
            let expected = (429, "quota_exhausted".into(), "no".into());
            assert_eq!(refused.problem(), expected, "{words} {pages:?}");
            let headers = [&[("Cache-Control", words)], pages].concat();
            let path = format!("/explain?path={QUERY}");
            let body = r#"{"page_no":1,"page_size":2}"#;
            let explained = gateway.post_to_admin(&path, &headers, body).await;
            assert_eq!(explained.json()["result"], "refused", "{words} {pages:?}");
        }
    }
    assert_eq!(ask("", &[], 1).await.status, 200, "memory costs nothing");
    assert_eq!(upstream.calls(), calls);
    assert_eq!(
        gateway
            .metric("requests_total", &[("result", "refused")])
            .await,
        14.0
    );

    let through = ask("no-store", &[], 900).await; // memory has no such page
    assert!(
        through
            .header("cache-status")
            .unwrap()
            .contains("fwd=bypass")
    );
    assert_eq!(through.status, 200);
    assert_eq!(
        ask("no-store", &[], 900).await.status,
        200,
        "nor has it now"
    );
    assert_eq!(upstream.calls(), calls + 2);
}
