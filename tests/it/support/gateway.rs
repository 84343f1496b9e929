//! The gateway under test: the real binary, with a configuration of the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Connection, Reply, connect, post};
use super::{ACCESS_CODE, SECRET, Upstream, until};

pub struct Builder {
    config: toml::Table,
    folder: TempDir,
    environment: Vec<(String, String)>,
    /// The limits that it runs under, as a shell sets them.
    limits: String,
}

/// A gateway with one tenant, one query and one command, no limit but three connections, and no
/// retries.
pub fn gateway(upstream: &Upstream) -> Builder {
    gateway_to(&upstream.url())
}

/// The same, to the vendor at this URL.
pub fn gateway_to(base_url: &str) -> Builder {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"
        server = {{ listen = "127.0.0.1:0", admin_listen = "127.0.0.1:0" }}
        log = {{ format = "json" }}
        upstream = {{ base_url = "{base_url}", connect_timeout = "10s", limits = {{ requests_per_second = "none", requests_per_day = "none" }}, retry = {{ attempts = 1 }} }}
        [tenants.acme]
        access_code = "{ACCESS_CODE}"
        [routes."/package/queryOrder"]
        kind = "query"
        pages = true
        [routes."/package/orderPackage"]
        kind = "command"
        invalidates = ["/package/queryOrder"]
        "#
    );
    Builder {
        config: config.parse().unwrap(),
        folder,
        environment: Vec::new(),
        limits: String::new(),
    }
    .secret("acme", SECRET)
}

fn set(mut table: &mut toml::Table, path: &str, value: &str) {
    let value: toml::Table = format!("value = {value}").parse().unwrap();
    let mut keys = path.split('.').map(|key| key.replace('|', ".")).peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            table.insert(key, value["value"].clone());
            break;
        }
        let inner = table
            .entry(key)
            .or_insert_with(|| toml::Table::new().into());
        table = inner.as_table_mut().unwrap();
    }
}

impl Builder {
    /// Sets a key: `path` is dotted, with `|` for a dot inside a name; `value` is TOML.
    pub fn set(mut self, path: &str, value: &str) -> Self {
        set(&mut self.config, path, value);
        self
    }

    /// Writes a secret of the test into a file.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn secret(self, tenant: &str, secret: &str) -> Self {
        let path = self.file(&format!("secret-{tenant}"), &format!("{secret}\n"));
        self.set(
            &format!("tenants.{tenant}.secret_file"),
            &format!("{path:?}"),
        )
    }

    pub fn tenant(self, name: &str, access_code: &str, secret: &str) -> Self {
        self.set(
            &format!("tenants.{name}.access_code"),
            &format!("{access_code:?}"),
        )
        .secret(name, secret)
    }

    pub fn caller(self, name: &str, token: &str, tenants: &[&str], commands: bool) -> Self {
        let path = self.file(&format!("token-{name}"), token);
        self.set(&format!("callers.{name}.token_file"), &format!("{path:?}"))
            .set(&format!("callers.{name}.tenants"), &format!("{tenants:?}"))
            .set(&format!("callers.{name}.commands"), &commands.to_string())
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A disk that is full at some point: no file grows beyond so many blocks of 512 bytes.
    pub fn largest_file(mut self, blocks: u64) -> Self {
        // An ignored signal stays ignored: what does not fit is an error, not the end.
        self.limits += &format!("trap '' XFSZ; ulimit -f {blocks}; ");
        self
    }

    /// So many files may be open; with `-S` before the number it may raise that itself.
    pub fn open_files(mut self, limit: &str) -> Self {
        self.limits += &format!("ulimit -n {limit}; ");
        self
    }

    /// The configuration's file.
    pub fn write(&self) -> String {
        self.file("gateway.toml", &self.config.to_string())
    }

    /// The binary with this configuration, for one of its other commands.
    pub fn command(&self, arguments: &[&str]) -> Command {
        const BINARY: &str = env!("CARGO_BIN_EXE_linksfield-gateway");
        let mut command = if self.limits.is_empty() {
            Command::new(BINARY)
        } else {
            let mut shell = Command::new("sh");
            let limited = format!("{}exec \"$0\" \"$@\"", self.limits);
            shell.args(["-c", &limited, BINARY]);
            shell
        };
        command
            .args(arguments)
            .envs(self.environment.iter().cloned());
        command
    }

    /// What `serve` says when it does not start.
    pub async fn refused(&self) -> String {
        let config = self.write();
        self.refused_with(&config).await
    }

    /// The same, with a file that is there, or something else in its place.
    pub async fn refused_with(&self, config: &str) -> String {
        let mut serve = self.command(&["serve", "--config", config]);
        let serve = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut serve = Killed(serve.unwrap());
        let mut status = None;
        until("it ends", async || {
            status = serve.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let told = std::io::read_to_string(serve.0.stderr.take().unwrap()).unwrap();
        assert_eq!(status.unwrap().code(), Some(1), "{told}");
        told
    }

    pub async fn run(self) -> Gateway {
        let config = self.write();
        let mut process = self
            .command(&["serve", "--config", &config])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let collected = lines.clone();
        let reading = Arc::new(tokio::sync::Mutex::new(()));
        let may_read = reading.clone();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| {
                drop(may_read.blocking_lock());
                collected.lock().unwrap().push(line);
            });
        });
        let mut gateway = Gateway {
            process: Killed(process),
            lines,
            reading,
            address: String::new(),
            admin: String::new(),
            config: Mutex::new(self.config),
            folder: self.folder,
        };
        gateway.address = gateway.listening("data").await;
        gateway.admin = gateway.listening("admin").await;
        gateway
    }
}

pub struct Gateway {
    process: Killed,
    lines: Arc<Mutex<Vec<String>>>,
    reading: Arc<tokio::sync::Mutex<()>>,
    pub address: String,
    pub admin: String,
    config: Mutex<toml::Table>,
    folder: TempDir,
}

/// A process that ends with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Gateway {
    /// Sets a key in the configuration's file; see [`Builder::set`].
    pub fn rewrite(&self, path: &str, value: &str) {
        let mut config = self.config.lock().unwrap();
        set(&mut config, path, value);
        self.replace("gateway.toml", &config.to_string());
    }

    /// Replaces a file of the test's folder at once, as editors and mounts do.
    pub fn replace(&self, name: &str, content: &str) {
        let path = self.folder.path().join(name);
        let new = self.folder.path().join(format!("{name}.new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub async fn reload(&self) -> Reply {
        self.post_to_admin("/reload", &[], "").await
    }

    async fn listening(&mut self, listener: &str) -> String {
        let find = |lines: Vec<Value>| {
            let line = lines
                .into_iter()
                .find(|line| line["message"] == "listening" && line["listener"] == listener)?;
            Some(line["address"].as_str()?.to_owned())
        };
        until("listening, or ended", async || {
            find(self.log()).is_some() || self.process.0.try_wait().unwrap().is_some()
        })
        .await;
        find(self.log()).unwrap_or_else(|| panic!("it does not start:\n{}", self.output()))
    }

    /// The log's lines that are JSON.
    pub fn log(&self) -> Vec<Value> {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Nobody reads the log while this is held.
    pub async fn unread(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.reading.clone().lock_owned().await
    }

    /// All that the process has written.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The log line of the exchange with this request id.
    pub async fn exchange_of(&self, request_id: &str) -> Value {
        let find = || {
            self.log().into_iter().find(|line| {
                line["message"] == "exchange finished" && line["request_id"] == request_id
            })
        };
        until("the exchange's log line", async || find().is_some()).await;
        find().unwrap()
    }

    pub async fn connect(&self) -> Connection {
        connect(&self.address).await
    }

    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        self.connect()
            .await
            .exchange(&post(path, headers, body.as_ref()))
            .await
    }

    pub async fn query(&self, body: &Value) -> Reply {
        self.post("/package/queryOrder", &[], body.to_string())
            .await
    }

    /// The page with this number, of two orders.
    pub async fn page(&self, number: u64) -> Reply {
        self.query(&json!({"page_no": number, "page_size": 2}))
            .await
    }

    pub async fn order(&self) -> Reply {
        self.post(
            "/package/orderPackage",
            &[],
            json!({"device_id": "89860012018111220455"}).to_string(),
        )
        .await
    }

    pub async fn admin(&self, path: &str) -> Reply {
        let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n");
        connect(&self.admin)
            .await
            .exchange(request.as_bytes())
            .await
    }

    pub async fn post_to_admin(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        connect(&self.admin)
            .await
            .exchange(&post(path, headers, body.as_ref()))
            .await
    }

    /// The sum of the series of a family that have these labels.
    pub async fn metric(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let text = String::from_utf8(self.admin("/metrics").await.body).unwrap();
        let family = format!("linksfield_gateway_{family}");
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(&family))
            .filter(|line| {
                labels
                    .iter()
                    .all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
            })
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    pub fn signal(&self, name: &str) {
        let killed = Command::new("kill")
            .args([&format!("-{name}"), &self.process.0.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", async || {
            status = self.process.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Gateway {
    /// A connection on which this query has been asked, not yet answered.
    pub async fn connect_and_ask(&self, body: &str) -> Connection {
        let mut connection = self.connect().await;
        connection
            .send(&post("/package/queryOrder", &[], body.as_bytes()))
            .await;
        connection
    }
}

/// With a state directory in this folder.
pub fn with_state(builder: Builder, folder: &TempDir) -> Builder {
    let path = folder.path().join("state");
    builder.set("server.state_dir", &format!("{:?}", path.to_str().unwrap()))
}

/// An order with a key, which its parameters and its request id name too.
pub async fn keyed_order(gateway: &Gateway, key: &str) -> Reply {
    let body = json!({ "key": key }).to_string();
    let headers = [("Idempotency-Key", key), ("X-Request-Id", key)];
    gateway.post("/package/orderPackage", &headers, body).await
}
