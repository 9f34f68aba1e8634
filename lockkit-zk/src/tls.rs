//! TLS by rustls with ring, and why two sides did not trust each other.

use std::sync::Arc;

use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{Clock, Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zookeeper_client::TlsOptions;

use crate::error::limited;
use crate::{ZkConfig, ZkTls};

/// What the driver takes.
pub(crate) fn options(tls: &ZkTls) -> Result<TlsOptions> {
    // Without a process-wide provider the driver panics as soon as another crate enables a second
    // one; a provider that is installed already is respected.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let options = TlsOptions::new().with_pem_ca(&tls.authority).map_err(bad_pem)?;
    match &tls.client {
        Some((certificate, key)) => options.with_pem_identity(certificate, key).map_err(bad_pem),
        None => Ok(options),
    }
}

fn bad_pem(error: impl std::fmt::Display) -> Error {
    Error::invalid(
        format!("the certificates: {error}"),
        "give the authority, our own certificate and its private part as the texts of PEM files",
    )
}

/// Why the first server that takes a connection refuses TLS, or is refused; `None`: it does not.
///
/// The driver only says that no server let it in.
pub(crate) async fn refusal(config: &ZkConfig, tls: &ZkTls) -> Option<Error> {
    let connector = match client_config(tls) {
        Ok(client) => TlsConnector::from(Arc::new(client)),
        Err(error) => return Some(error),
    };
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
                return Some(Error::rejected(
                    format!("TLS with {address}: {text}"),
                    "give the authority that signed the servers' certificates, hosts that they \
                     name, and our own certificate if the servers ask for one",
                ));
            }
        }
    }
    None
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

fn client_config(tls: &ZkTls) -> Result<ClientConfig> {
    let certificates = |pem: &str| -> Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(bad_pem)
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&tls.authority)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(bad_pem)?;
    let builder = builder.with_root_certificates(roots);
    match &tls.client {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad_pem)?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(bad_pem)
        }
    }
}
