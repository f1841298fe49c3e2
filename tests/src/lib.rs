//! The test harness: private servers that are started, killed and stopped for real, ledgers that
//! show what ran how often, waits with deadlines, and the checker of the house's rules. It drives
//! servers from outside, through sockets and signals; it never links the extension.

pub mod bench;
pub mod calls;
pub mod catalog;
pub mod clients;
pub mod clock;
pub mod crasher;
pub mod disk;
pub mod dump;
pub mod hooked;
pub mod installation;
pub mod ledger;
pub mod markdown;
pub mod numbers;
pub mod process;
pub mod programs;
pub mod psql;
pub mod random;
pub mod rules;
pub mod server;
pub mod shop;
pub mod source;
pub mod sql;
pub mod time;
pub mod torture;
pub mod transcript;

pub use ledger::Ledger;
pub use server::{Server, Stop};
pub use sql::{count, one, run};
pub use time::{median, timed, wait_for, wait_until, Until};

use std::path::PathBuf;

/// The root of the repository.
pub fn repository() -> PathBuf {
    // At run time: a build that was copied with its tree would look at the tree it was built in.
    let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_owned());
    let own = PathBuf::from(own);
    own.parent().map(PathBuf::from).unwrap_or(own)
}
