//! The programs in `docs/C_API.md` are ones that work.

use std::fs;

use crate::build;
use crate::program::{Program, succeeds};

/// The text between ```` ```LANGUAGE ```` and the end of the block, for each.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let after = document.split(opening.as_str()).skip(1);
    after.filter_map(|rest| rest.split_once("\n```")).map(|(block, _)| format!("{block}\n")).collect()
}

#[test]
fn the_example_is_compiled_and_prints_what_the_page_says() {
    let page = fs::read_to_string(build::workspace().join("docs/C_API.md")).unwrap();
    let programs: Vec<String> =
        blocks(&page, "c").into_iter().filter(|block| block.contains("int main(")).collect();
    let outputs = blocks(&page, "text");
    assert!(!programs.is_empty());
    assert_eq!(programs.len(), outputs.len(), "each program is followed by what it prints");
    for (source, expected) in programs.iter().zip(&outputs) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("example.c");
        fs::write(&file, source).unwrap();
        let output = succeeds(Program::compiled(&file).command());
        assert_eq!(String::from_utf8_lossy(&output.stdout), *expected);
    }
}
