//! Waiting, and waking others.

use pgrx::pg_sys;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The latch was set.
    Latch,
    /// The time passed.
    Timeout,
}

/// Waits until this process's latch is set or `millis` have passed, then answers interrupts. The latch
/// stays set: reset it, *then* look for work. Never returns when the postmaster is gone.
pub fn wait(millis: i64) -> Woken {
    let woken = wait_uninterrupted(millis);
    super::xact::check_interrupts();
    woken
}

fn wait_uninterrupted(millis: i64) -> Woken {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch is this process's own; WL_EXIT_ON_PM_DEATH satisfies WaitLatch's demand for one of the two.
    let got = unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, i32::try_from(events).unwrap_or(0), millis.max(0), pg_sys::PG_WAIT_EXTENSION)
    };
    if u32::try_from(got).unwrap_or(0) & pg_sys::WL_LATCH_SET != 0 {
        Woken::Latch
    } else {
        Woken::Timeout
    }
}

/// The same for a worker without work: a cancel has nothing to cancel then, as for any idle session (postgres.c
/// ignores it while it reads a command).
pub fn rest(millis: i64) -> Woken {
    let woken = wait_uninterrupted(millis);
    between_jobs();
    woken
}

/// Answers interrupts between two jobs: all but a cancel, which would be an error that nobody catches there. One that
/// comes after this is raised, and caught, in the next transaction.
pub fn between_jobs() {
    super::session::without_cancel(super::xact::check_interrupts);
    // SAFETY: a flag of this process that only its signal handlers set.
    unsafe { pg_sys::QueryCancelPending = 0 };
}

/// Lets others go on for so long; the latch stays as it is.
pub fn pause(millis: i64) {
    let events = pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: no latch is waited for, which WaitLatch allows where a timeout is given (latch.h).
    unsafe {
        pg_sys::WaitLatch(
            std::ptr::null_mut(),
            i32::try_from(events).unwrap_or(0),
            millis.max(0),
            pg_sys::PG_WAIT_EXTENSION,
        );
    }
}

/// Takes the latch back. What is set after this ends the next wait at once.
pub fn reset() {
    // SAFETY: our own latch.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) }
}

/// This process's number in the array of processes.
pub fn my_number() -> i32 {
    // SAFETY: MyProc is set in every process that has shared memory.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).pgprocno;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return i32::try_from(pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs)).unwrap_or(-1);
    }
}

/// Sets the latch of process `number`. The array lives as long as the server, so a stale number costs a
/// spurious wake-up of somebody, no more.
pub fn wake(number: i32) {
    // SAFETY: the number is checked against the array's length; SetLatch may be called from anywhere,
    // commit callbacks and signal handlers included.
    unsafe {
        let all = pg_sys::ProcGlobal;
        let Ok(index) = u32::try_from(number) else { return };
        if index < (*all).allProcCount {
            let process = (*all).allProcs.add(index as usize);
            pg_sys::SetLatch(&mut (*process).procLatch);
        }
    }
}

/// Sends SIGTERM or SIGINT to a process of this server.
pub fn signal(pid: i32, what: Signal) {
    if pid > 1 {
        let number = match what {
            Signal::Terminate => 15,
            Signal::Cancel => 2,
        };
        // SAFETY: kill(2) with a positive pid that stood in a slot of ours; a pid that is gone is an error we ignore.
        unsafe { kill(pid, number) };
    }
}

/// What `signal` may send.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// SIGTERM
    Terminate,
    /// SIGINT
    Cancel,
}

// SAFETY: the declaration of kill(2); pid_t and int are i32 on the platforms pgrx builds for.
unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
}

/// This process's id.
pub fn my_pid() -> i32 {
    // SAFETY: set at the process's start.
    unsafe { pg_sys::MyProcPid }
}
