//! TLS with certificates made on the fly.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, RedisServer, ZkServer};

type Tested<T = ()> = Result<T, Box<dyn Error>>;

/// Whether a client that trusts this authority gets an answer; the error otherwise.
fn ping(
    server: &RedisServer,
    name: &str,
    ca: &Path,
    identity: Option<&Certificates>,
) -> Tested<String> {
    let address = server.tls_address().ok_or("a TLS port")?;
    ask(address, name, ca, identity, "*1\r\n$4\r\nPING\r\n", 7)
}

/// The same for any server: the first bytes of its answer.
fn ask(
    address: SocketAddr,
    name: &str,
    ca: &Path,
    identity: Option<&Certificates>,
    request: &str,
    count: usize,
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
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let name = ServerName::try_from(name.to_owned())?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream);
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; count];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer)?)
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

#[test]
fn zookeeper_answers_over_tls_whom_it_should() -> Tested {
    let certificates = Certificates::new()?;
    let (ca, other) = (certificates.ca(), certificates.other_ca());
    for clients in [ClientCertificate::NotAsked, ClientCertificate::Required] {
        let server = ZkServer::builder().tls(&certificates, clients).start()?;
        let address = server.tls_address().ok_or("a TLS port")?;
        let ask = |ca: &Path, identity| ask(address, "localhost", ca, identity, "ruok", 4);
        assert_eq!(server.ask("ruok")?, "imok");
        assert_eq!(ask(&ca, Some(&certificates))?, "imok");
        assert_eq!(ask(&ca, None).is_ok(), clients == ClientCertificate::NotAsked);
        let error = ask(&other, Some(&certificates)).expect_err("an unknown authority");
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
        if clients == ClientCertificate::Required {
            assert!(ask(&ca, Some(&Certificates::new()?)).is_err());
        }
    }
    Ok(())
}
