//! Certificates for connections over TLS, read again for each of them.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Certificates for connections over TLS.
///
/// Files are read at every new connection, so that a program need not restart when its certificates are
/// replaced on disk. A text stays what it is. `Debug` shows the paths and no text.
///
/// ```
/// use std::path::Path;
///
/// use lockkit_core::kit::Tls;
///
/// // The authority of the servers' certificates, and our own for servers that ask for one.
/// let tls = Tls::new(Path::new("/etc/tls/ca.pem"))
///     .client(Path::new("/etc/tls/client.pem"), Path::new("/etc/tls/client.key"));
/// // A text that the program has from elsewhere.
/// let text = Tls::new("-----BEGIN CERTIFICATE-----\n...".to_owned());
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
    /// Trusts servers with a certificate of this authority.
    pub fn new(authority: impl Into<Pem>) -> Self {
        Self { authority: Some(authority.into()), client: None }
    }

    /// Shows the servers this certificate, with its private key.
    #[must_use]
    pub fn client(mut self, certificate: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.client = Some((certificate.into(), key.into()));
        self
    }

    /// Refuses TLS where the backend was built without it.
    ///
    /// # Errors
    /// `Invalid`: `is_built_in` is false.
    pub fn check(&self, is_built_in: bool) -> Result<()> {
        let what = "TLS in a program that was built without it";
        let missing = || Error::invalid(what, "enable the feature \"tls\"");
        is_built_in.then_some(()).ok_or_else(missing)
    }

    /// Reads the files, for one connection. It blocks for as long as they take.
    ///
    /// # Errors
    /// `Invalid`: a file cannot be read, or there is no PEM in it. Once connected, a backend says
    /// `Unavailable` instead: the files may be half replaced, and the next connection reads them again.
    pub fn read(&self) -> Result<Certificates> {
        let authority = self.authority.as_ref().map(Pem::read).transpose()?;
        let client = self.client.as_ref().map(|(ours, key)| Ok((ours.read()?, key.read()?)));
        Ok((authority, client.transpose()?))
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
        let read = match self {
            Self::File(path) => std::fs::read(path).map_err(|error| error.to_string()),
            Self::Text(text) => Ok(text.clone()),
        };
        let is_pem = |text: &Vec<u8>| text.windows(11).any(|start| start == b"-----BEGIN ");
        let read = read.and_then(|text| is_pem(&text).then_some(text).ok_or("no PEM".to_owned()));
        read.map_err(|why| {
            let remedy = "give the path of a PEM file that this program may read";
            Error::invalid(format!("{self:?}: {why}"), remedy)
        })
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

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for Pem {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<String> for Pem {
    fn from(text: String) -> Self {
        Self::Text(text.into_bytes())
    }
}

impl From<Vec<u8>> for Pem {
    fn from(text: Vec<u8>) -> Self {
        Self::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n";

    #[test]
    fn a_file_is_read_each_time_and_a_text_stays_what_it_is() {
        let file = std::env::temp_dir().join(format!("lockkit-tls-{}.pem", std::process::id()));
        let tls = Tls::new(file.clone()).client(CERTIFICATE.to_owned(), b"-----BEGIN 1".to_vec());
        for number in ["first", "second"] {
            std::fs::write(&file, format!("{CERTIFICATE}{number}")).expect("a file");
            let (authority, client) = tls.read().expect("certificates");
            assert_eq!(authority, Some(format!("{CERTIFICATE}{number}").into_bytes()));
            assert_eq!(client, Some((CERTIFICATE.into(), b"-----BEGIN 1".to_vec())));
        }
        std::fs::remove_file(&file).expect("removed");
        let error = tls.read().expect_err("no file").to_string();
        assert!(error.contains(&*file.to_string_lossy()) && error.contains("PEM file"), "{error}");
    }

    #[test]
    fn what_is_no_pem_is_refused_and_no_text_is_shown() {
        let tls = Tls::new("hunter2".to_owned());
        let error = tls.read().expect_err("no PEM").to_string();
        assert!(error.contains("no PEM"), "{error}");
        let shown = format!("{tls:?} {error} {}", tls.unusable("bad"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
