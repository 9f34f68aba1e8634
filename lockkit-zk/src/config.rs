//! Where the servers are, who we are there, and how our locks look to others.

use std::fmt;
use std::time::Duration;

use lockkit_core::kit::{Tls as ZkTls, Url, check};
use lockkit_core::{Error, Result};

/// ZooKeeper's own port.
const PORT: u16 = 2181;
const SHAPE: &str = "zk://[user:password@]host[:port][,host[:port]...][/base]";
/// Where locks lie unless the configuration says otherwise.
const BASE: &str = "/lockkit";
/// ZooKeeper's own `tickTime`.
const TICK: Duration = Duration::from_secs(2);

/// Where the servers are, who we are there, and how our locks look to others.
///
/// Its `Debug` shows no password, nor a hash of one, and no private part of a certificate.
#[derive(Clone)]
#[non_exhaustive]
pub struct ZkConfig {
    pub(crate) servers: Vec<String>,
    pub(crate) base: String,
    pub(crate) layout: Layout,
    pub(crate) tick: Duration,
    pub(crate) tls: Option<ZkTls>,
    pub(crate) logins: Vec<(String, Vec<u8>)>,
    pub(crate) access: Access,
    pub(crate) token_base: u64,
}

/// Which other clients of the field our locks exclude, and are excluded by.
///
/// Nodes of both forms count as contenders under every layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Curator's `InterProcessMutex`, and kazoo's `Lock` with the extra pattern `-lock-`.
    #[default]
    Curator,
    /// Stock kazoo's `Lock`.
    Kazoo,
    /// Both of them, for one more round trip.
    Both,
}

/// Who may read and delete the nodes that we create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Every client.
    #[default]
    Open,
    /// Clients with one of the logins of the client that created them.
    Creator,
    /// These alone.
    Only(Vec<Right>),
}

/// What one identity may do with our nodes.
///
/// Its `Debug` does not show the identity: the scheme `digest` puts a password's hash there.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Right {
    /// The scheme of the identity, such as `digest`, `x509`, `ip` or `world`.
    pub scheme: String,
    /// The identity, as the scheme writes it.
    pub id: String,
    /// Some of the letters `cdrwa`: create, delete, read, write, administer.
    pub permissions: String,
}

impl Right {
    /// What this identity of the scheme may do, as some of the letters `cdrwa`.
    pub fn new(
        scheme: impl Into<String>,
        id: impl Into<String>,
        permissions: impl Into<String>,
    ) -> Self {
        Self { scheme: scheme.into(), id: id.into(), permissions: permissions.into() }
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Right")
            .field("scheme", &self.scheme)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

impl ZkConfig {
    /// The ensemble that this URL names: `zk://[user:password@]host[:port][,host[:port]...][/base]`, with
    /// the scheme `zk:` or `zookeeper:`.
    ///
    /// Its options are `layout` (`curator`, `kazoo`, `both`), `access` (`open`, `creator`), `tick` (a time
    /// with its unit), `token_base`, and for TLS the paths `ca`, `cert` and `key`.
    ///
    /// ```
    /// use lockkit_zk::ZkConfig;
    ///
    /// let config = ZkConfig::from_url("zk://billing:hunter2@zk-1,zk-2/locks?tick=2s")?;
    /// assert!(!format!("{config:?}").contains("hunter2"));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the URL, with what to write instead; no error repeats a password.
    pub fn from_url(url: &str) -> Result<Self> {
        Url::parse(url)?.try_into()
    }

    /// The servers of one ensemble, each as `host` or `host:port`; ZooKeeper's own port is 2181.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            base: BASE.to_owned(),
            layout: Layout::default(),
            tick: TICK,
            tls: None,
            logins: Vec::new(),
            access: Access::default(),
            token_base: 0,
        }
    }

    /// The node that locks lie below, one level deep; `/lockkit` unless set here.
    ///
    /// Other clients' chroot and the path of a lock's parent make one path here.
    #[must_use]
    pub fn base(mut self, path: impl Into<String>) -> Self {
        self.base = path.into();
        self
    }

    /// Which other clients are excluded; Curator's unless set here.
    #[must_use]
    pub const fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The servers' `tickTime`; 2 s, ZooKeeper's own default, unless set here.
    ///
    /// Clients cannot ask for it. Deadlines keep away from the session's end by it, so it must not
    /// be less than the servers' own; more is safe.
    #[must_use]
    pub const fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Speaks TLS, which needs the feature `tls`. Each new connection reads the files again, also those
    /// that reopen a session. The authority must be given.
    ///
    /// ```
    /// use lockkit_zk::{ZkConfig, ZkTls};
    ///
    /// let tls = ZkTls::file("/etc/tls/ca.pem")
    ///     .client_files("/etc/tls/client.pem", "/etc/tls/client.key");
    /// let config = ZkConfig::new(["zk1:2281"]).tls(tls);
    /// # drop(config);
    /// ```
    #[must_use]
    pub fn tls(mut self, tls: ZkTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in by the scheme `digest`; may be repeated for several identities.
    #[must_use]
    pub fn digest(self, user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        let login = format!("{}:{}", user.as_ref(), password.as_ref());
        self.login("digest", login)
    }

    /// Logs in by another scheme, with what it takes.
    #[must_use]
    pub fn login(mut self, scheme: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        self.logins.push((scheme.into(), secret.into()));
        self
    }

    /// Who may read and delete our nodes; every client unless set here.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// What this client adds to the store's tokens; 0 unless set here. All clients must add the same.
    ///
    /// The store's tokens begin at the microseconds since 1970 where the base is new, and are the servers'
    /// transaction numbers where it was in use before there was a base of the tokens.
    #[must_use]
    pub const fn token_base(mut self, base: u64) -> Self {
        self.token_base = base;
        self
    }

    /// Each server as `host:port`, as the driver takes them.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let with_port = |server: &String| {
            let after_host = server.rsplit(']').next().unwrap_or_default();
            if after_host.contains(':') { server.clone() } else { format!("{server}:{PORT}") }
        };
        self.servers.iter().map(with_port).collect()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.check_servers()?;
        let element = |element: &str| {
            !matches!(element, "" | "." | "..") && !element.chars().any(char::is_control)
        };
        check(
            self.base.strip_prefix('/').is_some_and(|path| path.split('/').all(element))
                && self.base != "/zookeeper"
                && !self.base.starts_with("/zookeeper/"),
            format!("the base {:?}", self.base),
            "give a path such as /locks, below which the locks lie",
        )?;
        check(
            (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.tick),
            format!("a tick of {:?}", self.tick),
            "give the servers' tickTime, for example 2s",
        )?;
        self.check_access()?;
        let Some(tls) = &self.tls else { return Ok(()) };
        tls.check(cfg!(feature = "tls"))?;
        let remedy =
            "give ca for TLS, and cert and key with it where the servers ask for a certificate";
        check(tls.authority.is_some(), "TLS without an authority", remedy)
    }

    fn check_servers(&self) -> Result<()> {
        let is_good = |server: &String| {
            let plain = |c: char| c.is_alphanumeric() || "-._:[]%".contains(c);
            !server.is_empty() && server.chars().all(plain)
        };
        check(
            !self.servers.is_empty() && self.servers.iter().all(is_good),
            "the list of servers",
            "name at least one server, each as host or host:port",
        )?;
        self.addresses().iter().try_for_each(|address| {
            let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
            let remedy = "write it as host or host:port, an IPv6 address in brackets";
            check(port.is_some_and(|port| port > 0), format!("the server {address}"), remedy)
        })
    }

    fn check_access(&self) -> Result<()> {
        let letters = |right: &Right| right.permissions.chars().all(|c| "cdrwa".contains(c));
        match &self.access {
            Access::Open => Ok(()),
            Access::Creator => check(
                !self.logins.is_empty() || self.tls.is_some(),
                "access for the creator alone, without a login",
                "give a login, or open access",
            ),
            Access::Only(rights) => check(
                !rights.is_empty() && rights.iter().all(letters),
                "the rights to our nodes",
                "give at least one, with permissions of the letters cdrwa",
            ),
        }
    }
}

/// Errors as [`ZkConfig::from_url`].
impl TryFrom<Url> for ZkConfig {
    type Error = Error;

    fn try_from(mut url: Url) -> Result<Self> {
        url.expect_scheme(&["zk", "zookeeper"])?;
        let servers = url.servers(SHAPE)?;
        let mut config = Self::new(servers.hosts.into_iter().map(|(host, port)| {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            format!("{host}:{}", port.unwrap_or(PORT))
        }));
        if let Some((user, password)) = servers.login {
            config = config.digest(user, password.unwrap_or_default());
        }
        if !servers.path.is_empty() {
            config = config.base(format!("/{}", servers.path));
        }
        let remedy = "write curator, kazoo or both";
        let layout = url.take_parsed("layout", remedy, |value| match value {
            "curator" => Some(Layout::Curator),
            "kazoo" => Some(Layout::Kazoo),
            "both" => Some(Layout::Both),
            _ => None,
        })?;
        let access = url.take_parsed("access", "write open or creator", |value| match value {
            "open" => Some(Access::Open),
            "creator" => Some(Access::Creator),
            _ => None,
        })?;
        let remedy = "write the servers' tickTime with its unit, as 2s or 500ms";
        let tick = url.take_time("tick", remedy)?;
        config = config
            .layout(layout.unwrap_or_default())
            .access(access.unwrap_or_default())
            .tick(tick.unwrap_or(TICK))
            .token_base(url.take_token_base()?);
        config.tls = url.take_tls()?;
        url.finish(&["layout", "tick", "access", "ca", "cert", "key"])?;
        Ok(config)
    }
}

impl fmt::Debug for ZkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schemes: Vec<_> = self.logins.iter().map(|(scheme, _)| scheme).collect();
        f.debug_struct("ZkConfig")
            .field("servers", &self.servers)
            .field("base", &self.base)
            .field("layout", &self.layout)
            .field("tick", &self.tick)
            .field("tls", &self.tls)
            .field("logins", &schemes)
            .field("access", &self.access)
            .field("token_base", &self.token_base)
            .finish()
    }
}
