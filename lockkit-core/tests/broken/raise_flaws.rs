//! Mistakes of a store in the floors of tokens, and in raising grants.

use super::entry::{Caller, Entry, Held};
use super::flaw::Flaw;
use super::rules::{Rules, raise};

const CORRECT: Rules = Rules::CORRECT;

/// Raises what is held, if that is asked for, and the counter with it.
fn set(entry: &mut Entry, meant: impl Fn(&Held) -> bool, to: u64) {
    let to_token = lockkit_core::FencingToken::new(to).expect("a token");
    entry.held.iter_mut().filter(|held| meant(held)).for_each(|held| held.carries = to_token);
    entry.last_token = to;
}

pub(crate) const RAISE_FLAWS: &[Flaw] = &[
    Flaw::rule(
        "floor-ignored",
        "the floor of a request is not looked at",
        &["C4-08"],
        Rules { with_floor: |next, _| next, ..CORRECT },
    ),
    Flaw::rule(
        "floor-taken-as-it-is",
        "the floor is the token, whatever was granted before",
        &["C4-08"],
        Rules {
            with_floor: |next, floor| floor.map_or(next, lockkit_core::FencingToken::as_u64),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "floor-beside-the-counter",
        "the floor is granted, and the counter goes on below it",
        &["C4-08"],
        Rules {
            at_grant: |entry| {
                let token = entry.held.last().map_or(0, |held| held.token.as_u64());
                if token >= entry.past.counted + 1000 {
                    entry.last_token = entry.past.counted + 1;
                }
                entry.past.counted = entry.last_token;
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "raised-in-the-grant-only",
        "a raise changes what the grant carries, and not the counter",
        &["C4-09"],
        Rules {
            raises: |entry, caller, to| {
                let last = entry.last_token;
                let raised = raise(entry, caller, to);
                entry.last_token = last;
                raised
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "raised-in-the-counter-only",
        "a raise moves the counter, and the grant goes on carrying its first token",
        &["C4-09"],
        Rules {
            raises: |entry, caller, to| {
                let raised = raise(entry, caller, to);
                entry.held.iter_mut().for_each(|held| held.carries = held.token);
                raised
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "raised-whatever-it-carries",
        "a raise to a lower token is taken as well, and the counter goes back",
        &["C4-10"],
        Rules {
            raises: |entry, caller, to| {
                raise(entry, caller, to)?;
                set(entry, |held| held.id == caller.id, to.as_u64());
                Some(true)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "raised-without-a-grant",
        "a raise moves the counter, whether or not its grant is there",
        &["C6-12"],
        Rules {
            raises: |entry, caller, to| {
                entry.last_token = entry.last_token.max(to.as_u64());
                raise(entry, caller, to)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "raised-for-another-holder",
        "a raise is for the holder of the name, whichever grant was meant",
        &["C6-12"],
        Rules {
            raises: |entry, _, to| {
                let any = !entry.held.is_empty();
                if any {
                    set(entry, |_| true, to.as_u64());
                }
                any.then_some(true)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "raised-while-it-rests",
        "a raise is for the grant of its token, also when its request has let go of it",
        &["C6-12"],
        Rules {
            raises: |entry, caller, to| {
                let meant = entry.held.iter().find(|held| held.token == caller.token)?;
                let as_before = Caller { id: meant.id, ..*caller };
                raise(entry, &as_before, to)
            },
            ..CORRECT
        },
    ),
];
