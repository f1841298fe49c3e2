//! The three kinds of processes; see README.md beside this file.

pub mod batch;
pub mod executor;
pub mod launcher;
pub mod procedure;
pub mod scheduler;
