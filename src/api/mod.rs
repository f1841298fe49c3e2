//! What SQL users call. Thin: check the arguments, call store, return. Declared in sql/schema/functions.sql.

mod check;
mod claim;
mod doctor;
mod handlers;
mod manage;
mod put;
mod run;
mod stats;
mod wait;
