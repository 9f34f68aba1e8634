//! How a ZooKeeper server is started, alone or as a member of an ensemble.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use super::calls::{ask, field};
use super::member::Member;
use super::settings::Builder;
use crate::port::is_listened_at;
use crate::{Error, Place, Program, Result, java};

/// What it needs; its own jar does not name Netty's codec, which TLS needs.
const JARS: [&str; 3] = ["zookeeper", "slf4j-simple", "netty-codec"];
/// The indices of its ports.
const PLAIN: usize = 0;
pub(super) const TLS: usize = 1;
pub(super) const QUORUM: usize = 2;
pub(super) const ELECTION: usize = 3;

/// The lines of a server's configuration that were added after its first start.
#[derive(Debug, Clone, Default)]
pub(super) struct Later(Arc<Mutex<Vec<String>>>);

impl Later {
    pub(super) fn add(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) struct Zk {
    pub(super) builder: Builder,
    pub(super) member: Option<Member>,
    pub(super) later: Later,
}

impl Program for Zk {
    fn name(&self) -> &'static str {
        "zookeeper"
    }

    fn ports(&self) -> usize {
        match self.member {
            None => 1 + usize::from(self.builder.tls.is_some()),
            Some(_) => 4,
        }
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = place.directory().join(name);
            fs::write(&file, text).map_err(Error::system(format!("writing {name}")))?;
            Ok(file)
        };
        let mut text = format!(
            "tickTime={}\nmaxSessionTimeout=40000\ndataDir={}\nclientPortAddress=127.0.0.1\n\
             clientPort={}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n",
            self.builder.tick.as_millis(),
            place.data().display(),
            place.address(PLAIN).port(),
        );
        if let Some(tls) = &self.builder.tls {
            let [key, certificate] = tls.identity.each_ref().map(fs::read_to_string);
            let parts = key.and_then(|key| Ok(key + &certificate?));
            let parts = parts.map_err(Error::system("reading the server's certificate"))?;
            let identity = write("identity.pem", &parts)?;
            text += &format!(
                "secureClientPortAddress=127.0.0.1\nsecureClientPort={}\n\
                 ssl.keyStore.location={}\n{}",
                place.address(TLS).port(),
                identity.display(),
                tls.lines,
            );
        }
        if let Some(member) = &self.member {
            text += &member.lines(place)?;
        }
        for line in self.builder.lines.iter().chain(&self.later.lines()) {
            text += line;
            text.push('\n');
        }
        let file = write("zoo.cfg", &text)?;
        let mut command = java::command(&JARS)?;
        command
            .args([
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                "-Dzookeeper.forceSync=no",
            ])
            // The log of changes takes 64 MiB of disk at once otherwise.
            .arg("-Dzookeeper.preAllocSize=1024")
            .args(self.member.iter().flat_map(Member::properties))
            .args(&self.builder.properties)
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file);
        Ok(command)
    }

    fn is_ready(&self, place: &Place, _: u32) -> Result<(), String> {
        let address = place.address(PLAIN);
        if self.builder.tls.is_some() && !is_listened_at(place.address(TLS)) {
            return Err("it does not listen at its TLS port".to_owned());
        }
        if self.member.is_some() {
            // It says more once it has a leader, and the others may not be there yet.
            return ask(address, "ruok")
                .and_then(|said| if said == "imok" { Ok(()) } else { Err(said) });
        }
        // The directory is of this place alone.
        let settings = ask(address, "conf")?;
        if !settings.contains(&*place.data().to_string_lossy()) {
            return Err(format!("what answers at its port has these settings: {settings:?}"));
        }
        let answer = ask(address, "srvr")?;
        field(&answer, "Mode: ").map(drop).ok_or(answer)
    }
}
