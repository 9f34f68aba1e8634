//! What a link does with its listener and its connections.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until, timeout};

use super::filter::Filter;
use super::plan::{End, Fault, TO_CLIENT, TO_SERVER};
use super::queue::Queue;
use super::state::{Shared, Step};

const CHUNK: usize = 16 * 1024;
/// How long a cut connection waits for its sides to close: closing first would reset them.
const LINGER: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(5);

/// Accepts while the link is open, until it ends.
pub(super) async fn serve(shared: Arc<Shared>, first: TcpListener, own: SocketAddr) {
    let mut changes = shared.changes();
    let mut listener = Some(first);
    loop {
        changes.mark_unchanged();
        let (is_open, is_ended, was_listening) = {
            let state = shared.state();
            (state.is_open, state.is_ended, state.is_listening)
        };
        if (is_ended || !is_open)
            && let Some(listener) = listener.take()
        {
            close(&listener);
        }
        if is_ended {
            return;
        }
        if is_open && listener.is_none() {
            listener = TcpListener::bind(own).await.ok();
        }
        if listener.is_some() != was_listening {
            shared.change(|state| state.is_listening = listener.is_some());
        }
        tokio::select! {
            _ = changes.changed() => {}
            accepted = accept(listener.as_ref()), if listener.is_some() => {
                if let Some(client) = accepted {
                    let (number, target) = shared.change(|state| (state.accept(), state.target));
                    tokio::spawn(connection(Arc::clone(&shared), number, client, target));
                }
            }
            () = sleep(RETRY), if is_open && listener.is_none() => {}
        }
    }
}

/// Ends the listening, also for a child process that has not run its own program yet and so has the
/// listener open too.
fn close(listener: &TcpListener) {
    // It fails only for a socket that listens no more.
    SockRef::from(listener).shutdown(Shutdown::Both).ok();
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener?.accept().await {
        Ok((client, _)) => Some(client),
        Err(_) => {
            // Too many open files, most likely.
            sleep(RETRY).await;
            None
        }
    }
}

async fn connection(shared: Arc<Shared>, number: u64, client: TcpStream, target: SocketAddr) {
    carry(&shared, number, client, target).await;
    shared.change(|state| state.close(number));
}

/// Carries one connection to its end; all of it is closed on return.
async fn carry(shared: &Shared, number: u64, mut client: TcpStream, target: SocketAddr) {
    let is_reset = shared.state().faults(number).contains(&Fault::Reset);
    let server = if is_reset { None } else { TcpStream::connect(target).await.ok() };
    let Some(mut server) = server else {
        client.set_zero_linger().ok();
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = pipe(shared, number, TO_SERVER, from_client, to_server);
        let back = pipe(shared, number, TO_CLIENT, from_server, to_client);
        tokio::pin!(there, back);
        tokio::select! {
            end = &mut there => if end.is_some() { end } else { back.await },
            end = &mut back => if end.is_some() { end } else { there.await },
        }
    };
    match end {
        None => {}
        Some(End::Reset) => {
            client.set_zero_linger().ok();
            server.set_zero_linger().ok();
        }
        Some(End::Fin) => {
            client.shutdown().await.ok();
            server.shutdown().await.ok();
            let drained = async { tokio::join!(drain(&mut client), drain(&mut server)) };
            timeout(LINGER, drained).await.ok();
        }
    }
}

/// Carries one direction; `None`: it is over, and the other one may go on.
async fn pipe(
    shared: &Shared,
    number: u64,
    index: usize,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Option<End> {
    let mut changes = shared.changes();
    let mut queue = Queue::new();
    let mut buffer = vec![0; CHUNK];
    let mut filter = Filter::None;
    loop {
        changes.mark_unchanged();
        filter.follow(from.as_ref(), shared.state().faults(number), index);
        let step = shared.step(number, index, &mut queue, |bytes| to.try_write(bytes));
        let until = match step {
            Step::Again => continue,
            Step::Finish => {
                to.shutdown().await.ok();
                return None;
            }
            Step::Broken => return None,
            Step::End(end) => return Some(end),
            Step::Until(time) => Some(time),
            Step::Idle | Step::Writable => None,
        };
        let is_blocked = matches!(step, Step::Writable);
        tokio::select! {
            _ = changes.changed() => {}
            read = from.read(&mut buffer), if queue.has_room() => {
                match read {
                    Ok(0) => queue.push_end(End::Fin),
                    Ok(count) => queue.push(&buffer[..count]),
                    Err(_) => queue.push_end(End::Reset),
                }
                shared.took(number, index, &queue);
            }
            _ = to.writable(), if is_blocked => {}
            () = sleep_until(until.unwrap_or_else(std::time::Instant::now).into()), if until.is_some() => {}
        }
    }
}

async fn drain(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}
