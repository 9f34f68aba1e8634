//! The steps of a walk, which follow from a seed.

use crate::conformance::simulation::Random;

/// How many clients walk, and over how many names.
pub(super) const CLIENTS: usize = 3;
pub(super) const NAMES: usize = 5;

/// What a step does. The numbers beside it choose the client, the name, the request and the wish; the last
/// two among those that are there, so that a walk from which steps were taken out is a walk still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Asks for a name without waiting.
    Try,
    /// Asks for a name, and waits.
    Wait,
    /// Sends a request again that was granted before.
    Replay,
    Renew,
    Release,
    Withdraw,
    /// Ends a grant as an operator: the one that is meant, an older one of the name, or none.
    Revoke,
    Inspect,
    List,
    /// Asks for a held name as late as it must still be refused.
    Probe,
    /// Lets a holder's term run out.
    Expire,
    /// Lets a short time pass.
    Pause,
    /// Lets a long time pass, in which all holders renew.
    Hold,
    /// Lets a long time pass without holders.
    Idle,
    /// Ends a client without a word. This and what follows come in scenes only.
    Crash,
    /// Sends a request that is held up on its way, gives it up, and withdraws it.
    SendLate,
    /// Delivers what was held up.
    Deliver,
}

/// How often each action is drawn.
const WEIGHTS: &[(Action, u32)] = &[
    (Action::Try, 18),
    (Action::Wait, 18),
    (Action::Replay, 9),
    (Action::Renew, 9),
    (Action::Release, 14),
    (Action::Withdraw, 8),
    (Action::Revoke, 8),
    (Action::Inspect, 4),
    (Action::List, 7),
    (Action::Probe, 6),
    (Action::Expire, 6),
    (Action::Pause, 3),
    (Action::Hold, 2),
    (Action::Idle, 1),
];

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) client: usize,
    pub(super) name: usize,
    pub(super) request: usize,
    pub(super) wish: usize,
}

/// This many steps from a seed.
pub(super) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    (0..count).map(|_| Step::random(&mut random)).collect()
}

impl Step {
    fn random(random: &mut Random) -> Self {
        let all = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = random.below(all);
        let mut action = Action::Try;
        for (of, weight) in WEIGHTS {
            if drawn < *weight {
                action = *of;
                break;
            }
            drawn -= weight;
        }
        let mut number = || random.place(840);
        // The world's own numbers of clients and names divide what is drawn.
        let (client, name) = (number() % CLIENTS, number() % NAMES);
        Self { action, client, name, request: number(), wish: number() }
    }
}
