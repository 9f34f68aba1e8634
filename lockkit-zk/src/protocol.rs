//! Names of nodes: whose they are, and who is before whom.

use std::cmp::Reverse;

use lockkit_core::{Kind, LockName, RequestId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::Layout;

/// What stands before the sequence in Curator's and our names.
const CURATOR: &str = "-lock-";
/// What stands there in kazoo's names.
const KAZOO: &str = "__lock__";
/// What stands before that in the names of shared requests. Curator's mutex, kazoo's Lock, and versions before shared
/// locks take such a node for an exclusive one.
const SHARED: &str = "-shared";
/// Refused from here on: past 2³¹ other clients' order, and the server's own counter, break down.
const LAST_SEQUENCE: i32 = i32::MAX - 0xffff;
/// What our nodes' data begins with, before the holder's label.
const MARK: &str = "lockkit:";

/// What stays as it is in a name's path element.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// A node that takes part in the queue for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) node: String,
    pub(crate) sequence: i32,
    pub(crate) kind: Kind,
}

impl Contender {
    /// The contender that this child is; `None` for every other child.
    fn of(node: String) -> Option<Self> {
        let after = |form: &str| node.rfind(form).map(|at| at + form.len());
        let at = after(CURATOR).max(after(KAZOO))?;
        let sequence = sequence(node.get(at..)?)?;
        let kind = if whose(&node).ends_with(SHARED) { Kind::Shared } else { Kind::Exclusive };
        Some(Self { node, sequence, kind })
    }
}

/// What of a name stands before the form.
fn whose(node: &str) -> &str {
    let end = node.rfind(CURATOR).max(node.rfind(KAZOO)).unwrap_or(node.len());
    &node[..end]
}

/// Whose node this is: the two nodes of a pair tell the same, and no others do.
pub(crate) fn identity(node: &str) -> String {
    let whose = whose(node);
    let whose = whose.strip_suffix(SHARED).unwrap_or(whose);
    whose.trim_start_matches("_c_").replace('-', "")
}

/// A sequence as servers write it: ten digits, or a sign and what ten digits leave of it.
pub(crate) fn sequence(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = text.len() == 10 || (digits.len() == 10 && text.len() == 11);
    let is_number = is_number && digits.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The sequence of a node.
pub(crate) fn sequence_of(node: &str) -> Option<i32> {
    Contender::of(node.to_owned()).map(|contender| contender.sequence)
}

/// The kind of the request that a node is of.
pub(crate) fn kind_of(node: &str) -> Kind {
    Contender::of(node.to_owned()).map_or(Kind::Exclusive, |contender| contender.kind)
}

/// Whether a queue with this sequence is to be begun again: past 2³¹ it is negative.
pub(crate) fn is_used_up(sequence: i32) -> bool {
    !(0..LAST_SEQUENCE).contains(&sequence)
}

/// The queue of these children, first come first.
///
/// Those alive at one time lie within half the range of each other, so differences order them also
/// where the counter wraps.
pub(crate) fn queue(children: Vec<String>) -> Vec<Contender> {
    let mut queue: Vec<_> = children.into_iter().filter_map(Contender::of).collect();
    if let Some(origin) = queue.first().map(|contender| contender.sequence) {
        queue.sort_by(|a, b| {
            let from_origin = |contender: &Contender| contender.sequence.wrapping_sub(origin);
            from_origin(a).cmp(&from_origin(b)).then_with(|| a.node.cmp(&b.node))
        });
    }
    queue
}

/// The kinds of these contenders.
pub(crate) fn kinds(queue: &[Contender]) -> impl Iterator<Item = Kind> {
    queue.iter().map(|contender| contender.kind)
}

/// Who is before a node in its queue, and keeps it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) count: usize,
    /// The last of them, where there are any.
    pub(crate) next: String,
    /// Whether that one holds: nothing else is before the node.
    pub(crate) is_holder: bool,
}

impl Ahead {
    /// Who of these children is before this one; `None`: it is not among them. A queue may be long, and is
    /// looked at often: it is neither sorted nor kept.
    pub(crate) fn of(children: Vec<String>, own: &str) -> Option<Self> {
        let is_there = children.iter().any(|child| child == own);
        let own = Contender::of(own.to_owned()).filter(|_| is_there)?;
        // How far each is before our own, in the order of `queue`.
        let by =
            |it: Contender| ((own.sequence.wrapping_sub(it.sequence), Reverse(it.node)), it.kind);
        let ahead = children.into_iter().filter_map(Contender::of).map(by);
        let our_own = (0, Reverse(own.node.clone()));
        let mut ahead: Vec<_> = ahead.filter(|(it, _)| *it > our_own).collect();
        let all = ahead.len();
        ahead.retain(|(_, kind)| !own.kind.admits([*kind]));
        let count = ahead.len();
        let next = ahead.into_iter().map(|(it, _)| it).min().map(|(_, node)| node.0);
        Some(Self { count, next: next.unwrap_or_default(), is_holder: all == 1 })
    }
}

/// What this request's nodes begin with under a layout, in the order of their creation.
pub(crate) fn prefixes(layout: Layout, id: RequestId, kind: Kind) -> Vec<String> {
    let [curator, kazoo] = both_prefixes(id, kind);
    match layout {
        Layout::Curator => vec![curator],
        Layout::Kazoo => vec![kazoo],
        Layout::Both => vec![curator, kazoo],
    }
}

/// Whether this child is one of this request's nodes.
pub(crate) fn is_of(node: &str, id: RequestId) -> bool {
    let kinds = [Kind::Exclusive, Kind::Shared];
    kinds.into_iter().flat_map(|kind| both_prefixes(id, kind)).any(|it| node.starts_with(&it))
}

fn both_prefixes(id: RequestId, kind: Kind) -> [String; 2] {
    let kind = if kind == Kind::Shared { SHARED } else { "" };
    let hex = id.to_string();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    [format!("_c_{}{kind}{CURATOR}", parts.join("-")), format!("{hex}{kind}{KAZOO}")]
}

/// The path element of a name.
pub(crate) fn element(name: &LockName) -> String {
    match name.as_str() {
        // A path has no such elements.
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        name => utf8_percent_encode(name, PLAIN).to_string(),
    }
}

/// The name with this path element; `None` for another client's node.
pub(crate) fn name_of(text: &str) -> Option<LockName> {
    let name = LockName::new(percent_decode_str(text).decode_utf8().ok()?).ok()?;
    (element(&name) == text).then_some(name)
}

/// What we write into our nodes.
pub(crate) fn data(label: &str) -> Vec<u8> {
    format!("{MARK}{label}").into_bytes()
}

/// The label in a node's data, and whether the node is ours.
pub(crate) fn label(data: &[u8]) -> (String, bool) {
    let text = String::from_utf8_lossy(data);
    match text.strip_prefix(MARK) {
        Some(label) => (label.to_owned(), true),
        None => (text.into_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RequestId = RequestId::from_bytes([0xab; 16]);

    fn sorted(children: &[&str]) -> Vec<String> {
        let children = children.iter().map(|child| (*child).to_owned()).collect();
        queue(children).into_iter().map(|contender| contender.node).collect()
    }

    #[test]
    fn both_forms_contend_in_the_order_of_their_sequences_and_other_children_never() {
        let curator = "_c_abababab-abab-abab-abab-abababababab-lock-0000000007";
        let kazoo = "ffffffffffffffffffffffffffffffff__lock__0000000006";
        let plain = "lock-0000000001";
        let shown = sorted(&[
            curator,
            "config",
            "_c_x-lock-",
            "_c_x-lock-12",
            "_c_x-lease-0000000001",
            "x-__WRIT__0000000002",
            "_c_x-lock-000000000a",
            "_c_x-lock-00000000012",
            kazoo,
            "a-lock-0000000005",
            plain,
        ]);
        assert_eq!(shown, ["a-lock-0000000005", kazoo, curator]);
    }

    #[test]
    fn the_order_goes_on_where_the_counter_wraps() {
        let shown = sorted(&[
            "a-lock--2147483647",
            "b-lock-2147483647",
            "c-lock--2147483648",
            "d-lock-2147483646",
        ]);
        let first: String = shown.iter().filter_map(|node| node.chars().next()).collect();
        assert_eq!(first, "dbca");
        let shown = sorted(&["a-lock-0000000000", "b-lock--000000001", "c-lock-0000000001"]);
        assert_eq!(shown, ["b-lock--000000001", "a-lock-0000000000", "c-lock-0000000001"]);
    }

    #[test]
    fn who_is_before_a_node_is_what_the_queue_says() {
        let children: Vec<_> = [
            "a-lock--2147483647",
            "config",
            "b-lock-2147483647",
            "c-lock--2147483648",
            "dd__lock__2147483646",
            "d-lock-2147483646",
        ]
        .map(str::to_owned)
        .into();
        let sorted = queue(children.clone());
        for (count, own) in sorted.iter().enumerate() {
            let next = count.checked_sub(1).map(|at| sorted[at].node.clone()).unwrap_or_default();
            let ahead = Ahead::of(children.clone(), &own.node);
            let is_holder = count == 1;
            assert_eq!(ahead, Some(Ahead { count, next, is_holder }), "{own:?}");
        }
        assert_eq!(Ahead::of(children, "e-lock-0000000001"), None);
    }

    #[test]
    fn a_shared_node_is_behind_the_exclusive_ones_before_it_and_no_others() {
        let children: Vec<_> = [
            "a-shared-lock-0000000001",
            "b-shared__lock__0000000002",
            "c-lock-0000000003",
            "d-shared-lock-0000000004",
            "e__lock__0000000005",
            "f-shared-lock-0000000006",
        ]
        .map(str::to_owned)
        .into();
        let seen = |own: usize| {
            let Ahead { count, next, is_holder } =
                Ahead::of(children.clone(), &children[own]).expect("it is there");
            (count, next.chars().next(), is_holder)
        };
        let all = [0, 1, 2, 3, 4, 5].map(seen);
        let expected = [
            (0, None, false),
            (0, None, true),
            (2, Some('b'), false),
            (1, Some('c'), false),
            (4, Some('d'), false),
            (2, Some('e'), false),
        ];
        assert_eq!(all, expected);
        let queue = queue(children);
        assert_eq!(Kind::holding(kinds(&queue)), 2);
    }

    #[test]
    fn a_counter_near_its_end_or_past_it_is_used_up() {
        for sequence in [LAST_SEQUENCE, i32::MAX, i32::MIN, -1] {
            assert!(is_used_up(sequence), "{sequence}");
        }
        for sequence in [0, LAST_SEQUENCE - 1] {
            assert!(!is_used_up(sequence), "{sequence}");
        }
    }

    #[test]
    fn a_request_knows_its_nodes_in_both_forms() {
        let [curator, kazoo] = both_prefixes(ID, Kind::Exclusive);
        assert_eq!(curator, "_c_abababab-abab-abab-abab-abababababab-lock-");
        assert_eq!(kazoo, "abababababababababababababababab__lock__");
        let [curator, kazoo] = both_prefixes(ID, Kind::Shared);
        assert_eq!(curator, "_c_abababab-abab-abab-abab-abababababab-shared-lock-");
        assert_eq!(kazoo, "abababababababababababababababab-shared__lock__");
        for kind in [Kind::Exclusive, Kind::Shared] {
            for prefix in prefixes(Layout::Both, ID, kind) {
                let contender = Contender::of(format!("{prefix}0000000001"));
                assert_eq!(contender.map(|contender| contender.kind), Some(kind));
            }
        }
        let all = [Kind::Exclusive, Kind::Shared].map(|kind| prefixes(Layout::Both, ID, kind));
        for prefix in all.into_iter().flatten() {
            assert!(is_of(&format!("{prefix}0000000001"), ID));
            assert_eq!(identity(&format!("{prefix}0000000001")), ID.to_string());
            assert!(!is_of(&format!("{prefix}0000000001"), RequestId::from_bytes([0xcd; 16])));
        }
    }

    #[test]
    fn names_are_path_elements_that_never_meet() {
        for (name, text) in [
            ("billing.nightly-1_A", "billing.nightly-1_A"),
            ("billing/nightly", "billing%2Fnightly"),
            ("billing%2Fnightly", "billing%252Fnightly"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("%2E", "%252E"),
            ("a b\0\u{fffd}", "a%20b%00%EF%BF%BD"),
        ] {
            let name = LockName::new(name).expect("a name");
            assert_eq!(element(&name), text);
            assert_eq!(name_of(text), Some(name));
        }
        for foreign in ["a b", "%2e", "a/b", "%zz", "", "%2E%2E%2E"] {
            assert_eq!(name_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_label_tells_our_nodes_from_those_of_others() {
        assert_eq!(label(&data("host/1/x")), ("host/1/x".to_owned(), true));
        assert_eq!(label(b"10.0.0.7"), ("10.0.0.7".to_owned(), false));
    }
}
