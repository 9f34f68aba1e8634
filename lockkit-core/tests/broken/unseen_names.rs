//! Mistakes in how a store writes names down (C3).

use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

const fn written(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    stored_as: fn(&str) -> String,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, Rules { stored_as, ..CORRECT }).breaks("C3")
}

pub(crate) const UNSEEN_NAMES: &[Flaw] = &[
    written("names-in-crc-32", "names are kept by their CRC-32 alone", &["C3-03"], |name| {
        let crc = name.bytes().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        });
        (!crc).to_string()
    }),
    written(
        "names-in-fnv-32",
        "names are kept by their 32-bit FNV-1a hash alone",
        &["C3-03"],
        |name| fnv(name).to_string(),
    ),
    written(
        "names-in-java-hash",
        "names are kept by Java's String.hashCode() alone",
        &["SF-25"],
        |name| {
            let add = |hash: u32, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit));
            name.encode_utf16().fold(0, add).to_string()
        },
    ),
    written("names-in-adler-32", "names are kept by their Adler-32 alone", &["C3-02"], |name| {
        let (low, high) = name.bytes().fold((1, 0), |(low, high), byte| {
            let low = (low + u32::from(byte)) % 65521;
            (low, (high + low) % 65521)
        });
        (high << 16 | low).to_string()
    }),
    written(
        "names-in-16-bits",
        "two bytes of a name's hash are kept: tooz on Postgres",
        &["C3-02"],
        |name| (fnv(name) & 0xffff).to_string(),
    ),
    written(
        "names-pad-space",
        "blanks at the end do not count: PAD SPACE collations",
        &["SF-25"],
        |name| name.trim_end_matches(' ').to_owned(),
    ),
    written("names-composed", "names are composed: \u{e9} and e\u{301} meet", &["SF-25"], |name| {
        name.replace("e\u{301}", "\u{e9}")
    }),
    written("names-decoded", "a percent sequence in a name is decoded", &["SF-25"], |name| {
        name.replace("%2F", "/").replace("%00", "\0")
    }),
    written(
        "names-half-escaped",
        "a brace in a name is escaped, and the character that begins the sequence is not",
        &["C3-05"],
        |name| name.replace('{', "%7B").replace('}', "%7D"),
    ),
    written(
        "names-resolved",
        "`a/./b` and `a//b` meet: the store resolves paths",
        &["SF-25"],
        |name| {
            let parts: Vec<_> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            if parts.is_empty() { name.to_owned() } else { parts.join("/") }
        },
    ),
    written(
        "names-meet-queues",
        "a name's queue is kept as `name:queue`, where a lock of that name meets it",
        &["C3-04"],
        |name| name.strip_suffix(":queue").unwrap_or(name).to_owned(),
    ),
];

fn fnv(name: &str) -> u32 {
    let add = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.bytes().fold(0x811c_9dc5, add)
}
