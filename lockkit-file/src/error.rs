//! What the operating system refuses, as an error with its remedy (C15).

use std::io::{self, ErrorKind};
use std::path::Path;

use lockkit_core::{Applied, Error, LossReason};
use rustix::io::Errno;

/// The error of doing `what` with `path`; nothing of the request has taken effect.
pub(crate) fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let refused = format!("{what} {}: {error}", path.display());
    let remedy = match error.kind() {
        ErrorKind::NotFound => {
            "the store's directory is gone: create it again, with its `.lockkit` directory, or \
             connect again"
        }
        ErrorKind::PermissionDenied => {
            "give this user the right to read and write the store's directory, its `.lockkit` \
             directory and the files in both (for example by a group: chmod -R g+rwX)"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "mount the file system writable, or move the store to a directory on one that is"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free space, inodes or quota on the store's file system (each name needs two small \
             files), or raise the process's limit on file size"
        }
        ErrorKind::NotADirectory => {
            "something else stands where a directory belongs: remove it or choose another directory"
        }
        ErrorKind::IsADirectory => NO_FILE,
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => NO_FILE,
        ErrorKind::Unsupported => {
            "this file system has no file locks: move the store to a local one (ext4, xfs, btrfs, \
             apfs, tmpfs)"
        }
        _ => {
            let limit = [Errno::MFILE, Errno::NFILE]
                .iter()
                .any(|e| error.raw_os_error() == Some(e.raw_os_error()));
            let hint = if limit { "; raise the limit on open files (ulimit -n)" } else { "" };
            return Error::unavailable(Applied::No, format!("{refused}{hint}"));
        }
    };
    Error::rejected(refused, remedy)
}

/// The error of finding something else than a plain file at `path`.
pub(crate) fn no_file(path: &Path) -> Error {
    Error::rejected(format!("using {}, which is not a plain file", path.display()), NO_FILE)
}

const NO_FILE: &str =
    "the store keeps plain files only, and follows no links: remove what stands there";

/// What an attempt says whose request was withdrawn.
pub(crate) fn ended(reason: LossReason) -> Error {
    match reason {
        LossReason::Closed => Error::Closed,
        _ => Error::unavailable(Applied::No, format!("the request was withdrawn: {reason}")),
    }
}
