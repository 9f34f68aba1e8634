//! Packages of Python's, for the clients that other languages have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::command::run;
use crate::{Error, Result};

/// The Python of a virtual environment with this version of a package, made once and kept below
/// `directory`.
///
/// # Errors
/// [`Error::Missing`] where there is no Python; [`Error::Command`] where it lacks `venv` or the
/// package cannot be had.
pub fn with(package: &str, version: &str, directory: &Path) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _making = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = directory.join(format!("{package}-{version}"));
    if !kept.exists() {
        let fresh = directory.join(format!("{package}-{version}.{}", std::process::id()));
        make(package, version, &fresh).map_err(named)?;
        // Whichever process is first wins; the others have made the same.
        if fs::rename(&fresh, &kept).is_err() {
            fs::remove_dir_all(&fresh).map_err(Error::system("removing what was made twice"))?;
        }
    }
    Ok(kept.join("bin/python"))
}

fn make(package: &str, version: &str, environment: &Path) -> Result<()> {
    run(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let mut install = Command::new(environment.join("bin/python"));
    run(install.args(pip).arg(format!("{package}=={version}"))).map(drop)
}

/// Python is there without `venv` too.
fn named(error: Error) -> Error {
    match error {
        Error::Command { command, text } => {
            Error::Command { command, text: format!("{text}\nrun `cargo xtask setup`") }
        }
        error => error,
    }
}
