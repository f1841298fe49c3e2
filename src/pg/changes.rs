//! What a statement changed in somebody's table, as an AFTER … FOR EACH STATEMENT trigger with transition tables sees it.

use std::ffi::{c_char, CStr};

use pgrx::pg_sys;

use super::datum::Elements;
use super::{encoding, spi, user};
use crate::error::Result;

/// How PostgreSQL calls a trigger's function.
pub type Call = pg_sys::FunctionCallInfo;

/// What happened to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// They are new.
    Insert,
    /// They are others.
    Update,
    /// They are gone.
    Delete,
}

/// A statement's changes to one table.
pub struct Change {
    data: *mut pg_sys::TriggerData,
    /// What happened.
    pub event: Event,
    /// The table's schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Whose it is.
    pub owner: user::Role,
    /// The names of the old and the new rows, where the trigger has them.
    pub rows: [Option<String>; 2],
    /// What CREATE TRIGGER gives the function.
    pub arguments: Vec<String>,
}

/// # Safety
/// NULL, or a C string.
unsafe fn text(from: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!from.is_null()).then(|| encoding::from_server_c(unsafe { CStr::from_ptr(from) }))
}

impl Change {
    /// From a call; `None` when it is not that of such a trigger.
    pub fn of(call: Call) -> Option<Change> {
        // SAFETY: PostgreSQL's call, whose context says what it is (CALLED_AS_TRIGGER, trigger.h); the relation is open
        // and the trigger's description lives as long as the call.
        unsafe {
            let context = (*call).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let data = context.cast::<pg_sys::TriggerData>();
            let fired = (*data).tg_event;
            if fired & (pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE) != 0 {
                return None;
            }
            let event = match fired & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
                pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
                pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
                _ => return None,
            };
            let trigger = &*(*data).tg_trigger;
            let count = usize::try_from(trigger.tgnargs).unwrap_or(0);
            let class = &*(*(*data).tg_relation).rd_rel;
            Some(Change {
                data,
                event,
                schema: text(pg_sys::get_namespace_name(class.relnamespace))?,
                table: text(class.relname.data.as_ptr())?,
                owner: class.relowner.to_u32(),
                rows: [text(trigger.tgoldtable), text(trigger.tgnewtable)],
                arguments: (0..count).filter_map(|n| text(*trigger.tgargs.add(n))).collect(),
            })
        }
    }

    /// Runs a query that sees the rows by their names, as whoever changed them, and gives its one value, a jsonb[], to
    /// `work`; NULL is nothing to do.
    pub fn query<T>(&self, sql: &str, work: impl FnOnce(&Elements<'_>) -> Result<T>) -> Result<Option<T>> {
        // SAFETY: the data of the call that is under way.
        unsafe { spi::query_changes(self.data, sql, work) }
    }
}
