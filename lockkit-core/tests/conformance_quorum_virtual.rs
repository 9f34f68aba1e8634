//! The conformance suite on a quorum of memory stores, in virtual time.

mod of_members;

use std::process::ExitCode;

use lockkit_core::conformance::{self, Time};
use of_members::OfMembers;

fn main() -> ExitCode {
    conformance::main(OfMembers::new(Time::Virtual))
}
