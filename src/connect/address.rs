//! What a URL is made of: a scheme, an address, options.

use std::collections::BTreeMap;
use std::time::Duration;

use lockkit_core::{Builder, Error, FencingToken, Result, TtlRange};
use percent_encoding::percent_decode_str;

/// The schemes of stores that exist.
pub(super) const SCHEMES: &str =
    "memory:, file:, postgres:, redis:, rediss:, redis+unix:, zk:, zookeeper:, etcd:, etcds:";

/// The scheme, in lower case, and what follows its colon.
pub(super) fn split(url: &str) -> Result<(String, &str)> {
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
pub(super) struct Address {
    pub(super) path: String,
    pub(super) options: Options,
}

impl Address {
    pub(super) fn parse(rest: &str) -> Result<Self> {
        if rest.contains('#') {
            return Err(Error::invalid("a URL with a #", "write it as %23, or leave it out"));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let hex = |digit: Option<char>| digit.is_some_and(|digit| digit.is_ascii_hexdigit());
        let escaped = path.split('%').skip(1).all(|after| {
            let mut digits = after.chars();
            hex(digits.next()) && hex(digits.next())
        });
        let path = decode(path).filter(|_| escaped).ok_or_else(|| {
            Error::invalid(
                "a URL whose path is not percent-encoded UTF-8",
                "write % as %25, and two hex digits after every other %",
            )
        })?;
        Ok(Self { path, options: Options::parse(query)? })
    }
}

/// The text behind percent-encoding, where it is UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

/// An authority's certificate, and our own with its private part, as the texts of PEM files.
#[cfg(any(feature = "etcd", feature = "redis"))]
pub(super) type Certificates = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

/// The options of a URL; what no store takes out is unknown.
pub(super) struct Options(BTreeMap<String, String>);

impl Options {
    pub(super) fn parse(query: &str) -> Result<Self> {
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

    /// Takes out an option that only some stores know.
    #[cfg(any(feature = "etcd", feature = "postgres", feature = "redis", feature = "zk"))]
    pub(super) fn take(&mut self, option: &str) -> Option<String> {
        self.0.remove(option)
    }

    /// Takes out `ca`, `cert` and `key`, and reads their files.
    #[cfg(any(feature = "etcd", feature = "redis"))]
    pub(super) fn certificates(&mut self) -> Result<Certificates> {
        let authority = self.take("ca").map(|path| pem("ca", &path)).transpose()?;
        let client = match (self.take("cert"), self.take("key")) {
            (Some(cert), Some(key)) => Some((pem("cert", &cert)?, pem("key", &key)?)),
            (None, None) => None,
            _ => {
                return Err(Error::invalid(
                    "only one of the options cert and key",
                    "give both, or neither",
                ));
            }
        };
        Ok((authority, client))
    }

    /// Applies the options that every store knows, and refuses what is left; `more` are those that
    /// this store knows besides.
    pub(super) fn apply(mut self, mut builder: Builder, more: &str) -> Result<(Builder, u64)> {
        if let Some(ttl) = self.0.remove("ttl") {
            builder = builder.ttl(parse_ttl(&ttl)?);
        }
        let token_base = self.0.remove("token_base");
        let token_base = token_base.as_deref().map_or(Ok(0), parse_token_base)?;
        match self.0.into_keys().next() {
            None => Ok((builder, token_base)),
            Some(unknown) => Err(Error::invalid(
                format!("the option {unknown} is unknown"),
                format!("the options are ttl, token_base{more}"),
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

/// The certificates or the key in the file that an option names.
#[cfg(any(feature = "etcd", feature = "redis", feature = "zk"))]
pub(super) fn pem(option: &str, path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Error::invalid(
            format!("the file of the option {option}, {path}: {error}"),
            "give the path of a PEM file that this program may read",
        )
    })
}
