//! One connection, over which one message after the other runs to its end.
//!
//! A statement whose caller has gone is still run to its end, and its answer read: a connection
//! that was left in the middle of one would be of no use, and might keep a lock that no request knows of.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lockkit_core::kit::Asking;
use lockkit_core::{Applied, Clock, Error, Instant, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, oneshot, watch};

use crate::line::{Answer, Command, LIMIT, Line, Outlook, no_answer};

/// How long a statement's answer is waited for when its caller has gone, or by a client that connects, once it has a
/// connection: no ttl bounds that, and each connection is a process of the server's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How many commands one message holds at most.
const MOST: usize = 256;
/// How soon the task looks again at a connection that callers use.
const LOOK: Duration = Duration::from_millis(10);
const ENDED: &str = "the connection has ended";

/// A connection to the server.
///
/// ```text
///        a caller or the task takes the line            the answers have come
/// idle ---------------------------------------> busy ------------------------> idle
///   |                                             |
///   +--- the server ends it, or it is cut --------+--- it breaks, or is cut ---> ended
/// ```
///
/// A caller that finds it idle runs its message itself: to have a task do it costs two switches between threads.
/// What it leaves half done goes to the task, as do the commands that find the line busy. While it is idle, the
/// task reads it, so as to hear of its end.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

/// What the callers of a session and its task share.
struct Shared {
    state: Mutex<State>,
    is_cut: watch::Sender<bool>,
    /// Told when there is something for the task to do.
    wanted: Notify,
    give_up: Duration,
}

struct State {
    /// Not there while a message runs, nor once the connection has ended.
    line: Option<Line>,
    /// The commands that wait for the line.
    queue: VecDeque<Queued>,
    /// A message whose caller has left.
    begun: Option<Work>,
    /// How many commands the message that runs holds, and when it should have had its answer.
    running: usize,
    due: Option<Instant>,
    /// How many messages were answered.
    answers: usize,
    /// A message has broken the connection, or its task has ended.
    is_broken: bool,
    /// No caller is left that could ask.
    is_left: bool,
    /// The server took no writes over it; `None`: it is given up then.
    reads_only: Option<bool>,
    /// A caller has used the line since the task last looked, and the task looks.
    is_used: bool,
    is_looked_at: bool,
}

/// A message that has begun.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A command that waits for the line.
struct Queued {
    command: Command,
    limit: Duration,
    /// It counts as sent, or its caller has given it up: whichever came first.
    is_taken: Arc<AtomicBool>,
    reply: oneshot::Sender<Answer>,
    after: Option<After>,
}

/// Called once a command has succeeded, and dropped uncalled where the connection has ended.
pub(crate) type After = Box<dyn FnOnce() + Send + Sync>;

impl Session {
    /// Connects within `limit`; it ends when a statement has no answer within `give_up`.
    pub(crate) async fn open(
        options: &PgConnectOptions,
        limit: Duration,
        give_up: Duration,
    ) -> Result<Self> {
        Ok(Self::over(Line::plain(options, limit).await?, give_up, None))
    }

    /// As [`open`](Self::open); its end is noticed also while no statement runs, and it goes on where the server takes
    /// no writes, for what lives on it.
    pub(crate) async fn watched(
        options: &PgConnectOptions,
        limit: Duration,
        give_up: Duration,
    ) -> Result<Self> {
        Ok(Self::over(Line::watched(options, limit).await?, give_up, Some(false)))
    }

    fn over(line: Line, give_up: Duration, reads_only: Option<bool>) -> Self {
        let (ending, ended) = watch::channel(false);
        let state = State {
            line: Some(line),
            queue: VecDeque::new(),
            begun: None,
            running: 0,
            due: None,
            answers: 0,
            is_broken: false,
            is_left: false,
            reads_only,
            is_used: false,
            is_looked_at: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            is_cut: watch::Sender::new(false),
            wanted: Notify::new(),
            give_up,
        });
        // Made here: a runtime that ends may drop the task before it has begun.
        let serving = Serving(Arc::clone(&shared));
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            let ending = ending;
            let serving = serving;
            tokio::select! {
                () = serve(&serving.0) => {}
                () = serving.0.cut() => {}
            }
            // Closed before its end is told: a connection that takes its room is made after that.
            drop(serving);
            ending.send_replace(true);
        });
        Self { shared, ended }
    }

    /// Sends it after what was sent before, and waits for the answer within `limit`.
    ///
    /// Dropped midway, it is sent or not; what was sent is run to its end.
    pub(crate) async fn ask(&self, clock: &Clock, limit: Duration, command: Command) -> Answer {
        let (reply, answer) = oneshot::channel();
        let asked = Asked(Arc::default());
        let is_taken = Arc::clone(&asked.0);
        let work = self.shared.push(Queued { command, limit, is_taken, reply, after: None })?;
        let shared = &self.shared;
        let work = work.map(|work| Asking::new(work, |work| shared.leave(work)));
        let answered = async {
            if let Some(work) = work {
                work.await;
            }
            answer.await
        };
        tokio::select! {
            biased;
            answered = answered => {
                answered.unwrap_or_else(|_| Err(Error::unavailable(asked.give_up(), ENDED)))
            }
            () = clock.sleep(limit) => Err(no_answer(asked.give_up(), limit)),
        }
    }

    /// The answer to a statement of a client that connects.
    pub(crate) async fn first(&self, sql: String) -> Answer {
        self.ask(&Clock::system(), PATIENCE, Command::Sql(sql)).await
    }

    /// Sends it after what was sent before, waits for no answer, and has `after` called once it has succeeded.
    pub(crate) fn tell(&self, command: Command, after: After) {
        let ((reply, _), is_taken) = (oneshot::channel(), Arc::default());
        let queued = Queued { command, limit: LIMIT, is_taken, reply, after: Some(after) };
        if let Ok(Some(work)) = self.shared.push(queued) {
            self.shared.leave(work);
        }
    }

    /// How many commands are under way or wait for their turn.
    pub(crate) fn pending(&self) -> usize {
        let state = self.shared.state();
        state.running + state.queue.len()
    }

    /// How many times the server has answered so far.
    pub(crate) fn answers(&self) -> usize {
        self.shared.state().answers
    }

    /// Whether the message that runs has had no answer within its limit. That its caller has left, at its
    /// limit or before, changes nothing.
    pub(crate) fn is_silent(&self) -> bool {
        let due = self.shared.state().due;
        due.is_some_and(|due| due <= Clock::system().now())
    }

    /// Whether the server took no writes over it.
    pub(crate) fn reads_only(&self) -> bool {
        self.shared.state().reads_only == Some(true)
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.shared.state().is_broken
    }

    /// Completes when the connection has ended; level-triggered.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            // An error says that its task has ended, and the connection with it.
            ended.wait_for(|ended| *ended).await.ok();
        }
    }

    /// What is left of it when this is dropped.
    pub(crate) fn leaving(&self) -> Leaving {
        Leaving { ended: self.ended.clone(), shared: Arc::clone(&self.shared) }
    }

    /// Closes the connection at once, also in the middle of a statement.
    pub(crate) fn cut(&self) {
        self.shared.is_cut.send_replace(true);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.state().is_left = true;
        self.shared.wanted.notify_one();
    }
}

impl Shared {
    /// What is dropped while this is locked may not look at the session: so no [`After`].
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a command behind the others; its message, where the line is idle.
    fn push(self: &Arc<Self>, queued: Queued) -> Result<Option<Work>> {
        let mut state = self.state();
        if state.is_broken {
            return Err(Error::unavailable(Applied::No, ENDED));
        }
        state.queue.push_back(queued);
        // Where there are others, the task has been told of them, or hears when the line comes back.
        if state.queue.len() > 1 {
            return Ok(None);
        }
        let work = self.begin(&mut state);
        if work.is_some() && state.reads_only.is_some() {
            // The caller reads the line from now on: the task must come back to it by itself.
            state.is_used = true;
            if !std::mem::replace(&mut state.is_looked_at, true) {
                self.wanted.notify_one();
            }
        }
        Ok(work)
    }

    /// The next message, of the commands in the queue that may go together and whose callers still wait for them.
    fn begin(self: &Arc<Self>, state: &mut State) -> Option<Work> {
        let line = state.line.take()?;
        let mut message: Vec<Queued> = Vec::new();
        while let Some(next) = state.queue.front()
            && message.len() < MOST
            && message.first().is_none_or(|first| first.command.goes_with(&next.command))
        {
            message.extend(state.queue.pop_front().filter(|next| !take(&next.is_taken)));
        }
        let Some(limit) = message.iter().map(|queued| queued.limit).min() else {
            state.line = Some(line);
            return None;
        };
        message.sort_by_key(|queued| matches!(queued.command, Command::Ping));
        state.running = message.len();
        state.due = Some(Clock::system().now().saturating_add(limit));
        Some(Box::pin(Arc::clone(self).run(line, message)))
    }

    /// Runs a message to its end, and gives the line back, unless the connection has ended.
    async fn run(self: Arc<Self>, line: Line, message: Vec<Queued>) {
        let (mut commands, mut callers) = (Vec::new(), Vec::new());
        for Queued { command, reply, after, .. } in message {
            commands.push(command);
            callers.push((reply, after));
        }
        // Dropped midway, the line goes first, then the connection is broken, and then the callers hear of it.
        let mut running = Running(Some(&self));
        let mut line = line;
        let (mut answers, outlook) = tokio::select! {
            biased;
            ran = line.run(&commands) => ran,
            () = self.cut() => (Vec::new(), Outlook::Ended),
        };
        // Where the connection has ended, the last answer is for all that are left.
        let ended = || Err(Error::unavailable(Applied::Maybe, ENDED));
        let last = answers.last().cloned().unwrap_or_else(ended);
        answers.resize(callers.len(), last);
        running.0 = None;
        self.give_back(line, outlook);
        for ((reply, after), answer) in callers.into_iter().zip(answers) {
            if let (Some(after), Ok(_)) = (after, &answer) {
                after();
            }
            // It may have left.
            reply.send(answer).ok();
        }
    }

    /// A message has run: the line is for the next one, unless the connection is over.
    fn give_back(&self, line: Line, outlook: Outlook) {
        let mut state = self.state();
        let is_over = match (outlook, &mut state.reads_only) {
            (Outlook::Good, _) => false,
            (Outlook::ReadsOnly, Some(reads_only)) => {
                *reads_only = true;
                false
            }
            (Outlook::ReadsOnly, None) | (Outlook::Ended, _) => true,
        };
        state.running = 0;
        if is_over || state.is_broken {
            // Closed before another caller finds it ended.
            drop(line);
            state.is_broken = true;
        } else {
            state.line = Some(line);
            state.answers += 1;
            state.due = None;
        }
        if state.is_broken || !state.queue.is_empty() {
            self.wanted.notify_one();
        }
    }

    /// The task runs on what a caller has begun.
    fn leave(&self, work: Work) {
        let mut state = self.state();
        // Without a task the connection has ended, and the message with it.
        if !state.is_broken {
            state.begun = Some(work);
            self.wanted.notify_one();
        }
    }

    /// What the task is to do next.
    fn next(self: &Arc<Self>) -> Next {
        let mut state = self.state();
        if let Some(work) = state.begun.take() {
            return Next::Run(work);
        }
        if state.is_broken {
            return Next::End(None);
        }
        if let Some(work) = self.begin(&mut state) {
            return Next::Run(work);
        }
        if state.is_left && state.line.is_some() {
            return Next::End(state.line.take());
        }
        Next::Listen { looks: state.is_looked_at }
    }

    /// Whether the task must look again by itself: callers use the line, and what it has to say wakes them.
    fn look(&self) {
        let mut state = self.state();
        state.is_looked_at = std::mem::take(&mut state.is_used) || state.line.is_none();
    }

    /// Completes when the other side has ended the connection while no message runs.
    async fn ended(&self) {
        poll_fn(|context| match self.state().line.as_mut() {
            // Begun again at each poll: nothing of what it has read is lost with it.
            Some(line) => std::pin::pin!(line.ended()).poll(context),
            None => Poll::Pending,
        })
        .await;
    }

    /// Completes when the connection is to be closed at once; level-triggered.
    async fn cut(&self) {
        self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await.ok();
    }

    /// Closes the connection, also where a caller uses it.
    fn end(&self) {
        self.is_cut.send_replace(true);
        let (line, begun, queue) = {
            let mut state = self.state();
            state.is_broken = true;
            (state.line.take(), state.begun.take(), std::mem::take(&mut state.queue))
        };
        // Closed before those that wait for the line hear of it.
        drop((line, begun));
        drop(queue);
    }
}

/// A message under way, without which the connection is of no more use.
struct Running<'a>(Option<&'a Shared>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.state().is_broken = true;
        }
    }
}

enum Next {
    Run(Work),
    /// The connection has ended, or no caller is left, and this is closed in order.
    End(Option<Line>),
    Listen {
        looks: bool,
    },
}

/// The task of a connection, which ends with it, or with its runtime.
struct Serving(Arc<Shared>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("is_broken", &self.state().is_broken).finish_non_exhaustive()
    }
}

/// What is left of a connection that gets no more commands: it ends with its last answer, or when it
/// has to make room.
#[derive(Debug)]
pub(crate) struct Leaving {
    ended: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

impl Leaving {
    pub(crate) fn is_over(&self) -> bool {
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }

    /// Ends it now; returns once it has ended.
    pub(crate) async fn end(mut self) {
        self.shared.is_cut.send_replace(true);
        self.ended.wait_for(|ended| *ended).await.ok();
    }
}

/// A caller's side of a command: one that was given up before it was sent is not sent at all.
struct Asked(Arc<AtomicBool>);

impl Asked {
    fn give_up(&self) -> Applied {
        if take(&self.0) { Applied::Maybe } else { Applied::No }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Takes a command, to send it or to give it up; whether it was taken before.
fn take(is_taken: &AtomicBool) -> bool {
    is_taken.swap(true, Ordering::SeqCst)
}

/// Runs what the callers leave to it until the connection has ended, or no caller is left that could give more.
async fn serve(shared: &Arc<Shared>) {
    loop {
        match shared.next() {
            Next::Run(work) => {
                if tokio::time::timeout(shared.give_up, work).await.is_err() {
                    return;
                }
            }
            Next::End(Some(line)) => return line.close().await,
            Next::End(None) => return,
            Next::Listen { looks } => tokio::select! {
                biased;
                () = shared.ended() => return,
                () = shared.wanted.notified() => {}
                () = tokio::time::sleep(LOOK), if looks => shared.look(),
            },
        }
    }
}
