//! What the driver's errors mean to a caller.

use std::future::Future;
use std::time::Duration;

use lockkit_core::kit::within;
use lockkit_core::{Applied, Clock, Error, Result};
use zookeeper_client::Error as ZkError;

/// What the driver answers.
pub(crate) type Outcome<T> = std::result::Result<T, ZkError>;

/// Whether the request may have taken effect, or may yet.
pub(crate) fn is_ambiguous(error: &ZkError) -> bool {
    to_error(error).is_ambiguous()
}

/// What the caller can do about it.
pub(crate) fn to_error(error: &ZkError) -> Error {
    let text = error.to_string();
    match error {
        ZkError::NoAuth => Error::rejected(
            text,
            "give the login that owns the node, or grant this one the permissions cdrwa on the \
             base and below it",
        ),
        ZkError::AuthFailed => Error::rejected(text, "check the login: scheme, name and password"),
        ZkError::InvalidAcl => Error::rejected(
            text,
            "log in before giving access to the creator alone, and name schemes that the servers \
             know",
        ),
        ZkError::QuotaExceeded => Error::rejected(text, "raise the quota of the base"),
        ZkError::NoChildrenForEphemerals => Error::rejected(
            "the base, or a name below it, is another client's ephemeral node",
            "set another base",
        ),
        ZkError::BadArguments(_) => {
            Error::invalid(text, "correct the servers, base or certificates")
        }
        ZkError::NoHosts => Error::unavailable(Applied::No, "no server of the ensemble answers"),
        ZkError::NoNode
        | ZkError::NodeExists
        | ZkError::NotEmpty
        | ZkError::BadVersion
        | ZkError::NotReadOnly
        | ZkError::Throttled
        | ZkError::Unimplemented => Error::unavailable(Applied::No, error.clone()),
        _ => Error::unavailable(Applied::Maybe, error.clone()),
    }
}

/// What `call` gives within `limit`; what it has sent may take effect later.
pub(crate) async fn limited<T>(
    clock: &Clock,
    limit: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let outcome = within(clock, limit, call).await;
    outcome.unwrap_or_else(|| {
        let silence = format!("no answer within {limit:?}");
        Err(Error::unavailable(Applied::Maybe, silence))
    })
}
