//! What is a query answered with?

pub mod cache;

pub(in crate::gateway) mod crawl;
pub(in crate::gateway) mod scopes;
