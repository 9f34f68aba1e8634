//! What the tests on a real server share.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part of it

pub(crate) mod fixture;
