//! From a URL to a store's locks.

mod address;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "zk")]
mod zk;

use lockkit_core::{Builder, Error, Locks, Memory, Result};

use address::{Address, SCHEMES, split};

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
/// etcd over TLS also takes `ca`, `cert` and `key`.
/// An option that the store does not know is refused, and so is one that is given twice.
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
    connect_with(url, Locks::builder()).await
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
    let (scheme, rest) = split(url)?;
    match &*scheme {
        "memory" => memory(Address::parse(rest)?, builder),
        "file" => file(Address::parse(rest)?, builder).await,
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => postgres::connect(rest, builder).await,
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(without(&scheme, "postgres")),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" => redis::connect(&scheme, rest, builder).await,
        #[cfg(not(feature = "redis"))]
        "redis" | "rediss" | "redis+unix" => Err(without(&scheme, "redis")),
        #[cfg(feature = "zk")]
        "zk" | "zookeeper" => zk::connect(rest, builder).await,
        #[cfg(not(feature = "zk"))]
        "zk" | "zookeeper" => Err(without(&scheme, "zk")),
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => etcd::connect(&scheme, rest, builder).await,
        #[cfg(not(feature = "etcd"))]
        "etcd" | "etcds" => Err(without(&scheme, "etcd")),
        _ => Err(Error::invalid(
            format!("no store has the scheme {scheme}:"),
            format!("the schemes are {SCHEMES}"),
        )),
    }
}

fn memory(address: Address, builder: Builder) -> Result<Locks> {
    let Address { path: name, options } = address;
    if name.starts_with('/') {
        return Err(Error::invalid(
            "a slash after memory:",
            "write memory: for a private store, or memory:NAME for a shared one",
        ));
    }
    let (builder, token_base) = options.apply(builder, "")?;
    let store = match &*name {
        "" => Memory::with_token_base(token_base),
        name => Memory::shared(name, token_base)?,
    };
    Ok(builder.build(store))
}

#[cfg(feature = "file")]
async fn file(address: Address, builder: Builder) -> Result<Locks> {
    let Address { path, options } = address;
    let directory = match path.strip_prefix("//") {
        None => &*path,
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => {
            return Err(Error::invalid(
                "a host in a file: URL",
                "write file:/path or file:///path, or file:relative/path without slashes before it",
            ));
        }
    };
    if directory.is_empty() || directory.contains('\0') {
        return Err(Error::invalid(
            "a file: URL that names no directory",
            "write file:/path, or file:relative/path",
        ));
    }
    let (builder, token_base) = options.apply(builder, "")?;
    let config = lockkit_file::FileConfig::new(directory).token_base(token_base);
    Ok(builder.build(lockkit_file::FileProvider::connect(config).await?))
}

#[cfg(not(feature = "file"))]
async fn file(_: Address, _: Builder) -> Result<Locks> {
    Err(without("file", "file"))
}

/// The refusal of a scheme whose feature is off.
#[cfg(not(all(
    feature = "etcd",
    feature = "file",
    feature = "postgres",
    feature = "redis",
    feature = "zk"
)))]
fn without(scheme: &str, feature: &str) -> Error {
    Error::invalid(
        format!("{scheme}: names a store that this program was built without"),
        format!("enable the feature \"{feature}\" of the crate lockkit"),
    )
}
