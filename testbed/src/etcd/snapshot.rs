//! A backup of an etcd server's data.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::member::Member;
use super::program::Identity;
use crate::command::run;
use crate::{Error, Place, Result};

/// A backup of a server's data.
#[derive(Debug)]
pub struct EtcdSnapshot {
    directory: TempDir,
}

impl EtcdSnapshot {
    /// Of the one server that this `etcdctl` is for.
    pub(super) fn by(mut etcdctl: Command) -> Result<Self> {
        let directory = tempfile::tempdir().map_err(Error::system("making a directory"))?;
        let snapshot = Self { directory };
        run(etcdctl.args(["snapshot", "save"]).arg(snapshot.file()))?;
        Ok(snapshot)
    }

    /// Replaces the data of a server that does not run.
    pub(super) fn lay_out(&self, place: &Place, member: Option<Member>) -> Result<()> {
        // The tool makes the directory itself, and refuses one that is there.
        fs::remove_dir_all(place.data()).map_err(Error::system("deleting the data"))?;
        let Identity { name, advertised, all } = Identity::of(member, place);
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(self.file());
        command
            .arg(format!("--data-dir={}", place.data().display()))
            .arg(format!("--name={name}"))
            .arg(format!("--initial-advertise-peer-urls={advertised}"))
            .arg(format!("--initial-cluster={all}"));
        run(&mut command).map(drop)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("snapshot.db")
    }
}
