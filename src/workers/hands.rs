//! Clean hands: what a handler left in the session is taken back before the next job runs in it.
//!
//! After each transaction of a handler, what costs next to nothing: settings (a deferred trigger may have set some
//! behind the handler's own nest level), held cursors, prepared statements, session advisory locks; and temporary
//! objects and the role, where these were touched. After a procedure, and before another handler's jobs, all of it,
//! with sequence caches and the seed of random(). Nothing here can reset what a procedural language keeps
//! (GD, %_SHARED) or a library's connections (dblink): these end with the process.

use crate::engine::time::Micros;
use crate::pg::xact::Caught;
use crate::pg::{log, session, xact};
use crate::store::row::Handler;

/// The state of this process's session, as far as handlers go.
pub(super) struct Hands {
    role: u32,
    /// Whose code ran here last, if any of it ran since the last `scrub`.
    last: Option<(i32, Micros)>,
    lost: bool,
}

impl Hands {
    /// Of a session that just connected as `role`.
    pub(super) fn new(role: u32) -> Self {
        Hands { role, last: None, lost: false }
    }

    /// Before jobs of `handler`: nothing of another handler's is left. A new registration is another handler.
    pub(super) fn before(&mut self, handler: &Handler) {
        if self.last.is_some_and(|last| last != (handler.id, handler.registered_at)) {
            self.scrub();
        }
    }

    /// After a transaction in which a function of `handler` ran, however it ended.
    pub(super) fn after(&mut self, handler: &Handler) {
        self.last = Some((handler.id, handler.registered_at));
        let result = session::without_cancel(|| xact::between(session::tidy));
        self.keep(result);
        if !session::is_tidy(self.role) {
            self.scrub();
        }
    }

    /// After a procedure, which may have committed anything: all of it.
    pub(super) fn scrub(&mut self) {
        self.last = None;
        let result = session::without_cancel(|| {
            xact::run(|| {
                session::discard();
                Ok(())
            })
        });
        self.keep(result);
    }

    /// Could something not be taken back? Then no more jobs run in this session.
    pub(super) fn are_lost(&self) -> bool {
        self.lost
    }

    fn keep(&mut self, result: Result<(), Caught>) {
        if let (Err(error), false) = (result, self.lost) {
            let (sqlstate, message) = (error.sqlstate, error.message);
            log::warning(&format!("an executor leaves: it could not clean its session: {sqlstate} {message}"));
            self.lost = true;
        }
    }
}
