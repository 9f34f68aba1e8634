//! How an etcd server is started, alone or as a member of a cluster.

use std::process::Command;

use serde_json::Value;

use super::calls::{number, status};
use super::member::Member;
use super::settings::Builder;
use crate::port::is_listened_at;
use crate::{Place, Program, Result};

/// The indices of its ports.
const PLAIN: usize = 0;
pub(super) const PEER: usize = 1;
pub(super) const TLS: usize = 2;
/// The name of a cluster's only member.
const ALONE: &str = "testbed";

pub(super) struct Etcd {
    pub(super) builder: Builder,
    pub(super) member: Option<Member>,
}

impl Program for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn ports(&self) -> usize {
        2 + usize::from(self.builder.has_tls())
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut clients = format!("http://{}", place.address(PLAIN));
        if self.builder.has_tls() {
            clients += &format!(",https://{}", place.address(TLS));
        }
        let peer = peer_url(place);
        let mut command = Command::new(self.name());
        if self.member.is_some() {
            command.current_dir(Member::directory(place));
        }
        let Identity { name, advertised, all } = Identity::of(self.member, place);
        command
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", place.data().display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={advertised}"))
            .arg(format!("--initial-cluster={all}"))
            .args(["--logger=zap", "--log-outputs=stderr"])
            .args(&self.builder.tls)
            .args(&self.builder.arguments);
        Ok(command)
    }

    fn is_ready(&self, place: &Place, _: u32) -> Result<(), String> {
        // Without the others, which may not be there yet, a member listens and does not answer.
        if self.member.is_some() {
            let is_there = is_listened_at(place.address(PLAIN));
            return is_there.then_some(()).ok_or_else(|| "it does not listen".to_owned());
        }
        let status = status(place.address(PLAIN))?;
        if !is_own(&status, place) {
            return Err("another process answers at its port".to_owned());
        }
        if number(&status["leader"]) == 0 {
            return Err("it has no leader".to_owned());
        }
        Ok(())
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        match self.member {
            None => self.builder.add_users(&[place.address(PLAIN)]),
            Some(_) => Ok(()),
        }
    }
}

/// What a server calls itself, and which others its cluster has.
pub(super) struct Identity {
    pub(super) name: String,
    /// Where the others find it.
    pub(super) advertised: String,
    pub(super) all: String,
}

impl Identity {
    pub(super) fn of(member: Option<Member>, place: &Place) -> Self {
        if let Some(member) = member {
            return Self { name: member.name(), advertised: member.url(), all: member.all() };
        }
        let advertised = peer_url(place);
        let all = format!("{ALONE}={advertised}");
        Self { name: ALONE.to_owned(), advertised, all }
    }
}

fn peer_url(place: &Place) -> String {
    format!("http://{}", place.address(PEER))
}

/// Whether the log that this process writes is of the member that answered.
fn is_own(status: &Value, place: &Place) -> bool {
    let member = number(&status["header"]["member_id"]);
    place.log().contains(&format!("{member:x}"))
}
