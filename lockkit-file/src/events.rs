//! When files are closed, deleted or moved: told by the kernel on Linux, found by polling elsewhere.

use std::time::Duration;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Events, Watch};
#[cfg(not(target_os = "linux"))]
pub(crate) use none::{Events, Watch};

/// How often a waiter looks where nothing tells it.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// How often it looks although it would be told: for an overflow, or a file that a forked child
/// keeps open.
pub(crate) const BACKSTOP: Duration = Duration::from_millis(50);

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use lockkit_core::kit::{Alive, Service};
    use lockkit_core::{Finding, Result, Severity};
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use rustix::io::Errno;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::sync::Notify;

    use super::POLL;
    use crate::process;

    /// A holder closes a file that it opened to write; operators only read. A deleted file that is
    /// still open shows by its count of links, which is an attribute.
    const MASK: WatchFlags = WatchFlags::CLOSE_WRITE
        .union(WatchFlags::ATTRIB)
        .union(WatchFlags::MOVE_SELF)
        .union(WatchFlags::DELETE_SELF);

    /// One inotify instance for a provider; without one, every waiter polls.
    #[derive(Debug)]
    pub(crate) struct Events {
        shared: Option<Arc<Shared>>,
    }

    #[derive(Debug)]
    struct Shared {
        inotify: Arc<OwnedFd>,
        watched: Mutex<HashMap<i32, Watched>>,
        /// Whether the last watch was refused.
        is_full: AtomicBool,
        /// Hands the events on.
        pump: Service,
    }

    #[derive(Debug)]
    struct Watched {
        signal: Arc<Notify>,
        watches: usize,
    }

    impl Events {
        pub(crate) fn new() -> Self {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
            let inotify = inotify.inspect_err(|error| warn_once(*error, "instances")).ok();
            let shared = inotify.map(|inotify| {
                Arc::new(Shared {
                    inotify: Arc::new(inotify),
                    watched: Mutex::default(),
                    is_full: AtomicBool::new(false),
                    pump: Service::default(),
                })
            });
            Self { shared }
        }

        /// Whether the kernel tells.
        pub(crate) const fn push(&self) -> bool {
            self.shared.is_some()
        }

        /// Whether the kernel tells of too few files.
        pub(crate) fn finding(&self) -> Option<Finding> {
            match &self.shared {
                None => Some(exhausted("instances")),
                Some(shared) if shared.is_full.load(Ordering::Relaxed) => {
                    Some(exhausted("watches"))
                }
                Some(_) => None,
            }
        }

        /// Has a task hand the events on, in the runtime of the caller: so a provider outlives the
        /// runtime that connected it.
        ///
        /// # Errors
        /// `NoRuntime`: called outside a tokio runtime.
        pub(crate) fn run(&self) -> Result<()> {
            let Some(shared) = &self.shared else { return Ok(()) };
            shared.pump.ensure(|alive| {
                let pumping = Pumping { shared: Arc::clone(shared), alive: Some(alive) };
                // Deprecated for sources that may change their descriptor, which an `OwnedFd` never
                // does; its successor is too new for the oldest tokio that we take.
                #[allow(deprecated)]
                let inotify =
                    AsyncFd::with_interest(Arc::clone(&shared.inotify), Interest::READABLE);
                async move {
                    if let Ok(inotify) = inotify {
                        pump(inotify, pumping).await;
                    }
                }
            })
        }

        /// Tells from now on what happens to the file at `path`.
        pub(crate) fn watch(&self, path: &Path) -> Watch {
            // Without a runtime the caller polls.
            self.run().ok();
            let signal = Arc::default();
            let Some(shared) = &self.shared else { return Watch { target: None, signal } };
            let mut watched = shared.watched();
            match inotify::add_watch(&*shared.inotify, path, MASK) {
                Ok(number) => {
                    shared.is_full.store(false, Ordering::Relaxed);
                    let entry = watched.entry(number).or_insert(Watched { signal, watches: 0 });
                    entry.watches += 1;
                    let signal = Arc::clone(&entry.signal);
                    Watch { target: Some((Arc::clone(shared), number)), signal }
                }
                Err(error) => {
                    // A file that is gone is looked for again; a limit is worth a warning.
                    if error != Errno::NOENT {
                        shared.is_full.store(true, Ordering::Relaxed);
                        warn_once(error, "watches");
                    }
                    Watch { target: None, signal }
                }
            }
        }
    }

    fn warn_once(error: Errno, limit: &str) {
        if process::warns_first(Path::new("inotify")) {
            let Finding { what, remedy, .. } = exhausted(limit);
            tracing::warn!(
                target: "lockkit", event = "no_close_events", error = %error, "{what}; {remedy}",
            );
        }
    }

    fn exhausted(limit: &str) -> Finding {
        let what = format!("the kernel tells of no more files, so waiters look every {POLL:?}");
        Finding::new(Severity::Warning, what, format!("raise fs.inotify.max_user_{limit}"))
    }

    impl Drop for Events {
        fn drop(&mut self) {
            if let Some(shared) = &self.shared {
                shared.pump.stop();
            }
        }
    }

    impl Shared {
        fn watched(&self) -> MutexGuard<'_, HashMap<i32, Watched>> {
            self.watched.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Hands on what has happened; `false` if the kernel will tell no more.
        fn drain(&self) -> bool {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(&*self.inotify, &mut buffer);
            loop {
                match events.next() {
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                        self.tell_all();
                    }
                    Ok(event) => {
                        if let Some(watched) = self.watched().get(&event.wd()) {
                            watched.signal.notify_waiters();
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return error == Errno::AGAIN,
                }
            }
        }

        fn tell_all(&self) {
            for watched in self.watched().values() {
                watched.signal.notify_waiters();
            }
        }
    }

    /// The pump at work. At its end, also when its runtime drops it, each waiter looks for itself.
    struct Pumping {
        shared: Arc<Shared>,
        alive: Option<Alive>,
    }

    impl Drop for Pumping {
        fn drop(&mut self) {
            // First, so that a waiter that is told now starts another one.
            drop(self.alive.take());
            self.shared.tell_all();
        }
    }

    async fn pump(inotify: AsyncFd<Arc<OwnedFd>>, mut pumping: Pumping) {
        let Some(mut alive) = pumping.alive.take() else { return };
        let ended = async {
            loop {
                let Ok(mut ready) = inotify.readable().await else { return };
                if !pumping.shared.drain() {
                    return;
                }
                ready.clear_ready();
            }
        };
        tokio::select! {
            () = ended => {}
            () = alive.stopped() => {}
        }
        pumping.alive = Some(alive);
    }

    /// One watched file, as long as this lives.
    #[derive(Debug)]
    pub(crate) struct Watch {
        target: Option<(Arc<Shared>, i32)>,
        signal: Arc<Notify>,
    }

    impl Watch {
        /// Completes at the next event from this call on, not from its first poll on.
        pub(crate) fn changed(&self) -> impl Future<Output = ()> + Send {
            self.signal.notified()
        }

        /// Whether events come in now.
        pub(crate) fn is_live(&self) -> bool {
            self.target.as_ref().is_some_and(|(shared, _)| shared.pump.is_running())
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            let Some((shared, number)) = &self.target else { return };
            let mut watched = shared.watched();
            let Some(entry) = watched.get_mut(number) else { return };
            entry.watches -= 1;
            if entry.watches == 0 {
                watched.remove(number);
                // It fails for a file that is gone: the kernel has removed the watch by itself.
                inotify::remove_watch(&*shared.inotify, *number).ok();
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    use std::path::Path;

    use lockkit_core::{Finding, Result};

    #[derive(Debug)]
    pub(crate) struct Events;

    impl Events {
        pub(crate) const fn new() -> Self {
            Self
        }

        pub(crate) const fn push(&self) -> bool {
            false
        }

        pub(crate) const fn finding(&self) -> Option<Finding> {
            None
        }

        #[allow(clippy::unnecessary_wraps)] // as on Linux
        pub(crate) const fn run(&self) -> Result<()> {
            Ok(())
        }

        pub(crate) const fn watch(&self, _: &Path) -> Watch {
            Watch
        }
    }

    #[derive(Debug)]
    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn changed(&self) -> impl Future<Output = ()> + Send {
            std::future::pending()
        }

        pub(crate) const fn is_live(&self) -> bool {
            false
        }
    }
}
