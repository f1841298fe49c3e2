//! The rows of one call of `insert::Table::insert`: formed, checked, stored and entered into the indexes, what is done for
//! every row within one boundary.

use pgrx::pg_sys;

use super::insert::Prepared;
use super::raw;
use super::spi::{Arg, Type};

/// Rows that are stored at one go, and their bytes: as COPY has it (copyfrom.c, MAX_BUFFERED_TUPLES and
/// MAX_BUFFERED_BYTES).
const MOST_ROWS: usize = 1_000;
const MOST_BYTES: usize = 65_535;

/// The rows of one call.
pub struct Rows<'p> {
    prepared: &'p Prepared,
    columns: &'static [(&'static str, Type)],
    table: pg_sys::Relation,
    is_checked: bool,
    is_generated: bool,
    command: pg_sys::CommandId,
    /// The next row, before what is computed for it.
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    /// Of `slots`, those that hold a row.
    used: usize,
    bytes: usize,
    /// Keeps the page that is being filled; null as long as one batch is enough.
    bulk: *mut pg_sys::BulkInsertStateData,
    ids: Vec<i64>,
}

impl<'p> Rows<'p> {
    /// # Safety
    /// `table` and the indexes of `prepared` are open as long as this lives.
    pub(super) unsafe fn new(
        prepared: &'p Prepared,
        columns: &'static [(&'static str, Type)],
        table: pg_sys::Relation,
    ) -> Self {
        // SAFETY: the descriptor's constraints are null or a copy of the table's.
        let (is_checked, is_generated) = unsafe {
            let constr = (*prepared.desc).constr;
            (!constr.is_null(), !constr.is_null() && (*constr).has_generated_stored)
        };
        let natts = prepared.natts();
        let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); natts], vec![true; natts]);
        for (place, value) in &prepared.constants {
            (values[*place], nulls[*place]) = (*value, false);
        }
        Rows {
            prepared,
            columns,
            table,
            is_checked,
            is_generated,
            // SAFETY: inside a transaction that writes.
            command: unsafe { pg_sys::GetCurrentCommandId(true) },
            values,
            nulls,
            slots: Vec::new(),
            used: 0,
            bytes: 0,
            bulk: std::ptr::null_mut(),
            ids: Vec::new(),
        }
    }

    /// Adds a row: a value for each of the table's columns, in their order. What the caller allocated for it is freed.
    pub fn add(&mut self, row: &[Arg<'_>]) {
        debug_assert_eq!(row.len(), self.columns.len());
        // SAFETY: the values are made in the memory of one row, which is emptied when the row has been formed.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.row_memory());
            (0..row.len()).for_each(|column| self.set(column, &row[column]));
            self.form();
            pg_sys::MemoryContextSwitchTo(outer);
        }
    }

    /// The rows that `add_with` adds from now on are like this one.
    pub fn like(&mut self, row: &[Arg<'_>]) {
        debug_assert_eq!(row.len(), self.columns.len());
        // SAFETY: the values are made in memory that is emptied after the call.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.prepared.rows);
            (0..row.len()).for_each(|column| self.set(column, &row[column]));
            pg_sys::MemoryContextSwitchTo(outer);
        }
    }

    /// Adds a row as `like` said, with another value in one of the table's columns.
    pub fn add_with(&mut self, column: usize, value: &Arg<'_>) {
        // SAFETY: as `add`.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.row_memory());
            self.set(column, value);
            self.form();
            pg_sys::MemoryContextSwitchTo(outer);
        }
    }

    /// A column of the next row. The types were compared when the places were found.
    fn set(&mut self, column: usize, value: &Arg<'_>) {
        let (place, (_, kind)) = (self.prepared.places[column], self.columns[column]);
        let value = value.datum(kind);
        self.nulls[place] = value.is_none();
        self.values[place] = value.unwrap_or(pg_sys::Datum::null());
    }

    /// Makes a tuple of the next row.
    ///
    /// # Safety
    /// In the memory of one row.
    unsafe fn form(&mut self) {
        // SAFETY: inside a call.
        let slot = unsafe { self.slot() };
        let (prepared, memory) = (self.prepared, self.row_memory());
        let (values, nulls) = (self.values.as_ptr(), self.nulls.as_ptr());
        let (is_checked, is_generated) = (self.is_checked, self.is_generated);
        // SAFETY: the slot's arrays have one entry per column of the descriptor, as ours. Materializing copies what the
        // datums point to. The closure owns nothing.
        let (id, length) = unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let context = (*prepared.estate).es_per_tuple_exprcontext;
                std::ptr::copy_nonoverlapping(values, (*slot).tts_values, prepared.natts());
                std::ptr::copy_nonoverlapping(nulls, (*slot).tts_isnull, prepared.natts());
                for (place, default) in &prepared.defaults {
                    if let Some(evaluate) = (**default).evalfunc {
                        *(*slot).tts_values.add(*place) = evaluate(*default, context, (*slot).tts_isnull.add(*place));
                    }
                }
                let id = *(*slot).tts_values.add(prepared.id);
                raw::ExecStoreVirtualTuple(slot);
                (*slot).tts_tableOid = prepared.table;
                if is_generated {
                    let insert = pg_sys::CmdType::CMD_INSERT;
                    raw::ExecComputeStoredGenerated(prepared.info, prepared.estate, slot, insert);
                }
                if is_checked {
                    raw::ExecConstraints(prepared.info, slot, prepared.estate);
                }
                let tuple = raw::ExecFetchSlotHeapTuple(slot, true, std::ptr::null_mut());
                let length = (*tuple).t_len;
                raw::MemoryContextReset(memory);
                (id, length)
            })
        };
        // The identity column is never null.
        self.ids.push(id.value() as i64);
        self.bytes += usize::try_from(length).unwrap_or(0);
        self.used += 1;
        if self.used == MOST_ROWS || self.bytes >= MOST_BYTES {
            self.store(false);
        }
    }

    /// An empty slot.
    ///
    /// # Safety
    /// Inside a call.
    unsafe fn slot(&mut self) -> *mut pg_sys::TupleTableSlot {
        if let Some(slot) = self.slots.get(self.used) {
            return *slot;
        }
        // SAFETY: the descriptor lives on, and the slot goes with `rows`.
        let slot = unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.prepared.rows);
            let kind = pg_sys::table_slot_callbacks(self.table);
            let slot = pg_sys::MakeSingleTupleTableSlot(self.prepared.desc, kind);
            pg_sys::MemoryContextSwitchTo(outer);
            slot
        };
        self.slots.push(slot);
        slot
    }

    /// Memory for one row, or for what storing a batch takes.
    pub(super) fn row_memory(&self) -> pg_sys::MemoryContext {
        // SAFETY: the estate has had its context since it was made.
        unsafe { (*(*self.prepared.estate).es_per_tuple_exprcontext).ecxt_per_tuple_memory }
    }

    /// Stores what was added.
    fn store(&mut self, is_last: bool) {
        // SAFETY: as CopyMultiInsertBufferFlush (copyfrom.c); the slots hold materialized rows.
        unsafe {
            if !is_last && self.bulk.is_null() {
                let outer = pg_sys::MemoryContextSwitchTo(self.prepared.rows);
                self.bulk = pg_sys::GetBulkInsertState();
                pg_sys::MemoryContextSwitchTo(outer);
            }
            let outer = pg_sys::MemoryContextSwitchTo(self.row_memory());
            match self.used {
                0 => {}
                1 => pg_sys::table_tuple_insert(self.table, self.slots[0], self.command, 0, self.bulk),
                _ => {
                    let count = i32::try_from(self.used).unwrap_or(0);
                    pg_sys::table_multi_insert(self.table, self.slots.as_mut_ptr(), count, self.command, 0, self.bulk);
                }
            }
            self.index();
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::ReScanExprContext((*self.prepared.estate).es_per_tuple_exprcontext);
        }
        (self.used, self.bytes) = (0, 0);
    }

    /// Enters the rows that were stored into the indexes, and empties their slots.
    ///
    /// # Safety
    /// The slots have the rows' places in the table.
    unsafe fn index(&self) {
        let (info, estate) = (self.prepared.info, self.prepared.estate);
        let none: *mut pg_sys::List = std::ptr::null_mut();
        let mut rest = &self.slots[..self.used];
        while !rest.is_empty() {
            // SAFETY: the caller's promise; the indexes are open. The closure owns nothing.
            let (done, recheck) = unsafe {
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    for (n, slot) in rest.iter().enumerate() {
                        #[cfg(feature = "pg15")]
                        let recheck = raw::ExecInsertIndexTuples(info, *slot, estate, false, false, none.cast(), none);
                        #[cfg(not(feature = "pg15"))]
                        let recheck =
                            raw::ExecInsertIndexTuples(info, *slot, estate, false, false, none.cast(), none, false);
                        if !recheck.is_null() {
                            return (n + 1, recheck);
                        }
                        if let Some(clear) = (*(**slot).tts_ops).clear {
                            clear(*slot);
                        }
                    }
                    (rest.len(), none)
                })
            };
            if !recheck.is_null() {
                let slot = rest[done - 1];
                // SAFETY: rows that break a unique constraint which is checked later only are looked at again by its
                // trigger, for which the end of a command is made here.
                unsafe {
                    let own = pg_sys::CreateExecutorState();
                    pg_sys::AfterTriggerBeginQuery();
                    pg_sys::ExecARInsertTriggers(own, info, slot, recheck, none.cast());
                    pg_sys::AfterTriggerEndQuery(own);
                    pg_sys::ExecCloseResultRelations(own);
                    pg_sys::FreeExecutorState(own);
                    pg_sys::ExecClearTuple(slot);
                }
            }
            rest = &rest[done..];
        }
    }

    /// Stores the last rows; the ids of all.
    pub(super) fn finish(mut self) -> Vec<i64> {
        self.store(true);
        if !self.bulk.is_null() {
            // SAFETY: made by `store`, and not used any more.
            unsafe { pg_sys::FreeBulkInsertState(self.bulk) };
        }
        self.ids
    }
}
