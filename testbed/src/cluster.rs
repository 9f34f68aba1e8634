//! Several servers that replicate one store, and the links between them.

use std::net::SocketAddr;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::{Data, Error, Fault, Link, Result, Server, Way};

/// How long an election may take, on a busy machine.
const ELECTED_WITHIN: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(10);
/// How often a start is tried on other ports when somebody else took one.
const STARTS: usize = 5;

/// The members of a cluster, numbered from 0; each talks to each other one over links of their own.
///
/// Clients talk to the members directly. Every member is a [`Server`], to be paused, killed and
/// restarted alone; it then listens, and [`settled`](Self::settled) waits until it has joined the
/// others. The methods of this type are for all members at once.
pub struct Cluster {
    members: Vec<Server>,
    links: Vec<Between>,
    view: View,
}

/// A link from one member to another.
pub(crate) struct Between {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) link: Link,
}

/// What a member says of the cluster; `None`: it has no leader, or says nothing.
pub(crate) type View = fn(&Server) -> Option<Seen>;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Grows with every election.
    pub(crate) term: u64,
    pub(crate) is_leader: bool,
    /// How many follow it, as a leader of ZooKeeper's knows it.
    pub(crate) followers: Option<usize>,
}

impl Cluster {
    /// Starts what `prepared` gives, and returns once a majority has a leader and all follow it.
    pub(crate) fn start<T>(
        prepared: impl Fn() -> Result<(Vec<Server>, Vec<Between>, T)>,
        view: View,
    ) -> Result<(Self, T)> {
        let mut starts = 1;
        loop {
            let (members, links, rest) = prepared()?;
            let cluster = Self { members, links, view };
            match cluster.restart(Data::Kept) {
                Ok(()) => return Ok((cluster, rest)),
                Err(error) if starts < STARTS && error.is_lost_port() => starts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The member with this number.
    ///
    /// # Panics
    /// Where there are not so many.
    #[must_use]
    pub fn member(&self, number: usize) -> &Server {
        &self.members[number]
    }

    /// All members.
    #[must_use]
    pub fn members(&self) -> &[Server] {
        &self.members
    }

    /// The addresses that clients without TLS connect to, one for each member.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Server::address).collect()
    }

    /// The member that leads a majority, as soon as there is one.
    ///
    /// Right after a leader is cut off, paused or killed this is still the former one as long as
    /// the others follow it: see [`leader_other_than`](Self::leader_other_than).
    ///
    /// # Errors
    /// [`Error::Late`] where there is none within 20 seconds.
    pub fn leader(&self) -> Result<usize> {
        self.until("a leader", |seen| self.leads(seen).map(|(leader, _)| leader))
    }

    /// The member that leads a majority, as soon as it is another one than this.
    ///
    /// # Errors
    /// [`Error::Late`] where there is none within 20 seconds.
    pub fn leader_other_than(&self, former: usize) -> Result<usize> {
        self.until("another leader", |seen| {
            self.leads(seen).map(|(leader, _)| leader).filter(|leader| *leader != former)
        })
    }

    /// A member that does not lead, as soon as there is a leader.
    ///
    /// # Errors
    /// [`Error::Late`] where there is none within 20 seconds.
    pub fn follower(&self) -> Result<usize> {
        Ok(usize::from(self.leader()? == 0))
    }

    /// Blocks until every member that runs follows one leader of a majority, and has caught up.
    ///
    /// # Errors
    /// [`Error::Late`] where they do not within 20 seconds.
    pub fn settled(&self) -> Result<()> {
        // One that was paused answers for a moment as if nothing had been: what it says counts only
        // once its leader has it back.
        self.follow()?;
        self.follow()
    }

    fn follow(&self) -> Result<()> {
        self.until("all members to follow a leader", |seen| {
            let (leader, term) = self.leads(seen)?;
            let follows = |(member, seen): (&Server, &Option<Seen>)| {
                !member.is_running() || seen.is_some_and(|seen| seen.term == term)
            };
            let running = self.members.iter().filter(|member| member.is_running()).count();
            let has_all = match seen[leader]?.followers {
                Some(followers) => followers + 1 >= running,
                None => true,
            };
            (has_all && self.members.iter().zip(seen).all(follows)).then_some(())
        })
    }

    /// Cuts a member off from the others, who notice nothing but its silence; its clients still
    /// reach it.
    pub fn isolate(&self, member: usize) {
        for Between { from, to, link } in &self.links {
            if *from == member || *to == member {
                link.fault(Way::Both, Fault::Blackhole);
            }
        }
    }

    /// The links that one member's connections to another go over, for other faults.
    pub fn links(&self, from: usize, to: usize) -> impl Iterator<Item = &Link> {
        let links = self.links.iter();
        links.filter(move |link| (link.from, link.to) == (from, to)).map(|link| &link.link)
    }

    /// Ends every fault between members.
    ///
    /// # Errors
    /// As [`Link::pass`].
    pub fn heal(&self) -> Result<()> {
        self.links.iter().try_for_each(|between| between.link.pass())
    }

    /// Freezes all members that run.
    ///
    /// # Errors
    /// As [`Server::pause`].
    pub fn pause(&self) -> Result<()> {
        self.members.iter().filter(|member| member.is_running()).try_for_each(Server::pause)
    }

    /// Lets all frozen members go on.
    ///
    /// # Errors
    /// As [`Server::resume`].
    pub fn resume(&self) -> Result<()> {
        self.members.iter().filter(|member| member.is_paused()).try_for_each(Server::resume)
    }

    /// Ends all members at once.
    ///
    /// # Errors
    /// As [`Server::kill`].
    pub fn kill(&self) -> Result<()> {
        self.members.iter().try_for_each(Server::kill)
    }

    /// Kills all members and starts them again, side by side; returns once all follow a leader,
    /// for which none may be cut off.
    ///
    /// # Errors
    /// As [`Server::restart`] and [`settled`](Self::settled).
    pub fn restart(&self, data: Data) -> Result<()> {
        // All die before the first one starts: what one has lost it could learn from another.
        self.kill()?;
        self.each(|member| member.restart(data)).into_iter().collect::<Result<()>>()?;
        self.settled()?;
        // Somebody else may have answered in the place of one that ended.
        match self.members.iter().find(|member| !member.is_running()) {
            None => Ok(()),
            Some(member) => Err(member.ended_early()),
        }
    }

    /// The leader of a majority and its term, of what the members say.
    fn leads(&self, seen: &[Option<Seen>]) -> Option<(usize, u64)> {
        let mut leaders = seen.iter().enumerate().filter_map(|(member, seen)| {
            let Seen { term, is_leader, .. } = (*seen)?;
            is_leader.then_some((member, term))
        });
        leaders.find(|(_, term)| {
            let same = seen.iter().flatten().filter(|seen| seen.term == *term);
            same.count() * 2 > self.members.len()
        })
    }

    fn until<T>(&self, what: &str, found: impl Fn(&[Option<Seen>]) -> Option<T>) -> Result<T> {
        let began = Instant::now();
        loop {
            let seen = self.each(|member| member.is_running().then(|| (self.view)(member))?);
            if let Some(found) = found(&seen) {
                return Ok(found);
            }
            if began.elapsed() > ELECTED_WITHIN {
                return Err(Error::Late { what: what.to_owned(), limit: ELECTED_WITHIN });
            }
            sleep(STEP);
        }
    }

    /// What `ask` gives for each member, asked side by side.
    fn each<T: Send>(&self, ask: impl Fn(&Server) -> T + Sync) -> Vec<T> {
        let ask = &ask;
        scope(|scope| {
            let asked: Vec<_> =
                self.members.iter().map(|member| scope.spawn(move || ask(member))).collect();
            asked
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("members", &self.members).finish_non_exhaustive()
    }
}

/// Every ordered pair of members.
pub(crate) fn pairs(size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..size)
        .flat_map(move |from| (0..size).filter(move |to| *to != from).map(move |to| (from, to)))
}
