//! Where the cluster is, and how to speak to it.

use std::fmt;

use etcd_client::ConnectOptions;
use lockkit_core::kit::{Tls as EtcdTls, Url, check};
use lockkit_core::{Error, Result};

use crate::mark::MOST_BASE;

/// etcd's own port for clients.
const PORT: u16 = 2379;
const SHAPE: &str = "etcd://[user:password@]host[:port][,host[:port]...][/prefix]";

/// Where the members of a cluster are, the login there, and the prefix of the locks.
///
/// Its `Debug` shows no password and no private part of a certificate.
#[derive(Clone)]
#[non_exhaustive]
pub struct EtcdConfig {
    pub(crate) endpoints: Vec<(String, u16)>,
    pub(crate) tls: Option<EtcdTls>,
    pub(crate) login: Option<(String, String)>,
    pub(crate) prefix: String,
    pub(crate) token_base: u64,
}

impl EtcdConfig {
    /// The cluster that this URL names: `etcd://[user:password@]host[:port][,host[:port]...][/prefix]`, or
    /// the same with `etcds:` over TLS.
    ///
    /// Its option is `token_base`, and over TLS the paths `ca`, `cert` and `key`.
    ///
    /// ```
    /// use lockkit_etcd::EtcdConfig;
    ///
    /// let config = EtcdConfig::from_url("etcd://billing:hunter2@etcd-1,etcd-2:2380/billing")?;
    /// assert!(!format!("{config:?}").contains("hunter2"));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the URL, with what to write instead; no error repeats a password.
    pub fn from_url(url: &str) -> Result<Self> {
        Url::parse(url)?.try_into()
    }

    /// One member or several of one cluster, each at its host and client port; etcd's own port is
    /// 2379.
    pub fn new<H: Into<String>>(endpoints: impl IntoIterator<Item = (H, u16)>) -> Self {
        let endpoints = endpoints.into_iter().map(|(host, port)| (host.into(), port)).collect();
        Self { endpoints, tls: None, login: None, prefix: "lockkit".to_owned(), token_base: 0 }
    }

    /// Speaks TLS, which needs the feature `tls`. Each new connection reads the files again.
    ///
    /// With users enabled, the common name of our own certificate is a login.
    ///
    /// ```
    /// use lockkit_etcd::{EtcdConfig, EtcdTls};
    ///
    /// let tls = EtcdTls::file("/etc/tls/ca.pem")
    ///     .client_files("/etc/tls/client.pem", "/etc/tls/client.key");
    /// let config = EtcdConfig::new([("etcd-1", 2379)]).tls(tls);
    /// # drop(config);
    /// ```
    #[must_use]
    pub fn tls(mut self, tls: EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in as this user.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// What every key begins with, before a slash; `lockkit` unless set here. A lock's key is below
    /// `<prefix>/<name>/`, so `etcdctl lock <prefix>/<name>` takes the same lock.
    ///
    /// Applications with prefixes of their own share no names.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// What is added to the cluster's revisions, which are the tokens, at most 2^62, where the store's own
    /// base is less. 0 unless set here.
    ///
    /// The first client of all gives the store its base, so that tokens begin at the time in microseconds.
    #[must_use]
    pub const fn token_base(mut self, base: u64) -> Self {
        self.token_base = base;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        check(
            !self.endpoints.is_empty(),
            "an etcd cluster without endpoints",
            "give the host and the port of one member at least",
        )?;
        for (host, _) in &self.endpoints {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
            check(
                !host.is_empty() && host.chars().all(is_plain),
                format!("the host {host:?}"),
                "give a host's name or address without scheme, port and slashes",
            )?;
        }
        check(
            self.token_base <= MOST_BASE,
            format!("a token_base of {}", self.token_base),
            &format!("give {MOST_BASE} at most: the cluster's revisions are added to it"),
        )?;
        self.tls.as_ref().map_or(Ok(()), |tls| tls.check(cfg!(feature = "tls")))
    }

    /// The driver's address of a member.
    pub(crate) fn url(&self, (host, port): &(String, u16)) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let is_v6 = host.contains(':');
        if is_v6 {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }

    /// How the driver shall connect, with the certificates that are on the disk now.
    pub(crate) fn options(&self) -> Result<ConnectOptions> {
        // A member without a leader answers at once, and its watches end, instead of standing still.
        let mut options = ConnectOptions::new().with_require_leader(true);
        if let Some((user, password)) = &self.login {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(options.with_tls(tls_options(tls)?));
        }
        Ok(options)
    }
}

#[cfg(feature = "tls")]
fn tls_options(tls: &EtcdTls) -> Result<etcd_client::TlsOptions> {
    use etcd_client::{Certificate, Identity, TlsOptions};

    let (authority, client) = tls.read()?;
    let options = match authority {
        Some(authority) => TlsOptions::new().ca_certificate(Certificate::from_pem(authority)),
        None => TlsOptions::new().with_native_roots(),
    };
    Ok(match client {
        Some((certificate, key)) => options.identity(Identity::from_pem(certificate, key)),
        None => options,
    })
}

/// Errors as [`EtcdConfig::from_url`].
impl TryFrom<Url> for EtcdConfig {
    type Error = Error;

    fn try_from(mut url: Url) -> Result<Self> {
        url.expect_scheme(&["etcd", "etcds"])?;
        let servers = url.servers(SHAPE)?;
        let hosts = servers.hosts.into_iter();
        let mut config = Self::new(hosts.map(|(host, port)| (host, port.unwrap_or(PORT))));
        if let Some((user, password)) = servers.login {
            config = config.login(user, password.unwrap_or_default());
        }
        if !servers.path.is_empty() {
            config = config.prefix(servers.path);
        }
        let mut known: &[_] = &[];
        if url.scheme() == "etcds" {
            config = config.tls(url.take_tls()?.unwrap_or_default());
            known = &["ca", "cert", "key"];
        }
        config = config.token_base(url.take_token_base()?);
        url.finish(known)?;
        Ok(config)
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("password", &self.login.as_ref().map(|_| "..."))
            .field("prefix", &self.prefix)
            .field("token_base", &self.token_base)
            .finish()
    }
}
