//! The scripts: which of them each call runs, and how they are sent. They themselves are in `lua/`.

use std::sync::LazyLock;

use lockkit_core::{Family, Kind, LockName};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value};

/// One script, sent by its hash, and in full where the server does not know it.
#[derive(Debug)]
pub(crate) struct Script(redis::Script);

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script(redis::Script::new(concat!(include_str!("lua/head.lua"), $(include_str!($file)),+)))
        });
    };
}

script!(ACQUIRE, "lua/acquire_fast.lua", "lua/prelude.lua", "lua/acquire.lua");
script!(RELEASE, "lua/release_fast.lua", "lua/prelude.lua", "lua/release.lua");
script!(ACQUIRE_SHARED, "lua/prelude.lua", "lua/acquire.lua");
script!(RELEASE_SHARED, "lua/prelude.lua", "lua/release_shared.lua");
script!(RENEW, "lua/prelude.lua", "lua/renew.lua");
script!(RENEW_SHARED, "lua/prelude.lua", "lua/renew_shared.lua");
script!(REST, "lua/prelude.lua", "lua/rest.lua");
script!(REST_SHARED, "lua/prelude.lua", "lua/rest_shared.lua");
script!(WITHDRAW, "lua/prelude.lua", "lua/ours.lua", "lua/withdraw.lua");
script!(BEAT, "lua/prelude.lua", "lua/counted.lua", "lua/beat.lua");
script!(INSPECT, "lua/prelude.lua", "lua/waiters.lua", "lua/inspect.lua");
script!(REVOKE, "lua/prelude.lua", "lua/revoke.lua");
/// A script about a semaphore.
macro_rules! counted {
    ($name:ident, $($file:literal),+) => {
        script!($name, "lua/prelude.lua", "lua/counted.lua", $($file),+);
    };
}

counted!(ACQUIRE_COUNTED, "lua/acquire_counted.lua");
counted!(RENEW_COUNTED, "lua/renew_counted.lua");
counted!(RELEASE_COUNTED, "lua/release_counted.lua");
counted!(REST_COUNTED, "lua/rest_counted.lua");
counted!(WITHDRAW_COUNTED, "lua/ours.lua", "lua/withdraw_counted.lua");
counted!(INSPECT_COUNTED, "lua/waiters.lua", "lua/inspect_counted.lua");
counted!(REVOKE_COUNTED, "lua/revoke_counted.lua");
counted!(RESIZE, "lua/resize.lua");
counted!(FORGET, "lua/forget.lua");

script!(PROBE, "lua/prelude.lua", "lua/probe.lua");

/// Every script of a plain lock's life, to be loaded ahead of the first use.
pub(crate) fn scripts() -> [&'static Script; 10] {
    [
        &ACQUIRE,
        &RENEW,
        &RELEASE,
        &ACQUIRE_SHARED,
        &RENEW_SHARED,
        &RELEASE_SHARED,
        &WITHDRAW,
        &BEAT,
        &INSPECT,
        &REVOKE,
    ]
}

/// The scripts that differ by the kind of lock.
pub(crate) struct Scripts {
    pub(crate) acquire: &'static Script,
    pub(crate) renew: &'static Script,
    pub(crate) release: &'static Script,
    pub(crate) rest: &'static Script,
}

impl Scripts {
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Shared => Self {
                acquire: &ACQUIRE_SHARED,
                renew: &RENEW_SHARED,
                release: &RELEASE_SHARED,
                rest: &REST_SHARED,
            },
            Kind::Counted => Self {
                acquire: &ACQUIRE_COUNTED,
                renew: &RENEW_COUNTED,
                release: &RELEASE_COUNTED,
                rest: &REST_COUNTED,
            },
            _ => Self { acquire: &ACQUIRE, renew: &RENEW, release: &RELEASE, rest: &REST },
        }
    }
}

/// The scripts that differ by the family of the name.
pub(crate) struct OfFamily {
    pub(crate) withdraw: &'static Script,
    pub(crate) inspect: &'static Script,
    pub(crate) revoke: &'static Script,
}

impl OfFamily {
    pub(crate) fn of(name: &LockName) -> Self {
        match name.family() {
            Family::Semaphore => Self {
                withdraw: &WITHDRAW_COUNTED,
                inspect: &INSPECT_COUNTED,
                revoke: &REVOKE_COUNTED,
            },
            _ => Self { withdraw: &WITHDRAW, inspect: &INSPECT, revoke: &REVOKE },
        }
    }
}

impl Script {
    /// Runs it on these locks. The keys beside them follow from theirs: to pass a key costs more than most
    /// commands.
    pub(crate) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        locks: &[&str],
        args: &[&str],
    ) -> RedisResult<Value> {
        let call = self.call(locks, args);
        let answer = connection.send_packed_command(&call).await?.extract_error();
        match answer {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.load(connection).await?;
                connection.send_packed_command(&call).await?.extract_error()
            }
            answer => answer,
        }
    }

    /// The command, written into one buffer: redis's own takes one for each part.
    fn call(&self, locks: &[&str], args: &[&str]) -> Cmd {
        let hash = self.0.get_hash();
        let texts = || locks.iter().chain(args);
        let size = hash.len() + 16 + texts().map(|text| text.len()).sum::<usize>();
        let mut call = Cmd::with_capacity(3 + locks.len() + args.len(), size);
        call.arg("EVALSHA").arg(hash).arg(locks.len());
        for text in texts() {
            call.arg(*text);
        }
        call
    }

    pub(crate) async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.0.load_async(connection).await.map(|_: String| ())
    }
}
