//! What a link's threads share: the plan, the counts, and the decision of what is delivered next.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::framing::Framing;
use super::plan::{Connections, Counts, End, Fault, Flow, Per, TO_CLIENT, TO_SERVER, Way};
use super::queue::Queue;

/// How often in a second a throttled direction writes.
const TICKS: u64 = 50;

/// Makes the framings of a connection, for the requests and for the answers.
pub(super) type Framings = fn() -> [Box<dyn Framing>; 2];

pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes threads that wait for the link.
    moved: Condvar,
    /// Wakes tasks that wait for the link.
    counted: watch::Sender<()>,
    /// Wakes the link's own tasks.
    changes: watch::Sender<()>,
}

pub(super) struct State {
    pub(super) is_open: bool,
    pub(super) is_listening: bool,
    pub(super) is_ended: bool,
    /// Where connections that come lead to.
    pub(super) target: SocketAddr,
    plan: [Fault; 2],
    /// Bytes delivered since the plan was set, over all connections.
    since: [u64; 2],
    connections: BTreeMap<u64, Entry>,
    seed: u64,
    framings: Option<Framings>,
}

struct Entry {
    faults: [Fault; 2],
    since: [u64; 2],
    has_gap: [bool; 2],
    framings: Option<[Box<dyn Framing>; 2]>,
    counts: Counts,
}

/// What a direction does next.
pub(super) enum Step {
    /// Some bytes were written: ask again.
    Again,
    /// Nothing until the plan changes or bytes come.
    Idle,
    /// Nothing until then.
    Until(Instant),
    /// The other side takes no bytes now.
    Writable,
    /// The sender's end has come through.
    Finish,
    /// The receiver is gone.
    Broken,
    /// The whole connection ends.
    End(End),
}

impl Shared {
    pub(super) fn new(target: SocketAddr, seed: u64, framings: Option<Framings>) -> Self {
        let state = State {
            is_open: true,
            is_listening: true,
            is_ended: false,
            target,
            plan: [Fault::Pass; 2],
            since: [0; 2],
            connections: BTreeMap::new(),
            seed,
            framings,
        };
        Self {
            state: state.into(),
            moved: Condvar::new(),
            counted: watch::Sender::new(()),
            changes: watch::Sender::new(()),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Changes something, and wakes everyone whom it may concern.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changes.send_replace(());
        self.counted();
        result
    }

    /// Wakes those who wait for what the link does.
    fn counted(&self) {
        self.moved.notify_all();
        self.counted.send_replace(());
    }

    pub(super) fn counts(&self) -> watch::Receiver<()> {
        self.counted.subscribe()
    }

    /// Delivers what the plan lets through now, and says what comes next.
    pub(super) fn step(
        &self,
        number: u64,
        index: usize,
        queue: &mut Queue,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Step {
        let step = self.state().step(number, index, queue, write);
        self.counted();
        step
    }

    /// Notes what a direction has taken.
    pub(super) fn took(&self, number: u64, index: usize, queue: &Queue) {
        self.state().took(number, index, queue);
        self.counted();
    }

    /// Blocks until the condition holds; `false`: it did not within the limit.
    pub(super) fn wait(&self, limit: Duration, mut holds: impl FnMut(&State) -> bool) -> bool {
        let (_state, waited) = self
            .moved
            .wait_timeout_while(self.state(), limit, |state| !holds(state))
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl State {
    pub(super) fn set(&mut self, connections: Connections, way: Way, fault: Fault) {
        for &index in way.indices() {
            if matches!(connections, Connections::All | Connections::New) {
                self.plan[index] = fault;
            }
            self.since[index] = 0;
            for (number, entry) in &mut self.connections {
                if match connections {
                    Connections::All | Connections::Existing => true,
                    Connections::New => false,
                    Connections::Only(only) => *number == only,
                } {
                    entry.faults[index] = fault;
                    entry.since[index] = 0;
                }
            }
        }
    }

    /// Puts one fault in another's place, wherever that is set.
    pub(super) fn replace(&mut self, index: usize, is_old: impl Fn(Fault) -> bool, new: Fault) {
        let entries = self.connections.values_mut().map(|entry| &mut entry.faults[index]);
        for fault in entries.chain([&mut self.plan[index]]) {
            if is_old(*fault) {
                *fault = new;
            }
        }
    }

    pub(super) fn accept(&mut self) -> u64 {
        let number = self.connections.len() as u64;
        let entry = Entry {
            faults: self.plan,
            since: [0; 2],
            has_gap: [false; 2],
            framings: self.framings.map(|framings| framings()),
            counts: Counts { accepted: 1, open: 1, ..Counts::default() },
        };
        self.connections.insert(number, entry);
        number
    }

    pub(super) fn close(&mut self, number: u64) {
        if let Some(entry) = self.connections.get_mut(&number) {
            entry.counts.open = 0;
            entry.framings = None;
            // What was held at the end reaches nobody.
            for index in [TO_SERVER, TO_CLIENT] {
                let flow = flow(&mut entry.counts, index);
                flow.dropped += std::mem::take(&mut flow.held);
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.connections.values().for_each(|entry| sum.add(&entry.counts));
        sum
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = (u64, &Counts)> {
        self.connections.iter().map(|(number, entry)| (*number, &entry.counts))
    }

    pub(super) fn faults(&self, number: u64) -> [Fault; 2] {
        self.connections.get(&number).map_or([Fault::Reset; 2], |entry| entry.faults)
    }

    fn took(&mut self, number: u64, index: usize, queue: &Queue) {
        if let Some(entry) = self.connections.get_mut(&number) {
            flow(&mut entry.counts, index).held = queue.length as u64;
        }
    }

    fn step(
        &mut self,
        number: u64,
        index: usize,
        queue: &mut Queue,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Step {
        let (seed, now) = (self.seed, Instant::now());
        let Some(entry) = self.connections.get_mut(&number) else { return Step::End(End::Reset) };
        let fault = entry.faults[index];
        if let Some(step) = entry.stopped(index, queue) {
            return step;
        }
        let Some((arrived, offset)) = queue.front() else { return Step::Idle };
        let delivered = match fault {
            Fault::Cut { per: Per::Link, .. } => self.since[index],
            _ => entry.since[index],
        };
        let (due, most) = match fault {
            Fault::Delay { min, max } => {
                (arrived + delay(seed, number, index, offset, min, max), u64::MAX)
            }
            Fault::Throttle { bytes_per_second } => (queue.next, bytes_per_second.div_ceil(TICKS)),
            Fault::Cut { after, .. } => (now, after.saturating_sub(delivered)),
            _ => (now, u64::MAX),
        };
        if due > now {
            return Step::Until(due);
        }
        let Some(bytes) = queue.bytes(most) else {
            return match queue.end() {
                None => Step::Idle,
                Some(End::Fin) => Step::Finish,
                Some(End::Reset) => Step::End(End::Reset),
            };
        };
        let written = if bytes.is_empty() {
            0
        } else {
            match write(bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Writable,
                Err(_) => return Step::Broken,
            }
        };
        entry.delivered(index, &bytes[..written]);
        self.since[index] += written as u64;
        if let Fault::Throttle { bytes_per_second } = fault {
            let nanos = written as u64 * 1_000_000_000 / bytes_per_second;
            queue.next = queue.next.max(now) + Duration::from_nanos(nanos);
        }
        queue.consume(written);
        flow(&mut entry.counts, index).held = queue.length as u64;
        match fault {
            Fault::Cut { after, per, end } if delivered + written as u64 >= after => {
                if per == Per::Link {
                    let is_this = |fault| matches!(fault, Fault::Cut { per: Per::Link, .. });
                    self.replace(index, is_this, Fault::Pass);
                }
                Step::End(end)
            }
            _ => Step::Again,
        }
    }
}

impl Entry {
    /// The step of a direction that its fault stops; `None`: bytes may pass.
    fn stopped(&mut self, index: usize, queue: &mut Queue) -> Option<Step> {
        match self.faults[index] {
            Fault::Reset => Some(Step::End(End::Reset)),
            Fault::Blackhole => {
                let flow = flow(&mut self.counts, index);
                flow.dropped += queue.clear();
                flow.held = 0;
                self.has_gap[index] |= flow.dropped > 0;
                Some(Step::Idle)
            }
            _ if self.has_gap[index] => Some(Step::End(End::Reset)),
            Fault::Hold | Fault::Drop | Fault::Throttle { bytes_per_second: 0 } => Some(Step::Idle),
            _ => None,
        }
    }

    fn delivered(&mut self, index: usize, bytes: &[u8]) {
        self.since[index] += bytes.len() as u64;
        flow(&mut self.counts, index).delivered += bytes.len() as u64;
        let names = self.framings.as_mut().map(|framings| framings[index].feed(bytes));
        let sums = match index {
            TO_SERVER => &mut self.counts.requests,
            _ => &mut self.counts.answers,
        };
        for name in names.into_iter().flatten() {
            *sums.entry(name).or_default() += 1;
        }
    }
}

fn flow(counts: &mut Counts, index: usize) -> &mut Flow {
    if index == TO_SERVER { &mut counts.to_server } else { &mut counts.to_client }
}

/// The same for the same seed, connection, direction and byte, whatever else happened before.
fn delay(
    seed: u64,
    number: u64,
    index: usize,
    offset: u64,
    min: Duration,
    max: Duration,
) -> Duration {
    let mut bits = seed;
    for part in [number, index as u64, offset] {
        // SplitMix64.
        bits = bits.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
    }
    let span = max.saturating_sub(min);
    // The upper 32 bits as a fraction.
    min + span.mul_f64((bits >> 32) as f64 / f64::from(u32::MAX))
}
