//! A client at the byte level: it can send what no library would.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub async fn connect(address: &str) -> Connection {
    try_to_connect(address).await.unwrap()
}

/// As [`connect`], where nobody may listen any more.
pub async fn try_to_connect(address: &str) -> io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Connection(BufReader::new(stream)))
}

/// As [`connect`], with room for so many bytes that have come and are not read; the kernel may
/// double it.
pub async fn connect_with_window(address: &str, bytes: u32) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    let stream = socket.connect(address.parse().unwrap()).await.unwrap();
    Connection(BufReader::new(stream))
}

/// A POST with the headers that it needs and those given.
pub fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        head += "Content-Type: application/json\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

impl Connection {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// As [`send`](Self::send), where the connection may have ended.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes).await
    }

    pub async fn exchange(&mut self, request: &[u8]) -> Reply {
        self.send(request).await;
        self.reply().await
    }

    pub async fn reply(&mut self) -> Reply {
        timeout(PATIENCE, self.read())
            .await
            .expect("no answer")
            .unwrap()
            .expect("the connection ended before an answer")
    }

    /// The next bytes, so many.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.try_bytes(count).await.unwrap()
    }

    /// As [`bytes`](Self::bytes), where the connection may end before.
    pub async fn try_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = timeout(PATIENCE, self.0.read_exact(&mut bytes)).await;
        read.expect("no more comes").map(|_| bytes)
    }

    /// All bytes until the other side closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await;
        read.expect("the connection stays open").unwrap();
        bytes
    }

    /// Waits until something of an answer has come, and leaves it there.
    pub async fn answered(&mut self) {
        let some = timeout(PATIENCE, self.0.fill_buf()).await;
        assert!(!some.expect("no answer").unwrap().is_empty(), "no answer");
    }

    /// Waits until the other side closes or resets the connection; fails if anything more comes.
    pub async fn ended(&mut self) {
        let mut byte = [0];
        match timeout(PATIENCE, self.0.read(&mut byte))
            .await
            .expect("the connection stays open")
        {
            Ok(0) | Err(_) => {}
            Ok(_) => panic!("there is more"),
        }
    }

    /// Waits until the other side closes the connection; a reset will not do, nor will anything
    /// more.
    pub async fn end(&mut self) {
        let more = timeout(PATIENCE, self.0.fill_buf()).await;
        let more = more.expect("the connection stays open");
        assert!(more.expect("a reset").is_empty(), "there is more");
    }

    /// Nothing more is sent.
    pub async fn finish(&mut self) {
        let _ = self.0.get_mut().shutdown().await; // the other side may be gone
    }

    /// One answer; none if the connection ended cleanly instead.
    pub async fn read(&mut self) -> io::Result<Option<Reply>> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut reply = Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            line.clear();
            self.0.read_line(&mut line).await?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => reply
                    .headers
                    .push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        if status == 100 {
            return Ok(Some(reply));
        }
        if let Some(length) = reply.header("content-length") {
            reply.body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut reply.body).await?;
        } else if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut reply.body).await?;
        }
        Ok(Some(reply))
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await?;
            let length = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).await?;
            if length == 0 {
                return Ok(());
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of an error that the gateway made, with its `sent`.
    pub fn problem(&self) -> (u16, String, String) {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let text = |key: &str| self.json()[key].as_str().unwrap().to_owned();
        (self.status, text("code"), text("sent"))
    }
}

impl Connection {
    /// As [`exchange`](Self::exchange), on a connection that may have been closed.
    pub async fn exchange_again(&mut self, request: &[u8]) -> io::Result<Option<Reply>> {
        self.0.get_mut().write_all(request).await?;
        timeout(PATIENCE, self.read()).await.expect("no answer")
    }
}
