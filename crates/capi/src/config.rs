//! What a session is to be.

pub mod workload;

pub mod grants;

pub mod machine;

pub(crate) use machine::duplicate;

use std::fs::File;
use std::sync::Arc;

use library::{Config, Console, Session, SessionBuilder};

use crate::arguments::{Text, required};
use crate::entry::{entry, entry_or};
use crate::installed;
use crate::notice::{self, NoticeSink};
use crate::status::{Failure, VmetteStatus};

/// What a session is to be. Nothing is granted that is not named in it.
///
/// A setter that fails leaves its mark: whatever is then asked for with this configuration fails with the same status,
/// so that a program which ignores what setters return never runs something else than it asked for. A later success
/// of the same vmette_config_set_… function lifts that; a vmette_config_add_… that failed cannot be made undone.
pub struct VmetteConfig {
    config: Config,
    refused: Vec<Refused>,
    notices: Option<NoticeSink>,
    /// Whether the command's output is kept. It is the caller's affair, not the machine's.
    capture: bool,
    /// The file for the guest kernel's messages.
    console: Option<Arc<File>>,
}

/// A setter that failed.
struct Refused {
    setter: &'static str,
    replaceable: bool,
    why: Failure,
}

impl VmetteConfig {
    fn new(kernel: &str, initramfs: &str) -> Self {
        let named = |path: &str| (!path.is_empty()).then(|| path.into());
        let mut config = Config::default();
        (config.machine.kernel, config.machine.initramfs) = (named(kernel), named(initramfs));
        config.host.installed_at = installed::own_file();
        Self { config, refused: Vec::new(), notices: None, capture: false, console: None }
    }

    /// The configuration, if every setter has worked.
    pub(crate) fn ready(&self) -> Result<&Config, Failure> {
        match self.refused.first() {
            None => Ok(&self.config),
            Some(refused) => Err(Failure {
                message: format!("a setter of this configuration has failed: {}", refused.why.message),
                ..refused.why.clone()
            }),
        }
    }

    /// A builder of sessions of this configuration, if every setter has worked.
    pub(crate) fn builder(&self) -> Result<SessionBuilder<'_>, Failure> {
        let mut builder = Session::builder(self.ready()?);
        if let Some(file) = &self.console {
            builder = builder.console(Console::File(file.clone()));
        }
        if let Some(sink) = self.notices {
            builder = builder.observer(notice::observer(sink));
        }
        Ok(if self.capture { builder.captured() } else { builder })
    }

    pub(crate) fn notices(&self) -> Option<NoticeSink> {
        self.notices
    }

    /// Makes the configuration say something else about one thing.
    pub(crate) fn set(
        &mut self,
        setter: &'static str,
        work: impl FnOnce(&mut Config) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let result = work(&mut self.config);
        self.refused.retain(|refused| !(refused.replaceable && refused.setter == setter));
        self.mark(setter, true, result)
    }

    fn add(
        &mut self,
        setter: &'static str,
        work: impl FnOnce(&mut Config) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let result = work(&mut self.config);
        self.mark(setter, false, result)
    }

    fn mark(
        &mut self,
        setter: &'static str,
        replaceable: bool,
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let named = |why: Failure| Failure { message: format!("{setter}: {}", why.message), ..why };
        let result = result.map_err(named);
        if let Err(why) = &result {
            self.refused.push(Refused { setter, replaceable, why: why.clone() });
        }
        result
    }
}

/// A setter for one thing that is the caller's rather than the machine's.
fn set_own(
    config: Option<&mut VmetteConfig>,
    setter: &'static str,
    work: impl FnOnce(&mut VmetteConfig) -> Result<(), Failure>,
) -> VmetteStatus {
    entry(|| {
        let config = required(config, "config")?;
        let result = work(config);
        config.set(setter, |_| result)
    })
}

/// A setter for one thing.
fn set(
    config: Option<&mut VmetteConfig>,
    setter: &'static str,
    work: impl FnOnce(&mut Config) -> Result<(), Failure>,
) -> VmetteStatus {
    entry(|| required(config, "config")?.set(setter, work))
}

/// A setter that adds to what is there.
fn add(
    config: Option<&mut VmetteConfig>,
    setter: &'static str,
    work: impl FnOnce(&mut Config) -> Result<(), Failure>,
) -> VmetteStatus {
    entry(|| required(config, "config")?.add(setter, work))
}

/// A configuration with one CPU, 512 MiB, the built-in root and no grants. Empty strings stand for the kernel and the
/// initramfs that vmette provides. NULL when a string is NULL or no UTF-8. Free it with vmette_config_free().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_new(kernel: Text, initramfs: Text) -> Option<Box<VmetteConfig>> {
    entry_or(None, || {
        let config = VmetteConfig::new(kernel.required("kernel")?, initramfs.required("initramfs")?);
        Ok(Some(Box::new(config)))
    })
}

/// As vmette_config_new("", "").
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_new_default() -> Option<Box<VmetteConfig>> {
    entry_or(None, || Ok(Some(Box::new(VmetteConfig::new("", "")))))
}

/// Frees the configuration. Sessions that were started with it go on. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_free(config: Option<Box<VmetteConfig>>) {
    entry(|| {
        drop(config);
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(_: &mut Config) -> Result<(), Failure> {
        Err(Failure::null("path"))
    }

    #[test]
    fn what_a_setter_could_not_do_is_not_forgotten() {
        let mut config = VmetteConfig::new("", "");
        assert!(config.ready().is_ok());
        config.set("set_a", refuse).unwrap_err();
        let error = config.ready().unwrap_err();
        assert_eq!(error.status, VmetteStatus::NullArg);
        assert_eq!(error.message, "a setter of this configuration has failed: set_a: path is NULL");
        config.set("set_b", |_| Ok(())).unwrap();
        assert!(config.ready().is_err(), "another one does not lift it");
        config.set("set_a", |_| Ok(())).unwrap();
        assert!(config.ready().is_ok());
        config.add("add_c", refuse).unwrap_err();
        config.add("add_c", |_| Ok(())).unwrap();
        assert!(config.ready().is_err(), "the share, or what it was, is still missing");
    }
}
