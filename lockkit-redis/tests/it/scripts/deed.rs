//! What is done to a lock, and what its client learns.

/// One step: what one script, one foreign command or one fault did.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Ask { id: String, ttl: i64, waits: bool },
    Renew { id: String, ttl: i64 },
    Pass(Pass),
    Withdraw { id: String, tomb: bool },
    Inspect,
    Revoke { token: u64 },
    ForeignSet { value: String, ttl: Option<i64> },
    ForeignDelete,
    Forget,
}

/// A release, or hand-offs that were made without the server.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    pub(crate) from: String,
    /// The newest token given out.
    pub(crate) token: u64,
    /// Who holds by now, and its ttl.
    pub(crate) to: Option<(String, i64)>,
    /// Whose grants have ended, and whether they leave a tombstone.
    pub(crate) ended: Vec<(String, bool)>,
}

/// What a client learns of its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted(u64),
    /// With this ticket, if it waits.
    Held(Option<u64>),
    Withdrawn,
    /// Passed to the one that was named.
    Passed,
    Yes,
    No,
}

impl Deed {
    /// The request whose script it is.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Self::Ask { id, .. } | Self::Renew { id, .. } | Self::Withdraw { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Whether it may end what this request has.
    pub(crate) fn is_about(&self, id: &str) -> bool {
        match self {
            Self::Pass(pass) => pass.ends(id) || pass.to.as_ref().is_some_and(|(to, _)| to == id),
            _ => self.id() == Some(id),
        }
    }

    /// What goes over the wire, as the provider sends it.
    pub(crate) fn words(&self, lock: &str) -> Vec<String> {
        let number = |n: i64| n.to_string();
        let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
        let (script, id, args) = match self {
            Self::Ask { id, ttl, waits } => (
                "acquire",
                &**id,
                vec![number(life(*ttl)), number(*ttl), "label".to_owned(), flag(*waits)],
            ),
            Self::Renew { id, ttl } => ("renew", &**id, vec![number(life(*ttl)), number(*ttl)]),
            Self::Pass(pass) => {
                let (to, ttl) =
                    pass.to.clone().map_or_else(Default::default, |(to, ttl)| (to, number(ttl)));
                let mut args =
                    vec![number(20), pass.token.to_string(), to, ttl, "label".to_owned()];
                args.extend(pass.ended.iter().flat_map(|(id, tomb)| [id.clone(), flag(*tomb)]));
                ("release", &*pass.from, args)
            }
            Self::Withdraw { id, tomb } => ("withdraw", &**id, vec![number(20), flag(*tomb)]),
            // As the provider has it: these two pass no id.
            Self::Inspect => ("inspect", "", Vec::new()),
            Self::Revoke { token } => return vec!["revoke".to_owned(), token.to_string()],
            Self::ForeignSet { value, ttl } => {
                let end = ttl.map(|ttl| vec!["PX".to_owned(), number(ttl)]).unwrap_or_default();
                let set = ["SET", lock, value, "NX"].map(str::to_owned).to_vec();
                return [set, end].concat();
            }
            Self::ForeignDelete => return vec!["DEL".to_owned(), lock.to_owned()],
            Self::Forget => return vec!["PING".to_owned()],
        };
        let mut words = vec![script.to_owned()];
        if !id.is_empty() {
            words.push(id.to_owned());
        }
        words.extend(args);
        words
    }
}

impl Pass {
    pub(crate) fn ends(&self, id: &str) -> bool {
        self.ended.iter().any(|(ended, _)| ended == id)
    }
}

/// In the provider a life is the ttl too, within bounds that would take too long here.
pub(crate) fn life(ttl: i64) -> i64 {
    ttl.clamp(40, 80)
}
