//! Import circles among the files of a crate: none may come that `circles.txt` does not list.
//!
//! A file imports another one where its code, tests apart, names an item of it: by `crate::`, by `super::`,
//! or by a module that it declares, in a `use` or where the item is used. What `lib.rs` re-exports counts as an import of the file that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::steps::root;

/// The circles that may be there: a line for each, `crate: file file file`. No line is the goal.
const LIST: &str = "xtask/src/circles.txt";
const HEAD: &str = "\
# The import circles that may be there, one line for each: a crate, and the files of the circle. No line below
# means no circle. The list may only shrink: `cargo xtask circles` fails where the code has another one.
";

/// What each file of a crate imports; files by their module's path below `src`.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Fails where the circles are not those of the list.
pub(crate) fn check() -> Result<()> {
    let (found, listed) = (all()?, listed()?);
    let new: Vec<_> = found.iter().filter(|circle| !is_within(circle, &listed)).collect();
    if !new.is_empty() {
        return Err(format!("{new:#?}: import circles that {LIST} does not list: break them"));
    }
    if found != listed {
        return Err(format!(
            "{LIST} lists circles that are gone, or smaller: cargo xtask circles write"
        ));
    }
    match found.len() {
        0 => eprintln!("no import circles"),
        circles => eprintln!("{circles} import circles, all of them listed"),
    }
    Ok(())
}

/// Takes circles that are gone off the list, and makes smaller what is smaller; it adds none.
pub(crate) fn write() -> Result<()> {
    let (found, listed) = (all()?, listed()?);
    let stays = found.iter().filter(|circle| is_within(circle, &listed));
    let lines: String = stays.map(|circle| format!("{circle}\n")).collect();
    fs::write(root().join(LIST), format!("{HEAD}{lines}")).map_err(|error| error.to_string())
}

/// Whether a circle is one of these, or a part of one.
fn is_within(circle: &str, listed: &BTreeSet<String>) -> bool {
    let files = |circle: &str| circle.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    listed.iter().any(|listed| files(circle).is_subset(&files(listed)))
}

fn listed() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(root().join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
    Ok(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
}

/// The circles of all crates.
fn all() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (name, source) in crates()? {
        let imports = imports(&source)?;
        found.extend(
            circles(&imports).into_iter().map(|files| format!("{name}: {}", files.join(" "))),
        );
    }
    Ok(found)
}

/// Every crate of the workspace that users or tests build on, and its source.
fn crates() -> Result<Vec<(String, PathBuf)>> {
    let mut crates = vec![("lockkit".to_owned(), root().join("src"))];
    for entry in fs::read_dir(root()).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.join("src/lib.rs").exists() {
            crates.push((name, path.join("src")));
        }
    }
    crates.sort();
    Ok(crates)
}

/// What each file below `source` imports.
fn imports(source: &Path) -> Result<Imports> {
    let mut texts = BTreeMap::new();
    collect(source, source, &mut texts)?;
    let exports = exports(texts.get("lib").map(String::as_str).unwrap_or_default());
    let files: BTreeSet<_> = texts.keys().cloned().collect();
    let of = |(file, text): (&String, &String)| {
        let paths =
            paths(text).into_iter().filter_map(|path| resolve(file, &path, &files, &exports));
        (file.clone(), paths.filter(|other| other != file).collect())
    };
    Ok(texts.iter().filter(|(file, _)| *file != "lib").map(of).collect())
}

/// The files of a crate without their tests, by module: `driver::lease`, and `driver` for `driver/mod.rs`.
fn collect(source: &Path, directory: &Path, texts: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            collect(source, &path, texts)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(source).unwrap_or(&path).with_extension("");
            let mut parts: Vec<_> =
                below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            parts.pop_if(|last| last == "mod");
            if parts.last().is_some_and(|last| last != "tests" && last != "main") {
                let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
                texts.insert(parts.join("::"), code(&text));
            }
        }
    }
    Ok(())
}

/// A file without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// What `lib.rs` re-exports: each item, and the module that it is from.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let uses = paths(lib).into_iter().filter(|path| path.len() >= 2);
    uses.map(|path| (path[path.len() - 1].clone(), path[..path.len() - 1].join("::"))).collect()
}

/// Every path that a text imports or names: `use a::{b, c::d}` is two.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (start, keyword) in [("use ", true), ("crate::", false), ("super::", false)]
        .into_iter()
        .flat_map(|(word, is_use)| text.match_indices(word).map(move |(at, _)| (at, is_use)))
    {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
            continue;
        }
        let path = if keyword {
            text[start + 4..].split(';').next().unwrap_or_default()
        } else {
            let rest = &text[start..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'));
            &rest[..end.unwrap_or(rest.len())]
        };
        expand(&[], path, &mut found);
    }
    found.extend(declared(text).flat_map(|module| used_in_place(text, module)));
    found
}

/// The modules that a text declares.
fn declared(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (before, module) = line.strip_suffix(';')?.rsplit_once("mod ")?;
        (before.is_empty() || before.starts_with("pub")).then_some(module)
    })
}

/// The paths in a text that begin with a module that it declares: `module::item`, outside a `use`.
fn used_in_place(text: &str, module: &str) -> Vec<Vec<String>> {
    let start = format!("{module}::");
    let places = text.match_indices(&start).filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'))
    });
    let item = |(at, _)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        vec![module.to_owned(), rest[..end].to_owned()]
    };
    places.map(item).collect()
}

/// Each path of a tree such as `a::{b, c::{self, d}}`.
fn expand(before: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((path, group)) = tree.split_once('{') else {
        let last = tree.split(" as ").next().unwrap_or_default();
        let parts = last.split("::").map(str::trim).filter(|part| !part.is_empty());
        let parts = parts.filter(|part| *part != "self").map(str::to_owned);
        found.push(before.iter().cloned().chain(parts).collect());
        return;
    };
    let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty());
    let before: Vec<_> = before.iter().cloned().chain(parts.map(str::to_owned)).collect();
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut from) = (0_i32, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&before, &group[from..at], found);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !group[from..].trim().is_empty() {
        expand(&before, &group[from..], found);
    }
}

/// The file that a path in `file` leads to, if it is one of this crate's.
fn resolve(
    file: &str,
    path: &[String],
    files: &BTreeSet<String>,
    exports: &BTreeMap<String, String>,
) -> Option<String> {
    let mut at: Vec<String> = file.split("::").map(str::to_owned).collect();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &rest[1..];
        }
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
        // A module that this file declares, or another crate.
        _ => {}
    }
    if at.is_empty()
        && let Some(module) = rest.first().and_then(|item| exports.get(item))
        && !files.contains(&rest[0])
    {
        return files.contains(module).then(|| module.clone());
    }
    let all: Vec<_> = at.iter().chain(rest).cloned().collect();
    // Items of a file, and items in it: the longest path that is a file.
    let least = at.len().max(1) + usize::from(!matches!(path[0].as_str(), "crate" | "super"));
    (least..=all.len())
        .rev()
        .map(|length| all[..length].join("::"))
        .find(|path| files.contains(path))
}

/// The groups of files that import each other, each in order.
fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            for other in imports.get(file).into_iter().flatten() {
                if seen.insert(other.clone()) {
                    next.push(other);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|file| (file, reach(file))).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        if others.contains(*file) {
            let back = others
                .iter()
                .filter(|other| reached.get(other).is_some_and(|reached| reached.contains(*file)));
            circles.insert(back.cloned().collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate with these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let texts: BTreeMap<_, _> =
            files.iter().map(|(file, text)| ((*file).to_owned(), code(text))).collect();
        let exports = exports(texts.get("lib").map(String::as_str).unwrap_or_default());
        let names: BTreeSet<_> = texts.keys().cloned().collect();
        let imports = texts.iter().filter(|(file, _)| *file != "lib").map(|(file, text)| {
            let paths = paths(text).into_iter();
            let to = paths.filter_map(|path| resolve(file, &path, &names, &exports));
            (file.clone(), to.filter(|other| other != file).collect())
        });
        circles(&imports.collect()).into_iter().map(|files| files.join(" ")).collect()
    }

    #[test]
    fn a_circle_is_found_however_it_is_imported() {
        let planted = [
            ("a", "use crate::b::B;"),
            ("b", "use crate::{c::{self, C}};"),
            ("c", "type A = crate::a::A;"),
        ];
        assert_eq!(found(&planted), ["a b c"]);
        let reexported = [
            ("lib", "mod a;\nmod b;\npub use a::A;"),
            ("a", "use crate::b;"),
            ("b", "use crate::{A, Other};"),
        ];
        assert_eq!(found(&reexported), ["a b"]);
        let child = [("a", "mod b;\nuse b::B;"), ("a::b", "use super::A;")];
        assert_eq!(found(&child), ["a a::b"]);
        let in_place = [("a", "pub(crate) mod b;\nfn f() { b::go(1) }"), ("a::b", "use super::A;")];
        assert_eq!(found(&in_place), ["a a::b"]);
    }

    #[test]
    fn a_chain_a_comment_and_a_test_are_no_circle() {
        let chain = [
            ("a", "use crate::b::B;\nuse crate::c::C;"),
            ("b", "use crate::c::C; // crate::a::A"),
            ("c", "use std::a;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}"),
        ];
        assert_eq!(found(&chain), [""; 0]);
    }

    #[test]
    fn a_part_of_a_listed_circle_is_listed_and_a_larger_one_is_not() {
        let listed = BTreeSet::from(["a: x y z".to_owned()]);
        assert!(is_within("a: x z", &listed) && is_within("a: x y z", &listed));
        assert!(!is_within("a: w x y z", &listed) && !is_within("b: x z", &listed));
    }

    #[test]
    fn the_circles_are_those_of_the_list() {
        check().expect("the list");
    }
}
