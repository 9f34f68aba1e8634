//! The fences of this crate beside the cases, and fences with one mistake each.
#![cfg(feature = "conformance")]

mod alone;
mod broken;
mod memory;
