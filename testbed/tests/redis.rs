//! Real servers: starting, pausing, killing, restarting, their settings.
#![cfg(unix)]

use std::error::Error;

use testbed::{Data, RedisServer};

type Tested = Result<(), Box<dyn Error>>;

#[test]
fn a_server_starts_and_answers() -> Tested {
    let server = RedisServer::start()?;
    assert!(server.version()?.starts_with(|c: char| c.is_ascii_digit()));
    assert!(server.port() < 32768);
    assert_eq!(server.cli(&["SET", "a", "1"])?.text().as_deref(), Some("OK"));
    server.restart(Data::Kept)?;
    assert!(!server.log().is_empty());
    Ok(())
}
