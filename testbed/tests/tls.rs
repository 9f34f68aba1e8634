//! TLS with certificates made on the fly.
#![cfg(unix)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, RedisServer};

type Tested<T = ()> = Result<T, Box<dyn Error>>;

/// Whether a client that trusts this authority gets an answer; the error otherwise.
fn ping(
    server: &RedisServer,
    name: &str,
    ca: &Path,
    identity: Option<&Certificates>,
) -> Tested<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(certificates) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(certificates.client_certificate())?],
            PrivateKeyDer::from_pem_file(certificates.client_key())?,
        )?,
    };
    let address = server.tls_address().ok_or("a TLS port")?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let name = ServerName::try_from(name.to_owned())?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream);
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer.to_vec())?)
}

#[test]
fn a_client_that_trusts_the_authority_is_answered_and_no_other() -> Tested {
    let certificates = Certificates::new()?;
    let server = RedisServer::builder().tls(&certificates, ClientCertificate::NotAsked).start()?;
    for name in ["localhost", "127.0.0.1"] {
        assert_eq!(ping(&server, name, &certificates.ca(), None)?, "+PONG\r\n");
    }
    let wrong_ca = ping(&server, "localhost", &certificates.other_ca(), None);
    let error = wrong_ca.expect_err("an unknown authority").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let wrong_name = ping(&server, "example.org", &certificates.ca(), None);
    let error = wrong_name.expect_err("a wrong name").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    Ok(())
}

#[test]
fn a_server_that_asks_for_a_certificate_refuses_clients_without() -> Tested {
    let certificates = Certificates::new()?;
    let server = RedisServer::builder().tls(&certificates, ClientCertificate::Required).start()?;
    let ca = certificates.ca();
    assert_eq!(ping(&server, "localhost", &ca, Some(&certificates))?, "+PONG\r\n");
    assert!(ping(&server, "localhost", &ca, None).is_err());
    let stranger = Certificates::new()?;
    assert!(ping(&server, "localhost", &ca, Some(&stranger)).is_err());
    Ok(())
}
