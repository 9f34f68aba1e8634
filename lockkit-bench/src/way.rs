//! Ways to take a name and give it back.

use lockkit_core::Locks;

/// One way: lockkit itself, its own requests sent by a bare client, a floor or a peer.
#[derive(Clone, Copy, Debug)]
pub struct Way<K> {
    /// What it is called in the tables. Where the server counts connections, they bear it.
    pub label: &'static str,
    /// What it does.
    pub kind: K,
    /// How many clients the tasks share; `None`: each has its own, as machines do.
    pub clients: Option<usize>,
}

impl<K: Sync> Way<K> {
    /// A way in which each task has a client of its own.
    pub const fn new(label: &'static str, kind: K) -> Self {
        Self { label, kind, clients: None }
    }

    /// The same way with so many clients for all tasks, under a label of its own.
    #[must_use]
    pub fn clients(self, clients: usize, label: &'static str) -> Self {
        Self { label, clients: Some(clients), ..self }
    }

    /// What each of so many tasks uses of lockkit: clients of their own, or in turn those that the way has.
    pub async fn locks<F>(&self, tasks: usize, connect: impl Fn() -> F + Send) -> Vec<Locks>
    where
        F: Future<Output = Locks> + Send,
    {
        let mut clients = Vec::new();
        for _ in 0..self.clients.unwrap_or(tasks) {
            clients.push(connect().await);
        }
        clients.iter().cycle().take(tasks).cloned().collect()
    }
}

/// A running server, and what connects to it.
pub trait Store: Send + Sync + 'static {
    /// What the ways of this store can do.
    type Kind: Copy + Send + Sync + 'static;
    /// What one task of a way uses.
    type Task: Task;

    /// The server and its settings, in a line.
    fn server(&self) -> String;

    /// What leads another process to the same server.
    fn address(&self) -> String;

    /// A store at what [`address`](Self::address) gave.
    fn at(address: &str) -> Self;

    /// What so many tasks of a way use.
    fn tasks(
        &self,
        way: &Way<Self::Kind>,
        count: usize,
    ) -> impl Future<Output = Vec<Self::Task>> + Send;

    /// A new client of lockkit's, as a program has it.
    fn locks(&self) -> impl Future<Output = Locks> + Send;

    /// The connections that the server counts for a way; 0 where it does not tell.
    fn connections(&self, _way: &Way<Self::Kind>) -> usize {
        0
    }

    /// The server's process; `None` where there is none.
    fn pid(&self) -> Option<u32>;
}

/// What one task uses.
pub trait Task: Send + 'static {
    /// What it has while it holds a name.
    type Held: Send;

    /// Makes what the name needs in the store before the first turn.
    fn prepare(&mut self, _name: &str) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Takes the name, and waits for it where it must.
    fn take(&mut self, name: &str) -> impl Future<Output = Self::Held> + Send;

    /// Gives the name back.
    fn give(&mut self, name: &str, held: Self::Held) -> impl Future<Output = ()> + Send;

    /// Lets the connections go before the next way begins.
    fn close(self) -> impl Future<Output = ()> + Send;
}
