//! The same functions under valgrind: nothing lost, nothing read or written that is not there.

use std::process::Command;

use crate::program::{Program, sources, succeeds};

#[test]
fn nothing_is_lost_and_no_memory_is_misused() {
    let program = Program::new("tour");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args([
            "--quiet",
            "--error-exitcode=99",
            "--leak-check=full",
            "--show-leak-kinds=definite,indirect,possible",
        ])
        .args([
            "--errors-for-leak-kinds=definite,indirect,possible",
            "--track-origins=yes",
            "--num-callers=30",
        ])
        // The children that become other programs are not looked at.
        .args(["--child-silent-after-fork=yes", "--trace-children=no"])
        .arg(format!("--suppressions={}", sources().join("valgrind.supp").display()));
    succeeds(program.started_by(valgrind));
}
