//! The conformance suite's reports: each is written once, and what they do not count as passed is
//! what `unclaimed.txt` says, so that no case falls silent unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use crate::Result;
use crate::steps::root;

/// The list of what is not claimed and not reached.
const LIST: &str = "xtask/src/unclaimed.txt";
const HEAD: &str = "\
# What each store's conformance report does not count as passed, and why: a change that makes a
# case fall silent shows here. Written by `cargo xtask unclaimed` from the last run's reports.
";
/// What a program of the suite says of each file that it has written.
const WRITTEN: &str = "written: ";

/// The ways in which cases are not counted, each with the cases' ids.
type Ways = Vec<(String, Vec<String>)>;
/// Those of each store.
type Silent = BTreeMap<String, Ways>;

/// Where the suite's programs write their reports.
pub(crate) fn directory() -> PathBuf {
    root().join("target").join("conformance")
}

/// Removes the reports of earlier runs.
pub(crate) fn clear() -> Result<()> {
    match fs::remove_dir_all(directory()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("reports: {error}")),
        _ => Ok(()),
    }
}

/// The reports that a program says to have written.
pub(crate) fn written(output: &str) -> impl Iterator<Item = PathBuf> {
    let files = output.lines().filter_map(|line| line.strip_prefix(WRITTEN));
    files.map(PathBuf::from).filter(|file| is_report(file))
}

/// What is wrong with the reports that a whole run has written, each in a line.
pub(crate) fn problems(written: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = twice(written);
    let files: BTreeSet<_> = written.iter().map(PathBuf::as_path).collect();
    problems.extend(differences(&list()?, &silent(files)?));
    if !problems.is_empty() {
        problems.push(format!(
            "if that is meant, have `cargo xtask unclaimed` write {LIST} from these reports, and \
             say in the commit why a case is not counted"
        ));
    }
    Ok(problems)
}

/// Writes the list anew from the reports that are there; a store without one keeps its entry.
pub(crate) fn write_list() -> Result<()> {
    let files = fs::read_dir(directory()).map_err(|error| {
        format!("no reports: {error}; `cargo xtask suites`, or LOCKKIT_REPORT, makes them")
    })?;
    let files: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    let reports = silent(files.iter().map(PathBuf::as_path).filter(|file| is_report(file)))?;
    let names: Vec<_> = reports.keys().cloned().collect();
    let mut list = list()?;
    list.extend(reports);
    fs::write(root().join(LIST), text(&list)).map_err(|error| format!("{LIST}: {error}"))?;
    eprintln!("{LIST}: written anew for {}", names.join("; "));
    Ok(())
}

fn is_report(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "json")
}

fn twice(written: &[PathBuf]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let again = written.iter().filter(|file| !seen.insert(*file));
    let name = |file: &PathBuf| {
        format!("{} was written twice: two fixtures have one store()", file.display())
    };
    again.map(name).collect()
}

/// What the reports in these files do not count.
fn silent<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<Silent> {
    let mut stores = Silent::new();
    for file in files {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
        let text = fs::read_to_string(file).map_err(|error| wrong(&error))?;
        let report: Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        let (store, cases) = of_report(&report).map_err(|why| wrong(&why))?;
        stores.insert(store, cases);
    }
    Ok(stores)
}

fn of_report(report: &Value) -> Result<(String, Ways)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if report["is_whole"] != true {
        return Err("a filter chose some of its cases: run all of them".to_owned());
    }
    let mut ways = Ways::new();
    for case in report["cases"].as_array().into_iter().flatten() {
        let outcome = text(&case["outcome"]);
        if !outcome.starts_with("not ") {
            continue;
        }
        let (way, id) = (format!("{outcome} ({})", text(&case["reason"])), text(&case["id"]));
        match ways.iter_mut().find(|(known, _)| *known == way) {
            Some((_, ids)) => ids.push(id),
            None => ways.push((way, vec![id])),
        }
    }
    ways.sort();
    Ok((text(&report["store"]), ways))
}

fn list() -> Result<Silent> {
    let text = fs::read_to_string(root().join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
    parsed(&text)
}

fn text(list: &Silent) -> String {
    let mut text = HEAD.to_owned();
    for (store, ways) in list {
        // A string takes everything.
        writeln!(text, "\n{store}").ok();
        for (way, ids) in ways {
            writeln!(text, "  {way}: {}", ids.join(", ")).ok();
        }
    }
    text
}

fn parsed(text: &str) -> Result<Silent> {
    let mut list = Silent::new();
    let mut store = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(entry) = line.strip_prefix("  ") else {
            line.clone_into(&mut store);
            list.entry(store.clone()).or_default();
            continue;
        };
        let (way, ids) = entry.rsplit_once(": ").ok_or(format!("{LIST}: {line:?} has no ids"))?;
        let ids = ids.split(", ").map(str::to_owned).collect();
        list.entry(store.clone()).or_default().push((way.to_owned(), ids));
    }
    Ok(list)
}

/// How the reports differ from the list, a line for each case.
fn differences(list: &Silent, reports: &Silent) -> Vec<String> {
    let mut differences = Vec::new();
    for store in list.keys().chain(reports.keys()).collect::<BTreeSet<_>>() {
        let (Some(listed), Some(reported)) = (list.get(store), reports.get(store)) else {
            let missing = if reports.contains_key(store) { "entry in the list" } else { "report" };
            differences.push(format!("{store}: there is no {missing}"));
            continue;
        };
        let (listed, reported) = (by_id(listed), by_id(reported));
        for id in listed.keys().chain(reported.keys()).collect::<BTreeSet<_>>() {
            match (listed.get(id), reported.get(id)) {
                (Some(way), None) => {
                    differences.push(format!("{store}: {id} ran, and is listed as {way}"));
                }
                (None, Some(way)) => differences.push(format!("{store}: {id} is now {way}")),
                (Some(then), Some(now)) if then != now => {
                    differences
                        .push(format!("{store}: {id} is now {now}, and is listed as {then}"));
                }
                _ => {}
            }
        }
    }
    differences
}

fn by_id(ways: &[(String, Vec<String>)]) -> BTreeMap<&str, &str> {
    ways.iter().flat_map(|(way, ids)| ids.iter().map(move |id| (&**id, &**way))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(ways: &[(&str, &[&str])]) -> Ways {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        ways.iter().map(|(way, ids)| ((*way).to_owned(), owned(ids))).collect()
    }

    fn some() -> Silent {
        let lost = ("not claimed (C4: tokens survive a data loss)", &["SF-17"][..]);
        let hook = ("not reached (the fixture lacks it)", &["SF-02", "AT-05"][..]);
        Silent::from([("a store, whole".to_owned(), ways(&[lost, hook])), ("b".to_owned(), vec![])])
    }

    #[test]
    fn the_list_is_read_as_it_was_written() {
        assert_eq!(parsed(&text(&some())), Ok(some()));
        assert!(parsed("b\n  no ids").is_err());
    }

    #[test]
    fn the_committed_list_is_as_the_command_writes_it() {
        let list = list().expect("a list");
        assert_eq!(fs::read_to_string(root().join(LIST)).expect("a list"), text(&list));
        assert!(list.len() >= 10, "{list:?}");
    }

    #[test]
    fn each_difference_from_the_list_is_named() {
        assert_eq!(differences(&some(), &some()), [""; 0]);
        let now = ways(&[
            ("not claimed (C4: other words)", &["SF-17"]),
            ("not reached (the fixture lacks it)", &["AT-05", "AT-01"]),
        ]);
        let reports = Silent::from([("a store, whole".to_owned(), now), ("c".to_owned(), vec![])]);
        assert_eq!(
            differences(&some(), &reports),
            [
                "a store, whole: AT-01 is now not reached (the fixture lacks it)",
                "a store, whole: SF-02 ran, and is listed as not reached (the fixture lacks it)",
                "a store, whole: SF-17 is now not claimed (C4: other words), and is listed as not \
                 claimed (C4: tokens survive a data loss)",
                "b: there is no report",
                "c: there is no entry in the list",
            ]
        );
    }

    #[test]
    fn a_report_tells_what_it_does_not_count_unless_a_filter_chose_its_cases() {
        let case = |id, outcome, reason| serde_json::json!({"id": id, "outcome": outcome, "reason": reason});
        let report = |is_whole| {
            serde_json::json!({"store": "b", "is_whole": is_whole, "cases": [
                case("AT-05", "not reached", Some("no hook")), case("AT-01", "passed", None),
                case("AT-02", "failed", Some("two held")), case("AT-06", "not reached", Some("no hook")),
                case("SF-17", "not claimed", Some("C4: it")),
            ]})
        };
        let expected = ways(&[
            ("not claimed (C4: it)", &["SF-17"]),
            ("not reached (no hook)", &["AT-05", "AT-06"]),
        ]);
        assert_eq!(of_report(&report(true)), Ok(("b".to_owned(), expected)));
        assert!(of_report(&report(false)).is_err());
    }

    #[test]
    fn a_report_that_was_written_twice_is_seen() {
        let output = "running\nwritten: /x/a.json\nwritten: /x/a.html\n";
        let files: Vec<_> = written(output).chain(written("written: /x/b.json")).collect();
        assert_eq!(twice(&files), [""; 0]);
        let again: Vec<_> = files.iter().cloned().chain(written(output)).collect();
        let expected = "/x/a.json was written twice: two fixtures have one store()";
        assert_eq!(twice(&again), [expected]);
    }
}
