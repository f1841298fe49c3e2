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

/// Index: pg_extension_name_index; locks nothing.
static INSTALLED: Statement = Statement::new(
    "SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'pgq'",
    &[],
);

/// The version that this database has.
pub fn installed() -> Result<String> {
    Ok(INSTALLED.row(&[], |row| row.must(1))?.unwrap_or_default())
}

thread_local! {
    /// `tamper::generation` before the version was found to be ours.
    static SEEN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The tables are those that this library installs.
///
/// # Errors
/// 55000 when they are of another version.
pub fn serve() -> Result<()> {
    let generation = tamper::generation();
    if SEEN.get() == Some(generation) {
        return Ok(());
    }
    let installed = installed()?;
    if installed != LIBRARY {
        return Err(Error::Unserved { message: words(&installed), hint: fix(&installed) });
    }
    SEEN.set(Some(generation));
    Ok(())
}

/// Why this library does not serve the database, if so: asked anew.
pub fn unserved() -> Result<Option<String>> {
    let installed = installed()?;
    Ok((installed != LIBRARY).then(|| words(&installed)))
}

fn words(installed: &str) -> String {
    format!("extension pgq has version {installed} in this database, and the library is of version {LIBRARY}")
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
