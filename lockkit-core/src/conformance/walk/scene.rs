//! Scenes: a holder, a waiter behind it and a newcomer, under one combination of circumstances.

use std::fmt;

use super::pairs::combinations;
use super::step::{Action, NAMES, Step};

/// How many values each dimension has, in the order of [`Scene::of`].
const SIZES: [usize; 7] = [2, 2, 3, 2, 4, 5, 5];

/// The circumstances of one scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    /// Whether the waiter is a request of the holder's own client.
    same_client: bool,
    /// Whether that client holds another name too, and waits for a third.
    several_names: bool,
    ttls: Ttls,
    /// Whether the waiter's link is the slowest, and not the holder's.
    slow_waiter: bool,
    time: Time,
    end: End,
    again: Again,
    /// Which of the texts the name and the labels have.
    text: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttls {
    Equal,
    HolderLonger,
    WaiterLonger,
}

/// What lasts long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Nothing,
    IdleBefore,
    Held,
    Waited,
}

/// How the holder's grant ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Release,
    Expiry,
    Revocation,
    Withdrawal,
    /// Its client is gone without a word.
    Crash,
}

/// When requests are sent a second time, or arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    AtOnce,
    AfterTheEnd,
    AfterTheNextEnd,
    /// A request that was withdrawn arrives after all, at last.
    VeryLate,
}

/// The scenes of a seed, in which each two circumstances meet.
pub(super) fn scenes(seed: u64) -> Vec<Scene> {
    let rows = combinations(seed, SIZES).into_iter().enumerate();
    // Texts only matter for themselves: each comes in turn.
    rows.map(|(number, row)| Scene::of(row, number % NAMES)).collect()
}

impl Scene {
    const fn of(row: [usize; 7], text: usize) -> Self {
        let [client, names, ttls, slow, time, end, again] = row;
        Self {
            same_client: client == 0,
            several_names: names == 1,
            ttls: [Ttls::Equal, Ttls::HolderLonger, Ttls::WaiterLonger][ttls],
            slow_waiter: slow == 1,
            time: [Time::Nothing, Time::IdleBefore, Time::Held, Time::Waited][time],
            end: [End::Release, End::Expiry, End::Revocation, End::Withdrawal, End::Crash][end],
            again: [
                Again::Never,
                Again::AtOnce,
                Again::AfterTheEnd,
                Again::AfterTheNextEnd,
                Again::VeryLate,
            ][again],
            text,
        }
    }

    /// The steps that play it.
    pub(super) fn steps(self) -> Vec<Step> {
        let mut steps = self.before();
        let waiter = steps.iter().filter(|step| asks(step.action)).count();
        let (holder_is, waiter_is) = self.clients();
        // Requests are counted in the order in which they ask, and are granted in it here.
        let holder = usize::from(self.time == Time::IdleBefore);
        let step = |action, client| Step { action, client, name: self.text, request: 0, wish: 0 };
        let of = |action, request| Step { request, ..step(action, holder_is) };
        steps.push(Step { wish: self.wish(self.waits_for()), ..step(Action::Wait, waiter_is) });
        if self.again == Again::AtOnce {
            steps.extend([of(Action::Replay, holder), of(Action::Replay, waiter)]);
        }
        if self.again == Again::VeryLate {
            steps.push(step(Action::SendLate, 0));
        }
        if self.time == Time::Waited {
            steps.push(step(Action::Hold, holder_is));
        }
        steps.push(step(Action::Inspect, waiter_is));
        steps.push(match self.end {
            End::Release => of(Action::Release, holder),
            End::Expiry => step(Action::Expire, holder_is),
            End::Revocation => step(Action::Revoke, waiter_is),
            End::Withdrawal => of(Action::Withdraw, holder),
            End::Crash => step(Action::Crash, holder_is),
        });
        if self.again == Again::AfterTheEnd {
            steps.extend([
                of(Action::Replay, holder),
                of(Action::Renew, holder),
                of(Action::Release, holder),
            ]);
        }
        // A newcomer is refused, whatever of the holder is left; its other name is its own still.
        steps.extend([step(Action::Try, 0), of(Action::Renew, holder + 1), step(Action::List, 0)]);
        steps.push(Step { name: self.text, ..of(Action::Withdraw, waiter) });
        if self.again == Again::AfterTheNextEnd {
            steps.extend([step(Action::Try, waiter_is), of(Action::Replay, holder)]);
            steps.extend([of(Action::Release, holder), of(Action::Replay, waiter)]);
        }
        if self.again == Again::VeryLate {
            steps.extend([step(Action::Deliver, 0), step(Action::Inspect, waiter_is)]);
        }
        steps.push(step(Action::Inspect, 0));
        steps
    }

    /// What comes before the waiter.
    fn before(self) -> Vec<Step> {
        let (holder_is, _) = self.clients();
        let step = |action, client, name| Step {
            action,
            client,
            name: (self.text + name) % NAMES,
            request: 0,
            wish: self.wish(self.held_for()),
        };
        let mut steps = Vec::new();
        if self.time == Time::IdleBefore {
            steps.extend([step(Action::Try, holder_is, 0), step(Action::Idle, 0, 0)]);
        }
        steps.push(step(Action::Try, holder_is, 0));
        if self.several_names {
            let other = (holder_is + 1) % 3;
            steps.push(step(Action::Try, holder_is, 1));
            steps.extend([step(Action::Try, other, 2), step(Action::Wait, holder_is, 2)]);
        }
        if self.time == Time::Held {
            steps.push(step(Action::Hold, 0, 0));
        }
        steps
    }

    /// The clients of the holder and of the waiter; the links of the third take longest.
    const fn clients(self) -> (usize, usize) {
        match (self.same_client, self.slow_waiter) {
            (true, true) => (2, 2),
            (true, false) => (1, 1),
            (false, true) => (1, 2),
            (false, false) => (2, 1),
        }
    }

    /// Places in the world's list of ttls: the first is odd, the second longer.
    const fn held_for(self) -> usize {
        matches!(self.ttls, Ttls::HolderLonger) as usize
    }

    const fn waits_for(self) -> usize {
        matches!(self.ttls, Ttls::WaiterLonger) as usize
    }

    /// The wish by which the world takes this ttl of four, and the label of this scene's text of five.
    fn wish(self, ttl: usize) -> usize {
        (0..20).find(|wish| wish % 4 == ttl && wish % 5 == self.text).unwrap_or(ttl)
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { same_client, several_names, ttls, slow_waiter, time, end, again, .. } = self;
        let clients = if *same_client { "one client" } else { "two clients" };
        let names = if *several_names { "several names" } else { "one name" };
        let slow = if *slow_waiter { "the waiter" } else { "the holder" };
        write!(
            f,
            "{clients}, {names}, ttls {ttls:?}, slow: {slow}, long: {time:?}, end by {end:?}"
        )?;
        write!(f, ", sent again: {again:?}")
    }
}

const fn asks(action: Action) -> bool {
    matches!(action, Action::Try | Action::Wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenes_of_a_seed_have_every_circumstance_and_are_few() {
        let scenes = scenes(1);
        assert!((25..40).contains(&scenes.len()), "{} scenes", scenes.len());
        for end in [End::Release, End::Expiry, End::Revocation, End::Withdrawal, End::Crash] {
            for same_client in [false, true] {
                let meets = |scene: &&Scene| scene.end == end && scene.same_client == same_client;
                assert!(scenes.iter().any(|scene| meets(&scene)), "{end:?}, {same_client}");
            }
        }
        let texts = (0..NAMES).filter(|text| scenes.iter().any(|scene| scene.text == *text));
        assert_eq!(texts.count(), NAMES);
    }

    #[test]
    fn a_wish_is_for_its_ttl_and_its_text() {
        for scene in scenes(2) {
            for ttl in 0..4 {
                let wish = scene.wish(ttl);
                assert_eq!((wish % 4, wish % 5), (ttl, scene.text));
            }
        }
    }
}
