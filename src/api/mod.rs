//! What SQL users call. Thin: check the arguments, call store, return. Declared in sql/schema/functions.sql.

mod after;
mod changes;
mod check;
mod claim;
mod doctor;
mod earlier;
mod flows;
mod handlers;
mod manage;
mod put;
mod rights;
mod run;
mod runner;
mod schedule;
mod stats;
mod upgrade;
mod wait;

#[cfg(any(test, feature = "pg_test"))]
mod claim_tests;
#[cfg(any(test, feature = "pg_test"))]
mod doctor_tests;
#[cfg(any(test, feature = "pg_test"))]
mod handlers_tests;
#[cfg(any(test, feature = "pg_test"))]
mod manage_tests;
#[cfg(any(test, feature = "pg_test"))]
mod put_tests;
#[cfg(any(test, feature = "pg_test"))]
mod run_tests;
#[cfg(any(test, feature = "pg_test"))]
mod stats_tests;
#[cfg(any(test, feature = "pg_test"))]
mod wait_tests;
