//! Nothing secret appears in any output.

use crate::support::{gateway, upstream};

const TOKEN: &str = "token-nobody-may-see-0001";
const SECRET: &str = "secret-nobody-may-see-0001";

#[tokio::test]
async fn no_secret_token_or_signature_appears_in_any_output() {
    let upstream = upstream().tenant("P2", SECRET).run().await;
    let gateway = gateway(&upstream)
        .set("log.level", "\"trace\"")
        .tenant("second", "P2", SECRET)
        .caller("billing", TOKEN, &["acme", "second"], true)
        .run()
        .await;
    let authorization = format!("Bearer {TOKEN}");
    let mut answers = String::new();
    let bodies = [
        r#"{"access_code":"P2","page_no":1}"#,
        r#"{"access_code":"P2","page_no":1,"page_no":2}"#,
        r#"{"access_code":"P3"}"#,
        "[",
        "{}",
    ];
    for path in [
        "/package/queryOrder",
        "/package/orderPackage",
        "/not/configured",
    ] {
        for body in bodies {
            for authorization in [&authorization, "Bearer wrong", TOKEN] {
                let reply = gateway
                    .post(path, &[("Authorization", authorization)], body)
                    .await;
                answers += &format!(
                    "{:?} {}",
                    reply.headers,
                    String::from_utf8_lossy(&reply.body)
                );
            }
        }
    }
    for path in ["/metrics", "/readyz", "/config", "/"] {
        answers += &String::from_utf8_lossy(&gateway.admin(path).await.body);
    }
    upstream.stop().await;
    let reply = gateway
        .post(
            "/package/orderPackage",
            &[("Authorization", &authorization)],
            r#"{"access_code":"P2"}"#,
        )
        .await;
    answers += &String::from_utf8_lossy(&reply.body);

    let signatures: Vec<String> = upstream
        .requests()
        .iter()
        .map(|request| request.json()["sign"].as_str().unwrap().to_owned())
        .collect();
    assert!(signatures.len() >= 3);
    let outputs = gateway.output() + &answers;
    for secret in
        signatures
            .iter()
            .map(String::as_str)
            .chain([SECRET, TOKEN, crate::support::SECRET])
    {
        assert!(!outputs.contains(secret), "{secret} is in the output");
    }
    assert!(
        outputs.contains("exchange finished") && outputs.contains("secret-second"),
        "but the file's name is"
    );
}
