//! Has somebody changed our tables? A trigger, a rule, a default with a foreign function on one of them would run
//! as the tables' owner within our statements. Only their owner or a superuser can plant such a thing, by accident
//! or through another extension; then nothing of ours writes until it is gone.
//!
//! Two looks. `guard` comes before every statement that writes: under the lock that the statement takes anyway it
//! reads flags of pg_class, which are a promise: a table without the flag has no trigger (no rule, no child). A flag
//! that is set may be out of date, and some changes set none (a default, an index): so `found` asks the catalog in
//! full, when a flag is set, and regularly in the scheduler, which tells all others by `announce`.

use std::cell::Cell;
use std::ffi::CString;
use std::sync::atomic::Ordering::SeqCst;

use pgrx::pg_sys;

use super::spi::Statement;
use super::{database, shmem, user, version, xact};
use crate::error::{Error, Result};

/// Something on one of our tables that does not belong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: String,
    /// The command that removes it.
    pub fix: String,
}

/// Our tables are those that belong to the extension. Code is foreign when pg_depend knows it: what initdb made is
/// pinned and has no entry there (dependency.c, isObjectPinned). Foreign keys are found by their triggers, which
/// both ends have: pg_constraint has no index on the referenced table. Reads the catalog by its indexes.
static FOUND: Statement = Statement::new(
    "WITH ours AS (
        SELECT c.oid, c.relowner, e.extowner, a.amname, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
               pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_catalog.pg_extension AS e
          JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'r'
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
         WHERE e.extname = 'pgq'),
     part AS (
        SELECT o.name, 'pg_catalog.pg_attrdef'::pg_catalog.regclass AS class, d.oid,
               pg_catalog.format('default of %s.%I', o.name, a.attname) AS what,
               pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I %s;', o.name, a.attname, CASE
                   WHEN a.attgenerated <> '' THEN 'DROP EXPRESSION'
                   WHEN a.attname IN ('priority', 'attempt', 'failures', 'crashes', 'parents', 'done', 'dead', 'cancelled') THEN 'SET DEFAULT 0'
                   WHEN a.attname IN ('created_at', 'finished_at', 'registered_at')
                   THEN 'SET DEFAULT pg_catalog.clock_timestamp()'
                   WHEN a.attname IN ('paused', 'has_children') THEN 'SET DEFAULT false'
                   ELSE 'DROP DEFAULT' END) AS fix
          FROM ours AS o JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = o.oid
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.oid AND a.attnum = d.adnum
        UNION ALL
        SELECT o.name, 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid,
               pg_catalog.format('constraint %I on %s', c.conname, o.name),
               pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I;', o.name, c.conname)
          FROM ours AS o JOIN pg_catalog.pg_constraint AS c ON c.conrelid = o.oid
        UNION ALL
        SELECT o.name, 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid,
               pg_catalog.format('index %I on %s', c.relname, o.name),
               pg_catalog.format('DROP INDEX %I.%I;', n.nspname, c.relname)
          FROM ours AS o JOIN pg_catalog.pg_index AS i ON i.indrelid = o.oid
          JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace)
     SELECT pg_catalog.format('trigger %I on %s', t.tgname, o.name),
            pg_catalog.format('DROP TRIGGER %I ON %s;', t.tgname, o.name)
       FROM ours AS o JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = o.oid AND NOT t.tgisinternal
     UNION ALL
     SELECT pg_catalog.format('rule %I on %s', r.rulename, o.name),
            pg_catalog.format('DROP RULE %I ON %s;', r.rulename, o.name)
       FROM ours AS o JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = o.oid
     UNION ALL
     SELECT pg_catalog.format('policy %I on %s', p.polname, o.name),
            pg_catalog.format('DROP POLICY %I ON %s;', p.polname, o.name)
       FROM ours AS o JOIN pg_catalog.pg_policy AS p ON p.polrelid = o.oid
     UNION ALL
     SELECT pg_catalog.format('row level security of %s', o.name),
            pg_catalog.format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;', o.name)
       FROM ours AS o WHERE o.relrowsecurity OR o.relforcerowsecurity
     UNION ALL
     SELECT pg_catalog.format('%s, which inherits from %s', i.inhrelid::pg_catalog.regclass, o.name),
            pg_catalog.format('ALTER TABLE %s NO INHERIT %s;', i.inhrelid::pg_catalog.regclass, o.name)
       FROM ours AS o JOIN pg_catalog.pg_inherits AS i ON i.inhparent = o.oid
     UNION ALL
     SELECT pg_catalog.format('%s, from which %s inherits', i.inhparent::pg_catalog.regclass, o.name),
            pg_catalog.format('ALTER TABLE %s NO INHERIT %s;', o.name, i.inhparent::pg_catalog.regclass)
       FROM ours AS o JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = o.oid
     UNION
     SELECT pg_catalog.format('foreign key %I of %s to %s', c.conname, c.conrelid::pg_catalog.regclass,
                              c.confrelid::pg_catalog.regclass),
            pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I;', c.conrelid::pg_catalog.regclass, c.conname)
       FROM ours AS o JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = o.oid AND t.tgconstraint <> 0::pg_catalog.oid
       JOIN pg_catalog.pg_constraint AS c ON c.oid = t.tgconstraint AND c.contype = 'f'
     UNION ALL
     SELECT DISTINCT pg_catalog.format('%s, which uses %s', p.what,
                              pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0)), p.fix
       FROM part AS p JOIN pg_catalog.pg_depend AS d ON d.classid = p.class AND d.objid = p.oid
        AND d.refclassid = ANY (ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_operator', 'pg_catalog.pg_opclass',
                                      'pg_catalog.pg_opfamily', 'pg_catalog.pg_am']::pg_catalog.regclass[])
     UNION ALL
     SELECT pg_catalog.format('type %s of %s.%I', pg_catalog.format_type(a.atttypid, a.atttypmod), o.name, a.attname),
            '-- Give the column the type it had: sql/schema/tables.sql.'
       FROM ours AS o JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0
        AND NOT a.attisdropped
       JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
        AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
     UNION ALL
     SELECT pg_catalog.format('owner %I of %s', o.relowner::pg_catalog.regrole, o.name),
            pg_catalog.format('ALTER TABLE %s OWNER TO %s;', o.name, o.extowner::pg_catalog.regrole)
       FROM ours AS o WHERE o.relowner <> o.extowner
     UNION ALL
     SELECT pg_catalog.format('access method %I of %s', o.amname, o.name),
            pg_catalog.format('ALTER TABLE %s SET ACCESS METHOD heap;', o.name)
       FROM ours AS o WHERE o.amname IS DISTINCT FROM 'heap'
     UNION ALL
     SELECT pg_catalog.format('%s without WAL', o.name), pg_catalog.format('ALTER TABLE %s SET LOGGED;', o.name)
       FROM ours AS o WHERE o.relpersistence <> 'p'
     ORDER BY 1",
    &[],
);

/// Everything on our tables that does not belong there.
pub fn found() -> Result<Vec<Finding>> {
    FOUND.rows(&[], |row| Ok(Finding { what: row.must(1)?, fix: row.must(2)? }))
}

/// Why all queues of the database stand still, in one sentence: the same, or a version that this library does not
/// serve. `None` when they do not.
pub fn summary() -> Result<Option<String>> {
    if let Some(words) = version::unserved()? {
        return Ok(Some(words));
    }
    let all: Vec<String> = found()?.into_iter().map(|f| f.what).collect();
    let words = || format!("the tables of pgq were changed from outside: {}", all.join("; "));
    Ok((!all.is_empty()).then(words))
}

thread_local! {
    /// One more for each change to any relation that this backend was told of.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// The generation at which `found` found nothing.
    static CLEAN: Cell<u64> = const { Cell::new(0) };
}

/// A number that changes when a relation may have changed, never zero. Of a change that another session committed
/// it tells as soon as this one has taken a lock or begun a transaction.
pub fn generation() -> u64 {
    /// # Safety
    /// Called by inval.c only; it does nothing that can fail.
    unsafe extern "C-unwind" fn changed(_: pg_sys::Datum, _: pg_sys::Oid) {
        GENERATION.set(GENERATION.get() + 1);
    }
    if GENERATION.get() == 0 {
        GENERATION.set(1);
        // SAFETY: a static function, registered once a backend.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::from(0)) };
    }
    GENERATION.get()
}

/// These tables of ours were written to. Where they say how jobs run, executors that remember a handler hear of it as
/// of a change to the relation, and only if this transaction commits: `generation` is another one then.
pub fn settings_written(tables: &[String]) {
    for name in tables.iter().filter(|name| matches!(name.as_str(), "handler" | "queue_setting" | "armed_handler")) {
        let Ok(name) = CString::new(name.as_str()) else { continue };
        // SAFETY: look-ups in the system caches, in a transaction; the relation exists when its oid is found.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"pgq".as_ptr(), true);
            let table = pg_sys::get_relname_relid(name.as_ptr(), schema);
            if table != pg_sys::InvalidOid {
                pg_sys::CacheInvalidateRelcacheByRelid(table);
            }
        }
    }
}

/// Tells all backends of this database what the scheduler found; they then ask the catalog themselves.
pub fn announce(something: bool) {
    if let Some(entry) = shmem::shared().and_then(|shared| shared.find_database(database::current())) {
        entry.tampered.store(u32::from(something), SeqCst);
    }
}

fn is_announced() -> bool {
    let entry = shmem::shared().and_then(|shared| shared.find_database(database::current()));
    entry.is_some_and(|entry| entry.tampered.load(SeqCst) != 0)
}

/// Is there something on our tables that keeps every queue from running?
///
/// # Errors
/// What reading the catalog gives.
pub fn stands_still() -> Result<bool> {
    match guard(&["job"]) {
        Ok(()) => Ok(false),
        Err(Error::Tampered(_) | Error::Unserved { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Locks the tables that a statement is about to write and looks at them.
///
/// # Errors
/// 55000 when there is something on our tables that does not belong there, or this library does not know their version.
pub(super) fn guard(tables: &[impl AsRef<str>]) -> Result<()> {
    // On a standby the statement is refused anyway, with an error that says why.
    if tables.is_empty() || xact::in_recovery() {
        return Ok(());
    }
    let mut odd = false;
    for table in tables {
        odd |= lock_and_look(table.as_ref());
    }
    // Behind the locks, as an upgrade that changes these tables waits for them.
    version::serve()?;
    let announced = is_announced();
    if !odd && !announced {
        return Ok(());
    }
    let generation = generation();
    if !announced && CLEAN.get() == generation {
        return Ok(());
    }
    match summary()? {
        Some(what) => Err(Error::Tampered(what)),
        None => {
            CLEAN.set(generation);
            Ok(())
        }
    }
}

/// Takes the lock that INSERT, UPDATE and DELETE take, which CREATE TRIGGER, CREATE RULE and ALTER TABLE wait for; so
/// what is seen after it holds until the transaction ends. True when a flag of the table's is set that ours have not.
fn lock_and_look(table: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(table) else { return false };
    // SAFETY: syscache look-ups and a lock in a transaction, outside of recovery.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgq".as_ptr(), true);
        let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
        if oid == pg_sys::InvalidOid {
            return false;
        }
        pg_sys::LockRelationOid(oid, i32::try_from(pg_sys::RowExclusiveLock).unwrap_or(3));
        let cache = i32::try_from(pg_sys::SysCacheIdentifier::RELOID).unwrap_or(0);
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return false;
        }
        let class: &pg_sys::FormData_pg_class = &*pg_sys::GETSTRUCT(tuple).cast();
        let odd = class.relhastriggers
            || class.relhasrules
            || class.relhassubclass
            || class.relrowsecurity
            || class.relforcerowsecurity
            || class.relam != pg_sys::HEAP_TABLE_AM_OID
            || Some(class.relowner) != user::owner();
        pg_sys::ReleaseSysCache(tuple);
        odd
    }
}

/// The tables of ours that a statement writes, by its text.
pub(super) fn written(sql: &str) -> Vec<String> {
    let mut tables: Vec<String> = Vec::new();
    for verb in ["INSERT INTO pgq.", "UPDATE pgq.", "DELETE FROM pgq."] {
        for (at, _) in sql.match_indices(verb) {
            let rest = &sql[at + verb.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            if !tables.iter().any(|t| t == &rest[..end]) {
                tables.push(rest[..end].into());
            }
        }
    }
    tables
}
