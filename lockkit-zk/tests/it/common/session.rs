//! The session that a grant is on, as the servers and an operator see it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{by, framing, ms};
use lockkit_core::Guard;
use lockkit_zk::ZkNode;
use testbed::{Data, Link, ZkServer, in_time, timing};
use zookeeper_client::Client;

/// How long a server on a busy machine may take to come back, and its clients to return to it; also
/// how long three members may take to elect a leader.
pub(crate) const BACK: Duration = ms(20_000);

/// The id of the session that the guard's node is on.
pub(crate) async fn of(servers: &[SocketAddr], guard: &Guard) -> i64 {
    let node = guard.native::<ZkNode>().unwrap();
    by(BACK, "a look", owner_of(&operator(servers).await, node)).await.unwrap()
}

/// The session that owns this node; `None`: it is gone.
pub(crate) async fn owner_of(operator: &Client, node: &ZkNode) -> Option<i64> {
    Some(operator.check_stat(&node.path).await.unwrap()?.ephemeral_owner)
}

/// A client of the driver's own.
pub(crate) async fn operator(servers: &[SocketAddr]) -> Client {
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    by(BACK, "a connection", Client::connect(&servers.join(","))).await.unwrap()
}

/// How a server names a session in its list of connections.
pub(crate) fn name(id: i64) -> String {
    format!("sid={id:#x},")
}

/// Restarts the server, and waits until this session is connected again.
pub(crate) async fn restarted(server: &Arc<ZkServer>, id: i64) {
    let restarting = Arc::clone(server);
    let restarted = tokio::task::spawn_blocking(move || restarting.restart(Data::Kept)).await;
    restarted.unwrap().unwrap();
    let is_back = || server.ask("cons").is_ok_and(|known| known.contains(&name(id)));
    timing::until(BACK, "the client's return", is_back).await;
}

/// Ends a session at this server, as another client that knows its id and its password: it
/// reconnects, and closes. The password has come over one of these [spying](framing::spying) links.
pub(crate) fn end<'a>(server: SocketAddr, links: impl IntoIterator<Item = &'a Link>, id: i64) {
    let password = framing::password(links, id).expect("a session that came over a link");
    let mut connect = Vec::new();
    // The version of the protocol, what it has seen, and the timeout that it wishes for.
    connect.extend(0_i32.to_be_bytes());
    connect.extend(0_i64.to_be_bytes());
    connect.extend(4_000_i32.to_be_bytes());
    connect.extend(id.to_be_bytes());
    connect.extend(u32::try_from(password.len()).unwrap().to_be_bytes());
    connect.extend(password);
    connect.push(0);
    let close = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
    let frames = [connect, close].map(|frame| {
        let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
        [length.as_slice(), &frame].concat()
    });
    let began = timing::start();
    while !is_ended(server, &frames.concat()) {
        in_time!(began, began.elapsed() < BACK, "the session does not end");
    }
}

/// Whether both requests were answered, or the session is over. Its own client may return between
/// the two, which closes this connection.
fn is_ended(server: SocketAddr, requests: &[u8]) -> bool {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(BACK)).unwrap();
    stream.write_all(requests).unwrap();
    let mut answers = Vec::new();
    // A reset after the answers is an end too.
    let _ = stream.read_to_end(&mut answers);
    let mut answers = answers.as_slice();
    let mut next = || {
        let (length, rest) = answers.split_first_chunk::<4>()?;
        let (answer, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        answers = rest;
        Some(answer)
    };
    // A session that is over has no timeout.
    let timeout = next().and_then(|connected| connected.get(4..8)).unwrap_or_default();
    timeout == [0; 4] || next().is_some()
}
