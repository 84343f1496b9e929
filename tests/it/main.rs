//! Behaviour of the gateway over real sockets, in front of a strict and programmable upstream.
#![allow(missing_docs)] // each test's name is its sentence
#![allow(clippy::unwrap_used)] // a test that meets a None has failed
#![allow(clippy::too_many_lines)] // of which most are rows of a table
#![allow(clippy::float_cmp)] // counters are whole numbers
#![allow(clippy::format_push_string, clippy::format_collect)] // a test may allocate
#![allow(clippy::missing_panics_doc)]

mod admin;
mod answers;
mod bounds;
mod brakes;
mod cache;
mod calibrate;
mod clocks;
mod commands;
mod connection;
mod crawl;
mod demo;
mod documents;
mod doubt;
mod drain;
mod errors;
mod example;
mod faults;
mod hold;
mod http2;
mod http_caching;
mod idempotency;
mod in_memory;
mod limits;
mod log;
mod matrix;
mod model;
mod open_files;
mod page;
mod places;
mod process;
mod reload;
mod rooms;
mod secrets;
mod sign;
mod signals;
mod snapshots;
mod state_disk;
mod support;
mod tenants;
mod thrift;
mod tls;
mod unclassified;
mod unread;
mod watched;
