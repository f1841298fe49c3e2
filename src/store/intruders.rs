//! Who wants the extension or the database for himself, and may have it? DROP takes its lock before it asks for the
//! right (objectaddress.c, RemoveObjects in dropcmds.c; dropdb in dbcommands.c): so anybody who can connect can wait
//! for it, and only whoever may drop is to be made room for.

use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};

/// Locks nothing: the locks that conflict with what our workers hold, and whether their sessions' roles may act as
/// the owner. A session that is none of a client's, or is gone, is the server's own business.
static EXTENSION: Statement = Statement::new(
    "SELECT l.pid, COALESCE(pg_catalog.pg_has_role(a.usesysid, e.extowner, 'MEMBER'), true)
       FROM pg_catalog.pg_locks AS l
       JOIN pg_catalog.pg_extension AS e ON e.oid = l.objid
       LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid AND a.backend_type = 'client backend'
      WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND l.objid = $1
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                           WHERE d.datname = pg_catalog.current_database())
        AND l.mode = 'AccessExclusiveLock'",
    &[Type::Oid],
);

/// As EXTENSION, for this database: DROP, RENAME, SET TABLESPACE (AccessExclusiveLock), CREATE DATABASE … TEMPLATE
/// (ShareLock).
static DATABASE: Statement = Statement::new(
    "SELECT l.pid, COALESCE(pg_catalog.pg_has_role(a.usesysid, d.datdba, 'MEMBER'), true)
       FROM pg_catalog.pg_locks AS l
       JOIN pg_catalog.pg_database AS d ON d.oid = l.objid AND d.datname = pg_catalog.current_database()
       LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid AND a.backend_type = 'client backend'
      WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
        AND (l.mode = 'AccessExclusiveLock' OR l.mode = 'ShareLock')",
    &[],
);

/// What was found.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Does somebody want it who may have it?
    pub rightly: bool,
    /// The sessions of those who may not.
    pub intruders: Vec<i32>,
}

fn split(found: Vec<(i32, bool)>) -> Wanted {
    let rightly = found.iter().any(|(_, may)| *may);
    let intruders = found.into_iter().filter(|(_, may)| !may).map(|(pid, _)| pid).collect();
    Wanted { rightly, intruders }
}

/// Who holds or waits for the extension exclusively.
pub fn of_extension(extension: u32) -> Result<Wanted> {
    Ok(split(EXTENSION.rows(&[Arg::Oid(extension)], |row| Ok((row.must(1)?, row.must(2)?)))?))
}

/// Who holds or waits for this database.
pub fn of_database() -> Result<Wanted> {
    Ok(split(DATABASE.rows(&[], |row| Ok((row.must(1)?, row.must(2)?)))?))
}
