//! What can be read of a name's files without locking them: for operators, and for waiters.

use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::path::Path;

use lockkit_core::Result;

use crate::files::{LockFiles, open_to_read, read};
use crate::record::{self, Content, HolderRecord};

/// What can be read of both files; those that are not there are empty.
pub(crate) fn contents(files: &LockFiles) -> io::Result<[Content; 2]> {
    let content = |path: &Path| match open_to_read(path).and_then(|file| read(&file)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Content::default()),
        bytes => bytes.map(|bytes| Content::parse(&bytes)),
    };
    Ok([content(&files.file)?, content(&files.twin)?])
}

/// Refuses files of a newer layout; those that cannot be read say nothing.
pub(crate) fn check_layout(files: &LockFiles) -> Result<()> {
    [&files.file, &files.twin].into_iter().try_for_each(|path| {
        let bytes = open_to_read(path).and_then(|file| read(&file)).unwrap_or_default();
        record::check_layout(path, &bytes)
    })
}

/// The holder that the files name, whether or not it still holds.
pub(crate) fn last_holder(files: &LockFiles) -> Option<HolderRecord> {
    let read =
        |path: &Path| Content::parse(&read(&open_to_read(path).ok()?).ok()?).holder().cloned();
    read(&files.file).or_else(|| read(&files.twin))
}

/// The limit of a semaphore, as both files tell; `None`: none is noted.
pub(crate) fn permits(contents: &[Content; 2]) -> Option<u32> {
    contents.iter().filter_map(Content::permits).max().map(|(_, permits)| permits)
}

/// The name written in a file, for a stem that does not tell it.
pub(crate) fn written_name(files: &LockFiles) -> Option<String> {
    Content::parse(&read(&open_to_read(&files.file).ok()?).ok()?).name
}

/// Whether the name is held: asks the twin, so that no attempt on the file itself ever fails for it.
pub(crate) fn is_held(files: &LockFiles) -> io::Result<bool> {
    let opened = match open_to_read(&files.twin) {
        Err(error) if error.kind() == ErrorKind::NotFound => open_to_read(&files.file),
        opened => opened,
    };
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
    }
}
