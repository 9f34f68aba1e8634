//! How things are printed: for people, and as JSON. `docs/cli.md` has the forms, which stay as they are.

use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use lockkit::{Family, Finding, Holder, Inspection, Severity};
use serde_json::{Value, json};

/// Prints a document, or what people read.
pub(crate) fn print(is_json: bool, document: &Value, text: impl FnOnce() -> String) {
    if is_json {
        anstream::println!("{document}");
    } else {
        anstream::print!("{}", text());
    }
}

/// A name, who holds it, and how many wait. Tokens are texts: a number of JSON may not be as exact.
pub(crate) fn inspection(seen: &Inspection) -> Value {
    let holders: Vec<_> = seen.holders.iter().map(holder).collect();
    let family = seen.name.family().to_string();
    json!({"name": seen.name.as_str(), "family": family, "holders": holders, "waiters": seen.waiters, "permits": seen.permits})
}

fn holder(holder: &Holder) -> Value {
    let millis = |time: Option<Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    json!({
        "label": holder.label,
        "token": holder.token.map(|token| token.to_string()),
        "kind": holder.kind.to_string(),
        "age_ms": millis(holder.age),
        "expires_in_ms": millis(holder.expires_in),
        "slot": holder.slot,
    })
}

pub(crate) fn finding(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.to_string(),
        "what": finding.what,
        "remedy": finding.remedy,
    })
}

pub(crate) fn finding_line(finding: &Finding) -> String {
    let colour = match finding.severity {
        Severity::Note => AnsiColor::Cyan,
        Severity::Warning => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    let style = colour.on_default().bold();
    let Finding { severity, what, remedy, .. } = finding;
    let text = one_line(&format!("{what}; {remedy}"));
    format!("{style}{severity}{style:#}: {text}\n")
}

/// A row for each holder, and one for a name that is only waited for.
pub(crate) fn table(all: &[Inspection]) -> String {
    const HEAD: [&str; 7] = ["NAME", "HOLDER", "KIND", "TOKEN", "HELD FOR", "ENDS IN", "WAITING"];
    let mut rows: Vec<[String; 7]> = vec![HEAD.map(str::to_owned)];
    for seen in all {
        let waiters = seen.waiters.map_or("?".to_owned(), |count| count.to_string());
        let mut name = one_line(seen.name.as_str());
        if seen.name.family() == Family::Semaphore {
            name.push_str(" (semaphore)");
        }
        if seen.holders.is_empty() {
            let none = || "-".to_owned();
            rows.push([name, "free".to_owned(), none(), none(), none(), none(), waiters]);
            continue;
        }
        rows.extend(seen.holders.iter().map(|holder| {
            [
                name.clone(),
                one_line(if holder.label.is_empty() { "?" } else { &holder.label }),
                holder.kind.to_string(),
                holder.token.map_or("?".to_owned(), |token| token.to_string()),
                time(holder.age),
                time(holder.expires_in),
                waiters.clone(),
            ]
        }));
    }
    laid_out(&rows)
}

fn laid_out(rows: &[[String; 7]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let style = if number == 0 { Style::new().bold() } else { Style::new() };
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        // A text takes every line.
        writeln!(text, "{style}{}{style:#}", line.trim_end()).ok();
    }
    text
}

fn time(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| match time.as_secs() {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        seconds => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    })
}

/// Names and labels are of any text: no line break, and nothing that a terminal obeys, is printed.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let escaped = letter.is_control().then(|| letter.escape_default().collect::<String>());
            escaped.unwrap_or_else(|| letter.to_string()).chars().collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use lockkit::{FencingToken, LockName};

    use super::*;

    fn held() -> Inspection {
        let holder = Holder::new("a\u{1b}[2Jb").with_token(FencingToken::MAX);
        let holder = holder.with_age(Duration::from_millis(1500));
        Inspection::new(LockName::new("x\ny").expect("a name"), vec![holder], Some(2))
    }

    #[test]
    fn a_name_is_shown_in_a_form_that_stays() {
        assert_eq!(
            inspection(&held()).to_string(),
            r#"{"family":"lock","holders":[{"age_ms":1500,"expires_in_ms":null,"kind":"exclusive","label":"a\u001b[2Jb","slot":null,"token":"9223372036854775807"}],"name":"x\ny","permits":null,"waiters":2}"#
        );
    }

    #[test]
    fn a_name_and_a_label_give_the_terminal_no_orders() {
        let table = table(&[held()]);
        let row = table.lines().nth(1).expect("a row");
        assert!(row.starts_with(r"x\ny  a\u{1b}[2Jb"), "{row}");
        assert_eq!(table.lines().count(), 2);
    }
}
