//! A memory context of our own, emptied after each use, so that nothing leaks per job.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A child of TopMemoryContext that lives as long as the process.
pub struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    /// Makes one; `name` is shown by pg_log_backend_memory_contexts.
    pub fn new(name: &'static CStr) -> Self {
        // SAFETY: TopMemoryContext exists in every process; the name is static as the allocator requires.
        Scratch(unsafe {
            pg_sys::AllocSetContextCreateInternal(pg_sys::TopMemoryContext, name.as_ptr(), 0, 8 * 1024, 8 * 1024 * 1024)
        })
    }

    /// Runs `work` with this as the current context. An error leaves the switch to the abort of the
    /// transaction, which sets the context itself.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the context lives for ever (see `new`), and the old one is put back.
        unsafe {
            let old = pg_sys::MemoryContextSwitchTo(self.0);
            let result = work();
            pg_sys::MemoryContextSwitchTo(old);
            result
        }
    }

    /// Makes this the current context and leaves it so: for code that ends the transaction, whose commit sets the
    /// context itself, and after which the earlier one may be gone.
    pub fn enter(&self) {
        // SAFETY: the context lives for ever.
        unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
    }

    /// Frees everything in it. No value made inside may be used afterwards: `Flat` copies survive.
    pub fn empty(&self) {
        // SAFETY: nothing of Rust's points in here: values leave as copies (`pg::datum::Flat`).
        unsafe { pg_sys::MemoryContextReset(self.0) }
    }
}

/// Bytes that this process has for itself: what its memory contexts hold, or what the kernel has given it apart from
/// files and shared memory, whichever is more. The latter is known on Linux only; shared buffers are in neither.
pub fn of_this_process() -> u64 {
    // SAFETY: walks over the contexts of this process.
    let contexts = unsafe { pg_sys::MemoryContextMemAllocated(pg_sys::TopMemoryContext, true) };
    let contexts = u64::try_from(contexts).unwrap_or(u64::MAX);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|text| text.parse::<u64>().ok());
    contexts.max(kilobytes.unwrap_or(0).saturating_mul(1_024))
}
