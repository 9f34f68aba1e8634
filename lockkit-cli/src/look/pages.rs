//! Completions and manual pages, made of the command line itself.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Args;
use crate::ending::Failure;

pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "lockkit", &mut script);
    // A reader that has left needs no more of it.
    io::stdout().write_all(&script).ok();
    ExitCode::SUCCESS
}

pub(super) fn manual(directory: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut command = Args::command();
    command.build();
    match directory {
        Some(directory) => {
            clap_mangen::generate_to(command, directory)
                .map_err(|error| Failure::system(&directory.display().to_string(), &error))?;
        }
        None => {
            let mut pages = Vec::new();
            let others = command.get_subcommands().filter(|other| other.get_name() != "help");
            for page in std::iter::once(&command).chain(others) {
                Man::new(page.clone())
                    .render(&mut pages)
                    .map_err(|error| Failure::system("the manual", &error))?;
            }
            io::stdout().write_all(&pages).ok();
        }
    }
    Ok(ExitCode::SUCCESS)
}
