//! Where the server is, how to speak to it, and which of its primitives to use.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lockkit_core::kit::{Url, check};
use lockkit_core::{Error, LockName, Result};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::protocol::GROUP;

/// The schema of our tables and functions unless the configuration says otherwise.
pub(crate) const SCHEMA: &str = "lockkit";
/// The longest ttl that the table grants without a flush, unless the configuration says otherwise.
const BARRIER: Duration = Duration::from_secs(60);
const SHAPE: &str = "postgres://[user[:password]@]host[:port][/database]";
/// What a URL may say of the locks; `ttl` and `token_base` are every store's.
const OWN_OPTIONS: [&str; 7] =
    ["strategy", "schema", "connections", "barrier", "budget", "creates", "key"];

/// What the connection takes from a URL's options; the driver would only warn of others.
const CONNECTION_OPTIONS: [&str; 16] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// Where the server is, who we are there, and where our locks lie.
///
/// Its `Debug` shows no password.
///
/// ```
/// use lockkit_postgres::{PostgresConfig, Strategy};
///
/// let config = PostgresConfig::from_url("postgres://app:secret@db.internal/app")?
///     .strategy(Strategy::Advisory)
///     .schema("app_locks")
///     .connections(12)
///     .budget(5_000)
///     // The same as `SELECT pg_advisory_lock(42)` of another program.
///     .key("billing".parse()?, 42)
///     // An administrator has run what `setup_sql` prints.
///     .creates(false)
///     .token_base(1_000_000);
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), lockkit_core::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresConfig {
    pub(crate) options: PgConnectOptions,
    /// Whether the URL or the environment gives one.
    pub(crate) has_password: bool,
    pub(crate) strategy: Strategy,
    pub(crate) schema: String,
    pub(crate) connections: usize,
    pub(crate) budget: Option<usize>,
    pub(crate) keys: HashMap<LockName, i64>,
    pub(crate) creates: bool,
    pub(crate) barrier: Duration,
    pub(crate) token_base: u64,
}

/// Which of the server's primitives the locks rest on; the page `docs/postgres.md` compares them.
///
/// The locks of the two know nothing of each other: all clients of a name use the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Session-level advisory locks, whose session the server ends when it is not heard of for a ttl: for programs
    /// that must exclude `pg_advisory_lock`, and can bear that two holders believe for a moment when a session ends.
    Advisory,
    /// A row for each name, with an expiry.
    #[default]
    Table,
}

impl PostgresConfig {
    /// The server that the environment names (`PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`,
    /// `PGDATABASE`, `PGSSLMODE` and their like), else the one at `localhost:5432`.
    ///
    /// # Errors
    /// As [`from_url`](Self::from_url).
    pub fn from_environment() -> Result<Self> {
        Self::from_url("postgres:")
    }

    /// The server that this URL names: `postgres://[user[:password]@]host[:port][/database]`, with
    /// the scheme `postgres:` or `postgresql:`. What it leaves out comes from the environment.
    ///
    /// Its options are `strategy` (`advisory`, `table`), `schema`, `connections`, `barrier` (`30s`), `budget`,
    /// `creates` (`true`, `false`), `key` (`billing:42,reports:-7`), `token_base`, and the parameters of libpq that sqlx knows, such as `sslmode` and
    /// `sslrootcert`.
    ///
    /// # Errors
    /// `Invalid`: the URL; no error repeats it.
    pub fn from_url(url: &str) -> Result<Self> {
        Url::parse(url)?.try_into()
    }

    fn of((options, has_password): (PgConnectOptions, bool)) -> Self {
        Self {
            options,
            has_password,
            strategy: Strategy::default(),
            schema: SCHEMA.to_owned(),
            connections: 8,
            budget: None,
            keys: HashMap::new(),
            creates: true,
            barrier: BARRIER,
            token_base: 0,
        }
    }

    /// Which of the server's primitives to use; [`Strategy::Table`] unless set here.
    #[must_use]
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// The schema of our tables and functions; `lockkit` unless set here.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// How many connections there may be at once, without the one for wake-ups; 8 unless set here.
    ///
    /// One that is given up in the midst of a statement is closed at our side when another one needs
    /// its room; the server notices within a second.
    #[must_use]
    pub const fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// How many advisory locks there may be on the server, ours and others', before we take no
    /// more; unless set here, a quarter of what its lock table is made for.
    ///
    /// A full lock table locks everybody out of the whole cluster.
    #[must_use]
    pub const fn budget(mut self, locks: usize) -> Self {
        self.budget = Some(locks);
        self
    }

    /// Locks this name by this key instead of the one that is derived from it, under the strategy
    /// [`Strategy::Advisory`]: it then excludes every client that calls `pg_advisory_lock` with that key.
    /// Upholds C3 only as far as no two names are given one key.
    #[must_use]
    pub fn key(mut self, name: LockName, key: i64) -> Self {
        self.keys.insert(name, key);
        self
    }

    /// Whether our tables and functions are created where they are missing; they are unless set
    /// here.
    #[must_use]
    pub const fn creates(mut self, creates: bool) -> Self {
        self.creates = creates;
        self
    }

    /// The longest ttl that the strategy [`Strategy::Table`] grants without waiting for the server's disk;
    /// 60 s unless set here.
    ///
    /// A crash of the server may lose such grants, so after one, and after the promotion of a standby,
    /// nothing is granted for as long as the longest of them: for at most this long. Grants with a longer
    /// ttl are flushed.
    #[must_use]
    pub const fn barrier(mut self, longest: Duration) -> Self {
        self.barrier = longest;
        self
    }

    /// What is added to the server's tokens; 0 unless set here. It upholds C4 where the locks move
    /// here from a store whose tokens were greater.
    #[must_use]
    pub const fn token_base(mut self, base: u64) -> Self {
        self.token_base = base;
        self
    }

    /// The SQL that makes our tables and functions, for a role that may; it may be run again, and
    /// by several clients at once.
    ///
    /// Under the strategy [`Strategy::Advisory`] it also makes the schema `lockkit`, whose one counter gives the
    /// tokens of the whole database.
    ///
    /// ```
    /// use lockkit_postgres::PostgresConfig;
    ///
    /// let config = PostgresConfig::from_url("postgres://localhost/app")?.schema("app_locks");
    /// assert!(config.setup_sql().contains("CREATE SCHEMA IF NOT EXISTS app_locks"));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    #[must_use]
    pub fn setup_sql(&self) -> String {
        self.sql(include_str!("sql/setup.sql"))
    }

    /// The SQL that takes what an older version made to what this version needs, for a role that owns our
    /// tables; older programs are refused from then on.
    ///
    /// Under the strategy [`Strategy::Table`] it goes from layout 1, of lockkit up to commit d389840, to layout 2.
    /// Under [`Strategy::Advisory`] it adds what older versions lack, and joins the counter of tokens of a schema other
    /// than `lockkit` to the one of the database.
    ///
    /// ```
    /// use lockkit_postgres::PostgresConfig;
    ///
    /// let config = PostgresConfig::from_url("postgres://localhost/app")?;
    /// assert!(config.migration_sql().contains("ALTER TABLE lockkit.lease RENAME TO lease_1"));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    #[must_use]
    pub fn migration_sql(&self) -> String {
        self.sql(match self.strategy {
            Strategy::Table => include_str!("sql/migrate_1_to_2.sql"),
            Strategy::Advisory => include_str!("sql/migrate_advisory.sql"),
        })
    }

    fn sql(&self, script: &str) -> String {
        // A schema of the table alone needs no other one.
        let has_counter = self.strategy == Strategy::Advisory || self.schema == SCHEMA;
        let advisory = if has_counter { include_str!("sql/advisory.sql") } else { "" };
        let script = script.replace("%table%", include_str!("sql/table.sql"));
        let script = script.replace("%member%", include_str!("sql/member.sql"));
        let script = script.replace("%group%", GROUP);
        script.replace('@', &self.schema).replace("%advisory%", advisory)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins_well = self.schema.chars().next().is_some_and(|c| !c.is_ascii_digit());
        check(
            self.schema.len() <= 63 && begins_well && self.schema.chars().all(is_plain),
            format!("the schema {:?}", self.schema),
            "give a name of at most 63 lower-case letters, digits and _, not beginning with a digit",
        )?;
        let mode = self.options.get_ssl_mode();
        let is_optional = matches!(mode, PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
        check(
            cfg!(feature = "tls") || is_optional,
            format!("sslmode {mode:?} in a program that was built without TLS"),
            "build with the feature `tls` of lockkit (of lockkit-postgres)",
        )?;
        check(
            self.connections >= 3,
            format!("{} connections", self.connections),
            "allow at least 3: to hold, to wait, and to clean up",
        )
    }
}

/// Errors as [`PostgresConfig::from_url`].
impl TryFrom<Url> for PostgresConfig {
    type Error = Error;

    fn try_from(mut url: Url) -> Result<Self> {
        url.expect_scheme(&["postgres", "postgresql"])?;
        let mut config = Self::of(connect_options(&mut url)?);
        let strategy =
            url.take_parsed("strategy", "give advisory or table", |value| match value {
                "advisory" => Some(Strategy::Advisory),
                "table" => Some(Strategy::Table),
                _ => None,
            })?;
        config.strategy = strategy.unwrap_or_default();
        config.schema = url.take("schema").unwrap_or(config.schema);
        let number = |value: &str| value.parse().ok();
        let connections = url.take_parsed("connections", "give a whole number", number)?;
        config.connections = connections.unwrap_or(config.connections);
        let barrier = url.take_time("barrier", "give a time as 30s or 500ms")?;
        config.barrier = barrier.unwrap_or(config.barrier);
        config.budget = url.take_parsed("budget", "give a whole number", number)?;
        let creates =
            url.take_parsed("creates", "give true or false", |value| value.parse().ok())?;
        config.creates = creates.unwrap_or(config.creates);
        let remedy = "give name:number, several of them with a comma between, and no name twice";
        config.keys = url.take_parsed("key", remedy, keys)?.unwrap_or_default();
        config.token_base = url.take_token_base()?;
        url.finish(&[&OWN_OPTIONS[..], &CONNECTION_OPTIONS].concat())?;
        Ok(config)
    }
}

/// The names and keys of `a:1,b:-2`; a name may have colons.
fn keys(text: &str) -> Option<HashMap<LockName, i64>> {
    let mut keys = HashMap::new();
    for pair in text.split(',') {
        let (name, key) = pair.rsplit_once(':').filter(|(name, _)| !name.is_empty())?;
        let is_first = keys.insert(LockName::new(name).ok()?, key.parse().ok()?).is_none();
        is_first.then_some(())?;
    }
    Some(keys)
}

/// How the driver connects, and whether with a password: it reads the address by libpq's grammar.
fn connect_options(url: &mut Url) -> Result<(PgConnectOptions, bool)> {
    let path = url.address().trim_start_matches('/').split_once('/').map_or("", |(_, path)| path);
    if path.contains('@') {
        return Err(url.unreadable("it has an @ behind a /: a / of a password is %2F", SHAPE));
    }
    let parsed = url::Url::parse(&format!("postgres:{}", url.address()));
    // Neither parser's error repeats the URL, so no password either.
    let mut address = parsed.map_err(|error| url.unreadable(&error.to_string(), SHAPE))?;
    // The driver takes the brackets of an IPv6 address for a part of it.
    if let Some(host) = address.host_str().map(bare).filter(|host| host.contains(':')) {
        let host = host.to_owned();
        address.query_pairs_mut().append_pair("host", &host);
    }
    let mut has_password = address.password().is_some() || std::env::var_os("PGPASSWORD").is_some();
    let mut is_named = std::env::var_os("PGAPPNAME").is_some();
    for option in CONNECTION_OPTIONS {
        if let Some(value) = url.take(option) {
            has_password |= option == "password";
            is_named |= option == "application_name";
            let value = if option == "host" { bare(&value) } else { &value };
            address.query_pairs_mut().append_pair(option, value);
        }
    }
    let options = PgConnectOptions::from_str(address.as_str());
    let options = options.map_err(|error| url.unreadable(&error.to_string(), SHAPE))?;
    let options = if is_named { options } else { options.application_name("lockkit") };
    Ok((options, has_password))
}

/// A host without the brackets in which an IPv6 address stands in a URL.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.debug_struct("PostgresConfig")
            .field("host", &options.get_host())
            .field("port", &options.get_port())
            .field("socket", &options.get_socket())
            .field("user", &options.get_username())
            .field("database", &options.get_database())
            .field("ssl_mode", &options.get_ssl_mode())
            .field("application_name", &options.get_application_name())
            .field("strategy", &self.strategy)
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("budget", &self.budget)
            .field("creates", &self.creates)
            .field("barrier", &self.barrier)
            .field("token_base", &self.token_base)
            .finish_non_exhaustive()
    }
}
