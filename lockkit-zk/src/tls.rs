//! TLS by rustls with ring, and why two sides did not trust each other.

use std::error::Error as StdError;
use std::result::Result as StdResult;
use std::sync::{Arc, OnceLock};

use lockkit_core::kit::{Certificates, LONGEST_CALL, Tls};
use lockkit_core::{Clock, Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zookeeper_client::{TlsCa, TlsCerts, TlsDynamicCerts, TlsIdentity, TlsOptions};

use crate::ZkConfig;
use crate::error::{Outcome, limited};

/// The certificates that were read last: every client takes them whenever it connects.
#[derive(Default)]
pub(crate) struct LastRead(OnceLock<TlsDynamicCerts>);

impl LastRead {
    /// Reads them again, for a new client and for those that there are.
    pub(crate) fn read(&self, tls: &Tls) -> Result<TlsOptions> {
        // Without a process-wide provider the driver panics as soon as another crate enables a second
        // one; a provider that is installed already is respected.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let read = for_driver(tls.read()?).map_err(|error| tls.unusable(error))?;
        let last = self.0.get_or_init(|| TlsDynamicCerts::new(read.clone()));
        last.update(read);
        Ok(TlsOptions::new().with_certs(last.clone()))
    }
}

impl std::fmt::Debug for LastRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastRead")
    }
}

fn for_driver((authority, client): Certificates) -> Outcome<TlsCerts> {
    let text = |pem: Vec<u8>| String::from_utf8_lossy(&pem).into_owned();
    let authority = TlsCa::from_pem(&text(authority.unwrap_or_default()))?;
    let mut certificates = TlsCerts::builder().with_ca(authority);
    if let Some((ours, key)) = client {
        certificates = certificates.with_identity(TlsIdentity::from_pem(&text(ours), &text(key))?);
    }
    certificates.build()
}

/// Refuses what the first server that takes a connection refuses, or is refused for, in TLS.
///
/// The driver only says that no server let it in.
pub(crate) async fn check_trust(config: &ZkConfig, tls: &Tls) -> Result<()> {
    let client = for_rustls(tls.read()?).map_err(|error| tls.unusable(error))?;
    let connector = TlsConnector::from(Arc::new(client));
    for address in config.addresses() {
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let Ok(name) = ServerName::try_from(host) else { continue };
        let shake = async {
            let stream = TcpStream::connect(&*address).await;
            let Ok(stream) = stream else { return Ok(None) };
            Ok(hand_shake(&connector, name, stream).await.err())
        };
        if let Ok(Some(error)) = limited(&Clock::system(), LONGEST_CALL, shake).await {
            let text = error.to_string();
            if text.contains("peer certificate") || text.contains("fatal alert") {
                return Err(Error::rejected(
                    format!("TLS with {address}: {text}"),
                    "give the authority that signed the servers' certificates, hosts that they \
                     name, and our own certificate if the servers ask for one",
                ));
            }
        }
    }
    Ok(())
}

/// A handshake, and a question: a server that wants our certificate says so only then.
async fn hand_shake(
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: TcpStream,
) -> std::io::Result<()> {
    let mut stream = connector.connect(name, stream).await?;
    stream.write_all(b"ruok").await?;
    stream.read(&mut [0; 4]).await.map(drop)
}

/// As the driver does it. Its own certificates cannot be looked into.
fn for_rustls((authority, client): Certificates) -> StdResult<ClientConfig, Box<dyn StdError>> {
    let certificates =
        |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<StdResult<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&authority.unwrap_or_default())?);
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((ours, key)) = client else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(&key)?;
    Ok(builder.with_client_auth_cert(certificates(&ours)?, key)?)
}
