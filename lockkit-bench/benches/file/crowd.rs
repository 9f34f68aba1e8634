//! Processes that take one name by turns: this program again, as children.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ways::{Way, runtime};

/// For how long the processes take their turns before grants are counted.
const WARM_UP: Duration = Duration::from_millis(500);
/// For how long they are counted.
pub(crate) const WINDOW: Duration = Duration::from_millis(2_000);
/// The variables of a child: its way, and the directory.
const WAY: &str = "LOCKKIT_BENCH_FILE_WAY";
const DIRECTORY: &str = "LOCKKIT_BENCH_FILE_DIRECTORY";

/// What a child is to do.
pub(crate) fn role() -> Option<(Way, PathBuf)> {
    let label = std::env::var(WAY).ok()?;
    let way = Way::ALL.into_iter().find(|way| way.label() == label)?;
    Some((way, std::env::var_os(DIRECTORY)?.into()))
}

/// Takes the name again and again once it is told to, and says how often it had it within the window.
pub(crate) fn child((way, directory): &(Way, PathBuf)) {
    let runtime = runtime();
    let (way, directory) = (*way, directory.clone());
    let task = async move {
        let mut client = way.client(&directory).await;
        println!("ready");
        std::io::stdin().lock().read_line(&mut String::new()).unwrap();
        let began = Instant::now();
        let mut count = 0_u64;
        while began.elapsed() < WARM_UP + WINDOW {
            let counts = || {
                let at = began.elapsed();
                if at >= WARM_UP && at < WARM_UP + WINDOW {
                    count += 1;
                }
            };
            client.cycle("crowd", counts).await;
        }
        println!("{count}");
    };
    runtime.block_on(runtime.spawn(task)).unwrap();
}

/// How many grants each of so many processes had.
pub(crate) fn grants(way: Way, directory: &Path, processes: usize) -> Vec<u64> {
    let start = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(WAY, way.label()).env(DIRECTORY, directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut children: Vec<Child> = (0..processes).map(start).collect();
    let mut lines: Vec<_> =
        children.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap())).collect();
    let hear = |lines: &mut BufReader<_>| {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    assert!(lines.iter_mut().all(|lines| hear(lines) == "ready"));
    for child in &mut children {
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
    let counts = lines.iter_mut().map(|lines| hear(lines).parse().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    counts
}
