//! The tiers of the tests: `tiers.txt` gives each test exactly one, and a check compares it with the
//! tests that exist, so that no test is lost and none falls silent unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

use crate::Result;
use crate::programs::{Kind, Listed, Program};
use crate::steps::root;

/// The table of all tests.
const TABLE: &str = "xtask/src/tiers.txt";
const HEAD: &str = "\
# Each test and its tier. `first`: `cargo xtask test` runs it. `store`: `cargo xtask test <store>` and
# `cargo xtask ci` run it. `soak`: only `cargo xtask soak` runs it. `child`: no test, but a process that
# tests start. Move a line to change a tier; `cargo xtask tiers write` adds new tests and removes old
# ones. A suite's cases stand by their ids.
";
/// How wide a line of ids is.
const WIDTH: usize = 100;

/// Which command runs a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// `cargo xtask test`.
    First,
    /// `cargo xtask test <store>`, and `cargo xtask ci`.
    Store,
    /// `cargo xtask soak`.
    Soak,
    /// None: tests start it as a process of theirs.
    Child,
}

/// The tier of each test of each program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table(BTreeMap<String, BTreeMap<String, Tier>>);

impl Tier {
    const ALL: [Self; 4] = [Self::First, Self::Store, Self::Soak, Self::Child];

    const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Store => "store",
            Self::Soak => "soak",
            Self::Child => "child",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Table {
    /// The committed table.
    pub(crate) fn committed() -> Result<Self> {
        let text = fs::read_to_string(root().join(TABLE));
        Self::parsed(&text.map_err(|error| format!("{TABLE}: {error}"))?)
    }

    fn parsed(text: &str) -> Result<Self> {
        let (mut table, mut program, mut tier) = (Self::default(), String::new(), None);
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                (program, tier) = (name.to_owned(), None);
                table.0.entry(program.clone()).or_default();
            } else if let Some(entry) = line.strip_prefix("  ") {
                let tier = tier.ok_or(format!("{TABLE}: {line:?} stands under no tier"))?;
                let tests = table.0.entry(program.clone()).or_default();
                for test in entries(&program, entry) {
                    if tests.insert(test.to_owned(), tier).is_some() {
                        return Err(format!("{TABLE}: {program} {test} stands there twice"));
                    }
                }
            } else {
                let known = Tier::ALL.into_iter().find(|tier| tier.as_str() == line);
                tier = Some(known.ok_or(format!("{TABLE}: {line:?} is no tier"))?);
            }
        }
        Ok(table)
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (program, tests) in &self.0 {
            text += &format!("\n[{program}]\n");
            for tier in Tier::ALL {
                let of_tier = tests.iter().filter(|(_, of)| **of == tier).map(|(test, _)| &**test);
                let lines = lines(program, of_tier);
                if !lines.is_empty() {
                    text += &format!("{tier}\n{}", lines.concat());
                }
            }
        }
        text
    }

    /// The tests of a program that are of one of these tiers.
    pub(crate) fn of<'a>(&'a self, program: &Program, tiers: &'a [Tier]) -> Vec<&'a str> {
        let tests = self.0.get(&program.name).into_iter().flatten();
        tests.filter(|(_, tier)| tiers.contains(tier)).map(|(test, _)| &**test).collect()
    }

    /// How the table differs from what exists, a line for each test.
    pub(crate) fn differences(&self, existing: &[Listed]) -> Vec<String> {
        let mut differences = Vec::new();
        let programs: BTreeSet<&str> = existing.iter().map(|listed| &*listed.program).collect();
        for gone in self.0.keys().filter(|program| !programs.contains(&***program)) {
            differences.push(format!("{gone}: there is no such program"));
        }
        let none = BTreeMap::new();
        for listed in existing {
            let (program, tests) = (&listed.program, self.0.get(&listed.program).unwrap_or(&none));
            for test in listed.tests.iter().filter(|test| !tests.contains_key(&**test)) {
                differences.push(format!("{program}: {test} has no tier"));
            }
            for (test, tier) in tests {
                if !listed.tests.contains(test) {
                    differences.push(format!("{program}: {test} does not exist"));
                } else if listed.ignored.contains(test) != matches!(tier, Tier::Soak | Tier::Child)
                    && listed.has_ignored
                {
                    let ignored = if listed.ignored.contains(test) { "" } else { "not " };
                    let why = format!("the test is {ignored}ignored, and its tier is {tier}");
                    differences.push(format!("{program}: {test}: {why}"));
                }
            }
        }
        differences
    }

    /// Adds what is new, each test in the tier of most tests of its program, and removes what is gone.
    fn brought_up_to(&self, existing: &[Listed]) -> Self {
        let mut table = Self::default();
        for listed in existing {
            let known = self.0.get(&listed.program);
            let count = |tier: Tier| {
                known.map_or(0, |tests| tests.values().filter(|of| **of == tier).count())
            };
            // A suite has nothing that is ignored, and may be of the tier soak as a whole.
            let may_be = |tier: &Tier| *tier != Tier::Soak || !listed.has_ignored;
            let usual = [Tier::Soak, Tier::Store, Tier::First].into_iter().filter(may_be);
            let usual = usual.max_by_key(|tier| count(*tier)).unwrap_or(Tier::First);
            let tier = |test: &String| match known.and_then(|tests| tests.get(test)) {
                _ if !listed.has_ignored || !listed.ignored.contains(test) => {
                    let known = known.and_then(|tests| tests.get(test)).copied();
                    known.filter(|tier| *tier < Tier::Child && may_be(tier)).unwrap_or(usual)
                }
                Some(Tier::Child) => Tier::Child,
                _ if is_child(test) => Tier::Child,
                _ => Tier::Soak,
            };
            let tests = listed.tests.iter().map(|test| (test.clone(), tier(test))).collect();
            table.0.insert(listed.program.clone(), tests);
        }
        table
    }

    fn print(&self) {
        let mut sums = [0; 4];
        println!("{:44} {:>6} {:>6} {:>6} {:>6}", "tests", "first", "store", "soak", "child");
        for (program, tests) in &self.0 {
            let counts = Tier::ALL.map(|tier| tests.values().filter(|of| **of == tier).count());
            let [first, store, soak, child] = counts;
            println!("{program:44} {first:6} {store:6} {soak:6} {child:6}");
            sums = std::array::from_fn(|at| sums[at] + counts[at]);
        }
        let [first, store, soak, child] = sums;
        println!("{:44} {first:6} {store:6} {soak:6} {child:6}", "all");
    }
}

/// `cargo xtask tiers`: prints the table, once it agrees with the tests that exist.
pub(crate) fn print(existing: &[Listed], whole: bool) -> Result<()> {
    let table = Table::committed()?;
    check(&table, existing)?;
    if whole {
        print!("{}", table.text());
    }
    table.print();
    Ok(())
}

/// `cargo xtask tiers write`: brings the table up to the tests that exist.
pub(crate) fn write(existing: &[Listed]) -> Result<()> {
    let before = Table::committed()?;
    let table = before.brought_up_to(existing);
    for difference in before.differences(existing) {
        eprintln!("{difference}");
    }
    fs::write(root().join(TABLE), table.text()).map_err(|error| format!("{TABLE}: {error}"))?;
    table.print();
    Ok(())
}

/// Fails where the table is not what exists.
pub(crate) fn check(table: &Table, existing: &[Listed]) -> Result<()> {
    let differences = table.differences(existing);
    if differences.is_empty() {
        return Ok(());
    }
    let remedy =
        format!("`cargo xtask tiers write` brings {TABLE} up to them: see what it changes");
    Err(format!("{TABLE} is not what exists; {remedy}:\n  {}", differences.join("\n  ")))
}

fn is_child(test: &str) -> bool {
    test.rsplit("::").next().is_some_and(|name| name.starts_with("child"))
}

/// The tests that a line of the table names.
fn entries<'a>(program: &str, line: &'a str) -> impl Iterator<Item = &'a str> {
    let separator = if Kind::of(program) == Kind::Suite { ", " } else { "\n" };
    line.split(separator).map(|entry| entry.trim_end_matches(','))
}

/// The lines that name these tests.
fn lines<'a>(program: &str, tests: impl Iterator<Item = &'a str>) -> Vec<String> {
    if Kind::of(program) != Kind::Suite {
        return tests.map(|test| format!("  {test}\n")).collect();
    }
    let mut lines: Vec<String> = Vec::new();
    for test in tests {
        match lines.last_mut() {
            Some(line) if line.len() + test.len() + 2 < WIDTH => *line += &format!(", {test}"),
            _ => lines.push(format!("  {test}")),
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[a conformance]\nfirst\n  AT-01, AT-02\nstore\n  LV-01\n\n[a it]\nfirst\n  \
        one::test\nsoak\n  two\nchild\n  child_that_waits\n";

    fn listed(program: &str, tests: &[&str], ignored: &[&str]) -> Listed {
        let owned = |tests: &[&str]| tests.iter().map(|test| (*test).to_owned()).collect();
        let has_ignored = Kind::of(program) != Kind::Suite;
        let program = program.to_owned();
        Listed { program, tests: owned(tests), ignored: owned(ignored), has_ignored }
    }

    fn existing() -> Vec<Listed> {
        let it = ["one::test", "two", "child_that_waits"];
        vec![
            listed("a conformance", &["AT-01", "AT-02", "LV-01"], &["AT-02"]),
            listed("a it", &it, &["two", "child_that_waits"]),
        ]
    }

    #[test]
    fn the_table_is_read_as_it_was_written() {
        let table = Table::parsed(TEXT).expect("a table");
        assert_eq!(Table::parsed(&table.text()), Ok(table));
        assert!(Table::parsed("[a it]\nfirst\n  one\nstore\n  one\n").is_err());
        assert!(Table::parsed("[a it]\n  one\n").is_err());
        assert!(Table::parsed("[a it]\nnever\n").is_err());
    }

    #[test]
    fn the_committed_table_is_as_the_command_writes_it() {
        let table = Table::committed().expect("a table");
        assert_eq!(fs::read_to_string(root().join(TABLE)).expect("a table"), table.text());
    }

    #[test]
    fn each_difference_from_what_exists_is_named() {
        let table = Table::parsed(TEXT).expect("a table");
        assert_eq!(table.differences(&existing()), [""; 0]);
        let mut other = existing();
        other[0] = listed("a conformance", &["AT-01", "AT-03", "LV-01"], &[]);
        other[1].ignored.remove("two");
        other.push(listed("b it", &["three"], &[]));
        assert_eq!(
            table.differences(&other),
            [
                "a conformance: AT-03 has no tier",
                "a conformance: AT-02 does not exist",
                "a it: two: the test is not ignored, and its tier is soak",
                "b it: three has no tier",
            ]
        );
        assert_eq!(table.differences(&[]).len(), 2);
    }

    #[test]
    fn a_suite_stays_in_the_tier_soak() {
        let table = Table::parsed("[a conformance]\nsoak\n  AT-01, AT-02\n").expect("a table");
        let other = [listed("a conformance", &["AT-01", "AT-02", "AT-03"], &["AT-02"])];
        let brought = table.brought_up_to(&other);
        assert_eq!(brought.differences(&other), [""; 0]);
        assert!(brought.0["a conformance"].values().all(|tier| *tier == Tier::Soak));
    }

    #[test]
    fn a_new_test_comes_into_the_usual_tier_of_its_program() {
        let table = Table::parsed(TEXT).expect("a table");
        let mut other = existing();
        other[1] =
            listed("a it", &["one::test", "new", "child_new", "long"], &["child_new", "long"]);
        let table = table.brought_up_to(&other);
        assert_eq!(table.differences(&other), [""; 0]);
        let tiers: Vec<_> = table.0["a it"].iter().map(|(test, tier)| (&**test, *tier)).collect();
        assert_eq!(
            tiers,
            [
                ("child_new", Tier::Child),
                ("long", Tier::Soak),
                ("new", Tier::First),
                ("one::test", Tier::First),
            ]
        );
    }
}
