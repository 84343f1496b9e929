//! A vendor that speaks HTTP/2 frame by frame (RFC 9113, section 4.1), for what no library would
//! do.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{PATIENCE, page};

/// Reasons (RFC 9113, section 7).
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// Such a vendor.
pub struct Frames {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// To be kept until all is said: closed with something unread it is reset, which may overtake what
/// it has sent.
pub struct Peer {
    stream: TlsStream<TcpStream>,
    /// When it last sent something.
    pub sent_at: Instant,
    /// Is a head told of, before the rest of its request?
    pub tells_heads: bool,
    /// Is a part of a body told of, before the rest?
    pub tells_parts: bool,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Told {
    /// The head of one, if that is told.
    Head(u32),
    /// A part of a body, if that is told.
    Part(u32),
    /// A whole request, on this stream.
    Request(u32),
    Ping([u8; 8]),
    /// This stream is given up.
    Reset(u32),
    Ended,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// RFC 7541, appendix A.
const STATUS_200: [u8; 1] = [0x88];

impl Frames {
    pub async fn listen(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, acceptor }
    }

    pub fn url(&self) -> String {
        format!(
            "https://localhost:{}",
            self.listener.local_addr().unwrap().port()
        )
    }

    /// Nobody connects for a while in which somebody would have.
    pub async fn is_left_alone(&self) -> bool {
        let connected = timeout(Duration::from_millis(200), self.listener.accept());
        connected.await.is_err()
    }

    pub async fn accept(&self) -> Peer {
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("no connection").unwrap();
        let mut stream = self.acceptor.accept(stream).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let mut peer = Peer {
            stream,
            sent_at: Instant::now(),
            tells_heads: false,
            tells_parts: false,
        };
        peer.send(SETTINGS, 0, 0, &[]).await;
        peer
    }
}

impl Peer {
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream
            .write_all(&[&head, payload].concat())
            .await
            .unwrap();
        self.stream.flush().await.unwrap();
        self.sent_at = Instant::now();
    }

    /// What comes next of what matters here.
    pub async fn told(&mut self) -> Told {
        timeout(PATIENCE, self.read()).await.expect("nothing comes")
    }

    /// The same, where signs of life are asked for or not.
    pub async fn told_beside_pings(&mut self) -> Told {
        loop {
            match self.told().await {
                Told::Ping(data) => self.send(PING, ACK, 0, &data).await,
                told => return told,
            }
        }
    }

    async fn read(&mut self) -> Told {
        loop {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).await.is_err() {
                return Told::Ended;
            }
            let [_, a, b, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; usize::from(a) << 8 | usize::from(b)];
            self.stream.read_exact(&mut payload).await.unwrap();
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                DATA if flags & END_STREAM != 0 => {
                    return Told::Request(u32::from_be_bytes(stream));
                }
                DATA if self.tells_parts => return Told::Part(u32::from_be_bytes(stream)),
                HEADERS if self.tells_heads => return Told::Head(u32::from_be_bytes(stream)),
                RST_STREAM => return Told::Reset(u32::from_be_bytes(stream)),
                PING if flags & ACK == 0 => return Told::Ping(payload.try_into().unwrap()),
                _ => {}
            }
        }
    }

    /// A page.
    pub async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, &STATUS_200).await;
        self.send(DATA, END_STREAM, stream, &page(1, 2, 105).body)
            .await;
    }

    /// Half of an answer.
    pub async fn begin_to_answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, &STATUS_200).await;
        let body = page(1, 2, 105).body;
        self.send(DATA, 0, stream, &body[..body.len() / 2]).await;
    }

    pub async fn reset(&mut self, stream: u32, reason: u32) {
        self.send(RST_STREAM, 0, stream, &reason.to_be_bytes())
            .await;
    }

    /// From now on: a setting, and its value.
    pub async fn set(&mut self, setting: u16, value: u32) {
        let payload = [&setting.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// So many more bytes of bodies may come, of all streams together.
    pub async fn open_window(&mut self, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes()).await;
    }

    pub async fn go_away(&mut self, last: u32, reason: u32) {
        let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }
}
