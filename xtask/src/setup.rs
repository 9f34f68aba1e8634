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
#[cfg(unix)]
const NEEDS: &[Need] = &[
    Need { program: "etcd", debian: "etcd-server", purpose: "the tests of etcd" },
    Need { program: "etcdctl", debian: "etcd-client", purpose: "etcdctl takes the same locks" },
    Need { program: "javac", debian: "default-jdk-headless", purpose: "ZooKeeper runs on it" },
    Need {
        program: "/usr/share/java/zookeeper.jar",
        debian: "libzookeeper-java",
        purpose: "the tests of ZooKeeper",
    },
    Need {
        program: "/usr/share/java/curator-recipes.jar",
        debian: "libcurator-recipes-java",
        purpose: "Curator takes the same locks",
    },
    Need { program: "kill", debian: "procps", purpose: "the quickstart stops a process" },
    Need { program: "ps", debian: "procps", purpose: "tests look for processes left behind" },
    Need { program: "mariadbd", debian: "mariadb-server", purpose: "the tests of fences in MySQL" },
    Need { program: "pgbouncer", debian: "pgbouncer", purpose: "a pooler before Postgres" },
    Need { program: "postgres", debian: "postgresql", purpose: "the tests of Postgres" },
    Need { program: "script", debian: "bsdutils", purpose: "the command at a terminal" },
    Need { program: "redis-server", debian: "redis-server", purpose: "the tests of Redis" },
    Need {
        program: "protoc",
        debian: "protobuf-compiler libprotobuf-dev",
        purpose: "building the etcd store",
    },
    Need { program: "python3", debian: "python3-venv", purpose: "redis-py takes the same locks" },
];
/// The tests of servers and processes are for Unix.
#[cfg(not(unix))]
const NEEDS: &[Need] = &[];

/// Installs what is missing, or says what to install.
pub(crate) fn run() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !is_there(need)).collect();
    for need in NEEDS {
        let state = if is_there(need) { "is there" } else { "is missing" };
        eprintln!("setup: {} {state} ({})", need.program, need.purpose);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = |part: fn(&Need) -> &str| {
        missing.iter().map(|need| part(need)).collect::<Vec<_>>().join(" ")
    };
    let (programs, packages) = (list(|need| need.program), list(|need| need.debian));
    let sudo = match (has("apt-get"), is_root(), has("sudo")) {
        (true, true, _) => "",
        (true, false, true) => "sudo ",
        _ => return Err(format!("install {programs} (on Debian: {packages}), then try again")),
    };
    let mut steps = Steps::default();
    let install =
        "env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends";
    steps.command(&format!("{sudo}apt-get update -qq"), &[]);
    steps.command(&format!("{sudo}{install} {packages}"), &[]);
    // What counts is that the programs are there: an update may fail for a source not needed here.
    let outcome = steps.finish();
    match missing.iter().find(|need| !is_there(need)) {
        None => Ok(()),
        Some(need) => outcome.and(Err(format!("{} is still missing", need.program))),
    }
}

/// Debian has Python's virtual environments and protoc's own definitions in packages of their own,
/// without a program; a jar is a path of its own.
fn is_there(need: &Need) -> bool {
    let works = || match need.program {
        "python3" => output("python3 -c __import__('ensurepip')").is_ok(),
        "protoc" => {
            let own = "google/protobuf/descriptor.proto";
            output(&format!("protoc --descriptor_set_out=/dev/null {own}")).is_ok()
        }
        _ => true,
    };
    (has(need.program) || is_off_the_path(need.program)) && works()
}

/// Debian keeps PostgreSQL's programs in directories of their versions, and some for root alone.
fn is_off_the_path(program: &str) -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut bins = versions.map(|version| version.path().join("bin")).chain(["/usr/sbin".into()]);
    bins.any(|bin| bin.join(program).is_file())
}

fn is_root() -> bool {
    output("id -u").is_ok_and(|id| id.trim() == "0")
}
