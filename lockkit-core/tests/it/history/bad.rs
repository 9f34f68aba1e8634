//! Bad histories, made by hand; each beside the good one that it differs from.

use lockkit_core::conformance::history::Violation;

use super::{check, violations};

/// Two grants of `n`: the second is answered at `granted`, the first believed until 20.
fn two_grants(first_token: u64, second_asks: u64, granted: u64, second_token: u64) -> String {
    format!(
        "1 1.0 asks n
         5 1.0 granted {first_token}
         20 1.0 believes
         {second_asks} 2.0 asks n
         {granted} 2.0 granted {second_token}
         {} 2.0 believes",
        granted + 10
    )
}

#[test]
fn an_overlap_of_a_nanosecond_is_found() {
    assert!(check(&two_grants(1, 2, 20, 2)).is_ok());
    let found = violations(&two_grants(1, 2, 19, 2));
    assert!(
        matches!(found[..], [Violation::Overlap { by, .. }] if by.as_nanos() == 1),
        "{found:?}"
    );
}

#[test]
fn an_overlap_is_found_behind_a_grant_that_was_never_believed() {
    let found = violations(
        "1 1.0 asks n
         2 2.0 asks n
         3 3.0 asks n
         5 1.0 granted 1
         21 2.0 granted 2
         19 3.0 granted 3
         20 1.0 believes",
    );
    assert!(matches!(found[..], [Violation::Overlap { .. }]), "{found:?}");
}

#[test]
fn an_overlap_is_told_from_an_order_even_where_another_asked_as_it_ended() {
    let found = violations(
        "1 1.0 asks n
         2 3.0 asks n
         5 1.0 granted 1
         20 1.0 believes
         20 2.0 asks n
         21 2.0 granted 2
         19 3.0 granted 3",
    );
    assert!(
        matches!(found[..], [Violation::Overlap { first: (first, _), .. }] if first.process == 1),
        "{found:?}"
    );
}

#[test]
fn the_release_counts_as_belief_once_it_is_acknowledged() {
    let released = |how: &str| {
        format!(
            "1 1.0 asks n
             5 1.0 granted 1
             20 1.0 releases
             25 1.0 {how}
             2 2.0 asks n
             19 2.0 granted 2"
        )
    };
    assert!(check(&released("lost")).is_ok());
    assert!(matches!(violations(&released("released"))[..], [Violation::Overlap { .. }]));
}

#[test]
fn a_token_that_was_granted_twice_is_found() {
    let found = violations(&two_grants(7, 30, 40, 7));
    assert!(matches!(found[..], [Violation::DuplicateToken { .. }]), "{found:?}");
}

#[test]
fn a_token_against_real_time_is_found() {
    // Asked after the other's answer, and its token is smaller.
    let found = violations(&two_grants(7, 30, 40, 6));
    assert!(matches!(found[..], [Violation::TokenAgainstTime { .. }]), "{found:?}");
    // Both asked at once, but the one with the greater token was over before the other began.
    let found = violations(&two_grants(7, 2, 40, 6));
    assert!(matches!(found[..], [Violation::TokenAgainstTime { .. }]), "{found:?}");
    // Nothing is known of when they held: either order may be right.
    assert!(
        check("1 1.0 asks n\n 2 2.0 asks n\n 5 1.0 granted 7\n 6 2.0 granted 6").is_ok(),
        "asked together, never believed"
    );
    let found = violations("1 1.0 asks n\n 6 2.0 asks n\n 5 1.0 granted 7\n 9 2.0 granted 6");
    assert!(matches!(found[..], [Violation::TokenAgainstTime { .. }]), "{found:?}");
}

#[test]
fn tokens_of_two_names_do_not_compare() {
    assert!(check("1 1.0 asks n\n2 1.0 granted 7\n3 2.0 asks m\n4 2.0 granted 7").is_ok());
}

#[test]
fn an_unknown_outcome_that_is_granted_later_is_found() {
    for end in ["unknown", "refused"] {
        let found = violations(&format!("1 1.0 asks n\n5 1.0 {end}\n9 1.0 granted 1"));
        assert!(matches!(found[..], [Violation::LateGrant { .. }]), "{found:?}");
    }
    let found = violations("1 1.0 asks n\n5 1.0 granted 1\n9 1.0 granted 2");
    assert!(matches!(found[..], [Violation::LateGrant { .. }]), "{found:?}");
}

#[test]
fn an_unknown_outcome_may_have_happened_or_not() {
    // Its token may be any, or none.
    let gap = "1 1.0 asks n\n5 1.0 unknown\n6 2.0 asks n\n9 2.0 granted 2";
    assert_eq!(check(gap).map(|summary| (summary.attempts, summary.grants)).ok(), Some((2, 1)));
    assert!(check("1 1.0 asks n\n6 2.0 asks n\n9 2.0 granted 1").is_ok(), "killed while it asked");
}

#[test]
fn a_ghost_release_is_found() {
    for lines in [
        "1 1.0 asks n\n5 1.0 released",
        "1 1.0 asks n\n5 1.0 releases",
        "1 1.0 asks n\n5 1.0 unknown\n6 1.0 releases\n7 1.0 released",
        "1 1.0 asks n\n5 1.0 granted 1\n6 1.0 lost\n7 1.0 released",
        "1 1.0 asks n\n5 1.0 granted 1\n6 1.0 releases\n7 1.0 released\n8 1.0 released",
    ] {
        let found = violations(lines);
        assert!(matches!(found[..], [Violation::GhostRelease { .. }, ..]), "{lines}: {found:?}");
    }
}

#[test]
fn a_verdict_shows_ten_violations_and_counts_the_rest() {
    let told = |number: u64| {
        let ghost = |process| format!("1 {process}.0 asks n\n5 {process}.0 releases\n");
        let found = check(&(0..number).map(ghost).collect::<String>()).expect_err("ghosts");
        found.to_string()
    };
    for number in [1, 10, 12] {
        let text = told(number);
        let shown = (0..number).filter(|process| text.contains(&format!("attempt {process}.0 ")));
        assert_eq!(shown.count() as u64, number.min(10), "{text}");
        assert_eq!(text.matches("; ").count() as u64, number.min(11) - 1, "{text}");
        assert_eq!(text.ends_with("; and 2 more"), number == 12, "{text}");
    }
}

#[test]
fn a_belief_that_comes_back_is_found() {
    for end in ["lost", "releases"] {
        let lines = format!("1 1.0 asks n\n5 1.0 granted 1\n6 1.0 {end}\n7 1.0 believes");
        let found = violations(&lines);
        assert!(matches!(found[..], [Violation::BeliefAfterLoss { .. }]), "{found:?}");
    }
}

#[test]
fn events_that_do_not_follow_are_found() {
    for lines in [
        "1 1.0 granted 1",
        "1 1.1 asks n",
        "1 1.0 asks n\n2 1.0 asks n",
        "1 1.0 asks n\n2 1.0 believes",
        "1 1.0 asks n\n2 1.0 lost",
        "1 1.0 asks n\n2 1.0 reads",
        "1 1.0 asks n\n2 1.0 granted 1\n3 1.0 wrote",
        "1 1.0 asks n\n2 1.0 granted 1\n3 1.0 reads\n4 1.0 wrote",
        "1 1.0 asks n\n2 1.0 granted 1\n3 1.0 writes 0 1\n4 1.0 read 0",
        "1 1.0 asks n\n2 1.0 granted 1\n3 1.0 reads\n4 1.0 read 0\n5 1.0 read 0",
        "1 1.0 asks n\n2 1.0 granted 1\n3 1.0 refused",
    ] {
        let found = violations(lines);
        assert!(matches!(found[..], [Violation::OutOfOrder { .. }]), "{lines}: {found:?}");
    }
}

/// Two holders of `n`, with tokens 1 and 2, and what they did at the resource.
fn resource(accesses: &str) -> Vec<Violation> {
    violations(&format!(
        "1 1.0 asks n
         2 1.0 granted 1
         3 2.0 asks n
         4 2.0 granted 2
         {accesses}"
    ))
}

#[test]
fn a_lost_update_is_found() {
    let good = "10 1.0 reads\n11 1.0 read 0\n12 1.0 writes 0 5\n13 1.0 wrote
                20 2.0 reads\n21 2.0 read 5\n22 2.0 writes 5 6\n23 2.0 wrote";
    assert_eq!(resource(good), []);
    let bad = "10 1.0 reads\n20 2.0 reads\n11 1.0 read 0\n21 2.0 read 0
               22 1.0 writes 0 5\n22 2.0 writes 0 6\n30 1.0 wrote\n30 2.0 wrote";
    let found = resource(bad);
    assert!(matches!(found[..], [Violation::LostUpdate { version: 0, .. }]), "{found:?}");
}

#[test]
fn a_write_without_an_answer_counts_once_it_was_seen() {
    let unanswered = "10 1.0 writes 0 5\n20 2.0 writes 0 6\n21 2.0 wrote\n";
    assert_eq!(resource(unanswered), []);
    let found = resource(&format!("{unanswered} 22 2.0 reads\n23 2.0 read 5"));
    assert!(matches!(found[..], [Violation::LostUpdate { .. }]), "{found:?}");
    // It may take effect at any time after its call, before a newer token was seen.
    assert_eq!(resource("10 1.0 writes 0 5\n20 2.0 reads\n30 2.0 read 5"), []);
    let found =
        resource("10 1.0 writes 0 5\n20 2.0 reads\n30 2.0 read 0\n31 2.0 reads\n32 2.0 read 5");
    assert!(matches!(found[..], [Violation::FenceWentBack { .. }]), "{found:?}");
}

#[test]
fn a_fence_that_goes_back_is_found() {
    let found = resource("10 2.0 reads\n11 2.0 read 0\n12 1.0 writes 0 5\n13 1.0 wrote");
    assert!(
        matches!(
            found[..],
            [Violation::FenceWentBack { .. }] | [Violation::AccessAgainstTime { .. }]
        ),
        "{found:?}"
    );
    let found = resource("10 2.0 writes 0 5\n11 2.0 wrote\n12 1.0 reads\n13 1.0 read 5");
    assert!(matches!(found[..], [Violation::FenceWentBack { .. }]), "{found:?}");
}

#[test]
fn a_refusal_of_who_is_not_stale_is_found() {
    let stale = "10 2.0 reads\n11 2.0 read 0\n12 1.0 reads\n13 1.0 stale";
    assert_eq!(resource(stale), []);
    for lines in [
        "10 1.0 reads\n11 1.0 stale",
        "10 2.0 reads\n11 2.0 stale",
        "10 1.0 reads\n11 1.0 stale\n12 2.0 reads\n13 2.0 read 0",
        "10 1.0 reads\n20 2.0 reads\n21 2.0 read 0\n15 1.0 stale",
    ] {
        let found = resource(lines);
        assert!(matches!(found[..], [Violation::WrongRefusal { .. }]), "{lines}: {found:?}");
    }
    // The newer token may have come with a read that nobody knows of.
    assert_eq!(resource("10 2.0 reads\n12 1.0 reads\n13 1.0 stale"), []);
    // Refused, and accepted again later.
    let found = resource(
        "5 2.0 reads\n10 1.0 reads\n11 1.0 stale\n12 1.0 reads\n13 1.0 read 0\n20 2.0 read 0",
    );
    assert!(matches!(found[..], [Violation::WrongRefusal { .. }]), "{found:?}");
}

#[test]
fn versions_from_nowhere_are_found() {
    for lines in [
        "10 1.0 reads\n11 1.0 read 9",
        "10 1.0 writes 9 5\n11 1.0 wrote",
        "9 2.0 reads\n9 2.0 read 0\n10 1.0 writes 0 5\n11 1.0 stale\n12 2.0 reads\n13 2.0 read 5",
    ] {
        let found = resource(lines);
        assert!(matches!(found[..], [Violation::SeenFromNowhere { .. }]), "{lines}: {found:?}");
    }
    for lines in ["10 1.0 writes 0 0\n11 1.0 wrote", "10 1.0 writes 0 5\n12 2.0 writes 5 5"] {
        let found = resource(lines);
        assert!(matches!(found[..], [Violation::VersionTwice { .. }]), "{lines}: {found:?}");
    }
}

#[test]
fn accesses_against_real_time_are_found() {
    for lines in [
        // Seen before it was written.
        "10 1.0 reads\n11 1.0 read 5\n12 1.0 writes 0 5\n13 1.0 wrote",
        // Not seen after it was written.
        "10 1.0 writes 0 5\n11 1.0 wrote\n12 2.0 reads\n13 2.0 read 0",
        // Each is based on the other.
        "10 1.0 writes 5 6\n10 2.0 writes 6 5\n11 1.0 wrote\n11 2.0 wrote",
    ] {
        let found = resource(lines);
        let time = matches!(
            found[..],
            [Violation::AccessAgainstTime { .. }] | [Violation::FenceWentBack { .. }]
        );
        assert!(time, "{lines}: {found:?}");
    }
}

#[test]
fn a_violation_says_who_and_what() {
    let found = check(&two_grants(1, 2, 19, 2)).expect_err("an overlap").to_string();
    assert_eq!(
        found,
        "\"n\": attempt 1.0 with token 1 and attempt 2.0 with token 2 believed at the same time, \
         for 1ns"
    );
}

#[test]
fn those_who_share_overlap_and_an_exclusive_grant_beside_them_is_found() {
    let shared = two_grants(1, 2, 10, 1).replace("asks", "asks-shared");
    assert!(check(&shared).is_ok(), "two who share, with one token");
    let other = two_grants(2, 2, 10, 1).replace("asks", "asks-shared");
    assert!(check(&other).is_ok(), "among those who share no order is promised");
    for exclusive in ["1.0", "2.0"] {
        let alone =
            shared.replace(&format!("{exclusive} asks-shared"), &format!("{exclusive} asks"));
        let found = violations(&alone);
        assert!(matches!(found[..], [Violation::DuplicateToken { .. }]), "{found:?}");
        let alone = alone.replace("granted 1\n         20", "granted 3\n         20");
        let found = violations(&alone);
        assert!(!found.is_empty(), "{alone}");
    }
    let later = two_grants(1, 2, 19, 2).replace("1.0 asks", "1.0 asks-shared");
    let found = violations(&later);
    assert!(matches!(found[..], [Violation::Overlap { .. }]), "{found:?}");
}

#[test]
fn a_fence_that_takes_a_shared_token_for_an_exclusive_one_is_found() {
    let shared = |second: &str| {
        format!(
            "1 1.0 asks-shared n\n1 2.0 asks-shared n\n2 1.0 granted 2\n2 2.0 granted 1
             3 1.0 reads\n4 1.0 read 0\n5 2.0 reads\n6 2.0 {second}"
        )
    };
    assert!(check(&shared("read 0")).is_ok(), "the older of two who share comes later");
    let found = violations(&shared("stale"));
    assert!(matches!(found[..], [Violation::WrongRefusal { .. }]), "{found:?}");
    let exclusive = |second: &str| {
        format!(
            "1 1.0 asks n\n2 1.0 granted 1\n3 1.0 lost\n4 2.0 asks-shared n\n5 2.0 granted 2
             6 2.0 reads\n7 2.0 read 0\n8 1.0 reads\n9 1.0 {second}"
        )
    };
    assert!(check(&exclusive("stale")).is_ok(), "a share refuses the exclusive grant before it");
    let found = violations(&exclusive("read 0"));
    assert!(!found.is_empty(), "a stale access was accepted after a share's");
}
