//! `redis:`, `rediss:` and `redis+unix:`.

use lockkit_core::{Builder, Error, Locks, Result};
use lockkit_redis::{RedisConfig, RedisProvider, RedisTls};
use url::Url;

use super::address::{Address, Options, decode};

/// Redis's own port.
const PORT: u16 = 6379;

pub(super) async fn connect(scheme: &str, rest: &str, builder: Builder) -> Result<Locks> {
    let (config, mut options, more) = match scheme {
        "redis+unix" => unix(rest)?,
        _ => tcp(scheme, rest)?,
    };
    let config = match options.take("prefix") {
        Some(prefix) => config.prefix(prefix),
        None => config,
    };
    let (builder, token_base) = options.apply(builder, more)?;
    let provider = RedisProvider::connect(config.token_base(token_base)).await?;
    Ok(builder.build(provider))
}

fn unix(rest: &str) -> Result<(RedisConfig, Options, &'static str)> {
    let Address { path, mut options } = Address::parse(rest)?;
    let path = path.strip_prefix("//").unwrap_or(&path);
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(
            "a redis+unix: URL without the path of a socket",
            "write redis+unix:///path/to/redis.sock",
        ));
    }
    let mut config = RedisConfig::unix(path);
    if let Some(number) = options.take("database") {
        config = config.database(parse_database(&number)?);
    }
    if let Some(username) = options.take("username") {
        config = config.username(username);
    }
    if let Some(password) = options.take("password") {
        config = config.password(password);
    }
    Ok((config, options, ", prefix, database, username, password"))
}

fn tcp(scheme: &str, rest: &str) -> Result<(RedisConfig, Options, &'static str)> {
    // The parser's own words never repeat the URL, so no password either.
    let url = Url::parse(&format!("{scheme}:{rest}")).map_err(|error| shape(&error.to_string()))?;
    if url.fragment().is_some() {
        return Err(Error::invalid("a URL with a #", "write it as %23, or leave it out"));
    }
    let mut options = Options::parse(url.query().unwrap_or_default())?;
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| shape("it names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut config = RedisConfig::tcp(host, url.port().unwrap_or(PORT));
    if !url.username().is_empty() {
        config = config.username(decode(url.username()).ok_or_else(login)?);
    }
    if let Some(password) = url.password() {
        config = config.password(decode(password).ok_or_else(login)?);
    }
    match url.path().trim_start_matches('/') {
        "" => {}
        number => config = config.database(parse_database(number)?),
    }
    if scheme == "redis" {
        return Ok((config, options, ", prefix"));
    }
    let mut tls = RedisTls::default();
    (tls.authority, tls.client) = options.certificates()?;
    Ok((config.tls(tls), options, ", prefix, ca, cert, key"))
}

fn shape(why: &str) -> Error {
    Error::invalid(
        format!("a redis: URL that cannot be read ({why})"),
        "write redis://[user[:password]@]host[:port][/database], with special characters as %XX",
    )
}

fn login() -> Error {
    shape("the login is not percent-encoded UTF-8")
}

fn parse_database(text: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        Error::invalid(format!("the database {text:?}"), "give its number, for example 0")
    })
}
