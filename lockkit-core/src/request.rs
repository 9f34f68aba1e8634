//! One wish for a lock, and what the store last said of it.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::{Clock, Error, FencingToken, Holder, Instant, Kind, LockName, Permits, Term};

/// The identity of one request: 128 random bits from the operating system.
///
/// Upholds C2: drawn again for every request and after a `fork`, so a store can tell two requests of
/// one process apart, and a replay from a new wish. Displays as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A new identity.
    ///
    /// # Errors
    /// `Unavailable`: the operating system gave no random bytes.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::unavailable(crate::Applied::No, error.to_string()))?;
        Ok(Self::from_bytes(bytes))
    }

    /// The identity with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The bytes of the identity.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the driver's request ids come from.
pub(crate) trait RequestIds: fmt::Debug + Send + Sync {
    fn next(&self) -> Result<RequestId, Error>;
}

/// From the operating system.
#[derive(Debug)]
pub(crate) struct RandomIds;

impl RequestIds for RandomIds {
    fn next(&self) -> Result<RequestId, Error> {
        RequestId::random()
    }
}

/// One wish for a lock, as a provider gets it.
///
/// The same request may reach a provider more than once: a replay of one [`RequestId`] yields the
/// same grant (C2).
#[derive(Clone, Debug)]
pub struct Request(Arc<Inner>);

/// Shared by the copies of a request: a call that outlives its caller has one of its own.
#[derive(Debug)]
struct Inner {
    name: LockName,
    id: RequestId,
    ttl: Duration,
    label: Arc<str>,
    clock: Clock,
    kind: Kind,
    /// Of a counted request.
    permits: Option<Permits>,
    /// The limit of the semaphore, once the store has told it.
    limit: AtomicU32,
    token_floor: Option<FencingToken>,
    /// What the store last said, and when.
    last_word: Mutex<Option<(StoreSays, Instant)>>,
    listener: Option<Listener>,
}

/// Hears what a store says of a request that is one of several.
#[derive(Clone)]
pub(crate) struct Listener(pub(crate) Arc<dyn Fn(StoreSays) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// What a store last said of a waiting request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreSays {
    /// The name is held, by this holder where the store names one.
    Held(Option<Holder>),
    /// Nothing: it is out of reach.
    Unreachable,
}

impl Request {
    /// A request for an exclusive lock with a fresh [`RequestId`] and the default label.
    ///
    /// # Errors
    /// `Unavailable`: the operating system gave no random bytes.
    pub fn new(name: LockName, ttl: Duration, clock: Clock) -> Result<Self, Error> {
        let label = default_label();
        Ok(Self::labelled(RequestId::random()?, name, ttl, clock, label, Kind::Exclusive))
    }

    pub(crate) fn labelled(
        id: RequestId,
        name: LockName,
        ttl: Duration,
        clock: Clock,
        label: Arc<str>,
        kind: Kind,
    ) -> Self {
        let name = name.in_family(kind.family());
        let (last_word, limit) = (Mutex::new(None), AtomicU32::new(0));
        let (permits, token_floor, listener) = (None, None, None);
        Self(Arc::new(Inner {
            name,
            id,
            ttl,
            label,
            clock,
            kind,
            permits,
            limit,
            token_floor,
            last_word,
            listener,
        }))
    }

    /// The same request, with the same id, under another holder's label.
    #[must_use]
    pub fn with_label(&self, label: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Inner { label: label.into(), ..self.parts() }))
    }

    /// The same request, with the same id, for another kind of lock; for one permit of one where it is
    /// [`Kind::Counted`].
    #[must_use]
    pub fn with_kind(&self, kind: Kind) -> Self {
        if kind == self.0.kind {
            return self.clone();
        }
        let permits = if kind == Kind::Counted { Permits::new(1).ok() } else { None };
        self.of_kind(kind, permits)
    }

    /// The same request, with the same id, for a permit of the semaphore of the same name.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use lockkit_core::{Clock, Kind, LockName, Permits, Request};
    ///
    /// let request = Request::new(LockName::new("pool")?, Duration::from_secs(15), Clock::system())?;
    /// let counted = request.counted(Permits::new(5)?);
    /// assert_eq!((counted.kind(), counted.name()), (Kind::Counted, &LockName::semaphore("pool")?));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    #[must_use]
    pub fn counted(&self, permits: Permits) -> Self {
        self.of_kind(Kind::Counted, Some(permits))
    }

    fn of_kind(&self, kind: Kind, permits: Option<Permits>) -> Self {
        let name = self.0.name.clone().in_family(kind.family());
        Self(Arc::new(Inner { name, kind, permits, ..self.parts() }))
    }

    /// The same request, with the same id, whose token is at least `floor` where the store offers that
    /// ([`Guarantees::raises_tokens`](crate::Guarantees)).
    ///
    /// A quorum gives the same floor to all its members, so that they grant the same token.
    #[must_use]
    pub fn with_token_floor(&self, floor: FencingToken) -> Self {
        Self(Arc::new(Inner { token_floor: Some(floor), ..self.parts() }))
    }

    /// The same wish, as one member of several is asked for it.
    pub(crate) fn for_member(&self, id: RequestId, floor: FencingToken, heard: Listener) -> Self {
        let (token_floor, listener) = (Some(floor), Some(heard));
        let last_word = Mutex::new(None);
        Self(Arc::new(Inner { id, token_floor, listener, last_word, ..self.parts() }))
    }

    fn parts(&self) -> Inner {
        let Inner { name, id, ttl, label, clock, kind, permits, token_floor, listener, .. } =
            &*self.0;
        Inner {
            name: name.clone(),
            id: *id,
            ttl: *ttl,
            label: Arc::clone(label),
            clock: clock.clone(),
            kind: *kind,
            permits: *permits,
            limit: AtomicU32::new(self.0.limit.load(Ordering::Relaxed)),
            token_floor: *token_floor,
            last_word: Mutex::new(self.last_word_at()),
            listener: listener.clone(),
        }
    }

    /// What is to be locked.
    pub fn name(&self) -> &LockName {
        &self.0.name
    }

    /// Who asks: unique to this request.
    pub fn id(&self) -> RequestId {
        self.0.id
    }

    /// The ttl to grant: already within what the provider declares.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Who asks, for people: by default `host/pid/program`.
    pub fn label(&self) -> &Arc<str> {
        &self.0.label
    }

    /// The clock that every instant of this request is read from.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The term of a grant or a renewal that the store is asked for now: its ttl counts from this instant.
    ///
    /// A provider takes it before it sends the request, and gives it with the grant (C5).
    pub fn term(&self) -> Term {
        Term { sent: self.0.clock.now(), ttl: Some(self.0.ttl) }
    }

    /// The kind of lock.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// How many permits the caller says that the semaphore has; `None` for other kinds.
    pub fn permits(&self) -> Option<Permits> {
        self.0.permits
    }

    /// Takes in the limit that the store has noted for the semaphore, as soon as the store tells it, by its grant or
    /// its "held".
    ///
    /// # Errors
    /// `Rejected`: it is another one than the caller's, and the caller takes no other. A provider answers with this
    /// error; the request has no place then, or the driver withdraws it (C9).
    pub fn check_permits(&self, limit: u32) -> Result<(), Error> {
        self.0.limit.store(limit, Ordering::Relaxed);
        match self.0.permits {
            Some(permits) if permits.is_exact() && permits.wished() != limit => {
                Err(Error::rejected(
                    format!("exactly {} permits: the semaphore has {limit}", permits.wished()),
                    "give it that number, leave out exact_limit(), or resize() it",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The limit that the store told and the caller's, where they differ.
    pub(crate) fn other_limit(&self) -> Option<(u32, u32)> {
        let (limit, wished) = (self.0.limit.load(Ordering::Relaxed), self.0.permits?.wished());
        (limit != 0 && limit != wished).then_some((limit, wished))
    }

    /// The least token to grant; `None`: the store's own next one.
    ///
    /// A store that declares [`Guarantees::raises_tokens`](crate::Guarantees) grants the greater of this and the one
    /// after the name's last token, and leaves its own clock out of it.
    pub fn token_floor(&self) -> Option<FencingToken> {
        self.0.token_floor
    }

    /// Tells the driver what the store said while the request waits.
    ///
    /// A provider calls it when it learns that the name is held, and when it loses the store; the
    /// driver needs it to tell "timed out behind a holder" from "unavailable" (C8).
    pub fn report(&self, word: StoreSays) {
        if let Some(Listener(heard)) = &self.0.listener {
            heard(word.clone());
        }
        let now = self.0.clock.now();
        *self.0.last_word.lock().unwrap_or_else(PoisonError::into_inner) = Some((word, now));
    }

    /// What [`report`](Self::report) was last told.
    pub fn last_word(&self) -> Option<StoreSays> {
        self.last_word_at().map(|(word, _)| word)
    }

    /// The same, and when that was.
    pub(crate) fn last_word_at(&self) -> Option<(StoreSays, Instant)> {
        self.0.last_word.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `host/pid/program` of this process.
pub(crate) fn default_label() -> Arc<str> {
    static LABEL: OnceLock<(u32, Arc<str>)> = OnceLock::new();
    let pid = std::process::id();
    let (known, label) = LABEL.get_or_init(|| (pid, label_of(pid)));
    // A forked child inherits the parent's text; its own pid tells.
    if *known == pid { Arc::clone(label) } else { label_of(pid) }
}

fn label_of(pid: u32) -> Arc<str> {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_name()).unwrap_or_default();
    format!("{}/{pid}/{}", host(), program.to_string_lossy()).into()
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}
