//! One grammar for the URLs of all stores.
//!
//! `scheme:[//[user[:password]@]host[:port][,host[:port]...]][/path][?option=value&...]`, where the login,
//! the path and the values are percent-encoded. A store without a server takes all of the address as its path.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::{Error, FencingToken, Result, TtlRange};

/// A URL that names a store, for the `from_url` of a backend's configuration.
///
/// The backend takes out what it knows; [`finish`](Self::finish) refuses the rest. No error and no `Debug`
/// shows the login.
///
/// ```
/// use lockkit_core::kit::Url;
///
/// let mut url = Url::parse("consul://app:secret@a,b:8501/locks?datacenter=eu&ttl=30s")?;
/// let servers = url.servers("consul://[user:password@]host[:port][,...][/prefix]")?;
/// assert_eq!(servers.hosts, [("a".to_owned(), None), ("b".to_owned(), Some(8501))]);
/// assert_eq!(servers.path, "locks");
/// assert_eq!(url.take("datacenter").as_deref(), Some("eu"));
/// assert_eq!(url.take_ttl()?, Some(std::time::Duration::from_secs(30)));
/// url.finish(&["datacenter"])?;
/// # Ok::<(), lockkit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Url {
    scheme: String,
    /// What stands between the scheme's colon and the options, as it was written.
    address: String,
    options: BTreeMap<String, String>,
}

/// The address of a store with servers.
#[derive(Clone)]
#[non_exhaustive]
pub struct Servers {
    /// The user, which may be empty, and the password.
    pub login: Option<(String, Option<String>)>,
    /// At least one host, each with its port where the URL names one; an IPv6 address without brackets.
    pub hosts: Vec<(String, Option<u16>)>,
    /// What follows the first slash behind the hosts.
    pub path: String,
}

impl Url {
    /// Splits a URL into its scheme, its address and its options.
    ///
    /// # Errors
    /// `Invalid`: it has no scheme, has a `#`, or gives an option twice.
    pub fn parse(url: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let (scheme, rest) = url
            .split_once(':')
            .filter(|(scheme, _)| scheme.starts_with(|c: char| c.is_ascii_alphabetic()))
            .filter(|(scheme, _)| scheme.chars().all(is_plain))
            .ok_or_else(|| {
                Error::invalid(
                    "a URL without a scheme",
                    "begin it with a scheme, as memory:, file:/path or redis://host",
                )
            })?;
        check(!rest.contains('#'), "a URL with a #", "write it as %23, or leave it out")?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = BTreeMap::new();
        for (option, value) in form_urlencoded::parse(query.as_bytes()) {
            let twice = format!("the option {option} is given twice");
            let is_first = options.insert(option.into_owned(), value.into_owned()).is_none();
            check(is_first, twice, "give it once")?;
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), address: address.to_owned(), options })
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The address as it was written, for a driver with a grammar of its own.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Refuses a scheme that is none of these.
    ///
    /// # Errors
    /// `Invalid`: another store's URL.
    pub fn expect_scheme(&self, schemes: &[&str]) -> Result<()> {
        let remedy = format!("begin it with {}:", schemes.join(": or "));
        let what = format!("a URL with the scheme {}:", self.scheme);
        check(schemes.contains(&&*self.scheme), what, &remedy)
    }

    /// The whole address, decoded, of a store without a server.
    ///
    /// # Errors
    /// `Invalid`: it is not percent-encoded UTF-8.
    pub fn path(&self) -> Result<String> {
        decode(&self.address).ok_or_else(|| {
            Error::invalid(
                "a URL whose path is not percent-encoded UTF-8",
                "write % as %25, and two hex digits after every other %",
            )
        })
    }

    /// The login, the hosts and the path. `shape` says how to write such a URL.
    ///
    /// # Errors
    /// `Invalid`: a host is missing, a port is no number, or a part is not percent-encoded UTF-8.
    pub fn servers(&self, shape: &str) -> Result<Servers> {
        let unreadable = |why: &str| self.unreadable(why, shape);
        let decoded = |text: &str, part: &str| {
            let why = format!("the {part} is not percent-encoded UTF-8");
            decode(text).ok_or_else(|| unreadable(&why))
        };
        let address =
            self.address.strip_prefix("//").ok_or_else(|| unreadable("it names no host"))?;
        let (authority, path) = address.split_once('/').unwrap_or((address, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let login = login.map(|login| -> Result<_> {
            match login.split_once(':') {
                Some((user, password)) => {
                    Ok((decoded(user, "login")?, Some(decoded(password, "login")?)))
                }
                None => Ok((decoded(login, "login")?, None)),
            }
        });
        let hosts = hosts.split(',').map(|host| host_of(host).map_err(unreadable));
        Ok(Servers {
            login: login.transpose()?,
            hosts: hosts.collect::<Result<_>>()?,
            path: decoded(path, "path")?,
        })
    }

    /// The refusal of a URL whose address cannot be read: `why`, and its `shape`, which says how to write
    /// it. It never repeats the address, and so no password.
    pub fn unreadable(&self, why: &str, shape: &str) -> Error {
        Error::invalid(
            format!("a {}: URL that cannot be read ({why})", self.scheme),
            format!("write {shape}, with special characters as %XX"),
        )
    }

    /// Takes out an option.
    pub fn take(&mut self, option: &str) -> Option<String> {
        self.options.remove(option)
    }

    /// Takes out an option and reads its value by `parse`; `remedy` says what to give.
    ///
    /// # Errors
    /// `Invalid`: `parse` cannot read the value.
    pub fn take_parsed<T>(
        &mut self,
        option: &str,
        remedy: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.take(option) else { return Ok(None) };
        let invalid = || Error::invalid(format!("{option}={value}"), remedy);
        parse(&value).ok_or_else(invalid).map(Some)
    }

    /// Takes out an option that is a time with its unit, such as `500ms` or `15s`.
    ///
    /// # Errors
    /// `Invalid`: it is no time.
    pub fn take_time(&mut self, option: &str, remedy: &str) -> Result<Option<Duration>> {
        self.take_parsed(option, remedy, time)
    }

    /// Takes out `ttl`, which belongs to the locks and to no store.
    ///
    /// # Errors
    /// `Invalid`: it is no time from 50 ms to 24 h.
    pub fn take_ttl(&mut self) -> Result<Option<Duration>> {
        let TtlRange { min, max, .. } = TtlRange::ANY;
        let remedy = "give a ttl from 50ms to 24h, with its unit: 500ms, 15s, 2m, 1m30s";
        self.take_parsed("ttl", remedy, |value| time(value).filter(|ttl| (min..=max).contains(ttl)))
    }

    /// Takes out `token_base`, which is 0 without it.
    ///
    /// # Errors
    /// `Invalid`: no token can be greater.
    pub fn take_token_base(&mut self) -> Result<u64> {
        let remedy = format!("give a whole number below {}", FencingToken::MAX);
        let is_base = |base: &u64| FencingToken::with_base(*base, 1).is_ok();
        let base =
            self.take_parsed("token_base", &remedy, |value| value.parse().ok().filter(is_base))?;
        Ok(base.unwrap_or(0))
    }

    /// Refuses the options that are left. `known` are those that this store knows, apart from
    /// `ttl` and `token_base`.
    ///
    /// # Errors
    /// `Invalid`: there is one.
    pub fn finish(self, known: &[&str]) -> Result<()> {
        // A password with a question mark has split the URL in two: what is left may be a part of it.
        if self.options.iter().any(|(option, value)| option.contains('@') || value.contains('@')) {
            return Err(Error::invalid(
                "an unknown option, and an @ behind the ?",
                "write the special characters of a login as %XX: ? as %3F, / as %2F, # as %23",
            ));
        }
        match self.options.into_keys().next().as_deref() {
            None => Ok(()),
            Some("ttl") => Err(Error::invalid(
                "the option ttl, in a URL for a provider alone",
                "give the ttl to Locks::builder(), or the URL to lockkit::connect",
            )),
            Some(unknown) => Err(Error::invalid(
                format!("the option {unknown} is unknown"),
                format!("the options are {}", [&["ttl", "token_base"], known].concat().join(", ")),
            )),
        }
    }
}

/// Refuses a part of a configuration unless this holds: `what` is wrong, and the `remedy` says what to write.
///
/// ```
/// use lockkit_core::kit::check;
///
/// assert!(check(true, "a port of 0", "give the server's port").is_ok());
/// ```
///
/// # Errors
/// `Invalid`: it does not hold.
pub fn check(holds: bool, what: impl Into<String>, remedy: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(what, remedy)) }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Url").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_login = self.login.is_some();
        let mut servers = f.debug_struct("Servers");
        servers.field("login", &has_login).field("hosts", &self.hosts).field("path", &self.path);
        servers.finish()
    }
}

/// A time with its unit.
fn time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// The text behind percent-encoding, where all of it is encoded well and is UTF-8.
fn decode(text: &str) -> Option<String> {
    let is_escaped = text.split('%').skip(1).all(|after| {
        after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())
    });
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    is_escaped.then(|| decoded.into_owned())
}

/// A host with its port, or without one; an IPv6 address stands in brackets.
fn host_of(text: &str) -> std::result::Result<(String, Option<u16>), &'static str> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    let (name, port) = match bracketed {
        Some((name, "")) => (name, None),
        Some((name, port)) => (name, Some(port.strip_prefix(':').unwrap_or(port))),
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.is_empty() {
        return Err("it names no host");
    }
    let port = port.map(str::parse).transpose().map_err(|_| "a port is not a number")?;
    Ok((name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(url: &str) -> Result<Servers> {
        Url::parse(url)?.servers("x://host")
    }

    #[test]
    fn an_address_is_read_with_its_login_hosts_and_path() {
        let read = servers("x://a%40b:p%3As@[::1]:7,h,[fe80::1]/a/b%2Fc").expect("a good address");
        assert_eq!(read.login, Some(("a@b".to_owned(), Some("p:s".to_owned()))));
        let hosts = [("::1", Some(7)), ("h", None), ("fe80::1", None)];
        assert_eq!(read.hosts, hosts.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!(read.path, "a/b/c");
        let bare = servers("X://user@h").expect("a good address");
        assert_eq!((bare.login, &*bare.path), (Some(("user".to_owned(), None)), ""));
    }

    #[test]
    fn a_bad_address_is_refused_with_its_shape_and_without_its_login() {
        for url in ["x:", "x:h", "x://", "x://a,", "x://h:p", "x://h:65536", "x://h/%f", "x://%@h"]
        {
            let error = servers(url).expect_err(url).to_string();
            assert!(error.contains("write x://host"), "{url}: {error}");
        }
        let error = servers("x://user:hunter2@/").expect_err("no host").to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let shown = format!("{:?}", Url::parse("x://user:hunter2@h/?a=b").expect("a URL"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn an_option_that_is_left_is_refused_by_its_name() {
        let url = |text| Url::parse(text).expect("a URL");
        assert!(url("x:").finish(&[]).is_ok());
        let error = url("x:?b=1").finish(&["a"]).expect_err("unknown").to_string();
        assert!(error.contains("b is unknown") && error.contains("ttl, token_base, a"), "{error}");
        let error = url("x:?ttl=1s").finish(&[]).expect_err("not a store's").to_string();
        assert!(error.contains("Locks::builder()"), "{error}");
    }
}
