//! The signal handlers of our workers: `die` for SIGTERM, so that a handler in a long query obeys a fast
//! shutdown; SIGINT cancels (set by the server); SIGHUP reloads; SIGUSR1 is never touched. SIGQUIT, by which the
//! postmaster ends everybody after a crash, leaves marks first.

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering::SeqCst};

use pgrx::pg_sys;

// SAFETY: the declarations of tcop/tcopprot.h and postmaster/interrupt.h. Here as plain symbols: pgrx's own are wrappers, which cannot be installed as handlers.
unsafe extern "C-unwind" {
    fn die(signal: i32);
    fn SignalHandlerForConfigReload(signal: i32);
    fn SignalHandlerForCrashExit(signal: i32);
}

const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;

/// Installs them and lets signals in. First thing in a worker's main.
pub fn install() {
    // SAFETY: start of a background worker, signals still blocked; these are the server's own handlers, and one that
    // does two stores before the server's own.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::pqsignal(SIGHUP, Some(SignalHandlerForConfigReload));
            pg_sys::pqsignal(SIGQUIT, Some(quit));
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::pqsignal_be(SIGHUP, Some(SignalHandlerForConfigReload));
            pg_sys::pqsignal_be(SIGQUIT, Some(quit));
        }
        term::install();
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// A word and what SIGQUIT stores there.
struct Mark {
    word: AtomicPtr<AtomicU64>,
    value: AtomicU64,
}

static MARKS: [Mark; 2] = [const { Mark { word: AtomicPtr::new(std::ptr::null_mut()), value: AtomicU64::new(0) } }; 2];

/// Makes SIGQUIT store each value into its word before the process ends, instead of what was asked before.
pub fn mark_on_quit(marks: [Option<(&'static AtomicU64, u64)>; 2]) {
    for (mark, wanted) in MARKS.iter().zip(marks) {
        mark.word.store(std::ptr::null_mut(), SeqCst);
        if let Some((word, value)) = wanted {
            mark.value.store(value, SeqCst);
            mark.word.store(std::ptr::from_ref(word).cast_mut(), SeqCst);
        }
    }
}

/// # Safety
/// Called by the system as a signal handler: stores of atomics only, then what the server does by itself
/// (interrupt.c: it leaves without exit callbacks).
unsafe extern "C-unwind" fn quit(signal: i32) {
    for mark in &MARKS {
        // SAFETY: null, or a word that lives as long as the process.
        if let Some(word) = unsafe { mark.word.load(SeqCst).as_ref() } {
            word.store(mark.value.load(SeqCst), SeqCst);
        }
    }
    // SAFETY: the server's own handler of SIGQUIT.
    unsafe { SignalHandlerForCrashExit(signal) }
}

/// Is the postmaster gone? Asked in exit callbacks.
pub fn postmaster_is_gone() -> bool {
    // SAFETY: set at the postmaster's start and inherited.
    let postmaster = unsafe { pg_sys::PostmasterPid };
    i32::try_from(std::os::unix::process::parent_id()) != Ok(postmaster)
}

/// Nobody.
const NONE: i32 = -1;

/// The process that sent the last SIGTERM.
static SENDER: AtomicI32 = AtomicI32::new(NONE);

/// Did somebody else tell this process to end: the postmaster, an administrator, one of us? Not what it did to itself.
pub fn told_to_end() -> bool {
    let sender = SENDER.load(SeqCst);
    // SAFETY: set at the process's start.
    sender != NONE && sender != unsafe { pg_sys::MyProcPid }
}

/// `die` for SIGTERM, with a note of the sender. The server's own way to install handlers (pqsignal) does not tell it.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod term {
    use super::{die, SeqCst, SENDER, SIGTERM};

    const RESTART: i32 = 0x1000_0000;
    const SIGINFO: i32 = 4;

    /// struct sigaction of 64-bit Linux (glibc and musl).
    #[repr(C)]
    struct Action {
        handler: usize,
        mask: [u64; 16],
        flags: i32,
        restorer: usize,
    }

    /// The head of siginfo_t there, for signals of kill(2).
    #[repr(C)]
    struct Info {
        signal: i32,
        errno: i32,
        code: i32,
        padding: i32,
        sender: i32,
    }

    // SAFETY: the declarations of sigaction(2), and of errno in glibc and musl.
    unsafe extern "C" {
        fn sigaction(signal: i32, action: *const Action, before: *mut Action) -> i32;
        fn __errno_location() -> *mut i32;
    }

    /// # Safety
    /// Called by the system with the siginfo_t of a SIGTERM: one store, then the server's own handler. That one keeps
    /// errno by itself up to 16; from 17 on pqsignal's wrapper does (port/pqsignal.c), which we are not called by.
    unsafe extern "C-unwind" fn terminate(signal: i32, info: *const Info, _context: *mut std::ffi::c_void) {
        // SAFETY: the system's own structure, alive during the call; the server's handler of SIGTERM; and this
        // thread's errno.
        unsafe {
            let errno = *__errno_location();
            SENDER.store((*info).sender, SeqCst);
            die(signal);
            *__errno_location() = errno;
        }
    }

    pub fn install() {
        let handler = terminate as *const () as usize;
        let action = Action { handler, mask: [0; 16], flags: RESTART | SIGINFO, restorer: 0 };
        // SAFETY: as pqsignal does it (port/pqsignal.c): an empty mask, system calls are restarted.
        unsafe { sigaction(SIGTERM, &action, std::ptr::null_mut()) };
    }
}

/// Elsewhere every SIGTERM counts as somebody else's.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod term {
    use super::{die, pg_sys, SeqCst, SENDER, SIGTERM};

    /// # Safety
    /// Called by the system as a signal handler: one store, then the server's own handler.
    unsafe extern "C-unwind" fn terminate(signal: i32) {
        SENDER.store(0, SeqCst);
        // SAFETY: the server's handler of SIGTERM.
        unsafe { die(signal) }
    }

    pub fn install() {
        // SAFETY: at the start of a background worker.
        unsafe {
            #[cfg(not(feature = "pg18"))]
            pg_sys::pqsignal(SIGTERM, Some(terminate));
            #[cfg(feature = "pg18")]
            pg_sys::pqsignal_be(SIGTERM, Some(terminate));
        }
    }
}
