//! The tables that are watched by on_change, and the triggers that do it. Only the catalog knows of them.

use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};

/// A table of somebody's.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Whose it is.
    pub owner: u32,
}

/// Index: pg_class_oid_index; locks nothing.
static TABLE: Statement = Statement::new(
    "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relowner
       FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1",
    &[Type::Oid],
);

/// The table of an oid.
pub fn table(relation: u32) -> Result<Option<Watched>> {
    TABLE.row(&[Arg::Oid(relation)], |row| {
        Ok(Watched { schema: row.must(1)?, table: row.must(2)?, owner: row.must_oid(3)? })
    })
}

/// Index: pg_trigger_tgrelid_tgname_index; locks nothing. A trigger's arguments follow each other, each with a zero byte.
static TRIGGERS: Statement = Statement::new(
    "SELECT t.tgname::pg_catalog.text FROM pg_catalog.pg_trigger AS t
      WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgfoid = 'pgq.change_trigger()'::pg_catalog.regprocedure
        AND ($2 IS NULL
             OR pg_catalog.substr(t.tgargs, 1, pg_catalog.length($2) + 1)
                = pg_catalog.convert_to($2, 'SQL_ASCII') || '\\x00'::pg_catalog.bytea)
      ORDER BY 1",
    &[Type::Oid, Type::Text],
);

/// The triggers on a table that put into a queue, or into any.
pub fn triggers(relation: u32, queue: Option<&str>) -> Result<Vec<String>> {
    TRIGGERS.rows(&[Arg::Oid(relation), Arg::text(queue)], |row| row.must(1))
}
