//! `zk:` and `zookeeper:`.

use std::time::Duration;

use lockkit_core::{Builder, Error, Locks, Result};
use lockkit_zk::{Access, Layout, ZkConfig, ZkProvider, ZkTls};
use percent_encoding::percent_decode_str;

use super::address::{Address, Options, pem};

pub(super) async fn connect(rest: &str, builder: Builder) -> Result<Locks> {
    let (config, options) = parse(rest)?;
    let more = ", layout, tick, access, ca, cert, key";
    let (builder, token_base) = options.apply(builder, more)?;
    Ok(builder.build(ZkProvider::connect(config.token_base(token_base)).await?))
}

fn parse(rest: &str) -> Result<(ZkConfig, Options)> {
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let before = before.strip_prefix("//").ok_or_else(|| shape("it names no server"))?;
    let (authority, path) = before.split_at(before.find('/').unwrap_or(before.len()));
    let (login, servers) = match authority.rsplit_once('@') {
        Some((login, servers)) => (Some(login), servers),
        None => (None, authority),
    };
    let mut config = ZkConfig::new(servers.split(','));
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        config = config.digest(decode(user)?, decode(password)?);
    }
    let Address { path, mut options } = Address::parse(&format!("{path}?{query}"))?;
    if !matches!(&*path, "" | "/") {
        config = config.base(path);
    }
    if let Some(layout) = options.take("layout") {
        config = config.layout(match &*layout {
            "curator" => Layout::Curator,
            "kazoo" => Layout::Kazoo,
            "both" => Layout::Both,
            _ => return Err(unknown("layout", &layout, "curator, kazoo or both")),
        });
    }
    if let Some(access) = options.take("access") {
        config = config.access(match &*access {
            "open" => Access::Open,
            "creator" => Access::Creator,
            _ => return Err(unknown("access", &access, "open or creator")),
        });
    }
    if let Some(tick) = options.take("tick") {
        let parsed: Option<Duration> = humantime::parse_duration(&tick).ok();
        config = config.tick(parsed.ok_or_else(|| {
            unknown("tick", &tick, "the servers' tickTime with its unit, as 2s or 500ms")
        })?);
    }
    Ok((with_tls(config, &mut options)?, options))
}

fn with_tls(config: ZkConfig, options: &mut Options) -> Result<ZkConfig> {
    let mut text = |option| {
        let file = options.take(option).map(|path| pem(option, &path)).transpose()?;
        Ok::<_, Error>(file.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    match (text("ca")?, text("cert")?, text("key")?) {
        (None, None, None) => Ok(config),
        (Some(authority), None, None) => Ok(config.tls(ZkTls::new(authority))),
        (Some(authority), Some(cert), Some(key)) => {
            Ok(config.tls(ZkTls::new(authority).client(cert, key)))
        }
        _ => Err(Error::invalid(
            "only some of the options ca, cert and key",
            "give ca for TLS, and cert and key with it where the servers ask for a certificate",
        )),
    }
}

fn unknown(option: &str, value: &str, known: &str) -> Error {
    Error::invalid(format!("{option}={value}"), format!("write {known}"))
}

fn shape(why: &str) -> Error {
    Error::invalid(
        format!("a zk: URL that cannot be read ({why})"),
        "write zk://[user:password@]host[:port][,host[:port]...][/base], with special characters \
         as %XX",
    )
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| shape("the login is not percent-encoded UTF-8"))
}
