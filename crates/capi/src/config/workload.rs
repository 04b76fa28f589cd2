//! What runs, where, as whom.

use library::WorkloadStrategy;

use super::{VmetteConfig, add, set, set_own};
use crate::arguments::{Text, Texts};
use crate::status::{Failure, VmetteStatus};

/// The command line for `/bin/sh` that the session runs; NULL for none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_exec(config: Option<&mut VmetteConfig>, command: Text) -> VmetteStatus {
    set(config, "vmette_config_set_exec", |config| {
        config.command.shell = command.optional("command")?.map(str::to_owned);
        Ok(())
    })
}

/// The program and its arguments that the session runs, or arguments of the image's entrypoint if it has one; wins
/// over vmette_config_set_exec(). NULL for none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_argv(config: Option<&mut VmetteConfig>, argv: Texts) -> VmetteStatus {
    set(config, "vmette_config_set_argv", |config| {
        config.command.argv = argv.optional("argv")?;
        Ok(())
    })
}

/// Takes the place of the image's entrypoint, and drops its command; an array without strings is none at all. NULL
/// leaves the image's.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_entrypoint(
    config: Option<&mut VmetteConfig>,
    entrypoint: Texts,
) -> VmetteStatus {
    set(config, "vmette_config_set_entrypoint", |config| {
        config.command.entrypoint = entrypoint.optional("entrypoint")?;
        Ok(())
    })
}

/// Adds an environment variable, after the image's; a later one of the same name wins. A name is not empty and has no
/// `=`. Neither of them need be UTF-8.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_env(
    config: Option<&mut VmetteConfig>,
    key: Text,
    value: Text,
) -> VmetteStatus {
    add(config, "vmette_config_add_env", |config| {
        let (key, value) = (key.required_os("key")?, value.required_os("value")?);
        if !library::is_valid_env_key(key) {
            let message = format!("name {key:?}: it must not be empty, nor contain =");
            return Err(Failure::new(VmetteStatus::InvalidConfig, message));
        }
        config.command.env.push((key.to_owned(), value.to_owned()));
        Ok(())
    })
}

/// The folder of the guest in which commands start; NULL: where the image says.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_cwd(config: Option<&mut VmetteConfig>, path: Text) -> VmetteStatus {
    set(config, "vmette_config_set_cwd", |config| {
        config.command.cwd = path.optional("path")?.map(str::to_owned);
        Ok(())
    })
}

/// Who runs commands: `name`, `uid`, `name:group` or `uid:gid` of the guest; NULL: who the image says.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_user(config: Option<&mut VmetteConfig>, user: Text) -> VmetteStatus {
    set(config, "vmette_config_set_user", |config| {
        config.command.user = user.optional("user")?.map(str::to_owned);
        Ok(())
    })
}

/// Whether the command is PID 1 of its namespace, as an init system wants to be.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_switch_root(
    config: Option<&mut VmetteConfig>,
    switch_root: bool,
) -> VmetteStatus {
    set(config, "vmette_config_set_switch_root", |config| {
        config.command.switch_root = switch_root;
        Ok(())
    })
}

/// Whether the session has no command of its own and stays up until it is stopped, whatever the image and the other
/// setters say. Commands come with vmette_session_exec().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_agent(config: Option<&mut VmetteConfig>, agent: bool) -> VmetteStatus {
    set(config, "vmette_config_set_agent", |config| {
        config.command.workload = if agent { WorkloadStrategy::Agent } else { WorkloadStrategy::OneShot };
        Ok(())
    })
}

/// Whether the command's output is kept rather than passed to this process's stdout and stderr: 1 MiB of it, see
/// vmette_run_output_text().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_capture_output(
    config: Option<&mut VmetteConfig>,
    capture: bool,
) -> VmetteStatus {
    set_own(config, "vmette_config_set_capture_output", |config| {
        config.capture = capture;
        Ok(())
    })
}

/// Ends the session after that many seconds, counted from its start; 0 for no limit.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_timeout(config: Option<&mut VmetteConfig>, seconds: u32) -> VmetteStatus {
    set(config, "vmette_config_set_timeout", |config| {
        config.machine.timeout_seconds = Some(seconds);
        Ok(())
    })
}

/// Whether vmette_session_snapshot() may save the session. Its start copies memory for that, and takes a little longer.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_allow_snapshot(
    config: Option<&mut VmetteConfig>,
    allow: bool,
) -> VmetteStatus {
    set(config, "vmette_config_set_allow_snapshot", |config| {
        config.snapshots.allow = allow;
        Ok(())
    })
}

/// The new folder into which the machine is saved when its command has ended with 0; NULL for none. Any other end leaves
/// no snapshot.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_build_snapshot(
    config: Option<&mut VmetteConfig>,
    path: Text,
) -> VmetteStatus {
    set(config, "vmette_config_set_build_snapshot", |config| {
        config.snapshots.build = path.optional("path")?.map(Into::into);
        Ok(())
    })
}

/// The folder of a snapshot to start from; NULL for none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_resume_snapshot(
    config: Option<&mut VmetteConfig>,
    path: Text,
) -> VmetteStatus {
    set(config, "vmette_config_set_resume_snapshot", |config| {
        config.snapshots.resume = path.optional("path")?.map(Into::into);
        Ok(())
    })
}
