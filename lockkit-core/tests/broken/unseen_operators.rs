//! Mistakes of a store in what operators see (C16).

use lockkit_core::{Holder, Inspection, LockName};

use super::entry::Entry;
use super::flaw::Flaw;
use super::rules::{Rules, in_use};

const CORRECT: Rules = Rules::CORRECT;

const fn shows(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    rules: Rules,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, rules).breaks("C16")
}

type Page = fn(Vec<Inspection>, &str, Option<&LockName>, usize) -> Vec<Inspection>;

const fn lists(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    page: Page,
) -> Flaw {
    shows(name, mistake, caught_by, Rules { page, ..CORRECT })
}

const fn labels(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    label: fn(&Entry, &str) -> String,
) -> Flaw {
    shows(name, mistake, caught_by, Rules { label, ..CORRECT })
}

pub(crate) fn unseen_operators() -> Vec<Flaw> {
    [INSPECTIONS, LISTS, LABELS].concat()
}

const INSPECTIONS: &[Flaw] = &[
    shows(
        "inspection-shows-expired",
        "an inspection shows a holder whose ttl has passed, until the name is asked for",
        &["C16-07"],
        Rules { inspection_expires: false, ..CORRECT },
    ),
    shows(
        "list-shows-expired",
        "a list shows holders whose ttl has passed, until their names are asked for",
        &["C16-07"],
        Rules { list_expires: false, ..CORRECT },
    ),
    shows(
        "next-waiter-shown-as-holder",
        "a free name that is kept for its next waiter is shown as held",
        &["C16-06"],
        Rules {
            inspects: |entry, now| {
                let mut seen = entry.inspect(now);
                if seen.holders.is_empty() && !entry.queue.is_empty() {
                    seen.holders.push(Holder::new("the next"));
                }
                seen
            },
            ..CORRECT
        },
    ),
    shows(
        "holder-is-the-first-by-its-id",
        "of a holder and its waiters, the one whose id comes first is shown as the holder",
        &["C16-06"],
        Rules {
            inspects: |entry, now| {
                let mut seen = entry.inspect(now);
                let holder = entry.held.first().map(|held| held.id.to_bytes());
                let is_before = |id: [u8; 16]| holder.is_some_and(|holder| id < holder);
                if entry.queue.iter().any(|place| is_before(place.id.to_bytes())) {
                    seen.holders = vec![Holder::new("a waiter")];
                }
                seen
            },
            ..CORRECT
        },
    ),
    shows(
        "inspection-shows-the-counter",
        "refused attempts count too, and the holder's token is shown as the counter: Redisson",
        &["C16-08"],
        Rules {
            at_refusal: |entry| entry.last_token += 1,
            inspects: |entry, now| {
                let mut seen = entry.inspect(now);
                let counter = lockkit_core::FencingToken::new(entry.last_token).ok();
                seen.holders.iter_mut().for_each(|holder| holder.token = counter);
                seen
            },
            ..CORRECT
        },
    ),
    shows(
        "inspection-counts-to-ten",
        "ten waiters are shown at most: the count of one SCAN",
        &["PF-03"],
        Rules {
            inspects: |entry, now| {
                let mut seen = entry.inspect(now);
                seen.waiters = seen.waiters.map(|waiters| waiters.min(10));
                seen
            },
            ..CORRECT
        },
    ),
    shows(
        "inspection-ages-since-renewal",
        "a holder's age counts from its last renewal",
        &["C16-07"],
        Rules {
            inspects: |entry, now| {
                let renewed = entry.held.first().map(|held| held.renewed);
                let mut seen = entry.inspect(now);
                for holder in &mut seen.holders {
                    holder.age = renewed.map(|renewed| now.saturating_since(renewed));
                }
                seen
            },
            ..CORRECT
        },
    ),
    shows(
        "inspection-shows-the-ttl",
        "a holder's whole ttl is shown, not what is left of it",
        &["C16-07"],
        Rules {
            inspects: |entry, now| {
                let ttl = entry.held.first().map(|held| held.ttl);
                let mut seen = entry.inspect(now);
                seen.holders.iter_mut().for_each(|holder| holder.expires_in = ttl);
                seen
            },
            ..CORRECT
        },
    ),
    shows(
        "inspection-labels-the-last-asker",
        "a holder is shown with the label of the request that asked last",
        &["C16-01"],
        Rules {
            inspects: |entry, now| {
                let newest = entry.past.newest.as_ref().map(|(_, label)| label.clone());
                let mut seen = entry.inspect(now);
                for holder in &mut seen.holders {
                    holder.label = newest.clone().unwrap_or_default();
                }
                seen
            },
            ..CORRECT
        },
    ),
];

/// The names that start with a prefix in the eyes of `starts`, from after a name, up to a limit.
fn paged(
    names: Vec<Inspection>,
    after: Option<&LockName>,
    limit: usize,
    starts: impl Fn(&str) -> bool,
) -> Vec<Inspection> {
    let in_use = names.into_iter().filter(in_use).filter(|seen| starts(seen.name.as_str()));
    in_use.filter(|seen| after.is_none_or(|after| seen.name > *after)).take(limit).collect()
}

/// Whether `text` starts with `pattern`, in which `any` stands for any text and `one` for one
/// character.
fn matches(text: &str, pattern: &str, any: char, one: char) -> bool {
    let Some(first) = pattern.chars().next() else { return true };
    let rest = &pattern[first.len_utf8()..];
    if first == any {
        let tails = text.char_indices().map(|(at, _)| &text[at..]).chain([""]);
        return tails.into_iter().any(|tail| matches(tail, rest, any, one));
    }
    let Some(head) = text.chars().next() else { return false };
    (first == one || first == head) && matches(&text[head.len_utf8()..], rest, any, one)
}

const LISTS: &[Flaw] = &[
    lists(
        "list-goes-on-in-another-order",
        "a list goes on after a name in the order of escaped names",
        &["C16-05"],
        |names, prefix, after, limit| {
            let escaped = |name: &LockName| name.as_str().replace('%', "%25").replace('/', "%2F");
            let is_later =
                |name: &LockName| after.is_none_or(|after| escaped(name) > escaped(after));
            let names = names.into_iter().filter(|seen| is_later(&seen.name)).collect();
            (CORRECT.page)(names, prefix, after, limit)
        },
    ),
    lists(
        "list-by-like",
        "a prefix's `%` and `_` stand for any text and any character: LIKE",
        &["C16-04"],
        |names, prefix, after, limit| {
            paged(names, after, limit, |name| matches(name, prefix, '%', '_'))
        },
    ),
    lists(
        "list-by-glob",
        "a prefix's `*` and `?` stand for any text and any character: SCAN MATCH",
        &["C16-04"],
        |names, prefix, after, limit| {
            paged(names, after, limit, |name| matches(name, prefix, '*', '?'))
        },
    ),
    lists(
        "list-in-any-case",
        "a prefix in capitals finds names in small letters: ILIKE",
        &["C16-04"],
        |names, prefix, after, limit| {
            paged(names, after, limit, |name| {
                name.to_lowercase().starts_with(&prefix.to_lowercase())
            })
        },
    ),
    lists(
        "list-of-paths",
        "a prefix finds itself and what stands below it as a path",
        &["C16-02"],
        |names, prefix, after, limit| {
            let below = |name: &str| {
                name.strip_prefix(prefix).is_some_and(|rest| {
                    rest.is_empty() || prefix.is_empty() || rest.starts_with('/')
                })
            };
            paged(names, after, limit, below)
        },
    ),
    lists(
        "list-after-must-be-held",
        "a page starts over once the name that it comes after is free",
        &["C16-05"],
        |names, prefix, after, limit| {
            let held =
                names.iter().filter(|seen| in_use(seen)).any(|seen| Some(&seen.name) == after);
            (CORRECT.page)(names, prefix, after.filter(|_| held), limit)
        },
    ),
    lists(
        "list-after-must-have-the-prefix",
        "a page that comes after a name without the prefix is empty",
        &["C16-05"],
        |names, prefix, after, limit| match after {
            Some(after) if !after.as_str().starts_with(prefix) => Vec::new(),
            after => (CORRECT.page)(names, prefix, after, limit),
        },
    ),
    lists(
        "list-limits-before-it-filters",
        "the limit counts free names too: a page is shorter, or empty, though more is held",
        &["C16-05"],
        |names, prefix, after, limit| {
            let known = names.into_iter().filter(|seen| seen.name.as_str().starts_with(prefix));
            let known = known.filter(|seen| after.is_none_or(|after| seen.name > *after));
            known.take(limit).filter(in_use).collect()
        },
    ),
    lists(
        "list-of-holders-only",
        "a list leaves out names that are waited for and not held at the moment",
        &["C16-06"],
        |names, prefix, after, limit| {
            let held = names.into_iter().filter(|seen| !seen.holders.is_empty()).collect();
            (CORRECT.page)(held, prefix, after, limit)
        },
    ),
    lists(
        "list-without-a-limit-of-none",
        "a limit of none means no limit",
        &["C16-05"],
        |names, prefix, after, limit| {
            (CORRECT.page)(names, prefix, after, if limit == 0 { usize::MAX } else { limit })
        },
    ),
    lists(
        "list-shows-no-waiters",
        "a list says of each name that no request waits, which an inspection does not",
        &["C16-06"],
        |names, prefix, after, limit| {
            let mut seen = (CORRECT.page)(names, prefix, after, limit);
            seen.iter_mut().for_each(|seen| seen.waiters = Some(0));
            seen
        },
    ),
    lists(
        "list-shows-no-labels",
        "a list shows holders without their labels, an inspection with them",
        &["C16-06"],
        |names, prefix, after, limit| {
            let mut seen = (CORRECT.page)(names, prefix, after, limit);
            seen.iter_mut().flat_map(|seen| &mut seen.holders).for_each(|held| held.label.clear());
            seen
        },
    ),
];

const LABELS: &[Flaw] = &[
    labels("label-cut-at-newline", "a label ends at its first newline", &["C16-08"], |_, label| {
        label.split('\n').next().unwrap_or_default().to_owned()
    }),
    labels("label-cut-at-nul", "a label ends at its first NUL byte", &["C16-08"], |_, label| {
        label.split('\0').next().unwrap_or_default().to_owned()
    }),
    labels(
        "label-cut-at-colon",
        "a label is kept between colons, and ends at its own",
        &["C16-08"],
        |_, label| label.split(':').next().unwrap_or_default().to_owned(),
    ),
    labels(
        "label-of-64",
        "a label of more than 64 characters is cut off",
        &["C16-08"],
        |_, label| label.chars().take(64).collect(),
    ),
    labels("label-trimmed", "white space around a label is dropped", &["C16-08"], |_, label| {
        label.trim().to_owned()
    }),
    labels("label-decoded", "a percent sequence in a label is decoded", &["C16-08"], |_, label| {
        label.replace("%20", " ").replace("%2F", "/").replace("%25", "%")
    }),
    labels(
        "label-in-the-plane",
        "characters beyond 16 bits become question marks",
        &["C16-08"],
        |_, label| label.replace(|c: char| u32::from(c) > 0xffff, "?"),
    ),
    labels(
        "label-of-the-first-holder",
        "a name shows the label of the first that ever held it",
        &["C16-08"],
        |entry, label| {
            entry.past.first.as_ref().map_or(label, |(_, first)| first.as_str()).to_owned()
        },
    ),
];
