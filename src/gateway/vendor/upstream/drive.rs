//! Who drives a connection, and until when?

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::gateway::brakes::Brakes;

/// The vendor has at least so long to close its side after we have closed ours; then it is reset.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A connection is driven until this is dropped, and a little while longer.
pub(super) type DriverGuard = oneshot::Sender<Infallible>;

/// Drives a connection to its end. One that was given up has a little while for it.
pub(super) async fn until_given_up(
    given_up: oneshot::Receiver<Infallible>,
    drive: impl Future<Output = ()>,
) {
    let too_long = async {
        let _ = given_up.await;
        sleep(LINGER).await; // hyper ends by itself before that, unless the vendor does not read
    };
    tokio::select! {
        biased;
        () = too_long => {}
        () = drive => {}
    }
}

/// Drives a connection. A request looks at the brakes as it goes into the connection, and has left
/// or is kept back when whoever changes them goes on.
pub(super) async fn move_on<T>(brakes: &Brakes, drive: impl Future<Output = T>) -> T {
    let mut drive = pin!(drive);
    poll_fn(|cx| {
        // For one step, and never while the connection waits: a change of the brakes would wait
        // with it.
        let _leaving = brakes.leave();
        drive.as_mut().poll(cx)
    })
    .await
}
