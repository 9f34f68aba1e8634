//! Running as another user what refuses to run as root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, iter};

use crate::{Error, Result};

/// Debian keeps the servers' programs off the `PATH`, and those for root off others' `PATH`.
const POSTGRES: &str = "/usr/lib/postgresql";
const SBIN: &str = "/usr/sbin";

/// Who runs a server.
pub(crate) enum Account {
    /// We ourselves.
    Own,
    /// Another one than root, for whom we give up our rights.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// Ourselves, or as root the first of the accounts that Debian has for it.
    pub(crate) fn unprivileged() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id("-u", name)?, id("-g", name)?) {
                return Ok(Self::Other { uid, gid });
            }
        }
        let nobody = std::io::Error::other("there is neither a user postgres nor nobody");
        Err(Error::system("looking for a user that is not root")(nobody))
    }

    /// The program as this account; it replaces what starts it, and so keeps its process id.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match self {
            Self::Own => Command::new(program),
            Self::Other { uid, gid } => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
        }
    }

    /// Gives a file or directory to this account, with this mode.
    pub(crate) fn own(&self, path: &Path, mode: u32) -> Result<()> {
        let refused = || Error::system(format!("giving {} away", path.display()));
        if let Self::Other { uid, gid } = self {
            chown(path, Some(*uid), Some(*gid)).map_err(refused())?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(refused())
    }
}

/// The file of a program: of the newest PostgreSQL of Debian's, else on the `PATH`.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir(POSTGRES).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = versions.max_by_key(number).map(|version| version.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    newest
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(iter::once(SBIN.into()))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing { program: program.to_owned() })
}

/// What `id` says of an account; `None`: there is none.
fn id(which: &str, name: &str) -> Result<Option<u32>> {
    let said =
        Command::new("id").args([which, name]).output().map_err(Error::system("asking id"))?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().parse().ok())
}
