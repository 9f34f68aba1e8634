//! Another client of the field, in a process that is told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::{Error, Result};

/// A process that answers each line on its standard input with one on its standard output; it ends
/// when this value is dropped.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Peer {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::System`] where it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let refused = Error::system(format!("starting {}", command.get_program().display()));
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(refused)?;
        let (Some(lines), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both were asked for")
        };
        Ok(Self { process, pipes: (lines, BufReader::new(answers)).into() })
    }

    /// Its answer to this line; blocks until it comes.
    ///
    /// # Errors
    /// [`Error::System`] or [`Error::Answer`] where it has ended.
    pub fn tell(&self, line: &str) -> Result<String> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, answers) = &mut *pipes;
        writeln!(lines, "{line}").map_err(Error::system("telling another client"))?;
        let mut answer = String::new();
        answers.read_line(&mut answer).map_err(Error::system("hearing another client"))?;
        if answer.is_empty() {
            return Err(Error::Answer(format!("the other client ended at {line}")));
        }
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
