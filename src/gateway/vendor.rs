//! How is Linksfield called?

pub mod breaker;
pub mod quota;
pub mod retry;
pub mod skew;
pub mod unclassified;

pub(in crate::gateway) mod call;
pub(in crate::gateway) mod pace;
