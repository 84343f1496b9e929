//! Behaviour of the gateway over real sockets.
