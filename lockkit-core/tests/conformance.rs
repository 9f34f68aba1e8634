//! The conformance suite on the memory provider, in real time.

mod in_memory;

use std::process::ExitCode;

use in_memory::InMemory;
use lockkit_core::conformance::{self, Time};

fn main() -> ExitCode {
    conformance::main(InMemory::new(Time::Real))
}
