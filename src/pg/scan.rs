//! The jobs that are ready, by direct access: a walk along one of the indexes of `pg::index` under one snapshot, without
//! planner and executor, and the removal of the rows it found. What `store::ready` claims with.
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
use super::index::{Along, Key, Order};
use super::spi::Column;
use super::{raw, tamper, text};
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
    GroupKey = 16,
    Flow = 17,
    Parents = 18,
    HasChildren = 19,
}

/// Columns that a walk reads.
const COLUMNS: i32 = 19;

impl Field {
    /// The whole row.
    pub const ALL: [Field; 19] = [
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
        Field::GroupKey,
        Field::Flow,
        Field::Parents,
        Field::HasChildren,
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

/// pgq.job and its indexes of ready jobs, open in this transaction.
pub struct Jobs {
    heap: pg_sys::Relation,
    ready: Open,
    /// For the jobs that have a task; without it these are looked for among all of their queue.
    tasks: Option<Open>,
    slot: *mut pg_sys::TupleTableSlot,
    queue: Cell<pg_sys::Datum>,
    task: Cell<pg_sys::Datum>,
    /// The last transaction that was found to hold a row: it holds many.
    holder: Cell<pg_sys::TransactionId>,
}

/// An index, and a scan of it.
#[derive(Clone, Copy)]
struct Open {
    along: Along,
    scan: pg_sys::IndexScanDesc,
}

impl Open {
    /// # Safety
    /// An open table and an index of it, inside a transaction with an active snapshot.
    unsafe fn begin(heap: pg_sys::Relation, along: Along) -> Self {
        // SAFETY: the caller's promise.
        let scan = unsafe {
            pg_sys::index_beginscan(
                heap,
                along.index(),
                pg_sys::GetActiveSnapshot(),
                // What EXPLAIN ANALYZE counts in (genam.h).
                #[cfg(feature = "pg18")]
                std::ptr::null_mut(),
                i32::try_from(along.keys().len()).unwrap_or(0),
                0,
            )
        };
        Open { along, scan }
    }
}

/// A row that the walk is at.
pub struct Found<'jobs> {
    jobs: &'jobs Jobs,
    tuple: pg_sys::HeapTuple,
}

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
            let Some(ready) = Along::of(heap, Order::Queue) else {
                pg_sys::table_close(heap, 0);
                return Ok(None);
            };
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            Ok(Some(Jobs {
                heap,
                ready: Open::begin(heap, ready),
                tasks: Along::of(heap, Order::Task).map(|along| Open::begin(heap, along)),
                slot,
                queue: Cell::new(pg_sys::Datum::null()),
                task: Cell::new(pg_sys::Datum::null()),
                holder: Cell::new(pg_sys::InvalidTransactionId),
            }))
        }
    }

    /// The walks from now on are in this queue, and come to its jobs of this task (`None` is those without one). They
    /// may come to others of the queue too.
    pub fn of(&self, queue: &str, task: Option<&str>) {
        self.queue.set(text::datum(queue).unwrap_or(pg_sys::Datum::null()));
        self.task.set(task.and_then(text::datum).unwrap_or(pg_sys::Datum::null()));
    }

    fn by_task(&self) -> Option<Open> {
        self.tasks.filter(|_| !self.task.get().is_null())
    }

    /// Ends the walks. The locks stay to the end of the transaction.
    pub fn close(self) {
        // SAFETY: what `open` opened, in reverse.
        unsafe {
            for open in self.tasks.iter().chain([&self.ready]) {
                pg_sys::index_endscan(open.scan);
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::PopActiveSnapshot();
            for open in self.tasks.iter().chain([&self.ready]) {
                pg_sys::index_close(open.along.index(), 0);
            }
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
        let key = |key| match key {
            Key::Queue => self.queue.get(),
            Key::Task => self.task.get(),
            Key::Group => pg_sys::Datum::null(),
            Key::Most => pg_sys::Datum::from(range.most),
            Key::Least => pg_sys::Datum::from(range.least),
            Key::From => pg_sys::Datum::from(range.from),
        };
        self.walk_along(self.by_task().unwrap_or(self.ready), key, &mut visit)
    }

    /// Shows the jobs of each of these groups of the queue that wait for others, from an id on, in their order; the visitor
    /// stops in one group and goes on with the next. Without an index that can be used it is shown none.
    pub fn walk_behind<'jobs>(
        &'jobs self,
        groups: &[(String, i64)],
        mut visit: impl FnMut(&Found<'jobs>) -> Result<Walk>,
    ) -> Result<()> {
        // SAFETY: as in `open`, under its snapshot.
        let Some(open) = (unsafe { Along::of(self.heap, Order::Group).map(|along| Open::begin(self.heap, along)) })
        else {
            return Ok(());
        };
        for (group, from) in groups {
            let group = text::datum(group).unwrap_or(pg_sys::Datum::null());
            if !group.is_null() {
                let key = |key| match key {
                    Key::Queue => self.queue.get(),
                    Key::Group => group,
                    _ => pg_sys::Datum::from(*from),
                };
                self.walk_along(open, key, &mut visit)?;
            }
        }
        // SAFETY: what was begun above.
        unsafe {
            pg_sys::index_endscan(open.scan);
            pg_sys::index_close(open.along.index(), 0);
        }
        Ok(())
    }

    fn walk_along<'jobs>(
        &'jobs self,
        open: Open,
        key: impl Fn(Key) -> pg_sys::Datum,
        visit: &mut impl FnMut(&Found<'jobs>) -> Result<Walk>,
    ) -> Result<bool> {
        if self.queue.get().is_null() {
            return Ok(true);
        }
        let Open { along, scan } = open;
        // SAFETY: the keys fit the index's columns (`Along::of` compared them) and are copied by index_rescan; the slot
        // holds a pin on the row's page until the next row.
        unsafe {
            let mut keys = along.scan_keys(key);
            let count = i32::try_from(keys.len()).unwrap_or(0);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let slot = self.slot;
            // One boundary for what a row takes: each costs as much as some of the calls.
            let next = || -> pg_sys::HeapTuple {
                if !raw::index_getnext_slot(scan, forward, slot) {
                    return std::ptr::null_mut();
                }
                raw::slot_getsomeattrs_int(slot, COLUMNS);
                raw::ExecFetchSlotHeapTuple(slot, false, std::ptr::null_mut())
            };
            loop {
                super::xact::check_interrupts();
                let tuple = pg_sys::ffi::pg_guard_ffi_boundary(next);
                if tuple.is_null() {
                    break;
                }
                if visit(&Found { jobs: self, tuple })? == Walk::Stop {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Removes rows, but for those that somebody has or changed since the snapshot; which were removed. Waits for nobody.
    pub fn delete<'jobs, T>(&'jobs self, rows: Vec<(Place<'jobs>, T)>) -> Vec<T> {
        if rows.is_empty() {
            return Vec::new();
        }
        // SAFETY: inside a transaction that writes. The command id is that of this moment, after which the caller's
        // next command sees the rows gone.
        let command = unsafe { pg_sys::GetCurrentCommandId(true) };
        let removed = |place: &Place<'_>| {
            let mut tid = place.0;
            let mut failure = pg_sys::TM_FailureData::default();
            // SAFETY: the snapshot under which the place was found is still active (see above), so the TID is that
            // row's. wait is false: heapam.c answers instead of waiting. The row was visible, so TM_Invisible, which
            // raises, cannot be.
            let result = unsafe {
                pg_sys::heap_delete(self.heap, &mut tid, command, std::ptr::null_mut(), false, &mut failure, false)
            };
            result == pg_sys::TM_Result::TM_Ok
        };
        rows.into_iter().filter_map(|(place, row)| removed(&place).then_some(row)).collect()
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

    /// Is it of this task?
    pub fn has_task(&self, task: Option<&str>) -> bool {
        self.get::<String>(Field::Task).as_deref() == task
    }

    /// Is it of this task, which is the one that `Jobs::of` named?
    pub fn is_of(&self, task: Option<&str>) -> bool {
        let at = Field::Task as usize - 1;
        // SAFETY: as in `get`.
        let has_task = unsafe { !*(*self.jobs.slot).tts_isnull.add(at) };
        match task {
            None => !has_task,
            Some(_) if self.jobs.by_task().is_some() => true,
            Some(task) => has_task && self.get::<String>(Field::Task).is_some_and(|own| own == task),
        }
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
