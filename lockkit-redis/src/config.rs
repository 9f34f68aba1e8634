//! Where the server is, and how to speak to it.

use std::fmt;
use std::path::PathBuf;

use lockkit_core::kit::{Tls as RedisTls, Url, check};
use lockkit_core::{Error, Result};

/// Redis's own port.
const PORT: u16 = 6379;
const SHAPE: &str = "redis://[user[:password]@]host[:port][/database]";
/// Redis counts in doubles, exact up to 2⁵³: with more, the sum could be no token.
const LARGEST_BASE: u64 = i64::MAX.unsigned_abs() - (1 << 53);

/// Where the server is, who we are there, and where our locks lie.
///
/// Its `Debug` shows no password and no private part of a certificate.
///
/// ```
/// use lockkit_redis::RedisConfig;
///
/// let config = RedisConfig::tcp("redis-1", 6379)
///     .username("billing")
///     .password("hunter2")
///     .database(3)
///     .prefix("app:");
/// assert!(!format!("{config:?}").contains("hunter2"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct RedisConfig {
    pub(crate) server: Server,
    pub(crate) tls: Option<RedisTls>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: i64,
    pub(crate) prefix: String,
    pub(crate) token_base: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Server {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl RedisConfig {
    /// The server that this URL names: `redis://[user[:password]@]host[:port][/database]`, the same
    /// with `rediss:` over TLS, or `redis+unix:///path/to/socket`.
    ///
    /// Its options are `prefix` and `token_base`; over TLS the paths `ca`, `cert` and `key`; by a socket
    /// `database`, `username` and `password`.
    ///
    /// ```
    /// use lockkit_redis::RedisConfig;
    ///
    /// let config = RedisConfig::from_url("redis://billing:hunter2@redis-1/3?prefix=app:")?;
    /// assert!(!format!("{config:?}").contains("hunter2"));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the URL, with what to write instead; no error repeats a password.
    pub fn from_url(url: &str) -> Result<Self> {
        Url::parse(url)?.try_into()
    }

    /// A server at this host and port; Redis's own port is 6379.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::of(Server::Tcp(host.into(), port))
    }

    /// A server at this socket of the same machine.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::of(Server::Unix(path.into()))
    }

    const fn of(server: Server) -> Self {
        Self {
            server,
            tls: None,
            username: None,
            password: None,
            database: 0,
            prefix: String::new(),
            token_base: 0,
        }
    }

    /// Speaks TLS, which needs the feature `tls`. Each new connection reads the files again.
    ///
    /// ```
    /// use lockkit_redis::{RedisConfig, RedisTls};
    ///
    /// let tls = RedisTls::file("/etc/tls/ca.pem")
    ///     .client_files("/etc/tls/client.pem", "/etc/tls/client.key");
    /// let config = RedisConfig::tcp("redis-1", 6380).tls(tls);
    /// # drop(config);
    /// ```
    #[must_use]
    pub fn tls(mut self, tls: RedisTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in as this user of the server's access list.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Logs in with this password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The number of the database; 0 unless set here.
    #[must_use]
    pub const fn database(mut self, number: u32) -> Self {
        self.database = number as i64;
        self
    }

    /// What every key begins with; nothing unless set here, so that a lock's key is its name, as
    /// for other clients of the field.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// What is added to the server's tokens; 0 unless set here.
    ///
    /// They begin near the microseconds since 1970, about 1.8 · 10¹⁵, and stay below 2⁵³: a base
    /// above 2⁶³ - 2⁵³ - 1 is refused when connecting.
    #[must_use]
    pub const fn token_base(mut self, base: u64) -> Self {
        self.token_base = base;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        check(
            !self.prefix.contains(['{', '}']),
            "a prefix with braces",
            "leave { and } out: Redis Cluster takes them for a hash tag",
        )?;
        check(
            self.token_base <= LARGEST_BASE,
            format!("the token_base {}", self.token_base),
            &format!("give at most {LARGEST_BASE}: Redis adds its clock to it"),
        )?;
        let Some(tls) = &self.tls else { return Ok(()) };
        let is_remote = matches!(self.server, Server::Tcp(..));
        check(is_remote, "TLS on a unix socket", "leave TLS out: the socket is local")?;
        tls.check(cfg!(feature = "tls"))
    }
}

/// Errors as [`RedisConfig::from_url`].
impl TryFrom<Url> for RedisConfig {
    type Error = Error;

    fn try_from(mut url: Url) -> Result<Self> {
        url.expect_scheme(&["redis", "rediss", "redis+unix"])?;
        let (config, known): (_, &[_]) = match url.scheme() {
            "redis+unix" => (unix(&mut url)?, &["prefix", "database", "username", "password"]),
            "redis" => (tcp(&url)?, &["prefix"]),
            _ => {
                let tls = url.take_tls()?.unwrap_or_default();
                (tcp(&url)?.tls(tls), &["prefix", "ca", "cert", "key"])
            }
        };
        let prefix = url.take("prefix").unwrap_or_default();
        let config = config.prefix(prefix).token_base(url.take_token_base()?);
        url.finish(known)?;
        Ok(config)
    }
}

fn unix(url: &mut Url) -> Result<RedisConfig> {
    let path = url.path()?;
    let path = path.strip_prefix("//").unwrap_or(&path);
    check(
        path.starts_with('/') && !path.contains('\0'),
        "a redis+unix: URL without the path of a socket",
        "write redis+unix:///path/to/redis.sock",
    )?;
    let mut config = RedisConfig::unix(path);
    if let Some(number) = url.take("database") {
        config = config.database(parse_database(&number)?);
    }
    config.username = url.take("username");
    config.password = url.take("password");
    Ok(config)
}

fn tcp(url: &Url) -> Result<RedisConfig> {
    let servers = url.servers(SHAPE)?;
    let [(host, port)] = &*servers.hosts else {
        return Err(Error::invalid(
            "a redis: URL with several hosts",
            format!("write {SHAPE}: the locks of one provider lie on one server"),
        ));
    };
    let mut config = RedisConfig::tcp(host, port.unwrap_or(PORT));
    if let Some((user, password)) = servers.login {
        config.username = Some(user).filter(|user| !user.is_empty());
        config.password = password;
    }
    match servers.path.trim_start_matches('/') {
        "" => Ok(config),
        number => Ok(config.database(parse_database(number)?)),
    }
}

fn parse_database(text: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        Error::invalid(format!("the database {text:?}"), "give its number, for example 0")
    })
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("server", &self.server)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "..."))
            .field("database", &self.database)
            .field("prefix", &self.prefix)
            .field("token_base", &self.token_base)
            .finish()
    }
}
