//! Who holds vacuum back: what was deleted since his snapshot cannot be removed, from our tables neither.

use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};

/// Somebody whom vacuum waits for.
pub struct Holder {
    /// Who, and for how long.
    pub who: String,
    /// The command that ends it.
    pub fix: String,
}

/// Views of the server; locks nothing. Sessions count in the database they are in, slots and standbys everywhere, as
/// procarray.c has it (ComputeXidHorizons): by their snapshot, or by the transaction id of what they wrote. What a
/// session runs is not shown: it may have data in it.
static HOLDERS: Statement = Statement::new(
    "SELECT h.who, h.fix FROM (
        SELECT pg_catalog.format('process %s (%s%s, %s) has had a transaction open for %s', a.pid,
                   COALESCE('user ' || pg_catalog.quote_ident(a.usename), a.backend_type),
                   ', application ' || pg_catalog.quote_literal(NULLIF(a.application_name, '')),
                   COALESCE(a.state, a.backend_type),
                   pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.xact_start)),
               CASE WHEN a.backend_type = 'pgq executor'
                    THEN pg_catalog.format('SELECT pgq.cancel(job, force => true) FROM pgq.running WHERE pid = %s;', a.pid)
                    ELSE pg_catalog.format('SELECT pg_terminate_backend(%s);', a.pid) END,
               GREATEST(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid))
          FROM pg_catalog.pg_stat_activity AS a
         WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_catalog.pg_backend_pid()
           AND a.datname = pg_catalog.current_database()
           AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
        UNION ALL
        SELECT pg_catalog.format('prepared transaction %L of user %I has been open for %s', p.gid, p.owner,
                   pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - p.prepared)),
               pg_catalog.format('ROLLBACK PREPARED %L;', p.gid), pg_catalog.age(p.transaction)
          FROM pg_catalog.pg_prepared_xacts AS p
         WHERE p.database = pg_catalog.current_database()
           AND p.prepared < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)
        UNION ALL
        SELECT pg_catalog.format('replication slot %L, not in use, holds a snapshot that is %s transactions old',
                   s.slot_name, pg_catalog.age(s.xmin)),
               pg_catalog.format('SELECT pg_drop_replication_slot(%L);', s.slot_name), pg_catalog.age(s.xmin)
          FROM pg_catalog.pg_replication_slots AS s
         WHERE s.xmin IS NOT NULL AND NOT s.active AND pg_catalog.age(s.xmin) >= $2
        UNION ALL
        SELECT pg_catalog.format('a standby (process %s, application %L) holds a snapshot that is %s transactions old',
                   r.pid, r.application_name, pg_catalog.age(r.backend_xmin)),
               '-- On the standby: end its long query, or set hot_standby_feedback = off.',
               pg_catalog.age(r.backend_xmin)
          FROM pg_catalog.pg_stat_replication AS r
         WHERE r.backend_xmin IS NOT NULL AND pg_catalog.age(r.backend_xmin) >= $2) AS h (who, fix, age)
      ORDER BY h.age DESC LIMIT 10",
    &[Type::Int, Type::Int],
);

/// A slot or a standby says nothing about time: so many transactions are much.
const TRANSACTIONS: i32 = 100_000;

/// Those who have held vacuum back for at least so many seconds, the worst first.
pub fn holders(seconds: i32) -> Result<Vec<Holder>> {
    let args = [Arg::Int(seconds), Arg::Int(TRANSACTIONS)];
    HOLDERS.rows(&args, |row| Ok(Holder { who: row.must(1)?, fix: row.must(2)? }))
}

/// Locks nothing; an estimate of the statistics.
static DEAD_ROWS: Statement =
    Statement::new("SELECT pg_catalog.pg_stat_get_dead_tuples('pgq.job'::pg_catalog.regclass)", &[]);

/// How many rows of pgq.job are dead and still there.
pub fn dead_rows() -> Result<i64> {
    Ok(DEAD_ROWS.row(&[], |row| row.must(1))?.unwrap_or(0))
}
