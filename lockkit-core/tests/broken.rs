//! The suite is itself tested: each provider that is broken on purpose is caught by its named case,
//! in every run of three, and a provider that is right is caught by none, however unusual it is.
//! `LOCKKIT_RUNS=20` runs more, as `cargo xtask soak` does.
//!
//! `cargo test --test broken -- --ignored` prints every case that catches each of them, and checks that
//! the mistakes that no case is named for still survive them all.

mod broken {
    pub(crate) mod attempt_flaws;
    pub(crate) mod claim_flaws;
    pub(crate) mod client;
    pub(crate) mod counted_flaws;
    pub(crate) mod end_flaws;
    pub(crate) mod entry;
    pub(crate) mod flaw;
    pub(crate) mod habits;
    pub(crate) mod handed_on;
    pub(crate) mod link;
    pub(crate) mod link_flaws;
    pub(crate) mod linked;
    pub(crate) mod operator_flaws;
    pub(crate) mod raise_flaws;
    pub(crate) mod refusal_flaws;
    pub(crate) mod rest_flaws;
    pub(crate) mod rule_flaws;
    pub(crate) mod rules;
    pub(crate) mod shared_flaws;
    pub(crate) mod store;
    pub(crate) mod table;
    pub(crate) mod term_flaws;
    pub(crate) mod together_flaws;
    pub(crate) mod twist;
    pub(crate) mod unseen;
    pub(crate) mod unseen_calls;
    pub(crate) mod unseen_clients;
    pub(crate) mod unseen_ends;
    pub(crate) mod unseen_links;
    pub(crate) mod unseen_names;
    pub(crate) mod unseen_operators;
    pub(crate) mod unseen_queues;
    pub(crate) mod unseen_terms;
    pub(crate) mod unseen_tokens;
    pub(crate) mod wait_flaws;
}
mod in_memory;
mod unusual;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use broken::attempt_flaws::attempt_flaws;
use broken::claim_flaws::claim_flaws;
use broken::counted_flaws::counted_flaws;
use broken::end_flaws::end_flaws;
use broken::flaw::{Flaw, SmallFixture};
use broken::link_flaws::LINK_FLAWS;
use broken::operator_flaws::operator_flaws;
use broken::raise_flaws::RAISE_FLAWS;
use broken::refusal_flaws::refusal_flaws;
use broken::rest_flaws::rest_flaws;
use broken::rule_flaws::RULE_FLAWS;
use broken::shared_flaws::{self, shared_flaws};
use broken::term_flaws::term_flaws;
use broken::together_flaws::together_flaws;
use broken::unseen::unseen_flaws;
use broken::wait_flaws::wait_flaws;
use in_memory::InMemory;
use libtest_mimic::{Arguments, Failed, Trial};
use lockkit_core::conformance::{Case, Fixture, Level, Outcome, Time, cases, check};
use unusual::fixture::UnusualFixture;
use unusual::manner::{Manner, manners};

/// How often each flaw must be caught, unless `LOCKKIT_RUNS` says: a case that misses one is no
/// safeguard.
const RUNS: usize = 3;
/// So begins the reason of a case that its runner may run once more.
const INCONCLUSIVE: &str = "inconclusive: ";

fn main() -> ExitCode {
    let mut flaws = RULE_FLAWS.to_vec();
    flaws.extend(attempt_flaws());
    flaws.extend(wait_flaws());
    flaws.extend(term_flaws());
    flaws.extend(end_flaws());
    flaws.extend(operator_flaws());
    flaws.extend(refusal_flaws());
    flaws.extend(claim_flaws());
    flaws.extend(shared_flaws());
    flaws.extend(counted_flaws());
    flaws.extend(rest_flaws());
    flaws.extend(together_flaws());
    flaws.extend_from_slice(LINK_FLAWS);
    flaws.extend_from_slice(RAISE_FLAWS);
    // Those that survive have no case to their name yet.
    let (survivors, unseen): (Vec<_>, Vec<_>) =
        unseen_flaws().into_iter().partition(|flaw| flaw.caught_by.is_empty());
    flaws.extend(unseen);
    let mut trials = Vec::new();
    for flaw in survivors {
        let name = format!("{} survives, and breaks {}: {}", flaw.name, flaw.clause, flaw.mistake);
        trials.push(Trial::test(name, move || survives(&flaw)).with_ignored_flag(true));
    }
    trials.extend(acquittals());
    for flaw in flaws {
        let name = format!("{}: {}", flaw.name, flaw.mistake);
        let table = format!("which cases catch {}", flaw.name);
        let flaw_too = flaw.clone();
        trials.push(Trial::test(name, move || caught(&flaw)));
        trials.push(Trial::test(table, move || tell(&flaw_too)).with_ignored_flag(true));
    }
    let table = "the table of the mistakes that no case was made for";
    trials.push(
        Trial::test(table, || {
            println!("{}", broken::table::table());
            Ok(())
        })
        .with_ignored_flag(true),
    );
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// That no case finds anything in a store that is right.
fn acquittals() -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in cases() {
        let name = format!("{} finds nothing in the", case.id);
        trials.push(Trial::test(format!("{name} memory store"), || {
            finds_nothing(case, Arc::new(InMemory::new(Time::Virtual)))
        }));
        trials.push(Trial::test(format!("{name} small store"), || {
            // Some cases need threads, or time that passes by itself.
            let time = match check(case.id, small(&Flaw::NONE, Time::Virtual)) {
                Outcome::NotReached(_) => Time::Real,
                _ => Time::Virtual,
            };
            match case.level() {
                Level::Link => passes(case, small(&Flaw::NONE, time)),
                _ => finds_nothing(case, small(&Flaw::NONE, time)),
            }
        }));
    }
    for id in shared_flaws::CASES {
        let unusual = shared_flaws::ONE_TOKEN;
        let of = "a store that is right, but unusual:";
        let name = format!("{id} finds nothing in {of} {}", unusual.mistake);
        trials.push(Trial::test(name, move || match check(id, small(&unusual, Time::Virtual)) {
            Outcome::Passed => Ok(()),
            other => Err(format!("{other:?}").into()),
        }));
    }
    for manner in manners() {
        let name = format!("no case finds anything in {}: {}", manner.name, manner.what);
        trials.push(Trial::test(name, move || acquitted(manner)));
    }
    trials
}

/// Fails unless each named case catches `flaw` in every run.
fn caught(flaw: &Flaw) -> Result<(), Failed> {
    if flaw.caught_by.is_empty() {
        return Err("no case is named for it".into());
    }
    for id in flaw.caught_by {
        // A case that fails without the flaw too catches nothing.
        let control = check(id, small(&Flaw::NONE, Time::Virtual));
        if !matches!(control, Outcome::Passed | Outcome::NotClaimed(_)) {
            return Err(format!("{id} does not pass without the flaw: {control:?}").into());
        }
        for run in 1..=runs() {
            match check(id, small(flaw, Time::Virtual)) {
                Outcome::Failed(_) => {}
                outcome => return Err(format!("survived {id} in run {run}: {outcome:?}").into()),
            }
        }
    }
    Ok(())
}

/// Fails with every case that finds something in a store that is right.
///
/// Of the cases that need threads, or time that passes by itself, those run that the manner names.
fn acquitted(manner: &'static Manner) -> Result<(), Failed> {
    let found = |id: &str, time| match check(id, Arc::new(UnusualFixture::new(manner, time))) {
        Outcome::Failed(why) => Some((why.starts_with(INCONCLUSIVE), format!("{id}: {why}"))),
        _ => None,
    };
    let convicted: Vec<(bool, String)> = thread::scope(|scope| {
        let real = manner.in_real_time.iter();
        let real: Vec<_> = real.map(|id| scope.spawn(move || found(id, Time::Real))).collect();
        let told = cases().iter().filter(|case| manner.concerns(case));
        let mut convicted: Vec<_> = told.filter_map(|case| found(case.id, Time::Virtual)).collect();
        convicted.extend(real.into_iter().filter_map(|case| case.join().expect("no panic")));
        convicted
    });
    let inconclusive = convicted.iter().all(|(inconclusive, _)| *inconclusive);
    let why: Vec<_> = convicted.into_iter().map(|(_, why)| why).collect();
    match &why[..] {
        [] => Ok(()),
        _ if inconclusive => Err(format!("{INCONCLUSIVE}{}", why.join("\n")).into()),
        _ => Err(why.join("\n").into()),
    }
}

fn runs() -> usize {
    let runs = std::env::var("LOCKKIT_RUNS").ok();
    runs.map_or(RUNS, |runs| runs.parse().expect("LOCKKIT_RUNS is a number"))
}

fn finds_nothing(case: &Case, fixture: Arc<dyn Fixture>) -> Result<(), Failed> {
    match check(case.id, fixture) {
        Outcome::Failed(why) => Err(why.into()),
        _ => Ok(()),
    }
}

/// The same of a case that must run: the small store has a link, and declares all that they need.
fn passes(case: &Case, fixture: Arc<dyn Fixture>) -> Result<(), Failed> {
    match check(case.id, fixture) {
        Outcome::Passed => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn small(flaw: &Flaw, time: Time) -> Arc<dyn Fixture> {
    Arc::new(SmallFixture::new(flaw, time))
}

/// Fails if a case catches `flaw`, which is then to be named.
fn survives(flaw: &Flaw) -> Result<(), Failed> {
    let catches = |id: &str| matches!(check(id, small(flaw, Time::Virtual)), Outcome::Failed(_));
    let named: Vec<_> = cases().iter().map(|case| case.id).filter(|id| catches(id)).collect();
    if named.is_empty() { Ok(()) } else { Err(format!("caught by {named:?}").into()) }
}

fn tell(flaw: &Flaw) -> Result<(), Failed> {
    for case in cases() {
        if let Outcome::Failed(why) = check(case.id, small(flaw, Time::Virtual)) {
            println!("{} is caught by {}: {why}", flaw.name, case.id);
        }
    }
    Ok(())
}
