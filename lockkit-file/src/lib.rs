//! The embedded store of [lockkit](https://docs.rs/lockkit): one machine, many processes.
//!
//! A directory with a file for each name, locked by the kernel, so a holder that dies has let go.
//! Nothing runs beside the processes that take locks. `docs/file.md` tells the algorithm, the
//! failure modes and who may open the files.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
//! use lockkit_core::Locks;
//! use lockkit_file::{FileConfig, FileProvider};
//!
//! # let place = tempfile::tempdir().expect("a directory");
//! # let directory = place.path().join("locks");
//! let locks = Locks::new(FileProvider::connect(FileConfig::new(directory)).await?);
//! let guard = locks.lock("billing/nightly").acquire().await?;
//! println!("write with token {}", guard.token());
//! guard.release().await?;
//! # Ok(()) }
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

#[cfg(unix)]
mod acquire;
#[cfg(unix)]
mod client;
mod config;
#[cfg(unix)]
mod error;
#[cfg(unix)]
mod events;
#[cfg(unix)]
mod examine;
#[cfg(unix)]
mod files;
#[cfg(unix)]
mod held;
#[cfg(unix)]
mod lease;
#[cfg(unix)]
mod look;
#[cfg(unix)]
mod machine;
#[cfg(unix)]
mod name;
#[cfg(unix)]
mod network;
#[cfg(unix)]
mod operator;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod protocol;
#[cfg(unix)]
mod provider;
#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod provider;
#[cfg(unix)]
mod queue;
#[cfg(unix)]
mod record;
#[cfg(unix)]
mod seat;
#[cfg(unix)]
mod slot;
#[cfg(unix)]
mod together;
#[cfg(unix)]
mod tokens;
#[cfg(unix)]
mod turns;

pub use config::FileConfig;
#[cfg(unix)]
pub use lease::LockedFile;
pub use provider::FileProvider;
