//! The settings of a ZooKeeper server or ensemble.

use std::path::PathBuf;
use std::time::Duration;

use crate::ClientCertificate;
use crate::certificates::Certificates;

/// ZooKeeper's own default of 2 s makes tests of expiry slow.
const TICK: Duration = Duration::from_millis(500);

/// The settings of a ZooKeeper server.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) tick: Duration,
    pub(super) lines: Vec<String>,
    pub(super) properties: Vec<String>,
    pub(super) tls: Option<Tls>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { tick: TICK, lines: Vec::new(), properties: Vec::new(), tls: None }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Tls {
    /// The server's key and its certificate, which each start reads.
    pub(super) identity: [PathBuf; 2],
    pub(super) lines: String,
}

impl Builder {
    /// The unit of its time, 500 ms unless set: sessions end within one more tick than their
    /// timeout, which is of 2 ticks at least, and of 40 s at most.
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// One more line of its configuration, such as `maxSessionTimeout=5000`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// One more property of its process, such as `znode.container.checkIntervalMs` and `500`.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push(format!("-D{name}={value}"));
        self
    }

    /// One more port for TLS with the server's certificate of `certificates`.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates, clients: ClientCertificate) -> Self {
        let identity = [certificates.server_key(), certificates.server_certificate()];
        let asked = match clients {
            ClientCertificate::Required => "need",
            ClientCertificate::NotAsked => "none",
        };
        let lines = format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.type=PEM\nssl.trustStore.type=PEM\nssl.trustStore.location={}\n\
             ssl.clientAuth={asked}\n",
            certificates.ca().display(),
        );
        self.tls = Some(Tls { identity, lines });
        self
    }
}
