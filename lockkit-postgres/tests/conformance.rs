//! The conformance suite on a real PostgreSQL, strategy "advisory".

mod common;

use std::process::ExitCode;

use common::fixture::Postgres;
use lockkit_postgres::Strategy;

fn main() -> ExitCode {
    lockkit_core::conformance::main(Postgres::new(Strategy::Advisory))
}
