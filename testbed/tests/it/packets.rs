//! A link that loses packets, as seen by the kernels at both of its ends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{Bench, Tested, is_silent, read};
use socket2::{SockRef, TcpKeepalive};
use testbed::{Fault, Way};

/// Has the kernel end the connection some 2 s after it has heard the last of the other side.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let second = Duration::from_secs(1);
    let often = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(1);
    SockRef::from(stream).set_tcp_keepalive(&often)
}

/// Whether the kernel has ended the connection for want of an answer within 5 s.
fn has_timed_out(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let ended = stream.read(&mut [0]);
    Ok(ended.is_err_and(|error| error.kind() == ErrorKind::TimedOut))
}

#[test]
fn lost_packets_come_when_the_fault_is_over() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    bench.link.fault(Way::Both, Fault::Drop);
    client.write_all(b"to the server")?;
    server.write_all(b"to the client")?;
    assert!(is_silent(&mut server)? && is_silent(&mut client)?);
    bench.link.pass()?;
    assert_eq!(read(&mut server, 13)?, b"to the server");
    assert_eq!(read(&mut client, 13)?, b"to the client");
    Ok(())
}

#[test]
fn keep_alives_get_no_answer_over_a_link_that_loses_packets_one_way_or_both() {
    // A link that only keeps the bytes to itself answers for the other side.
    let faults = [
        (Way::Both, Fault::Drop),
        (Way::ToServer, Fault::Drop),
        (Way::ToClient, Fault::Drop),
        (Way::Both, Fault::Blackhole),
    ];
    let has_timed_out = |(way, fault)| {
        let bench = Bench::new().unwrap();
        // Of each connection one end asks: as it gives up, it tells the other.
        let (mut client, _its_server) = bench.connect().unwrap();
        let (_its_client, mut server) = bench.connect().unwrap();
        bench.link.fault(way, fault);
        [&mut client, &mut server].map(|stream| {
            keep_alive(stream).unwrap();
            has_timed_out(stream).unwrap()
        })
    };
    std::thread::scope(|scope| {
        let all = faults.map(|of| (of, scope.spawn(move || has_timed_out(of))));
        for (of, ended) in all {
            assert_eq!(ended.join().unwrap(), [of.1 == Fault::Drop; 2], "{of:?}");
        }
    });
}

#[test]
fn data_goes_the_other_way_over_a_link_that_loses_packets_one_way() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    bench.link.fault(Way::ToServer, Fault::Drop);
    client.write_all(b"lost")?;
    server.write_all(b"heard")?;
    assert_eq!(read(&mut client, 5)?, b"heard");
    assert!(is_silent(&mut server)?);
    Ok(())
}

#[test]
fn a_link_leads_those_who_come_to_another_server() -> Tested {
    let (bench, other) = (Bench::new()?, Bench::new()?);
    let (mut client, mut server) = bench.connect()?;
    bench.link.lead_to(other.listener.local_addr()?);
    let mut later = TcpStream::connect(bench.link.address())?;
    let (mut there, _) = other.listener.accept()?;
    later.write_all(b"there")?;
    assert_eq!(read(&mut there, 5)?, b"there");
    client.write_all(b"here")?;
    assert_eq!(read(&mut server, 4)?, b"here");
    Ok(())
}
