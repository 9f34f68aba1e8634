//! Tokens from numbers and texts; what is not a token is refused.

use std::num::NonZeroU64;
use std::str::FromStr;

use super::FencingToken;
use crate::NotAToken;

impl FencingToken {
    /// The token with this value.
    ///
    /// # Errors
    /// [`NotAToken`]: the value is 0 or greater than [`i64::MAX`].
    pub fn new(value: u64) -> Result<Self, NotAToken> {
        NonZeroU64::new(value).map(Self).filter(|token| *token <= Self::MAX).ok_or_else(|| {
            NotAToken::new(
                format!("fencing token {value}"),
                format!("a token lies between 1 and {}", i64::MAX),
            )
        })
    }

    /// The token of a store whose native number is `native`, moved up by the `token_base` that was
    /// configured for it.
    ///
    /// # Errors
    /// [`NotAToken`]: the sum is 0 or greater than [`i64::MAX`].
    pub fn with_base(base: u64, native: u64) -> Result<Self, NotAToken> {
        Self::new(base.saturating_add(native))
    }
}

impl FromStr for FencingToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        // `u64` would take a sign.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let value = text.parse().ok().filter(|_| is_plain).ok_or_else(|| {
            NotAToken::new(
                format!("fencing token {text:?}"),
                "write it as a plain decimal number".to_owned(),
            )
        })?;
        Self::new(value)
    }
}

impl TryFrom<i64> for FencingToken {
    type Error = NotAToken;

    fn try_from(value: i64) -> Result<Self, NotAToken> {
        Self::new(u64::try_from(value).unwrap_or(0))
    }
}
