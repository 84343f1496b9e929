//! What is asked, by whom, and in which words?

pub mod directives;
pub mod head;
pub mod language;
pub mod route;
pub mod tenant;
