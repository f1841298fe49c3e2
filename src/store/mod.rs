//! The only place that knows the tables' SQL. One file per verb; each statement a static whose comment
//! says which index it uses, which rows it locks, and why it cannot block.
//!
//! How a job is taken, everywhere: its row is locked `FOR UPDATE SKIP LOCKED` in a sub-select, and deleted
//! or updated by ctid. The lock makes the ctid stable for the rest of the statement; a row that somebody
//! has is skipped, so nothing here waits for a running job. By ctid, because the plan of a look-up by id
//! flips with the statistics of a table that is empty one minute and full the next.

pub mod after;
pub mod arming;
pub mod changes;
pub mod claim;
pub mod counts;
pub mod finish;
pub mod flows;
pub mod followup;
pub mod groups;
pub mod history;
pub mod horizon;
pub mod insert;
pub mod intruders;
pub mod key;
pub mod numbers;
pub mod parking;
pub mod promote;
pub mod quarantine;
pub mod ready;
pub mod registry;
pub mod rights;
pub mod row;
pub mod schedule;
pub mod server;
pub mod settle;

#[cfg(any(test, feature = "pg_test"))]
mod parking_tests;
#[cfg(any(test, feature = "pg_test"))]
mod ready_tests;
#[cfg(any(test, feature = "pg_test"))]
mod statements_tests;
