//! What functions of earlier versions call, which had other arguments: their tables are not served, and they are told so
//! before an argument is read.

use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::pg::report::ErrorReport;
use crate::pg::version;

fn refuse() -> Result<i64> {
    version::serve()?;
    Err(Error::state("this function is one of an earlier version of pgq", "ALTER EXTENSION pgq UPDATE;"))
}

#[pg_extern(sql = false)]
fn put() -> std::result::Result<i64, ErrorReport> {
    Ok(refuse()?)
}

#[pg_extern(sql = false)]
fn bulk_put() -> std::result::Result<i64, ErrorReport> {
    Ok(refuse()?)
}

#[pg_extern(sql = false)]
fn register() -> std::result::Result<i64, ErrorReport> {
    Ok(refuse()?)
}

#[pg_extern(sql = false)]
fn configure() -> std::result::Result<i64, ErrorReport> {
    Ok(refuse()?)
}

#[pg_extern(sql = false)]
fn stats() -> std::result::Result<i64, ErrorReport> {
    Ok(refuse()?)
}
