//! What one run is like: everything that is drawn from its seed before it begins.

use std::time::Duration;

use super::random::Random;

/// The conditions of one run.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    pub(super) ttl: Duration,
    pub(super) processes: usize,
    /// How many tasks of each process take locks.
    pub(super) workers: usize,
    pub(super) names: usize,
    /// The longest rest of a worker, and its longest step of work.
    pub(super) rest: Duration,
    pub(super) work: Duration,
    /// The longest that a message usually takes.
    pub(super) delay: Duration,
    /// How many messages of a thousand meet each fault.
    pub(super) faults: MessageFaults,
    /// Whether the store tells a holder that its grant has ended.
    pub(super) push: bool,
    /// How often, on average, something happens to a process or a link.
    pub(super) nemesis: Option<Duration>,
    /// How long all this lasts.
    pub(super) span: Duration,
}

/// In a thousand messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MessageFaults {
    pub(super) lost_request: u32,
    pub(super) lost_reply: u32,
    pub(super) duplicated: u32,
    pub(super) held: u32,
    pub(super) refused: u32,
}

impl Weather {
    pub(super) fn of(random: &mut Random) -> Self {
        let ttl = Duration::from_secs(random.one_of(&[2, 5, 15, 15, 15, 30, 30, 60]));
        let rough = random.one_of(&[0, 1, 1, 2, 4]);
        let faults = MessageFaults {
            lost_request: rough * random.below(20),
            lost_reply: rough * random.below(20),
            duplicated: rough * random.below(20),
            held: rough * random.below(10),
            refused: rough * random.below(10),
        };
        // Beyond the limit of a call, nothing would ever be answered.
        let usual = (ttl / random.one_of(&[1000, 200, 50, 10, 4])).min(Duration::from_secs(1));
        let calm = rough == 0 && random.often(300);
        Self {
            ttl,
            processes: random.one_of(&[2, 3, 4, 5, 6, 7]),
            workers: random.one_of(&[1, 2]),
            names: random.one_of(&[1, 2, 3]),
            rest: ttl / random.one_of(&[1, 2, 8]),
            work: ttl * random.one_of(&[1, 1, 2, 4]) / random.one_of(&[1, 4, 8]),
            delay: usual,
            faults,
            push: random.often(500),
            nemesis: (!calm).then(|| ttl * random.one_of(&[1, 2, 4])),
            span: ttl * 400,
        }
    }
}
