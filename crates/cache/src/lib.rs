//! Everything that is kept on disk: private folders, locks, keys, stamps, and files that get there whole or not at all.
//!
//! | to | use |
//! |---|---|
//! | find the user's cache, and refuse one that others can write to | [`CacheRoot`], [`private_folder`], [`own`] |
//! | keep one kind of derived files, each made once | [`Shelf`] |
//! | let one process at a time do something | [`FileLock`] |
//! | make a file, or a folder, appear whole | [`StagedFile`], [`replace`], [`note`], [`StagedFolder`] |
//! | have a folder that goes with its process, however that ends | [`OwnedFolder`] |
//! | name a thing after all that it depends on | [`KeyBuilder`], [`Key`] |
//! | know a file again without reading it | [`Stamp`], [`FileStamp`] |
//! | know content again | [`Digest`], [`hash`] |
//! | read or copy a sparse file without its holes | [`sparse`] |
//!
//! No other crate of the workspace opens a file of the cache by a way of its own.
#![forbid(unsafe_code)]

mod digest;
mod error;
mod key;
mod lock;
mod owned;
mod private;
mod publish;
mod root;
mod shelf;
pub mod sparse;
mod staged_folder;
mod stamp;

pub use digest::{BadDigest, Digest, hash};
pub use error::{Error, Result};
pub use key::{BadKey, Key, KeyBuilder};
pub use lock::FileLock;
pub use owned::OwnedFolder;
pub use private::{own, private_folder};
pub use publish::{StagedFile, note, replace, sync_folder};
pub use root::CacheRoot;
pub use shelf::{Shelf, ShelfLock};
pub use staged_folder::{StagedFolder, StagingError};
pub use stamp::{FileStamp, Stamp};
