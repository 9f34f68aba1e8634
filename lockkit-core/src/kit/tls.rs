//! Certificates for connections over TLS, read again for each of them.

use std::fmt;
use std::path::PathBuf;

use super::url::{Url, check};
use crate::{Error, Result};

/// Certificates for connections over TLS.
///
/// Files are read at every new connection, so that a program need not restart when its certificates are
/// replaced on disk. A text stays what it is. `Debug` shows the paths and no text.
///
/// ```
/// use lockkit_core::kit::Tls;
///
/// // The authority of the servers' certificates, and our own for servers that ask for one.
/// let tls = Tls::file("/etc/tls/ca.pem").client_files("/etc/tls/client.pem", "/etc/tls/client.key");
/// // A text that the program has from elsewhere.
/// let text = Tls::new("-----BEGIN CERTIFICATE-----\n...");
/// // The system's authorities, on stores that know them.
/// let system = Tls::default();
/// # let _ = (tls, text, system);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Tls {
    /// The authority that signed the servers' certificates, instead of the system's authorities.
    pub authority: Option<Pem>,
    /// Our own certificate and its private key, for servers that ask for one.
    pub client: Option<(Pem, Pem)>,
}

/// Where certificates or a key are, in the PEM form.
#[derive(Clone)]
#[non_exhaustive]
pub enum Pem {
    /// A file that each connection reads.
    File(PathBuf),
    /// The text of such a file.
    Text(Vec<u8>),
}

/// What was read: the authority, and our own certificate with its key.
pub type Certificates = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

impl Tls {
    /// Trusts servers with a certificate of the authority in this file.
    pub fn file(authority: impl Into<PathBuf>) -> Self {
        Self { authority: Some(Pem::File(authority.into())), client: None }
    }

    /// Trusts servers with a certificate of this authority, a text.
    pub fn new(authority: impl Into<Vec<u8>>) -> Self {
        Self { authority: Some(Pem::Text(authority.into())), client: None }
    }

    /// Shows the servers the certificate in this file, with its private key in that one.
    #[must_use]
    pub fn client_files(self, ours: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { client: Some((Pem::File(ours.into()), Pem::File(key.into()))), ..self }
    }

    /// Shows the servers this certificate, with its private key, both texts.
    #[must_use]
    pub fn client(self, ours: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { client: Some((Pem::Text(ours.into()), Pem::Text(key.into()))), ..self }
    }

    /// Refuses TLS where the backend was built without it.
    ///
    /// # Errors
    /// `Invalid`: `is_built_in` is false.
    pub fn check(&self, is_built_in: bool) -> Result<()> {
        check(
            is_built_in,
            "TLS in a program that was built without it",
            "enable the feature \"tls\"",
        )
    }

    /// Reads the files, for one connection. It blocks for as long as they take.
    ///
    /// # Errors
    /// `Invalid`: a file cannot be read. Once connected, a backend says
    /// `Unavailable` instead: the files may be half replaced, and the next connection reads them again.
    pub fn read(&self) -> Result<Certificates> {
        let authority = self.authority.as_ref().map(Pem::read).transpose()?;
        let read = |(ours, key): &(Pem, Pem)| -> Result<_> { Ok((ours.read()?, key.read()?)) };
        Ok((authority, self.client.as_ref().map(read).transpose()?))
    }

    /// The refusal of certificates that a client crate cannot use, with their paths.
    pub fn unusable(&self, why: impl fmt::Display) -> Error {
        Error::invalid(
            format!("the certificates {self:?}: {why}"),
            "give PEM files of the authority, and of our own certificate with the key that belongs to it",
        )
    }
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>> {
        let unreadable = |error| {
            let remedy = "give the path of a PEM file that this program may read";
            Error::invalid(format!("{self:?}: {error}"), remedy)
        };
        match self {
            Self::File(path) => std::fs::read(path).map_err(unreadable),
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

impl Url {
    /// Takes out `ca`, `cert` and `key`, which are paths; `None` without any of them.
    ///
    /// # Errors
    /// `Invalid`: only one of `cert` and `key` is given.
    pub fn take_tls(&mut self) -> Result<Option<Tls>> {
        let [authority, certificate, key] = ["ca", "cert", "key"]
            .map(|option| self.take(option).map(|path| Pem::File(path.into())));
        let is_whole = certificate.is_some() == key.is_some();
        check(is_whole, "only one of the options cert and key", "give both, or neither")?;
        let tls = Tls { authority, client: certificate.zip(key) };
        Ok((tls.authority.is_some() || tls.client.is_some()).then_some(tls))
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Text(_) => f.write_str("a text of the program"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_each_time_and_a_text_stays_what_it_is() {
        let file = std::env::temp_dir().join(format!("lockkit-tls-{}.pem", std::process::id()));
        let tls = Tls::file(&file).client("ours", "hunter2");
        for text in ["first", "second"] {
            std::fs::write(&file, text).expect("a file");
            let client = Some((b"ours".to_vec(), b"hunter2".to_vec()));
            assert_eq!(tls.read().expect("certificates"), (Some(text.into()), client));
        }
        std::fs::remove_file(&file).expect("removed");
        let error = tls.read().expect_err("no file").to_string();
        assert!(error.contains(&*file.to_string_lossy()) && error.contains("PEM file"), "{error}");
    }

    #[test]
    fn paths_are_shown_and_no_text_is() {
        let tls = Tls::file("/ca.pem").client("ours", "hunter2");
        let shown = format!("{tls:?} {}", tls.unusable("bad"));
        assert!(shown.contains("/ca.pem") && !shown.contains("hunter2"), "{shown}");
    }
}
