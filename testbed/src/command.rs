//! Tools that are run to their end.

use std::io;
use std::process::Command;

use crate::{Error, Result};

/// What it prints.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(Error::Command { command: format!("{command:?}"), text })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing { program }),
        Err(error) => Err(Error::system(format!("starting {program}"))(error)),
    }
}
