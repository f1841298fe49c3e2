//! The three kinds of processes; see README.md beside this file.

pub mod batch;
pub mod executor;
mod journal;
pub mod launcher;
pub mod procedure;
mod quarantine;
pub mod scheduler;
