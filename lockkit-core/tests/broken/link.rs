//! The link of a small store's client: messages on connections, and what becomes of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::conformance::{self, Traffic, Way};
use lockkit_core::{Result, async_trait};
use tokio::sync::watch;
use tokio::time::Instant;

/// What each message counts as on its way: it arrives with the last of these bytes, or never.
const BYTES: u64 = 16;

/// What a message does where it arrives; dropped where it does not.
type Arrives = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    Pass,
    /// Takes messages and delivers none.
    Lose,
    Hold,
    Delay(Duration),
}

/// All connections between one client and its store.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    refuses: bool,
    /// What the connections that come do with each direction.
    faults: [Fault; 2],
    /// After how many more bytes of each direction the connection is reset that they go over.
    cuts: [Option<u64>; 2],
    connections: Vec<Connection>,
    traffic: Traffic,
}

#[derive(Default)]
struct Connection {
    faults: [Fault; 2],
    queues: [VecDeque<(Instant, Arrives)>; 2],
    /// Messages that the network took and lost: whoever waits for them learns nothing.
    lost: [Vec<Arrives>; 2],
    /// Whether the client has closed it, or it was reset; what the client had sent may still come.
    over: watch::Sender<bool>,
    was_reset: bool,
}

const fn direction(way: Way) -> usize {
    match way {
        Way::Requests => 0,
        Way::Replies => 1,
    }
}

const BOTH: [Way; 2] = [Way::Requests, Way::Replies];

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection, by its number; `None`: it is refused.
    pub(crate) fn connect(&self) -> Option<usize> {
        let mut state = self.state();
        if state.refuses {
            return None;
        }
        let faults = state.faults;
        state.connections.push(Connection { faults, ..Connection::default() });
        state.traffic.connections += 1;
        Some(state.connections.len() - 1)
    }

    /// Tells when this connection has been closed or reset.
    pub(crate) fn over(&self, connection: usize) -> watch::Receiver<bool> {
        self.state().connections[connection].over.subscribe()
    }

    /// The client has done with this connection.
    pub(crate) fn close(&self, connection: usize) {
        self.state().connections[connection].over.send_replace(true);
    }

    /// Sends a message over this connection.
    pub(crate) fn send(
        &self,
        connection: usize,
        way: Way,
        arrives: impl FnOnce() + Send + 'static,
    ) {
        let mut due = Instant::now();
        {
            let mut state = self.state();
            let connection = &mut state.connections[connection];
            if connection.was_reset {
                return;
            }
            if let Fault::Delay(by) = connection.faults[direction(way)] {
                due += by;
            }
            connection.queues[direction(way)].push_back((due, Box::new(arrives)));
        }
        if due > Instant::now() {
            let network = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(due).await;
                network.flow(connection, way);
            });
        }
        self.flow(connection, way);
    }

    /// Lets everything arrive that may.
    fn flow(&self, connection: usize, way: Way) {
        loop {
            // What arrives may send in its turn.
            let arrives = self.state().next(connection, direction(way));
            match arrives {
                Some(arrives) => arrives(),
                None => return,
            }
        }
    }

    /// Sets the fault of these directions, of the connections that exist and of those that come.
    fn set(&self, ways: &[Way], old: Fault, new: Fault) {
        let number = {
            let mut state = self.state();
            for way in ways.iter().map(|way| direction(*way)) {
                state.faults[way] = new;
                state.cuts[way] = None;
                for connection in &mut state.connections {
                    connection.faults[way] = old;
                    // No network leaves a gap.
                    if old != Fault::Lose && !connection.lost[way].is_empty() {
                        connection.reset();
                    }
                }
            }
            state.connections.len()
        };
        for way in ways {
            (0..number).for_each(|connection| self.flow(connection, *way));
        }
    }

    fn pass(&self) {
        self.state().refuses = false;
        self.set(&BOTH, Fault::Pass, Fault::Pass);
    }

    fn reset(&self) {
        self.state().connections.iter_mut().for_each(Connection::reset);
    }

    fn deliver(&self) {
        let number = {
            let mut state = self.state();
            let State { faults, connections, .. } = &mut *state;
            let old = connections.iter_mut().flat_map(|connection| &mut connection.faults);
            for fault in old.chain(faults).filter(|fault| **fault == Fault::Hold) {
                *fault = Fault::Pass;
            }
            connections.len()
        };
        for way in BOTH {
            (0..number).for_each(|connection| self.flow(connection, way));
        }
    }
}

impl State {
    /// The next message of this direction that arrives, if one does now.
    fn next(&mut self, number: usize, way: usize) -> Option<Arrives> {
        let connection = &mut self.connections[number];
        loop {
            let (due, _) = connection.queues[way].front()?;
            match connection.faults[way] {
                Fault::Hold => return None,
                _ if *due > Instant::now() => return None,
                fault => {
                    let (_, arrives) = connection.queues[way].pop_front()?;
                    if fault != Fault::Lose {
                        return self.delivered(number, way, arrives);
                    }
                    connection.lost[way].push(arrives);
                }
            }
        }
    }

    /// Counts a message, and cuts its connection where it must.
    fn delivered(&mut self, number: usize, way: usize, arrives: Arrives) -> Option<Arrives> {
        let left = self.cuts[way];
        let given = left.unwrap_or(BYTES).min(BYTES);
        let all = [&mut self.traffic.sent, &mut self.traffic.received];
        *all[way] += given;
        match left {
            Some(left) if left <= BYTES => {
                self.cuts[way] = None;
                self.connections[number].reset();
            }
            _ => self.cuts[way] = left.map(|left| left - BYTES),
        }
        (given == BYTES).then_some(arrives)
    }
}

impl Connection {
    /// Whatever is on its way is gone.
    fn reset(&mut self) {
        self.was_reset = true;
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.lost.iter_mut().for_each(Vec::clear);
        self.over.send_replace(true);
    }
}

/// The suite's hand on a network.
pub(crate) struct SmallLink(pub(crate) Network);

impl Drop for SmallLink {
    fn drop(&mut self) {
        self.0.pass();
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

#[async_trait]
impl conformance::Link for SmallLink {
    async fn pass(&self) -> Result<()> {
        self.0.pass();
        Ok(())
    }

    async fn refuse(&self) -> Result<()> {
        self.0.state().refuses = true;
        Ok(())
    }

    async fn reset(&self) -> Result<()> {
        self.0.reset();
        Ok(())
    }

    async fn blackhole(&self) -> Result<()> {
        self.0.set(&BOTH, Fault::Lose, Fault::Lose);
        Ok(())
    }

    async fn blackhole_old(&self) -> Result<()> {
        self.0.set(&BOTH, Fault::Lose, Fault::Pass);
        Ok(())
    }

    async fn lose(&self, way: Way) -> Result<()> {
        self.0.set(&[way], Fault::Lose, Fault::Lose);
        Ok(())
    }

    async fn hold(&self, way: Way) -> Result<()> {
        self.0.set(&[way], Fault::Hold, Fault::Hold);
        Ok(())
    }

    async fn hold_old(&self, way: Way) -> Result<()> {
        self.0.set(&[way], Fault::Hold, Fault::Pass);
        Ok(())
    }

    async fn deliver(&self) -> Result<()> {
        self.0.deliver();
        Ok(())
    }

    async fn delay(&self, by: Duration) -> Result<()> {
        self.0.set(&BOTH, Fault::Delay(by), Fault::Delay(by));
        Ok(())
    }

    async fn cut(&self, way: Way, after: u64) -> Result<()> {
        self.0.set(&[way], Fault::Pass, Fault::Pass);
        self.0.state().cuts[direction(way)] = Some(after);
        Ok(())
    }

    async fn traffic(&self) -> Result<Traffic> {
        let state = self.0.state();
        let open = state.connections.iter().filter(|connection| !*connection.over.borrow()).count();
        let mut traffic = state.traffic;
        traffic.open = u64::try_from(open).ok();
        Ok(traffic)
    }
}
