//! Who may call what: EXECUTE lets a role call a function, the grants of grant_usage say for which queues. Every
//! other file of this folder asks here, with one line. Also grant_usage, revoke_usage and may themselves.
//!
//! Always asked about the role that acts (GetUserId), before the id is raised for a statement of ours: inside a
//! SECURITY DEFINER function that is the function's owner, as for every privilege of PostgreSQL.

use core::ffi::CStr;

use pgrx::prelude::*;

use super::check;
use crate::engine::access::{Access, Rights};
use crate::error::{Error, Result};
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::{encoding, log, user};
use crate::store::rights;

/// Counts and reasons of a queue, no contents: for everybody who has to do with it.
pub const COUNTS: [Access; 3] = [Access::Monitor, Access::Produce, Access::Consume];

/// For a queue that the caller names: 42501 unless the access reaches it.
pub fn need(access: Access, queue: &str) -> Result<()> {
    if held()?.allow(&[access], Some(queue)) {
        return Ok(());
    }
    Err(denied(access, Some(queue)))
}

/// For what touches all queues of the database.
pub fn need_all(access: Access) -> Result<()> {
    if held()?.allow(&[access], None) {
        return Ok(());
    }
    Err(denied(access, None))
}

/// For what looks at one queue, or at as many as the caller may see: 42501 unless one of the accesses reaches the
/// queue, or some. What he holds is for the choice of what to show.
pub fn need_some(any: &[Access], queue: Option<&str>) -> Result<Rights> {
    let held = held()?;
    let enough = queue.map_or_else(|| held.allow_somewhere(any), |queue| held.allow(any, Some(queue)));
    if enough {
        return Ok(held);
    }
    Err(denied(any.first().copied().unwrap_or(Access::Admin), queue))
}

/// For a job by its id: does one of the accesses reach its queue? False, or nothing at all said about it, means that
/// the job is not there for the caller. Whoever has another access to the queue knows it anyway, and is told.
pub fn reach(any: &[Access], queue: &str) -> Result<bool> {
    let held = held()?;
    if held.allow(any, Some(queue)) {
        return Ok(true);
    }
    if held.allow(&Access::ALL, Some(queue)) {
        return Err(denied(any.first().copied().unwrap_or(Access::Admin), Some(queue)));
    }
    Ok(false)
}

/// The queues whose jobs the caller may finish; `None` is all. Jobs of others are not there for him.
pub fn consumable() -> Result<Option<Vec<Option<String>>>> {
    Ok(held()?.queues(Access::Consume))
}

/// What the caller may do.
fn held() -> Result<Rights> {
    rights::of(user::current())
}

fn denied(access: Access, queue: Option<&str>) -> Error {
    let caller = user::name(user::current()).unwrap_or_default();
    let (word, quoted) = (access.word(), caller.replace('\'', "''"));
    let (message, argument) = match queue {
        Some(queue) => (format!("permission denied for queue \"{queue}\""), format!(", '{queue}'")),
        None => ("permission denied for the queues of this database".into(), String::new()),
    };
    Error::Denied {
        message,
        detail: Some(format!("Role \"{caller}\" lacks the access \"{word}\".")),
        hint: format!("An administrator can give it: SELECT pgq.grant_usage('{quoted}', '{word}'{argument});"),
    }
}

fn parse(access: Option<&str>) -> Result<Access> {
    let word = check::given("access", access)?;
    Access::parse(word).ok_or_else(|| {
        Error::argument(
            format!("unrecognized access \"{word}\""),
            "access is 'produce', 'consume', 'monitor' or 'admin'.",
        )
    })
}

/// The arguments of grant_usage and revoke_usage, checked, and the caller's right to change just this.
fn change(role: Option<&CStr>, access: Option<&str>, queue: Option<&str>) -> Result<(u32, Access)> {
    let name = check::given("role", role)?;
    let access = parse(access)?;
    queue.map(|q| check::queue(Some(q))).transpose()?;
    let held = held()?;
    if held != Rights::Owner && (access == Access::Admin || !held.allow(&[Access::Admin], None)) {
        return Err(Error::Denied {
            message: format!("permission denied to grant or revoke \"{}\"", access.word()),
            detail: Some(
                "\"admin\" is given by a superuser or the extension's owner, the others also by who has \"admin\" on \
                 all queues."
                    .into(),
            ),
            hint: "Have one of them type it.".into(),
        });
    }
    let shown = || encoding::from_server_c(name);
    Ok((user::oid(name).ok_or_else(|| Error::NoSuchRole(shown()))?, access))
}

#[pg_extern(sql = false)]
fn grant_usage(
    role: Option<&CStr>,
    access: Option<Text>,
    queue: Option<Text>,
) -> std::result::Result<bool, ErrorReport> {
    let queue = queue.as_deref();
    let (role, access) = change(role, access.as_deref(), queue)?;
    Ok(rights::give(role, access, queue)?)
}

#[pg_extern(sql = false)]
fn revoke_usage(
    role: Option<&CStr>,
    access: Option<Text>,
    queue: Option<Text>,
) -> std::result::Result<bool, ErrorReport> {
    let queue = queue.as_deref();
    let (role, access) = change(role, access.as_deref(), queue)?;
    let taken = rights::take(role, access, queue)?;
    let left = rights::of(role)?;
    if queue.map_or_else(|| left.allow_somewhere(&[access]), |queue| left.allow(&[access], Some(queue))) {
        let name = user::name(role).unwrap_or_default();
        log::notice(&format!(
            "role \"{name}\" still has \"{}\": by another grant, a role that it is a member of, or as a superuser",
            access.word()
        ));
    }
    Ok(taken)
}

#[pg_extern(sql = false)]
fn may(access: Option<Text>, queue: Option<Text>) -> std::result::Result<bool, ErrorReport> {
    let access = parse(access.as_deref())?;
    Ok(held()?.allow(&[access], queue.as_deref()))
}
