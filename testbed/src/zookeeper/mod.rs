//! ZooKeeper for one test: one server, or an ensemble.

mod backup;
mod calls;
mod ensemble;
mod member;
mod program;
mod server;
mod settings;

pub use backup::ZkBackup;
pub use ensemble::ZkEnsemble;
pub use server::ZkServer;
pub use settings::Builder;
