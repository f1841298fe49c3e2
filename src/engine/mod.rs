//! Decisions: pure functions of rows, settings and `now`. No PostgreSQL, no I/O, no clock; so all of
//! it is tested by plain `cargo test` (tests/engine.rs).
#![forbid(unsafe_code)]

pub mod access;
pub mod backoff;
pub mod changes;
pub mod cron;
pub mod deaths;
pub mod deltas;
pub mod groups;
pub mod journal;
pub mod levels;
pub mod names;
pub mod options;
pub mod pace;
pub mod parking;
pub mod plan;
pub mod schedule;
pub mod sets;
pub mod snapshot;
pub mod state;
pub mod time;
pub mod zone;
