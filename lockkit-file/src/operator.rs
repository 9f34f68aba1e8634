//! What an operator can see and do: read from the files, never by getting in anybody's way.

use std::path::Path;
use std::sync::Arc;

use lockkit_core::{
    Error, FencingToken, Holder, Inspection, LockName, LossReason, Operator, Result, async_trait,
};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::error::failed;
use crate::files::LockFiles;
use crate::name::{SUFFIX, name_of};
use crate::record::HolderRecord;
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
        match records.into_iter().flatten().find(is_meant) {
            None => Ok(false),
            Some(HolderRecord { label, pid, .. }) => Err(Error::rejected(
                format!("revoking token {token} of {name:?}: another process holds it"),
                format!("end that process, {label} (pid {pid}): the kernel then frees the name"),
            )),
        }
    }
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

/// Who holds: one alone, or those who share.
fn holders(files: &LockFiles) -> Result<Vec<Option<HolderRecord>>> {
    match held_by(files)? {
        Some(alone) => Ok(vec![alone]),
        None => seat::holders(files).map(|seat| seat.map(|(_, record)| record)).collect(),
    }
}

fn inspect(directory: &Path, name: LockName) -> Result<Inspection> {
    let holders = holders(&LockFiles::of(directory, &name))?.into_iter();
    let holders = holders.map(|record| record.map_or_else(|| Holder::new(""), holder));
    Ok(Inspection::new(name, holders.collect(), None))
}

/// The name in a file whose stem does not tell it.
fn written_name(files: &LockFiles) -> Result<Option<LockName>> {
    look::check_layout(files)?;
    Ok(look::written_name(files).and_then(|name| LockName::new(name).ok()))
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
        let Some(stem) = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)) else { continue };
        let name = match name_of(stem) {
            Some(name) => Some(name),
            None => written_name(&LockFiles::of_stem(directory, stem))?,
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
