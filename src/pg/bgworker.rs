//! Starting our workers, and what each does first.

use std::ffi::c_char;

use pgrx::pg_sys;

use super::session;

/// What a worker's main is called with.
pub type Argument = pg_sys::Datum;

/// The number that `Worker::argument` gave.
pub fn number(argument: Argument) -> i32 {
    // DatumGetInt32: the low half.
    let low = u32::try_from(argument.value() & 0xffff_ffff).unwrap_or(0);
    i32::from_ne_bytes(low.to_ne_bytes())
}

/// What to start.
pub struct Worker<'a> {
    /// The symbol in the library that is its main.
    pub main: &'a str,
    /// Shown as backend_type.
    pub kind: &'a str,
    /// Shown in the process list.
    pub name: &'a str,
    /// The main's argument.
    pub argument: i32,
    /// Is it restarted a second after it ended with an error, and after a crash of the server?
    pub restarts: bool,
    /// Who is told (SIGUSR1, which sets the latch) when it starts and ends; 0 is nobody.
    pub notify: i32,
}

fn copy(text: &str, into: &mut [c_char]) {
    let room = into.len() - 1;
    for (to, from) in into.iter_mut().zip(text.bytes().take(room)) {
        *to = c_char::from_ne_bytes([from]);
    }
}

fn described(worker: &Worker<'_>) -> pg_sys::BackgroundWorker {
    let mut raw = pg_sys::BackgroundWorker::default();
    copy(worker.name, &mut raw.bgw_name);
    copy(worker.kind, &mut raw.bgw_type);
    copy("pgq", &mut raw.bgw_library_name);
    copy(worker.main, &mut raw.bgw_function_name);
    raw.bgw_flags =
        i32::try_from(pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION).unwrap_or(3);
    raw.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    raw.bgw_restart_time = if worker.restarts { 1 } else { pg_sys::BGW_NEVER_RESTART };
    raw.bgw_main_arg = pg_sys::Datum::from(worker.argument);
    raw.bgw_notify_pid = worker.notify;
    raw
}

/// Registers it with a running server. False when there is no free worker slot.
pub fn start(worker: &Worker<'_>) -> bool {
    let mut raw = described(worker);
    let mut handle = std::ptr::null_mut();
    // SAFETY: the struct is copied into shared memory; the handle is palloc'd here and freed here.
    unsafe {
        let started = pg_sys::RegisterDynamicBackgroundWorker(&mut raw, &mut handle);
        if !handle.is_null() {
            pg_sys::pfree(handle.cast());
        }
        started
    }
}

/// Registers it with the server that is just starting: only while shared_preload_libraries are loaded.
pub fn start_with_server(worker: &Worker<'_>) {
    let mut raw = described(worker);
    // SAFETY: called from _PG_init under process_shared_preload_libraries_in_progress.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut raw) }
}

/// Was the server started by pg_upgrade (`postgres -b`)? Then nothing but pg_upgrade may change its data.
pub fn is_upgrading() -> bool {
    // SAFETY: a flag that the postmaster sets before it loads libraries (postmaster.c), and its children inherit.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Is this library being loaded by shared_preload_libraries now?
pub fn is_preloading() -> bool {
    // SAFETY: a flag of miscinit.c.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Was this library loaded with the server, so that our launcher is one of its own workers?
pub fn is_preloaded() -> bool {
    // SAFETY: the setting's variable, a C string or null.
    unsafe {
        let libraries = pg_sys::shared_preload_libraries_string;
        !libraries.is_null()
            && std::ffi::CStr::from_ptr(libraries)
                .to_string_lossy()
                .split(',')
                .any(|name| name.trim().trim_matches('"').trim_start_matches("$libdir/") == "pgq")
    }
}

/// Connects this worker to no database: only shared catalogs can be read.
pub fn connect_nowhere() {
    // SAFETY: once, at a worker's start, signals unblocked.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) }
    session::outlast_timeouts();
}

/// Connects this worker to `database` as `role` (0: the bootstrap superuser), and acts as that role, whatever
/// ALTER ROLE … SET role says. Ends the process with FATAL when the database is gone or the role may not log in.
pub fn connect(database: u32, role: u32) {
    // A cancel that was meant for whoever had this process's number before must not end it.
    session::without_cancel(|| {
        // SAFETY: as above.
        unsafe {
            pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(database), pg_sys::Oid::from(role), 0);
        }
    });
    session::be_oneself();
    session::outlast_timeouts();
}

thread_local! {
    static AT_EXIT: std::cell::Cell<Option<fn()>> = const { std::cell::Cell::new(None) };
    static BEFORE_ABORT: std::cell::Cell<Option<fn()>> = const { std::cell::Cell::new(None) };
}

/// Calls `leave` when this process ends, however it ends but by SIGKILL: after the abort of an open transaction
/// when it is registered before connecting (callbacks run in the opposite order). It may only use atomics and latches.
pub fn at_exit(leave: fn()) {
    /// # Safety
    /// Called by ipc.c only.
    unsafe extern "C-unwind" fn callback(_: i32, _: pg_sys::Datum) {
        if let Some(leave) = AT_EXIT.get() {
            leave();
        }
    }
    AT_EXIT.set(Some(leave));
    // SAFETY: a static function.
    unsafe { pg_sys::before_shmem_exit(Some(callback), pg_sys::Datum::from(0)) }
}

/// The same before the abort of an open transaction, when it is registered after connecting.
pub fn before_abort(note: fn()) {
    /// # Safety
    /// Called by ipc.c only.
    unsafe extern "C-unwind" fn callback(_: i32, _: pg_sys::Datum) {
        if let Some(note) = BEFORE_ABORT.get() {
            note();
        }
    }
    BEFORE_ABORT.set(Some(note));
    // SAFETY: a static function.
    unsafe { pg_sys::before_shmem_exit(Some(callback), pg_sys::Datum::from(0)) }
}

/// Ends this process. Code 0 is never restarted by the postmaster, 1 is after the restart time.
pub fn exit(code: i32) -> ! {
    // SAFETY: proc_exit runs the exit callbacks and does not return.
    unsafe { pg_sys::proc_exit(code) }
    // From 18 on the header says so by a word (pg_noreturn, c.h) that the bindings do not carry.
    #[cfg(feature = "pg18")]
    std::process::abort()
}

/// The launcher, as both ways of starting it describe it.
pub const LAUNCHER: Worker<'static> = Worker {
    main: "pgq_launcher_main",
    kind: "pgq launcher",
    name: "pgq launcher",
    argument: 0,
    restarts: true,
    notify: 0,
};
