//! The table of holders and waiters that redraws.

use std::io::IsTerminal;

use lockkit::Locks;
use serde_json::json;
use tokio::time::sleep;

use crate::args::Watch;
use crate::ending::{Failure, Own, say};
use crate::{shown, store};

/// No more names than fit a screen are of use.
const NAMES: usize = 500;
/// To the upper left, and nothing is left below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Looks again and again, through outages too.
pub(super) async fn run(locks: &Locks, watch: &Watch, is_json: bool) -> Result<(), Failure> {
    let redraws = std::io::stdout().is_terminal() && !is_json;
    let mut looks = 0_u64;
    loop {
        match store::answer(locks.list(&watch.prefix, None, NAMES)).await {
            Ok(all) if is_json => {
                let names: Vec<_> = all.iter().map(shown::inspection).collect();
                anstream::println!("{}", json!({"names": names}));
            }
            Ok(all) => {
                let clear = if redraws { CLEAR } else { "" };
                anstream::print!("{clear}{}\n", shown::table(&all));
            }
            Err(failure) if failure.own == Own::Unavailable => {
                say(&failure, is_json);
            }
            Err(failure) => return Err(failure),
        }
        looks += 1;
        if watch.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        sleep(watch.every).await;
    }
}
