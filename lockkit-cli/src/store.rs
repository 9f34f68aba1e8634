//! Which store is meant, and how its URL is kept from other users' eyes.

use std::env;
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use lockkit::{Builder, Locks};

use crate::ending::{Failure, Own};

/// The variable that names the store, for this program and for the command that it runs.
pub(crate) const VARIABLE: &str = "LOCKKIT_STORE";
/// Set by this program for itself, and for no command: the variable above was an option, with a password in it.
pub(crate) const HIDDEN: &str = "LOCKKIT_INTERNAL_HIDDEN";

/// How long connecting may take.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take, beyond the limit that the library has for it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long what was let go may take to be acknowledged.
pub(crate) const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// A store by its URL.
pub(crate) struct Store {
    pub(crate) url: String,
    /// What the command that is run may see of it.
    pub(crate) shown: String,
}

/// The store of the option, the variable, or the default.
///
/// An option with a password is moved into the environment, which no other user can read, and this program starts
/// again in place.
pub(crate) fn named(option: Option<String>) -> Result<Store, Failure> {
    if let Some(url) = option {
        if may_be_secret(&url) {
            return Err(again(&url));
        }
        return Ok(Store { shown: url.clone(), url });
    }
    match env::var(VARIABLE) {
        Ok(url) if !url.is_empty() => {
            let is_hidden = env::var_os(HIDDEN).is_some();
            let shown = if is_hidden { without_password(&url) } else { url.clone() };
            Ok(Store { url, shown })
        }
        Err(env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("{VARIABLE} is no text; percent-encode its bytes")))
        }
        _ => default().map(|url| Store { shown: url.clone(), url }),
    }
}

/// Connects, within the limit that the docs state.
pub(crate) async fn connect(url: &str, builder: Builder) -> Result<Locks, Failure> {
    Ok(try_connect(url, builder).await??)
}

/// The same, with what the store said where it refused.
pub(crate) async fn try_connect(
    url: &str,
    builder: Builder,
) -> Result<lockkit::Result<Locks>, Failure> {
    let connecting = lockkit::connect_with(url, builder);
    tokio::time::timeout(CONNECTS_WITHIN, connecting)
        .await
        .map_err(|_| late("connected", CONNECTS_WITHIN))
}

/// What the store answers, within the limit that the docs state.
pub(crate) async fn answer<T>(
    answer: impl Future<Output = lockkit::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWERS_WITHIN, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(late("answered", ANSWERS_WITHIN)),
    }
}

fn late(what: &str, limit: Duration) -> Failure {
    let line = format!(
        "the store has not {what} within {limit:?}; check that it runs, and its host and port"
    );
    Failure::new(Own::Unavailable, line)
}

/// The file store in the user's state directory.
fn default() -> Result<String, Failure> {
    if cfg!(not(all(unix, feature = "file"))) {
        return Err(Failure::usage(format!(
            "no store is named; give --store URL, or set {VARIABLE}"
        )));
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| {
            let line = format!(
                "neither XDG_STATE_HOME nor HOME is set for the default store; give --store file:/path, or set {VARIABLE}"
            );
            Failure::usage(line)
        })?;
    let directory = state.join("lockkit");
    make(&directory).map_err(|error| {
        let line = format!(
            "{}: {error}; make it writable, or give --store file:/path",
            directory.display()
        );
        Failure::new(Own::Refused, line)
    })?;
    let path = directory.join("locks");
    let path = path.to_str().ok_or_else(|| {
        Failure::usage("the state directory's path is no text; give --store file:/path")
    })?;
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    Ok(format!("file:{path}"))
}

/// The directory that the store's own is made in: of this user alone.
#[cfg(unix)]
fn make(directory: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(not(unix))]
fn make(directory: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)
}

/// Whether a password can be in it. A wrong yes costs a start of this program.
fn may_be_secret(url: &str) -> bool {
    url.contains('@') || url.contains("password")
}

/// Replaces this process by itself, with the URL in the environment; comes back only where that fails.
#[cfg(unix)]
fn again(url: &str) -> Failure {
    use std::os::unix::process::CommandExt;
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return Failure::system("finding this program's own file", &error),
    };
    let arguments = without_option(env::args_os().skip(1));
    let error = std::process::Command::new(program)
        .args(arguments)
        .env(VARIABLE, url)
        .env(HIDDEN, "1")
        .exec();
    Failure::system("starting again without the password", &error)
}

#[cfg(not(unix))]
fn again(_: &str) -> Failure {
    Failure::usage(format!("a password in --store can be seen by others; set {VARIABLE} instead"))
}

/// The arguments without `--store URL`; those of the command to run are left alone.
fn without_option(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut arguments) = (Vec::new(), arguments);
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            kept.push(argument);
            kept.extend(arguments);
            break;
        }
        if argument == "--store" {
            arguments.next();
        } else if !argument.to_string_lossy().starts_with("--store=") {
            kept.push(argument);
        }
    }
    kept
}

/// The URL without its password.
fn without_password(url: &str) -> String {
    let (before, options) = url.split_once('?').map_or((url, None), |(url, all)| (url, Some(all)));
    let mut shown = before.to_owned();
    if let Some((scheme, rest)) = before.split_once("://") {
        let end = rest.find('/').unwrap_or(rest.len());
        if let Some((login, host)) = rest[..end].rsplit_once('@') {
            let user = login.split(':').next().unwrap_or_default();
            let at = if user.is_empty() { "" } else { "@" };
            shown = format!("{scheme}://{user}{at}{host}{}", &rest[end..]);
        }
    }
    let is_open =
        |option: &&str| !option.split('=').next().unwrap_or_default().contains("password");
    let open: Vec<&str> =
        options.into_iter().flat_map(|all| all.split('&')).filter(is_open).collect();
    if !open.is_empty() {
        shown = format!("{shown}?{}", open.join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_loses_its_password_and_nothing_else() {
        for (url, shown) in [
            ("redis://app:pw@host:1/2?prefix=a", "redis://app@host:1/2?prefix=a"),
            ("redis://:pw@host", "redis://host"),
            ("redis+unix:///s?username=u&password=pw", "redis+unix:///s?username=u"),
            ("postgres://host/db?sslpassword=pw", "postgres://host/db"),
            ("zk://u:p@a:1,b:2/base", "zk://u@a:1,b:2/base"),
            ("file:/a@b:c", "file:/a@b:c"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn the_option_goes_and_the_command_keeps_its_own() {
        let of = |words: &[&str]| without_option(words.iter().map(OsString::from));
        let kept = ["run", "a", "--", "x", "--store", "y"].map(OsString::from);
        assert_eq!(of(&["--store", "u", "run", "a", "--", "x", "--store", "y"]), kept);
        assert_eq!(of(&["run", "--store=u", "a", "--", "x", "--store", "y"]), kept);
    }
}
