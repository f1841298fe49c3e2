//! Statements on our own tables: prepared once a backend, run as the tables' owner under a pinned
//! search_path, their rows read into Rust before SPI ends. The only place that uses SPI.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::datum::Interval;
use pgrx::{pg_sys, FromDatum, IntoDatum};

use super::datum::{Element, Elements, Flat};
use super::scan::Field;
use super::text::{self, Text};
use super::{encoding, tamper, user};
use crate::error::{Error, Result};

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// text
    Text,
    /// text[]
    Texts,
    /// integer
    Int,
    /// bigint
    Bigint,
    /// bigint[]
    Bigints,
    /// boolean
    Bool,
    /// timestamptz
    Time,
    /// timestamptz[]
    Times,
    /// interval
    Interval,
    /// jsonb
    Jsonb,
    /// oid
    Oid,
}

/// A value for a parameter; its variant says how it is passed, the statement what it is.
pub enum Arg<'a> {
    /// NULL
    Null,
    /// text
    Text(&'a str),
    /// text[]
    Texts(&'a [Option<String>]),
    /// integer
    Int(i32),
    /// bigint
    Bigint(i64),
    /// bigint[], or timestamptz[]: the same eight bytes
    Bigints(&'a [i64]),
    /// boolean
    Bool(bool),
    /// timestamptz in microseconds
    Time(i64),
    /// interval
    Interval(Interval),
    /// jsonb
    Flat(&'a Flat),
    /// an element of a jsonb[]
    Element(Element<'a>),
    /// a column of a row of pgq.job
    Column(&'a Flat, Field),
    /// oid
    Oid(u32),
}

impl<'a> Arg<'a> {
    /// text or NULL
    pub fn text(value: Option<&'a str>) -> Self {
        value.map_or(Arg::Null, Arg::Text)
    }

    /// integer or NULL
    pub fn int(value: Option<i32>) -> Self {
        value.map_or(Arg::Null, Arg::Int)
    }

    /// bigint or NULL
    pub fn bigint(value: Option<i64>) -> Self {
        value.map_or(Arg::Null, Arg::Bigint)
    }

    /// boolean or NULL
    pub fn bool(value: Option<bool>) -> Self {
        value.map_or(Arg::Null, Arg::Bool)
    }

    /// interval or NULL
    pub fn interval(value: Option<Interval>) -> Self {
        value.map_or(Arg::Null, Arg::Interval)
    }

    /// jsonb or NULL
    pub fn flat(value: Option<&'a Flat>) -> Self {
        value.map_or(Arg::Null, Arg::Flat)
    }

    pub(super) fn datum(&self, kind: Type) -> Option<pg_sys::Datum> {
        match self {
            Arg::Null => None,
            Arg::Text(text) => text::datum(text),
            Arg::Texts(texts) => text_array(texts),
            Arg::Int(n) => n.into_datum(),
            Arg::Bigint(n) | Arg::Time(n) => n.into_datum(),
            Arg::Bigints(all) if kind == Type::Times => {
                array(all.iter().map(|at| pg_sys::Datum::from(*at)).collect(), pg_sys::TIMESTAMPTZOID, 8)
            }
            Arg::Bigints(all) => all.to_vec().into_datum(),
            Arg::Bool(b) => b.into_datum(),
            Arg::Interval(i) => (*i).into_datum(),
            Arg::Flat(flat) => Some(flat.datum()),
            Arg::Element(element) => Some(element.datum()),
            Arg::Column(row, field) => row.column(*field as usize),
            // Not by pgrx's conversion, which makes oid 0 a NULL.
            Arg::Oid(oid) => Some(pg_sys::Datum::from(*oid)),
        }
    }
}

/// text[]
fn text_array(texts: &[Option<String>]) -> Option<pg_sys::Datum> {
    let all: Vec<Option<Vec<u8>>> =
        texts.iter().map(|text| text.as_ref().map(|t| encoding::to_server(t).into_owned())).collect();
    // bytea and text are the same varlena; the array's element type is set to what the statement expects.
    let array = all.into_datum()?;
    // SAFETY: an array that was just made here, not shared with anybody.
    unsafe { (*array.cast_mut_ptr::<pg_sys::ArrayType>()).elemtype = pg_sys::TEXTOID };
    Some(array)
}

/// An array whose elements are given as they are: rows, and moments, because pgrx's own are normalised on the way
/// and lose infinity. `length` as in pg_type: -1, or 8 for what is passed by value.
fn array(mut elements: Vec<pg_sys::Datum>, kind: pg_sys::Oid, length: i32) -> Option<pg_sys::Datum> {
    let count = i32::try_from(elements.len()).ok()?;
    let align = i8::try_from(b'd').unwrap_or(0);
    // SAFETY: the elements are of the type that the caller names, aligned to eight bytes as rows and moments are; the
    // array is a copy of them.
    let array = unsafe { pg_sys::construct_array(elements.as_mut_ptr(), count, kind, length, length == 8, align) };
    Some(pg_sys::Datum::from(array))
}

/// pgq.job[] of whole rows, in the current context.
pub(super) fn job_array(rows: &[&Flat]) -> Option<pg_sys::Datum> {
    array(rows.iter().map(|row| row.datum()).collect(), job_type(), -1)
}

impl Type {
    pub(super) fn oid(self) -> pg_sys::Oid {
        match self {
            Type::Text => pg_sys::TEXTOID,
            Type::Texts => pg_sys::TEXTARRAYOID,
            Type::Int => pg_sys::INT4OID,
            Type::Bigint => pg_sys::INT8OID,
            Type::Bigints => pg_sys::INT8ARRAYOID,
            Type::Bool => pg_sys::BOOLOID,
            Type::Time => pg_sys::TIMESTAMPTZOID,
            Type::Times => pg_sys::TIMESTAMPTZARRAYOID,
            Type::Interval => pg_sys::INTERVALOID,
            Type::Jsonb => pg_sys::JSONBOID,
            Type::Oid => pg_sys::OIDOID,
        }
    }
}

/// The oid of the row type pgq.job in this database.
fn job_type() -> pg_sys::Oid {
    // SAFETY: syscache look-ups in a transaction; InvalidOid when it is not there.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgq".as_ptr(), true);
        pg_sys::get_rel_type_id(pg_sys::get_relname_relid(c"job".as_ptr(), schema))
    }
}

/// What a column can be read as.
pub trait Column: Sized {
    /// # Safety
    /// The datum is of the SQL type that fits the Rust type.
    unsafe fn read(datum: pg_sys::Datum, is_null: bool) -> Option<Self>;
}

macro_rules! columns {
    ($($kind:ty),*) => {
        $(impl Column for $kind {
            unsafe fn read(datum: pg_sys::Datum, is_null: bool) -> Option<Self> {
                // SAFETY: the caller's promise.
                unsafe { <$kind>::from_datum(datum, is_null) }
            }
        })*
    };
}

columns!(bool, i32, i64, Interval, Flat, pg_sys::Oid, pg_sys::TransactionId);

impl Column for String {
    unsafe fn read(datum: pg_sys::Datum, is_null: bool) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { Text::from_datum(datum, is_null) }.map(|text| text.0)
    }
}

/// One row of a result, readable while SPI is open.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Row {
    /// Column `number` (from 1) as a Rust value of the fitting type; `None` is NULL.
    pub fn get<T: Column>(&self, number: i32) -> Option<T> {
        let mut null = false;
        // SAFETY: tuple and descriptor belong to the SPI result that is open; the statement's text fixes the
        // types of its columns, and the caller in store/ reads them by those.
        unsafe {
            let datum = pg_sys::SPI_getbinval(self.tuple, self.desc, number, &mut null);
            T::read(datum, null)
        }
    }

    /// Column `number`, which the statement never returns as NULL.
    pub fn must<T: Column>(&self, number: i32) -> Result<T> {
        self.get(number).ok_or_else(|| Error::Internal(format!("column {number} is null")))
    }
}

impl Row {
    /// Column `number` of type oid.
    pub fn must_oid(&self, number: i32) -> Result<u32> {
        self.must::<pg_sys::Oid>(number).map(pg_sys::Oid::to_u32)
    }

    /// Column `number`, the xmax of a row: the process whose transaction has it, if that is still open.
    pub fn holder(&self, number: i32) -> Option<i32> {
        self.get::<pg_sys::TransactionId>(number).and_then(super::xact::process_of)
    }

    /// Column `number` of type xid: was the row version written by the present transaction?
    pub fn is_own(&self, number: i32) -> bool {
        self.get::<pg_sys::TransactionId>(number).is_some_and(super::xact::wrote)
    }
}

/// A statement with its plan, prepared when it is first run in a backend.
pub struct Statement {
    sql: &'static str,
    types: &'static [Type],
    /// Claims must walk their index whatever the statistics say: a queue is empty one minute and full the next.
    by_index: bool,
    plan: Cell<pg_sys::SPIPlanPtr>,
    /// The tables of ours that it writes.
    written: OnceCell<Vec<String>>,
}

// SAFETY: a backend has one thread; pgrx refuses calls from any other.
unsafe impl Sync for Statement {}

impl Statement {
    /// A statement with the types of its parameters.
    pub const fn new(sql: &'static str, types: &'static [Type]) -> Self {
        Statement { sql, types, by_index: false, plan: Cell::new(std::ptr::null_mut()), written: OnceCell::new() }
    }

    /// The same, planned without sequential scans, bitmaps and sorts.
    pub const fn by_index(sql: &'static str, types: &'static [Type]) -> Self {
        Statement { sql, types, by_index: true, plan: Cell::new(std::ptr::null_mut()), written: OnceCell::new() }
    }

    /// Runs it as the owner of our tables and reads each row.
    pub fn rows<T>(&'static self, args: &[Arg<'_>], read: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
        let written = self.written.get_or_init(|| tamper::written(self.sql));
        tamper::guard(written)?;
        user::as_owner(|| {
            let rows = self.planned(args, false, read);
            if !self.by_index && PROCESSED.get() > 0 {
                tamper::settings_written(written);
            }
            rows
        })
        .unwrap_or_else(|| Err(Error::Internal("the tables of extension pgq are missing".into())))
    }

    /// Runs it, as it is to be planned.
    fn planned<T>(
        &'static self,
        args: &[Arg<'_>],
        read_only: bool,
        read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        if !self.by_index {
            return self.execute(args, read_only, read);
        }
        let nest = super::guc::Nest::open();
        for setting in [c"enable_seqscan", c"enable_bitmapscan", c"enable_sort", c"jit"] {
            nest.set(setting, c"off");
        }
        let rows = self.execute(args, read_only, read);
        nest.close();
        rows
    }

    /// Runs it as the caller, under the caller's own search_path: for questions about the catalog.
    pub fn rows_as_caller<T>(&'static self, args: &[Arg<'_>], read: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
        self.execute(args, false, read)
    }

    /// Reads as the owner what is committed now, whatever the transaction's isolation: as PostgreSQL itself looks up
    /// rights.
    pub fn rows_now<T>(&'static self, args: &[Arg<'_>], read: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
        user::as_owner(|| super::xact::now(|| self.planned(args, true, read)))
            .unwrap_or_else(|| Err(Error::Internal("the tables of extension pgq are missing".into())))
    }

    /// The first row, if there is one.
    pub fn row<T>(&'static self, args: &[Arg<'_>], read: impl FnMut(&Row) -> Result<T>) -> Result<Option<T>> {
        Ok(self.rows(args, read)?.into_iter().next())
    }

    /// Runs it for its effect; the number of rows it touched.
    pub fn run(&'static self, args: &[Arg<'_>]) -> Result<usize> {
        self.rows(args, |_| Ok(()))?;
        Ok(PROCESSED.get())
    }

    /// With `read_only` under the active snapshot, else under a new one of the transaction's.
    fn execute<T>(
        &'static self,
        args: &[Arg<'_>],
        read_only: bool,
        mut read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        debug_assert_eq!(args.len(), self.types.len());
        // SAFETY: SPI_connect … SPI_finish pairs on the success and the Err path; an ERROR unwinds past us to the
        // (sub)transaction's abort, which closes SPI (AtEOXact_SPI). Rows are read before SPI_finish frees them.
        unsafe {
            if pg_sys::SPI_connect() != i32::try_from(pg_sys::SPI_OK_CONNECT).unwrap_or(1) {
                return Err(Error::Internal("could not connect to SPI".into()));
            }
            let plan = match self.prepared() {
                Ok(plan) => plan,
                Err(error) => {
                    pg_sys::SPI_finish();
                    return Err(error);
                }
            };
            let mut values = Vec::with_capacity(args.len());
            let mut nulls = Vec::with_capacity(args.len());
            for (arg, kind) in args.iter().zip(self.types) {
                let datum = arg.datum(*kind);
                nulls.push(if datum.is_some() { b' ' } else { b'n' });
                values.push(datum.unwrap_or(pg_sys::Datum::null()));
            }
            // In a worker nothing else is active between two commands (spi.c wants an outer snapshot or a portal). Kept
            // until the rows are read: large values are fetched from the TOAST table under it.
            let bare = !pg_sys::ActiveSnapshotSet();
            if bare {
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            }
            let code = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr().cast(), read_only, 0);
            if code < 0 {
                return Err(Error::Internal(format!("SPI answered {code}")));
            }
            PROCESSED.set(usize::try_from(pg_sys::SPI_processed).unwrap_or(0));
            let rows = read_all(&mut read);
            if bare {
                pg_sys::PopActiveSnapshot();
            }
            pg_sys::SPI_finish();
            rows
        }
    }

    /// # Safety
    /// SPI must be connected.
    unsafe fn prepared(&'static self) -> Result<pg_sys::SPIPlanPtr> {
        if !self.plan.get().is_null() {
            return Ok(self.plan.get());
        }
        let sql = CString::new(self.sql).map_err(|_| Error::Internal("a statement has a zero byte".into()))?;
        let mut types: Vec<pg_sys::Oid> = self.types.iter().map(|t| t.oid()).collect();
        let count = i32::try_from(types.len()).unwrap_or(0);
        // SAFETY: connected; sql and types outlive the call, which copies them; kept plans live in CacheMemoryContext.
        unsafe {
            let options = i32::try_from(pg_sys::CURSOR_OPT_GENERIC_PLAN).unwrap_or(0);
            let plan = pg_sys::SPI_prepare_cursor(sql.as_ptr(), count, types.as_mut_ptr(), options);
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                return Err(Error::Internal("could not prepare a statement".into()));
            }
            self.plan.set(plan);
            Ok(plan)
        }
    }
}

/// Runs a command that was composed, as the caller.
pub fn execute(sql: &str) -> Result<()> {
    let sql = command(sql)?;
    // SAFETY: connected.
    connected(|| match unsafe { pg_sys::SPI_execute(sql.as_ptr(), false, 0) } {
        code if code < 0 => Err(Error::Internal(format!("SPI answered {code}"))),
        _ => Ok(()),
    })
}

/// Runs a query that was composed, as the caller, and gives its one value, a jsonb[], to `work`; NULL is nothing to do. It
/// sees the transition tables of a trigger by their names. Its plan is kept for the trigger: to plan takes longer than
/// to run it over a few rows.
///
/// # Safety
/// The data are those of the trigger's call that is under way.
pub(super) unsafe fn query_changes<T>(
    data: *mut pg_sys::TriggerData,
    sql: &str,
    work: impl FnOnce(&Elements<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let sql = command(sql)?;
    // SAFETY: connected; the caller's promise. The value is read before SPI is left.
    connected(|| unsafe {
        if pg_sys::SPI_register_trigger_data(data) < 0 {
            return Err(Error::Internal("the transition tables cannot be had".into()));
        }
        let plan = kept((*(*data).tg_trigger).tgoid.to_u32(), sql)?;
        let code = pg_sys::SPI_execute_plan(plan, std::ptr::null_mut(), std::ptr::null(), false, 1);
        if code < 0 || pg_sys::SPI_processed != 1 {
            return Err(Error::Internal("the transition tables cannot be read".into()));
        }
        let table = pg_sys::SPI_tuptable;
        let mut null = false;
        let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut null);
        (!null).then(|| work(&Elements::of(value))).transpose()
    })
}

thread_local! {
    /// The plans of triggers, with their queries. PostgreSQL makes one anew when what it reads has changed (plancache.c).
    static KEPT: RefCell<HashMap<u32, (CString, pg_sys::SPIPlanPtr)>> = RefCell::default();
}

/// The plan of a trigger's query.
///
/// # Safety
/// SPI must be connected, and know the names that the query has.
unsafe fn kept(trigger: u32, sql: CString) -> Result<pg_sys::SPIPlanPtr> {
    let known = KEPT.with_borrow(|kept| kept.get(&trigger).filter(|(of, _)| *of == sql).map(|(_, plan)| *plan));
    if let Some(plan) = known {
        return Ok(plan);
    }
    // SAFETY: connected; the query outlives the call, which copies it. A plan that is replaced is not freed: it may be
    // the one that is running, when what it calls changes the table. The trigger, or its table, was made anew for that.
    unsafe {
        let plan = pg_sys::SPI_prepare(sql.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
            return Err(Error::Internal("could not prepare a query".into()));
        }
        KEPT.with_borrow_mut(|kept| kept.insert(trigger, (sql, plan)));
        Ok(plan)
    }
}

fn command(sql: &str) -> Result<CString> {
    encoding::to_server_c(sql).ok_or_else(|| Error::Internal("a command has a zero byte".into()))
}

fn connected<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: pairs with SPI_finish on the success and the Err path; an ERROR unwinds to the abort, which closes SPI.
    unsafe {
        if pg_sys::SPI_connect() != i32::try_from(pg_sys::SPI_OK_CONNECT).unwrap_or(1) {
            return Err(Error::Internal("could not connect to SPI".into()));
        }
        let result = work();
        pg_sys::SPI_finish();
        result
    }
}

/// The rows of the result that is open.
///
/// # Safety
/// SPI must be connected, and what it read active.
unsafe fn read_all<T>(read: &mut impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
    // SAFETY: SPI_tuptable is null or the last statement's result, with numvals tuples.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return Ok(Vec::new());
        }
        let count = usize::try_from((*table).numvals).unwrap_or(0);
        (0..count).map(|n| read(&Row { tuple: *(*table).vals.add(n), desc: (*table).tupdesc })).collect()
    }
}

thread_local! {
    /// Rows that the last statement touched or returned.
    static PROCESSED: Cell<usize> = const { Cell::new(0) };
}
