//! From a URL to a store's locks: the table of schemes.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use lockkit_core::kit::Url;
use lockkit_core::{Builder, Error, LockProvider, Locks, Memory, Result};

/// The built-in schemes, and the feature that has their store.
const BUILT_IN: [(&[&str], &str); 6] = [
    (&["memory"], "memory"),
    (&["file"], "file"),
    (&["postgres", "postgresql"], "postgres"),
    (&["redis", "rediss", "redis+unix"], "redis"),
    (&["zk", "zookeeper"], "zk"),
    (&["etcd", "etcds"], "etcd"),
];

/// A provider that has connected. Locks of a `dyn LockProvider` would cost each call of the provider an
/// allocation more.
trait Connected: Send {
    fn locks(self: Box<Self>, builder: Builder) -> Locks;

    #[cfg(feature = "conformance")]
    fn provider(self: Box<Self>) -> Arc<dyn LockProvider>;
}

impl<P: LockProvider> Connected for P {
    fn locks(self: Box<Self>, builder: Builder) -> Locks {
        builder.build(*self)
    }

    #[cfg(feature = "conformance")]
    fn provider(self: Box<Self>) -> Arc<dyn LockProvider> {
        Arc::new(*self)
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn Connected>>> + Send>>;
type Connecter = Arc<dyn Fn(Url) -> Connecting + Send + Sync>;

/// Connects to the store that `url` names, with every setting at its default.
///
/// | URL | store |
/// |---|---|
/// | `memory:` | the memory of this process, private to the [`Locks`] returned |
/// | `memory:NAME` | the same, shared by all of this process that gives this name |
/// | `file:/path`, `file:///path` | a directory of this machine, made if its parent exists (feature `file`) |
/// | `file:relative/path` | the same, from the working directory |
/// | `postgres://[user[:password]@]host[:port][/database]`, `postgresql://...` | a PostgreSQL server, 14 or newer (feature `postgres`) |
/// | `redis://[user[:password]@]host[:port][/database]` | a Redis or Valkey server (feature `redis`) |
/// | `rediss://...` | the same over TLS (features `redis` and `tls`) |
/// | `redis+unix:///path` | the same by a socket of this machine |
/// | `zk://[user:password@]host[:port][,host[:port]...][/base]`, `zookeeper://...` | a ZooKeeper server or ensemble (feature `zk`; TLS with the option `ca`) |
/// | `etcd://[user:password@]host[:port][,host[:port]...][/prefix]` | an etcd cluster, by its members (feature `etcd`) |
/// | `etcds://...` | the same over TLS (features `etcd` and `tls`) |
///
/// Paths and names are percent-decoded: write `%3F` for `?`, `%23` for `#` and `%25` for `%`.
/// Options follow as `?option=value&...`, the same for every store:
///
/// | option | value |
/// |---|---|
/// | `ttl` | of locks that name none: whole numbers with a unit, as `500ms`, `15s`, `2m`, `1h` or `1m30s`, from `50ms` to `24h`; 15 s without it |
/// | `token_base` | a whole number that is added to the store's own tokens, for moves and restores |
///
/// Postgres also takes `strategy`, `schema`, `connections`, `budget`, `creates` and libpq's parameters.
/// Redis also takes `prefix`, by a socket `database`, `username` and `password`, and over TLS `ca`,
/// `cert` and `key`.
/// ZooKeeper also takes `layout`, `tick`, `access`, `ca`, `cert` and `key`: see its page.
/// etcd over TLS also takes `ca`, `cert` and `key`. These three name files, which each new connection reads again.
/// An option that the store does not know is refused, and so is one that is given twice.
/// [`Schemes`] adds the scheme of a store that is not lockkit's own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit::Result<()> {
/// let locks = lockkit::connect("memory:?ttl=30s").await?;
/// let guard = locks.lock("billing/nightly").acquire().await?;
/// println!("write with token {}", guard.token());
/// # Ok(()) }
/// ```
///
/// # Errors
/// `Invalid`: the URL, with what to write instead. No error repeats a password: of the URL it shows
/// the scheme, the option at fault, or the directory. `Rejected`, `Unavailable`: the store.
/// `NoRuntime`: called outside the tokio runtime that the store's connections are to live in.
///
/// # Cancel safety
/// Cancel-safe: nothing is locked yet.
pub async fn connect(url: &str) -> Result<Locks> {
    Schemes::new().connect(url).await
}

/// `Locks::connect(url)`: the same as [`connect`], where it is in scope.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit::Result<()> {
/// use lockkit::{Connect, Locks};
///
/// let locks = Locks::connect("memory:?ttl=30s").await?;
/// # drop(locks); Ok(()) }
/// ```
pub trait Connect: Sized + sealed::Sealed {
    /// Connects to the store that `url` names, as [`connect`] does.
    ///
    /// # Errors
    /// As [`connect`](crate::connect()).
    ///
    /// # Cancel safety
    /// As [`connect`](crate::connect()).
    fn connect(url: &str) -> impl Future<Output = Result<Self>> + Send;
}

impl Connect for Locks {
    async fn connect(url: &str) -> Result<Self> {
        connect(url).await
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for lockkit_core::Locks {}
}

/// Connects as [`connect`] does, with the program's own clock, runtime, label or ttl.
///
/// The URL belongs to the deployment: its `ttl` wins over the builder's.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit::Result<()> {
/// use lockkit::{Locks, connect_with};
///
/// let locks = connect_with("memory:", Locks::builder().label("billing-7")).await?;
/// # drop(locks); Ok(()) }
/// ```
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// As [`connect`].
pub async fn connect_with(url: &str, builder: Builder) -> Result<Locks> {
    Schemes::new().connect_with(url, builder).await
}

/// The schemes of URLs that [`connect`](Self::connect) knows: lockkit's own, and those that the program
/// adds for stores of others.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit::Result<()> {
/// use lockkit::{Memory, Schemes};
///
/// // Another crate's provider; a scheme of lockkit's own can be replaced in the same way.
/// let schemes = Schemes::new().with("scratch", |mut url| async move {
///     let store = Memory::with_token_base(url.take_token_base()?);
///     url.finish(&[])?;
///     Ok(store)
/// });
/// let locks = schemes.connect("scratch:?ttl=30s").await?;
/// # drop(locks); Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Schemes {
    added: BTreeMap<String, Connecter>,
}

impl Schemes {
    /// lockkit's own schemes, of the features that are enabled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a scheme, or replaces it. `connect` takes its options out of the URL; `ttl` is taken out
    /// before.
    #[must_use]
    pub fn with<P, F>(
        mut self,
        scheme: &str,
        connect: impl Fn(Url) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: LockProvider,
        F: Future<Output = Result<P>> + Send + 'static,
    {
        let connect = move |url| boxed(connect(url));
        self.added.insert(scheme.to_ascii_lowercase(), Arc::new(connect));
        self
    }

    /// Connects to the store that `url` names, as [`connect`](crate::connect()) does.
    ///
    /// # Errors
    /// As [`connect`](crate::connect()).
    ///
    /// # Cancel safety
    /// As [`connect`](crate::connect()).
    pub async fn connect(&self, url: &str) -> Result<Locks> {
        self.connect_with(url, Locks::builder()).await
    }

    /// Connects with the program's own settings, as [`connect_with`](crate::connect_with) does.
    ///
    /// # Errors
    /// As [`connect`](crate::connect()).
    ///
    /// # Cancel safety
    /// As [`connect`](crate::connect()).
    pub async fn connect_with(&self, url: &str, mut builder: Builder) -> Result<Locks> {
        let mut url = Url::parse(url)?;
        if let Some(ttl) = url.take_ttl()? {
            builder = builder.ttl(ttl);
        }
        Ok(self.connecting(url)?.await?.locks(builder))
    }

    /// Connects to the store that `url` names, and gives its provider: for the suite in
    /// [`conformance`](crate::conformance), whose fixture connects to it again and again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit::Result<()> {
    /// let provider = lockkit::Schemes::new().provider("memory:suite").await?;
    /// assert!(provider.guarantees().kinds.contains(&lockkit::Kind::Exclusive));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`connect`](crate::connect()).
    ///
    /// # Cancel safety
    /// As [`connect`](crate::connect()).
    #[cfg(feature = "conformance")]
    pub async fn provider(&self, url: &str) -> Result<Arc<dyn LockProvider>> {
        let mut url = Url::parse(url)?;
        // Each case chooses its own.
        url.take_ttl()?;
        Ok(self.connecting(url)?.await?.provider())
    }

    fn connecting(&self, url: Url) -> Result<Connecting> {
        match self.added.get(url.scheme()) {
            Some(connect) => Ok(connect(url)),
            None => self.built_in(url),
        }
    }

    /// Connects to a store of lockkit's own.
    fn built_in(&self, url: Url) -> Result<Connecting> {
        let stores = BUILT_IN.iter().find(|(schemes, _)| schemes.contains(&url.scheme()));
        let (_, feature) = stores.ok_or_else(|| {
            Error::invalid(
                format!("no store has the scheme {}:", url.scheme()),
                format!("the schemes are {}", self.names()),
            )
        })?;
        Ok(match *feature {
            "memory" => boxed(async { memory(url) }),
            #[cfg(feature = "file")]
            "file" => boxed(async { lockkit_file::FileProvider::connect(url.try_into()?).await }),
            #[cfg(feature = "postgres")]
            "postgres" => {
                boxed(async { lockkit_postgres::PostgresProvider::connect(url.try_into()?).await })
            }
            #[cfg(feature = "redis")]
            "redis" => {
                boxed(async { lockkit_redis::RedisProvider::connect(url.try_into()?).await })
            }
            #[cfg(feature = "zk")]
            "zk" => boxed(async { lockkit_zk::ZkProvider::connect(url.try_into()?).await }),
            #[cfg(feature = "etcd")]
            "etcd" => boxed(async { lockkit_etcd::EtcdProvider::connect(url.try_into()?).await }),
            feature => {
                return Err(Error::invalid(
                    format!("{}: names a store that this program was built without", url.scheme()),
                    format!("enable the feature \"{feature}\" of the crate lockkit"),
                ));
            }
        })
    }

    /// Every scheme there is, for a message.
    fn names(&self) -> String {
        let built_in = BUILT_IN.iter().flat_map(|(schemes, _)| schemes.iter().copied());
        let names = built_in.chain(self.added.keys().map(String::as_str));
        names.map(|name| format!("{name}:")).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Debug for Schemes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schemes").field("added", &self.added.keys()).finish()
    }
}

fn boxed<P: LockProvider>(
    connecting: impl Future<Output = Result<P>> + Send + 'static,
) -> Connecting {
    Box::pin(async {
        let provider = connecting.await?;
        Ok(Box::new(provider) as Box<dyn Connected>)
    })
}

fn memory(mut url: Url) -> Result<Memory> {
    let (name, token_base) = (url.path()?, url.take_token_base()?);
    if name.starts_with('/') {
        return Err(Error::invalid(
            "a slash after memory:",
            "write memory: for a private store, or memory:NAME for a shared one",
        ));
    }
    url.finish(&[])?;
    match &*name {
        "" => Ok(Memory::with_token_base(token_base)),
        name => Memory::shared(name, token_base),
    }
}
