//! The command `lockkit`: its library is the whole of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockkit_cli::main()
}
