//! The list of mutants that a store's tests keep, `tests/mutants.txt`: how it is read, and how a mistake is made.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::steps::root;

/// Where a crate keeps its list.
const LIST: &str = "tests/mutants.txt";
/// The suite that a list is for unless it says otherwise.
const SUITE: &str = "conformance";

/// A mistake in the client of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) name: String,
    /// The program that runs the suite, of those that the crate has.
    pub(super) suite: String,
    pub(super) mistake: String,
    pub(super) clause: String,
    /// The case that convicts it in every run, or why none does.
    pub(super) fate: Fate,
    pub(super) edits: Vec<Edit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Convicted(String),
    Survives(String),
}

/// A text of a file, which stands there once, and what takes its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edit {
    /// Seen from the directory of the crate.
    pub(super) file: String,
    pub(super) find: String,
    pub(super) replace: String,
}

impl Default for Fate {
    fn default() -> Self {
        Self::Survives(String::new())
    }
}

impl Edit {
    /// The text of the file with the mistake.
    pub(super) fn made_in(&self, text: &str) -> Result<String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            n => Err(format!("{}: {n} times, and not once:\n{}", self.file, self.find)),
        }
    }
}

/// The stores that have a list.
pub(super) fn stores() -> Result<Vec<String>> {
    let entries = fs::read_dir(root()).map_err(|error| format!("the workspace: {error}"))?;
    let mut stores: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let store = entry.file_name().to_str()?.strip_prefix("lockkit-")?.to_owned();
            entry.path().join(LIST).exists().then_some(store)
        })
        .collect();
    stores.sort();
    Ok(stores)
}

/// The directory of a store's crate, seen from the root of the workspace.
pub(super) fn directory(store: &str) -> String {
    format!("lockkit-{store}")
}

/// The list of a store.
pub(super) fn of(store: &str) -> Result<Vec<Mutant>> {
    let path = root().join(directory(store)).join(LIST);
    read(&path).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<Mutant>> {
    parse(&fs::read_to_string(path).map_err(|error| error.to_string())?)
}

/// Reads entries of lines `word: text` and blocks of text between `<<<<`, `====` and `>>>>`. A line that
/// begins with `#` tells people something; `suite: conformance_table` is for all mutants behind it.
fn parse(text: &str) -> Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = Vec::new();
    let (mut file, mut suite) = (String::new(), SUITE.to_owned());
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |why: &str| Err(format!("line {}: {why}: {line}", number + 1));
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("mutant ") {
            let (name, suite) = (name.trim().to_owned(), suite.clone());
            mutants.push(Mutant { name, suite, ..Mutant::default() });
            continue;
        }
        if let Some(named) = line.strip_prefix("suite: ") {
            named.trim().clone_into(&mut suite);
            continue;
        }
        let Some(mutant) = mutants.last_mut() else { return wrong("no `mutant NAME` before") };
        if line == "<<<<" {
            let find = block(lines.by_ref().map(|(_, line)| line), "====")?;
            let replace = block(lines.by_ref().map(|(_, line)| line), ">>>>")?;
            mutant.edits.push(Edit { file: file.clone(), find, replace });
            continue;
        }
        let Some((word, said)) = line.split_once(": ") else { return wrong("no word and colon") };
        let said = said.trim().to_owned();
        match word {
            "mistake" => mutant.mistake = said,
            "clause" => mutant.clause = said,
            "case" => mutant.fate = Fate::Convicted(said),
            "survives" => mutant.fate = Fate::Survives(said),
            "file" => file = said,
            _ => return wrong("not a word of this list"),
        }
    }
    Ok(mutants)
}

/// The lines before the one that ends the block.
fn block<'a>(lines: impl Iterator<Item = &'a str>, end: &str) -> Result<String> {
    let mut block = Vec::new();
    for line in lines {
        if line == end {
            return Ok(block.join("\n"));
        }
        block.push(line);
    }
    Err(format!("a block lacks its {end}"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// How many mistakes a list has at least.
    const LEAST: usize = 15;
    /// How many of a list's mistakes no case convicts, at most.
    const SURVIVORS: usize = 2;

    const ENTRY: &str = "\
# People read this.
mutant any-grant
mistake: a release does not compare: at all
clause: C6
case: SF-01
file: src/a.lua
<<<<
if x then
# not a comment
====
>>>>
file: src/b.rs
<<<<
one
====
two
>>>>
";

    #[test]
    fn a_list_is_read_as_it_stands() {
        let edit = |file: &str, find: &str, replace: &str| Edit {
            file: file.to_owned(),
            find: find.to_owned(),
            replace: replace.to_owned(),
        };
        let mutant = Mutant {
            name: "any-grant".to_owned(),
            suite: SUITE.to_owned(),
            mistake: "a release does not compare: at all".to_owned(),
            clause: "C6".to_owned(),
            fate: Fate::Convicted("SF-01".to_owned()),
            edits: vec![
                edit("src/a.lua", "if x then\n# not a comment", ""),
                edit("src/b.rs", "one", "two"),
            ],
        };
        assert_eq!(parse(ENTRY), Ok(vec![mutant.clone()]));
        let other = Mutant { suite: "other".to_owned(), ..mutant.clone() };
        assert_eq!(parse(&format!("{ENTRY}suite: other\n{ENTRY}")), Ok(vec![mutant, other]));
        for wrong in
            ["mistake: early", "mutant a\nno colon", "mutant a\n<<<<\nfind", "mutant a\ncaes: x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_that_stands_there_twice_or_never_is_no_place_for_a_mistake() {
        let edit =
            |find: &str| Edit { find: find.to_owned(), replace: "x".to_owned(), ..Edit::default() };
        assert_eq!(edit("b").made_in("abc"), Ok("axc".to_owned()));
        assert!(edit("b").made_in("bb").is_err() && edit("d").made_in("abc").is_err());
    }

    #[test]
    fn every_list_names_mistakes_that_can_be_made() {
        for store in stores().expect("the workspace") {
            let mutants = of(&store).expect("a list");
            let names: BTreeSet<_> = mutants.iter().map(|mutant| &mutant.name).collect();
            assert_eq!(names.len(), mutants.len(), "{store}: two mutants have one name");
            let mut suites: BTreeMap<_, [usize; 2]> = BTreeMap::new();
            for mutant in &mutants {
                let [all, survivors] = suites.entry(&mutant.suite).or_default();
                *all += 1;
                *survivors += usize::from(matches!(mutant.fate, Fate::Survives(_)));
            }
            for (suite, [all, survivors]) in suites {
                assert!(all >= LEAST, "{store} {suite}: {all} mutants");
                assert!(survivors <= SURVIVORS, "{store} {suite}: {survivors} survive");
            }
            for mutant in &mutants {
                can_be_made(&store, mutant);
            }
        }
    }

    fn can_be_made(store: &str, mutant: &Mutant) {
        let name = format!("{store}: {}", mutant.name);
        let clause = mutant.clause.strip_prefix('C').and_then(|number| number.parse().ok());
        assert!(clause.is_some_and(|number| (1..=16).contains(&number)), "{name}: no such clause");
        assert!(!mutant.mistake.is_empty(), "{name}: which mistake?");
        match &mutant.fate {
            Fate::Convicted(case) => {
                assert!(cases().contains(&format!("\"{case}\"")), "{name}: no such case");
            }
            Fate::Survives(why) => assert!(!why.is_empty(), "{name}: neither a case nor a reason"),
        }
        assert!(!mutant.edits.is_empty(), "{name}: no edit");
        for edit in &mutant.edits {
            let path = root().join(directory(store)).join(&edit.file);
            let text = fs::read_to_string(&path).expect("a file of the crate");
            let made = edit.made_in(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_ne!(made, text, "{name}: it changes nothing");
        }
    }

    /// The source of the suite's cases.
    fn cases() -> String {
        let path = root().join("lockkit-core/src/conformance/cases");
        let files =
            fs::read_dir(path).expect("the cases").filter_map(|entry| Some(entry.ok()?.path()));
        files.map(|file| fs::read_to_string(file).expect("a file")).collect()
    }
}
