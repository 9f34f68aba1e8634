//! TLS certificates made on the fly.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::{Error, Result};

/// The files of a client's certificate that has expired.
const EXPIRED: &str = "expired-client";

/// A certificate authority, what it signed, and an authority that signed nothing; PEM files that
/// are deleted with this value.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// The common name of the client's certificate, which some servers take for a user's name.
    pub const CLIENT: &str = "client";

    /// The hosts of the server's certificate.
    pub const HERE: [&str; 2] = ["localhost", "127.0.0.1"];

    /// Makes all of them: the server's for `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::Certificates`] or [`Error::System`] where they cannot be made or written.
    pub fn new() -> Result<Self> {
        Self::for_hosts(&Self::HERE)
    }

    /// The same with a server's certificate for these hosts, names or addresses, and no other.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_hosts(hosts: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("testbed-tls-")
            .tempdir()
            .map_err(Error::system("making a temporary directory"))?;
        let certificates = Self { directory };
        certificates.write(hosts)?;
        Ok(certificates)
    }

    /// Replaces all of them on the disk, the authorities too; the server's for these hosts.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn write(&self, hosts: &[&str]) -> Result<()> {
        let issuer = self.authority("ca", "testbed")?;
        self.authority("other-ca", "another testbed")?;
        let hosts = hosts.iter().map(ToString::to_string).collect();
        let ours = || (Vec::new(), ExtendedKeyUsagePurpose::ClientAuth);
        self.signed("server", (hosts, ExtendedKeyUsagePurpose::ServerAuth), false, &issuer)?;
        self.signed(Self::CLIENT, ours(), false, &issuer)?;
        self.signed(EXPIRED, ours(), true, &issuer)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The certificate of an authority that has nothing to do with the others.
    #[must_use]
    pub fn other_ca(&self) -> PathBuf {
        self.file("other-ca.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// The server's private key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.file("server.key")
    }

    /// The client's certificate.
    #[must_use]
    pub fn client_certificate(&self) -> PathBuf {
        self.file("client.pem")
    }

    /// The client's private key.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.file("client.key")
    }

    /// Another client's certificate of the same authority, which has expired.
    #[must_use]
    pub fn expired_client_certificate(&self) -> PathBuf {
        self.file(&format!("{EXPIRED}.pem"))
    }

    /// The private key of the expired one.
    #[must_use]
    pub fn expired_client_key(&self) -> PathBuf {
        self.file(&format!("{EXPIRED}.key"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn authority(&self, file: &str, name: &str) -> Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        write(&self.file(&format!("{file}.pem")), &params.self_signed(&key)?.pem())?;
        Ok(Issuer::new(params, key))
    }

    fn signed(
        &self,
        file: &str,
        (names, purpose): (Vec<String>, ExtendedKeyUsagePurpose),
        is_expired: bool,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<()> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![purpose];
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        write(&self.file(&format!("{file}.pem")), &certificate.pem())?;
        write(&self.file(&format!("{file}.key")), &key.serialize_pem())
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(Error::system(format!("writing {}", file.display())))
}
