//! Real ZooKeeper servers: starting, pausing, killing, restarting, their settings.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::zk::Zk;
use crate::common::{LONG, SHORT, Tested, ends};
use testbed::{Data, Error, ZkServer};

#[test]
fn a_server_starts_below_the_ephemeral_ports_and_answers() -> Tested {
    let server = ZkServer::builder().tick(Duration::from_millis(300)).start()?;
    assert!(server.version()?.starts_with("3."), "{}", server.version()?);
    assert!((10_240..32_768).contains(&server.port()));
    assert_eq!(server.ask("ruok")?, "imok");
    assert!(server.ask("srvr")?.contains("Mode: standalone"));
    let settings = server.ask("conf")?;
    assert!(settings.contains("tickTime=300") && settings.contains("maxSessionTimeout=40000"));
    assert!(server.log().contains("Snapshot taken"));
    Ok(())
}

#[test]
fn a_killed_server_comes_back_at_the_same_address_with_its_data_or_without() -> Tested {
    let server = ZkServer::start()?;
    let (address, pid) = (server.address(), server.pid());
    Zk::connect(address, LONG)?.create("/a")?;
    server.kill()?;
    assert!(ends(pid.unwrap_or_default())?);
    assert!(matches!(server.ask("ruok"), Err(Error::Answer(_))));
    server.restart(Data::Kept)?;
    assert_eq!(server.address(), address);
    assert_ne!(server.pid(), pid);
    assert!(Zk::connect(address, LONG)?.exists("/a")?);
    server.restart(Data::Lost)?;
    assert!(!Zk::connect(address, LONG)?.exists("/a")?);
    Ok(())
}

#[test]
fn a_restarted_server_has_the_settings_that_were_changed_meanwhile() -> Tested {
    let server = ZkServer::start()?;
    server.set_line("maxSessionTimeout=5000");
    assert!(server.ask("conf")?.contains("maxSessionTimeout=40000"));
    server.restart(Data::Kept)?;
    assert!(server.ask("conf")?.contains("maxSessionTimeout=5000"));
    Ok(())
}

#[test]
fn a_paused_server_answers_when_it_is_resumed() -> Tested {
    let server = ZkServer::start()?;
    server.pause()?;
    assert!(Zk::connect(server.address(), SHORT).is_err());
    server.resume()?;
    Zk::connect(server.address(), LONG)?;
    Ok(())
}

#[test]
fn an_empty_container_goes_away() -> Tested {
    let check = "znode.container.checkIntervalMs";
    let server = ZkServer::builder().property(check, "200").start()?;
    let mut zk = Zk::connect(server.address(), LONG)?;
    zk.create_container("/names")?;
    zk.create("/names/a")?;
    zk.delete("/names/a")?;
    let began = Instant::now();
    while zk.exists("/names")? {
        assert!(began.elapsed() < LONG);
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
