//! Tokens from numbers and texts; what is not a token is refused.

use std::num::NonZeroU64;
use std::str::FromStr;

use super::FencingToken;
use crate::Error;

impl FencingToken {
    /// The token with this value.
    ///
    /// # Errors
    /// `Invalid`: the value is 0 or greater than [`i64::MAX`].
    pub fn new(value: u64) -> Result<Self, Error> {
        NonZeroU64::new(value).map(Self).filter(|token| *token <= Self::MAX).ok_or_else(|| {
            Error::invalid(
                format!("fencing token {value}"),
                format!("a token lies between 1 and {}", i64::MAX),
            )
        })
    }

    /// The token of a store whose native number is `native`, moved up by the `token_base` that was
    /// configured for it.
    ///
    /// # Errors
    /// `Invalid`: the sum is 0 or greater than [`i64::MAX`].
    pub fn with_base(base: u64, native: u64) -> Result<Self, Error> {
        Self::new(base.saturating_add(native))
    }
}

impl FromStr for FencingToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let value = text.parse().map_err(|_| {
            Error::invalid(format!("fencing token {text:?}"), "write it as a plain decimal number")
        })?;
        Self::new(value)
    }
}

impl TryFrom<i64> for FencingToken {
    type Error = Error;

    fn try_from(value: i64) -> Result<Self, Error> {
        Self::new(u64::try_from(value).unwrap_or(0))
    }
}
