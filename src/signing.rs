//! Which text is signed, and how?

pub mod params;
pub mod sign;
