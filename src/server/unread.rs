//! What becomes of the bytes that an answer did not wait for?
//!
//! A refusal does not wait for the body of its request. A connection that is closed while bytes are
//! on their way is reset, and a reset destroys what the peer has not read yet, the refusal first of
//! all. So what is unread is read and dropped. Where the end of the body is certain and near, it is
//! *discarded* while the refusal is written, and the connection goes on (RFC 9112, section 9.3).
//! Elsewhere the connection *lingers* (section 9.6): it is closed for writing, and what still comes
//! is dropped until the peer has closed it too.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Version;
use hyper::body::Body as HttpBody;
use hyper::header::{CONNECTION, EXPECT, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::body::Received;

/// How long a body is discarded in all, and how long a connection lingers: a drip of bytes is worth
/// no more.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the answer waits for the end of a body of unknown length: by then most have ended, or
/// are found too long, and it is known whether the connection goes on.
const GRACE: Duration = Duration::from_millis(500);

/// Bytes that a lingering connection drops: some clients send all of a body before they read why it
/// was refused.
const MAX_LINGERING: u64 = 64 * 1024 * 1024;

/// Bytes that are dropped at a time.
const CHUNK: usize = 64 * 1024;

/// The bodies of a connection whose ends have not been read.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<AtomicUsize>);

impl Unread {
    /// Are there any?
    pub fn is_some(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// Nobody wants the rest of this body. It is discarded, at most `most` bytes of the whole, else
    /// the `answer` ends the connection. The `guard` is dropped with the body.
    pub async fn leave(
        &self,
        head: &request::Parts,
        body: Received,
        most: u64,
        answer: &mut HeaderMap,
        guard: impl Send + 'static,
    ) {
        self.0.fetch_add(1, Ordering::AcqRel);
        if closes(answer) {
            return;
        }
        if !is_discardable(head, &body, most) {
            return close(answer);
        }
        let is_length_known = body.size_hint().exact().is_some();
        let (left, unread) = (most - body.bytes(), self.clone());
        let mut discarding = Box::pin(async move {
            let _guard = guard;
            let has_ended = discard(body, left).await; // dropped before its end, it ends the connection
            if has_ended {
                unread.0.fetch_sub(1, Ordering::AcqRel);
            }
            has_ended
        });
        if !is_length_known {
            match timeout(GRACE, &mut discarding).await {
                Ok(true) => return,
                Ok(false) => return close(answer),
                Err(_) => {}
            }
        }
        tokio::spawn(discarding);
    }
}

/// Ends the connection with this answer.
pub fn close(answer: &mut HeaderMap) {
    answer.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Does the connection end with this answer?
pub fn closes(answer: &HeaderMap) -> bool {
    answer.contains_key(CONNECTION) // which has no other value here
}

/// Is it certain that the rest of a body comes, where it ends, and that the whole has at most
/// `most` bytes?
///
/// With both `Transfer-Encoding` and `Content-Length` hyper frames by the former, shows no trace of
/// the latter, and ends the connection with the answer (section 6.1). Such a body is dropped as if
/// it had no length: within the same bounds, so it costs what anybody can cost who leaves the
/// length out, and nothing behind it runs. To know better, each head would have to be searched
/// before hyper reads it, those of hits too.
fn is_discardable(head: &request::Parts, body: &Received, most: u64) -> bool {
    let may_stay_away = head.headers.contains_key(EXPECT) && !body.is_asked_for();
    head.version == Version::HTTP_11 // an older peer may count on the end of the connection
        && !may_stay_away
        && !body.is_broken()
        && is_framed_plainly(&head.headers)
        && body.bytes() + body.size_hint().lower() <= most
}

fn is_framed_plainly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings.next().is_none_or(is_chunked) && codings.next().is_none()
}

/// Drops the rest of a body of which at most `most` bytes may come. True once it has ended.
async fn discard(body: impl HttpBody<Data = impl bytes::Buf>, most: u64) -> bool {
    let mut body = pin!(body);
    let mut dropped = 0;
    let dropping = async {
        while !body.is_end_stream() {
            match body.frame().await {
                Some(Ok(frame)) => {
                    dropped += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                    if dropped > most {
                        return false;
                    }
                }
                Some(Err(_)) => return false,
                None => break,
            }
        }
        true
    };
    timeout(PATIENCE, dropping).await.unwrap_or(false)
}

/// Closes a connection for writing, and drops what still comes until the peer has closed it too.
pub async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = stream.shutdown().await; // hyper has not where it had no answer
    let mut stream = stream.take(MAX_LINGERING);
    let mut chunk = vec![0; CHUNK];
    let dropping = async { while stream.read(&mut chunk).await.is_ok_and(|read| read > 0) {} };
    let _ = timeout(PATIENCE, dropping).await; // who has not read the answer by then has had its time
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;

    /// So many bytes, one every 100 ms.
    fn drip(bytes: usize) -> impl HttpBody<Data = Bytes> {
        StreamBody::new(stream::unfold(bytes, async |left| {
            let left = left.checked_sub(1)?;
            sleep(Duration::from_millis(100)).await;
            let frame = Frame::data(Bytes::from_static(b"x"));
            Some((Ok::<_, Infallible>(frame), left))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_two_seconds_in_all_however_often_a_byte_comes() {
        for (bytes, has_ended, after) in [(19, true, 1_900), (1_000, false, 2_000)] {
            let start = Instant::now();
            assert_eq!(discard(drip(bytes), u64::MAX).await, has_ended);
            assert_eq!(start.elapsed(), Duration::from_millis(after));
        }
    }

    #[tokio::test]
    async fn a_body_has_so_many_bytes_and_no_more() {
        for (size, has_ended) in [(0, true), (10, true), (11, false)] {
            let body = Full::<Bytes>::from(vec![b'x'; size]);
            assert_eq!(discard(body, 10).await, has_ended, "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_lingers_until_its_peer_has_closed_and_for_two_seconds_in_all() {
        for (bytes, after) in [(3, 300), (1_000, 2_000)] {
            let (ours, mut peers) = duplex(64);
            tokio::spawn(async move {
                for _ in 0..bytes {
                    sleep(Duration::from_millis(100)).await;
                    let _ = peers.write_all(b"x").await;
                }
            });
            let start = Instant::now();
            linger(ours).await;
            assert_eq!(start.elapsed(), Duration::from_millis(after));
        }
    }
}
