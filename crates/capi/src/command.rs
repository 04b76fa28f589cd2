//! What to run in a session.

use library::ExecOptions;

use crate::arguments::{Text, Texts, required};
use crate::entry::{entry, entry_or};
use crate::status::{Failure, VmetteStatus};

/// A command for vmette_session_exec() or vmette_session_start_command().
pub struct VmetteCommand {
    options: ExecOptions,
}

impl VmetteCommand {
    pub(crate) fn options(&self) -> &ExecOptions {
        &self.options
    }
}

fn change(
    command: Option<&mut VmetteCommand>,
    work: impl FnOnce(ExecOptions) -> Result<ExecOptions, Failure>,
) -> VmetteStatus {
    entry(|| {
        let command = required(command, "command")?;
        command.options = work(command.options.clone())?;
        Ok(())
    })
}

/// A program, looked up in the guest's PATH, and its arguments, which are at least its name. NULL when a string is NULL
/// or no UTF-8, or when there is none. Free it with vmette_command_free().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_new(argv: Texts) -> Option<Box<VmetteCommand>> {
    entry_or(None, || {
        let argv = argv.required("argv")?;
        if argv.is_empty() {
            return Err(Failure::new(VmetteStatus::InvalidConfig, "argv names no program"));
        }
        Ok(Some(Box::new(VmetteCommand { options: ExecOptions::argv(argv) })))
    })
}

/// A command line for `/bin/sh -c`; it may be several MiB long. NULL when it is NULL or no UTF-8.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_new_shell(line: Text) -> Option<Box<VmetteCommand>> {
    entry_or(None, || {
        let options = ExecOptions::shell(line.required("line")?);
        Ok(Some(Box::new(VmetteCommand { options })))
    })
}

/// Frees it; a process that was started with it goes on. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_free(command: Option<Box<VmetteCommand>>) {
    entry(|| {
        drop(command);
        Ok(())
    });
}

/// Adds an environment variable; a later one of the same name wins. A name is not empty and has no `=`. Neither of them
/// need be UTF-8.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_add_env(
    command: Option<&mut VmetteCommand>,
    key: Text,
    value: Text,
) -> VmetteStatus {
    change(command, |options| Ok(options.env(key.required_os("key")?, value.required_os("value")?)))
}

/// Starts it in that folder of the guest (absolute).
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_set_cwd(command: Option<&mut VmetteCommand>, path: Text) -> VmetteStatus {
    change(command, |options| Ok(options.cwd(path.required("path")?)))
}

/// Runs it as `name`, `uid`, `name:group` or `uid:gid` of the guest.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_set_user(command: Option<&mut VmetteCommand>, user: Text) -> VmetteStatus {
    change(command, |options| Ok(options.user(user.required("user")?)))
}

/// Runs it on a terminal of that size.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_set_tty(
    command: Option<&mut VmetteCommand>,
    rows: u16,
    cols: u16,
) -> VmetteStatus {
    change(command, |options| Ok(options.tty(rows, cols)))
}

/// Whether it has a stdin, which vmette_process_write_stdin() feeds; else stdin is empty.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_command_set_stdin(command: Option<&mut VmetteCommand>, open: bool) -> VmetteStatus {
    change(command, |options| Ok(options.stdin(open)))
}
