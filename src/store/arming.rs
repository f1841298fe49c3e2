//! Which handlers may run in this database: those that were registered in it, and those that somebody armed. The others
//! came with a copy and are held. What says so is a table that no dump carries (sql/schema/tables.sql), with the oid of
//! the database, which CREATE DATABASE … TEMPLATE does not keep: so a copy never holds the permission to run, at no
//! moment of its making. pg_upgrade keeps table and oid.

use crate::error::Result;
use crate::pg::database;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::schedule;

/// Index: handler_pkey, armed_handler_pkey; locks the handler's row there.
static ARM_ONE: Statement = Statement::new(
    "INSERT INTO pgq.armed_handler AS a (handler, registered_at, database)
     SELECT h.id, h.registered_at, $2 FROM pgq.handler AS h WHERE h.id = $1
     ON CONFLICT ON CONSTRAINT armed_handler_pkey DO UPDATE
        SET registered_at = EXCLUDED.registered_at, database = EXCLUDED.database",
    &[Type::Int, Type::Oid],
);

/// Index: armed_handler_pkey; locks the row.
static FORGET: Statement = Statement::new("DELETE FROM pgq.armed_handler AS a WHERE a.handler = $1", &[Type::Int]);

/// Reads the whole table; locks the rows that it writes. In another server a role of a dump has another oid, and its
/// own may be somebody else's: so it is the role of the name, or none. Of a template's copy the oid is right.
static FIND_ROLES: Statement = Statement::new(
    "UPDATE pgq.handler AS h
        SET run_as_oid = COALESCE(
                (SELECT r.oid FROM pg_catalog.pg_roles AS r
                  WHERE r.rolname = h.run_as
                    AND (r.oid = h.run_as_oid OR pg_catalog.pg_has_role($1, r.oid, 'MEMBER'))), 0::pg_catalog.oid)
      WHERE NOT EXISTS (SELECT FROM pgq.armed_handler AS a
                         WHERE a.handler = h.id AND a.registered_at = h.registered_at)",
    &[Type::Oid],
);

/// Reads both tables; locks the rows that it writes.
static ARM_ALL: Statement = Statement::new(
    "INSERT INTO pgq.armed_handler AS a (handler, registered_at, database)
     SELECT h.id, h.registered_at, $1 FROM pgq.handler AS h
     ON CONFLICT ON CONSTRAINT armed_handler_pkey DO UPDATE
        SET registered_at = EXCLUDED.registered_at, database = EXCLUDED.database
      WHERE a.registered_at <> EXCLUDED.registered_at OR a.database <> EXCLUDED.database",
    &[Type::Oid],
);

/// A handler was registered here.
pub fn arm_one(handler: i32) -> Result<()> {
    ARM_ONE.run(&[Arg::Int(handler), Arg::Oid(database::current())]).map(|_| ())
}

/// A handler is no more.
pub fn forget(handler: i32) -> Result<()> {
    FORGET.run(&[Arg::Int(handler)]).map(|_| ())
}

/// All handlers and schedules may run here. Their roles are looked up where `caller` may act as them. Was one held?
pub fn arm_all(caller: u32) -> Result<bool> {
    FIND_ROLES.run(&[Arg::Oid(caller)])?;
    let handlers = ARM_ALL.run(&[Arg::Oid(database::current())])? > 0;
    Ok(schedule::arm_all()? || handlers)
}
