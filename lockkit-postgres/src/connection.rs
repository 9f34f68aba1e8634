//! One connection, over which one statement after the other runs to its end.
//!
//! A statement whose caller has gone is still run to its end, and its answer read: a connection
//! that was left in the middle of one would be of no use, and might keep a lock that no request knows of.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Instant, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::line::{Answer, Command, LIMIT, Line, Outlook, no_answer};

/// How long a statement's answer is waited for when its caller has gone, or by a client that connects, once it has a
/// connection: no ttl bounds that, and each connection is a process of the server's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How many commands one message holds at the most.
const MOST: usize = 256;
/// How soon the task looks again at a connection that callers use.
const LOOK: Duration = Duration::from_millis(10);
const ENDED: &str = "the connection has ended";

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A connection to the server.
///
/// ```text
///        a caller or the task takes the line            the answer has come
/// idle ---------------------------------------> busy ------------------------> idle
///   |                                             |
///   +--- the server ends it, or it is cut --------+--- it breaks, or is cut ---> ended
/// ```
///
/// A caller that finds it idle runs its statement itself: to have a task do it costs two switches between threads.
/// What it leaves half done goes to the task, as do the statements that find the line busy. While it is idle, the
/// task reads it, so as to hear of its end.
#[derive(Debug)]
pub(crate) struct Session {
    queue: mpsc::UnboundedSender<Queued>,
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

/// What the callers of a session and its task share.
struct Shared {
    /// Not there while a statement runs, nor once the connection has ended.
    line: Mutex<Option<Line>>,
    /// A statement whose caller has left.
    begun: Mutex<Option<Work>>,
    /// How many statements are under way or wait for their turn.
    pending: AtomicUsize,
    answers: AtomicUsize,
    /// When the statement that runs should have had its answer.
    due: Mutex<Option<Instant>>,
    /// A statement has broken the connection, or its task has ended.
    is_broken: AtomicBool,
    /// The server took no writes over it; `None`: it is given up then.
    reads_only: Option<AtomicBool>,
    is_cut: watch::Sender<bool>,
    /// Told when the line comes back to a task that waits for it, when it does not, and when a caller has left.
    returned: Notify,
    /// A caller has used the line since the task last looked, and the task looks.
    is_used: AtomicBool,
    is_looked_at: AtomicBool,
    give_up: Duration,
}

/// A statement that a caller has begun.
type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A command for the task.
struct Queued {
    command: Command,
    limit: Duration,
    state: Arc<AtomicU8>,
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
        let reads_only = Some(AtomicBool::new(false));
        Ok(Self::over(Line::watched(options, limit).await?, give_up, reads_only))
    }

    fn over(line: Line, give_up: Duration, reads_only: Option<AtomicBool>) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let (ending, ended) = watch::channel(false);
        let shared = Arc::new(Shared {
            line: Mutex::new(Some(line)),
            begun: Mutex::default(),
            pending: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            due: Mutex::default(),
            is_broken: AtomicBool::new(false),
            reads_only,
            is_cut: watch::Sender::new(false),
            returned: Notify::new(),
            is_used: AtomicBool::new(false),
            is_looked_at: AtomicBool::new(false),
            give_up,
        });
        // Made here: a runtime that ends may drop the task before it has begun.
        let serving = Serving(Arc::clone(&shared));
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            let ending = ending;
            let mut queued = queued;
            let serving = serving;
            let last = tokio::select! {
                last = serve(&serving.0, &mut queued) => last,
                () = serving.0.cut() => None,
            };
            // Closed before its end is told: a connection that takes its room is made after that. The commands that
            // are left are dropped later: their callers find it ended.
            drop(serving);
            // Before a caller has its answer.
            ending.send_replace(true);
            reply(last.unwrap_or_default());
        });
        Self { queue, shared, ended }
    }

    /// Sends it after what was sent before, and waits for the answer within `limit`.
    ///
    /// Dropped midway, it is sent or not; what was sent is run to its end.
    pub(crate) async fn ask(&self, clock: &Clock, limit: Duration, command: Command) -> Answer {
        if let Some(line) = self.shared.take_idle() {
            self.shared.begin(limit);
            let work = Box::pin(Arc::clone(&self.shared).run_here(line, command));
            let begun = Begun { shared: &self.shared, work: Some(work) };
            return tokio::select! {
                biased;
                answer = begun => answer,
                () = clock.sleep(limit) => Err(no_answer(Applied::Maybe, limit)),
            };
        }
        let (reply, answer) = oneshot::channel();
        let asked = Asked(Arc::new(AtomicU8::new(QUEUED)));
        self.shared.pending.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&asked.0);
        if self.queue.send(Queued { command, limit, state, reply, after: None }).is_err() {
            return Err(Error::unavailable(Applied::No, ENDED));
        }
        tokio::select! {
            biased;
            answered = answer => {
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
        let ((reply, _), state) = (oneshot::channel(), Arc::default());
        self.shared.pending.fetch_add(1, Ordering::SeqCst);
        // Where no task takes it, the connection has ended.
        self.queue.send(Queued { command, limit: LIMIT, state, reply, after: Some(after) }).ok();
    }

    /// How many statements are under way or wait for their turn.
    pub(crate) fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::SeqCst)
    }

    /// How many times the server has answered so far.
    pub(crate) fn answers(&self) -> usize {
        self.shared.answers.load(Ordering::SeqCst)
    }

    /// Whether the statement that runs has had no answer within its limit. That its caller has left, at its
    /// limit or before, changes nothing.
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.due().is_some_and(|due| due <= Clock::system().now())
    }

    /// Whether the server took no writes over it.
    pub(crate) fn reads_only(&self) -> bool {
        self.shared.reads_only.as_ref().is_some_and(|reads_only| reads_only.load(Ordering::SeqCst))
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.shared.is_broken.load(Ordering::SeqCst)
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

impl Shared {
    fn begun(&self) -> MutexGuard<'_, Option<Work>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, Option<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A statement begins, whose answer is due within `limit`.
    fn begin(&self, limit: Duration) {
        *self.due() = Some(Clock::system().now().saturating_add(limit));
    }

    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what an answer says of the connection; whether that ends.
    fn is_over(&self, outlook: Outlook) -> bool {
        match (outlook, &self.reads_only) {
            (Outlook::Good, _) => false,
            (Outlook::ReadsOnly, Some(reads_only)) => {
                reads_only.store(true, Ordering::SeqCst);
                false
            }
            (Outlook::ReadsOnly, None) | (Outlook::Ended, _) => true,
        }
    }

    /// The line for a caller, where no statement runs or waits.
    fn take_idle(&self) -> Option<Line> {
        self.pending.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        let line = self.line().take();
        if line.is_none() {
            self.pending.fetch_sub(1, Ordering::SeqCst);
        }
        self.is_used.store(true, Ordering::SeqCst);
        // The caller reads it from now on: the task must come back to it by itself.
        if matches!(line, Some(Line::Watched(_))) && !self.is_looked_at.swap(true, Ordering::SeqCst)
        {
            self.returned.notify_one();
        }
        line
    }

    /// Runs a caller's statement to its end, and gives the line back.
    async fn run_here(self: Arc<Self>, mut line: Line, command: Command) -> Answer {
        let ended = || Err(Error::unavailable(Applied::Maybe, ENDED));
        let (mut answers, outlook) = tokio::select! {
            biased;
            ran = line.run(std::slice::from_ref(&command)) => ran,
            () = self.cut() => (Vec::new(), Outlook::Ended),
        };
        let answer = answers.pop().unwrap_or_else(ended);
        let is_over = self.is_over(outlook);
        if is_over {
            drop(line);
            self.is_broken.store(true, Ordering::SeqCst);
        } else {
            self.give_back(line);
            self.answers.fetch_add(1, Ordering::SeqCst);
        }
        if self.pending.fetch_sub(1, Ordering::SeqCst) > 1 || is_over {
            self.returned.notify_one();
        }
        answer
    }

    /// Gives the line back, unless the task has ended meanwhile: the line then ends too.
    fn give_back(&self, line: Line) {
        *self.due() = None;
        let mut place = self.line();
        if !self.is_broken.load(Ordering::SeqCst) {
            *place = Some(line);
        }
    }

    /// Runs on what a caller has left, if one has.
    async fn go_on(&self) {
        let begun = self.begun().take();
        if let Some(work) = begun
            && tokio::time::timeout(self.give_up, work).await.is_err()
        {
            self.is_broken.store(true, Ordering::SeqCst);
        }
    }

    /// The line for the task, once it is there; `None`: it has ended.
    async fn take(&self) -> Option<Line> {
        loop {
            self.go_on().await;
            if let Some(line) = self.line().take() {
                return Some(line);
            }
            if self.is_broken.load(Ordering::SeqCst) {
                return None;
            }
            self.returned.notified().await;
        }
    }

    /// Completes when the other side has ended the connection while no statement runs.
    async fn ended(&self) {
        poll_fn(|context| {
            let mut line = self.line();
            match line.as_mut() {
                // Begun again at each poll: nothing of what it has read is lost with it.
                Some(line) => std::pin::pin!(line.ended()).poll(context),
                None => Poll::Pending,
            }
        })
        .await;
    }

    /// Completes when the connection is to be closed at once; level-triggered.
    async fn cut(&self) {
        self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await.ok();
    }

    /// Closes the connection, also where a caller uses it.
    fn end(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
        self.is_cut.send_replace(true);
        drop(self.line().take());
        let begun = self.begun().take();
        drop(begun);
    }
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
        f.debug_struct("Shared").field("pending", &self.pending).finish_non_exhaustive()
    }
}

/// A statement that a caller runs; the task runs it on where the caller leaves.
struct Begun<'a> {
    shared: &'a Shared,
    work: Option<Work>,
}

impl Future for Begun<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let answer = std::task::ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let mut begun = self.shared.begun();
        // Without a task the connection has ended, and the statement with it.
        if !self.shared.is_broken.load(Ordering::SeqCst) {
            *begun = Some(work);
            drop(begun);
            self.shared.returned.notify_one();
        }
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
struct Asked(Arc<AtomicU8>);

impl Asked {
    fn give_up(&self) -> Applied {
        match self.0.compare_exchange(QUEUED, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) | Err(GIVEN_UP) => Applied::No,
            Err(_) => Applied::Maybe,
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Whether the caller of a command still waits for it; from then on it counts as sent.
fn take_up(state: &AtomicU8) -> bool {
    state.compare_exchange(QUEUED, SENT, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// The callers that wait for an answer, each with what was said to it.
type Replies = Vec<(oneshot::Sender<Answer>, Answer)>;

fn reply(replies: Replies) {
    for (reply, answer) in replies {
        // It may have left.
        reply.send(answer).ok();
    }
}

/// Runs what it is given until the connection has ended, or no caller is left that could give more; what is to be
/// told of the last commands.
async fn serve(shared: &Shared, queue: &mut mpsc::UnboundedReceiver<Queued>) -> Option<Replies> {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(queued) => queued,
            None => match given(shared, queue).await {
                Given::Queued(queued) => queued,
                Given::Ended => return None,
                Given::Nothing => {
                    shared.take().await?.close().await;
                    return None;
                }
            },
        };
        let mut line = shared.take().await?;
        let together = taken_up(shared, first, queue, &mut next);
        let Some(limit) = together.iter().map(|queued| queued.limit).min() else {
            shared.give_back(line);
            continue;
        };
        shared.begin(limit);
        let (mut commands, mut callers) = (Vec::new(), Vec::new());
        for Queued { command, reply, after, .. } in together {
            commands.push(command);
            callers.push((reply, after));
        }
        let ran = tokio::time::timeout(shared.give_up, line.run(&commands)).await;
        let silence = || (vec![Err(no_answer(Applied::Maybe, shared.give_up))], Outlook::Ended);
        let (mut answers, outlook) = ran.unwrap_or_else(|_| silence());
        // Where the connection has ended, the last answer is for all that are left.
        if let Some(last) = answers.last().cloned() {
            answers.resize(callers.len(), last);
        }
        let is_over = shared.is_over(outlook);
        if !is_over {
            shared.give_back(line);
            shared.answers.fetch_add(1, Ordering::SeqCst);
        }
        shared.pending.fetch_sub(callers.len(), Ordering::SeqCst);
        let mut replies = Vec::new();
        for ((reply, after), answer) in callers.into_iter().zip(answers) {
            if let (Some(after), Ok(_)) = (after, &answer) {
                after();
            }
            replies.push((reply, answer));
        }
        if is_over {
            return Some(replies);
        }
        reply(replies);
    }
}

/// Those of the commands in the queue that go in one message with the first, and whose callers still wait for them;
/// `next`: the first that goes alone.
fn taken_up(
    shared: &Shared,
    first: Queued,
    queue: &mut mpsc::UnboundedReceiver<Queued>,
    next: &mut Option<Queued>,
) -> Vec<Queued> {
    let mut together = Vec::new();
    let mut queued = Some(first);
    while let Some(one) = queued.take() {
        let is_short = one.command.is_short();
        if !together.is_empty() && !is_short {
            *next = Some(one);
            break;
        }
        if take_up(&one.state) {
            together.push(one);
        } else {
            shared.pending.fetch_sub(1, Ordering::SeqCst);
        }
        if is_short && together.len() < MOST {
            queued = queue.try_recv().ok();
        }
    }
    together.sort_by_key(|queued| matches!(queued.command, Command::Ping));
    together
}

/// What the task is to do next.
enum Given {
    Queued(Queued),
    /// The connection has ended.
    Ended,
    /// No caller is left.
    Nothing,
}

/// Waits for a command, and for the end of the connection.
async fn given(shared: &Shared, queue: &mut mpsc::UnboundedReceiver<Queued>) -> Given {
    loop {
        shared.go_on().await;
        if shared.is_broken.load(Ordering::SeqCst) {
            return Given::Ended;
        }
        // Callers use the line, and what it has to say wakes them: the task looks again by itself.
        let looks = shared.is_looked_at.load(Ordering::SeqCst);
        tokio::select! {
            biased;
            queued = queue.recv() => return queued.map_or(Given::Nothing, Given::Queued),
            () = shared.ended() => return Given::Ended,
            () = shared.returned.notified() => {}
            () = tokio::time::sleep(LOOK), if looks => {
                let is_used = shared.is_used.swap(false, Ordering::SeqCst);
                let is_idle = shared.line().is_some();
                shared.is_looked_at.store(is_used || !is_idle, Ordering::SeqCst);
                // A caller may have come in between, and have seen that the task looks.
                if shared.is_used.load(Ordering::SeqCst) {
                    shared.is_looked_at.store(true, Ordering::SeqCst);
                }
            }
        }
    }
}
