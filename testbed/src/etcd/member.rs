//! A member of a cluster: its name, and where the others find it.

use std::path::PathBuf;

use crate::Place;

/// Which member of a cluster a server is.
///
/// Members know each other by sockets whose names are relative to the directory that they run in:
/// all have the same list, as etcd wants it, and each has doors of its own behind the names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) number: usize,
    pub(super) size: usize,
}

impl Member {
    pub(super) fn name(self) -> String {
        name(self.number)
    }

    pub(super) fn url(self) -> String {
        url(self.number)
    }

    /// The list of all members.
    pub(super) fn all(self) -> String {
        let all = (0..self.size).map(|number| format!("{}={}", name(number), url(number)));
        all.collect::<Vec<_>>().join(",")
    }

    pub(super) fn directory(place: &Place) -> PathBuf {
        place.directory().join("peers")
    }
}

fn name(member: usize) -> String {
    format!("member-{member}")
}

fn url(member: usize) -> String {
    format!("unix://{}", address(member))
}

/// etcd wants a port at the end also of a socket's name.
pub(super) fn address(member: usize) -> String {
    format!("{}:0", name(member))
}
