//! A stand-in for Linksfield that is strict about what it gets and can misbehave on the wire.
//!
//! It reads HTTP at the byte level, checks the signature by itself, and counts as the vendor would.

mod http2;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::value::RawValue;
use sha1::Sha1;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Fault, page};
use super::{ACCESS_CODE, SECRET, until};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub at: Instant,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    pub fn is_signed_with(&self, secret: &str) -> bool {
        let access_code = self.json()["access_code"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let secrets = BTreeMap::from([(access_code, secret.to_owned())]);
        signature_fault(&self.body, &secrets).is_ok()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

pub struct Builder {
    script: Box<Script>,
    tls: Option<TlsAcceptor>,
    secrets: BTreeMap<String, String>,
    is_strict: bool,
    /// A header that may come besides those that always do.
    may_come: Option<&'static str>,
    streams: u32,
}

/// An upstream that answers every query with the page it asks for, until told otherwise.
pub fn upstream() -> Builder {
    let script = |request: &Request| {
        let asked = request.json();
        page(
            asked["page_no"].as_u64().unwrap_or(1).max(1),
            asked["page_size"].as_u64().unwrap_or(2).max(1),
            105,
        )
    };
    Builder {
        script: Box::new(script),
        tls: None,
        secrets: BTreeMap::from([(ACCESS_CODE.into(), SECRET.into())]),
        is_strict: true,
        may_come: None,
        streams: 250,
    }
}

impl Builder {
    pub fn answers(self, answer: Answer) -> Self {
        self.script(move |_| answer.clone())
    }

    /// The last one again and again.
    pub fn answers_in_turn(self, answers: impl Into<Vec<Answer>>) -> Self {
        let (answers, next) = (answers.into(), AtomicUsize::new(0));
        self.script(move |_| {
            let next = next.fetch_add(1, Ordering::SeqCst);
            answers[next.min(answers.len() - 1)].clone()
        })
    }

    pub fn script(mut self, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        self.script = Box::new(script);
        self
    }

    pub fn tenant(mut self, access_code: &str, secret: &str) -> Self {
        self.secrets.insert(access_code.into(), secret.into());
        self
    }

    /// For those who sign wrongly on purpose.
    pub fn takes_any_signature(mut self) -> Self {
        self.is_strict = false;
        self
    }

    /// This header may come too.
    pub fn takes(mut self, header: &'static str) -> Self {
        self.may_come = Some(header);
        self
    }

    /// With HTTP/2, so many streams of a connection at a time.
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = streams;
        self
    }

    pub fn tls(mut self, acceptor: TlsAcceptor) -> Self {
        self.tls = Some(acceptor);
        self
    }

    pub async fn run(self) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script: self.script,
            secrets: self.secrets,
            is_strict: self.is_strict,
            may_come: self.may_come,
            resets: AtomicBool::new(false),
            streams: self.streams,
            seen: Mutex::default(),
        });
        let stopped = CancellationToken::new();
        let is_tls = self.tls.is_some();
        tokio::spawn(accept(listener, self.tls, shared.clone(), stopped.clone()));
        Upstream {
            port,
            is_tls,
            shared,
            stopped,
            held: Mutex::default(),
        }
    }
}

struct Shared {
    script: Box<Script>,
    secrets: BTreeMap<String, String>,
    is_strict: bool,
    may_come: Option<&'static str>,
    resets: AtomicBool,
    streams: u32,
    seen: Mutex<Seen>,
}

impl Shared {
    /// Looks at a request, and answers when it is time.
    async fn answer(&self, request: &Request) -> Answer {
        let number = {
            let mut seen = self.seen.lock().unwrap();
            let fault = fault_of(request, &self.secrets, self.may_come);
            seen.violations.extend(fault.filter(|_| self.is_strict));
            seen.begin(request.clone())
        };
        // Ends before the bytes leave: who has them knows that the call has ended.
        let _running = Running(self, number);
        let answer = (self.script)(request);
        if let Some(gate) = &answer.gate {
            gate.pass().await;
        }
        tokio::time::sleep(answer.delay).await;
        answer
    }
}

struct Running<'a>(&'a Shared, usize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.seen.lock().unwrap().ends[self.1] = Some(Instant::now());
    }
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// When the answer to each of them ended; none while it has not.
    ends: Vec<Option<Instant>>,
    violations: Vec<String>,
    opened: usize,
    open: Vec<Peer>,
    most_open: usize,
}

/// The other side of an open connection.
struct Peer {
    number: usize,
    socket: std::net::TcpStream,
}

impl Peer {
    /// A slow test must not take for open what it has only not yet seen the end of.
    fn has_closed(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Ok(0))
    }
}

impl Seen {
    fn begin(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.ends.push(None);
        self.ends.len() - 1
    }

    fn connect(&mut self, socket: std::net::TcpStream) -> usize {
        self.open.retain(|peer| !peer.has_closed());
        let number = self.opened;
        self.open.push(Peer { number, socket });
        self.opened += 1;
        self.most_open = self.most_open.max(self.open.len());
        number
    }

    fn disconnect(&mut self, number: usize) {
        self.open.retain(|peer| peer.number != number);
    }
}

pub struct Upstream {
    pub port: u16,
    is_tls: bool,
    shared: Arc<Shared>,
    stopped: CancellationToken,
    /// Its port, once it has stopped: else another listener could be given it.
    held: Mutex<Option<TcpSocket>>,
}

impl Drop for Upstream {
    /// What was sent must have been right, whatever the test was about.
    fn drop(&mut self) {
        self.stopped.cancel();
        if !std::thread::panicking() {
            let violations = &self.shared.seen.lock().unwrap().violations;
            assert!(
                violations.is_empty(),
                "the upstream got what it must not get: {violations:#?}"
            );
        }
    }
}

impl Upstream {
    /// From now on it listens there too.
    pub async fn also_at(&self, address: std::net::SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let (shared, stopped) = (self.shared.clone(), self.stopped.clone());
        tokio::spawn(accept(listener, None, shared, stopped));
    }

    /// From now on each new connection is reset before its request is read.
    pub fn reset_connections(&self) {
        self.shared.resets.store(true, Ordering::SeqCst);
    }

    pub fn url(&self) -> String {
        let (scheme, host) = if self.is_tls {
            ("https", "localhost")
        } else {
            ("http", "127.0.0.1")
        };
        format!("{scheme}://{host}:{}/cube/v4", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().requests.clone()
    }

    pub fn calls(&self) -> usize {
        self.shared.seen.lock().unwrap().requests.len()
    }

    pub fn last(&self) -> Request {
        self.requests().pop().expect("no request came")
    }

    /// Requests that have come and are not answered.
    pub fn running(&self) -> usize {
        let seen = self.shared.seen.lock().unwrap();
        seen.ends.iter().filter(|end| end.is_none()).count()
    }

    pub fn connections_opened(&self) -> usize {
        self.shared.seen.lock().unwrap().opened
    }

    pub fn open_connections(&self) -> usize {
        self.shared.seen.lock().unwrap().open.len()
    }

    pub fn highest_connections(&self) -> usize {
        self.shared.seen.lock().unwrap().most_open
    }

    /// As many as may count in any one second, wherever the vendor counts each call: anywhere
    /// between its first byte and the end of its answer.
    pub fn highest_calls_in_any_second(&self) -> usize {
        let (_, together) = self.counting_together(|_| true);
        together
    }

    /// Of the calls that are `picked`: how many there are, and the most that may count together in
    /// one second of which such a call is the last to begin, with others that began before.
    pub fn counting_together(&self, picked: impl Fn(&Request) -> bool) -> (usize, usize) {
        let seen = self.shared.seen.lock().unwrap();
        let calls = || seen.requests.iter().zip(&seen.ends);
        let with = |last: &Request| {
            let counts = |(call, end): &(&Request, &Option<Instant>)| {
                let is_over = |end: Instant| end + Duration::from_secs(1) <= last.at;
                call.at <= last.at && !end.is_some_and(is_over)
            };
            calls().filter(counts).count()
        };
        let together = seen.requests.iter().filter(|call| picked(call)).map(with);
        (together.clone().count(), together.max().unwrap_or(0))
    }

    /// Nobody listens any more, and every connection is closed.
    pub async fn stop(&self) {
        self.stopped.cancel();
        until("its port is held, and nobody listens", async || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            let is_held = socket.bind(([127, 0, 0, 1], self.port).into()).is_ok();
            *self.held.lock().unwrap() = Some(socket);
            is_held
        })
        .await;
        until("no open connection", async || self.open_connections() == 0).await;
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stopped: CancellationToken,
) {
    while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
        if shared.resets.load(Ordering::SeqCst) {
            stream.set_zero_linger().unwrap();
            continue; // without a look at what comes
        }
        stream.set_nodelay(true).unwrap();
        let stream = stream.into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let number = shared.seen.lock().unwrap().connect(socket);
        let stream = TcpStream::from_std(stream).unwrap();
        let (shared, tls, stopped) = (shared.clone(), tls.clone(), stopped.clone());
        tokio::spawn(async move {
            let served = async {
                match tls {
                    None => plain(stream, &shared).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                            http2::serve(stream, &shared, number).await
                        }
                        Ok(stream) => serve(BufReader::new(stream), &shared).await.map(|_| ()),
                        Err(error) => Err(error),
                    },
                }
            };
            let _ = stopped.run_until_cancelled(served).await;
            shared.seen.lock().unwrap().disconnect(number);
        });
    }
}

/// As a reset needs the socket itself.
async fn plain(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let must_reset = serve(BufReader::new(&mut stream), shared).await?;
    if must_reset {
        stream.set_zero_linger()?;
    }
    Ok(())
}

/// True if the connection is to be reset.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    shared: &Shared,
) -> io::Result<bool> {
    while let Some(request) = read(&mut stream).await? {
        if shared.resets.load(Ordering::SeqCst) {
            return Ok(true); // nobody has looked at it
        }
        let answer = shared.answer(&request).await;
        match write(&mut stream, &answer).await? {
            After::GoOn => {
                if let Some((gate, bytes)) = &answer.more {
                    gate.pass().await;
                    stream.write_all(bytes).await?;
                    stream.flush().await?;
                }
            }
            After::Close => return Ok(false),
            After::Reset => return Ok(true),
        }
    }
    Ok(false)
}

enum After {
    GoOn,
    Close,
    Reset,
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    answer: &Answer,
) -> io::Result<After> {
    let mut head = format!("HTTP/1.1 {} Answer\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name == "Date") {
        head += "Date: Tue, 24 Nov 2026 00:00:00 GMT\r\n";
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let whole = |framing: &str| [head.as_bytes(), framing.as_bytes(), b"\r\n"].concat();
    let length = format!("Content-Length: {}\r\n", answer.body.len());
    let half = answer.body.len() / 2;
    match answer.fault {
        None => {
            stream
                .write_all(&[whole(&length), answer.body.clone()].concat())
                .await?;
        }
        Some(Fault::Drop) => return Ok(After::Close),
        Some(Fault::Reset) => return Ok(After::Reset),
        Some(Fault::Hang) => {
            let _ = stream.read(&mut [0]).await?; // until the peer gives up
            return Ok(After::Close);
        }
        Some(Fault::Trickle) => {
            stream.write_all(&whole(&length)).await?;
            for byte in answer.body[..half].chunks(1) {
                stream.write_all(byte).await?;
                stream.flush().await?;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await; // it is slow
            }
            let _ = stream.read(&mut [0]).await?; // until the peer gives up
            return Ok(After::Close);
        }
        Some(Fault::Cut) => {
            stream
                .write_all(&[whole(&length), answer.body[..half].to_vec()].concat())
                .await?;
            return Ok(After::Close);
        }
        Some(Fault::CloseDelimited) => {
            stream
                .write_all(&[whole("Connection: close\r\n"), answer.body.clone()].concat())
                .await?;
            return Ok(After::Close);
        }
        Some(Fault::Chunked) => {
            stream
                .write_all(&whole("Transfer-Encoding: chunked\r\n"))
                .await?;
            for part in [&answer.body[..half], &answer.body[half..], &[]] {
                stream
                    .write_all(
                        &[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat(),
                    )
                    .await?;
            }
        }
        Some(Fault::Interim) => {
            let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_vec();
            stream
                .write_all(&[interim, whole(&length), answer.body.clone()].concat())
                .await?;
        }
        Some(Fault::CloseAfter) => {
            stream
                .write_all(&[whole(&length), answer.body.clone()].concat())
                .await?;
            return Ok(After::Close);
        }
        Some(Fault::Wire) => stream.write_all(&answer.body).await?,
        Some(Fault::WireThenClose) => {
            stream.write_all(&answer.body).await?;
            return Ok(After::Close);
        }
        Some(Fault::ResetStream(_) | Fault::ResetMidBody(_) | Fault::GoAway) => {
            unreachable!("this connection has no streams")
        }
    }
    stream.flush().await?;
    Ok(After::GoOn)
}

/// One request; none at the end of the connection.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        match header.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut request = Request {
        line: line.trim_end().to_owned(),
        headers,
        body: String::new(),
        at: Instant::now(),
    };
    let length = request
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    request.body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok(Some(request))
}

/// What is wrong with a request, if anything: the vendor would refuse it, or it tells more than it
/// should.
fn fault_of(
    request: &Request,
    secrets: &BTreeMap<String, String>,
    may_come: Option<&str>,
) -> Option<String> {
    const KNOWN: [&str; 7] = [
        "host",
        "content-type",
        "accept",
        "accept-encoding",
        "accept-language",
        "user-agent",
        "content-length",
    ];
    let stranger = request
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .find(|name| !KNOWN.contains(&name.as_str()) && may_come != Some(name));
    if let Some(name) = stranger {
        return Some(format!("a header that must not come here: {name}"));
    }
    if !request.line.starts_with("POST /cube/v4/") || !request.line.contains(" HTTP/") {
        return Some(format!(
            "a request line that must not come here: {}",
            request.line
        ));
    }
    if request.header("content-type") != Some("application/json") {
        return Some("not application/json".into());
    }
    signature_fault(&request.body, secrets).err()
}

/// The default profile of linksfield-api.md §2.2 over the raw tokens, so that nothing can get lost
/// on the way.
fn signature_fault(body: &str, secrets: &BTreeMap<String, String>) -> Result<(), String> {
    let members: BTreeMap<Vec<u16>, Box<RawValue>> =
        serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(body)
            .map_err(|error| format!("not JSON: {error}"))?
            .into_iter()
            .map(|(key, value)| (key.encode_utf16().collect(), value))
            .collect();
    let text = |key: &str| -> Result<String, String> {
        let value = members
            .get(&key.encode_utf16().collect::<Vec<_>>())
            .ok_or(format!("no {key}"))?;
        serde_json::from_str(value.get()).map_err(|_| format!("{key} is no string"))
    };
    let (access_code, sign, timestamp) = (text("access_code")?, text("sign")?, text("timestamp")?);
    if text("version")? != "2.0" {
        return Err("another version".into());
    }
    let seconds: i64 = timestamp
        .parse()
        .map_err(|_| "timestamp is no number of seconds")?;
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    if (now - seconds).abs() > 60 {
        return Err(format!("timestamp {timestamp} is not now"));
    }
    let mut content = Vec::new();
    for (key, value) in &members {
        let key = String::from_utf16(key).unwrap();
        if matches!(value.get(), "null" | "\"\"" | "[]" | "{}") {
            return Err(format!("{key} is empty, and on the wire all the same"));
        }
        if key != "sign" {
            content.push(format!(
                "{}:{}",
                serde_json::to_string(&key).unwrap(),
                value.get()
            ));
        }
    }
    let secret = secrets
        .get(&access_code)
        .ok_or(format!("no account {access_code}"))?;
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{{{}}}", content.join(",")).as_bytes());
    let expected = STANDARD.encode(mac.finalize().into_bytes());
    if sign == expected {
        Ok(())
    } else {
        Err(format!("bad signature of {body}"))
    }
}
