//! Names of resources.

use crate::{Error, Result};

/// What every store of fences takes as a key.
const LONGEST: usize = 255;

/// The name of a resource, if every store can keep it.
pub(crate) fn checked_name(name: &str) -> Result<&str> {
    let refuse = |why: &str| {
        Err(Error::invalid(
            format!("the resource name {name:?} {why}"),
            format!("name it with 1 to {LONGEST} bytes, without control characters"),
        ))
    };
    match name {
        "" => refuse("is empty"),
        long if long.len() > LONGEST => refuse("is too long"),
        odd if odd.chars().any(char::is_control) => refuse("has a control character"),
        _ => Ok(name),
    }
}
