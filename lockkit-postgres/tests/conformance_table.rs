//! The conformance suite on a real PostgreSQL, strategy "table".

mod fixture;

use std::process::ExitCode;

use fixture::Postgres;
use lockkit_postgres::Strategy;

fn main() -> ExitCode {
    lockkit_core::conformance::main(Postgres::new(Strategy::Table))
}
