//! What an operator can see and do: read from the files, never by getting in anybody's way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Family, FencingToken, Holder, Inspection, LockName, LossReason, Operator,
    Permits, Result, async_trait,
};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::error::failed;
use crate::files::LockFiles;
use crate::name::{name_of, of_file};
use crate::protocol::{Attempted, Candidate};
use crate::record::HolderRecord;
use crate::together::Entered;
use crate::{look, machine, seat};

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let (directory, name) = (Arc::clone(&self.directory), name.clone());
        in_the_background(move || inspect(&directory, name)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let directory = Arc::clone(&self.directory);
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        in_the_background(move || list(&directory, &prefix, after.as_ref(), limit)).await
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let near = self.neighbours().into_iter().find_map(|client| client.holding(name, token));
        if let Some(slot) = near {
            return Ok(slot.end(LossReason::Revoked));
        }
        let (directory, asked) = (Arc::clone(&self.directory), name.clone());
        let records =
            in_the_background(move || holders(&LockFiles::of(&directory, &asked))).await?;
        let is_meant = |record: &HolderRecord| record.token == token.as_u64();
        match records.into_iter().filter_map(|(_, record)| record).find(is_meant) {
            None => Ok(false),
            Some(HolderRecord { label, pid, .. }) => Err(Error::rejected(
                format!("revoking token {token} of {name:?}: another process holds it"),
                format!("end that process, {label} (pid {pid}): the kernel then frees the name"),
            )),
        }
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let name = LockName::semaphore(name.as_str())?;
        let files = LockFiles::of(&self.directory, &name);
        let (permits, base, boot) = (permits.wished(), self.token_base, self.boot);
        in_the_background(move || resize(&files, &name, permits, base, boot)).await
    }
}

/// How many times at most a resize tries to lock the files of a semaphore: for about two seconds.
const TRIES: u32 = 2_000;

/// Notes the limit with a new token, and has it synced; the limit before.
fn resize(
    files: &LockFiles,
    name: &LockName,
    permits: u32,
    base: u64,
    boot: Option<&str>,
) -> Result<u32> {
    let mut candidate = Candidate::open(files.clone())?;
    for _ in 0..TRIES {
        let (before, attempted) = match candidate.enters(None)? {
            Entered::Alone(candidate) => {
                (candidate.limit(), candidate.counted(None, permits, None)?)
            }
            Entered::No(attempted) => (None, attempted),
        };
        candidate = match attempted {
            Attempted::Taken(mut held) => {
                let (_, sync) = held.write(name, base, boot, "")?;
                sync.unwrap_or_else(|| held.sync()).run()?;
                held.synced();
                return Ok(before.unwrap_or(0));
            }
            Attempted::Blocked(candidate, _) => candidate,
            Attempted::Stale => Candidate::open(files.clone())?,
        };
        #[allow(clippy::disallowed_methods)] // on a thread that may block
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(Error::unavailable(
        Applied::No,
        format!("{}: another process keeps it locked", files.file.display()),
    ))
}

/// Reading a directory may take long, so it gets a thread that may block.
pub(crate) async fn in_the_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
    runtime.spawn_blocking(work).await.unwrap_or(Err(Error::NoRuntime))
}

/// `None`: free. `Some(None)`: held by a process that left no record, or is about to.
#[allow(clippy::option_option)] // the two questions are two
fn held_by(files: &LockFiles) -> Result<Option<Option<HolderRecord>>> {
    look::check_layout(files)?;
    let held = look::is_held(files)
        .map_err(|error| failed("asking for the holder of", &files.file, &error))?;
    Ok(held.then(|| look::last_holder(files)))
}

/// Who holds: one alone, or those who hold together, by their numbers.
fn holders(files: &LockFiles) -> Result<Vec<(Option<u32>, Option<HolderRecord>)>> {
    let alone = match files.family {
        // Its files are locked for the time of a grant only.
        Family::Semaphore => look::check_layout(files).map(|()| None),
        _ => held_by(files),
    };
    match alone? {
        Some(alone) => Ok(vec![(None, alone)]),
        None => {
            seat::holders(files).map(|seat| seat.map(|(n, record)| (Some(n), record))).collect()
        }
    }
}

fn inspect(directory: &Path, name: LockName) -> Result<Inspection> {
    let files = LockFiles::of(directory, &name);
    let holders = holders(&files)?.into_iter().map(|(number, record)| {
        let holder = record.map_or_else(|| Holder::new(""), holder);
        match number.filter(|_| files.family == Family::Semaphore) {
            Some(number) => holder.with_slot(number),
            None => holder,
        }
    });
    let seen = Inspection::new(name, holders.collect(), None);
    if files.family != Family::Semaphore {
        return Ok(seen);
    }
    let contents =
        look::contents(&files).map_err(|error| failed("reading", &files.file, &error))?;
    Ok(seen.with_permits(look::permits(&contents)))
}

/// The name in a file whose stem does not tell it.
fn written_name(files: &LockFiles) -> Result<Option<LockName>> {
    look::check_layout(files)?;
    Ok(look::written_name(files).and_then(|name| LockName::of(files.family, &name).ok()))
}

fn list(
    directory: &Arc<Path>,
    prefix: &str,
    after: Option<&LockName>,
    limit: usize,
) -> Result<Vec<Inspection>> {
    let refused = |error| failed("listing", directory, &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(refused)? {
        let file = entry.map_err(refused)?.file_name();
        let Some((family, stem)) = file.to_str().and_then(of_file) else { continue };
        let name = match name_of(family, stem) {
            Some(name) => Some(name),
            None => written_name(&LockFiles::of_stem(directory, family, stem))?,
        };
        let Some(name) = name else { continue };
        if name.as_str().starts_with(prefix) && after.is_none_or(|after| name > *after) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut found = Vec::new();
    for name in names {
        if found.len() == limit {
            break;
        }
        let seen = inspect(directory, name)?;
        if !seen.holders.is_empty() {
            found.push(seen);
        }
    }
    Ok(found)
}

/// A record as its readers know it.
pub(crate) fn holder(record: HolderRecord) -> Holder {
    let age = machine::boot_time().saturating_sub(record.since);
    let holder = Holder::new(record.label).with_age(age).with_kind(record.kind);
    match FencingToken::new(record.token) {
        Ok(token) => holder.with_token(token),
        Err(_) => holder,
    }
}
