//! Where a process stands that can be woken: the flag first, then the latch.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};

use super::{hooks, latch};

/// A process that can be woken. All zero: nobody there.
#[repr(C)]
pub struct Place {
    /// Its pid, zero when it is not there.
    pub pid: AtomicI32,
    /// Its number in the array of processes, plus one.
    number: AtomicI32,
    /// Set by whoever wants it to look, taken back by it before it looks.
    pub wake: AtomicU32,
}

/// `Place::wake` of an executor: a put asked it and nobody else.
const CALLED: u32 = 2;

impl Place {
    /// This process takes the place. False when somebody has it.
    pub fn occupy(&self) -> bool {
        if self.pid.compare_exchange(0, latch::my_pid(), SeqCst, SeqCst).is_err() {
            return false;
        }
        self.number.store(latch::my_number() + 1, SeqCst);
        true
    }

    /// This process gives the place up, if it has it.
    pub fn vacate(&self) {
        if self.pid.load(SeqCst) == latch::my_pid() {
            self.number.store(0, SeqCst);
            self.pid.store(0, SeqCst);
        }
    }

    /// Is somebody there?
    pub fn is_taken(&self) -> bool {
        self.pid.load(SeqCst) != 0
    }

    /// Asks it to look: one exchange, and a latch only for the first who asks. False when nobody is there.
    pub fn wake(&self) -> bool {
        let first = self.wake.swap(1, SeqCst) == 0;
        let number = self.number.load(SeqCst);
        hooks::at("flag set");
        if number > 0 && first {
            latch::wake(number - 1);
        }
        number > 0
    }

    /// Takes the request back. Do this after resetting the latch and before looking.
    pub fn take_wake(&self) -> bool {
        self.wake.swap(0, SeqCst) != 0
    }

    /// The same, for an executor: was it `CALLED`, and asked by nobody else?
    pub fn take_call(&self) -> bool {
        self.wake.swap(0, SeqCst) == CALLED
    }

    /// Was it `CALLED`, and has not taken that?
    pub fn is_called(&self) -> bool {
        self.wake.load(SeqCst) == CALLED
    }

    /// Calls it, and nobody else, if nobody has asked it to look: true then.
    pub fn call(&self) -> bool {
        let first = self.wake.compare_exchange(0, CALLED, SeqCst, SeqCst).is_ok();
        let number = self.number.load(SeqCst);
        hooks::at("flag set");
        if number > 0 && first {
            latch::wake(number - 1);
        }
        number > 0 && first
    }
}
