//! Three members under a fixed script of faults, for 15 minutes or `LOCKKIT_SOAK_SECONDS`.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::common::session::{self, BACK};
use crate::common::{TICK, by, framing, locks_at, ms, nodes, three};
use lockkit_core::{Locks, async_trait};
use lockkit_zk::ZkNode;
use testbed::soak::{Fixture, Held, Holders, run};
use testbed::{Data, Fault as LinkFault, Link, Way, ZkEnsemble};
use tokio::runtime::Handle;
use zookeeper_client::{Client, Error as ZkError};

const TTL: Duration = ms(3_000);
/// How long the session of this ttl lasts.
const TIMEOUT: Duration = ms(4_000);
/// How long a member stays away that is killed, before it starts again.
const AWAY: Duration = ms(500);
/// By when a holder is told that an operator has ended its grant, as in the table of beliefs.
const TOLD: Duration = ms(500);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillAFollower,
    KillTheLeader,
    PauseAFollowerForHalfATimeout,
    PauseTheLeaderForTwoTimeouts,
    CutTheLinksToTheLeader,
    SilenceTheLinksToAFollower,
    IsolateAFollower,
    RestartAllAtOnce,
    EndASession,
    DeleteANode,
}

/// An ensemble, and a link to each member for the clients.
struct Three {
    ensemble: ZkEnsemble,
    links: Vec<Link>,
}

impl Three {
    fn start() -> Self {
        let ensemble = three();
        let links = ensemble.addresses().into_iter().map(framing::spying).collect();
        Self { ensemble, links }
    }

    fn comes_back(&self, member: usize) {
        sleep(AWAY);
        self.ensemble.member(member).restart(Data::Kept).unwrap();
        self.ensemble.settled().unwrap();
    }

    fn pauses(&self, member: usize, time: Duration) {
        self.ensemble.member(member).pause().unwrap();
        sleep(time);
        self.ensemble.member(member).resume().unwrap();
        self.ensemble.settled().unwrap();
    }

    /// Does it to the node of a grant that is held, unless that is gone by then: to another one.
    fn to_a_node(
        &self,
        holders: &Holders,
        does: &impl AsyncFn(&Client, &ZkNode) -> bool,
    ) -> Option<usize> {
        let done = async {
            let operator = session::operator(&self.ensemble.addresses()).await;
            loop {
                let Held { client, watch } = holders.one();
                if does(&operator, watch.native::<ZkNode>().unwrap()).await {
                    return client;
                }
            }
        };
        Some(Handle::current().block_on(by(BACK, "what an operator does", done)))
    }
}

#[async_trait]
impl Fixture for Three {
    type Fault = Fault;

    fn script(&self) -> Vec<Fault> {
        vec![
            Fault::KillAFollower,
            Fault::EndASession,
            Fault::PauseAFollowerForHalfATimeout,
            Fault::DeleteANode,
            Fault::CutTheLinksToTheLeader,
            Fault::KillTheLeader,
            Fault::EndASession,
            Fault::SilenceTheLinksToAFollower,
            Fault::RestartAllAtOnce,
            Fault::DeleteANode,
            Fault::IsolateAFollower,
            Fault::PauseTheLeaderForTwoTimeouts,
        ]
    }

    fn declared(&self, fault: Fault) -> Duration {
        match fault {
            Fault::EndASession | Fault::DeleteANode => TOLD,
            _ => Duration::ZERO,
        }
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    async fn connect(&self, _: usize) -> lockkit_core::Result<Locks> {
        let links: Vec<_> = self.links.iter().map(Link::address).collect();
        Ok(locks_at(&links).await)
    }

    fn happens(&self, fault: Fault, holders: &Holders) -> Option<usize> {
        let (leader, follower) =
            (self.ensemble.leader().unwrap(), self.ensemble.follower().unwrap());
        match fault {
            Fault::KillAFollower | Fault::KillTheLeader => {
                let member = if matches!(fault, Fault::KillTheLeader) { leader } else { follower };
                self.ensemble.member(member).kill().unwrap();
                self.comes_back(member);
            }
            Fault::PauseAFollowerForHalfATimeout => self.pauses(follower, TIMEOUT / 2),
            Fault::PauseTheLeaderForTwoTimeouts => self.pauses(leader, TIMEOUT * 2),
            Fault::CutTheLinksToTheLeader => {
                self.links[leader].refuse().unwrap();
                self.links[leader].reset().unwrap();
                sleep(TIMEOUT / 2);
                self.links[leader].pass().unwrap();
            }
            Fault::SilenceTheLinksToAFollower => {
                self.links[follower].fault(Way::Both, LinkFault::Blackhole);
                sleep(TIMEOUT);
                self.links[follower].pass().unwrap();
            }
            Fault::IsolateAFollower => {
                self.ensemble.isolate(follower);
                // It serves its clients on for five ticks.
                sleep(TIMEOUT + TICK * 5);
                self.ensemble.heal().unwrap();
                self.ensemble.settled().unwrap();
            }
            Fault::RestartAllAtOnce => self.ensemble.restart(Data::Kept).unwrap(),
            Fault::EndASession => {
                let server = self.ensemble.addresses()[leader];
                return self.to_a_node(holders, &async |operator, node| {
                    let Some(id) = session::owner_of(operator, node).await else { return false };
                    session::end(server, &self.links, id);
                    true
                });
            }
            Fault::DeleteANode => {
                return self.to_a_node(holders, &async |operator, node| match operator
                    .delete(&node.path, None)
                    .await
                {
                    Ok(()) => true,
                    Err(ZkError::NoNode) => false,
                    Err(error) => panic!("{error}"),
                });
            }
        }
        None
    }

    async fn left(&self) -> Vec<String> {
        let operator = session::operator(&self.ensemble.addresses()).await;
        let mut left = Vec::new();
        for name in nodes(&operator, "/lockkit").await {
            left.extend(nodes(&operator, &format!("/lockkit/{name}")).await);
        }
        left
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "15 minutes of faults; `cargo xtask soak` runs it"]
async fn clients_take_turns_while_members_links_and_sessions_fail() {
    run(Arc::new(Three::start())).await;
}
