//! VZ's errors in words.

use objc2_foundation::NSError;
use vmette_vmm::Error;

use crate::ENGINE;

/// VZ names the entitlement that a program lacks, in whatever language the rest of its sentence is.
const ENTITLEMENT: &str = "com.apple.security.virtualization";

/// The remedy for a program without the entitlement.
const SIGN: &str = "this program is not signed with the entitlement com.apple.security.virtualization: run `make sign`, or \
     `codesign --force --sign - --entitlements entitlements.plist PROGRAM`";

/// An error of the framework's, as text that may leave the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    text: String,
}

impl Failure {
    pub(crate) fn of(error: &NSError) -> Self {
        let mut text = error.localizedDescription().to_string();
        if let Some(reason) = error.localizedFailureReason() {
            let reason = reason.to_string();
            if !text.contains(&reason) {
                text = format!("{text} {reason}");
            }
        }
        Self { text: format!("{text} ({} {})", error.domain(), error.code()) }
    }

    pub(crate) fn from_text(text: String) -> Self {
        Self { text }
    }

    /// For completion handlers: no error is success.
    pub(crate) fn check(error: *mut NSError) -> Result<(), Self> {
        // SAFETY: VZ passes null or an error that lives as long as the call of its handler.
        unsafe { error.as_ref() }.map_or(Ok(()), |error| Err(Self::of(error)))
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The failure as an error, or the remedy where it is known.
    pub(crate) fn into_error(self, otherwise: impl FnOnce(String) -> Error) -> Error {
        if self.text.contains(ENTITLEMENT) {
            return Error::Unavailable { engine: ENGINE, reason: SIGN.into() };
        }
        otherwise(self.text)
    }
}
