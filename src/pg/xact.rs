//! Transactions of our workers, driven from Rust, and what a caller's transaction tells us.
//!
//! A worker's transaction is StartTransactionCommand … CommitTransactionCommand, or on any error
//! AbortCurrentTransaction: never a bare catch that goes on in a broken transaction.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::PgTryBuilder;

use super::context::{self, Kept};
use super::{durable, encoding, timeout};
use crate::error::Error;

/// An error that was caught, as a job keeps it.
#[derive(Debug, Clone, Default)]
pub struct Caught {
    /// Five characters.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// DETAIL
    pub detail: Option<String>,
    /// HINT
    pub hint: Option<String>,
    /// CONTEXT: where in the handler.
    pub context: Option<String>,
}

impl Caught {
    /// An error that we find ourselves.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Caught { sqlstate: sqlstate.into(), message: message.into(), ..Caught::default() }
    }
}

/// Marks an error as "something was planted on our tables", or "their version is unknown". No handler can raise it: a SQLSTATE has five characters.
pub const TAMPERED: &str = "tampered";

impl From<Error> for Caught {
    fn from(error: Error) -> Self {
        // What else store and pg answer a worker is always a defect of ours.
        let sqlstate = if matches!(error, Error::Tampered(_) | Error::Unserved { .. }) { TAMPERED } else { "XX000" };
        let report = ErrorReport::from(error);
        Caught {
            sqlstate: sqlstate.into(),
            message: report.message().into(),
            detail: report.detail().map(Into::into),
            hint: report.hint().map(Into::into),
            context: None,
        }
    }
}

fn sqlstate(code: i32) -> String {
    // MAKE_SQLSTATE (utils/elog.h): six bits a character.
    (0..5_u32)
        .map(|n| {
            let six = u8::try_from((code >> (6 * n)) & 0x3f).unwrap_or(0);
            char::from(six + b'0')
        })
        .collect()
}

fn caught(error: CaughtError) -> Caught {
    let report = match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report,
    };
    // pgrx reads every message as UTF-8.
    let as_read = |message: &str| String::from_utf8_lossy(&encoding::to_server(message)) == report.message();
    let kept = context::take().filter(|kept| as_read(&kept.message));
    let code = kept.as_ref().map_or(report.sql_error_code() as i32, |kept| kept.code);
    let sqlstate = sqlstate(code);
    match kept {
        Some(Kept { message, detail, hint, context, .. }) => Caught { sqlstate, message, detail, hint, context },
        None => Caught {
            sqlstate,
            message: report.message().into(),
            detail: report.detail().map(Into::into),
            hint: report.hint().map(Into::into),
            context: None,
        },
    }
}

/// Catches whatever `work` raises; nothing is cleaned up but PostgreSQL's error state. After an error the
/// (sub)transaction can only be aborted.
pub fn catching<T>(work: impl FnOnce() -> Result<T, Caught>) -> Result<T, Caught> {
    PgTryBuilder::new(AssertUnwindSafe(work)).catch_others(|error| Err(caught(error))).execute()
}

/// One transaction of a worker: commits when `work` returns Ok, aborts when it returns Err or raises, or
/// when the commit itself raises (deferred constraints, triggers). READ COMMITTED and READ WRITE whatever the role,
/// the database or the server set as default, as autovacuum's workers pin theirs (AutoVacWorkerMain, autovacuum.c).
pub fn run<T>(work: impl FnOnce() -> Result<T, Caught>) -> Result<T, Caught> {
    drive(commit, || {
        // SAFETY: the variables that StartTransaction just set from the defaults (xact.c); no snapshot was taken yet.
        unsafe {
            pg_sys::XactIsoLevel = i32::try_from(pg_sys::XACT_READ_COMMITTED).unwrap_or(1);
            pg_sys::XactReadOnly = false;
            pg_sys::XactDeferrable = false;
        }
        work()
    })
}

/// The same with the session's own defaults: a transaction in which a procedure runs.
pub fn run_procedure<T>(work: impl FnOnce() -> Result<T, Caught>) -> Result<T, Caught> {
    drive(commit, work)
}

/// The same for functions, with whose effects the removal of their jobs is committed: see `durable`.
pub fn run_functions<T>(work: impl FnOnce() -> Result<T, Caught>) -> Result<T, Caught> {
    drive(durable::commit_early, work)
}

/// # Safety
/// Inside a transaction of a worker.
unsafe fn commit() {
    // SAFETY: the caller's.
    unsafe { pg_sys::CommitTransactionCommand() }
}

fn drive<T>(commit: unsafe fn(), work: impl FnOnce() -> Result<T, Caught>) -> Result<T, Caught> {
    let result = catching(|| {
        context::watch(|| {
            begin_statement();
            // SAFETY: called from a worker's loop, outside any transaction.
            unsafe { pg_sys::StartTransactionCommand() };
            let value = work()?;
            timeout::disarm();
            // SAFETY: the transaction that began above; no snapshot of ours is active any more.
            unsafe { commit() };
            Ok(value)
        })
    });
    if result.is_err() {
        clean_up();
    }
    // SAFETY: reports at most once a second by itself; without it autovacuum never sees our tables.
    unsafe { pg_sys::pgstat_report_stat(false) };
    result
}

/// A statement begins now. A client's begins with its message (exec_simple_query, postgres.c); in a worker
/// statement_timestamp(), and now() in each transaction that follows, would stay what they were when it connected.
pub fn begin_statement() {
    // SAFETY: stores the present time in a variable of xact.c.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
}

/// Runs `work` outside any transaction, and catches what it raises.
pub fn between(work: impl FnOnce()) -> Result<(), Caught> {
    let result = catching(|| {
        work();
        Ok(())
    });
    if result.is_err() {
        clean_up();
    }
    result
}

/// After an error that was caught.
fn clean_up() {
    timeout::disarm();
    context::reset();
    // SAFETY: what PostgresMain does after an error (postgres.c): a cancel that is still pending was meant
    // for what just failed; held portals and jit are reset; then the transaction, if there is one, is aborted.
    unsafe {
        pg_sys::QueryCancelPending = 0;
        pg_sys::AbortCurrentTransaction();
        pg_sys::PortalErrorCleanup();
        pg_sys::jit_reset_after_error();
    }
    durable::restore();
}

/// Runs `work` under a savepoint: what it did is gone when it fails.
pub fn savepoint<T>(work: impl FnOnce() -> Result<T, Caught>) -> Result<T, Caught> {
    // SAFETY: the sequence of plpgsql's exception blocks (pl_exec.c exec_stmt_block): memory context and
    // resource owner are put back by hand after either end.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let stack = pg_sys::error_context_stack;
        let result = catching(|| {
            let value = work()?;
            // SAFETY: ends the subtransaction begun above.
            pg_sys::ReleaseCurrentSubTransaction();
            Ok(value)
        });
        if result.is_err() {
            pg_sys::error_context_stack = stack;
            pg_sys::QueryCancelPending = 0;
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Runs `work` under a savepoint and takes back what it did: the locks that it took on rows, say.
pub fn undone<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: as `savepoint`; an error leaves the subtransaction to whoever aborts the transaction around it.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let value = work();
        pg_sys::RollbackAndReleaseCurrentSubTransaction();
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        value
    }
}

/// Tells the statistics collector everything now: before a long wait.
pub fn report_statistics() {
    // SAFETY: outside a transaction, in a worker.
    unsafe { pg_sys::pgstat_report_stat(true) };
}

/// Runs `work` as a command of its own: it sees what was done before it, and has a fresh active snapshot.
pub fn command<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: inside a transaction; push and pop pair, or the abort pops.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `work` under a snapshot of this moment; in a parallel query, which may take none, under the query's.
pub fn now<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: inside a transaction; push and pop pair, or the abort pops. A parallel query has an active snapshot.
    unsafe {
        let snapshot =
            if pg_sys::IsInParallelMode() { pg_sys::GetActiveSnapshot() } else { pg_sys::GetLatestSnapshot() };
        pg_sys::PushActiveSnapshot(snapshot);
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Does the session's next transaction see one moment throughout (REPEATABLE READ or SERIALIZABLE)?
pub fn default_isolation_is_strict() -> bool {
    // SAFETY: reads a setting's variable.
    unsafe { pg_sys::DefaultXactIsoLevel >= i32::try_from(pg_sys::XACT_REPEATABLE_READ).unwrap_or(2) }
}

/// Are this session's transactions read only unless it says otherwise?
pub fn default_is_read_only() -> bool {
    // SAFETY: reads a setting's variable.
    unsafe { pg_sys::DefaultXactReadOnly }
}

/// Does this transaction see one moment throughout?
pub fn isolation_is_strict() -> bool {
    // SAFETY: reads a variable of xact.c.
    unsafe { pg_sys::XactIsoLevel >= i32::try_from(pg_sys::XACT_REPEATABLE_READ).unwrap_or(2) }
}

/// Is a transaction block open, so that the statement's end is not the transaction's?
pub fn in_block() -> bool {
    // SAFETY: reads the state of xact.c.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Was this row version written by the present transaction or a subtransaction of it?
pub fn wrote(xid: pg_sys::TransactionId) -> bool {
    // SAFETY: looks at the stack of transactions in this backend.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(xid) }
}

/// The process that runs the transaction of this number, if one does. A row's xmax may be a number of a list of lockers
/// too: then it is nobody's, or a stranger's, whom the caller must tell from the one he looks for.
pub fn process_of(xid: pg_sys::TransactionId) -> Option<i32> {
    // SAFETY: looks into the array of processes, under its lock; 0 is nobody.
    let pid = unsafe { pg_sys::BackendXidGetPid(xid) };
    (pid > 0).then_some(pid)
}

/// May this server write at all? Not on a standby.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state of xlog.c.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Answers cancel, terminate and barriers.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}

/// The text of the statement the client sent, if any.
pub fn client_statement() -> Option<String> {
    // SAFETY: a C string that lives as long as the statement, or null.
    unsafe {
        let text = pg_sys::debug_query_string;
        (!text.is_null()).then(|| super::encoding::from_server_c(std::ffi::CStr::from_ptr(text)))
    }
}
