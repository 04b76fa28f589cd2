//! Lists of byte strings in a payload: each is followed by a NUL, which neither an argument nor an environment
//! variable can contain. Unlike JSON this keeps bytes that are not UTF-8, and costs nothing at several MiB.

/// Most strings in one list.
pub const COUNT_MAX: usize = 1 << 16;

/// A list that cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StringsError {
    /// A string contains a NUL byte.
    #[error("string {0} contains a NUL byte")]
    Nul(usize),
    /// More strings than [`COUNT_MAX`].
    #[error("{0} strings (allowed: up to {COUNT_MAX})")]
    Count(usize),
    /// The payload does not hold as many strings as announced.
    #[error("payload holds {found} strings, {announced} were announced")]
    Missing {
        /// Number in the header.
        announced: usize,
        /// Number in the payload.
        found: usize,
    },
}

/// Appends `strings` to `payload`.
///
/// # Errors
/// [`StringsError::Nul`], [`StringsError::Count`].
pub fn append<S: AsRef<[u8]>>(payload: &mut Vec<u8>, strings: &[S]) -> Result<(), StringsError> {
    if strings.len() > COUNT_MAX {
        return Err(StringsError::Count(strings.len()));
    }
    for (i, s) in strings.iter().enumerate() {
        if s.as_ref().contains(&0) {
            return Err(StringsError::Nul(i));
        }
        payload.extend_from_slice(s.as_ref());
        payload.push(0);
    }
    Ok(())
}

/// Splits a payload into its strings; there must be exactly `announced` of them, each ended by a NUL.
///
/// # Errors
/// [`StringsError::Count`], [`StringsError::Missing`].
pub fn split(payload: &[u8], announced: usize) -> Result<Vec<&[u8]>, StringsError> {
    if announced > COUNT_MAX * 2 {
        return Err(StringsError::Count(announced));
    }
    let complete = payload.is_empty() || payload.last() == Some(&0);
    let body = payload.strip_suffix(&[0]).unwrap_or(payload);
    let strings: Vec<&[u8]> =
        if payload.is_empty() { Vec::new() } else { body.split(|b| *b == 0).take(announced + 1).collect() };
    if strings.len() != announced || !complete {
        return Err(StringsError::Missing { announced, found: strings.len() });
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_must_match() {
        assert_eq!(split(b"", 0).unwrap(), Vec::<&[u8]>::new());
        assert_eq!(split(b"\0", 1).unwrap(), vec![b""]);
        assert!(split(b"a\0b", 2).is_err());
        assert!(split(b"a\0b\0", 1).is_err());
        assert!(split(b"a\0", 2).is_err());
        assert!(split(b"", usize::MAX).is_err());
        assert_eq!(append(&mut Vec::new(), &["a\0b"]), Err(StringsError::Nul(0)));
    }

    proptest! {
        #[test]
        fn round_trip(strings in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 0..20)) {
            let mut payload = Vec::new();
            append(&mut payload, &strings).unwrap();
            prop_assert_eq!(split(&payload, strings.len()).unwrap(), strings);
        }
    }
}
