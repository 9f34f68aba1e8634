//! Installing what the tests need.

use crate::Result;
use crate::steps::{Steps, has, output};

/// A program that the tests need, beyond Rust itself.
struct Need {
    program: &'static str,
    debian: &'static str,
    purpose: &'static str,
}

/// Only what is needed today: a store's tests add their server here.
const NEEDS: &[Need] = &[
    #[cfg(unix)]
    Need { program: "kill", debian: "procps", purpose: "the quickstart stops a process" },
];

/// Installs what is missing, or says what to install.
pub(crate) fn run() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !has(need.program)).collect();
    for need in NEEDS {
        let state = if has(need.program) { "is there" } else { "is missing" };
        eprintln!("setup: {} {state} ({})", need.program, need.purpose);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.debian).collect();
    let packages = packages.join(" ");
    let sudo = match (has("apt-get"), is_root(), has("sudo")) {
        (true, true, _) => "",
        (true, false, true) => "sudo ",
        _ => {
            return Err(format!(
                "install what Debian has in the packages {packages}, then try again"
            ));
        }
    };
    let mut steps = Steps::default();
    let quiet = [("DEBIAN_FRONTEND", "noninteractive")];
    steps.command(&format!("{sudo}apt-get update -qq"), &quiet);
    steps.command(
        &format!("{sudo}apt-get install -y -qq --no-install-recommends {packages}"),
        &quiet,
    );
    steps.finish()?;
    match missing.iter().find(|need| !has(need.program)) {
        None => Ok(()),
        Some(need) => Err(format!("{} is still missing after the installation", need.program)),
    }
}

fn is_root() -> bool {
    output("id -u").is_ok_and(|id| id.trim() == "0")
}
