//! The settings of an etcd server or cluster.

use std::net::SocketAddr;

use super::calls::{ROOT, etcdctl};
use crate::certificates::Certificates;
use crate::command::run;
use crate::{ClientCertificate, Result};

/// The settings of an etcd server.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    pub(super) arguments: Vec<String>,
    users: Vec<User>,
    pub(super) tls: Vec<String>,
}

#[derive(Debug, Clone)]
struct User {
    name: String,
    password: Option<String>,
    prefix: String,
}

impl Builder {
    /// One more argument of its command line, such as `--quota-backend-bytes=1000000`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more user, who may read and write the keys with this prefix; from the first one on
    /// no client may do anything without a login.
    #[must_use]
    pub fn user(self, name: &str, password: &str, prefix: &str) -> Self {
        self.with_user(name, Some(password), prefix)
    }

    /// The same for clients that show the client's certificate of [`Certificates`], without a password.
    #[must_use]
    pub fn user_by_certificate(self, prefix: &str) -> Self {
        self.with_user(Certificates::CLIENT, None, prefix)
    }

    fn with_user(mut self, name: &str, password: Option<&str>, prefix: &str) -> Self {
        let password = password.map(str::to_owned);
        self.users.push(User { name: name.to_owned(), password, prefix: prefix.to_owned() });
        self
    }

    /// One more port for TLS with the server's certificate of `certificates`.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates, clients: ClientCertificate) -> Self {
        self.tls = vec![
            format!("--cert-file={}", certificates.server_certificate().display()),
            format!("--key-file={}", certificates.server_key().display()),
        ];
        if clients == ClientCertificate::Required {
            self.tls.push("--client-cert-auth".to_owned());
            self.tls.push(format!("--trusted-ca-file={}", certificates.ca().display()));
        }
        self
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    pub(super) fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// Users are data: those of the last run are there unless it was lost.
    pub(super) fn add_users(&self, endpoints: &[SocketAddr]) -> Result<()> {
        let cli = |arguments: &[&str], is_enabled: bool| {
            run(etcdctl(endpoints, is_enabled).args(arguments))
        };
        if !self.has_users() || cli(&["user", "get", "root"], true).is_ok() {
            return Ok(());
        }
        cli(&["user", "add", ROOT], false)?;
        cli(&["user", "grant-role", "root", "root"], false)?;
        for User { name, password, prefix } in &self.users {
            match password {
                Some(password) => cli(&["user", "add", &format!("{name}:{password}")], false)?,
                None => cli(&["user", "add", "--no-password", name], false)?,
            };
            cli(&["role", "add", name], false)?;
            let permission = ["role", "grant-permission", "--prefix", name, "readwrite", prefix];
            cli(&permission, false)?;
            cli(&["user", "grant-role", name, name], false)?;
        }
        cli(&["auth", "enable"], false).map(drop)
    }
}
