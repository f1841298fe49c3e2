//! New rows of one of our tables, without a statement: the tuple is formed, checked, stored and entered into all the
//! indexes that there are, as COPY FROM does it (copyfrom.c), many of them to a page and a WAL record.
//!
//! What an INSERT sets up anew each time is kept in the session: the expressions of the defaults, the constraints and
//! the indexes' predicates, which take longer than the row itself. It is used as long as no relation changed
//! (`tamper::generation`). Nothing here is done as the tables' owner: no privilege is looked at below the executor, and
//! whatever a superuser hung on our tables runs with no more rights than the caller has.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::rows::Rows;
use super::spi::Type;
use super::tamper;
use crate::error::{Error, Result};

const LOCK: i32 = pg_sys::RowExclusiveLock as i32;

/// One of our tables, as a target for rows.
pub struct Table {
    name: &'static CStr,
    /// The column that the sequence numbers; what `insert` returns.
    id: &'static str,
    /// The columns that are given; all others get their defaults.
    columns: &'static [(&'static str, Type)],
    kept: RefCell<Option<Box<Prepared>>>,
    /// Calls that are under way: more than one when something on the table calls us again.
    depth: Cell<u32>,
    /// The parent of what is kept; null before the first use.
    memory: Cell<pg_sys::MemoryContext>,
}

// SAFETY: a backend has one thread; pgrx refuses calls from any other.
unsafe impl Sync for Table {}

/// What is the same for every row as long as the table does not change. All pointers point into `memory`.
pub(super) struct Prepared {
    generation: u64,
    pub(super) table: pg_sys::Oid,
    memory: pg_sys::MemoryContext,
    /// Emptied after each call.
    pub(super) rows: pg_sys::MemoryContext,
    pub(super) estate: *mut pg_sys::EState,
    pub(super) info: *mut pg_sys::ResultRelInfo,
    /// A copy that belongs to no transaction.
    pub(super) desc: pg_sys::TupleDesc,
    indexes: Vec<pg_sys::Oid>,
    /// Where the columns that are given stand in the row, from 0; then the id.
    pub(super) places: Vec<usize>,
    pub(super) id: usize,
    /// What is not given: computed for each row, or always the same.
    pub(super) defaults: Vec<(usize, *mut pg_sys::ExprState)>,
    pub(super) constants: Vec<(usize, pg_sys::Datum)>,
}

/// A call that is under way. On an error it only counts down: what was in use is freed by the next call.
struct Running<'t>(&'t Cell<u32>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Table {
    /// The table `pgq.name`, its identity column, and the columns that each row gives.
    pub const fn new(name: &'static CStr, id: &'static str, columns: &'static [(&'static str, Type)]) -> Self {
        Table {
            name,
            id,
            columns,
            kept: RefCell::new(None),
            depth: Cell::new(0),
            memory: Cell::new(std::ptr::null_mut()),
        }
    }

    /// Stores the rows that `work` adds; their ids, in the order of adding. The next command sees them.
    ///
    /// # Errors
    /// What `work` returns; 55000 when something was planted on the table. Raises 25006 in a transaction that is read
    /// only, 23514 for a constraint that somebody added.
    pub fn insert(&'static self, work: impl FnOnce(&mut Rows<'_>) -> Result<()>) -> Result<Vec<i64>> {
        // SAFETY: as ExecCheckXactReadOnly (execMain.c) before an INSERT.
        unsafe {
            pg_sys::PreventCommandIfReadOnly(c"INSERT".as_ptr());
            pg_sys::PreventCommandIfParallelMode(c"INSERT".as_ptr());
        }
        tamper::guard(&[self.name.to_string_lossy()])?;
        let running = self.enter();
        // SAFETY: popped below, or by the abort. In a worker nothing is active between two commands, and what is
        // computed for a row (a constraint that somebody added) may ask for a snapshot.
        let bare = unsafe { !pg_sys::ActiveSnapshotSet() };
        if bare {
            // SAFETY: as above.
            unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        }
        // SAFETY: the table is locked and open to the end; every pointer of `prepared` is valid for as long as no
        // other call frees its context, which only an outermost one does.
        let ids = unsafe {
            let schema = pg_sys::get_namespace_oid(c"pgq".as_ptr(), true);
            let oid = pg_sys::get_relname_relid(self.name.as_ptr(), schema);
            if oid == pg_sys::InvalidOid {
                return Err(Error::Internal("the tables of extension pgq are missing".into()));
            }
            let table = pg_sys::table_open(oid, LOCK);
            let prepared = self.prepared(table)?;
            let mut rows = Rows::new(&prepared, self.columns, table);
            let outer = pg_sys::MemoryContextSwitchTo(rows.row_memory());
            work(&mut rows)?;
            let ids = rows.finish();
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::ExecCloseIndices(prepared.info);
            pg_sys::table_close(table, 0);
            if bare {
                pg_sys::PopActiveSnapshot();
            }
            pg_sys::CommandCounterIncrement();
            self.keep(prepared);
            ids
        };
        drop(running);
        Ok(ids)
    }

    /// Counts the call, and frees what an earlier one left when it failed.
    fn enter(&'static self) -> Running<'static> {
        // SAFETY: TopMemoryContext exists in every process; nothing below `memory` is in use outside of a call, but
        // for what is kept.
        unsafe {
            if self.memory.get().is_null() {
                self.memory.set(context(pg_sys::TopMemoryContext, c"pgq insert"));
            }
            if self.depth.get() == 0 && self.kept.borrow().is_none() {
                pg_sys::MemoryContextDeleteChildren(self.memory.get());
            }
        }
        self.depth.set(self.depth.get() + 1);
        Running(&self.depth)
    }

    /// What is kept, with the indexes open; made anew when there is none, or when a relation changed. The generation
    /// is looked at after the last lock, which is when a change that is committed is heard of.
    ///
    /// # Safety
    /// `table` is open and locked.
    unsafe fn prepared(&self, table: pg_sys::Relation) -> Result<Box<Prepared>> {
        let kept = self.kept.take();
        // SAFETY: the caller's promise; a context is freed when nothing uses it any more.
        unsafe {
            if let Some(prepared) = kept {
                let fits = prepared.generation == tamper::generation() && prepared.table == (*table).rd_id;
                if fits && prepared.open(table) {
                    return Ok(prepared);
                }
                pg_sys::MemoryContextDelete(prepared.memory);
            }
            Ok(Box::new(Prepared::new(self, table)?))
        }
    }

    /// Keeps it for the next call, unless one inside this has left its own.
    ///
    /// # Safety
    /// No slot of `prepared` is in use any more.
    unsafe fn keep(&self, prepared: Box<Prepared>) {
        // SAFETY: everything in `rows` was made by the call that ends here.
        unsafe {
            pg_sys::ReScanExprContext((*prepared.estate).es_per_tuple_exprcontext);
            pg_sys::MemoryContextReset(prepared.rows);
            if let Some(other) = self.kept.replace(Some(prepared)) {
                pg_sys::MemoryContextDelete(other.memory);
            }
        }
    }
}

/// # Safety
/// `parent` is a memory context.
unsafe fn context(parent: pg_sys::MemoryContext, name: &'static CStr) -> pg_sys::MemoryContext {
    // SAFETY: the caller's promise; the name is static as the allocator requires.
    unsafe { pg_sys::AllocSetContextCreateInternal(parent, name.as_ptr(), 0, 8 * 1024, 8 * 1024 * 1024) }
}

impl Prepared {
    /// # Safety
    /// `table` is open and locked. Leaves its indexes open.
    unsafe fn new(of: &Table, table: pg_sys::Relation) -> Result<Self> {
        // SAFETY: as CopyFrom and BeginCopyFrom (copyfrom.c) set up theirs, in a context that lives on.
        unsafe {
            let generation = tamper::generation();
            let memory = context(of.memory.get(), c"pgq insert into a table");
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let estate = pg_sys::CreateExecutorState();
            pg_sys::MakePerTupleExprContext(estate);
            let desc = pg_sys::CreateTupleDescCopyConstr((*table).rd_att);
            let info: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
            (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(info, table, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(info, false);
            let count = usize::try_from((*info).ri_NumIndices).unwrap_or(0);
            let indexes = (0..count).map(|n| (**(*info).ri_IndexRelationDescs.add(n)).rd_id).collect();
            let mut prepared = Prepared {
                generation,
                table: (*table).rd_id,
                memory,
                rows: context(memory, c"pgq rows"),
                estate,
                info,
                desc,
                indexes,
                places: Vec::new(),
                id: 0,
                defaults: Vec::new(),
                constants: Vec::new(),
            };
            prepared.find_columns(of, table)?;
            pg_sys::MemoryContextSwitchTo(outer);
            Ok(prepared)
        }
    }

    /// # Safety
    /// As `new`, in its memory.
    unsafe fn find_columns(&mut self, of: &Table, table: pg_sys::Relation) -> Result<()> {
        self.id = self.place(of.id, pg_sys::INT8OID)?;
        for (name, kind) in of.columns {
            self.places.push(self.place(name, kind.oid())?);
        }
        // SAFETY: columns by their numbers; the expressions are the table's own, and are prepared in the context that
        // the estate lives in. A dropped column has no type.
        unsafe {
            for place in 0..self.natts() {
                let number = i16::try_from(place + 1).unwrap_or(0);
                if self.places.contains(&place)
                    || pg_sys::get_atttype(self.table, number) == pg_sys::InvalidOid
                    || pg_sys::get_attgenerated(self.table, number) != 0
                {
                    continue;
                }
                let default = pg_sys::build_column_default(table, i32::from(number));
                if default.is_null() {
                    continue;
                }
                let constant: *mut pg_sys::Const = default.cast();
                if (*default).type_ == pg_sys::NodeTag::T_Const && (*constant).constbyval && !(*constant).constisnull {
                    self.constants.push((place, (*constant).constvalue));
                } else {
                    self.defaults.push((place, pg_sys::ExecPrepareExpr(default.cast(), self.estate)));
                }
            }
        }
        Ok(())
    }

    /// How many columns the table has.
    pub(super) fn natts(&self) -> usize {
        // SAFETY: a copy of the table's descriptor, which lives as long as this.
        usize::try_from(unsafe { (*self.desc).natts }).unwrap_or(0)
    }

    /// Where in the row the column stands, from 0.
    fn place(&self, name: &str, kind: pg_sys::Oid) -> Result<usize> {
        let unfit = || Error::Internal(format!("column \"{name}\" is missing, or not as this library expects it"));
        let text = CString::new(name).map_err(|_| unfit())?;
        // SAFETY: look-ups in the system caches.
        unsafe {
            let number = pg_sys::get_attnum(self.table, text.as_ptr());
            match usize::try_from(number) {
                Ok(n) if n > 0 && pg_sys::get_atttype(self.table, number) == kind => Ok(n - 1),
                _ => Err(unfit()),
            }
        }
    }

    /// Opens the indexes of a table that has not changed. False, with none open, when something has meanwhile.
    ///
    /// # Safety
    /// `table` is open and locked, and the one that this was made for.
    unsafe fn open(&self, table: pg_sys::Relation) -> bool {
        // SAFETY: the arrays have one entry per index (ExecOpenIndices); an index access method's own cache would
        // point at the relation as it was in an earlier transaction, so it is made anew and in memory that goes.
        unsafe {
            (*self.info).ri_RelationDesc = table;
            for (n, oid) in self.indexes.iter().enumerate() {
                *(*self.info).ri_IndexRelationDescs.add(n) = pg_sys::index_open(*oid, LOCK);
                let index = *(*self.info).ri_IndexRelationInfo.add(n);
                (*index).ii_AmCache = std::ptr::null_mut();
                (*index).ii_Context = self.rows;
            }
            if self.generation == tamper::generation() {
                return true;
            }
            pg_sys::ExecCloseIndices(self.info);
            false
        }
    }
}
