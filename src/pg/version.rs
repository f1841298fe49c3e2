//! Which version of the extension this database has, and whether this library serves it: a package is upgraded at one
//! moment, `ALTER EXTENSION pgq UPDATE` is typed in each database at another, and a session may have loaded the library
//! of before.
//!
//! Asked before every statement that writes (`tamper::guard`), so it is remembered until some relation changed, as the
//! tables of one version are not those of another. `installed` always asks.

use std::cell::Cell;

use super::spi::Statement;
use super::tamper;
use crate::error::{Error, Result};

/// This library's version, which is that of the tables it installs.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// What there is in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Schema {
    /// 0.1.0: without pgq.armed_handler and pgq.arm. Every handler may run.
    First,
    /// 0.2.0: without schedules.
    Second,
    /// What this library installs.
    Own,
}

/// Index: pg_extension_name_index; locks nothing.
static INSTALLED: Statement = Statement::new(
    "SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'pgq'",
    &[],
);

/// The version that this database has.
pub fn installed() -> Result<String> {
    Ok(INSTALLED.row(&[], |row| row.must(1))?.unwrap_or_default())
}

fn known(version: &str) -> Option<Schema> {
    match version {
        LIBRARY => Some(Schema::Own),
        "0.1.0" => Some(Schema::First),
        "0.2.0" => Some(Schema::Second),
        _ => None,
    }
}

thread_local! {
    /// The schema that was found, and `tamper::generation` before that.
    static SEEN: Cell<Option<(u64, Schema)>> = const { Cell::new(None) };
}

/// What there is in the tables.
///
/// # Errors
/// 55000 when this library does not know the version.
pub fn schema() -> Result<Schema> {
    let generation = tamper::generation();
    if let Some((_, schema)) = SEEN.get().filter(|seen| seen.0 == generation) {
        return Ok(schema);
    }
    let installed = installed()?;
    let schema =
        known(&installed).ok_or_else(|| Error::Unserved { message: words(&installed), hint: fix(&installed) })?;
    SEEN.set(Some((generation, schema)));
    Ok(schema)
}

/// Why this library does not serve the database, if so: asked anew.
pub fn unserved() -> Result<Option<String>> {
    let installed = installed()?;
    Ok(known(&installed).is_none().then(|| words(&installed)))
}

fn words(installed: &str) -> String {
    format!(
        "extension pgq has version {installed} in this database, and the library of version {LIBRARY} does not know it"
    )
}

/// What makes the two agree: what is older is to be changed.
pub fn fix(installed: &str) -> String {
    let numbers = |version: &str| version.split('.').map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>();
    if numbers(installed) < numbers(LIBRARY) {
        "ALTER EXTENSION pgq UPDATE;".into()
    } else {
        format!("Install the library of version {installed}, and restart the server so that it is loaded.")
    }
}
