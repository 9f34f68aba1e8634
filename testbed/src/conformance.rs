//! Links and servers as the conformance suite takes them.

use std::time::Duration;

use lockkit_core::conformance::{self, Traffic};
use lockkit_core::{Applied, Error, Result, async_trait};

use crate::{
    Cluster, Connections, Data, End, EtcdCluster, EtcdServer, Fault, Link, Per, PostgresServer,
    RedisServer, Server, Way, ZkEnsemble, ZkServer,
};

fn failed(error: crate::Error) -> Error {
    Error::unavailable(Applied::No, error)
}

fn along(way: conformance::Way) -> Way {
    match way {
        conformance::Way::Requests => Way::ToServer,
        conformance::Way::Replies => Way::ToClient,
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl conformance::Link for Link {
    async fn pass(&self) -> Result<()> {
        Self::pass(self).map_err(failed)
    }

    async fn refuse(&self) -> Result<()> {
        Self::refuse(self).map_err(failed)
    }

    async fn reset(&self) -> Result<()> {
        Self::reset(self).map_err(failed)
    }

    async fn blackhole(&self) -> Result<()> {
        self.fault(Way::Both, Fault::Blackhole);
        Ok(())
    }

    async fn blackhole_old(&self) -> Result<()> {
        self.fault_on(Connections::Existing, Way::Both, Fault::Blackhole);
        Ok(())
    }

    async fn lose(&self, way: conformance::Way) -> Result<()> {
        self.fault(along(way), Fault::Blackhole);
        Ok(())
    }

    async fn hold(&self, way: conformance::Way) -> Result<()> {
        self.fault(along(way), Fault::Hold);
        Ok(())
    }

    async fn hold_old(&self, way: conformance::Way) -> Result<()> {
        self.fault_on(Connections::Existing, along(way), Fault::Hold);
        Ok(())
    }

    async fn deliver(&self) -> Result<()> {
        Self::deliver(self);
        Ok(())
    }

    async fn delay(&self, by: Duration) -> Result<()> {
        self.fault(Way::Both, Fault::delay(by));
        Ok(())
    }

    async fn cut(&self, way: conformance::Way, after: u64) -> Result<()> {
        self.fault(along(way), Fault::Cut { after, per: Per::Link, end: End::Reset });
        Ok(())
    }

    async fn traffic(&self) -> Result<Traffic> {
        let counts = self.counts();
        let mut traffic = Traffic::default();
        traffic.connections = counts.accepted;
        traffic.sent = counts.to_server.delivered;
        traffic.received = counts.to_client.delivered;
        traffic.open = Some(counts.open);
        Ok(traffic)
    }
}

macro_rules! server {
    ($server:ty as $all:ty) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl conformance::Server for $server {
            async fn pause(&self) -> Result<()> {
                <$all>::pause(self).map_err(failed)
            }

            async fn resume(&self) -> Result<()> {
                <$all>::resume(self).map_err(failed)
            }

            async fn kill(&self) -> Result<()> {
                <$all>::kill(self).map_err(failed)
            }

            async fn restart(&self) -> Result<()> {
                <$all>::restart(self, Data::Kept).map_err(failed)
            }

            async fn restart_empty(&self) -> Result<()> {
                <$all>::restart(self, Data::Lost).map_err(failed)
            }
        }
    };
}

server!(EtcdServer as Server);
server!(EtcdCluster as Cluster);
server!(PostgresServer as Server);
server!(RedisServer as Server);
server!(ZkServer as Server);
server!(ZkEnsemble as Cluster);
