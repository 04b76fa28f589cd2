//! Notes on an image: what was mended or left out when it was made of something, and how often.

use std::sync::atomic::{AtomicU64, Ordering};

/// A deviation from the source. Each is as containerd has it too, or what squashfs cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    AccessLists,
    Attributes,
    GlobalHeaders,
    Root,
    Numbers,
    GaveWay,
    NoEnd,
    Trailing,
}

/// In the order in which they are told.
const NOTES: [Note; 8] = [
    Note::AccessLists,
    Note::Attributes,
    Note::GlobalHeaders,
    Note::Root,
    Note::Numbers,
    Note::GaveWay,
    Note::NoEnd,
    Note::Trailing,
];

impl Note {
    fn text(self) -> &'static str {
        match self {
            Self::AccessLists => "access control lists were left out, which squashfs cannot hold",
            Self::Attributes => {
                "extended attributes were left out that are none of Linux's or that only libarchive's records have"
            }
            Self::GlobalHeaders => "global headers of an archive were passed over",
            Self::Root => {
                "the root's own entry was passed over, since it keeps users out: the root has mode 0755 and belongs to \
                 root"
            }
            Self::Numbers => "owners or device numbers out of Linux's range were cut to it",
            Self::GaveWay => "files of a lower layer gave way to folders of the same name",
            Self::NoEnd => "the archive lacks the mark of its end, and may have been cut off",
            Self::Trailing => "bytes after the end of an archive were passed over",
        }
    }
}

/// Counts notes. Shared by the threads that read an image.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    counts: [AtomicU64; NOTES.len()],
}

impl Notes {
    pub(crate) fn add(&self, note: Note) {
        self.counts[note as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn count(&self, note: Note) -> u64 {
        self.counts[note as usize].load(Ordering::Relaxed)
    }

    /// A line for each kind that there is.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(note, count): (Note, &AtomicU64)| match count.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(note.text().to_owned()),
            count => Some(format!("{} ({count} times)", note.text())),
        };
        NOTES.into_iter().zip(&self.counts).filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_with_its_number() {
        let notes = Notes::default();
        assert!(notes.lines().is_empty());
        for (index, note) in NOTES.into_iter().enumerate() {
            assert_eq!(note as usize, index, "the list has the order of the kinds");
            (0..=index).for_each(|_| notes.add(note));
        }
        let lines = notes.lines();
        assert_eq!(lines[0], Note::AccessLists.text());
        assert!(lines[2].ends_with("passed over (3 times)"), "{lines:?}");
        assert_eq!(lines.len(), NOTES.len());
    }
}
