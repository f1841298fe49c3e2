//! Parking: does a handler's role and function allow it to run? One list of rules, asked by `register`, by each
//! transaction of an executor, by each look of the scheduler, and by all that says why a job waits. And the record
//! of it in the handler's row, which only tells a change of state from a state.

use crate::engine::parking::Reason;
use crate::engine::time::Micros;
use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};
use crate::pg::{catalog, function};
use crate::store::registry;
use crate::store::row::Handler;

/// What is or would be registered.
pub struct Subject<'a> {
    /// The role's oid.
    pub role: u32,
    /// Its name.
    pub run_as: &'a str,
    /// The function's oid, if it is there.
    pub function: Option<u32>,
    /// Its signature.
    pub signature: &'a str,
    /// Was it registered as a procedure?
    pub is_procedure: bool,
}

/// The rules. `None`: it may run.
pub fn reason(s: &Subject<'_>, superusers_may: bool) -> Option<Reason> {
    let (role, function) = (|| s.run_as.to_owned(), || s.signature.to_owned());
    let Some(r) = catalog::role(s.role) else {
        let namesake = catalog::has_role_named(s.run_as);
        return Some(if namesake { Reason::RoleRecreated { role: role() } } else { Reason::RoleGone { role: role() } });
    };
    let renamed = r.name != s.run_as;
    let found = s.function.and_then(|oid| catalog::function(oid, s.role));
    let Some(f) = found.filter(|_| !renamed) else {
        return Some(if renamed {
            Reason::RoleRenamed { role: role(), now: r.name }
        } else {
            Reason::FunctionGone { function: function() }
        });
    };
    if r.is_superuser && !superusers_may {
        Some(Reason::Superuser { role: role() })
    } else if !r.can_login {
        Some(Reason::NoLogin { role: role() })
    } else if !r.may_connect {
        Some(Reason::NoConnect { role: role(), database: catalog::database_name() })
    } else if let Some(why) = f.unfit {
        Some(Reason::FunctionUnfit { function: function(), why })
    } else if f.is_procedure != s.is_procedure {
        let why = if f.is_procedure { "it is a procedure now" } else { "it is a function now" };
        Some(Reason::FunctionUnfit { function: function(), why })
    } else if !f.may_use_schema {
        Some(Reason::NoUsage { role: role(), schema: f.schema })
    } else if !f.may_execute {
        Some(Reason::NoExecute { role: role(), function: function() })
    } else if !f.owner_is_trusted {
        Some(Reason::Untrusted { role: role(), function: function(), owner: f.owner })
    } else {
        None
    }
}

impl Handler {
    /// What the rules are asked about; `function` is what its signature means now.
    pub fn subject(&self, function: Option<u32>) -> Subject<'_> {
        Subject {
            role: self.role,
            run_as: &self.run_as,
            function,
            signature: &self.function,
            is_procedure: self.is_procedure,
        }
    }
}

/// Why a handler may not run now, as tables and catalog say; `None` when it may.
pub fn forbids(handler: &Handler, superusers_may: bool) -> Option<Reason> {
    if handler.is_held {
        return Some(Reason::Held);
    }
    reason(&handler.subject(function::look_up(&handler.function)), superusers_may)
}

/// Does it rest, for a reason that the catalog does not show, until it is tried again?
pub fn rests(handler: &Handler, now: Micros) -> bool {
    handler.parked_until.is_some_and(|until| until > now)
}

/// What is shown of a handler that does not run: what the catalog forbids now, else what was recorded because it
/// can only be tried. The words, and the reason where there is one.
fn shown(handler: &Handler, superusers_may: bool) -> Option<(String, Option<Reason>)> {
    match forbids(handler, superusers_may) {
        Some(reason) => Some((reason.to_string(), Some(reason))),
        None => handler.parked.clone().filter(|_| handler.parked_until.is_some()).map(|words| (words, None)),
    }
}

/// Why a handler does not run, in words.
pub fn why(handler: &Handler, superusers_may: bool) -> Option<String> {
    shown(handler, superusers_may).map(|(words, _)| words)
}

/// What is to be recorded of a handler.
#[derive(Debug, Clone)]
pub struct Change {
    /// The handler.
    pub handler: i32,
    /// Its registration: a later one is another handler.
    pub registered_at: Micros,
    /// Its queue.
    pub queue: String,
    /// Why it is parked; `None` takes it back into service.
    pub parked: Option<String>,
    /// When it is tried again; `None`: when the catalog allows it.
    pub until: Option<Micros>,
}

/// Locks the handler's row, unless somebody else has it: then the next look does it.
static RECORD: Statement = Statement::new(
    "WITH known AS (
        SELECT h.id, h.parked FROM pgq.handler AS h
         WHERE h.id = $1 AND h.registered_at = $2
           AND (h.parked IS DISTINCT FROM $3 OR h.parked_until IS DISTINCT FROM $4)
           FOR UPDATE SKIP LOCKED)
     UPDATE pgq.handler AS h
        SET parked = $3, parked_until = $4,
            parked_at = CASE WHEN $3 IS NULL THEN NULL
                             WHEN known.parked = $3 THEN h.parked_at
                             ELSE pg_catalog.clock_timestamp() END
       FROM known WHERE h.id = known.id
     RETURNING known.parked IS DISTINCT FROM $3",
    &[Type::Int, Type::Time, Type::Text, Type::Time],
);

/// Records a change; true when its words are news.
pub fn record(change: &Change) -> Result<bool> {
    let args = [
        Arg::Int(change.handler),
        Arg::Time(change.registered_at.0),
        Arg::text(change.parked.as_deref()),
        change.until.map_or(Arg::Null, |until| Arg::Time(until.0)),
    ];
    Ok(RECORD.row(&args, |row| row.must(1))?.unwrap_or(false))
}

/// A handler that does not run.
pub struct Parked {
    /// Its queue.
    pub queue: String,
    /// Its function.
    pub function: String,
    /// Why.
    pub reason: String,
    /// What to type.
    pub fix: String,
    /// Did it come with a copy?
    pub is_held: bool,
    /// Is its function there?
    pub is_found: bool,
}

/// All handlers that do not run, those of paused queues too.
pub fn all(superusers_may: bool) -> Result<Vec<Parked>> {
    let mut found = Vec::new();
    for handler in registry::handlers(0, 0)? {
        let Some((reason, rule)) = shown(&handler, superusers_may) else { continue };
        let register = |role: &str| registry::command(handler.id, role).unwrap_or_default();
        let fix = rule.map_or_else(|| register(&handler.run_as), |rule| rule.fix(register));
        let is_found = function::look_up(&handler.function).is_some();
        let (queue, function) = (handler.queue, handler.function);
        found.push(Parked { queue, function, reason, fix, is_held: handler.is_held, is_found });
    }
    Ok(found)
}
