//! The commands that would mend what was found.

use serde::Serialize;

/// A command that would mend something, in the caller's shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// The command line, without `sudo`. Every word of it is from this library, or escaped.
    pub command: String,
    /// Whether it takes root.
    pub root: bool,
    /// The names of the findings that it mends.
    pub findings: Vec<&'static str>,
}

/// What is missing for a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// A package of the distribution.
    Package(Package),
    /// Something that a command of root's gives.
    Command(String),
}

/// A package, under the name that each distribution has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Package {
    /// The emulator of the host's own kind of machine.
    Qemu,
    /// `mksquashfs`.
    Squashfs,
    /// `mke2fs`.
    Ext4,
}

impl Package {
    const fn name(self, manager: &Manager) -> &'static str {
        match self {
            Self::Qemu => manager.qemu,
            Self::Squashfs => manager.squashfs,
            Self::Ext4 => "e2fsprogs",
        }
    }

    /// Debian's name, for people whose system's is not known.
    pub(super) const fn debian(self) -> &'static str {
        self.name(&MANAGERS[0])
    }
}

/// A distribution's way to install packages.
#[derive(Debug)]
struct Manager {
    program: &'static str,
    /// Ends where the packages' names begin. Debian's may remove nothing of the user's for it.
    install: &'static str,
    qemu: &'static str,
    squashfs: &'static str,
}

const ARM: bool = cfg!(target_arch = "aarch64");

const MANAGERS: [Manager; 5] = [
    Manager {
        program: "apt-get",
        install: "apt-get install --no-remove --no-install-recommends",
        qemu: if ARM { "qemu-system-arm" } else { "qemu-system-x86" },
        squashfs: "squashfs-tools",
    },
    Manager {
        program: "dnf",
        install: "dnf install",
        qemu: if ARM { "qemu-system-aarch64-core" } else { "qemu-system-x86-core" },
        squashfs: "squashfs-tools",
    },
    Manager {
        program: "pacman",
        install: "pacman -S --needed",
        qemu: if ARM { "qemu-system-aarch64" } else { "qemu-system-x86" },
        squashfs: "squashfs-tools",
    },
    Manager {
        program: "zypper",
        install: "zypper install",
        qemu: if ARM { "qemu-arm" } else { "qemu-x86" },
        squashfs: "squashfs",
    },
    Manager {
        program: "apk",
        install: "apk add",
        qemu: if ARM { "qemu-system-aarch64" } else { "qemu-system-x86_64" },
        squashfs: "squashfs-tools",
    },
];

/// The commands for all of it: one that installs every package, and one for each other thing. Empty where the system's
/// package manager is not known and nothing else is lacking.
pub(super) fn fixes(lacks: &[(&'static str, Lack)], is_here: impl Fn(&str) -> bool) -> Vec<Fix> {
    let mut fixes = Vec::new();
    let packages = lacks.iter().filter_map(|(finding, lack)| match lack {
        Lack::Package(package) => Some((*finding, *package)),
        Lack::Command(_) => None,
    });
    let (findings, packages): (Vec<_>, Vec<_>) = packages.unzip();
    let manager = MANAGERS.iter().find(|manager| is_here(manager.program));
    if let Some(manager) = manager.filter(|_| !packages.is_empty()) {
        let names: Vec<_> = packages.iter().map(|package| package.name(manager)).collect();
        let command = format!("{} {}", manager.install, names.join(" "));
        fixes.push(Fix { command, root: true, findings });
    }
    for (finding, lack) in lacks {
        if let Lack::Command(command) = lack {
            fixes.push(Fix { command: command.clone(), root: true, findings: vec![finding] });
        }
    }
    fixes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LACKS: [(&str, Lack); 3] = [
        ("engine", Lack::Package(Package::Qemu)),
        ("mksquashfs", Lack::Package(Package::Squashfs)),
        ("accelerator", Lack::Command(String::new())),
    ];

    #[test]
    fn one_command_installs_everything_by_the_systems_own_manager() {
        for (program, squashfs) in [("apt-get", "squashfs-tools"), ("zypper", "squashfs")] {
            let fixes = fixes(&LACKS, |name| name == program);
            let [install, other] = fixes.as_slice() else { panic!("{fixes:?}") };
            assert!(
                install.command.starts_with(program) && install.command.ends_with(squashfs),
                "{install:?}"
            );
            assert!(install.command.contains(" qemu-"), "{install:?}");
            assert_eq!(install.findings, ["engine", "mksquashfs"]);
            assert_eq!((other.root, other.findings.as_slice()), (true, &["accelerator"][..]));
        }
    }

    #[test]
    fn an_unknown_system_gets_no_command_that_it_does_not_have() {
        assert_eq!(fixes(&LACKS, |_| false).len(), 1);
        assert!(fixes(&[], |_| true).is_empty());
    }

    /// A package that stands in the way of another must not go without a word.
    #[test]
    fn apt_removes_nothing() {
        assert!(fixes(&LACKS, |name| name == "apt-get")[0].command.contains("--no-remove"));
    }
}
