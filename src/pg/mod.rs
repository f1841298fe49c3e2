//! PostgreSQL as safe Rust: the only place with `unsafe`. One facility per file, safe signatures.
//! Nothing here knows what a queue is, but for the layout of shared memory.

pub mod activity;
pub mod at_commit;
pub mod bgworker;
pub mod catalog;
pub mod changes;
pub mod clock;
pub mod context;
pub mod counters;
pub mod database;
pub mod datum;
pub mod durable;
pub mod encoding;
pub mod extension;
pub mod function;
pub mod grant;
pub mod guc;
pub mod hooks;
pub mod index;
pub mod insert;
pub mod latch;
pub mod log;
pub mod mapped;
pub mod memory;
pub mod place;
pub mod portal;
pub mod positions;
mod raw;
pub mod report;
pub mod rows;
pub mod scan;
pub mod segment;
pub mod session;
pub mod shmem;
pub mod shortage;
pub mod signals;
pub mod spi;
pub mod tamper;
pub mod text;
pub mod timeout;
pub mod trust;
pub mod user;
pub mod version;
pub mod xact;
pub mod zone;

#[cfg(any(test, feature = "pg_test"))]
mod guards_tests;
#[cfg(any(test, feature = "pg_test"))]
pub mod session_tests;
