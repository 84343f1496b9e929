//! How does a future come into a box?

use std::pin::Pin;

/// A future that has not begun, in a box. `Box::pin` copies all the room that it will ever need, for a command or a fill several
/// KiB that no core has at hand, and what spawns a task copies it again and again; this one, optimised, makes it in its place.
pub(super) fn boxed<F>(future: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, future()))
}
