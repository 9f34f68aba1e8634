//! What test programs print: which tests failed, why, and which were inconclusive.

/// How a failure begins that shows nothing: a time bound was missed while the machine gave the test too
/// little time. The suite and the testbed write it.
const INCONCLUSIVE: &str = "inconclusive: the machine ";
/// How the errors look that a limit explains, in code and in words: no answer, no grant, or no renewal in time.
const LATE: [&str; 6] = [
    "Unavailable { applied: ",
    "TimedOut { holder: ",
    "Lost { reason: Expired",
    "the store is unavailable (",
    "timed out: the name is held",
    "the lease is lost: no renewal was",
];
/// What has failed where a program fails and names no test.
pub(crate) const PROGRAM: &str = "the program itself";
/// How many characters of a long output are shown.
const SHOWN: usize = 20_000;

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) test: String,
    pub(crate) said: String,
}

impl Failure {
    /// What went wrong with a program as a whole, and the end of its output.
    pub(crate) fn of_program(what: &str, said: &str) -> Self {
        let from = said.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
        Self { test: what.to_owned(), said: said[from..].to_owned() }
    }

    /// Whether all that failed is a time bound that was missed for want of time.
    ///
    /// A test that does not expect an error tells nothing of the time: where the machine was crowded, or
    /// stood still, an error that a limit explains counts too. A task that panicked so ends the test with
    /// a `JoinError` besides.
    pub(crate) fn is_inconclusive(&self, is_starved: bool) -> bool {
        let is_late = |said: &str| {
            said.starts_with(INCONCLUSIVE)
                || is_starved && LATE.iter().any(|error| said.contains(error))
        };
        let reasons = self.reasons();
        reasons.iter().any(|said| is_late(said))
            && reasons.iter().all(|said| is_late(said) || said.contains("JoinError::Panic"))
    }

    /// The first line of each panic's message; a case of the suite says it without a panic.
    fn reasons(&self) -> Vec<&str> {
        let panics = panics(&self.said);
        if panics.is_empty() { self.said.lines().take(1).collect() } else { panics }
    }

    /// The first line of why it failed.
    pub(crate) fn first_line(&self) -> &str {
        self.reasons().first().copied().unwrap_or("no message")
    }
}

/// The number of tests that passed, by each `test result` line of a program.
pub(crate) fn passed(said: &str) -> usize {
    let results = said.lines().filter_map(|line| line.strip_prefix("test result: "));
    let counts = results
        .filter_map(|line| line.split(". ").nth(1)?.split(' ').next()?.parse::<usize>().ok());
    counts.sum()
}

/// The tests that failed. A program that failed without naming one has failed itself.
pub(crate) fn failures(said: &str) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut is_inside = false;
    for line in said.lines() {
        if let Some(test) = headline(line) {
            is_inside = true;
            failures.push(Failure { test: test.to_owned(), said: String::new() });
        } else if line == "failures:" || line == "successes:" || line.starts_with("test result: ") {
            // A list of names follows, or nothing that belongs to a test.
            is_inside = false;
        } else if let Some(failure) = failures.last_mut().filter(|_| is_inside) {
            failure.said += line;
            failure.said.push('\n');
        }
    }
    let names = failed_names(said);
    // What passed may have a headline too.
    failures.retain(|failure| names.contains(&&*failure.test));
    for name in &names {
        if failures.iter().all(|failure| failure.test != *name) {
            failures.push(Failure { test: (*name).to_owned(), said: String::new() });
        }
    }
    if failures.is_empty() {
        failures.push(Failure::of_program(PROGRAM, said));
    }
    failures
}

/// The names in the list at the end, behind the last `failures:`.
fn failed_names(said: &str) -> Vec<&str> {
    let mut lines = said.lines().rev().skip_while(|line| !line.starts_with("test result: FAILED"));
    lines.next();
    let names = lines.take_while(|line| *line != "failures:");
    let mut names: Vec<_> = names.filter_map(|line| line.strip_prefix("    ")).collect();
    names.reverse();
    names
}

/// The test whose output begins here: `---- it::works stdout ----`, or libtest-mimic's without
/// `stdout`.
fn headline(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// The first line of each panic's message.
fn panics(said: &str) -> Vec<&str> {
    let mut lines = said.lines();
    let mut panics = Vec::new();
    while let Some(line) = lines.next() {
        if line.contains("' panicked at ") || line.contains(") panicked at ") {
            panics.extend(lines.next());
        }
    }
    panics
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\nrunning 4 tests\ntest a ... ok\ntest it::late ... FAILED\n\
        \nsuccesses:\n\n---- a stdout ----\nmeasured: 1 ms\n\n\nsuccesses:\n    a\n\nfailures:\n\
        \n---- it::late stdout ----\n\nthread 'it::late' (7) panicked at tests/it/a.rs:1:2:\n\
        inconclusive: the machine stood still for 312 ms; a grant: not within 1s\n\
        note: run with `RUST_BACKTRACE=1`\n\n---- it::two_held stdout ----\n\
        thread 'it::two_held' (8) panicked at tests/it/b.rs:3:4:\nassertion failed: two held\n\
        \n---- it::task stdout ----\nthread 'tokio-rt' (9) panicked at tests/it/c.rs:5:6:\n\
        inconclusive: the machine stood still for 400 ms; a push: not within 1s\n\
        thread 'it::task' (9) panicked at tests/it/c.rs:7:8:\n\
        called `Result::unwrap()` on an `Err` value: JoinError::Panic(Id(4), ..)\n\
        \n\nfailures:\n    it::late\n    it::task\n    it::two_held\n\
        \ntest result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 2 filtered out\n\
        \nthread 'elsewhere' (3) panicked at src/x.rs:1:1:\non purpose\n";

    #[test]
    fn only_a_missed_time_bound_on_a_machine_that_stood_still_is_inconclusive() {
        let failures = failures(SAID);
        let inconclusive: Vec<_> =
            failures.iter().map(|one| (&*one.test, one.is_inconclusive(true))).collect();
        assert_eq!(inconclusive, [("it::late", true), ("it::two_held", false), ("it::task", true)]);
        let why = "inconclusive: the machine stood still for 312 ms; a grant: not within 1s";
        assert_eq!(failures[0].first_line(), why);
        // A second panic of the same test is of another kind.
        let mixed =
            Failure { said: failures[0].said.clone() + &failures[1].said, ..failures[0].clone() };
        assert!(!mixed.is_inconclusive(true));
    }

    #[test]
    fn an_error_that_a_limit_explains_is_inconclusive_only_on_a_machine_without_time() {
        let of = |said: &str| Failure { test: "a".into(), said: said.to_owned() };
        let unwrapped = of("thread 'a' (7) panicked at a.rs:1:2:\n\
            called `Result::unwrap()` on an `Err` value: Unavailable { applied: Maybe, cause: .. }");
        assert!(unwrapped.is_inconclusive(true) && !unwrapped.is_inconclusive(false));
        let case =
            of("inconclusive: the machine stood still for 300 ms (granted: not within 1s)\n");
        assert!(case.is_inconclusive(true) && case.is_inconclusive(false));
        let told = of("thread 'a' (7) panicked at a.rs:1:2:\n\
            lock \"a\": the store is unavailable (it may have taken effect): no answer within 2s");
        assert!(told.is_inconclusive(true) && !told.is_inconclusive(false));
        let held = of("two guards held\n");
        assert!(!held.is_inconclusive(true));
    }

    #[test]
    fn a_program_that_fails_without_a_name_has_failed_itself() {
        let crashed = "running 2 tests\ntest a ... ok\n";
        assert_eq!(failures(crashed), [Failure::of_program("the program itself", crashed)]);
        let silent = "failures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed\n";
        assert_eq!(failures(silent), [Failure { test: "a".into(), said: String::new() }]);
        let long = "é".repeat(2 * SHOWN);
        assert!(Failure::of_program("it", &long).said.len() <= 2 * (SHOWN + 1));
    }

    #[test]
    fn what_passed_is_counted() {
        assert_eq!(passed(SAID), 1);
        assert_eq!(passed("test result: ok. 12 passed; 0 failed; 3 ignored\n"), 12);
    }
}
