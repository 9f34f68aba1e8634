//! A holder and a waiter on servers of their own, and what an operator does to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LONGER_TICK, Way};
use crate::common::session::{self, BACK};
use crate::common::succession::{self, Succession};
use crate::common::{TICK, by, framing, locks_at, ms, server, three};
use lockkit_core::{Guard, LossReason};
use lockkit_zk::ZkNode;
use testbed::{
    Connections, Data, Fault, Link, Way as Flow, ZkBackup, ZkEnsemble, ZkServer, timing,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The holder's member where there are three; of members with the same data the last one leads.
const FIRST: usize = 0;
/// How many ticks more than its ttl a session lasts.
const SPARE: u32 = 1;

/// A holder and a waiter.
pub(super) struct Place {
    way: Way,
    runtime: Runtime,
    servers: Arc<Servers>,
    /// In front of the holder's server.
    link: Arc<Link>,
    guard: Arc<Guard>,
    session: i64,
    succession: Succession,
    before: Option<ZkBackup>,
}

enum Servers {
    One(ZkServer),
    Three(ZkEnsemble),
}

/// How long both believed, and of what the holder was told.
pub(super) struct Seen {
    pub(super) both: Duration,
    pub(super) lost: Option<LossReason>,
}

impl Servers {
    fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::One(server) => vec![server.address()],
            Self::Three(ensemble) => ensemble.addresses(),
        }
    }

    fn one(&self) -> &ZkServer {
        let Self::One(server) = self else { panic!("three members") };
        server
    }

    fn three(&self) -> &ZkEnsemble {
        let Self::Three(ensemble) = self else { panic!("a single server") };
        ensemble
    }
}

impl Place {
    pub(super) fn set_up(way: Way) -> Self {
        let servers = match way.has_three_members() {
            true => Servers::Three(three()),
            false => Servers::One(server()),
        };
        let link = framing::spying(servers.addresses()[FIRST]);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let granted = async {
            // The name's node is in the backup.
            let waiters = match way {
                Way::RestartWithALongerTick => locks_at(&servers.addresses()[1..]).await,
                _ => locks_at(&servers.addresses()).await,
            };
            let next = waiters.lock("a").ttl(way.ttl());
            next.acquire().await.unwrap().release().await.unwrap();
            let mut before = way.loses_data().then(|| servers.one().backup().unwrap());
            let holders = match way {
                Way::KillTheLeader => locks_at(&servers.addresses()).await,
                _ => locks_at(&[link.address()]).await,
            };
            if way == Way::RestoreWithTheSession {
                let other = holders.lock("b").ttl(way.ttl());
                other.acquire().await.unwrap().release().await.unwrap();
                before = Some(servers.one().backup().unwrap());
            }
            let guard = holders.lock("a").ttl(way.ttl()).acquire().await.unwrap();
            let session = session::of(&servers.addresses(), &guard).await;
            let succession = succession::after(&guard, &next).await;
            (guard, session, succession, before)
        };
        let (guard, session, succession, before) = runtime.block_on(granted);
        let (servers, link, guard) = (Arc::new(servers), Arc::new(link), Arc::new(guard));
        Self { way, runtime, servers, link, guard, session, succession, before }
    }

    /// Has the operator do it.
    pub(super) fn both_believed(self) -> Seen {
        let Self { way, runtime, servers, link, guard, session, succession, before } = self;
        let Succession { next, lost } = succession;
        assert!(guard.is_held() && !next.is_finished(), "{way:?}: it has ended before");
        let believer = believer(&runtime, &guard);
        if way == Way::DeleteTheNodeUnheard {
            link.fault(Flow::Both, Fault::Hold);
        }
        // In this thread: what it does blocks.
        let ended =
            Ended { servers: &servers, link: &link, guard: &guard, session, runtime: &runtime };
        ended.by(way, before.as_ref());
        let addresses = servers.addresses();
        runtime.block_on(async {
            let mut newcomer = tokio::spawn(async move {
                if !way.loses_data() {
                    return std::future::pending().await;
                }
                let guard = locks_at(&addresses).await.lock("a").ttl(way.ttl()).acquire().await;
                (guard.unwrap(), Instant::now())
            });
            if way.may_be_survived() {
                // For longer than its last term from before.
                tokio::time::sleep(way.ttl()).await;
                if !believer.is_finished() && !next.is_finished() {
                    return Seen { both: Duration::ZERO, lost: None };
                }
            }
            let mut next = next;
            let granted = async {
                tokio::select! {
                    granted = &mut next => granted,
                    granted = &mut newcomer => granted,
                }
            };
            let (_next, granted) =
                by(BACK * 2, &format!("{way:?}: the next grant"), granted).await.unwrap();
            let ended = by(BACK, &format!("{way:?}: the end of a belief"), believer).await.unwrap();
            let (reason, _) = by(BACK, "the loss", lost).await.unwrap();
            Seen { both: ended.saturating_duration_since(granted), lost: Some(reason) }
        })
    }
}

/// When the guard first said that it holds no more.
fn believer(runtime: &Runtime, guard: &Arc<Guard>) -> JoinHandle<Instant> {
    let guard = Arc::clone(guard);
    runtime.spawn(async move {
        while guard.is_held() {
            tokio::time::sleep(ms(1)).await;
        }
        Instant::now()
    })
}

/// What an operator has to end a grant with.
struct Ended<'a> {
    servers: &'a Servers,
    link: &'a Link,
    guard: &'a Guard,
    session: i64,
    runtime: &'a Runtime,
}

impl Ended<'_> {
    fn by(&self, way: Way, before: Option<&ZkBackup>) {
        match way {
            Way::EndTheSession => {
                session::end(self.servers.one().address(), [self.link], self.session);
            }
            Way::DeleteTheNode | Way::DeleteTheNodeUnheard => self.delete_the_node(),
            Way::CutUntilItExpires => self.link.fault(Flow::Both, Fault::Blackhole),
            Way::RestartQuickly => self.servers.one().restart(Data::Kept).unwrap(),
            Way::RestartAfterATimeout => {
                self.servers.one().kill().unwrap();
                std::thread::sleep(way.ttl() + TICK * SPARE + TICK);
                self.servers.one().restart(Data::Kept).unwrap();
            }
            Way::RestartWithShorterSessions => {
                self.servers.one().set_line("maxSessionTimeout=2000");
                self.servers.one().restart(Data::Kept).unwrap();
                self.until_back(|| self.servers.one().ask("cons"));
                // The server knows that it is back; the holder must have heard of the new limit too.
                self.runtime.block_on(async {
                    while self.guard.is_held() && self.guard.renew().await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
                self.link.fault(Flow::Both, Fault::Blackhole);
            }
            Way::RestartWithShorterSessionsUnheard => {
                self.servers.one().set_line("maxSessionTimeout=1000");
                self.link.fault_on(Connections::New, Flow::ToClient, Fault::Hold);
                self.servers.one().restart(Data::Kept).unwrap();
            }
            Way::RestartWithALongerTick => self.restart_with_a_longer_tick(),
            Way::KillTheLeader => {
                let leader = self.servers.three().leader().unwrap();
                self.servers.three().member(leader).kill().unwrap();
                self.servers.three().leader_other_than(leader).unwrap();
            }
            Way::RestoreWithTheGrant => {
                let backup = self.servers.one().backup().unwrap();
                // What the clients know is newer than what is in the backup.
                self.runtime.block_on(async {
                    let others = locks_at(&self.servers.addresses()).await;
                    others.lock("b").acquire().await.unwrap().release().await.unwrap();
                });
                self.servers.one().restore(&backup).unwrap();
            }
            Way::RestoreFromBeforeTheGrant | Way::RestoreWithTheSession => {
                self.servers.one().restore(before.expect("a backup")).unwrap();
            }
            Way::LoseAllData => self.servers.one().restart(Data::Lost).unwrap(),
        }
    }

    fn delete_the_node(&self) {
        let path = &self.guard.native::<ZkNode>().unwrap().path;
        self.runtime.block_on(async {
            let operator = session::operator(&self.servers.addresses()).await;
            operator.delete(path, None).await.unwrap();
        });
    }

    fn restart_with_a_longer_tick(&self) {
        let ensemble = self.servers.three();
        for member in 0..ensemble.members().len() {
            ensemble.set_line(member, format!("tickTime={}", LONGER_TICK.as_millis()));
        }
        ensemble.restart(Data::Kept).unwrap();
        self.until_back(|| ensemble.ask(FIRST, "cons"));
        ensemble.isolate(FIRST);
    }

    /// Waits until the holder's session is among the server's connections, or is lost meanwhile.
    fn until_back(&self, connections: impl Fn() -> testbed::Result<String>) {
        let name = session::name(self.session);
        let is_back =
            || !self.guard.is_held() || connections().is_ok_and(|known| known.contains(&name));
        self.runtime.block_on(timing::until(BACK, "the holder's return", is_back));
    }
}
