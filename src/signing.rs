//! Which text is signed, and how?

pub mod form;
pub mod params;
pub mod sign;
