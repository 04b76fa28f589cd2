//! What C passes in. Values of these types come from nowhere else: only C makes them, and the header says what a caller
//! has to ensure for each.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::slice;

use crate::status::{Failure, VmetteStatus};

/// `const char *`: NULL, or a NUL-terminated string that stays as it is for the time of the call.
#[repr(transparent)]
pub struct Text(*const c_char);

/// `const char *const *`: NULL, or an array of strings that ends with NULL.
#[repr(transparent)]
pub struct Texts(*const *const c_char);

/// `const uint8_t *`: NULL, or as many bytes as the length that comes with it says.
#[repr(transparent)]
pub struct Bytes(*const u8);

/// `uint8_t *`: NULL, or room for as many bytes as the length that comes with it says.
#[repr(transparent)]
pub struct Room(*mut u8);

/// `char *`: NULL, or a string that a vmette function stored, which has not been freed.
#[repr(transparent)]
pub struct OwnString(*mut c_char);

/// Most strings of an array: more than any kernel takes for a program. An array that lacks its end is found out.
const TEXTS_MAX: usize = 1 << 20;

impl Text {
    /// The string; NULL is an error.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.optional(name)?.ok_or_else(|| Failure::null(name))
    }

    /// The string, which need not be UTF-8: a path of the host or a variable. NULL is an error.
    pub(crate) fn required_os(&self, name: &str) -> Result<&OsStr, Failure> {
        // SAFETY: the type's promise.
        unsafe { bytes(self.0) }
            .map(|bytes| OsStr::from_bytes(bytes.to_bytes()))
            .ok_or_else(|| Failure::null(name))
    }

    /// The string; NULL stands for none.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<&str>, Failure> {
        // SAFETY: the type's promise.
        unsafe { text(self.0, name) }
    }
}

/// # Safety
/// `pointer` is NULL or a string that lives and stays the same for `'a`.
unsafe fn bytes<'a>(pointer: *const c_char) -> Option<&'a CStr> {
    // SAFETY: not NULL, so a string, as the caller ensures.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) })
}

/// # Safety
/// As for [`bytes`].
unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    let invalid = |_| Failure::new(VmetteStatus::InvalidUtf8, format!("{name} is not valid UTF-8"));
    // SAFETY: as the caller ensures.
    unsafe { bytes(pointer) }.map(|bytes| bytes.to_str().map_err(invalid)).transpose()
}

impl Texts {
    /// The strings; NULL is an error.
    pub(crate) fn required(&self, name: &str) -> Result<Vec<String>, Failure> {
        self.optional(name)?.ok_or_else(|| Failure::null(name))
    }

    /// The strings; NULL stands for none.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        if self.0.is_null() {
            return Ok(None);
        }
        let mut texts = Vec::new();
        for at in 0..TEXTS_MAX {
            // SAFETY: the array goes on to its first NULL, which has not come yet.
            let pointer = unsafe { *self.0.add(at) };
            // SAFETY: an element is a string of the caller's for the time of the call; it is copied below.
            let Some(text) = (unsafe { text(pointer, name) })? else { return Ok(Some(texts)) };
            texts.push(text.to_owned());
        }
        Err(Failure::new(VmetteStatus::InvalidConfig, format!("{name}: more than {TEXTS_MAX} strings")))
    }
}

impl Bytes {
    /// The bytes; NULL is an error unless there are none.
    pub(crate) fn of_length(&self, length: usize, name: &str) -> Result<&[u8], Failure> {
        if length == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(Failure::null(name));
        }
        too_long(length, name)?;
        // SAFETY: the type's promise; the length is not beyond what one object can have.
        Ok(unsafe { slice::from_raw_parts(self.0, length) })
    }
}

impl Room {
    /// The room, if it is there; NULL is an error.
    pub(crate) fn required(self, name: &str) -> Result<Writable, Failure> {
        Ok(Writable(NonNull::new(self.0).ok_or_else(|| Failure::null(name))?))
    }
}

/// Room that is not NULL.
pub(crate) struct Writable(NonNull<u8>);

impl Writable {
    /// Copies as much of `bytes` as has room; returns how much.
    pub(crate) fn fill(self, length: usize, bytes: &[u8]) -> usize {
        let count = length.min(bytes.len());
        // SAFETY: there is room for `length` bytes and no more are written; what C gave us is not ours already.
        unsafe { self.0.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), count) };
        count
    }
}

fn too_long(length: usize, name: &str) -> Result<(), Failure> {
    if isize::try_from(length).is_ok() {
        return Ok(());
    }
    Err(Failure::new(VmetteStatus::InvalidConfig, format!("{name}: a length of {length} bytes")))
}

impl OwnString {
    /// Hands a string over to C.
    pub(crate) fn give(string: CString) -> Self {
        Self(string.into_raw())
    }

    /// Takes it back.
    pub(crate) fn take(self) -> Option<CString> {
        // SAFETY: the type's promise: it is from `give`, and comes back once.
        (!self.0.is_null()).then(|| unsafe { CString::from_raw(self.0) })
    }
}

/// A handle or a place for a result that must be there.
pub(crate) fn required<T>(pointer: Option<T>, name: &str) -> Result<T, Failure> {
    pointer.ok_or_else(|| Failure::null(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn strings_are_checked() {
        assert_eq!(Text(c"ü".as_ptr()).required("x").unwrap(), "ü");
        assert!(Text(ptr::null()).optional("x").unwrap().is_none());
        let null = Text(ptr::null()).required("the path").unwrap_err();
        assert_eq!((null.status, null.message.as_str()), (VmetteStatus::NullArg, "the path is NULL"));
        let invalid = Text(c"a\xff".as_ptr()).optional("the path").unwrap_err();
        assert_eq!(invalid.status, VmetteStatus::InvalidUtf8);
        assert_eq!(invalid.message, "the path is not valid UTF-8");
        assert_eq!(Text(c"a\xff".as_ptr()).required_os("the path").unwrap().as_bytes(), b"a\xff");
        assert_eq!(Text(ptr::null()).required_os("the path").unwrap_err().status, VmetteStatus::NullArg);
    }

    #[test]
    fn arrays_of_strings_end_with_null() {
        let array = [c"a".as_ptr(), c"".as_ptr(), ptr::null(), c"b".as_ptr()];
        assert_eq!(Texts(array.as_ptr()).required("argv").unwrap(), ["a", ""]);
        let array = [c"a".as_ptr(), c"\xff".as_ptr(), ptr::null()];
        assert_eq!(Texts(array.as_ptr()).required("argv").unwrap_err().status, VmetteStatus::InvalidUtf8);
        assert_eq!(Texts(ptr::null()).required("argv").unwrap_err().status, VmetteStatus::NullArg);
    }

    #[test]
    fn bytes_may_be_null_only_when_there_are_none() {
        assert!(Bytes(ptr::null()).of_length(0, "data").unwrap().is_empty());
        assert_eq!(Bytes(ptr::null()).of_length(1, "data").unwrap_err().status, VmetteStatus::NullArg);
        let three = [1, 2, 3];
        let bytes = Bytes(three.as_ptr());
        assert_eq!(bytes.of_length(2, "data").unwrap(), [1, 2]);
        assert_eq!(bytes.of_length(usize::MAX, "data").unwrap_err().status, VmetteStatus::InvalidConfig);
    }

    #[test]
    fn no_more_is_written_than_has_room() {
        let mut buffer = [0; 3];
        let room = |buffer: &mut [u8; 3]| Room(buffer.as_mut_ptr()).required("buffer").unwrap();
        assert_eq!(room(&mut buffer).fill(2, &[1, 2, 3]), 2);
        assert_eq!(room(&mut buffer).fill(3, &[7]), 1);
        assert_eq!(buffer, [7, 2, 0]);
    }
}
