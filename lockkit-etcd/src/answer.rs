//! What every answer of a member says: which cluster it is of, and at which revision it was given.

use etcd_client::{
    GetResponse, LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse,
    MemberListResponse, ResponseHeader, StatusResponse, TxnResponse, WatchStream,
};
use lockkit_core::Instant;

use crate::member_client::MemberClient;

/// What a member answers.
pub(crate) trait Answer {
    /// Whether its revision is at least that of each linearizable answer before it was asked for.
    const IS_LINEARIZABLE: bool = false;

    fn header(&self) -> Option<&ResponseHeader>;
}

impl Answer for TxnResponse {
    const IS_LINEARIZABLE: bool = true;

    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for GetResponse {
    const IS_LINEARIZABLE: bool = true;

    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for LeaseGrantResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for LeaseRevokeResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for LeaseTimeToLiveResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for MemberListResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for StatusResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl<T: Answer> Answer for (Instant, T) {
    const IS_LINEARIZABLE: bool = T::IS_LINEARIZABLE;

    fn header(&self) -> Option<&ResponseHeader> {
        self.1.header()
    }
}

/// A keep-alive's: the driver does not show its header.
impl Answer for () {
    fn header(&self) -> Option<&ResponseHeader> {
        None
    }
}

/// A stream's, whose messages have headers.
impl Answer for (MemberClient, WatchStream) {
    fn header(&self) -> Option<&ResponseHeader> {
        None
    }
}
