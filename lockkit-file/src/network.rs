//! File systems: what those of the network do to a file lock, told once, and which forget or hide files.

use std::path::Path;

use lockkit_core::{Finding, Severity};

use crate::process;

/// Warns, once in a process, if `directory` lies on a file system of the network.
pub(crate) fn warn(directory: &Path) {
    let Some((kind, holds)) = kind(directory) else { return };
    if process::warns_first(directory) {
        tracing::warn!(
            target: "lockkit", event = "network_file_system", kind, holds,
            directory = %directory.display(),
            "the file store is made for a local directory: {holds}",
        );
    }
}

/// Whether what was written to `directory` may be lost while this machine runs on: another one keeps it, or a program.
pub(crate) fn may_forget(directory: &Path) -> bool {
    kind(directory).is_some()
}

/// What matters of the file system of `directory`.
pub(crate) fn finding(directory: &Path) -> Option<Finding> {
    if let Some((kind, holds)) = kind(directory) {
        let what = format!(
            "{} lies on a file system of the network ({kind}): {holds}",
            directory.display()
        );
        let remedy =
            "move the store to a local file system; for several hosts take a store with a server";
        return Some(Finding::new(severity(kind), what, remedy));
    }
    let (kind, holds) = local_kind(directory)?;
    let what = format!("{} lies on {kind}: {holds}", directory.display());
    let remedy = "leave it, if all processes that share locks see this directory; else move the store to a disk that they share";
    Some(Finding::new(Severity::Note, what, remedy))
}

/// Among the processes of one mount locks hold on all of them; between hosts they may not.
fn severity(kind: &str) -> Severity {
    if matches!(kind, "fuse" | "9p" | "vboxsf") { Severity::Warning } else { Severity::Danger }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
const NFS: &str = "locks exclude other hosts where the server's lock service runs, but a holder cut \
                   off from the server loses its lock without being told, and waiters of other \
                   hosts find out by polling";
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
const SMB: &str = "locks exclude other hosts only if it is mounted without `nobrl`, a holder cut off \
                   from the server loses its lock without being told, and waiters of other hosts \
                   find out by polling";
#[cfg(target_os = "linux")]
const CLUSTER: &str = "locks exclude other hosts only if it is mounted with cluster-wide flock, and \
                       waiters of other hosts find out by polling";
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
const UNKNOWN: &str = "whether locks exclude other hosts, or other mounts, depends on the program \
                       behind it; take it as excluding processes of this mount only";

#[cfg(target_os = "linux")]
fn kind(directory: &Path) -> Option<(&'static str, &'static str)> {
    of_magic(magic(directory)?)
}

/// From linux/magic.h and the file systems' own sources; 32 bits on every architecture.
#[cfg(target_os = "linux")]
fn magic(directory: &Path) -> Option<u32> {
    let found = rustix::fs::statfs(directory).ok()?;
    u32::try_from(i128::from(found.f_type) & 0xffff_ffff).ok()
}

#[cfg(target_os = "linux")]
fn local_kind(directory: &Path) -> Option<(&'static str, &'static str)> {
    local_of_magic(magic(directory)?)
}

#[cfg(target_os = "linux")]
const fn local_of_magic(magic: u32) -> Option<(&'static str, &'static str)> {
    Some(match magic {
        0x0102_1994 => {
            ("tmpfs", "its files are gone after a restart, and tokens go on from the wall clock")
        }
        0x8584_58f6 => {
            ("ramfs", "its files are gone after a restart, and tokens go on from the wall clock")
        }
        0x794c_7630 => {
            ("overlayfs", "in a container this may be its own layer, which no other container sees")
        }
        _ => return None,
    })
}

#[cfg(not(target_os = "linux"))]
const fn local_kind(_: &Path) -> Option<(&'static str, &'static str)> {
    None
}

#[cfg(target_os = "linux")]
const fn of_magic(magic: u32) -> Option<(&'static str, &'static str)> {
    Some(match magic {
        0x6969 => ("nfs", NFS),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => ("smb", SMB),
        0x6573_5546 => ("fuse", UNKNOWN),
        0x0102_1997 => ("9p", UNKNOWN),
        0x00c3_6400 => ("ceph", CLUSTER),
        0x0bd0_0bd0 => ("lustre", CLUSTER),
        0x0116_1970 => ("gfs2", CLUSTER),
        0x7461_636f => ("ocfs2", CLUSTER),
        0x4750_4653 => ("gpfs", CLUSTER),
        0x1983_0326 => ("fhgfs", CLUSTER),
        0x5346_414f | 0x6b41_4653 => ("afs", UNKNOWN),
        0x7375_7245 => ("coda", UNKNOWN),
        0x786f_4256 => ("vboxsf", UNKNOWN),
        _ => return None,
    })
}

#[cfg(target_vendor = "apple")]
fn kind(directory: &Path) -> Option<(&'static str, &'static str)> {
    let found = rustix::fs::statfs(directory).ok()?;
    let name: Vec<u8> = found
        .f_fstypename
        .iter()
        .map(|byte| byte.cast_unsigned())
        .take_while(|b| *b != 0)
        .collect();
    Some(match &*name {
        b"nfs" => ("nfs", NFS),
        b"smbfs" => ("smb", SMB),
        b"afpfs" | b"webdav" => ("network", UNKNOWN),
        b"macfuse" | b"osxfuse" => ("fuse", UNKNOWN),
        _ => return None,
    })
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
const fn kind(_: &Path) -> Option<(&'static str, &'static str)> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_and_local_ones_are_not() {
        for magic in [0x6969, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x0bd0_0bd0] {
            assert!(of_magic(magic).is_some(), "{magic:x}");
        }
        // ext4, xfs, btrfs, tmpfs, overlayfs
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(of_magic(magic), None, "{magic:x}");
        }
        assert_eq!(
            [0x0102_1994, 0x794c_7630, 0xef53].map(|magic| local_of_magic(magic).is_some()),
            [true, true, false]
        );
        assert_eq!(["nfs", "fuse"].map(severity), [Severity::Danger, Severity::Warning]);
    }
}
