//! Does the vendor read what is written to a connection of HTTP/2?

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};

/// Does the vendor read? A clone is of the same connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Backpressure(Arc<Mutex<Pressure>>);

#[derive(Debug, Default)]
struct Pressure {
    /// All that was written has left, and the next byte would. Not known before the first write.
    is_off: bool,
    waiting: Vec<Waker>,
}

impl Backpressure {
    fn lock(&self) -> MutexGuard<'_, Pressure> {
        self.0.lock()
    }

    /// Ready when what is given now leaves at once.
    fn poll_off(&self, cx: &mut Context<'_>) -> Poll<MutexGuard<'_, Pressure>> {
        let mut pressure = self.lock();
        if pressure.is_off {
            return Poll::Ready(pressure);
        }
        let waker = cx.waker();
        if !pressure.waiting.iter().any(|known| known.will_wake(waker)) {
            pressure.waiting.push(waker.clone());
        }
        Poll::Pending
    }

    /// Waits until what is given next leaves at once.
    pub(super) async fn off(&self) {
        poll_fn(|cx| self.poll_off(cx).map(drop)).await;
    }

    /// Ready for one body at a time, as the room is for one: the next waits until this one was
    /// written.
    pub(super) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_off(cx)
            .map(|mut pressure| pressure.is_off = false)
    }

    /// Something is being written: whether more would leave at once is known after the next flush.
    pub(super) fn apply(&self) {
        self.lock().is_off = false;
    }

    pub(super) fn take_off(&self) {
        let mut pressure = self.lock();
        pressure.is_off = true;
        let waiting = std::mem::take(&mut pressure.waiting);
        drop(pressure); // whoever is woken looks at it, maybe at once on another thread
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_off(&self) -> bool {
        self.lock().is_off
    }
}
