//! What is amiss with the store's directory, its file system, its files and this process's limits.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{LONGEST_CALL, examined, refusal, wall_micros};
use lockkit_core::{Applied, Clock, Error, Finding, Instant, LockName, Result, Severity};
use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use crate::client::Client;
use crate::error::{failed, no_file};
use crate::files::{LockFiles, TWINS};
use crate::held;
use crate::look;
use crate::name::{name_of, of_file, stem};
use crate::network;
use crate::operator::in_the_background;
use crate::record::Content;

/// Room for fewer new names than this is told of.
const FEW_NAMES: u64 = 1_000;
/// So many files of free names are told of.
const MANY_NAMES: usize = 1_000;
/// Fewer open files than this left to the process are told of: each lock takes two.
const FEW_FILES: u64 = 64;
/// How long the store's files are looked at: in a store with more than can be read meanwhile, a part of them.
const LOOK: Duration = Duration::from_secs(1);
/// A clock may be so far behind the tokens: it is set a little back now and then.
const BEHIND: u64 = 60_000_000;

impl Client {
    /// All that is amiss, the worst first.
    pub(crate) async fn examine(&self) -> Result<Vec<Finding>> {
        let (directory, base) = (Arc::clone(&self.directory), self.token_base);
        let all = async {
            let mut found = in_the_background(move || examine(&directory, base)).await?;
            found.extend(self.events.finding());
            Ok(found)
        };
        let silent = || {
            let silence =
                format!("{}: no answer within {LONGEST_CALL:?}", self.directory.display());
            Error::unavailable(Applied::No, silence)
        };
        examined(LONGEST_CALL, all, silent).await
    }
}

fn examine(directory: &Path, base: u64) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    found.extend(rights(directory)?);
    found.extend(network::finding(directory));
    found.extend(room(directory));
    found.extend(open_files());
    match Files::look_at(directory, base) {
        Ok(files) => found.extend(files.findings(directory)),
        // That it may not be read was told.
        Err(_) if !found.is_empty() => {}
        Err(error) => return Err(failed("listing", directory, &error)),
    }
    Ok(found)
}

/// A refusal of one name.
fn danger(error: Error) -> Finding {
    let passes = |error: Error| Finding::new(Severity::Warning, error.to_string(), "look again");
    refusal(error).unwrap_or_else(passes)
}

/// Whether this user may use both directories, and who else may.
fn rights(directory: &Path) -> Result<Vec<Finding>> {
    let twins = directory.join(TWINS);
    let mut found = Vec::new();
    for place in [directory, &twins] {
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        match access(place, all).map_err(io::Error::from) {
            // They are made with the next lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound && place == twins => {}
            Err(error) => found.push(refusal(failed("using", place, &error))?),
            Ok(()) => {}
        }
    }
    let (Ok(store), Ok(twin)) = (fs::metadata(directory), fs::metadata(&twins)) else {
        return Ok(found);
    };
    if store.mode() & 0o002 != 0 {
        found.push(Finding::new(
            Severity::Warning,
            format!("every user may write {}: strangers may hold names for ever, and forge tokens", directory.display()),
            "give it to one user (chmod 700) or one group (chmod 2770), and its `.lockkit` directory too",
        ));
    }
    let is_shared = store.mode() & 0o020 != 0;
    if (store.mode() ^ twin.mode()) & 0o777 != 0 || is_shared && store.gid() != twin.gid() {
        found.push(Finding::new(
            Severity::Warning,
            format!(
                "{} has other rights than {}: some users may lock only names that are there",
                twins.display(),
                directory.display()
            ),
            format!("give it the same group and mode ({:o})", store.mode() & 0o7777),
        ));
    }
    Ok(found)
}

/// Whether there is room for few new names.
fn room(directory: &Path) -> Option<Finding> {
    let found = rustix::fs::statvfs(directory).ok()?;
    // A file takes a block, however small.
    let block = found.f_frsize.max(4_096);
    let of_space =
        (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize) / block);
    let of_inodes = (found.f_files > 0).then_some(found.f_favail);
    let names = of_space.into_iter().chain(of_inodes).min()? / 2;
    let remedy = "free space or inodes on the store's file system: each name needs two small files";
    let at = directory.display();
    match names {
        0 => Some(Finding::new(
            Severity::Danger,
            format!("no new name fits on the file system of {at}: new names are refused"),
            remedy,
        )),
        few if few < FEW_NAMES => Some(Finding::new(
            Severity::Warning,
            format!("{few} new names fit on the file system of {at}"),
            remedy,
        )),
        _ => None,
    }
}

/// Whether this process may open few more files.
fn open_files() -> Option<Finding> {
    let most = getrlimit(Resource::Nofile).current?;
    let open = u64::try_from(fs::read_dir("/dev/fd").ok()?.count()).ok()?;
    (most.saturating_sub(open) < FEW_FILES).then(|| {
        Finding::new(
            Severity::Warning,
            format!(
                "this process has {open} of the {most} files open that it may: each lock takes two"
            ),
            "raise the limit on open files (ulimit -n)",
        )
    })
}

/// What the lock files show.
#[derive(Default)]
struct Files {
    free: usize,
    is_part: bool,
    /// Those that are refused: why the first one is, and how many there are of its kind.
    odd: Kind,
    foreign: Kind,
    newer: Kind,
    damaged: Kind,
    restored: Kind,
    misplaced: Kind,
    ahead: Kind,
}

#[derive(Default)]
struct Kind(Option<Finding>, usize);

impl Kind {
    fn add(&mut self, finding: impl FnOnce() -> Finding) {
        self.0.get_or_insert_with(finding);
        self.1 += 1;
    }

    fn told(self) -> Option<Finding> {
        let Self(finding, count) = self;
        let mut finding = finding?;
        if count > 1 {
            finding.what += &format!(" ({count} such names)");
        }
        Some(finding)
    }
}

impl Files {
    fn look_at(directory: &Path, base: u64) -> io::Result<Self> {
        let (clock, mut files) = (Clock::system(), Self::default());
        let until: Instant = clock.now().saturating_add(LOOK);
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let file = entry.file_name();
            let Some((family, stem)) = file.to_str().and_then(of_file) else { continue };
            if clock.now() > until {
                files.is_part = true;
                break;
            }
            files.add(&LockFiles::of_stem(directory, family, stem), stem, &entry, base);
        }
        Ok(files)
    }

    fn add(&mut self, files: &LockFiles, of: &str, entry: &DirEntry, base: u64) {
        if entry.file_type().is_ok_and(|kind| !kind.is_file()) {
            return self.odd.add(|| danger(no_file(&files.file)));
        }
        for path in [&files.file, &files.twin] {
            match access(path, Access::READ_OK | Access::WRITE_OK).map_err(io::Error::from) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return self.foreign.add(|| danger(failed("opening", path, &error)));
                }
                _ => {}
            }
        }
        if let Err(error) = look::check_layout(files) {
            return self.newer.add(|| danger(error));
        }
        // What is removed meanwhile, or cannot be read, says nothing.
        let Ok(contents) = settled(files) else { return };
        let last = contents.iter().filter_map(Content::slot).max();
        let ours = name_of(files.family, of).map_or_else(|| of.to_owned(), |name| name.to_string());
        let other = contents[0]
            .name
            .as_deref()
            .filter(|other| LockName::new(*other).is_ok_and(|other| stem(&other) != of));
        if let Some(other) = other {
            return self.misplaced.add(|| danger(held::misplaced(&files.file, &ours, other)));
        }
        match (contents.iter().any(Content::is_damaged), last) {
            (true, None) => {
                return self.damaged.add(|| danger(held::unreadable(files, &ours)));
            }
            (true, Some(_)) => self.restored.add(|| restored(files)),
            (false, Some(last)) if last > base.saturating_add(wall_micros() + BEHIND) => {
                self.ahead.add(|| ahead(&ours, last, base));
            }
            (false, _) => {}
        }
        self.free += usize::from(contents.iter().all(|content| content.holder().is_none()));
    }

    fn findings(self, directory: &Path) -> Vec<Finding> {
        let many = (self.free >= MANY_NAMES).then(|| {
            let least = if self.is_part { "at least " } else { "" };
            Finding::new(
                Severity::Note,
                format!("{least}{} names in {} are free, and have two files each", self.free, directory.display()),
                "leave them, or stop all programs that use the directory and remove their files, as docs/file.md \
                 says; names without end want another store",
            )
        });
        let kinds = [
            self.odd,
            self.foreign,
            self.newer,
            self.damaged,
            self.restored,
            self.misplaced,
            self.ahead,
        ];
        kinds.into_iter().filter_map(Kind::told).chain(many).collect()
    }
}

/// What both files tell; one that seems damaged may be on its way to the disk, and is read again.
fn settled(files: &LockFiles) -> io::Result<[Content; 2]> {
    let is_whole = |contents: &[Content; 2]| !contents.iter().any(Content::is_damaged);
    for _ in 0..3 {
        let contents = look::contents(files)?;
        if is_whole(&contents) {
            return Ok(contents);
        }
        #[allow(clippy::disallowed_methods)] // on a thread that may block
        std::thread::sleep(Duration::from_millis(1));
    }
    look::contents(files)
}

fn restored(files: &LockFiles) -> Finding {
    Finding::new(
        Severity::Warning,
        format!(
            "one of {} and {} is damaged: its token comes from the other copy",
            files.file.display(),
            files.twin.display()
        ),
        "acquire the name once, which mends it, and check the disk",
    )
}

fn ahead(name: &str, last: u64, base: u64) -> Finding {
    Finding::new(
        Severity::Warning,
        format!(
            "the last token of {name:?}, {last}, is above token_base and the clock: were both its files lost now, smaller ones followed"
        ),
        format!(
            "correct the clock, or raise token_base, which is {base} here, as other clients have it"
        ),
    )
}
