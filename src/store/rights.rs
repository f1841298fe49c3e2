//! Who may do what with which queue: the grants as they are kept, and what a role holds by them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::engine::access::{objects, Access, Grant, Object, Rights};
use crate::error::{Error, Result};
use crate::pg::grant::{self, Kind};
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::pg::user;

/// Reads the whole table, which has a few rows per role, once for many calls; locks nothing. A row counts for the
/// role that it was written for: of this oid and of this name. A role that was re-created has another oid, one that
/// came out of a dump may have the oid of somebody else.
static HELD: Statement = Statement::new(
    "SELECT g.access, g.queue FROM pgq.queue_grant AS g
      WHERE EXISTS (SELECT FROM pg_catalog.pg_authid AS r WHERE r.oid = g.role_oid AND r.rolname = g.role)
        AND pg_catalog.pg_has_role($1, g.role_oid, 'USAGE')",
    &[Type::Oid],
);

/// The rights of the role that was asked for last, and what `grant::generation` said before they were read.
type Kept = (u32, (u32, u64), Rc<Vec<Grant>>);

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// What a role may do now, its memberships included.
///
/// Kept as long as nothing changed: reading it each time made a put a fifth slower. Right in the face of a revoke
/// that commits meanwhile, because the generation is taken *before* the snapshot: a message about it that comes in
/// between makes what was read here out of date at the next call, one that came before has its commit in the snapshot
/// (xact.c sends messages after the transaction has become visible).
pub fn of(role: u32) -> Result<Rights> {
    if user::is_owner(role) {
        return Ok(Rights::Owner);
    }
    let generation = grant::generation();
    let kept = KEPT.with_borrow(|kept| match kept {
        Some((of, when, grants)) if (*of, *when) == (role, generation) => Some(Rc::clone(grants)),
        _ => None,
    });
    if let Some(grants) = kept {
        return Ok(Rights::Granted(grants));
    }
    let grants =
        Rc::new(HELD.rows_now(&[Arg::Oid(role)], |row| Ok(Grant { access: access(row)?, queue: row.get(2) }))?);
    KEPT.set(Some((role, generation, Rc::clone(&grants))));
    Ok(Rights::Granted(grants))
}

fn access(row: &Row) -> Result<Access> {
    let word: String = row.must(1)?;
    Access::parse(&word).ok_or_else(|| Error::Internal(format!("unknown access {word}")))
}

/// Index: queue_grant_key; locks the row it writes. One that was written for an earlier name of the role is renewed.
static GRANT: Statement = Statement::new(
    "INSERT INTO pgq.queue_grant AS g (queue, role, role_oid, access)
     SELECT $3, r.rolname, r.oid, $2 FROM pg_catalog.pg_authid AS r WHERE r.oid = $1
     ON CONFLICT ON CONSTRAINT queue_grant_key DO UPDATE SET role = EXCLUDED.role WHERE g.role <> EXCLUDED.role",
    &[Type::Oid, Type::Text, Type::Text],
);

/// Reads the whole table; locks the rows it deletes. Without a queue the grants for single queues go too.
static REVOKE: Statement = Statement::new(
    "DELETE FROM pgq.queue_grant AS g WHERE g.role_oid = $1 AND g.access = $2 AND ($3 IS NULL OR g.queue = $3)",
    &[Type::Oid, Type::Text, Type::Text],
);

/// Reads the whole table; locks the rows it deletes: those of roles that are gone, or whose name is another's now.
static PRUNE: Statement = Statement::new(
    "DELETE FROM pgq.queue_grant AS g
      WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_authid AS r WHERE r.oid = g.role_oid)
         OR EXISTS (SELECT FROM pg_catalog.pg_authid AS r WHERE r.rolname = g.role AND r.oid <> g.role_oid)",
    &[],
);

/// Reads the whole table; locks nothing.
static OWN: Statement =
    Statement::new("SELECT DISTINCT g.access FROM pgq.queue_grant AS g WHERE g.role_oid = $1", &[Type::Oid]);

/// Grants an access; did that change anything? What PostgreSQL itself asks for is granted along.
pub fn give(role: u32, access: Access, queue: Option<&str>) -> Result<bool> {
    grant::take_turns();
    PRUNE.run(&[])?;
    let given = GRANT.run(&[Arg::Oid(role), Arg::Text(access.word()), Arg::text(queue)])? > 0;
    for object in objects(&[access]) {
        change(true, role, object)?;
    }
    grant::changed();
    Ok(given)
}

/// Takes an access back; was there one? With it goes what none of the role's other grants needs.
pub fn take(role: u32, access: Access, queue: Option<&str>) -> Result<bool> {
    grant::take_turns();
    PRUNE.run(&[])?;
    let taken = REVOKE.run(&[Arg::Oid(role), Arg::Text(access.word()), Arg::text(queue)])? > 0;
    let needed = objects(&OWN.rows(&[Arg::Oid(role)], self::access)?);
    for object in objects(&Access::ALL) {
        if !needed.contains(&object) {
            change(false, role, object)?;
        }
    }
    grant::changed();
    Ok(taken)
}

/// Reads the whole table; locks nothing.
static HOLDERS: Statement = Statement::new(
    "SELECT DISTINCT g.role_oid, g.access FROM pgq.queue_grant AS g
       JOIN pg_catalog.pg_roles AS r ON r.oid = g.role_oid AND r.rolname = g.role",
    &[],
);

/// Gives all roles what their accesses need of the schema: some of it is new.
pub fn renew() -> Result<()> {
    for (role, access) in HOLDERS.rows(&[], |row| Ok((row.must_oid(1)?, row.must::<String>(2)?)))? {
        for object in Access::parse(&access).map(|access| objects(&[access])).unwrap_or_default() {
            change(true, role, object)?;
        }
    }
    Ok(())
}

fn change(give: bool, role: u32, object: Object) -> Result<()> {
    let (kind, name) = match object {
        Object::Function(name) => (Kind::Function, name),
        Object::View(name) => (Kind::View, name),
        Object::Type(name) => (Kind::Type, name),
        Object::Schema => (Kind::Schema, ""),
    };
    grant::change(give, role, kind, name)
}
