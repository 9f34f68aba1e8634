//! The commands that the README tells people to run.

use std::fs;

use crate::Result;
use crate::steps::root;

/// The command that passes the tests.
pub(crate) const TEST: &str = "cargo xtask test";

/// The commands of the README's first block of shell commands, without their comments.
pub(crate) fn commands() -> Result<Vec<String>> {
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("README.md: {error}"))?;
    let commands = in_first_block(&text);
    if commands.iter().any(|command| command == TEST) {
        return Ok(commands);
    }
    Err(format!("the first ```sh block of README.md has no line `{TEST}`"))
}

fn in_first_block(text: &str) -> Vec<String> {
    text.lines()
        .skip_while(|line| line.trim() != "```sh")
        .skip(1)
        .take_while(|line| line.trim() != "```")
        .map(|line| line.split('#').next().unwrap_or_default().trim().to_owned())
        .filter(|command| !command.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_lose_their_comments() {
        let text =
            "a\n```sh\ncargo one   # first\n# only\ncargo two\n```\n```sh\ncargo three\n```\n";
        assert_eq!(in_first_block(text), ["cargo one", "cargo two"]);
        assert_eq!(in_first_block("```rust\n```\n"), [""; 0]);
    }
}
