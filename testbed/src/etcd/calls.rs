//! What is asked of an etcd server: by its tool, and at its own port.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::{Error, Result, http};

/// The testbed's own user, whom etcd wants to have this name.
pub(super) const ROOT: &str = "root:testbed";

pub(super) fn etcdctl(endpoints: &[SocketAddr], has_users: bool) -> Command {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", endpoints.join(","));
    if has_users {
        command.env("ETCDCTL_USER", ROOT);
    }
    command
}

/// What the member itself says, without asking the others.
pub(super) fn status(address: SocketAddr) -> Result<Value, String> {
    http::post(address, "/v3/maintenance/status", "{}")
}

pub(super) fn revision(address: SocketAddr) -> Result<i64> {
    let status = status(address).map_err(Error::Answer)?;
    let revision = status["header"]["revision"].as_str().unwrap_or_default();
    revision.parse().map_err(|_| Error::Answer(format!("no revision in {status}")))
}

/// Numbers of 64 bits are texts here; one that is absent is 0.
pub(super) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
