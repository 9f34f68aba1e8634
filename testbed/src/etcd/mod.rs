//! etcd for one test: one server, or a cluster.

mod calls;
mod cluster;
mod member;
mod program;
mod server;
mod settings;
mod snapshot;

pub use cluster::EtcdCluster;
pub use server::EtcdServer;
pub use settings::Builder;
pub use snapshot::EtcdSnapshot;
