//! A caching, signing reverse proxy in front of the Linksfield IoT-SIM platform.

pub mod simulator;
