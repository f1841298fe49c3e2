//! run, eager puts and current_job: handlers in the caller's own session and transaction, for debugging and tests.
//!
//! The handler's code would act with everything the caller may. So it is refused unless the session *is* the
//! handler's role, or the function runs as its owner (SECURITY DEFINER) and that is the session's own user
//! or a superuser.

use pgrx::prelude::*;

use super::{check, rights};
use crate::engine::access::Access;
use crate::engine::deltas::Fact;
use crate::engine::state::{Outcome, State};
use crate::engine::time::Span;
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::function::{Callable, Input, Shape};
use crate::pg::report::ErrorReport;
use crate::pg::{context, log, user};
use crate::settings;
use crate::store::finish::{self, End};
use crate::store::groups::{self, Turns};
use crate::store::row::{current, Handler, Job};
use crate::store::{after, claim, followup, numbers, parking, registry};

#[pg_extern(sql = false)]
fn run(id: Option<i64>) -> std::result::Result<Option<Flat>, ErrorReport> {
    let id = check::given("id", id)?;
    let Some(seen) = claim::look(id)? else { return Err(Error::NoSuchJob(id).into()) };
    if !rights::reach(&[Access::Admin], &seen.job.queue)? {
        return Err(Error::NoSuchJob(id).into());
    }
    let handler = handler_of(&seen.job)?;
    if handler.is_held {
        return Err(Error::state(format!("the handler of job {id} is held: it came with a copy"), HELD).into());
    }
    match admit(&handler)? {
        Admission::Granted(mut callable) => match groups::turn_of(&seen.job)? {
            Some(turns) => Ok(here(&handler, &mut callable, id, turns)?),
            None => {
                let hint = format!("For which: SELECT pgq.waiting({id}).");
                Err(Error::state(format!("job {id} waits for others"), hint).into())
            }
        },
        Admission::Refused { role } => Err(Error::denied(
            format!("permission denied to run job {id} in this session"),
            format!("Its handler acts as \"{role}\": connect as that role, or let a worker run it."),
        )
        .into()),
    }
}

/// What lets a held handler run.
const HELD: &str = "SELECT pgq.arm() lets the handlers of this copy run.";

/// Runs the job that put just stored, if its handler may run here; else says so and leaves it to the workers.
pub fn eager(id: i64) -> Result<()> {
    let Some(seen) = claim::look(id)? else { return Ok(()) };
    let Ok(handler) = handler_of(&seen.job) else { return Ok(()) };
    if handler.is_held {
        log::notice(&format!("job {id} was put but not run here: its handler is held until pgq.arm()"));
        return Ok(());
    }
    match admit(&handler)? {
        Admission::Granted(mut callable) => match groups::turn_of(&seen.job)? {
            Some(turns) => here(&handler, &mut callable, id, turns).map(|_| ()),
            None => {
                log::notice(&format!("job {id} was put but not run here: it waits for others of its group"));
                Ok(())
            }
        },
        Admission::Refused { role } => {
            log::notice(&format!("job {id} was put but not run here: its handler acts as \"{role}\""));
            Ok(())
        }
    }
}

fn handler_of(job: &Job) -> Result<Handler> {
    let found = registry::find(&job.queue, job.task.as_deref())?;
    found.ok_or_else(|| {
        Error::state(
            format!("queue \"{}\" has no handler for this job", job.queue),
            format!("SELECT pgq.register('{}', 'schema.function').", job.queue),
        )
    })
}

/// May the handler run in this session?
enum Admission {
    Granted(Callable),
    /// It belongs to this role.
    Refused {
        role: String,
    },
}

/// Whoever is refused learns no more than the role, not even whether the function is there.
fn admit(handler: &Handler) -> Result<Admission> {
    let own = user::session() == handler.role && user::current() == handler.role;
    if own {
        if let Some(reason) = parking::forbids(handler, settings::allow_superuser_handlers()) {
            let hint = "What mends it: SELECT detail, fix FROM pgq.doctor() WHERE NOT ok.";
            return Err(Error::state(reason.to_string(), hint));
        }
    }
    match Callable::resolve(&handler.function, Shape::from_word(&handler.shape)) {
        Ok(callable) if own => Ok(Admission::Granted(callable)),
        Ok(callable) if is_trusted(&callable)? => Ok(Admission::Granted(callable.result_as(handler.role))),
        _ => {
            let role = user::name(handler.role).unwrap_or_else(|| "a role that is gone".into());
            Ok(Admission::Refused { role })
        }
    }
}

/// Does it run as its owner, whoever calls it, and is that the session's user or a superuser?
fn is_trusted(callable: &Callable) -> Result<bool> {
    Ok(match registry::function_owner(callable.oid())? {
        Some((owner, is_definer)) => is_definer && (owner == user::session() || user::is_superuser(owner)),
        None => false,
    })
}

/// Takes the job, runs it, removes it: all in the caller's transaction. An error of the handler is the caller's.
fn here(handler: &Handler, callable: &mut Callable, id: i64, turns: Turns) -> Result<Option<Flat>> {
    let taken = claim::take_one(id)?;
    turns.over();
    let Some(job) = taken else {
        return Err(Error::state(format!("job {id} is running"), format!("SELECT * FROM pgq.wait({id}).")));
    };
    if job.state == State::Leased {
        return Err(Error::state(
            format!("job {id} is leased"),
            "Wait for its lease to end, or have its holder call pgq.release.",
        ));
    }
    let row = job.claimed_row();
    let input = Input { id: job.id, args: &job.args, job: Some(&row) };
    // A function that takes a set gets a set of one; what it returns is the caller's to see, and not kept, as in a worker.
    let is_set = Shape::from_word(&handler.shape) == Shape::Jobs;
    let call = || context::watch_for_client(|| callable.call(&input, true));
    let result = if is_set { current::hidden(call) } else { current::during(&job, call) };
    numbers::changed(&job.queue, Fact::Done, 1);
    if handler.keep_done.unwrap_or_else(settings::keep_done) > Span::ZERO {
        let attempt = job.current_attempt();
        let result = result.as_ref().filter(|_| !is_set);
        let end = End { outcome: Outcome::Done, attempt, failures: job.failures, result, error: None };
        finish::keep(&job, &end)?;
    }
    after::done(&job)?;
    let kept = result.as_ref().filter(|_| !is_set);
    followup::done(handler.on_done.as_deref(), std::iter::once(&job), kept)?;
    groups::pass_on()?;
    Ok(result)
}

#[pg_extern(sql = false)]
fn current_job() -> Option<Flat> {
    current::get()
}
