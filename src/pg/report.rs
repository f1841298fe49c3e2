//! The types of an error's way out: what `#[pg_extern]` functions return, and `crate::error` makes.

pub use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
pub use pgrx::pg_sys::panic::ErrorReport;
