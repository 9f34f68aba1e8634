//! What a provider is connected with.

use std::path::{Path, PathBuf};

use lockkit_core::kit::Url;
use lockkit_core::{Error, Result};

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
    /// The store in the directory that this URL names: `file:/path`, `file:///path`, or
    /// `file:relative/path` from the working directory. Its option is `token_base`.
    ///
    /// ```
    /// use lockkit_file::FileConfig;
    ///
    /// let config = FileConfig::from_url("file:/var/lib/billing/locks")?;
    /// assert_eq!(config.directory(), std::path::Path::new("/var/lib/billing/locks"));
    /// # Ok::<(), lockkit_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the URL, with what to write instead.
    pub fn from_url(url: &str) -> Result<Self> {
        Url::parse(url)?.try_into()
    }

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

/// Errors as [`FileConfig::from_url`].
impl TryFrom<Url> for FileConfig {
    type Error = Error;

    fn try_from(mut url: Url) -> Result<Self> {
        url.expect_scheme(&["file"])?;
        let path = url.path()?;
        let directory = match path.strip_prefix("//") {
            None => &*path,
            Some(absolute) if absolute.starts_with('/') => absolute,
            Some(_) => {
                return Err(Error::invalid(
                    "a host in a file: URL",
                    "write file:/path or file:///path, or file:relative/path without slashes before it",
                ));
            }
        };
        if directory.is_empty() || directory.contains('\0') {
            return Err(Error::invalid(
                "a file: URL that names no directory",
                "write file:/path, or file:relative/path",
            ));
        }
        let config = Self::new(directory).token_base(url.take_token_base()?);
        url.finish(&[])?;
        Ok(config)
    }
}
