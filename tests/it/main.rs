//! Behaviour of the gateway over real sockets, in front of a strict and programmable upstream.
#![allow(missing_docs)] // each test's name is its sentence

mod example;
mod support;
