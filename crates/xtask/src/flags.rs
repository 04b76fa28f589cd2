//! The flags a program has and the flags its documentation names are the same.
//!
//! Every long flag of `vmette run --help` must be in the document, and every flag the document shows for `vmette` must
//! be in the help of the program or of one of its subcommands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::violation::Violation;

/// How deep subcommands may nest before something is wrong with the help that is read.
const MAX_DEPTH: usize = 3;

/// Flags that every program has and no reader needs explained.
const SELF_EVIDENT: &[&str] = &["--help"];

/// Why a program's help could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelpError {
    /// It could not be started.
    #[error("cannot run {binary} {arguments} --help: {source}; build it first with `cargo build`")]
    Start {
        /// The program.
        binary: PathBuf,
        /// Its subcommands.
        arguments: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// It ran and failed.
    #[error("{binary} {arguments} --help ended with {status}")]
    Failed {
        /// The program.
        binary: PathBuf,
        /// Its subcommands.
        arguments: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

/// The long flags of a program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Help {
    /// The flags of `run`, all of which the document must have.
    pub(crate) run: BTreeSet<String>,
    /// The flags of the program and all of its subcommands.
    pub(crate) all: BTreeSet<String>,
}

impl Help {
    /// Asks the program itself, and each subcommand that it lists.
    pub(crate) fn of(binary: &Path) -> Result<Self, HelpError> {
        let mut help = Self::default();
        help.visit(binary, &mut Vec::new())?;
        Ok(help)
    }

    fn visit(&mut self, binary: &Path, path: &mut Vec<String>) -> Result<(), HelpError> {
        let text = ask(binary, path)?;
        let flags = flags_of_help(&text);
        if path.len() == 1 && path[0] == "run" {
            self.run.clone_from(&flags);
        }
        self.all.extend(flags);
        if path.len() < MAX_DEPTH {
            for subcommand in subcommands_of_help(&text) {
                path.push(subcommand);
                self.visit(binary, path)?;
                path.pop();
            }
        }
        Ok(())
    }
}

fn ask(binary: &Path, path: &[String]) -> Result<String, HelpError> {
    let (binary, arguments) = (binary.to_path_buf(), path.join(" "));
    match Command::new(&binary).args(path).arg("--help").output() {
        Err(source) => Err(HelpError::Start { binary, arguments, source }),
        Ok(output) if !output.status.success() => {
            Err(HelpError::Failed { binary, arguments, status: output.status })
        }
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

/// Flags at the head of an option's line; its prose may name other programs' flags.
fn flags_of_help(text: &str) -> BTreeSet<String> {
    let heads = text.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    heads.filter_map(|line| line.split("  ").next()).flat_map(long_flags).collect()
}

/// The names listed under `Commands:`, without the one that repeats what `--help` says.
fn subcommands_of_help(text: &str) -> Vec<String> {
    let listed = text.lines().skip_while(|line| line.trim_end() != "Commands:").skip(1);
    listed
        .take_while(|line| !line.trim().is_empty())
        // Deeper lines continue the description of the one above.
        .filter(|line| line.len() - line.trim_start().len() <= 2)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Flags that Markdown shows for this program: in code, at the head of it or after the program's name, and before the
/// `--` after which the words are the workload's.
fn flags_of_document(text: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            flags.extend(flags_of_command(line));
        } else {
            // Between backticks is every second part.
            line.split('`').skip(1).step_by(2).for_each(|code| flags.extend(flags_of_command(code)));
        }
    }
    flags
}

fn flags_of_command(code: &str) -> BTreeSet<String> {
    // A prompt, a privilege and assignments come before the program's name.
    let mut words = code.split_whitespace().skip_while(|word| {
        matches!(*word, "$" | "#" | "sudo") || (word.contains('=') && !word.starts_with(['-', '[']))
    });
    let Some(first) = words.next() else {
        return BTreeSet::new();
    };
    let program = first.rsplit('/').next() == Some("vmette");
    if !program && !first.starts_with('-') && !first.starts_with("[-") {
        return BTreeSet::new();
    }
    let ours =
        std::iter::once(first).chain(words).take_while(|word| !matches!(*word, "--" | "|" | "&&" | ";"));
    ours.flat_map(long_flags).collect()
}

/// Every `--name` in some words: `--share`, `[--share TAG=PATH]`, `-t,--tty`, `--accel=kvm`.
fn long_flags(words: &str) -> Vec<String> {
    let mut flags = Vec::new();
    let mut rest = words;
    while let Some(at) = rest.find("--") {
        let name_at = at + 2;
        let length = rest[name_at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(rest.len() - name_at);
        let starts_word =
            rest[..at].chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-');
        let name = &rest[name_at..name_at + length];
        if starts_word && name.starts_with(|c: char| c.is_ascii_lowercase()) {
            flags.push(format!("--{name}"));
        }
        rest = &rest[name_at + length..];
    }
    flags
}

/// Flags that only one of the two sides has.
pub(crate) fn check(help: &Help, document: &str, text: &str) -> Vec<Violation> {
    let documented = flags_of_document(text);
    let missing = help
        .run
        .iter()
        .filter(|flag| !documented.contains(*flag) && !SELF_EVIDENT.contains(&flag.as_str()))
        .map(|flag| Violation {
            place: document.to_owned(),
            what: format!("`vmette run` has {flag}, which is not described"),
            remedy: "describe it there".to_owned(),
        });
    let invented = documented.difference(&help.all).map(|flag| Violation {
        place: document.to_owned(),
        what: format!("{flag} is described, but no `vmette … --help` lists it"),
        remedy: "correct the name, or take it out".to_owned(),
    });
    missing.chain(invented).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(flags: &[&str]) -> BTreeSet<String> {
        flags.iter().map(|&flag| flag.to_owned()).collect()
    }

    const HELP: &str = "\
Runs a command in a fresh machine

Usage: vmette run [OPTIONS] [ROOTFS] [-- COMMAND...]

Commands:
  run     Run a command
          in a machine
  doctor  Say what works
  help    Print this

Options:
  -e, --env <NAME=VALUE>   As docker's --env-file does not
      --rootfs-ro          Read-only
          Not with --made-up
  -t, --tty
      --accel <ACCEL>  Which [possible values: auto, kvm]
";

    #[test]
    fn help_gives_its_flags_and_not_those_in_prose() {
        assert_eq!(flags_of_help(HELP), set(&["--env", "--rootfs-ro", "--tty", "--accel"]));
    }

    #[test]
    fn help_gives_its_subcommands() {
        assert_eq!(subcommands_of_help(HELP), ["run", "doctor"]);
        assert!(subcommands_of_help("Usage: vmette run\n\nOptions:\n  -h\n").is_empty());
    }

    #[test]
    fn a_document_gives_the_flags_of_this_program_only() {
        let text = "\
Use `--share TAG=PATH[:ro]` or `-t, --tty`, never prose --dashes.
`cargo build --release` is someone else's, `ls --all` too.

```sh
$ sudo VAR=1 vmette run --net alpine -- curl --fail https://x
./target/debug/vmette doctor --json | jq --raw-output .
```
| `[--quiet]` | and `--accel=kvm` |
";
        let expected = set(&["--share", "--tty", "--net", "--json", "--quiet", "--accel"]);
        assert_eq!(flags_of_document(text), expected);
    }

    #[test]
    fn both_directions_are_reported() {
        let help = Help {
            run: set(&["--help", "--env", "--tty"]),
            all: set(&["--help", "--env", "--tty", "--json"]),
        };
        let found = check(&help, "docs/CLI.md", "`--env`, `--json`, `--gone`");
        let whats: Vec<&str> = found.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(whats.len(), 2, "{whats:?}");
        assert!(whats[0].contains("--tty") && whats[1].contains("--gone"), "{whats:?}");
        assert_eq!(check(&help, "docs/CLI.md", "`--env` `--tty`"), []);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Help::of(Path::new("/nonexistent/vmette")).expect_err("there is no such file");
        assert!(error.to_string().contains("/nonexistent/vmette"), "{error}");
    }
}
