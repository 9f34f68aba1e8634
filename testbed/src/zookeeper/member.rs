//! A member of an ensemble: its number, and where the others find it.

use std::fs;
use std::sync::{Arc, OnceLock};

use crate::{Error, Place, Result};

/// Which member of an ensemble a server is.
///
/// Members tell each other their addresses, whatever a list says; so all have the true ones, and
/// leave by proxies.
pub(super) struct Member {
    pub(super) number: usize,
    pub(super) peers: Arc<OnceLock<Vec<Peer>>>,
}

pub(super) struct Peer {
    pub(super) quorum: u16,
    pub(super) election: u16,
    /// Where the member itself leaves by.
    pub(super) proxy: u16,
}

impl Member {
    /// Writes who it is; gives the lines of its configuration that say where all are.
    pub(super) fn lines(&self, place: &Place) -> Result<String> {
        let id = place.data().join("myid");
        fs::write(id, id_of(self.number)).map_err(Error::system("writing myid"))?;
        let mut lines = "initLimit=10\nsyncLimit=5\n".to_owned();
        for (number, Peer { quorum, election, .. }) in self.peers().iter().enumerate() {
            lines += &format!("server.{}=127.0.0.1:{quorum}:{election}\n", id_of(number));
        }
        Ok(lines)
    }

    pub(super) fn properties(&self) -> Vec<String> {
        let proxy = self.peers().get(self.number).map(|peer| peer.proxy).unwrap_or_default();
        vec![
            "-DsocksProxyHost=127.0.0.1".to_owned(),
            format!("-DsocksProxyPort={proxy}"),
            // Java leaves out this machine otherwise.
            "-DsocksNonProxyHosts=".to_owned(),
            "-Dzookeeper.fastleader.maxNotificationInterval=1000".to_owned(),
        ]
    }

    fn peers(&self) -> &[Peer] {
        self.peers.get().map(Vec::as_slice).unwrap_or_default()
    }
}

/// ZooKeeper's own number of a member, which is not 0.
fn id_of(member: usize) -> String {
    (member + 1).to_string()
}
