//! What goes over the wire: names, literals and columns.

use std::borrow::Cow;

use lockkit_core::{Applied, Error, LockName};

/// The texts of an answer's columns.
pub(crate) type Columns = Vec<Option<String>>;

/// The request in the row of a name that a group of grants holds; no request of ours has this id.
pub(crate) const GROUP: &str = "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid";

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
