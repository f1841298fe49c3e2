//! The jobs that are ready, by direct access: a walk along the index job_ready_idx under one snapshot, without planner
//! and executor, and the removal of the rows it found. What `store::ready` claims with.
//!
//! F1 of the review: a TID means its row only while the snapshot that showed it is held, because until then nothing
//! removes the row's last version from its page. So `Jobs` pushes one snapshot when it is opened, walks and deletes
//! under it, and pops it when it is closed; no `Place` outlives it. After an error the abort of the transaction
//! releases all of it: relations, pins, snapshot.
//!
//! M16: the index is chosen as the planner would, in each transaction: by its definition, and only if it is valid.

use std::cell::Cell;
use std::marker::PhantomData;

use pgrx::pg_sys;

use super::datum::Flat;
use super::spi::Column;
use super::{tamper, text};
use crate::error::{Error, Result};

/// Columns of pgq.job, by their place in the table (sql/schema/tables.sql; new ones are only ever appended).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Field {
    Id = 1,
    Queue = 2,
    Task = 3,
    Args = 4,
    Priority = 5,
    ExecuteAt = 6,
    CreatedAt = 7,
    State = 8,
    Attempt = 9,
    Failures = 10,
    MaxAttempts = 11,
    Key = 12,
    Crashes = 13,
    Error = 14,
    Quarantined = 15,
}

/// Columns that a walk reads.
const COLUMNS: i32 = 15;

impl Field {
    /// The whole row.
    pub const ALL: [Field; 15] = [
        Field::Id,
        Field::Queue,
        Field::Task,
        Field::Args,
        Field::Priority,
        Field::ExecuteAt,
        Field::CreatedAt,
        Field::State,
        Field::Attempt,
        Field::Failures,
        Field::MaxAttempts,
        Field::Key,
        Field::Crashes,
        Field::Error,
        Field::Quarantined,
    ];
}

/// A part of the jobs of one queue, in the order of the claim: larger priority first, then smaller id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The largest priority in it.
    pub most: i32,
    /// The smallest.
    pub least: i32,
    /// Only ids from this on.
    pub from: i64,
}

/// Where a row is, as long as the walk that showed it is open.
#[derive(Debug, Clone, Copy)]
pub struct Place<'jobs>(pg_sys::ItemPointerData, PhantomData<&'jobs ()>);

/// What a visitor says after each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Go on.
    On,
    /// That was the last.
    Stop,
}

/// pgq.job and its index of ready jobs, open in this transaction.
pub struct Jobs {
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    queue: Cell<pg_sys::Datum>,
    /// The last transaction that was found to hold a row: it holds many.
    holder: Cell<pg_sys::TransactionId>,
}

/// A row that the walk is at.
pub struct Found<'jobs> {
    jobs: &'jobs Jobs,
    tuple: pg_sys::HeapTuple,
}

/// texteq, int4le, int4ge, int8ge (pg_proc.dat).
const KEYS: [(Field, u32, u32); 4] = [
    (Field::Queue, pg_sys::BTEqualStrategyNumber, pg_sys::F_TEXTEQ),
    (Field::Priority, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT4LE),
    (Field::Priority, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT4GE),
    (Field::Id, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE),
];

impl Jobs {
    /// Opens them, to be written to if `writes`. Nothing is found before `of` named a queue. `None` when there is no index that can be used.
    ///
    /// # Errors
    /// `Tampered` when something was planted on the table.
    pub fn open(writes: bool) -> Result<Option<Self>> {
        if writes {
            tamper::guard(&["job"])?;
        }
        let table = pg_sys::Oid::from(super::extension::job_table());
        if table == pg_sys::InvalidOid {
            return Err(Error::Internal("the tables of extension pgq are missing".into()));
        }
        // SAFETY: inside a transaction. Relations are opened with the locks that an executor takes, kept to its end;
        // the scan and the slot belong to them. The snapshot is popped by `close`, or by the abort.
        unsafe {
            let lock = if writes { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock };
            let heap = pg_sys::table_open(table, i32::try_from(lock).unwrap_or(1));
            let Some(index) = ready_index(heap, table) else {
                pg_sys::table_close(heap, 0);
                return Ok(None);
            };
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let scan = pg_sys::index_beginscan(
                heap,
                index,
                pg_sys::GetActiveSnapshot(),
                i32::try_from(KEYS.len()).unwrap_or(0),
                0,
                #[cfg(feature = "pg18")]
                std::ptr::null_mut(),
            );
            let (queue, holder) = (Cell::new(pg_sys::Datum::null()), Cell::new(pg_sys::InvalidTransactionId));
            Ok(Some(Jobs { heap, index, scan, slot, queue, holder }))
        }
    }

    /// The walks from now on are in this queue.
    pub fn of(&self, queue: &str) {
        self.queue.set(text::datum(queue).unwrap_or(pg_sys::Datum::null()));
    }

    /// Ends the walks. The locks stay to the end of the transaction.
    pub fn close(self) {
        // SAFETY: what `open` opened, in reverse.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::PopActiveSnapshot();
            pg_sys::index_close(self.index, 0);
            pg_sys::table_close(self.heap, 0);
        }
    }

    /// Shows each ready job of the range that the snapshot sees, in the order of the claim, until the visitor stops.
    /// True when it came to the range's end.
    pub fn walk<'jobs>(
        &'jobs self,
        range: Range,
        mut visit: impl FnMut(&Found<'jobs>) -> Result<Walk>,
    ) -> Result<bool> {
        if self.queue.get().is_null() {
            return Ok(true);
        }
        let values = [
            self.queue.get(),
            pg_sys::Datum::from(range.most),
            pg_sys::Datum::from(range.least),
            pg_sys::Datum::from(range.from),
        ];
        // SAFETY: the keys fit the index's first columns (`ready_index` compared them) and are copied by index_rescan;
        // the slot holds a pin on the row's page until the next row.
        unsafe {
            let mut keys = [pg_sys::ScanKeyData::default(); KEYS.len()];
            for ((key, (field, strategy, procedure)), value) in keys.iter_mut().zip(KEYS).zip(values) {
                let collation = if field == Field::Queue { pg_sys::C_COLLATION_OID } else { pg_sys::InvalidOid };
                pg_sys::ScanKeyEntryInitialize(
                    key,
                    0,
                    index_column(field),
                    u16::try_from(strategy).unwrap_or(0),
                    pg_sys::InvalidOid,
                    collation,
                    pg_sys::Oid::from(procedure),
                    value,
                );
            }
            let count = i32::try_from(KEYS.len()).unwrap_or(0);
            pg_sys::index_rescan(self.scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            while pg_sys::index_getnext_slot(self.scan, forward, self.slot) {
                super::xact::check_interrupts();
                pg_sys::slot_getsomeattrs_int(self.slot, COLUMNS);
                let tuple = pg_sys::ExecFetchSlotHeapTuple(self.slot, false, std::ptr::null_mut());
                if visit(&Found { jobs: self, tuple })? == Walk::Stop {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Removes a row, unless somebody has it or changed it since the snapshot. Waits for nobody.
    pub fn delete(&self, place: &Place<'_>) -> bool {
        let mut tid = place.0;
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: the snapshot under which the place was found is still active (see above), so the TID is that row's;
        // the command id is that of this moment, after which the caller's next command sees the row gone. wait is
        // false: heapam.c answers instead of waiting. The row was visible, so TM_Invisible, which raises, cannot be.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let crosscheck = std::ptr::null_mut();
            let result = pg_sys::heap_delete(self.heap, &mut tid, command, crosscheck, false, &mut failure, false);
            result == pg_sys::TM_Result::TM_Ok
        }
    }
}

impl<'jobs> Found<'jobs> {
    /// A column; `None` is NULL.
    pub fn get<T: Column>(&self, field: Field) -> Option<T> {
        let at = field as usize - 1;
        // SAFETY: `walk` had the slot's first COLUMNS attributes read; the types are those of tables.sql, which the
        // tamper check keeps, and the caller's.
        unsafe {
            let slot = &*self.jobs.slot;
            T::read(*slot.tts_values.add(at), *slot.tts_isnull.add(at))
        }
    }

    /// A column that is never NULL.
    pub fn must<T: Column>(&self, field: Field) -> Result<T> {
        self.get(field).ok_or_else(|| Error::Internal(format!("column {field:?} is null")))
    }

    /// Where it is.
    pub fn place(&self) -> Place<'jobs> {
        // SAFETY: the tuple in the slot, whose page is pinned.
        Place(unsafe { (*self.tuple).t_self }, PhantomData)
    }

    /// The whole row, as the type pgq.job.
    pub fn row(&self) -> Flat {
        // SAFETY: the slot's tuple and its table's descriptor.
        unsafe { Flat::of_tuple(self.tuple, (*self.jobs.slot).tts_tupleDescriptor) }
    }

    /// Does somebody else have it: has a transaction that is still in progress deleted, changed or locked it? Asked
    /// before `delete`, which would spend a transaction id to find out (M5). May be out of date the next moment.
    pub fn is_held(&self) -> bool {
        // SAFETY: the header of a tuple whose page is pinned. Its xmax and flags may change meanwhile, one aligned word
        // each: a wrong answer costs a visit, `delete` decides.
        let (mask, xmax) = unsafe {
            let header = (*self.tuple).t_data;
            (u32::from((*header).t_infomask), (*header).t_choice.t_heap.t_xmax)
        };
        if mask & pg_sys::HEAP_XMAX_INVALID != 0 || xmax == pg_sys::InvalidTransactionId {
            return false;
        }
        if mask & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
            let lock_only = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
            // HEAP_LOCKED_UPGRADED (htup_details.h): locks from before a pg_upgrade are nobody's.
            if lock_only && mask & pg_sys::HEAP_LOCK_MASK == 0 {
                return false;
            }
            // SAFETY: a multixact of a row that is visible, so not older than the oldest kept.
            return unsafe { pg_sys::MultiXactIdIsRunning(xmax, lock_only) };
        }
        if xmax == self.jobs.holder.get() {
            return true;
        }
        // SAFETY: look-ups in this process and in the array of processes.
        let held =
            unsafe { !pg_sys::TransactionIdIsCurrentTransactionId(xmax) && pg_sys::TransactionIdIsInProgress(xmax) };
        if held {
            self.jobs.holder.set(xmax);
        }
        held
    }
}

/// The place of a column in the index.
fn index_column(field: Field) -> i16 {
    match field {
        Field::Queue => 1,
        Field::Priority => 2,
        _ => 3,
    }
}

thread_local! {
    /// (table, index, `tamper::generation` when it was found)
    static KNOWN: Cell<(pg_sys::Oid, pg_sys::Oid, u64)> =
        const { Cell::new((pg_sys::InvalidOid, pg_sys::InvalidOid, 0)) };
}

/// The index (queue, priority DESC, id) WHERE state = 'ready', open; `None` when there is none that can be used.
///
/// # Safety
/// `heap` must be pgq.job, open and locked.
unsafe fn ready_index(heap: pg_sys::Relation, table: pg_sys::Oid) -> Option<pg_sys::Relation> {
    let generation = tamper::generation();
    let (of, known, at) = KNOWN.get();
    // SAFETY: no relation was changed since the index was found, so it is there; RowExclusive and AccessShare locks
    // conflict with what would drop it, and opening it tells of changes that came before.
    unsafe {
        if of == table && at == generation {
            let index = open_index(known);
            if tamper::generation() == generation {
                return Some(index);
            }
            pg_sys::index_close(index, 0);
        }
        let list = pg_sys::RelationGetIndexList(heap);
        let mut found = None;
        for n in 0..pg_sys::list_length(list) {
            let oid = pg_sys::list_nth_oid(list, n);
            let index = open_index(oid);
            if is_ready_index(index) {
                KNOWN.set((table, oid, tamper::generation()));
                found = Some(index);
                break;
            }
            pg_sys::index_close(index, 0);
        }
        pg_sys::list_free(list);
        found
    }
}

/// # Safety
/// An index that exists, of a table that is locked.
unsafe fn open_index(oid: pg_sys::Oid) -> pg_sys::Relation {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::index_open(oid, i32::try_from(pg_sys::AccessShareLock).unwrap_or(1)) }
}

/// Is it what sql/schema/indexes.sql makes, and can it be used? As get_relation_info (plancat.c) asks; one with
/// indcheckxmin is left to the planner.
///
/// # Safety
/// `index` must be an open index of pgq.job.
unsafe fn is_ready_index(index: pg_sys::Relation) -> bool {
    let keys = [Field::Queue, Field::Priority, Field::Id];
    let families = [pg_sys::TEXT_BTREE_FAM_OID, pg_sys::INTEGER_BTREE_FAM_OID, pg_sys::INTEGER_BTREE_FAM_OID];
    // DESC NULLS FIRST for the priority: INDOPTION_DESC | INDOPTION_NULLS_FIRST (pg_index.h).
    let options = [0, 3, 0];
    // SAFETY: fields of an open index's relcache entry; indkey and the arrays have indnkeyatts elements.
    unsafe {
        let form = &*(*index).rd_index;
        if !(form.indisvalid && form.indisready && form.indislive) || form.indcheckxmin || form.indnkeyatts != 3 {
            return false;
        }
        let columns = form.indkey.values.as_ptr();
        for n in 0..3 {
            let same = *columns.add(n) == keys[n] as i16
                && *(*index).rd_opfamily.add(n) == families[n]
                && *(*index).rd_indoption.add(n) == options[n];
            if !same {
                return false;
            }
        }
        *(*index).rd_indcollation == pg_sys::C_COLLATION_OID && is_state_ready(pg_sys::RelationGetIndexPredicate(index))
    }
}

/// Is the predicate `state = 'ready'`?
///
/// # Safety
/// `predicate` must be a list of expressions, or null.
unsafe fn is_state_ready(predicate: *mut pg_sys::List) -> bool {
    // SAFETY: nodes are looked at by their tags.
    unsafe {
        if pg_sys::list_length(predicate) != 1 {
            return false;
        }
        let node: *mut pg_sys::OpExpr = pg_sys::list_nth(predicate, 0).cast();
        if (*node).xpr.type_ != pg_sys::NodeTag::T_OpExpr
            || (*node).opno != pg_sys::Oid::from(pg_sys::TextEqualOperator)
            || pg_sys::list_length((*node).args) != 2
        {
            return false;
        }
        let left: *mut pg_sys::Var = pg_sys::list_nth((*node).args, 0).cast();
        let right: *mut pg_sys::Const = pg_sys::list_nth((*node).args, 1).cast();
        if (*left).xpr.type_ != pg_sys::NodeTag::T_Var
            || (*left).varattno != Field::State as i16
            || (*right).xpr.type_ != pg_sys::NodeTag::T_Const
        {
            return false;
        }
        String::read((*right).constvalue, (*right).constisnull).is_some_and(|word| word == "ready")
    }
}
