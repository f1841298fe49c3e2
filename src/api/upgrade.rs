//! For upgrade scripts.

use pgrx::prelude::*;

use super::check;
use crate::engine::names;
use crate::error::{Error, Result};
use crate::pg::grant::{self, Kind};
use crate::pg::report::ErrorReport;
use crate::pg::user::Oid;
use crate::pg::{at_commit, extension};
use crate::store::rights;

/// Gives back what was granted on functions that a script has made anew, and to everybody what grant_usage gives along
/// by now. A script creates it for itself, and drops it.
#[pg_extern(sql = false)]
fn regrant(
    functions: Vec<Option<String>>,
    roles: Vec<Option<Oid>>,
    options: Vec<Option<bool>>,
) -> std::result::Result<(), ErrorReport> {
    let all = || -> Result<()> {
        rights::renew()?;
        for ((function, role), option) in functions.iter().zip(&roles).zip(&options) {
            let (name, role) = (check::given("functions", function.as_deref())?, check::given("roles", *role)?);
            grant::change_with(true, option.unwrap_or(false), role.to_u32(), Kind::Function, name)?;
        }
        Ok(())
    };
    let misused = || Error::state("pgq.regrant is for upgrade scripts only", "ALTER EXTENSION pgq UPDATE;");
    extension::after_script(all).ok_or_else(misused)??;
    // Jobs that waited for the upgrade run on when it is committed.
    at_commit::touch(names::hash("pgq.start"));
    Ok(())
}
