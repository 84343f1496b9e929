//! Futures in memory of their own, and work that goes on when whoever waits for it has gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future that has not begun, in a box. `Box::pin` copies all the room that it will ever need,
/// 3.7 KiB for a command, and what spawns a task copies it ten times, 9 KiB for a fill. With
/// optimisation this one makes it in its place.
pub fn boxed<F>(future: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, future()))
}

type BoxedWork<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Work that is driven by whoever waits for it. Dropped before its end, it goes on as a task of its
/// own, and what comes of it is handed to `left`.
///
/// A task from the start would be simpler, but one more to wake up, twice, for each piece of work.
pub struct DetachOnDrop<T, L>
where
    T: Send + 'static,
    L: FnOnce(T) + Send + 'static,
{
    /// Both until it has ended.
    rest: Option<(BoxedWork<T>, L)>,
}

impl<T, L> DetachOnDrop<T, L>
where
    T: Send + 'static,
    L: FnOnce(T) + Send + 'static,
{
    /// Work that has not begun.
    pub fn new<F>(work: impl FnOnce() -> F, left: L) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let rest = Some((boxed(work) as BoxedWork<T>, left));
        Self { rest }
    }
}

impl<T, L> Future for DetachOnDrop<T, L>
where
    T: Send + 'static,
    L: FnOnce(T) + Send + Unpin + 'static,
{
    /// None if it has panicked.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (work, _) = self.rest.as_mut().expect("it has not ended yet");
        // A panic must not reach who waits: it has to answer, and it knows no more of the work than
        // that.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(ended)) => Some(ended),
            Err(_) => None, // the hook has told of it
        };
        self.rest = None;
        Poll::Ready(ended)
    }
}

impl<T, L> Drop for DetachOnDrop<T, L>
where
    T: Send + 'static,
    L: FnOnce(T) + Send + 'static,
{
    fn drop(&mut self) {
        let Some((work, left)) = self.rest.take() else {
            return;
        };
        // Outside of a runtime, as at the end of the process, nothing takes the task: the work is
        // dropped with its guards.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { left(work.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_gets_what_comes_of_it() {
        let work = DetachOnDrop::new(|| async { 7 }, |_| unreachable!("nobody has left"));
        assert_eq!(work.await, Some(7));
    }

    #[tokio::test]
    async fn it_goes_on_where_it_was_when_whoever_waits_has_gone() {
        let (go_on, waits) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let mut work = DetachOnDrop::new(
            || async { waits.await.unwrap() },
            |ended: u8| tell.send(ended).unwrap(),
        );
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go_on.send(7).unwrap();
        assert_eq!(told.await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_and_not_who_waits() {
        let work = DetachOnDrop::new(
            || async { panic!("as planned") },
            |(): ()| unreachable!("nobody has left"),
        );
        assert_eq!(work.await, None);
    }

    #[test]
    fn outside_of_a_runtime_it_is_dropped() {
        let (tell, told) = oneshot::channel::<()>();
        let waits = async move {
            let _held = tell;
            std::future::pending::<()>().await;
        };
        drop(DetachOnDrop::new(|| waits, |()| {}));
        assert!(told.blocking_recv().is_err());
    }
}
