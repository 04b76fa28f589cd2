//! Small crates, and the circles that are in them.

use super::circles::{self, Circle};
use super::judge;
use super::tree::Tree;
use crate::sources::Source;

/// The circles of a crate with these files below `src`.
fn circles(files: &[(&str, &str)]) -> Vec<Circle> {
    let files: Vec<Source> = files
        .iter()
        .map(|(path, text)| Source { path: format!("crates/a/src/{path}"), text: (*text).to_owned() })
        .collect();
    circles::find(&Tree::read("crates/a/src/lib.rs", &files).expect("it is Rust"))
}

/// The members of each circle.
fn members(files: &[(&str, &str)]) -> Vec<String> {
    circles(files).iter().map(|circle| circle.members.join(" ")).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn two_modules_that_use_each_other_are_a_circle() {
    let found = circles(&[
        ("lib.rs", "mod x; mod y;"),
        ("x.rs", "use crate::y::Y; pub struct X(Y);"),
        ("y.rs", "pub struct Y; pub fn f(x: &super::x::X) {}"),
    ]);
    let [circle] = found.as_slice() else { panic!("one circle, not {found:?}") };
    assert_eq!(circle.members, ["x", "y"]);
    assert_eq!(circle.way, "x names crate::y::Y, y names super::x::X");
}

#[test]
fn one_direction_is_none() {
    let files = [("lib.rs", "mod x; mod y;"), ("x.rs", "use crate::y::Y;"), ("y.rs", "pub struct Y;")];
    assert_eq!(members(&files), NONE);
}

#[test]
fn a_circle_may_go_through_several() {
    let files = [
        ("lib.rs", "mod x; mod y; mod z; mod w;"),
        ("x.rs", "use crate::y::f;"),
        ("y.rs", "pub fn f() { crate::z::f() }"),
        ("z.rs", "pub fn f() { println!(\"{}\", crate::x::NAME) }"),
        ("w.rs", "use crate::x::X;"),
    ];
    assert_eq!(members(&files), ["x y z"]);
}

#[test]
fn a_folder_stands_for_everything_in_it() {
    let files = [
        ("lib.rs", "mod x; mod y;"),
        ("x/mod.rs", "mod low; mod high;"),
        ("x/low.rs", "pub struct Low;"),
        ("x/high.rs", "use crate::y::Y;"),
        ("y.rs", "pub struct Y(crate::x::low::Low);"),
    ];
    assert_eq!(members(&files), ["x y"]);
}

#[test]
fn a_name_leads_to_the_module_that_defines_it() {
    // By way of the root, y uses x, which uses nothing.
    let root = "mod x; mod y; pub use x::{X, Other as Renamed}; pub use y::*;";
    let x = "pub struct X; pub struct Other;";
    let y = "use crate::{Renamed, X}; pub struct Y;";
    assert_eq!(members(&[("lib.rs", root), ("x.rs", x), ("y.rs", y)]), NONE);
    let x = "pub struct X(crate::Y); pub struct Other;";
    assert_eq!(members(&[("lib.rs", root), ("x.rs", x), ("y.rs", y)]), ["x y"]);
}

#[test]
fn a_parent_that_uses_a_child_that_uses_it_is_a_circle() {
    let child = "pub fn f(x: super::Own) {}";
    let by_path = ("lib.rs", "mod x; pub struct Own; pub fn g() { x::f(Own) }");
    assert_eq!(members(&[by_path, ("x.rs", child)]), ["self x"]);
    let imported = ("lib.rs", "mod x; use x::f; pub struct Own; pub fn g() { f(Own) }");
    assert_eq!(members(&[imported, ("x.rs", child)]), ["self x"]);
}

#[test]
fn a_parent_that_only_re_exports_is_in_no_circle() {
    let root = ("lib.rs", "mod x; pub use x::f; pub struct Own;");
    assert_eq!(members(&[root, ("x.rs", "use crate::Own; pub fn f(x: Own) {}")]), NONE);
}

#[test]
fn nested_folders_are_looked_at_one_by_one() {
    let files = [
        ("lib.rs", "mod outer;"),
        ("outer/mod.rs", "mod x; mod y { use super::x::X; pub struct Y; }"),
        ("outer/x.rs", "pub struct X(super::y::Y);"),
    ];
    assert_eq!(members(&files), ["outer::x outer::y"]);
}

#[test]
fn tests_do_not_count() {
    let files = [
        ("lib.rs", "mod x; mod y;"),
        ("x.rs", "use crate::y::Y;"),
        (
            "y.rs",
            "pub struct Y;
             #[cfg(test)] use crate::x::X;
             #[cfg(all(test, unix))] mod tests { use crate::x::X; }
             impl Y { #[cfg(test)] fn f(x: crate::x::X) {} }
             #[cfg(test)] mod more;",
        ),
        ("y/more.rs", "use crate::x::X;"),
    ];
    assert_eq!(members(&files), NONE);
    let counts = ("y.rs", "#[cfg(any(test, unix))] use crate::x::X; pub struct Y;");
    assert_eq!(members(&[files[0], files[1], counts]), ["x y"]);
}

#[test]
fn files_with_a_path_of_their_own_are_found() {
    let files = [
        ("lib.rs", "mod x; #[path = \"other/place.rs\"] mod y;"),
        ("x.rs", "use crate::y::Y;"),
        ("other/place.rs", "mod deep; pub struct Y;"),
        ("other/deep.rs", "use crate::x::X;"),
    ];
    assert_eq!(members(&files), ["x y"]);
}

#[test]
fn names_from_other_crates_lead_nowhere() {
    let files = [
        ("lib.rs", "mod io; mod y; pub use std::io::Error;"),
        ("io.rs", "use std::y::Y; use crate::y::Y as Z;"),
        ("y.rs", "use ::io::X; fn f() -> std::io::Result<()> { log::warn!(\"a::b\") } use std::io;"),
    ];
    assert_eq!(members(&files), NONE);
}

#[test]
fn a_tolerated_circle_may_shrink_and_has_to_go_with_the_last() {
    let circle = |members: &[&str]| Circle {
        root: "crates/a/src/lib.rs".to_owned(),
        members: members.iter().map(|&member| member.to_owned()).collect(),
        way: String::new(),
    };
    let tolerated = [("crates/a/src/lib.rs", "x y z")];
    assert_eq!(judge(&[circle(&["x", "y", "z"])], &tolerated), []);
    assert_eq!(judge(&[circle(&["x", "z"])], &tolerated), []);
    let grown = judge(&[circle(&["w", "x", "y"])], &tolerated);
    assert!(grown.len() == 1 && grown[0].what.contains("w x y"), "{grown:?}");
    let gone = judge(&[], &tolerated);
    assert!(gone.len() == 1 && gone[0].remedy.contains("TOLERATED"), "{gone:?}");
}
