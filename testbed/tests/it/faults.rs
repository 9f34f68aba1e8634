//! Each fault of a link does what it says, to the byte.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Bench, LONG, Tested, bytes, is_reset, is_silent, read, read_all};
use testbed::{Connections, End, Error, Fault, Link, Per, Port, Way, in_time, timing};

fn cut(after: u64, per: Per, end: End) -> Fault {
    Fault::Cut { after, per, end }
}

#[test]
fn a_link_passes_bytes_and_ends_both_ways() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    let sent = bytes(3_000_000);
    let (to_server, to_client) = (sent.clone(), sent.clone());
    thread::scope(|scope| -> Tested {
        let mut sender = client.try_clone()?;
        let mut answerer = server.try_clone()?;
        scope.spawn(move || {
            sender.write_all(&to_server).and_then(|()| sender.shutdown(Shutdown::Write))
        });
        scope.spawn(move || {
            answerer.write_all(&to_client).and_then(|()| answerer.shutdown(Shutdown::Write))
        });
        let (got, ended) = read_all(&mut server);
        ended?;
        assert!(got == sent);
        let (got, ended) = read_all(&mut client);
        ended?;
        assert!(got == sent);
        Ok(())
    })?;
    drop((client, server));
    timing::kept(|| bench.link.wait_until(LONG, |counts| counts.open == 0));
    let counts = bench.link.counts();
    assert_eq!((counts.accepted, counts.to_server.delivered), (1, 3_000_000));
    assert_eq!((counts.to_client.delivered, counts.to_client.held), (3_000_000, 0));
    Ok(())
}

#[test]
fn a_cut_delivers_exactly_so_many_bytes_to_the_server() -> Tested {
    let bench = Bench::new()?;
    for end in [End::Fin, End::Reset] {
        for after in [0, 1, 2, 99, 100, 70_000] {
            let (mut client, mut server) = bench.connect()?;
            bench.link.fault(Way::ToServer, cut(after as u64, Per::Connection, end));
            let sent = bytes(after.max(100));
            client.write_all(&sent)?;
            let (got, ended) = read_all(&mut server);
            assert_eq!(got, sent[..after], "{end:?} after {after}");
            assert_eq!(is_reset(&ended), end == End::Reset, "{end:?} after {after}: {ended:?}");
            let (answer, ended) = read_all(&mut client);
            assert!(answer.is_empty());
            assert_eq!(is_reset(&ended), end == End::Reset, "{end:?} after {after}: {ended:?}");
            bench.link.fault(Way::Both, Fault::Pass);
        }
    }
    Ok(())
}

#[test]
fn a_cut_delivers_exactly_so_many_bytes_to_the_client() -> Tested {
    let bench = Bench::new()?;
    for end in [End::Fin, End::Reset] {
        for after in [0, 1, 99, 100] {
            let (mut client, mut server) = bench.connect()?;
            client.write_all(b"before")?;
            server.write_all(&bytes(40))?;
            assert_eq!(read(&mut client, 40)?, bytes(40));
            bench.link.fault(Way::ToClient, cut(after as u64, Per::Connection, end));
            server.write_all(&bytes(100))?;
            let (got, ended) = read_all(&mut client);
            assert_eq!(got, bytes(100)[..after], "{end:?} after {after}");
            assert_eq!(is_reset(&ended), end == End::Reset, "{end:?} after {after}: {ended:?}");
            assert_eq!(read(&mut server, 6)?, b"before");
            let (_, ended) = read_all(&mut server);
            assert_eq!(is_reset(&ended), end == End::Reset, "{end:?} after {after}: {ended:?}");
            bench.link.fault(Way::Both, Fault::Pass);
        }
    }
    Ok(())
}

#[test]
fn a_cut_over_the_link_counts_all_connections_and_comes_once() -> Tested {
    let bench = Bench::new()?;
    let (mut client_a, mut server_a) = bench.connect()?;
    let (mut client_b, mut server_b) = bench.connect()?;
    bench.link.fault(Way::ToServer, cut(10, Per::Link, End::Fin));
    client_a.write_all(&bytes(6))?;
    assert_eq!(read(&mut server_a, 6)?, bytes(6));
    client_b.write_all(&bytes(6))?;
    let (got, ended) = read_all(&mut server_b);
    ended?;
    assert_eq!(got, bytes(4));
    client_a.write_all(&bytes(20))?;
    assert_eq!(read(&mut server_a, 20)?, bytes(20));
    let (mut client_c, mut server_c) = bench.connect()?;
    client_c.write_all(&bytes(20))?;
    assert_eq!(read(&mut server_c, 20)?, bytes(20));
    Ok(())
}

#[test]
fn held_bytes_come_late_also_from_a_client_that_has_left() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    bench.link.fault(Way::ToServer, Fault::Hold);
    client.write_all(&bytes(500))?;
    timing::kept(|| bench.link.wait_until(LONG, |counts| counts.to_server.held == 500));
    server.write_all(b"the other way passes")?;
    assert_eq!(read(&mut client, 20)?, b"the other way passes");
    drop(client);
    assert!(is_silent(&mut server)?, "neither bytes nor the end");
    bench.link.deliver();
    let (got, ended) = read_all(&mut server);
    ended?;
    assert_eq!(got, bytes(500));
    assert_eq!(bench.link.counts().to_server.held, 0);
    Ok(())
}

#[test]
fn held_bytes_come_late_also_from_a_client_that_has_reset() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    bench.link.fault(Way::ToServer, Fault::Hold);
    client.write_all(&bytes(500))?;
    server.write_all(b"unread: closing now resets")?;
    timing::kept(|| {
        bench.link.wait_until(LONG, |counts| {
            counts.to_server.held == 500 && counts.to_client.delivered == 26
        })
    });
    drop(client);
    assert!(is_silent(&mut server)?);
    bench.link.deliver();
    assert_eq!(read(&mut server, 500)?, bytes(500));
    let (_, ended) = read_all(&mut server);
    assert!(is_reset(&ended), "{ended:?}");
    Ok(())
}

#[test]
fn a_link_that_holds_keeps_one_mebibyte_at_most() -> Tested {
    let bench = Bench::new()?;
    let (mut client, _server) = bench.connect()?;
    bench.link.fault(Way::ToServer, Fault::Hold);
    client.set_write_timeout(Some(Duration::from_millis(300)))?;
    let chunk = bytes(1 << 16);
    let held = || bench.link.counts().to_server.held;
    // A write may come to its limit before the link has read as much as it keeps.
    let is_full = |_| client.write_all(&chunk).is_err() && held() >= 1 << 20;
    assert!((0..1000).any(is_full), "64 MiB went in, or {} bytes are kept", held());
    let held = held();
    assert!(held <= (1 << 20) + (1 << 14), "{held} bytes");
    Ok(())
}

#[test]
fn a_blackhole_swallows_bytes_and_ends_and_its_end_resets() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    let (mut idle_client, mut idle_server) = bench.connect()?;
    bench.link.fault(Way::Both, Fault::Blackhole);
    client.write_all(&bytes(5000))?;
    server.write_all(&bytes(7))?;
    timing::kept(|| {
        bench.link.wait_until(LONG, |counts| {
            (counts.to_server.dropped, counts.to_client.dropped) == (5000, 7)
        })
    });
    client.shutdown(Shutdown::Write)?;
    assert!(is_silent(&mut server)?);
    assert!(is_silent(&mut client)?);
    bench.link.pass()?;
    assert!(is_reset(&read_all(&mut server).1), "bytes are missing");
    assert!(is_reset(&read_all(&mut client).1), "bytes are missing");
    idle_client.write_all(b"nothing is missing here")?;
    assert_eq!(read(&mut idle_server, 23)?, b"nothing is missing here");
    Ok(())
}

#[test]
fn one_way_is_lost_and_the_other_passes() -> Tested {
    let bench = Bench::new()?;
    bench.link.fault(Way::ToClient, Fault::Blackhole);
    let (mut client, mut server) = bench.connect()?;
    client.write_all(b"arrives")?;
    assert_eq!(read(&mut server, 7)?, b"arrives");
    server.write_all(b"is lost")?;
    assert!(is_silent(&mut client)?);
    bench.link.fault(Way::ToClient, Fault::Pass);
    let (mut client, mut fresh) = bench.connect()?;
    bench.link.fault(Way::ToServer, Fault::Blackhole);
    client.write_all(b"is lost too")?;
    assert!(is_silent(&mut fresh)?);
    Ok(())
}

#[test]
fn a_refusing_link_refuses_new_connections_only() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    for _ in 0..20 {
        bench.link.refuse()?;
        let refused = TcpStream::connect(bench.link.address()).map(drop);
        assert!(refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
        bench.link.accept()?;
        bench.connect()?;
    }
    client.write_all(b"goes on")?;
    assert_eq!(read(&mut server, 7)?, b"goes on");
    Ok(())
}

#[test]
fn a_refusing_link_refuses_while_processes_are_started_that_inherit_its_listener() -> Tested {
    let bench = Bench::new()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Until a child runs its own program, it has the listener open too.
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                Command::new("true").status().expect("it is in every system");
            }
        });
        let connected = (0..300).map(|_| {
            bench.link.refuse()?;
            let connected = TcpStream::connect(bench.link.address()).map(drop);
            bench.link.accept()?;
            Ok(connected)
        });
        let connected: Result<Vec<_>, Error> = connected.collect();
        is_over.store(true, Ordering::SeqCst);
        for connected in connected? {
            assert!(connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
        }
        Ok(())
    })
}

#[test]
fn a_reset_ends_what_exists_and_a_reset_plan_what_comes() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    bench.link.reset()?;
    assert!(is_reset(&read_all(&mut client).1));
    assert!(is_reset(&read_all(&mut server).1));
    let (mut client, mut server) = bench.connect()?;
    bench.link.fault_on(Connections::New, Way::Both, Fault::Reset);
    let mut other = TcpStream::connect(bench.link.address())?;
    assert!(is_reset(&read_all(&mut other).1));
    client.write_all(b"exists")?;
    assert_eq!(read(&mut server, 6)?, b"exists");
    Ok(())
}

#[test]
fn one_connection_can_be_faulty_alone() -> Tested {
    let bench = Bench::new()?;
    let (mut client_0, mut server_0) = bench.connect()?;
    let (mut client_1, mut server_1) = bench.connect()?;
    bench.link.fault_on(Connections::Only(1), Way::ToServer, Fault::Hold);
    for client in [&mut client_0, &mut client_1] {
        client.write_all(b"x")?;
    }
    assert_eq!(read(&mut server_0, 1)?, b"x");
    assert!(is_silent(&mut server_1)?);
    let held: Vec<u64> =
        bench.link.connections().iter().map(|found| found.counts.to_server.held).collect();
    assert_eq!(held, [0, 1]);
    Ok(())
}

#[test]
fn a_delay_comes_before_each_byte_and_the_end() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    let delay = Duration::from_millis(200);
    bench.link.fault(Way::ToServer, Fault::delay(delay));
    let began = timing::start();
    client.write_all(b"later")?;
    client.shutdown(Shutdown::Write)?;
    let (got, ended) = read_all(&mut server);
    ended?;
    assert_eq!(got, b"later");
    let took = began.elapsed();
    assert!(took >= delay, "{took:?}");
    in_time!(began, took < delay + Duration::from_secs(2), "{took:?}");
    let (back, began) = (b"back", timing::start());
    server.write_all(back)?;
    assert_eq!(read(&mut client, 4)?, back);
    in_time!(began, began.elapsed() < delay, "the other way has no delay");
    Ok(())
}

/// How long each of ten bytes takes, sent one by one.
fn delays(seed: u64) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let link = Link::builder(listener.local_addr()?).seed(seed).start()?;
    let (min, max) = (Duration::ZERO, Duration::from_millis(100));
    link.fault(Way::ToServer, Fault::Delay { min, max });
    let mut client = TcpStream::connect(link.address())?;
    client.set_nodelay(true)?;
    let (mut server, _) = listener.accept()?;
    (0..10)
        .map(|_| {
            let began = Instant::now();
            client.write_all(b"x")?;
            read(&mut server, 1)?;
            Ok(began.elapsed())
        })
        .collect()
}

#[test]
fn random_delays_repeat_for_a_seed() -> Tested {
    // A busy machine adds to a delay now and then, and takes nothing off: the least counts.
    let least = |seed: u64| {
        let mut least = delays(seed).expect("a run");
        for _ in 0..3 {
            let more = delays(seed).expect("a run");
            least.iter_mut().zip(more).for_each(|(least, more)| *least = more.min(*least));
        }
        least
    };
    let [first, again, other] = thread::scope(|scope| {
        let runs = [1, 1, 2].map(|seed| scope.spawn(move || least(seed)));
        runs.map(|run| run.join().expect("the least of some runs"))
    });
    let differ = |other: &[Duration]| {
        let pairs = first.iter().zip(other);
        pairs.filter(|(a, b)| a.abs_diff(**b) > Duration::from_millis(15)).count()
    };
    assert!(differ(&again) <= 3, "{first:?} {again:?}");
    assert!(differ(&other) > 3, "{first:?} {other:?}");
    Ok(())
}

#[test]
fn a_throttled_link_delivers_so_many_bytes_in_a_second() -> Tested {
    let bench = Bench::new()?;
    let (mut client, mut server) = bench.connect()?;
    bench.link.fault(Way::ToServer, Fault::Throttle { bytes_per_second: 100_000 });
    let began = timing::start();
    client.write_all(&bytes(50_000))?;
    assert_eq!(read(&mut server, 50_000)?, bytes(50_000));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(450), "{took:?}");
    in_time!(began, took < Duration::from_secs(3), "{took:?}");
    Ok(())
}

#[test]
fn a_link_without_a_server_resets_its_clients() -> Tested {
    let link = Link::to(Port::free()?.address())?;
    let mut client = TcpStream::connect(link.address())?;
    assert!(is_reset(&read_all(&mut client).1));
    Ok(())
}

#[test]
fn a_dropped_link_closes_all() -> Tested {
    let Bench { link, listener } = Bench::new()?;
    let address = link.address();
    let mut client = TcpStream::connect(address)?;
    let (mut server, _) = listener.accept()?;
    drop(link);
    for stream in [&mut client, &mut server] {
        stream.set_read_timeout(Some(LONG))?;
        let (got, _) = read_all(stream);
        assert!(got.is_empty());
    }
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}
