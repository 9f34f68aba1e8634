//! What an error of the driver means.

use lockkit_core::kit::is_mistrust;
use lockkit_core::{Applied, Error};

/// What a user's role needs.
const RIGHTS: &str = "grant the user's role readwrite on the keys of the prefix: \
    etcdctl role grant-permission ROLE --prefix readwrite <prefix>/";
const CERTIFICATES: &str = "give the authority that signed the server's certificate, the host \
    that it names, and our own certificate if the server asks for one; none may have expired";
pub(crate) const ROOM: &str =
    "make room: compact and defragment the cluster, then disarm its alarm";
const LOGIN: &str = "check the user name and the password in the URL";

/// What one call's failure says of its request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The lease it named does not exist: it was not applied.
    NoLease,
    /// Not applied, and never will be.
    Refused(Error),
    /// Refused from now on, and itself perhaps applied: etcd applies the transaction that finds its
    /// space used up, and answers that it is (`quotaApplierV3` in its sources).
    Full(Error),
    /// Not applied: this member and we do not accept each other's certificates.
    Mistrusted(Error),
    /// Not applied to our cluster: this member is of another one.
    Foreign(Error),
    /// Not applied: another endpoint, or a later try, may serve.
    Unserved(String),
    /// It may have been applied, or may be still.
    Unclear(String),
}

impl Failure {
    pub(crate) fn of(error: &etcd_client::Error) -> Self {
        use etcd_client::Error as Driver;

        let text = whole(error);
        match error {
            Driver::GRpcStatus(status) => {
                Self::of_status(status.code() as i32, status.message(), text)
            }
            Driver::LeaseKeepAliveError(why) if why == "lease not found" => Self::NoLease,
            Driver::InvalidArgs(_) | Driver::InvalidUri(_) | Driver::InvalidMetadataValue(_) => {
                Self::Refused(Error::invalid(
                    text,
                    "correct the address, the login or the certificates",
                ))
            }
            Driver::TransportError(_) => {
                Self::Refused(Error::invalid(text, "correct the address or the certificates"))
            }
            _ => Self::Unclear(text),
        }
    }

    /// By gRPC's code and etcd's message; the driver does not tell more.
    fn of_status(code: i32, message: &str, text: String) -> Self {
        let refused = |remedy: &str| Self::Refused(Error::rejected(text.clone(), remedy));
        if is_mistrust(&text) {
            return Self::Mistrusted(Error::rejected(text, CERTIFICATES));
        }
        match code {
            5 if message.contains("lease not found") => Self::NoLease,
            3 if message.contains("auth store is old") => Self::Unserved(text),
            3 if message.contains("authentication failed") => refused(LOGIN),
            3 if message.contains("user name is empty") => {
                refused("give a user and a password: this cluster wants a login")
            }
            // A role that has changed: said before the proposal.
            9 if message.contains("not leader") => Self::Unserved(text),
            9 if message.contains("authentication is not enabled") => {
                refused("leave the login out, or enable authentication in the cluster")
            }
            16 => refused(LOGIN),
            7 => refused(RIGHTS),
            8 if message.contains("database space exceeded") => {
                Self::Full(Error::rejected(text, ROOM))
            }
            12 => refused("use etcd 3.4 or newer"),
            // The driver found an answer too long: so there was one.
            11 if !message.starts_with("etcdserver") => Self::Unclear(text),
            3 | 5 | 9 | 11 => refused("see what etcd says"),
            14 if is_unserved(message, &text) => Self::Unserved(text),
            // Said before the proposal. Of other makers of this code, gRPC itself (a stream that was
            // reset, a message that is too long) may have come after it was applied.
            8 if message.contains("too many requests") => Self::Unserved(text),
            _ => Self::Unclear(text),
        }
    }

    /// The same, with the member that it is of named; `is_new`: none has ever been answered there.
    pub(crate) fn of_member(self, url: &str, is_new: bool) -> Self {
        let named = |text: String| {
            let hint = if is_new { hint(url, &text) } else { "" };
            if text.contains(url) { text } else { format!("{url}: {text}{hint}") }
        };
        let rejected = |error| match error {
            Error::Rejected { what, remedy, .. } => Error::rejected(named(what), remedy),
            error => error,
        };
        match self {
            Self::NoLease => Self::NoLease,
            Self::Refused(error) => Self::Refused(rejected(error)),
            Self::Full(error) => Self::Full(rejected(error)),
            Self::Mistrusted(error) => Self::Mistrusted(rejected(error)),
            Self::Foreign(error) => Self::Foreign(error),
            Self::Unserved(text) => Self::Unserved(named(text)),
            Self::Unclear(text) => Self::Unclear(named(text)),
        }
    }

    /// The same, with what other members said of the same call, which it joins.
    pub(crate) fn beside(self, said: &mut Vec<String>) -> Self {
        let mut all = |text: String| {
            if !said.contains(&text) {
                said.push(text);
            }
            said.join("; ")
        };
        match self {
            Self::Unserved(text) => Self::Unserved(all(text)),
            Self::Unclear(text) => Self::Unclear(all(text)),
            failure => failure,
        }
    }

    /// Whether it is the member that failed, and another one may serve.
    pub(crate) const fn is_of_a_member(&self) -> bool {
        matches!(
            self,
            Self::Mistrusted(_) | Self::Foreign(_) | Self::Unserved(_) | Self::Unclear(_)
        )
    }

    /// Whether it will be refused again until the operator has followed the remedy.
    pub(crate) const fn is_lasting(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Full(_))
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::NoLease => "the session's lease has ended".to_owned(),
            Self::Refused(error)
            | Self::Full(error)
            | Self::Mistrusted(error)
            | Self::Foreign(error) => error.to_string(),
            Self::Unserved(text) | Self::Unclear(text) => text.clone(),
        }
    }

    /// As the one error; `late` says that an earlier sending may still be applied.
    pub(crate) fn into_error(self, late: bool) -> Error {
        let unless_late = if late { Applied::Maybe } else { Applied::No };
        match self {
            Self::Refused(error)
            | Self::Full(error)
            | Self::Mistrusted(error)
            | Self::Foreign(error) => error,
            Self::NoLease | Self::Unserved(_) => Error::unavailable(unless_late, self.text()),
            Self::Unclear(text) => Error::unavailable(Applied::Maybe, text),
        }
    }
}

/// What to look at where a handshake ended as it does when only one side speaks TLS.
fn hint(url: &str, text: &str) -> &'static str {
    let ends = |endings: &[&str]| endings.iter().any(|ending| text.contains(ending));
    if url.starts_with("https:") && ends(&["tls handshake eof", "InvalidContentType"]) {
        " (if this port does not speak TLS: etcd:// in place of etcds://)"
    } else if url.starts_with("http:") && ends(&["broken pipe", "connection error", "reset"]) {
        " (if this port speaks TLS: etcds:// in place of etcd://)"
    } else {
        ""
    }
}

/// Whether a refusal of a certificate may end by itself where it was accepted before: one has expired, or the
/// member no longer accepts ours. Each is replaced on the disk, ours or the member's.
///
/// A member whose certificate is of another authority, or of another host, is none that we know.
pub(crate) fn may_be_replaced(mistrust: &Error) -> bool {
    let Error::Rejected { what: text, .. } = mistrust else { return false };
    let is_untimely = ["Expired", "expired", "NotValidYet", "not valid yet"];
    text.contains("received fatal alert") || is_untimely.iter().any(|words| text.contains(words))
}

/// What a call that waits through outages makes of the refusal of a full cluster: an outage, which ends
/// when the operator has made room.
pub(crate) fn outlasts_full(error: Error) -> Error {
    match error {
        Error::Rejected { what, remedy, .. } if remedy == ROOM => {
            Error::unavailable(Applied::Maybe, format!("{what}; {remedy}"))
        }
        error => error,
    }
}

/// Whether an answer `Unavailable` came before anything was sent or proposed.
fn is_unserved(message: &str, text: &str) -> bool {
    message == "etcdserver: no leader"
        || message == "etcdserver: rpc not supported for learner"
        || text.contains("connect error")
        || text.contains("dns error")
}

/// An error and its sources, each said once; the driver hides what matters below its own words.
///
/// Of a status only its message: its own form shows every field of it, as a debugger would.
fn whole(error: &etcd_client::Error) -> String {
    let mut text = match error {
        etcd_client::Error::GRpcStatus(status) if status.message().is_empty() => {
            status.code().description().to_owned()
        }
        etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
        error => error.to_string(),
    };
    let mut source: Option<&dyn std::error::Error> = match error {
        etcd_client::Error::GRpcStatus(status) => std::error::Error::source(status),
        etcd_client::Error::TransportError(error) => std::error::Error::source(error),
        _ => None,
    };
    while let Some(error) = source {
        let more = error.to_string();
        // The client crate's own words for all that it is given.
        if more != "transport error" && !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32, message: &str) -> Failure {
        Failure::of_status(code, message, message.to_owned())
    }

    #[test]
    fn only_what_was_surely_not_applied_says_so() {
        let learner = "etcdserver: rpc not supported for learner";
        for message in ["etcdserver: no leader", learner, "tcp connect error", "dns error"] {
            assert!(matches!(of(14, message), Failure::Unserved(_)), "{message}");
        }
        assert!(matches!(of(9, "etcdserver: not leader"), Failure::Unserved(_)));
        for message in
            ["etcdserver: request timed out", "etcdserver: leader changed", "broken pipe"]
        {
            assert!(matches!(of(14, message), Failure::Unclear(_)), "{message}");
        }
        let full = of(8, "etcdserver: mvcc: database space exceeded");
        assert!(full.is_lasting() && matches!(full, Failure::Full(_)));
        assert!(matches!(of(8, "etcdserver: too many requests"), Failure::Unserved(_)));
        assert!(matches!(of(8, "h2 protocol error: enhance your calm"), Failure::Unclear(_)));
        assert!(matches!(of(11, "decoded message length too large"), Failure::Unclear(_)));
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert!(matches!(of(11, compacted), Failure::Refused(_)));
        assert!(matches!(of(1, "Timeout expired"), Failure::Unclear(_)));
        assert!(matches!(of(2, "transport error"), Failure::Unclear(_)));
    }

    #[test]
    fn an_earlier_sending_keeps_a_later_refusal_from_being_definite() {
        let error = of(14, "tcp connect error").into_error(true);
        assert!(error.is_ambiguous());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_keep_alive_of_a_lease_that_is_gone_says_so() {
        let server = testbed::EtcdServer::start().expect("a server");
        let url = format!("http://{}", server.address());
        let client = etcd_client::Client::connect([url], None).await.expect("a client");
        // It is answered, with a ttl of 0.
        let kept = client.lease_client().keep_alive(0x1234).await.map(drop);
        let error = kept.expect_err("no such lease");
        assert!(matches!(Failure::of(&error), Failure::NoLease), "{error:?}");
    }

    #[test]
    fn certificates_are_a_matter_of_trust_and_not_of_time() {
        let text = "transport error: invalid peer certificate: UnknownIssuer";
        assert!(matches!(of(14, text), Failure::Mistrusted(_)));
        let alert = of(2, "received fatal alert: CertificateRequired");
        assert!(matches!(alert, Failure::Mistrusted(_)));
    }

    #[test]
    fn only_a_certificate_of_another_authority_or_host_is_the_end_of_a_client() {
        let is_the_end = |text: &str| match of(14, text) {
            Failure::Mistrusted(error) => !may_be_replaced(&error),
            other => panic!("{other:?}"),
        };
        for text in ["UnknownIssuer", "NotValidForName"] {
            assert!(is_the_end(&format!("invalid peer certificate: {text}")), "{text}");
        }
        assert!(!is_the_end("invalid peer certificate: Expired"));
        assert!(!is_the_end("received fatal alert: BadCertificate"));
    }
}
