//! The three kinds of processes; see README.md beside this file.

pub mod batch;
mod blame;
mod count;
mod deaths;
mod ends;
pub mod executor;
mod hands;
mod journal;
pub mod launcher;
mod missed;
pub mod parking;
pub mod procedure;
mod quarantine;
pub mod scheduler;
mod schedules;
pub mod sets;
mod staffing;
mod wear;
