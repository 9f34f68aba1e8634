//! The number that tells a resource which holder is the newest.

mod checked;

use std::fmt;
use std::num::NonZeroU64;

/// A number that is strictly greater for every later grant of one name.
///
/// Upholds C4: fixed at the grant, the same across renewals, never reissued. It is a plain value
/// from 1 to [`i64::MAX`], so it fits a `BIGINT` column and travels in any message. Tokens of two
/// stores do not compare, and neither do tokens of two names.
///
/// ```
/// use lockkit_fence::FencingToken;
///
/// let token = FencingToken::new(34)?;
/// assert!(token > FencingToken::new(33)?);
/// assert_eq!(token.to_string().parse::<FencingToken>()?, token);
/// assert!(FencingToken::new(0).is_err());
/// # Ok::<(), lockkit_fence::NotAToken>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(NonZeroU64);

impl FencingToken {
    /// The least token there is.
    pub const MIN: Self = Self(NonZeroU64::MIN);

    /// The greatest token there is: [`i64::MAX`].
    pub const MAX: Self = Self(NonZeroU64::MIN.saturating_add(i64::MAX.unsigned_abs() - 1));

    /// The value, for a signed 64-bit column.
    pub fn as_i64(self) -> i64 {
        // Never more than i64::MAX: `checked` has the only ways in.
        i64::try_from(self.0.get()).unwrap_or(i64::MAX)
    }

    /// The value.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for i64 {
    fn from(token: FencingToken) -> Self {
        token.as_i64()
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.as_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: u64) -> FencingToken {
        FencingToken::new(value).expect("a token")
    }

    #[test]
    fn a_token_is_from_one_to_the_greatest_bigint() {
        let greatest = i64::MAX.unsigned_abs();
        assert_eq!((token(1), token(greatest)), (FencingToken::MIN, FencingToken::MAX));
        assert_eq!((token(1).as_u64(), token(greatest).as_u64()), (1, greatest));
        for none in [0, greatest + 1, u64::MAX] {
            assert!(FencingToken::new(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_base_moves_the_stores_own_numbers_up_and_not_around() {
        assert_eq!(FencingToken::with_base(1000, 7).ok(), Some(token(1007)));
        assert_eq!(FencingToken::with_base(0, 7).ok(), Some(token(7)));
        for (base, native) in [(0, 0), (u64::MAX, 2), (i64::MAX.unsigned_abs(), 1)] {
            assert!(FencingToken::with_base(base, native).is_err(), "{base} + {native}");
        }
    }

    #[test]
    fn a_token_travels_as_text_and_as_a_number() {
        let sent = token(34);
        assert_eq!(sent.to_string(), "34");
        assert_eq!("34".parse().ok(), Some(sent));
        assert_eq!((sent.as_i64(), i64::from(sent), u64::from(sent)), (34, 34, 34));
        assert_eq!(FencingToken::try_from(34_i64).ok(), Some(sent));
        for text in ["", "0", "-1", "+34", "34 ", "9223372036854775808"] {
            assert!(text.parse::<FencingToken>().is_err(), "{text:?}");
        }
        for number in [0, -1, i64::MIN] {
            assert!(FencingToken::try_from(number).is_err(), "{number}");
        }
    }
}
