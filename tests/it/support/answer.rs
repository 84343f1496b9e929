//! What the upstream answers, and how it misbehaves.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

/// An answer, described piece by piece.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub fault: Option<Fault>,
    pub gate: Option<Gate>,
    pub delay: Duration,
    /// What comes on the same connection after the answer, once the gate is open.
    pub more: Option<(Gate, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed before a byte of the answer.
    Drop,
    /// The connection is reset before a byte of the answer.
    Reset,
    /// The head promises all of the body; half of it comes.
    Cut,
    /// No answer, ever.
    Hang,
    /// The head promises all of the body, which comes a byte at a time and never ends.
    Trickle,
    /// The end of the body is the end of the connection.
    CloseDelimited,
    /// The body comes in chunks.
    Chunked,
    /// An interim response comes first.
    Interim,
    /// The connection is closed after a whole answer, without a word.
    CloseAfter,
    /// The body is all that comes: its bytes have a head of their own.
    Wire,
    /// The same, and then the end of the connection.
    WireThenClose,
    /// HTTP/2: the stream is reset for this reason (RFC 9113, section 7) before a byte of the
    /// answer.
    ResetStream(u32),
    /// HTTP/2: the stream is reset for this reason after half of the body, whose length the head
    /// does not tell.
    ResetMidBody(u32),
    /// HTTP/2: no new stream is taken from now on; this request and the others that have come are
    /// answered.
    GoAway,
}

/// Holds an answer back until it is opened, and tells when its request has come.
#[derive(Debug, Clone)]
pub struct Gate {
    opened: Arc<watch::Sender<bool>>,
    arrived: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            opened: Arc::new(watch::Sender::new(false)),
            arrived: Arc::new(Semaphore::new(0)),
        }
    }

    pub fn open(&self) {
        self.opened.send_replace(true);
    }

    pub fn close(&self) {
        self.opened.send_replace(false);
    }

    /// Waits for one more request to have come to the gate.
    pub async fn arrived(&self) {
        let arrived = tokio::time::timeout(super::PATIENCE, self.arrived.acquire()).await;
        arrived
            .expect("no request came to the gate")
            .unwrap()
            .forget();
    }

    pub async fn pass(&self) {
        self.arrived.add_permits(1);
        let mut opened = self.opened.subscribe();
        opened.wait_for(|opened| *opened).await.unwrap();
    }
}

/// An answer of this status with this JSON.
pub fn answer(status: u16, body: &Value) -> Answer {
    raw(status, body.to_string())
}

/// An answer of this status with these bytes.
pub fn raw(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status,
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: body.into(),
        fault: None,
        gate: None,
        delay: Duration::ZERO,
        more: None,
    }
}

/// These bytes exactly, head included.
pub fn wire(bytes: impl Into<Vec<u8>>) -> Answer {
    raw(200, bytes).fault(Fault::Wire)
}

/// The bytes of a success with these lines before the one of its length.
pub fn with_lines(lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The vendor's envelope of a success.
pub fn success(data: &Value) -> Answer {
    answer(
        200,
        &json!({"code": "0000", "data": data, "message": "成功", "success": true}),
    )
}

/// The vendor's envelope of a failure, which comes with HTTP 200.
pub fn failure(code: &str) -> Answer {
    answer(
        200,
        &json!({"code": code, "data": null, "message": "失败", "success": false}),
    )
}

/// A page of orders in the vendor's shape.
pub fn page(number: u64, size: u64, total: u64) -> Answer {
    let first = (number - 1) * size;
    let orders: Vec<Value> = (first..total.min(first + size))
        .map(|order| json!({"orderCode": format!("L{order:09}")}))
        .collect();
    success(&json!({
        "page": {"cur_page_no": number, "page_size": size, "total_count": total, "total_pages": total.div_ceil(size)},
        "sign": "mcawIhwC6S7nEWGEic8qq8rB3pw=",
        "package_order_num": orders.len(),
        "package_order": orders,
    }))
}

impl Answer {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    pub fn and_then(mut self, gate: &Gate, bytes: impl Into<Vec<u8>>) -> Self {
        self.more = Some((gate.clone(), bytes.into()));
        self
    }

    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}
