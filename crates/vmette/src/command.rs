//! What a session runs: the caller's command or the image's, in the surroundings that both ask for.

use std::ffi::{OsStr, OsString};

use crate::launch::start_of;
use crate::{Config, ExecOptions, WorkloadStrategy};

impl Config {
    /// The program and its arguments that `arguments` come to: behind the entrypoint of [`Config::entrypoint`] or of the
    /// image; without arguments, the image's own, which a new entrypoint drops. Empty: nobody has named a program.
    pub fn command_line<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Vec<OsString> {
        let (entrypoint, own): (&[String], &[String]) = match &self.entrypoint {
            Some(entrypoint) => (entrypoint, &[]),
            None => (&self.image.entrypoint, &self.image.cmd),
        };
        let mut line: Vec<OsString> = entrypoint.iter().map(OsString::from).collect();
        if arguments.is_empty() {
            line.extend(own.iter().map(OsString::from));
        } else {
            line.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        }
        line
    }

    /// What every command of the session starts with, as an image's commands do everywhere: the image's environment and
    /// then the caller's, the folder, the user. A command's own options win.
    pub(crate) fn surroundings(&self, vsock_port: Option<u32>) -> ExecOptions {
        // Guests of the original have the variable, empty where there is no vsock.
        let port = vsock_port.map(|port| port.to_string()).unwrap_or_default();
        let mut options = ExecOptions::default().env("VMETTE_VSOCK_PORT", port);
        for (key, value) in self.image.env.iter().chain(&self.env) {
            options = options.env(key, value);
        }
        let of_image = self.image.user.as_ref().filter(|user| !user.is_empty());
        let folder = match self.cwd.clone().or_else(|| start_of(&self.image)) {
            // An image's user does not start in its home, a user whom the caller names does.
            None if self.user.is_none() && of_image.is_some() => Some("/".to_owned()),
            folder => folder,
        };
        if let Some(folder) = folder {
            options = options.cwd(folder);
        }
        match self.user.as_ref().or(of_image) {
            Some(user) => options.user(user),
            None => options,
        }
    }
}

/// The command of a configuration, without its surroundings.
pub(crate) fn main_command(config: &Config) -> Option<ExecOptions> {
    if config.workload == WorkloadStrategy::Agent {
        return None;
    }
    let options = match (&config.argv, &config.exec_cmd) {
        (Some(argv), _) => ExecOptions::argv(config.command_line(argv)),
        // A shell is asked for: an entrypoint would only see its command line as an argument.
        (None, Some(command)) => ExecOptions::shell(command),
        // What is saved is what was asked for, and an image's command may never end; what goes on needs no other.
        (None, None) if config.build_snapshot.is_some() || config.resume_snapshot.is_some() => return None,
        (None, None) => {
            let line = config.command_line::<&str>(&[]);
            if line.is_empty() {
                return None;
            }
            ExecOptions::argv(line)
        }
    };
    Some(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmette_image::ImageConfig;

    fn config(entrypoint: &[&str], cmd: &[&str]) -> Config {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let image = ImageConfig { entrypoint: owned(entrypoint), cmd: owned(cmd), ..ImageConfig::default() };
        Config { image, ..Config::default() }
    }

    #[test]
    fn arguments_replace_the_images_cmd_and_an_entrypoint_replaces_both() {
        let mut config = config(&["/entry", "-x"], &["serve", "now"]);
        assert_eq!(config.command_line::<&str>(&[]), ["/entry", "-x", "serve", "now"]);
        assert_eq!(config.command_line(&["stop"]), ["/entry", "-x", "stop"]);
        config.entrypoint = Some(vec!["/bin/sh".into()]);
        assert_eq!(config.command_line::<&str>(&[]), ["/bin/sh"]);
        assert_eq!(config.command_line(&["-c", "true"]), ["/bin/sh", "-c", "true"]);
        config.entrypoint = Some(Vec::new());
        assert!(config.command_line::<&str>(&[]).is_empty());
        assert_eq!(config.command_line(&["ls"]), ["ls"]);
    }

    #[test]
    fn a_session_without_a_command_runs_the_images_if_it_has_one() {
        assert!(main_command(&config(&[], &[])).is_none());
        assert!(main_command(&config(&[], &["ls"])).is_some());
        let agent = Config { workload: WorkloadStrategy::Agent, ..config(&["/entry"], &[]) };
        assert!(main_command(&agent).is_none());
        let shell = Config { exec_cmd: Some("ls".into()), ..config(&["/entry"], &[]) };
        assert_eq!(main_command(&shell), Some(ExecOptions::shell("ls")), "a shell command has no entrypoint");
        let argv = Config { argv: Some(vec!["ls".into()]), ..config(&["/entry"], &[]) };
        assert_eq!(main_command(&argv), Some(ExecOptions::argv(["/entry", "ls"])));
    }

    #[test]
    fn the_callers_wishes_come_after_the_images() {
        let mut config = config(&[], &[]);
        config.image.env = vec![("A".into(), "image".into()), ("B".into(), "image".into())];
        config.image.user = Some("web".into());
        config.env = vec![("A".into(), "caller".into())];
        let expected = ExecOptions::default()
            .env("VMETTE_VSOCK_PORT", "")
            .env("A", "image")
            .env("B", "image")
            .env("A", "caller");
        assert_eq!(config.surroundings(None), expected.clone().user("web").cwd("/"));
        config.user = Some("0".into());
        assert_eq!(
            config.surroundings(None),
            expected.clone().user("0"),
            "whose home it is, is for the guest to say"
        );
        config.image.working_dir = Some("/srv".into());
        assert_eq!(config.surroundings(None), expected.clone().user("0").cwd("/srv"));
        config.cwd = Some("/tmp".into());
        assert_eq!(config.surroundings(None), expected.user("0").cwd("/tmp"));
    }
}
