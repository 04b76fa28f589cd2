//! The same functions under valgrind: nothing lost, nothing read or written that is not there.
//!
//! What is called "possibly lost" is not counted: a table or a thread of the library that lives as long as the process
//! is found by pointers into its middle only. What nothing points to any more is.

use std::process::Command;

use crate::program::{Program, succeeds};

#[test]
fn nothing_is_lost_and_no_memory_is_misused() {
    let program = Program::new("tour");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite,indirect"])
        .args(["--errors-for-leak-kinds=definite,indirect", "--track-origins=yes", "--num-callers=30"])
        // The children that become other programs are not looked at.
        .args(["--child-silent-after-fork=yes", "--trace-children=no"]);
    succeeds(program.started_by(valgrind));
}
