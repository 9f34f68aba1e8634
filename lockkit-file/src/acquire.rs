//! How a request takes a name.
//!
//! ```text
//! queued --no request of this process is before it--> trying
//! trying --both files locked--> its token is written and synced (lease.rs)
//! trying --the turn is that of an earlier waiter of another process--> stepping back
//! trying --another holds--> waiting
//! trying --a program that knows nothing of us holds, twice--> in the kernel's queue
//! trying --those who share hold--> waiting, where an exclusive request lets no other shared one in
//! trying --a token of another is being written--> trying, a moment later
//! trying --as many permits are held as may be--> waiting
//! trying --other files lie there--> trying, with those
//! stepping back, waiting --a file was closed, or its time is over--> trying
//! in the kernel's queue --locked, or other files lie there--> trying
//! ```
//!
//! A request that does not wait tries, and is refused where it would wait.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{Error, FencingToken, Grant, Kind, Request, Result, StoreSays};
use tokio::sync::futures::Notified;
use tokio::time::{Sleep, sleep};

use crate::client::Client;
use crate::error::ended;
use crate::events::{BACKSTOP, POLL, Watch};
use crate::files::LockFiles;
use crate::held::Held;
use crate::lease::{grant, sync};
use crate::protocol::{Attempted, Blocked, Candidate, Passage};
use crate::queue::Queued;
use crate::slot::{Slot, Standing};
use crate::turns::Turn;
use crate::{look, machine, operator, seat};

/// How soon to look again at a twin that an operator may be looking at.
const BLIP: Duration = Duration::from_millis(1);
/// How often, before the twin counts as held.
const BLIPS: u32 = 5;
/// How often at a door, within which a token may be synced.
const DOOR_BLIPS: u32 = 2_000;
/// How often after a file was closed: of a process that is killed the kernel may close that file first, and unlock the
/// permit a little later.
const AFTER_CLOSE: u32 = 2;
/// For how long a waiter steps back for one that came earlier, if nothing happens to the file.
const STEP_BACK: Duration = Duration::from_millis(5);

/// Takes the name if it is free, and nothing of this process stands before the request.
pub(crate) async fn at_once(client: &Arc<Client>, request: &Request) -> Result<Option<Grant>> {
    let entry = client.enter(request, false)?;
    let (slot, files) = (Arc::clone(entry.slot()), entry.files());
    let (mut blips, mut stale) = (0, Stale(0));
    loop {
        match slot.standing() {
            Standing::Granted(token) => return Ok(Some(grant(entry, token, request, None))),
            Standing::Ended(reason) => return Err(ended(reason)),
            // Its own attempt elsewhere, or others of this process, stand before it.
            Standing::Granting => return Ok(None),
            Standing::Queued | Standing::First if !entry.is_next() => {
                check_limit(request, &files)?;
                return Ok(None);
            }
            Standing::Queued | Standing::First => {}
        }
        let sent = request.clock().now();
        match Candidate::open(files.clone())?.attempt(request, None)? {
            Attempted::Taken(held) => return sync(entry, held, request, sent).await.map(Some),
            Attempted::Blocked(candidate, by) if blips < blips_at(by) => {
                candidate.let_go();
                blips += 1;
                sleep(BLIP).await;
            }
            Attempted::Blocked(candidate, _) => {
                candidate.let_go();
                return Ok(None);
            }
            Attempted::Stale => {
                stale.found_again(&files)?;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Takes the name, once it is this request's turn.
pub(crate) async fn waiting(client: &Arc<Client>, request: &Request) -> Result<Grant> {
    let entry = client.enter(request, true)?;
    let slot = Arc::clone(entry.slot());
    let mut waiter = Waiter::new(client, request, entry.files());
    loop {
        let told = match in_line(&slot, request, &waiter.files).await? {
            InLine::First(told) => told,
            InLine::Granted(token) => return Ok(grant(entry, token, request, None)),
        };
        let watches = waiter.watches.clone();
        // Made before the attempt: what is closed after it is told.
        let changed = [0, 1].map(|n| watches.get(n).map(|watch| watch.changed()));
        let sent = request.clock().now();
        match waiter.attempt()? {
            Step::Taken(held) => return sync(entry, held, request, sent).await,
            Step::Again => {}
            Step::Yield => tokio::task::yield_now().await,
            Step::Queue(candidate) => waiter.queue(candidate, told).await?,
            Step::Wait(pause) => {
                let [file, twin] = changed.map(or_never);
                tokio::select! {
                    () = told => {}
                    () = file => waiter.blips = 0,
                    () = twin => {}
                    () = sleep(pause) => drop(client.events.run()),
                }
            }
            Step::Back => {
                let [file, twin] = changed.map(or_never);
                tokio::select! {
                    () = told => {}
                    () = file => {}
                    () = twin => {}
                    () = waiter.patience() => {}
                }
            }
        }
    }
}

/// That the caller takes the limit that is noted, be it granted later.
fn check_limit(request: &Request, files: &LockFiles) -> Result<()> {
    if request.kind() != Kind::Counted {
        return Ok(());
    }
    let contents = look::contents(files).ok();
    contents
        .and_then(|contents| look::permits(&contents))
        .map_or(Ok(()), |limit| request.check_permits(limit))
}

/// How often to look again soon.
const fn blips_at(by: Blocked) -> u32 {
    match by {
        Blocked::Twin => BLIPS,
        Blocked::Door | Blocked::Busy => DOOR_BLIPS,
        Blocked::File | Blocked::Gate | Blocked::Full => 0,
    }
}

async fn or_never(changed: Option<impl Future<Output = ()>>) {
    match changed {
        Some(changed) => changed.await,
        None => std::future::pending().await,
    }
}

/// Where a request stands among those of this process.
enum InLine<'a> {
    /// It asks the kernel next, and is told of a change of its slot.
    First(Notified<'a>),
    /// It was granted by another call of the same request.
    Granted(FencingToken),
}

/// Waits until no request of this process is before it, or until it has been granted.
async fn in_line<'a>(slot: &'a Slot, request: &Request, files: &LockFiles) -> Result<InLine<'a>> {
    loop {
        let told = slot.changed.notified();
        match slot.standing() {
            Standing::Granted(token) => return Ok(InLine::Granted(token)),
            Standing::Ended(reason) => return Err(ended(reason)),
            Standing::First => return Ok(InLine::First(told)),
            Standing::Queued | Standing::Granting => {
                check_limit(request, files)?;
                let alone =
                    look::last_holder(files).filter(|record| record.kind == Kind::Exclusive);
                let holder = alone.or_else(|| seat::first_holder(files));
                let holder = holder.map(operator::holder);
                request.report(StoreSays::Held(holder));
                told.await;
            }
        }
    }
}

/// What comes after an attempt.
enum Step {
    Taken(Held),
    Again,
    /// The same, when other tasks have had their turn.
    Yield,
    /// Waits for an event, at most for so long.
    Wait(Duration),
    /// Waits for an event while an earlier waiter may take its turn.
    Back,
    /// Waits as a program that blocks in flock(2).
    Queue(Candidate),
}

/// The first of this process's requests for a name.
struct Waiter<'a> {
    client: &'a Client,
    request: &'a Request,
    files: LockFiles,
    mine: Turn,
    candidate: Option<Candidate>,
    /// Of the file, and of the twin where that alone is locked.
    watches: Vec<Arc<Watch>>,
    /// For whom it steps back, and for how long yet.
    back: Option<(Turn, Pin<Box<Sleep>>)>,
    /// The candidate has its file locked: it does not step back for others, which wait for that.
    is_locked: bool,
    blips: u32,
    stale: Stale,
    passed_over: PassedOver,
}

impl<'a> Waiter<'a> {
    fn new(client: &'a Client, request: &'a Request, files: LockFiles) -> Self {
        Self {
            client,
            request,
            files,
            mine: Turn::new(machine::boot_time(), request.id(), request.kind()),
            candidate: None,
            watches: Vec::new(),
            back: None,
            is_locked: false,
            blips: 0,
            stale: Stale(0),
            passed_over: PassedOver::default(),
        }
    }

    fn attempt(&mut self) -> Result<Step> {
        let mut candidate = match self.candidate.take() {
            Some(candidate) => candidate,
            None => Candidate::open(self.files.clone())?,
        };
        let kind = self.request.kind();
        let earlier = candidate.next_turn(kind).filter(|turn| *turn < self.mine);
        if let Some(turn) = earlier
            && !self.is_locked
            && candidate.passage != Passage::Within
            && self.steps_back(turn)
        {
            candidate.step_back(self.mine)?;
            self.candidate = Some(candidate);
            // Armed before the turn is looked at: what is closed after it is told.
            return Ok(if self.arms(1) { Step::Again } else { Step::Back });
        }
        self.is_locked = false;
        match candidate.attempt(self.request, Some(self.mine))? {
            Attempted::Taken(held) => {
                // An earlier waiter that did not use its turn died, or is slow.
                held.end_turns(self.mine, earlier);
                Ok(Step::Taken(held))
            }
            Attempted::Stale => {
                // Other files lie at these paths now: they are opened and watched again.
                self.watches.clear();
                self.stale.found_again(&self.files)?;
                Ok(Step::Yield)
            }
            Attempted::Blocked(candidate, by) => Ok(self.blocked(candidate, by)),
        }
    }

    fn blocked(&mut self, mut candidate: Candidate, by: Blocked) -> Step {
        (self.back, self.stale) = (None, Stale(0));
        self.is_locked = by.keeps_file();
        if self.arms(1) {
            self.candidate = Some(candidate);
            return Step::Again;
        }
        let alone = candidate.holder().filter(|record| record.kind == Kind::Exclusive).cloned();
        let holder = alone.or_else(|| seat::first_holder(&self.files));
        let holder = holder.map(operator::holder);
        self.request.report(StoreSays::Held(holder));
        if by == Blocked::File && self.passed_over.again(&candidate) {
            return Step::Queue(candidate);
        }
        // Shared requests pass the gate within microseconds.
        let is_passed = self.request.kind() == Kind::Exclusive && !candidate.keeps_gate();
        self.candidate = Some(candidate);
        let most = match by {
            _ if is_passed => BLIPS,
            Blocked::Full => AFTER_CLOSE,
            by => blips_at(by),
        };
        if self.blips < most {
            self.blips += 1;
            return Step::Wait(BLIP);
        }
        if by == Blocked::Twin && self.arms(2) {
            return Step::Again;
        }
        let is_told = self.watches.iter().all(|watch| watch.is_live());
        Step::Wait(if is_told { BACKSTOP } else { POLL })
    }

    /// Has the kernel tell of so many of the two files; whether it did not before.
    fn arms(&mut self, count: usize) -> bool {
        let had = self.watches.len();
        for path in [&self.files.file, &self.files.twin].into_iter().take(count).skip(had) {
            self.watches.push(Arc::new(self.client.events.watch(path)));
        }
        self.watches.len() > had
    }

    /// Whether this waiter still has patience with an earlier one.
    fn steps_back(&mut self, earlier: Turn) -> bool {
        match &self.back {
            Some((turn, patience)) if *turn == earlier => !patience.is_elapsed(),
            _ => {
                self.back = Some((earlier, Box::pin(sleep(STEP_BACK))));
                true
            }
        }
    }

    async fn patience(&mut self) {
        if let Some((_, patience)) = &mut self.back {
            patience.as_mut().await;
        }
    }

    /// Waits for the file as such a program does, until it is locked or the request is to look again.
    async fn queue(&mut self, candidate: Candidate, told: Notified<'_>) -> Result<()> {
        let Some(queued) = Queued::enter(candidate) else {
            sleep(POLL).await;
            return Ok(());
        };
        tokio::pin!(told);
        loop {
            tokio::select! {
                () = queued.over() => {
                    self.candidate = queued.take();
                    self.is_locked = self.candidate.is_some();
                    return Ok(());
                }
                () = &mut told => return Ok(()),
                () = sleep(BACKSTOP) => {
                    if !queued.is_in_place()? {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(mut candidate) = self.candidate.take() {
            candidate.leave(self.mine);
            candidate.let_go();
        }
    }
}

/// How often in a row a program that knows nothing of us held the name: it may block in flock(2), which comes before all that
/// only try.
#[derive(Default)]
struct PassedOver {
    count: u32,
    refusals: u32,
}

/// So often a refusal is looked into although a record names a holder: that holder may have died.
const DOUBTS: u32 = 4;

impl PassedOver {
    /// Whether that is so once more.
    fn again(&mut self, candidate: &Candidate) -> bool {
        self.refusals += 1;
        if self.count == 0 && candidate.holder().is_some() && !self.refusals.is_multiple_of(DOUBTS)
        {
            return false;
        }
        // One of us is seen so too, for the moment between its two files.
        self.count = if candidate.is_held_by_others() { self.count + 1 } else { 0 };
        self.count > 1
    }
}

/// How often in a row the files of a name were replaced between opening and locking them.
struct Stale(u32);

impl Stale {
    /// More than an admin's doing is a file system that gives a file a new number every time.
    fn found_again(&mut self, files: &LockFiles) -> Result<()> {
        self.0 += 1;
        if self.0 < 100 {
            return Ok(());
        }
        Err(Error::rejected(
            format!("locking {}: it is another file every time one looks", files.file.display()),
            "move the store to a local file system (ext4, xfs, btrfs, apfs, tmpfs), or stop what \
             replaces its files",
        ))
    }
}
