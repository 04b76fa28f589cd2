//! What a session runs: the caller's command or the image's, in the surroundings that both ask for.

use std::ffi::{OsStr, OsString};

use vmette_image::ImageConfig;
use vmette_vmm::{Owner, Share};

use crate::config::{CommandOptions, Config, WorkloadStrategy};
use crate::error::{ConfigError, Error};
use crate::launch::start_of;
use crate::process::ExecOptions;
use crate::resolved::Resolved;

impl CommandOptions {
    /// The program and its arguments that `arguments` make, in an image of this kind: behind the entrypoint, which
    /// [`CommandOptions::entrypoint`] replaces. Without arguments the image's own, which a new entrypoint drops. Empty when
    /// neither names a program.
    pub fn line<S: AsRef<OsStr>>(&self, image: &ImageConfig, arguments: &[S]) -> Vec<OsString> {
        let (entrypoint, own): (&[String], &[String]) = match &self.entrypoint {
            Some(entrypoint) => (entrypoint, &[]),
            None => (&image.entrypoint, &image.cmd),
        };
        let mut line: Vec<OsString> = entrypoint.iter().map(OsString::from).collect();
        if arguments.is_empty() {
            line.extend(own.iter().map(OsString::from));
        } else {
            line.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        }
        line
    }

    /// The command, if there is one. `keeps`: the session is saved or starts from a snapshot. It is then what was asked for
    /// that is saved, as an image's command may never end; and a machine that goes on needs no other command.
    fn command(&self, image: &ImageConfig, keeps: bool) -> Option<ExecOptions> {
        if self.workload == WorkloadStrategy::Agent {
            return None;
        }
        match (&self.argv, &self.shell) {
            (Some(argv), _) => Some(ExecOptions::argv(self.line(image, argv))),
            // A shell is asked for: an entrypoint would only see its command line as an argument.
            (None, Some(command)) => Some(ExecOptions::shell(command)),
            (None, None) if keeps => None,
            (None, None) => {
                let line = self.line::<&str>(image, &[]);
                (!line.is_empty()).then(|| ExecOptions::argv(line))
            }
        }
    }
}

impl Config {
    /// Refuses a session that would never end by itself: one with neither a command, of the caller's or the image's, nor a
    /// time limit.
    ///
    /// # Errors
    /// [`ConfigError::NothingToRun`].
    pub fn check_it_ends(&self) -> Result<(), Error> {
        let keeps = self.snapshots.build.is_some() || self.snapshots.resume.is_some();
        let ends =
            self.machine.timeout().is_some() || self.command.command(&self.root.image, keeps).is_some();
        if ends { Ok(()) } else { Err(ConfigError::NothingToRun.into()) }
    }
}

fn user_of(image: &ImageConfig) -> Option<&String> {
    image.user.as_ref().filter(|user| !user.is_empty())
}

/// The user's numbers, as far as they are said: a name means something in the guest only. Root needs no share of its own.
fn owner(user: &str) -> Option<Owner> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let uid = user.parse().ok().filter(|uid| *uid != 0)?;
    Some(Owner { uid, gid: group.parse().unwrap_or(0) })
}

impl Resolved {
    /// The command of the session, without its surroundings.
    pub(crate) fn main_command(&self) -> Option<ExecOptions> {
        let keeps = self.build_snapshot.is_some() || self.snapshot.is_some();
        self.command.command(&self.root.image, keeps)
    }

    /// The devices of the granted folders.
    pub(crate) fn shares(&self) -> impl Iterator<Item = Share> + '_ {
        let user = self.command.user.as_ref().or(user_of(&self.root.image));
        let owner = user.and_then(|user| owner(user));
        self.grants.shares.iter().map(move |share| share.device(owner))
    }

    /// What every command of the session starts with, as an image's commands do everywhere: the image's environment and
    /// then the caller's, the folder, the user. A command's own options win.
    pub(crate) fn surroundings(&self) -> ExecOptions {
        let (image, command) = (&self.root.image, &self.command);
        // Guests of the original have the variable, empty where there is no vsock.
        let port = self.vsock.as_ref().and_then(|vsock| vsock.port);
        let port = port.map(|port| port.to_string()).unwrap_or_default();
        let mut options = ExecOptions::default().env("VMETTE_VSOCK_PORT", port);
        for (key, value) in &image.env {
            options = options.env(key, value);
        }
        for (key, value) in &command.env {
            options = options.env(key, value);
        }
        let of_image = user_of(image);
        let folder = match command.cwd.clone().or_else(|| start_of(image)) {
            // An image's user does not start in its home, a user whom the caller names does.
            None if command.user.is_none() && of_image.is_some() => Some("/".to_owned()),
            folder => folder,
        };
        if let Some(folder) = folder {
            options = options.cwd(folder);
        }
        match command.user.as_ref().or(of_image) {
            Some(user) => options.user(user),
            None => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        ImageConfig { entrypoint: owned(entrypoint), cmd: owned(cmd), ..ImageConfig::default() }
    }

    #[test]
    fn folders_belong_to_the_user_whose_commands_run() {
        let owned = |uid, gid| Some(Owner { uid, gid });
        assert_eq!(
            (owner("1000"), owner("1000:50"), owner("7:")),
            (owned(1000, 0), owned(1000, 50), owned(7, 0))
        );
        assert_eq!((owner("0"), owner("web"), owner("-1:5"), owner("")), (None, None, None, None));
        assert_eq!(owner("7:staff"), owned(7, 0));
        let mut config = Config::default();
        config.grants.shares = vec![crate::ShareMount::new("a", "/tmp")];
        config.root.image.user = Some("5:6".into());
        let of = |config: &Config| Resolved::new(config, None).unwrap().shares().next().unwrap().owner;
        assert_eq!(of(&config), owned(5, 6));
        config.command.user = Some("root".into());
        assert_eq!(of(&config), None, "the caller's user takes the place of the image's");
    }

    #[test]
    fn a_timeout_of_nothing_is_no_end() {
        let mut config = Config::default();
        config.machine.timeout_seconds = Some(0);
        assert!(config.check_it_ends().is_err() && config.machine.timeout().is_none());
        config.machine.timeout_seconds = Some(1);
        config.check_it_ends().unwrap();
    }

    #[test]
    fn arguments_replace_the_images_cmd_and_an_entrypoint_replaces_both() {
        let image = image(&["/entry", "-x"], &["serve", "now"]);
        let mut command = CommandOptions::default();
        assert_eq!(command.line::<&str>(&image, &[]), ["/entry", "-x", "serve", "now"]);
        assert_eq!(command.line(&image, &["stop"]), ["/entry", "-x", "stop"]);
        command.entrypoint = Some(vec!["/bin/sh".into()]);
        assert_eq!(command.line::<&str>(&image, &[]), ["/bin/sh"]);
        assert_eq!(command.line(&image, &["-c", "true"]), ["/bin/sh", "-c", "true"]);
        command.entrypoint = Some(Vec::new());
        assert!(command.line::<&str>(&image, &[]).is_empty());
        assert_eq!(command.line(&image, &["ls"]), ["ls"]);
    }

    #[test]
    fn a_session_without_a_command_runs_the_images_if_it_has_one() {
        let of = |command: CommandOptions, image: ImageConfig| command.command(&image, false);
        let nothing = CommandOptions::default;
        assert!(of(nothing(), image(&[], &[])).is_none());
        assert!(of(nothing(), image(&[], &["ls"])).is_some());
        assert!(nothing().command(&image(&[], &["ls"]), true).is_none(), "what is saved was asked for");
        let agent = CommandOptions { workload: WorkloadStrategy::Agent, ..nothing() };
        assert!(of(agent, image(&["/entry"], &[])).is_none());
        let shell = CommandOptions { shell: Some("ls".into()), ..nothing() };
        let expected = Some(ExecOptions::shell("ls"));
        assert_eq!(of(shell, image(&["/entry"], &[])), expected, "a shell command has no entrypoint");
        let argv = CommandOptions { argv: Some(vec!["ls".into()]), ..nothing() };
        assert_eq!(of(argv, image(&["/entry"], &[])), Some(ExecOptions::argv(["/entry", "ls"])));
    }

    #[test]
    fn the_callers_wishes_come_after_the_images() {
        let mut config = Config::default();
        config.root.image.env = vec![("A".into(), "image".into()), ("B".into(), "image".into())];
        config.root.image.user = Some("web".into());
        config.command.env = vec![("A".into(), "caller".into())];
        let surroundings = |config: &Config| Resolved::new(config, None).unwrap().surroundings();
        let expected = ExecOptions::default()
            .env("VMETTE_VSOCK_PORT", "")
            .env("A", "image")
            .env("B", "image")
            .env("A", "caller");
        assert_eq!(surroundings(&config), expected.clone().user("web").cwd("/"));
        config.command.user = Some("0".into());
        assert_eq!(
            surroundings(&config),
            expected.clone().user("0"),
            "whose home it is, is for the guest to say"
        );
        config.root.image.working_dir = Some("/srv".into());
        assert_eq!(surroundings(&config), expected.clone().user("0").cwd("/srv"));
        config.command.cwd = Some("/tmp".into());
        assert_eq!(surroundings(&config), expected.user("0").cwd("/tmp"));
    }
}
