//! run, eager puts and current_job: handlers in the caller's own session and transaction, for debugging and tests.
//!
//! The handler's code would act with everything the caller may. So it is refused unless the session *is* the
//! handler's role, or the function runs as its owner (SECURITY DEFINER) and that is the session's own user
//! or a superuser.

use pgrx::prelude::*;

use super::check;
use crate::engine::names;
use crate::engine::state::{Outcome, State};
use crate::engine::time::Span;
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::function::{Callable, Input, Shape};
use crate::pg::report::ErrorReport;
use crate::pg::{at_commit, log, user};
use crate::settings;
use crate::store::finish::{self, End};
use crate::store::row::{current, Handler, Job};
use crate::store::{claim, registry};

#[pg_extern(sql = false)]
fn run(id: Option<i64>) -> std::result::Result<Option<Flat>, ErrorReport> {
    let id = check::given("id", id)?;
    let Some(seen) = claim::look(id)? else { return Err(Error::NoSuchJob(id).into()) };
    let handler = handler_of(&seen.job)?;
    let mut callable = resolve(&handler)?;
    if let Some(role) = refusal(&handler, &callable)? {
        return Err(Error::denied(
            format!("permission denied to run job {id} in this session"),
            format!("Its handler acts as \"{role}\": connect as that role, or let a worker run it."),
        )
        .into());
    }
    Ok(here(&handler, &mut callable, id)?)
}

/// Runs the job that put just stored, if its handler may run here; else says so and leaves it to the workers.
pub fn eager(id: i64) -> Result<()> {
    let Some(seen) = claim::look(id)? else { return Ok(()) };
    let Ok(handler) = handler_of(&seen.job) else { return Ok(()) };
    let mut callable = resolve(&handler)?;
    if let Some(role) = refusal(&handler, &callable)? {
        log::notice(&format!("job {id} was put but not run here: its handler acts as \"{role}\""));
        return Ok(());
    }
    here(&handler, &mut callable, id).map(|_| ())
}

fn handler_of(job: &Job) -> Result<Handler> {
    let found = registry::find(&job.queue, job.task.as_deref())?;
    found.map(|(handler, _)| handler).ok_or_else(|| {
        Error::state(
            format!("queue \"{}\" has no handler for this job", job.queue),
            format!("SELECT pgq.register('{}', 'schema.function').", job.queue),
        )
    })
}

fn resolve(handler: &Handler) -> Result<Callable> {
    Callable::resolve(&handler.function, Shape::from_word(&handler.shape))
        .map_err(|reason| Error::state(reason, "Register a function that exists and that the role may execute."))
}

/// `None` when the handler may run in this session; else the role it belongs to.
fn refusal(handler: &Handler, callable: &Callable) -> Result<Option<String>> {
    let (session, acting) = (user::session(), user::current());
    let own = session == acting && acting == handler.role;
    let trusted = match registry::function_owner(callable.oid())? {
        Some((owner, is_definer)) => is_definer && (owner == session || user::is_superuser(owner)),
        None => false,
    };
    if own || trusted {
        return Ok(None);
    }
    Ok(Some(user::name(handler.role).unwrap_or_else(|| "a role that is gone".into())))
}

/// Takes the job, runs it, removes it: all in the caller's transaction. An error of the handler is the caller's.
fn here(handler: &Handler, callable: &mut Callable, id: i64) -> Result<Option<Flat>> {
    let Some(job) = claim::take_one(id)? else {
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
    current::set(&job);
    let result = callable.call(&input, true);
    current::clear();
    at_commit::count(names::hash(&job.queue), 1, 0);
    if handler.keep_done.unwrap_or_else(settings::keep_done) > Span::ZERO {
        let attempt = job.current_attempt();
        let end = End { outcome: Outcome::Done, attempt, failures: job.failures, result: result.as_ref(), error: None };
        finish::keep(&job, &end)?;
    }
    Ok(result)
}

#[pg_extern(sql = false)]
fn current_job() -> Option<Flat> {
    current::get()
}
