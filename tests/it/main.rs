//! Behaviour of the gateway over real sockets, in front of a strict and programmable upstream.
#![allow(missing_docs)] // each test's name is its sentence

mod bounds;
mod cache;
mod commands;
mod connection;
mod drain;
mod errors;
mod example;
mod limits;
mod process;
mod secrets;
mod sign;
mod support;
mod tenants;
mod tls;
