//! `unsafe` lives in the few modules that talk to a kernel, to Objective-C or to C, and each use says why it holds.
//!
//! The compiler denies `unsafe` workspace-wide; any module could allow it again for itself with one attribute. This
//! check is what keeps the list of those modules a decision.

use crate::masked::code_only;
use crate::sources::Source;
use crate::violation::Violation;

/// Modules that may hold `unsafe`: a file `X.rs`, a folder `X/`, and files `X_*.rs` beside it.
const MAY: &[&str] = &[
    // Its one use exports the symbol that the C start-up code calls in place of a Rust `main`.
    "crates/guest/src/main",
    "crates/guest/src/sys",
    "crates/spawn/src/child",
    "crates/vz/src",
    "crates/vz/tests",
    "crates/capi/src",
];

/// What the exported symbols of the C interface begin with.
const PREFIX: &str = "vmette_";

/// How far above its block a comment may stand, in lines of one statement.
const MAX_STATEMENT_LINES: usize = 12;

/// What follows the keyword, as far as the rule differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A block, an `impl`, an `extern` block or an attribute: someone here vouches for something.
    Claim,
    /// A function or trait whose callers must vouch: its documentation says for what.
    Contract,
    /// A function pointer's type: nothing is claimed.
    Type,
    /// The attribute that exports a symbol of this library's own prefix: that no other has the name is what the prefix
    /// is for.
    Export,
}

/// Every `unsafe` outside of the modules that may, and every one in them without its reason.
pub(crate) fn check(files: &[Source]) -> Vec<Violation> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &Source) -> Vec<Violation> {
    let code = code_only(&file.text);
    let allowed = MAY.iter().any(|module| is_in(&file.path, module));
    let raw: Vec<&str> = file.text.lines().collect();
    let masked: Vec<&str> = code.lines().collect();
    keywords(&code)
        .filter_map(|at| {
            let line = code[..at].matches('\n').count();
            let place = format!("{}:{}", file.path, line + 1);
            if !allowed {
                return Some(Violation {
                    place,
                    what: "`unsafe` outside of the modules that may hold it".to_owned(),
                    remedy: format!("use a safe wrapper, or move it to one of {}", MAY.join(", ")),
                });
            }
            let (markers, remedy) = match kind(&code[at..]) {
                Use::Type | Use::Export => return None,
                Use::Claim => (&["SAFETY:"][..], "say above it in a `// SAFETY:` comment why it holds"),
                Use::Contract => {
                    (&["# Safety", "SAFETY:"][..], "say in a `# Safety` section what its callers must ensure")
                }
            };
            let comments = comment_above(&raw, &masked, line);
            let explained = markers.iter().any(|marker| comments.contains(marker));
            (!explained).then(|| Violation {
                place,
                what: "`unsafe` without its reason".to_owned(),
                remedy: remedy.to_owned(),
            })
        })
        .collect()
}

fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with(['/', '.', '_']))
}

/// Where the keyword stands in masked code.
fn keywords(code: &str) -> impl Iterator<Item = usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices("unsafe").map(|(at, _)| at).filter(move |&at| {
        !code[..at].chars().next_back().is_some_and(word)
            && !code[at + "unsafe".len()..].chars().next().is_some_and(word)
    })
}

fn kind(code: &str) -> Use {
    // `unsafe extern "C" fn name` and `unsafe extern fn(i32)`: the ABI's name is masked, its quotes are not.
    let rest = code["unsafe".len()..].trim_start();
    if let Some(exported) = rest.strip_prefix("(no_mangle)")
        && let Some((_, name)) = exported.split_once("fn ")
        && name.starts_with(PREFIX)
    {
        return Use::Export;
    }
    let (external, rest) = match rest.strip_prefix("extern") {
        Some(rest) => (true, rest.trim_start_matches(['"', ' ', '\n'])),
        None => (false, rest),
    };
    match rest.strip_prefix("fn") {
        Some(after) if after.trim_start().starts_with('(') => Use::Type,
        Some(_) => Use::Contract,
        None if !external && rest.starts_with("trait") => Use::Contract,
        None => Use::Claim,
    }
}

/// The comments on the statement that holds this line: on the line itself, and on the run of comment, attribute and
/// continued lines above it.
fn comment_above(raw: &[&str], masked: &[&str], line: usize) -> String {
    let mut comments = comment_of(raw[line], masked[line]).to_owned();
    let mut statement_lines = 0;
    for above in (0..line).rev() {
        let code = masked[above].trim();
        if code.is_empty() && raw[above].trim().is_empty() {
            break;
        }
        if !code.is_empty() && !code.starts_with('#') {
            statement_lines += 1;
            if code.ends_with([';', '{', '}']) || statement_lines > MAX_STATEMENT_LINES {
                break;
            }
        }
        comments.push('\n');
        comments.push_str(comment_of(raw[above], masked[above]));
    }
    comments
}

/// The raw line if it has a comment: wherever the mask differs, something that is not code was there.
fn comment_of<'a>(raw: &'a str, masked: &str) -> &'a str {
    let has_comment =
        ["//", "/*"].iter().any(|mark| raw.matches(mark).count() > masked.matches(mark).count());
    let inside_block_comment = masked.trim().is_empty();
    if has_comment || inside_block_comment { raw } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = Source { path: path.to_owned(), text: text.to_owned() };
        check(&[file])
            .into_iter()
            .map(|violation| format!("{} {}", violation.place, violation.what))
            .collect()
    }

    const SYS: &str = "crates/guest/src/sys.rs";

    #[test]
    fn is_refused_outside_of_the_list_even_with_a_reason() {
        let text = "// SAFETY: none\nlet x = unsafe { f() };\n";
        let violations = found("crates/wire/src/frame.rs", text);
        assert_eq!(violations.len(), 1);
        assert!(violations[0].starts_with("crates/wire/src/frame.rs:2 "), "{violations:?}");
        assert_eq!(found("crates/guest/src/system.rs", text).len(), 1, "a longer name is another module");
    }

    #[test]
    fn the_listed_modules_are_a_file_a_folder_or_their_siblings() {
        for path in
            ["crates/guest/src/sys.rs", "crates/guest/src/sys/mount.rs", "crates/guest/src/sys_mount.rs"]
        {
            assert_eq!(found(path, "// SAFETY: it holds.\nunsafe { f() };"), [""; 0], "{path}");
        }
    }

    #[test]
    fn a_block_needs_its_reason() {
        assert_eq!(found(SYS, "fn f() {\n    unsafe { g() }\n}\n").len(), 1);
        assert_eq!(
            found(SYS, "// SAFETY: for the other.\nlet a = unsafe { g() };\nlet b = unsafe { g() };").len(),
            1
        );
        assert_eq!(found(SYS, "// SAFETY: too far.\n\nlet b = unsafe { g() };").len(), 1);
        assert_eq!(found(SYS, "// It is fine.\nunsafe { g() };").len(), 1);
        assert_eq!(found(SYS, "let text = \"SAFETY:\";\nunsafe { g() };").len(), 1);
    }

    #[test]
    fn the_reason_may_stand_above_the_statement() {
        let fine = [
            "// SAFETY: two\n// lines.\n#[allow(unsafe_code)]\nunsafe { g() };",
            "// SAFETY: it holds.\nlet x = call(\n    first,\n    unsafe { g() },\n);",
            "/* SAFETY: it\n   holds. */\nunsafe { g() };",
            "// SAFETY: it holds.\nunsafe impl Send for X {}",
            "// SAFETY: no other symbol has the name.\n#[unsafe(no_mangle)]\npub extern fn f() {}",
        ];
        for text in fine {
            assert_eq!(found(SYS, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_function_states_its_contract_and_a_type_states_nothing() {
        assert_eq!(found(SYS, "/// Frees.\npub unsafe fn free() {}").len(), 1);
        assert_eq!(found(SYS, "/// Frees.\n///\n/// # Safety\n/// Once.\npub unsafe fn free() {}"), [""; 0]);
        assert_eq!(found(SYS, "pub unsafe extern \"C\" fn free() {}").len(), 1);
        assert_eq!(found(SYS, "type Free = unsafe extern \"C\" fn(i32);"), [""; 0]);
        assert_eq!(found(SYS, "unsafe extern \"C\" {\n    fn free();\n}").len(), 1);
    }

    #[test]
    fn an_exported_symbol_has_the_prefix_or_a_reason() {
        let export =
            |name: &str| format!("/// Frees.\n#[unsafe(no_mangle)]\npub extern \"C\" fn {name}() {{}}\n");
        assert_eq!(found(SYS, &export("vmette_free")), [""; 0]);
        assert_eq!(found(SYS, &export("free")).len(), 1);
        assert_eq!(found(SYS, &format!("{}{}", export("free"), export("vmette_free"))).len(), 1);
    }

    #[test]
    fn each_use_in_a_file_is_looked_at() {
        let text = "unsafe { f() };\n// SAFETY: it holds.\nunsafe { g() };\nunsafe { h() };\n";
        let violations = found(SYS, text);
        assert_eq!(violations.len(), 2, "{violations:?}");
        assert!(violations[1].starts_with("crates/guest/src/sys.rs:4 "), "{violations:?}");
    }

    #[test]
    fn the_lint_and_words_in_text_are_not_uses() {
        let text = "#![deny(unsafe_code)]\n// unsafe\nlet s = \"unsafe\";\nlet unsafer = not_unsafe;";
        assert_eq!(found("crates/wire/src/lib.rs", text), [""; 0]);
    }
}
