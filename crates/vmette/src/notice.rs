//! What a session tells whoever watches it.

use std::sync::{Arc, Mutex, PoisonError};

/// Something a person may want to know while a session starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A step that takes seconds begins.
    Progress(String),
    /// Something went wrong and was worked around.
    Warning(String),
    /// What the guest sent to the port that answers with it ([`Config::vsock_echo`](crate::Config)), and when it
    /// connected. The guest chose the words; what a terminal would obey is escaped. Bounded.
    Vsock(String),
}

/// Most warnings of one session: a guest can cause some.
const WARNINGS_MAX: usize = 100;

/// Receives notices, on the thread that starts the session or one of the session's own.
pub type Observer = Arc<dyn Fn(&Notice) + Send + Sync>;

/// Passes notices on, and keeps the warnings for the report.
#[derive(Default)]
pub(crate) struct Notices {
    observer: Option<Observer>,
    warnings: Mutex<Vec<String>>,
}

impl Notices {
    pub(crate) fn new(observer: Option<Observer>) -> Self {
        Self { observer, warnings: Mutex::default() }
    }

    pub(crate) fn progress(&self, text: &str) {
        if let Some(observer) = &self.observer {
            observer(&Notice::Progress(text.to_owned()));
        }
    }

    pub(crate) fn vsock(&self, text: String) {
        if let Some(observer) = &self.observer {
            observer(&Notice::Vsock(text));
        }
    }

    /// Passes a warning on, the same one only once.
    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.contains(&text) || warnings.len() >= WARNINGS_MAX {
            return;
        }
        if let Some(observer) = &self.observer {
            observer(&Notice::Warning(text.clone()));
        }
        warnings.push(text);
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
