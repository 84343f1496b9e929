//! How does a future come into a box?

use std::pin::Pin;

/// A future that has not begun, in a box. `Box::pin` copies all the room that it will ever need, 3.7 KiB for a command, and what
/// spawns a task copies it ten times, 9 KiB for a fill. With optimisation this one makes it in its place.
pub(super) fn boxed<F>(future: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, future()))
}
