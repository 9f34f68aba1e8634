//! `etcd:` and `etcds:`.

use lockkit_core::{Builder, Error, Locks, Result};
use lockkit_etcd::{EtcdConfig, EtcdProvider, EtcdTls};

use super::address::{Options, decode};

/// etcd's own port for clients.
const PORT: u16 = 2379;

pub(super) async fn connect(scheme: &str, rest: &str, builder: Builder) -> Result<Locks> {
    let (mut config, mut options) = parse(rest)?;
    let mut more = "";
    if scheme == "etcds" {
        let mut tls = EtcdTls::default();
        (tls.authority, tls.client) = options.certificates()?;
        config = config.tls(tls);
        more = ", ca, cert, key";
    }
    let (builder, token_base) = options.apply(builder, more)?;
    let provider = EtcdProvider::connect(config.token_base(token_base)).await?;
    Ok(builder.build(provider))
}

/// `//[user:password@]host[:port],.../prefix?options`: no URL has several hosts, so by hand.
fn parse(rest: &str) -> Result<(EtcdConfig, Options)> {
    if rest.contains('#') {
        return Err(Error::invalid("a URL with a #", "write it as %23, or leave it out"));
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let options = Options::parse(query)?;
    let address = address.strip_prefix("//").ok_or_else(|| shape("it names no host"))?;
    let (authority, prefix) = address.split_once('/').unwrap_or((address, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let mut config = EtcdConfig::new(hosts.split(',').map(host).collect::<Result<Vec<_>>>()?);
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let decoded = |text| decode(text).ok_or_else(|| shape("the login is not percent-encoded"));
        config = config.login(decoded(user)?, decoded(password)?);
    }
    if !prefix.is_empty() {
        let prefix = decode(prefix).ok_or_else(|| shape("the prefix is not percent-encoded"))?;
        config = config.prefix(prefix);
    }
    Ok((config, options))
}

/// A host with its port, or without; an address of version 6 stands in brackets.
fn host(text: &str) -> Result<(String, u16)> {
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
        return Err(shape("it names no host"));
    }
    let port = port.map_or(Ok(PORT), str::parse);
    Ok((name.to_owned(), port.map_err(|_| shape("a port is not a number"))?))
}

/// It never repeats the URL, so no password either.
fn shape(why: &str) -> Error {
    Error::invalid(
        format!("an etcd: URL that cannot be read ({why})"),
        "write etcd://[user:password@]host[:port][,host[:port]...][/prefix], with special \
         characters as %XX",
    )
}
