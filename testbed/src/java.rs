//! Programs in Java, from the jars that Debian installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::{Error, Result};

const JARS: &str = "/usr/share/java";

/// `java` with these jars, named without `.jar`, and what they need themselves; its options, the
/// class and the arguments come next.
///
/// It starts fast rather than runs fast, in little memory.
///
/// # Errors
/// [`Error::Missing`] where a jar is not installed.
pub fn command(jars: &[&str]) -> Result<Command> {
    let mut path = Vec::new();
    for jar in jars {
        let file = jar_file(jar);
        if !file.exists() {
            return Err(Error::Missing { program: file.display().to_string() });
        }
        path.push(file.display().to_string());
    }
    let mut command = Command::new("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-XX:-UsePerfData"])
        .args(["-Xmx128m", "-Djava.net.preferIPv4Stack=true"])
        .args(["-cp", &path.join(":")]);
    Ok(command)
}

/// Compiles a class, which needs these jars, into a directory.
///
/// # Errors
/// [`Error::Missing`] where there is no compiler; [`Error::Command`] with what it says.
pub fn compile(source: &Path, jars: &[&str], into: &Path) -> Result<()> {
    let jars: Vec<_> = jars.iter().map(|jar| jar_file(jar).display().to_string()).collect();
    run(Command::new("javac").args(["-cp", &jars.join(":"), "-d"]).arg(into).arg(source)).map(drop)
}

fn jar_file(name: &str) -> PathBuf {
    Path::new(JARS).join(name).with_extension("jar")
}
