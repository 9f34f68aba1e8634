//! The conformance suite's reports: what they do not count as passed is what `unclaimed.txt` says, so
//! that no case falls silent unseen. A run of one tier covers some of a store's cases.

use std::collections::{BTreeMap, BTreeSet};
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
/// The environment variable that names the reports' directory.
pub(crate) const VARIABLE: &str = "LOCKKIT_REPORT";

/// Why each case of a store is not counted, by the case's id.
type Silent = BTreeMap<String, String>;

/// What a report says of one store.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    store: String,
    /// The cases that ran, or would have.
    asked: BTreeSet<String>,
    silent: Silent,
}

/// Where the reports of all runs are, each run's in a directory of its own.
pub(crate) fn directory() -> PathBuf {
    root().join("target").join("conformance")
}

/// Removes the reports of an earlier run of the same name, and tells where this one's go.
pub(crate) fn cleared(run: &str) -> Result<PathBuf> {
    let directory = directory().join(run);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("reports: {error}")),
        _ => Ok(directory),
    }
}

/// The reports that a program says to have written.
pub(crate) fn written(output: &str) -> impl Iterator<Item = PathBuf> {
    let files = output.lines().filter_map(|line| line.strip_prefix(WRITTEN));
    files.map(PathBuf::from).filter(|file| is_report(file))
}

/// Fails where the reports of one run are not what the list says of the cases that they cover.
pub(crate) fn check(written: &[PathBuf]) -> Result<()> {
    let mut problems = twice(written);
    let list = list()?;
    for file in written {
        problems.extend(differences(&list, &read(file)?));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nif that is meant, have `cargo xtask unclaimed` write {LIST} from these reports, and say in \
         the commit why a case is not counted",
        problems.join("\n")
    ))
}

/// Writes the list from the reports that are there; what they do not cover keeps its entry.
pub(crate) fn write_list() -> Result<()> {
    let runs = fs::read_dir(directory()).map_err(|error| {
        format!("no reports: {error}; `cargo xtask test`, or LOCKKIT_REPORT, makes them")
    })?;
    let runs = runs.filter_map(|run| fs::read_dir(run.ok()?.path()).ok());
    let files = runs.flatten().filter_map(|file| Some(file.ok()?.path()));
    let mut list = list()?;
    for file in files.filter(|file| is_report(file)) {
        let report = read(&file)?;
        eprintln!("{LIST}: {} of {}", report.asked.len(), report.store);
        let entry = list.entry(report.store).or_default();
        entry.retain(|id, _| !report.asked.contains(id));
        entry.extend(report.silent);
    }
    fs::write(root().join(LIST), text(&list)).map_err(|error| format!("{LIST}: {error}"))
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

fn read(file: &Path) -> Result<Report> {
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
    let text = fs::read_to_string(file).map_err(|error| wrong(&error))?;
    Ok(report(&serde_json::from_str(&text).map_err(|error| wrong(&error))?))
}

fn report(report: &Value) -> Report {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cases = || report["cases"].as_array().into_iter().flatten();
    let silent = cases().filter_map(|case| {
        let outcome = text(&case["outcome"]);
        let way = format!("{outcome} ({})", text(&case["reason"]));
        outcome.starts_with("not ").then(|| (text(&case["id"]), way))
    });
    Report {
        store: text(&report["store"]),
        asked: cases().map(|case| text(&case["id"])).collect(),
        silent: silent.collect(),
    }
}

fn list() -> Result<BTreeMap<String, Silent>> {
    let text = fs::read_to_string(root().join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
    parsed(&text)
}

fn text(list: &BTreeMap<String, Silent>) -> String {
    let mut text = HEAD.to_owned();
    for (store, silent) in list {
        text += &format!("\n{store}\n");
        let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, way) in silent {
            ways.entry(way).or_default().push(id);
        }
        for (way, ids) in ways {
            text += &format!("  {way}: {}\n", ids.join(", "));
        }
    }
    text
}

fn parsed(text: &str) -> Result<BTreeMap<String, Silent>> {
    let (mut list, mut store) = (BTreeMap::<_, Silent>::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(entry) = line.strip_prefix("  ") else {
            line.clone_into(&mut store);
            list.entry(store.clone()).or_default();
            continue;
        };
        let (way, ids) = entry.rsplit_once(": ").ok_or(format!("{LIST}: {line:?} has no ids"))?;
        let ids = ids.split(", ").map(|id| (id.to_owned(), way.to_owned()));
        list.entry(store.clone()).or_default().extend(ids);
    }
    Ok(list)
}

/// How a report differs from the list in the cases that it covers, a line for each.
fn differences(list: &BTreeMap<String, Silent>, report: &Report) -> Vec<String> {
    let store = &report.store;
    let Some(listed) = list.get(store) else {
        return vec![format!("{store}: there is no entry in the list")];
    };
    let ids = report.asked.iter().filter_map(|id| {
        Some(match (listed.get(id), report.silent.get(id)) {
            (Some(way), None) => format!("{store}: {id} ran, and is listed as {way}"),
            (None, Some(way)) => format!("{store}: {id} is now {way}"),
            (Some(then), Some(now)) if then != now => {
                format!("{store}: {id} is now {now}, and is listed as {then}")
            }
            _ => return None,
        })
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: &str = "not reached (the fixture lacks it)";
    const LOST: &str = "not claimed (C4: tokens survive a data loss)";

    fn silent(ids: &[(&str, &str)]) -> Silent {
        ids.iter().map(|(id, way)| ((*id).to_owned(), (*way).to_owned())).collect()
    }

    fn some() -> BTreeMap<String, Silent> {
        let store = silent(&[("SF-17", LOST), ("SF-02", HOOK), ("AT-05", HOOK)]);
        BTreeMap::from([("a store, whole".to_owned(), store), ("b".to_owned(), Silent::new())])
    }

    fn of(store: &str, asked: &[&str], ids: &[(&str, &str)]) -> Report {
        let asked = asked.iter().map(|id| (*id).to_owned()).collect();
        Report { store: store.to_owned(), asked, silent: silent(ids) }
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
        let same = of("a store, whole", &["SF-17", "AT-01"], &[("SF-17", LOST)]);
        assert_eq!(differences(&some(), &same), [""; 0], "AT-05 was not asked for");
        let other = "not claimed (C4: other words)";
        let asked = ["AT-01", "AT-05", "SF-02", "SF-17"];
        let silent = [("SF-17", other), ("AT-05", HOOK), ("AT-01", HOOK)];
        assert_eq!(
            differences(&some(), &of("a store, whole", &asked, &silent)),
            [
                "a store, whole: AT-01 is now not reached (the fixture lacks it)",
                "a store, whole: SF-02 ran, and is listed as not reached (the fixture lacks it)",
                "a store, whole: SF-17 is now not claimed (C4: other words), and is listed as not \
                 claimed (C4: tokens survive a data loss)",
            ]
        );
        let unknown = of("c", &[], &[]);
        assert_eq!(differences(&some(), &unknown), ["c: there is no entry in the list"]);
    }

    #[test]
    fn a_report_tells_what_it_covers_and_what_it_does_not_count() {
        let case = |id, outcome, reason| serde_json::json!({"id": id, "outcome": outcome, "reason": reason});
        let json = serde_json::json!({"store": "b", "cases": [
            case("AT-05", "not reached", Some("the fixture lacks it")),
            case("AT-01", "passed", None), case("AT-02", "failed", Some("two held")),
            case("SF-17", "not claimed", Some("C4: tokens survive a data loss")),
        ]});
        let asked = ["AT-01", "AT-02", "AT-05", "SF-17"];
        assert_eq!(report(&json), of("b", &asked, &[("AT-05", HOOK), ("SF-17", LOST)]));
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
