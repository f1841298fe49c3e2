//! Keeping what pgrx's boundary loses of an error: its CONTEXT lines, and a SQLSTATE that is not in PostgreSQL's
//! own list (`RAISE … USING ERRCODE = 'AB123'` becomes XX000 there).
//!
//! errfinish (elog.c) calls the error context callbacks from the innermost to the outermost while the
//! error lies on its stack. Ours is the outermost of a job, so the error is complete when it is called:
//! CopyErrorData gives a copy, of which we keep what a job's record needs. A FATAL (somebody terminates the worker
//! in the midst of a handler) goes to the server's log by itself: without its CONTEXT, in which PL/pgSQL quotes the
//! statement that was running, data and all.

use std::cell::{OnceCell, RefCell};

use pgrx::pg_sys;

use super::encoding;
use super::memory::Scratch;
use super::report::Code;

/// ERROR's level since 14 (elog.h); FATAL and PANIC are above, and are not caught.
const ERROR: i32 = 21;

/// What was kept of an error.
pub(super) struct Kept {
    /// Its SQLSTATE as elog.h packs it.
    pub(super) code: i32,
    /// Its message, by which the error that was caught is known to be this one.
    pub(super) message: String,
    /// Its DETAIL.
    pub(super) detail: Option<String>,
    /// Its HINT.
    pub(super) hint: Option<String>,
    /// Its CONTEXT.
    pub(super) context: Option<String>,
}

thread_local! {
    /// Where errors are copied to. FreeErrorData leaves some of what CopyErrorData made (file name, function, domain:
    /// elog.c), which would add up in a context that lives on.
    static COPIES: OnceCell<Scratch> = const { OnceCell::new() };
    static LAST: RefCell<Option<Kept>> = const { RefCell::new(None) };
    static FRAME: OnceCell<*mut pg_sys::ErrorContextCallback> = const { OnceCell::new() };
}

/// Installs the callback around `work`; what is kept of the last error raised inside is in `take`.
pub fn watch<T>(work: impl FnOnce() -> T) -> T {
    prepare();
    // SAFETY: the callback's frame outlives `work`; when an error unwinds past us, the boundary that caught it
    // set error_context_stack back to what it was before (pgrx ffi.rs), and `reset` is called by the driver.
    unsafe {
        let mut frame = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(keep),
            arg: std::ptr::null_mut(),
        };
        let previous = frame.previous;
        pg_sys::error_context_stack = &mut frame;
        let result = work();
        pg_sys::error_context_stack = previous;
        result
    }
}

/// The same in a client's session, where the error goes on to the client, or to the code that called us: pgrx raises
/// it anew above everything of ours on the stack, as XX000 where it does not know the SQLSTATE, and this gives it the
/// one that it had. So the frame is one that lives on; whoever catches the error takes it off (PG_CATCH, PostgresMain).
pub fn watch_for_client<T>(work: impl FnOnce() -> T) -> T {
    prepare();
    let frame = FRAME.with(|frame| {
        *frame.get_or_init(|| {
            Box::into_raw(Box::new(pg_sys::ErrorContextCallback {
                previous: std::ptr::null_mut(),
                callback: Some(keep_for_client),
                arg: std::ptr::null_mut(),
            }))
        })
    });
    // SAFETY: the frame is never freed. It is put on top unless it is there already, below a handler that called us
    // again; what it stands on are frames of our callers, which outlive it.
    unsafe {
        let previous = pg_sys::error_context_stack;
        let mut below = previous;
        while !below.is_null() && below != frame {
            below = (*below).previous;
        }
        if below.is_null() {
            (*frame).previous = previous;
            pg_sys::error_context_stack = frame;
        }
        let result = work();
        pg_sys::error_context_stack = previous;
        result
    }
}

fn prepare() {
    LAST.set(None);
    COPIES.with(|copies| {
        copies.get_or_init(|| Scratch::new(c"pgq error"));
    });
}

// SAFETY: the declaration of utils/elog.h, which pgrx does not bind.
unsafe extern "C-unwind" {
    fn errcode(code: i32) -> i32;
}

/// # Safety
/// Called by errfinish only.
unsafe extern "C-unwind" fn keep_for_client(arg: *mut std::ffi::c_void) {
    /// ERRCODE_INTERNAL_ERROR, as elog.h packs it.
    const INTERNAL: i32 = Code::ERRCODE_INTERNAL_ERROR as i32;
    let before = take();
    // SAFETY: called by errfinish, as `keep` wants it; errcode changes the error on top of elog's stack.
    unsafe { keep(arg) };
    let now = LAST.with_borrow(|last| last.as_ref().map(|kept| (kept.code, kept.message.clone())));
    match (before, now) {
        (Some(before), Some((INTERNAL, message))) if before.message == message && before.code != INTERNAL => {
            // SAFETY: see above.
            unsafe { errcode(before.code) };
            LAST.set(Some(before));
        }
        // A notice: not the error that is on its way.
        (before, None) => LAST.set(before),
        _ => {}
    }
}

/// A watch that was left by an error: forgets its frame. Called by the driver that caught the error.
pub(super) fn reset() {
    // SAFETY: a worker's driver is the outermost: no callback of anybody else can be below it.
    unsafe { pg_sys::error_context_stack = std::ptr::null_mut() }
}

/// What was kept of the last error raised under `watch`.
pub(super) fn take() -> Option<Kept> {
    LAST.take()
}

/// # Safety
/// Called by errfinish only.
unsafe extern "C-unwind" fn keep(_: *mut std::ffi::c_void) {
    COPIES.with(|copies| {
        let Some(copies) = copies.get() else { return };
        // SAFETY: an error is on elog's stack (we are called by errfinish); CopyErrorData must not run in ErrorContext.
        // The copy is read before its context is emptied.
        copies.within(|| unsafe {
            let error = pg_sys::CopyErrorData();
            if (*error).elevel >= ERROR {
                let text = |c: *const std::ffi::c_char| {
                    (!c.is_null()).then(|| encoding::from_server_c(std::ffi::CStr::from_ptr(c)))
                };
                LAST.set(Some(Kept {
                    code: (*error).sqlerrcode,
                    message: text((*error).message).unwrap_or_default(),
                    detail: text((*error).detail),
                    hint: text((*error).hint),
                    context: text((*error).context),
                }));
            }
            if (*error).elevel > ERROR {
                pg_sys::errhidecontext(true);
            }
        });
        copies.empty();
    });
}
