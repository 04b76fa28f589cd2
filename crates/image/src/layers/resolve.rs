//! Which directory of the tree a path leads to. Symbolic links are followed from the tree's root and never above it.

use super::path::{self, DEPTH_MAX, PATH_MAX};
use super::steps::Steps;
use super::tree::{InodeId, NodeKind, ROOT, Tree};
use crate::tar::{ArchiveError, Refusal, shown};

/// Most symbolic links on the way to one entry: Linux's own limit.
const LINKS_MAX: usize = 40;

/// A directory on the way, which may be yet to be made.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: Box<[u8]>,
    /// `None` if there is no directory: either nothing, or something else of a layer below, which gives way.
    pub(super) inode: Option<InodeId>,
}

/// The names from the root to the directory that `dir` means to that layer, without links. What is missing stays missing.
/// `entry` is the path that errors speak of.
pub(super) fn resolve(
    tree: &Tree,
    dir: &[u8],
    layer: u16,
    budget: &mut Steps,
    entry: &[u8],
) -> Result<Vec<Step>, ArchiveError> {
    let mut steps: Vec<Step> = Vec::new();
    let mut followed = 0;
    // Names that are still to be walked, the next one last. A link's target takes the link's place.
    let mut ahead: Vec<&[u8]> = path::names(dir).rev().collect();
    while let Some(name) = ahead.pop() {
        budget.step()?;
        match name {
            b"." => continue,
            // At the root it stays there.
            b".." => {
                steps.pop();
                continue;
            }
            _ => path::check_name(name).map_err(|e| e.of(entry))?,
        }
        let at = steps.last().map_or(Some(ROOT), |step| step.inode);
        let found = at.and_then(|dir| tree.child(dir, name));
        let through = || {
            let names: Vec<&[u8]> = steps.iter().map(|step| &*step.name).chain([name]).collect();
            shown(&names.join(&b'/'))
        };
        let inode = match found.map(|child| (child, &tree.inode(child.inode).what)) {
            None => None,
            Some((child, NodeKind::Dir(_))) => Some(child.inode),
            Some((_, NodeKind::Symlink(target))) => {
                followed += 1;
                if followed > LINKS_MAX {
                    return Err(Refusal::TooManyLinks { max: LINKS_MAX }.of(entry));
                }
                if target.starts_with(b"/") {
                    steps.clear();
                }
                ahead.extend(path::names(target).rev());
                continue;
            }
            Some((child, _)) if child.layer == layer => {
                return Err(Refusal::ThroughFile { at: through() }.of(entry));
            }
            Some(_) => None,
        };
        steps.push(Step { name: name.into(), inode });
    }
    // Links may lead deeper than any path.
    let len: usize = steps.iter().map(|step| step.name.len() + 1).sum();
    if steps.len() >= DEPTH_MAX {
        return Err(Refusal::TooDeep { max: DEPTH_MAX }.of(entry));
    }
    let name = path::split(entry).1;
    if len + name.len() > PATH_MAX {
        return Err(Refusal::PathTooLong { len: len + name.len(), max: PATH_MAX }.of(entry));
    }
    Ok(steps)
}
