//! The three kinds of processes; see README.md beside this file.

pub mod batch;
mod deaths;
pub mod executor;
mod hands;
pub mod launcher;
pub mod procedure;
pub mod scheduler;
mod wear;
