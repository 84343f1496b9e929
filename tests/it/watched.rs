//! What is read again and again may be anything: none of it ends the reloads, the brakes or the end
//! of the process.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::gateway::{Builder, Gateway};
use crate::support::{SECRET, Shim, Upstream, gateway, until, upstream};
use crate::tls::certificate_with;

const TOKEN: &str = "a-token-of-some-length";
const OTHER_TOKEN: &str = "another-one-of-some-length";

/// What may stand where a regular file should, and what is said of it.
const KINDS: [&str; 4] = ["a FIFO", "a directory", "a socket", "a device"];

/// The files that are watched, and their keys.
const FILES: [(&str, &str); 5] = [
    ("secret-acme", "tenants.acme.secret_file"),
    ("secret-before", "tenants.acme.previous_secret_file"),
    ("token-shop", "callers.shop.token_file"),
    ("ca.pem", "upstream.ca_file"),
    ("gateway.toml", "the file itself"),
];

fn with_all(upstream: &Upstream) -> Builder {
    let builder = gateway(upstream).caller("shop", TOKEN, &["acme"], true);
    let before = builder.file("secret-before", "the-secret-before");
    let ca = builder.file("ca.pem", &certificate_with("localhost", &[]).1);
    builder
        .set(FILES[1].1, &format!("{before:?}"))
        .set(FILES[3].1, &format!("{ca:?}"))
}

/// Puts something else in its place.
fn replace(path: &Path, kind: &str) {
    std::fs::remove_file(path).unwrap();
    match kind {
        "a FIFO" => {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }
        "a directory" => std::fs::create_dir(path).unwrap(),
        "a socket" => drop(UnixListener::bind(path).unwrap()),
        _ => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
    }
}

/// Puts it back.
fn restore(path: &Path, content: &str) {
    if path.is_dir() {
        std::fs::remove_dir(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(path, content).unwrap();
}

async fn order(gateway: &Gateway) -> u16 {
    order_as(gateway, TOKEN).await
}

async fn order_as(gateway: &Gateway, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let path = "/package/orderPackage";
    gateway.post(path, &headers, "{}").await.status
}

async fn is_usable(gateway: &Gateway) -> bool {
    gateway.metric("config_last_reload_successful", &[]).await == 1.0
}

/// Applies the brake for everybody, or takes it back.
async fn brake(gateway: &Gateway, commands: bool) {
    gateway.rewrite("server.commands", &commands.to_string());
    assert_eq!(gateway.reload().await.status, 200);
    let expected = if commands { 200 } else { 403 };
    assert_eq!(order(gateway).await, expected);
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_told_and_brakes_go_on() {
    let upstream = upstream().run().await;
    let mut gateway = with_all(&upstream).run().await;
    for (name, key) in FILES {
        let path = gateway.folder().join(name);
        let good = std::fs::read_to_string(&path).unwrap();
        for kind in KINDS {
            replace(&path, kind);
            let reply = gateway.reload().await;
            let told = String::from_utf8(reply.body.clone()).unwrap();
            let expected = if name == "gateway.toml" { 422 } else { 200 };
            assert_eq!(reply.status, expected, "{told}");
            assert!(told.contains(key) && told.contains(kind), "{told}");
            assert!(!is_usable(&gateway).await, "{name}: {kind}");
            let page = gateway.admin("/").await;
            assert!(String::from_utf8(page.body).unwrap().contains(kind));
            assert_eq!(order(&gateway).await, 200, "{name}: {kind}");
            if name != "gateway.toml" {
                brake(&gateway, false).await;
                brake(&gateway, true).await;
            }
            restore(&path, &good);
            assert_eq!(gateway.reload().await.status, 200);
            assert!(is_usable(&gateway).await, "{name}: {kind}");
        }
    }
    replace(&gateway.folder().join("secret-acme"), "a FIFO");
    gateway.signal("HUP");
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn nothing_starts_with_what_is_no_regular_file() {
    let upstream = upstream().run().await;
    for (name, key) in FILES {
        for kind in KINDS {
            let builder = with_all(&upstream);
            let config = builder.write();
            replace(&Path::new(&config).with_file_name(name), kind);
            let told = builder.refused_with(&config).await;
            assert!(told.contains(key) && told.contains(kind), "{told}");
        }
    }
}

#[tokio::test]
async fn a_file_that_hangs_keeps_waiting_neither_brakes_nor_other_secrets_nor_the_end() {
    let upstream = upstream().run().await;
    for (name, key) in [FILES[0], FILES[4]] {
        let shim = Shim::new();
        let builder = with_all(&upstream).under(&shim);
        let mut gateway = builder.set("server.reload_interval", "\"1h\"").run().await;
        let path = gateway.folder().join(name);
        let good = std::fs::read_to_string(&path).unwrap();
        until("what is read at the start is read", async || {
            gateway.reload().await.status == 200
        })
        .await;
        shim.hang_at(&path);
        if name != "gateway.toml" {
            // What is read after it is read all the same.
            gateway.replace("token-shop", OTHER_TOKEN);
            assert_eq!(gateway.reload().await.status, 200);
            assert_eq!(order_as(&gateway, OTHER_TOKEN).await, 200);
            gateway.replace("token-shop", TOKEN);
        }
        for _ in 0..2 {
            let reply = gateway.reload().await;
            let told = String::from_utf8(reply.body.clone()).unwrap();
            let expected = if name == "gateway.toml" { 422 } else { 200 };
            assert_eq!(reply.status, expected, "{told}");
            assert!(told.contains(key) && told.contains("hangs"), "{told}");
            assert!(!is_usable(&gateway).await);
            assert_eq!(order(&gateway).await, 200);
        }
        if name != "gateway.toml" {
            brake(&gateway, false).await;
            brake(&gateway, true).await;
            assert_eq!(order_as(&gateway, OTHER_TOKEN).await, 401);
        }
        shim.let_go_of_it();
        until("it is read again", async || {
            gateway.reload().await;
            is_usable(&gateway).await
        })
        .await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), good);

        shim.hang_at(&path);
        gateway.signal("HUP");
        gateway.signal("TERM");
        assert_eq!(gateway.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_file_whose_dead_mount_was_replaced_is_read_without_a_restart() {
    let upstream = upstream().run().await;
    for (name, key) in [FILES[2], FILES[4]] {
        let shim = Shim::new();
        let builder = with_all(&upstream).under(&shim);
        let gateway = builder.set("server.reload_interval", "\"1h\"").run().await;
        until("what is read at the start is read", async || {
            gateway.reload().await.status == 200
        })
        .await;
        shim.hang_at(&gateway.folder().join(name));
        let mut told = Vec::new();
        for _ in 0..2 {
            let reply = String::from_utf8(gateway.reload().await.body).unwrap();
            let since = reply.split("nothing has come of it since ").nth(1);
            let since = since.unwrap_or_else(|| panic!("{reply}"));
            assert!(reply.contains(key), "{reply}");
            told.push(since.split('"').next().unwrap().to_owned());
        }
        assert_eq!(told[0], told[1]);
        shim.replace_what_hangs();
        until("another thread reads it", async || {
            gateway.reload().await;
            is_usable(&gateway).await
        })
        .await;
        gateway.replace("token-shop", OTHER_TOKEN);
        assert_eq!(gateway.reload().await.status, 200);
        assert_eq!(order_as(&gateway, OTHER_TOKEN).await, 200);
        gateway.rewrite("server.commands", "false");
        assert_eq!(gateway.reload().await.status, 200);
        assert_eq!(order_as(&gateway, OTHER_TOKEN).await, 403);
    }
}

#[tokio::test]
async fn nothing_starts_with_a_file_that_hangs() {
    let upstream = upstream().run().await;
    let shim = Shim::new();
    let builder = with_all(&upstream).under(&shim);
    let config = builder.write();
    shim.hang_at(&Path::new(&config).with_file_name("token-shop"));
    let told = builder.refused_with(&config).await;
    assert!(
        told.contains("callers.shop.token_file") && told.contains("hangs"),
        "{told}"
    );
}

fn piped(command: &str, arguments: &[&str]) -> Output {
    let script = format!("exec \"$0\" {command}");
    Command::new("bash")
        .args(["-c", &script, env!("CARGO_BIN_EXE_linksfield-gateway")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test]
async fn what_a_command_reads_once_may_be_a_pipe() {
    let upstream = upstream().run().await;
    let builder = gateway(&upstream);
    let config = builder.write();
    let sign = "sign --tenant acme --config <(cat \"$1\") < <(echo '{}')";
    let signed = piped(sign, &[&config]);
    assert_eq!(signed.status.code(), Some(0), "{signed:?}");
    let text = String::from_utf8(signed.stdout).unwrap();
    let body = text.lines().nth(1).unwrap();
    let calibrate = "calibrate --secret-file <(printf %s \"$1\") < <(echo \"$2\")";
    let calibrated = piped(calibrate, &[SECRET, body]);
    assert_eq!(calibrated.status.code(), Some(0), "{calibrated:?}");
    let check = "check --config <(cat \"$1\")";
    assert_eq!(piped(check, &[&config]).status.code(), Some(0));
}
