//! The room that a build takes: the disk of a machine of CI is small, and on a full one tests fail
//! for no reason of theirs.

use std::env;

use crate::Result;
use crate::steps::output;

/// What all that CI builds and runs may take.
const BOUND: u64 = 8 * MIB_IN_GIB;
const MIB_IN_GIB: u64 = 1024;

/// Checks that cargo's target directory is within the bound.
pub(crate) fn run() -> Result<()> {
    let target = env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let taken = mebibytes(&output(&format!("du -sm {target}"))?)?;
    eprintln!("    {taken} MiB of {BOUND}");
    if taken > BOUND {
        return Err("too much: see what grew, or run `cargo clean` if it is of earlier runs".into());
    }
    Ok(())
}

/// What `du` says of one directory.
fn mebibytes(said: &str) -> Result<u64> {
    let number = said.split_whitespace().next().unwrap_or_default();
    number.parse().map_err(|_| format!("du said {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn du_is_understood() {
        assert_eq!(mebibytes("3437\ttarget\n"), Ok(3437));
        assert!(mebibytes("").is_err());
    }
}
