//! What a caller sends arrives signed and unchanged. The upstream verifies each signature over the
//! raw tokens.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::support::{gateway, success, upstream};

#[tokio::test]
async fn every_value_of_a_hostile_body_arrives_unchanged() {
    let upstream = upstream()
        .answers(success(&serde_json::json!({})))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let values = [
        "0",
        "-0",
        "1.50",
        "100.0",
        "1e-7",
        "1E+400",
        "12345678901234567890123",
        "0.1000000000000000055511151231257827",
        "9007199254740993",
        "true",
        "false",
        r#"" ""#,
        r#""0""#,
        r#""亚洲12国/地区产品二 30m/月""#,
        r#""<>&='/\"\\""#,
        "\"\u{7f}\u{2028}\u{2029}\u{feff}\"",
        r#""\u0000\u001f\b\f\n\r\t""#,
        r#""😀""#,
        r#"{"a":{"b":[1,2.0,"x",null,{},[],""]}}"#,
        r#"["89852022018041800192","89852022018041800184"]"#,
        "[null]",
        r#"{"sign":"x"}"#,
    ];
    let members: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(index, value)| format!(r#""k{index}" : {value}"#))
        .collect();
    for path in ["/package/orderPackage", "/package/queryOrder"] {
        gateway
            .post(path, &[], format!("{{{}}}", members.join(" ,\n")))
            .await;
        let sent: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&upstream.last().body).unwrap();
        for (index, value) in values.iter().enumerate() {
            assert_eq!(sent[&format!("k{index}")].get(), *value);
        }
        assert_eq!(
            sent.len(),
            values.len() + 4,
            "and access_code, timestamp, version, sign"
        );
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn keys_of_every_kind_are_signed_in_the_vendors_order() {
    let upstream = upstream()
        .answers(success(&serde_json::json!({})))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let keys = [
        "",
        " ",
        "zz",
        "Zz",
        "_",
        "-",
        "9",
        "a\\\"b",
        "\\u0000",
        "é",
        "中",
        "\\ud83d\\ude00",
        "\\uffee",
        "accesscode",
        "access_codf",
        "timestamq",
        "signature",
    ];
    let members: Vec<String> = keys.iter().map(|key| format!(r#""{key}":1"#)).collect();
    assert_eq!(
        gateway
            .post(
                "/package/orderPackage",
                &[],
                format!("{{{}}}", members.join(","))
            )
            .await
            .status,
        200
    );
    assert_eq!(upstream.calls(), 1); // and its signature was right, else the upstream complains
}

#[tokio::test]
async fn every_attempt_has_a_signature_of_its_own_time_and_nothing_of_the_callers_head() {
    let upstream = upstream()
        .answers(success(&serde_json::json!({})))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let headers = [
        ("Authorization", "Bearer x"),
        ("Cookie", "a=b"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4"),
        ("traceparent", "00-1"),
        ("Accept-Encoding", "gzip"),
        ("User-Agent", "curl"),
        ("X-Http-Method-Override", "DELETE"),
        ("Cache-Control", "no-cache"),
    ];
    gateway.post("/package/orderPackage", &headers, "{}").await;
    let sent = upstream.last(); // the upstream refuses every header that is not on its list
    assert_eq!(sent.header("accept-encoding"), Some("identity"));
    assert_eq!(
        sent.header("host"),
        Some(&*format!("127.0.0.1:{}", upstream.port))
    );
    assert!(
        sent.header("user-agent")
            .unwrap()
            .starts_with("linksfield-gateway/")
    );
}
