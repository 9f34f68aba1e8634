//! From a URL to a store's locks.

use std::collections::BTreeMap;
use std::time::Duration;

use lockkit_core::{Builder, Error, FencingToken, Locks, Memory, Result, TtlRange};
use percent_encoding::percent_decode_str;

/// The schemes of stores that exist.
const SCHEMES: &str = "memory:, file:";

/// Connects to the store that `url` names, with every setting at its default.
///
/// | URL | store |
/// |---|---|
/// | `memory:` | the memory of this process, private to the [`Locks`] returned |
/// | `memory:NAME` | the same, shared by everybody in this process who gives this name |
/// | `file:/path`, `file:///path` | a directory of this machine, made if its parent exists (feature `file`) |
/// | `file:relative/path` | the same, from the working directory |
///
/// Paths and names are percent-decoded: write `%3F` for `?`, `%23` for `#` and `%25` for `%`.
/// Options follow as `?option=value&...`, the same for every store:
///
/// | option | value |
/// |---|---|
/// | `ttl` | of locks that name none: whole numbers with a unit, as `500ms`, `15s`, `2m`, `1h` or `1m30s`, from `50ms` to `24h`; 15 s without it |
/// | `token_base` | a whole number that is added to the store's own tokens, for moves and restores |
///
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
        "redis" | "rediss" | "etcd" | "etcds" | "zk" | "zookeeper" | "postgres" | "postgresql" => {
            Err(Error::invalid(
                format!("{scheme}: names a store that this version of lockkit does not have"),
                format!("it is planned; the stores that exist are {SCHEMES}"),
            ))
        }
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
    let (builder, token_base) = options.apply(builder)?;
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
    let (builder, token_base) = options.apply(builder)?;
    let config = lockkit_file::FileConfig::new(directory).token_base(token_base);
    Ok(builder.build(lockkit_file::FileProvider::connect(config).await?))
}

#[cfg(not(feature = "file"))]
async fn file(_: Address, _: Builder) -> Result<Locks> {
    Err(Error::invalid(
        "file: names a store that this program was built without",
        "enable the feature \"file\" of the crate lockkit",
    ))
}

/// The scheme, in lower case, and what follows its colon.
fn split(url: &str) -> Result<(String, &str)> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    url.split_once(':')
        .filter(|(scheme, _)| scheme.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter(|(scheme, _)| scheme.chars().all(plain))
        .map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest))
        .ok_or_else(|| {
            let remedy = format!("begin it with a scheme: {SCHEMES}");
            Error::invalid("a URL without a scheme", remedy)
        })
}

/// What follows the scheme of a store that has no server; no error repeats it.
struct Address {
    path: String,
    options: Options,
}

impl Address {
    fn parse(rest: &str) -> Result<Self> {
        if rest.contains('#') {
            return Err(Error::invalid("a URL with a #", "write it as %23, or leave it out"));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let hex = |digit: Option<char>| digit.is_some_and(|digit| digit.is_ascii_hexdigit());
        let escaped = path.split('%').skip(1).all(|after| {
            let mut digits = after.chars();
            hex(digits.next()) && hex(digits.next())
        });
        let path = percent_decode_str(path).decode_utf8();
        let path = path.ok().filter(|_| escaped).ok_or_else(|| {
            Error::invalid(
                "a URL whose path is not percent-encoded UTF-8",
                "write % as %25, and two hex digits after every other %",
            )
        })?;
        Ok(Self { path: path.into_owned(), options: Options::parse(query)? })
    }
}

/// The options of a URL; what nobody takes out is unknown.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(query: &str) -> Result<Self> {
        let mut options = BTreeMap::new();
        for (option, value) in form_urlencoded::parse(query.as_bytes()) {
            if options.insert(option.clone().into_owned(), value.into_owned()).is_some() {
                return Err(Error::invalid(
                    format!("the option {option} is given twice"),
                    "give it once",
                ));
            }
        }
        Ok(Self(options))
    }

    /// Applies the options that every store knows, and refuses all others.
    fn apply(mut self, mut builder: Builder) -> Result<(Builder, u64)> {
        if let Some(ttl) = self.0.remove("ttl") {
            builder = builder.ttl(parse_ttl(&ttl)?);
        }
        let token_base = self.0.remove("token_base");
        let token_base = token_base.as_deref().map_or(Ok(0), parse_token_base)?;
        match self.0.into_keys().next() {
            None => Ok((builder, token_base)),
            Some(unknown) => Err(Error::invalid(
                format!("the option {unknown} is unknown"),
                "the options are ttl, token_base",
            )),
        }
    }
}

fn parse_ttl(text: &str) -> Result<Duration> {
    let TtlRange { min, max, .. } = TtlRange::ANY;
    humantime::parse_duration(text).ok().filter(|ttl| (min..=max).contains(ttl)).ok_or_else(|| {
        Error::invalid(
            format!("ttl={text}"),
            "give a ttl from 50ms to 24h, with its unit: 500ms, 15s, 2m, 1m30s",
        )
    })
}

fn parse_token_base(text: &str) -> Result<u64> {
    let base = text.parse().ok().filter(|base| FencingToken::with_base(*base, 1).is_ok());
    base.ok_or_else(|| {
        Error::invalid(
            format!("token_base={text}"),
            format!("give a whole number below {}", FencingToken::MAX),
        )
    })
}
