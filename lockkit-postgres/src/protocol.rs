//! What goes over the wire: names, keys and literals.

use std::borrow::Cow;
use std::collections::HashMap;

use lockkit_core::{Applied, Error, LockName};
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockKey, PgRow};
use sqlx::{Row, ValueRef};

/// The texts of an answer's columns.
pub(crate) type Columns = Vec<Option<String>>;

/// The key that a name is locked by under the strategy
/// [`Strategy::Advisory`](crate::Strategy::Advisory): the one that sqlx's `PgAdvisoryLock` derives
/// from the same text.
///
/// A client that calls `pg_advisory_lock` with it excludes lockkit's clients, and is excluded by them. Two names
/// whose keys are the same exclude each other; with 64 bits that takes some billions of names.
pub fn key(name: &LockName) -> i64 {
    match PgAdvisoryLock::new(name.as_str()).key() {
        PgAdvisoryLockKey::BigInt(key) => *key,
        // It derives no others.
        other => unreachable!("{other:?}"),
    }
}

/// The key of a name: the one that it was given, or [`key`].
pub(crate) fn key_of(given: &HashMap<LockName, i64>, name: &LockName) -> i64 {
    given.get(name).copied().unwrap_or_else(|| key(name))
}

/// A text as a literal, whatever the server's settings.
pub(crate) fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 3);
    literal.push_str("E'");
    for c in text.chars() {
        if matches!(c, '\'' | '\\') {
            literal.push(c);
        }
        literal.push(c);
    }
    literal.push('\'');
    literal
}

/// A name as the server keeps it: without NUL, which it does not take, in the same order.
pub(crate) fn stored(name: &str) -> Cow<'_, str> {
    if !name.contains(['\0', '\u{1}']) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.replace('\u{1}', "\u{1}\u{2}").replace('\0', "\u{1}\u{1}"))
}

/// The name that is kept like this.
pub(crate) fn name_of(stored: &str) -> Option<LockName> {
    let name = stored.replace("\u{1}\u{1}", "\0").replace("\u{1}\u{2}", "\u{1}");
    LockName::new(name).ok()
}

/// The texts of all columns.
pub(crate) fn texts(rows: &[PgRow]) -> Vec<Columns> {
    let text = |row: &PgRow, column: usize| {
        let value = row.try_get_raw(column).ok().filter(|value| !value.is_null())?;
        value.as_str().ok().map(str::to_owned)
    };
    rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect()
}

/// The text of an answer of one row and one column, which may be null.
pub(crate) fn only(rows: Vec<Columns>) -> Option<String> {
    rows.into_iter().next()?.into_iter().next()?
}

/// A column's text.
pub(crate) fn column(row: &Columns, n: usize) -> Option<&str> {
    row.get(n)?.as_deref()
}

/// A column's number.
pub(crate) fn number<T: std::str::FromStr>(row: &Columns, n: usize) -> Option<T> {
    column(row, n)?.parse().ok()
}

pub(crate) fn garbled(rows: &[Columns]) -> Error {
    Error::unavailable(Applied::Maybe, format!("PostgreSQL answered with {rows:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_is_kept_lead_to_each_other_in_the_same_order() {
        let mut names =
            ["a", "\0", "\u{1}", "\u{2}", "a\0b", "a\u{1}b", "\u{1}\u{1}", "\0\u{2}", "é"];
        names.sort_unstable();
        let kept: Vec<_> = names.iter().map(|name| stored(name).into_owned()).collect();
        assert!(kept.is_sorted() && kept.iter().all(|kept| !kept.contains('\0')), "{kept:?}");
        for (name, kept) in names.iter().zip(&kept) {
            assert_eq!(name_of(kept).expect("a name").as_str(), *name);
        }
    }

    #[test]
    fn a_literal_ends_where_it_should() {
        assert_eq!(quoted(r"a'b\c"), r"E'a''b\\c'");
    }
}
