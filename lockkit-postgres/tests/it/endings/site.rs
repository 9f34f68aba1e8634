//! The ways of ending, and how each is made to happen.

use std::sync::Arc;
use std::time::Duration;

use lockkit_core::Locks;
use lockkit_postgres::Strategy;
use testbed::{Data, Fault, Link, PostgresBuilder, PostgresServer, Way};

use crate::common::{join, ms};

/// How long a slow restart takes.
pub(super) const DOWN: Duration = Duration::from_secs(3);
/// The longest for which both may believe under advisory locks once a session has ended at the server.
const DECLARED: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every backend of the holder's client, by `pg_terminate_backend`.
    Terminated,
    /// The server, in order, back at once.
    Restarted,
    /// The server, in order, back after a while.
    Down,
    /// The server, at once: what was not flushed is lost.
    Crashed,
    /// What stands between the holder and the server, back after a while.
    ProxyRestarted,
    /// Every connection of the holder's client.
    Cut,
    /// The primary, at once and for good; a standby is promoted.
    Promoted,
    /// Every backend, while packets are lost both ways: the holder does not hear of it.
    Unheard,
    /// Nothing: packets are lost this way.
    Silent(Way),
}

pub(super) const ALL: [End; 11] = [
    End::Terminated,
    End::Restarted,
    End::Down,
    End::Crashed,
    End::ProxyRestarted,
    End::Cut,
    End::Promoted,
    End::Unheard,
    End::Silent(Way::Both),
    End::Silent(Way::ToServer),
    End::Silent(Way::ToClient),
];

impl End {
    /// Whether the holder's link stays silent.
    pub(super) const fn is_silence(self) -> bool {
        matches!(self, Self::Silent(_) | Self::Unheard)
    }

    /// For how long both may believe under advisory locks.
    pub(super) const fn declared(self, ttl: Duration) -> Duration {
        match self {
            Self::Silent(_) => Duration::ZERO,
            Self::Unheard => ttl,
            _ => DECLARED,
        }
    }

    /// Whether it ends the server, so that nothing else may use that one.
    const fn is_of_the_server(self) -> bool {
        matches!(self, Self::Restarted | Self::Down | Self::Crashed | Self::Promoted)
    }
}

/// Where one way of ending happens.
pub(super) struct Site {
    end: End,
    server: Arc<PostgresServer>,
    standby: Option<PostgresServer>,
    /// Between the holder and the server, and between the waiter and the server.
    links: [Link; 2],
}

pub(super) fn builder() -> PostgresBuilder {
    // What the server has not flushed is lost with it.
    PostgresServer::builder().setting("max_connections", 200).setting("wal_writer_delay", "10s")
}

impl Site {
    /// A server of its own, where `shared` cannot be used.
    pub(super) fn of(end: End, shared: &Arc<PostgresServer>) -> Self {
        let server = if end.is_of_the_server() {
            Arc::new(builder().start().unwrap())
        } else {
            Arc::clone(shared)
        };
        let standby =
            (end == End::Promoted).then(|| builder().standby_of(server.address()).start().unwrap());
        let links = [(); 2].map(|()| Link::to(server.address()).unwrap());
        Self { end, server, standby, links }
    }

    pub(super) async fn client(&self, link: usize, strategy: Strategy) -> Locks {
        let url = self.server.url_at(self.links[link].address());
        let name = self.holder();
        join(&format!("{url}?sslmode=disable&application_name={name}{link}"), strategy).await
    }

    /// How the holder's client calls itself, in front of the number of its link.
    fn holder(&self) -> String {
        format!("{:?}", self.end).replace(['(', ')'], "-")
    }

    /// Makes it happen; returns once it is over, a silence at once.
    pub(super) fn happen(&self) {
        let [link, _] = &self.links;
        match self.end {
            End::Terminated | End::Unheard => {
                if self.end == End::Unheard {
                    link.fault(Way::Both, Fault::Drop);
                }
                let those = format!("application_name = '{}0'", self.holder());
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE";
                self.server.sql(&format!("{sql} {those}")).unwrap();
            }
            End::Restarted | End::Down => {
                self.server.shut_down().unwrap();
                if self.end == End::Down {
                    std::thread::sleep(DOWN);
                }
                self.server.restart(Data::Kept).unwrap();
            }
            End::Crashed => {
                self.server.stop().unwrap();
                self.server.restart(Data::Kept).unwrap();
            }
            End::ProxyRestarted => {
                link.refuse().unwrap();
                link.reset().unwrap();
                std::thread::sleep(ms(500));
                link.pass().unwrap();
            }
            End::Cut => link.reset().unwrap(),
            End::Promoted => {
                self.server.stop().unwrap();
                let standby = self.standby.as_ref().unwrap();
                standby.sql("SELECT pg_promote()").unwrap();
                self.links.iter().for_each(|link| link.lead_to(standby.address()));
            }
            End::Silent(way) => link.fault(way, Fault::Drop),
        }
    }
}
