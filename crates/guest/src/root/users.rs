//! Users and groups of the workload, from its own `/etc/passwd` and `/etc/group`: text of a hostile image, read with a
//! limit and without trust.

use vmette_wire::streams::FailureKind;

use super::tree::Tree;
use crate::sys::Credentials;

/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const DATABASE_MAX: usize = 4 << 20;

/// Most supplementary groups, as the kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65536;

/// The user of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) credentials: Credentials,
    pub(crate) name: Option<String>,
    pub(crate) home: Option<String>,
}

/// A user that cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("no such user in the guest's /etc/passwd: {0}")]
    NoUser(String),
    #[error("no such group in the guest's /etc/group: {0}")]
    NoGroup(String),
    #[error("user {0:?} is none of `name`, `uid`, `name:group`, `uid:gid` and `:group`")]
    Malformed(String),
    #[error("cannot read {path} in the guest: {source}")]
    Database { path: &'static str, source: std::io::Error },
}

impl UserError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            // Not "not found": that is what a command that does not exist is.
            Self::NoUser(_) | Self::NoGroup(_) | Self::Malformed(_) => FailureKind::Invalid,
            Self::Database { .. } => FailureKind::Other,
        }
    }
}

/// Looks `spec` up in the workload's root.
pub(crate) fn lookup(tree: Tree<'_>, spec: &str) -> Result<User, UserError> {
    let read = |path| {
        tree.read(path, DATABASE_MAX)
            .map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
            .map_err(|source| UserError::Database { path, source })
    };
    resolve(spec, &read("/etc/passwd")?, &read("/etc/group")?)
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The fields after the ids may be missing.
fn passwd_entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
    Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
}

/// Name, id and members.
fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    Some((name, id(fields.next()?)?, fields.next().unwrap_or_default()))
}

/// The highest number means "unchanged" to the kernel: as an id it would leave the command with root's.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

/// As container engines read it: a number is an id and never a name, and a part that is empty is not set. Root is the user
/// that is not set.
fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, explicit_group) = spec.split_once(':').unwrap_or((spec, ""));
    if explicit_group.contains(':') || spec.chars().any(char::is_control) {
        return Err(UserError::Malformed(spec.to_owned()));
    }
    let explicit_group = Some(explicit_group).filter(|group| !group.is_empty());
    let number = if user.is_empty() { Some(0) } else { id(user) };
    let is_meant = |entry: &Entry<'_>| number.map_or(entry.name == user, |uid| entry.uid == uid);
    let found = passwd.lines().filter_map(passwd_entry).find(is_meant);
    let uid = found.as_ref().map(|entry| entry.uid).or(number);
    let uid = uid.ok_or_else(|| UserError::NoUser(user.to_owned()))?;
    let groups = || group.lines().filter_map(group_entry);
    let (gid, supplementary) = match explicit_group {
        Some(wanted) => {
            let of_name = || groups().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
            let gid = id(wanted).or_else(of_name);
            (gid.ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?, Vec::new())
        }
        None => {
            let gid = found.as_ref().map_or(0, |entry| entry.gid);
            let name = found.as_ref().map(|entry| entry.name);
            let member = |members: &str| members.split(',').any(|m| Some(m) == name && !m.is_empty());
            let mut gids: Vec<u32> = groups().filter(|(.., m)| member(m)).map(|(_, gid, _)| gid).collect();
            if found.is_some() {
                gids.push(gid);
            }
            gids.sort_unstable();
            gids.dedup();
            gids.truncate(GROUPS_MAX);
            (gid, gids)
        }
    };
    Ok(User {
        credentials: Credentials { uid, gid, groups: supplementary },
        name: found.as_ref().map(|entry| entry.name.to_owned()),
        home: found.map(|entry| entry.home.to_owned()).filter(|home| home.starts_with('/')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x:12\n\
        web:x:33:34::/var/www:/bin/false\nshort:x:12:13\nodd:x:4294967295:0::/:/\n1000:x:7:8::/seven:\nrel:x:9:9::home:\n";
    const GROUP: &str =
        "root:x:0:\nwww:x:34:\naudio:x:29:web,other\nvideo:x:44:other,web\n30:x:31:\n\nbad:x:y:web\n";

    fn credentials(spec: &str) -> (u32, u32, Vec<u32>) {
        let c = resolve(spec, PASSWD, GROUP).unwrap().credentials;
        (c.uid, c.gid, c.groups)
    }

    #[test]
    fn names_bring_their_groups_and_explicit_groups_do_not() {
        assert_eq!(credentials("web"), (33, 34, vec![29, 34, 44]));
        assert_eq!(credentials("33"), (33, 34, vec![29, 34, 44]));
        assert_eq!(credentials("web:audio"), (33, 29, vec![]));
        assert_eq!(credentials("web:5"), (33, 5, vec![]));
        assert_eq!(credentials("500"), (500, 0, vec![]));
        assert_eq!(credentials("500:600"), (500, 600, vec![]));
        assert_eq!(credentials("1000"), (1000, 0, vec![]), "a number is never a name");
        assert_eq!(credentials("web:30"), (33, 30, vec![]), "neither of a group");
        assert_eq!(credentials("short"), (12, 13, vec![13]), "the rest of a line may be missing");
    }

    #[test]
    fn parts_that_are_empty_are_not_set() {
        assert_eq!(credentials("1000:"), credentials("1000"));
        assert_eq!(credentials("33:"), (33, 34, vec![29, 34, 44]));
        assert_eq!(credentials("web:"), credentials("web"));
        assert_eq!(credentials(":50"), (0, 50, vec![]));
        assert_eq!(credentials(":audio"), (0, 29, vec![]));
        assert_eq!(credentials(":"), (0, 0, vec![0]));
        assert_eq!(credentials(""), credentials("root"));
        assert_eq!(credentials("0:0"), (0, 0, vec![]));
        let bare = |spec: &str| resolve(spec, "", "").unwrap().credentials;
        assert_eq!((bare(":").uid, bare(":").gid), (0, 0), "without a passwd, too");
        assert_eq!((bare("1000:").uid, bare("1000:").gid), (1000, 0));
        assert_eq!((bare(":50").uid, bare(":50").gid), (0, 50));
    }

    #[test]
    fn homes_are_absolute() {
        assert_eq!(resolve("web", PASSWD, GROUP).unwrap().home.as_deref(), Some("/var/www"));
        assert_eq!(resolve("rel", PASSWD, GROUP).unwrap().home, None);
        assert_eq!(resolve("500", PASSWD, GROUP).unwrap().home, None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert!(matches!(resolve("nobody", PASSWD, GROUP), Err(UserError::NoUser(n)) if n == "nobody"));
        assert!(matches!(resolve("web:wheel", PASSWD, GROUP), Err(UserError::NoGroup(n)) if n == "wheel"));
        for spec in ["a:b:c", "1:2:3", "::", "a\nb", "web:\t"] {
            assert!(matches!(resolve(spec, PASSWD, GROUP), Err(UserError::Malformed(_))), "{spec:?}");
        }
        for spec in ["4294967295", "-1", "+5", "odd", "0:4294967295", " web", "web ", " ", " :"] {
            assert!(resolve(spec, PASSWD, GROUP).is_err(), "{spec} must not become root");
        }
    }
}
