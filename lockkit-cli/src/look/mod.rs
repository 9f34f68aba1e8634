//! What looks at a store, or changes one thing in it, and ends.

#[cfg(feature = "conformance")]
mod conformance;
mod pages;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use lockkit::{Error, FencingToken, Finding, LockName, Locks, Severity};
use serde_json::json;

use crate::args::Job;
use crate::ending::Failure;
use crate::shown;
use crate::store::{self, CLOSES_WITHIN, Store};

/// How many names are asked for at a time.
const PAGE: usize = 500;

/// Completions and manual pages, which need no store; `None`: something else is asked for.
pub(crate) fn pages(job: &Job) -> Option<Result<ExitCode, Failure>> {
    match job {
        Job::Completions { shell } => Some(Ok(pages::completions(*shell))),
        Job::Man { directory } => Some(pages::manual(directory.as_deref())),
        _ => None,
    }
}

/// Does it, and gives the exit code.
pub(crate) fn at(job: Job, store: &Store, is_json: bool) -> Result<ExitCode, Failure> {
    #[cfg(feature = "conformance")]
    if let Job::Conformance { report, cases } = job {
        return conformance::run(&store.url, &cases, report.as_deref(), is_json);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::system("starting", &error))?;
    let answer = runtime.block_on(async {
        let locks = match store::try_connect(&store.url, Locks::builder()).await? {
            Ok(locks) => locks,
            // What connecting refuses is a finding as any other.
            Err(Error::Rejected { what, remedy, .. }) if matches!(job, Job::Doctor) => {
                let finding = Finding::new(Severity::Danger, what, remedy);
                return Ok(diagnosis(&[finding], is_json));
            }
            Err(error) => return Err(error.into()),
        };
        let answer = ask(job, &locks, is_json).await;
        // Nothing is held.
        locks.close(CLOSES_WITHIN).await.ok();
        answer
    });
    // A resolver that does not answer has a thread that would be waited for.
    runtime.shutdown_timeout(Duration::ZERO);
    answer
}

async fn ask(job: Job, locks: &Locks, is_json: bool) -> Result<ExitCode, Failure> {
    match job {
        Job::Inspect { name, semaphore } => {
            let seen = if semaphore {
                store::answer(locks.semaphore(name, 1).inspect()).await?
            } else {
                store::answer(locks.lock(name).inspect()).await?
            };
            shown::print(is_json, &shown::inspection(&seen), || {
                shown::table(std::slice::from_ref(&seen))
            });
        }
        Job::List { prefix } => list(locks, &prefix, is_json).await?,
        Job::Watch(watch) => watch::run(locks, &watch, is_json).await?,
        Job::Revoke { name, token, semaphore } => {
            let token = FencingToken::new(token).map_err(Error::from)?;
            let is_ended = if semaphore {
                store::answer(locks.semaphore(&name, 1).revoke(token)).await?
            } else {
                store::answer(locks.lock(&name).revoke(token)).await?
            };
            return Ok(revoked(&name, token, is_ended, is_json));
        }
        Job::Forget { prefix, unused_for } => {
            let count = store::answer(locks.forget(&prefix, unused_for)).await?;
            shown::print(is_json, &json!({"forgotten": count}), || {
                format!("{count} names forgotten\n")
            });
        }
        Job::Doctor => return doctor(locks, is_json).await,
        // Done before any store was asked.
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(locks: &Locks, prefix: &str, is_json: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut after: Option<LockName> = None;
    loop {
        let page = store::answer(locks.list(prefix, after.as_ref(), PAGE)).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|seen| seen.name.clone());
        all.extend(page);
        if is_last {
            break;
        }
    }
    if is_json {
        all.iter().for_each(|seen| anstream::println!("{}", shown::inspection(seen)));
    } else {
        anstream::print!("{}", shown::table(&all));
    }
    Ok(())
}

fn revoked(name: &str, token: FencingToken, is_ended: bool, is_json: bool) -> ExitCode {
    shown::print(is_json, &json!({"revoked": is_ended}), || {
        let said = if is_ended { "is revoked" } else { "is not live: nothing was changed" };
        format!("{name}: the grant with token {token} {said}\n")
    });
    ExitCode::from(u8::from(!is_ended))
}

async fn doctor(locks: &Locks, is_json: bool) -> Result<ExitCode, Failure> {
    Ok(diagnosis(&store::answer(locks.examine()).await?, is_json))
}

/// Prints what was found; the code tells the worst of it.
fn diagnosis(found: &[Finding], is_json: bool) -> ExitCode {
    for finding in found {
        shown::print(is_json, &shown::finding(finding), || shown::finding_line(finding));
    }
    if found.is_empty() && !is_json {
        anstream::println!("nothing is amiss");
    }
    let worst = found.iter().map(|finding| finding.severity).max();
    ExitCode::from(match worst {
        None | Some(Severity::Note) => 0,
        Some(Severity::Warning) => 1,
        Some(_) => 2,
    })
}
