//! One way to start a program and to own it.
//!
//! A [`Child`] inherits nothing but what its [`Command`] names: no descriptor, no variable of the environment, no
//! working folder, no terminal. It has limits, leads a process group of its own, is ended with its guard, and does not
//! outlive this process, however that ends. Everything that is done to a child between fork and exec is done in one
//! place, `child::prepare`.
//!
//! A [`Tool`] is a child that does one piece of work and ends: its output is read, its time is limited, its [`Work`] can
//! be cancelled, and its last words become the error.
//!
//! [`Work`]: vmette_work::Work

mod child;
mod command;
mod error;
mod find;
mod limits;
mod running;
mod tail;
mod tool;

pub use child::Child;
pub use command::{AtOurEnd, Command, NETWORK_VARIABLES};
pub use error::Error;
pub use find::{SYSTEM_PATH, find, find_on_path};
pub use limits::Limits;
pub use running::{Running, Stream};
pub use tail::last_words;
pub use tool::{Outcome, Tool};
