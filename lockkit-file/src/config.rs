//! What a provider is connected with.

use std::path::{Path, PathBuf};

/// Where the store is, and from where its tokens count.
///
/// ```
/// use lockkit_file::FileConfig;
///
/// let config = FileConfig::new("/var/lib/billing/locks").token_base(1_000);
/// assert_eq!(config.directory(), std::path::Path::new("/var/lib/billing/locks"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileConfig {
    directory: PathBuf,
    token_base: u64,
}

impl FileConfig {
    /// A store in `directory`, with tokens that start at the wall clock in microseconds.
    ///
    /// The directory is created if its parent exists.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), token_base: 0 }
    }

    /// Adds `base` to the clock's part of every token: to move names here from a store whose
    /// tokens were greater (C4).
    ///
    /// It may be raised or lowered at any time: tokens that were granted here are never undercut.
    #[must_use]
    pub const fn token_base(mut self, base: u64) -> Self {
        self.token_base = base;
        self
    }

    /// The directory of the store.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What [`token_base`](Self::token_base) was set to; 0 by default.
    pub const fn base(&self) -> u64 {
        self.token_base
    }
}
