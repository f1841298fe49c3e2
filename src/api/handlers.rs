//! register, unregister, arm, configure: which function runs a queue's jobs, and how a queue behaves.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::{check, flows, rights};
use crate::engine::access::Access;
use crate::engine::names;
use crate::engine::parking::Reason;
use crate::engine::sets::MAX_SET;
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::{at_commit, encoding, log, user};
use crate::settings;
use crate::store::arming;
use crate::store::parking::{self, Subject};
use crate::store::registry::{self, Configuration, Function, Registration};

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn register_handler(
    queue: Option<Text>,
    handler: Option<Text>,
    task: Option<Text>,
    run_as: Option<&core::ffi::CStr>,
    timeout: Option<Interval>,
    concurrency: Option<i32>,
    batch: Option<i32>,
    max_attempts: Option<i32>,
    backoff: Option<Interval>,
    max_backoff: Option<Interval>,
    on_done: Option<Text>,
    on_dead: Option<Text>,
) -> std::result::Result<Text, ErrorReport> {
    let queue = queue.as_deref();
    let handler = handler.as_deref();
    let task = task.as_deref();
    let (queue, task) = (check::queue(queue)?, check::task(task)?);
    rights::need(Access::Admin, queue)?;
    let name = function_name(handler)?;
    let caller = user::current();
    let run_as = match run_as {
        Some(name) => encoding::from_server_c(name),
        None => user::name(caller).unwrap_or_default(),
    };
    if let Some(timeout) = timeout {
        check::positive("timeout", timeout)?;
    }
    for (name, span) in [("backoff", backoff), ("max_backoff", max_backoff)] {
        span.map(|s| check::not_negative(name, s)).transpose()?;
    }
    let numbers = [
        check::at_least_one("concurrency", concurrency)?,
        check::at_least_one("batch", batch)?,
        check::at_least_one("max_attempts", max_attempts)?,
    ];
    let queues = [on_done.as_deref(), on_dead.as_deref()];
    for told in queues {
        tells_others(queue, task, told)?;
    }
    let mut function = one_that_fits(name)?;
    if function.shape == SET {
        fit_for_sets(&function, batch)?;
    }
    let (role, caller_may) = registry::role(&run_as, caller)?.ok_or_else(|| Error::NoSuchRole(run_as.clone()))?;
    function.role = role;
    may_register(&run_as, caller_may, &function)?;
    let spans = [timeout, backoff, max_backoff];
    registry::register(&Registration { queue, task, function: &function, run_as: &run_as, spans, numbers, queues })?;
    at_commit::touch(names::hash(queue));
    at_commit::ensure_workers();
    Ok(function.signature.into())
}

/// A handler that tells its own jobs' ends to itself would never come to an end.
fn tells_others(queue: &str, task: Option<&str>, told: Option<&str>) -> Result<()> {
    if task.is_none() && told == Some(queue) {
        return Err(Error::argument(
            format!("a handler of queue \"{queue}\" cannot be told of its own jobs"),
            "Name another queue in on_done and on_dead: pgq.register('mail', 'send', on_dead => 'mail_dead').",
        ));
    }
    flows::told(told)
}

/// The longest name or signature of a function, in bytes: three identifiers, quoted, and two types.
const LONGEST_FUNCTION: usize = 1_000;

fn function_name(handler: Option<&str>) -> Result<&str> {
    let name = check::given("handler", handler)?;
    if encoding::length(name) > LONGEST_FUNCTION {
        return Err(Error::argument(
            format!("invalid function name of {} bytes", encoding::length(name)),
            "Give the function's name or signature: pgq.register('queue', 'app.send_mail').",
        ));
    }
    Ok(name)
}

/// The one function that the name means and that can be a handler.
fn one_that_fits(name: &str) -> Result<Function> {
    let found = registry::candidates(name)?;
    let signatures = |of: &[Function]| of.iter().map(|f| f.signature.clone()).collect::<Vec<_>>();
    let shaped: Vec<Function> = found.iter().filter(|f| !f.shape.is_empty()).cloned().collect();
    match shaped.as_slice() {
        [] => Err(Error::NoSuchFunction { name: name.into(), found: signatures(&found) }),
        [one] => Ok(one.clone()),
        many => Err(Error::AmbiguousFunction { name: name.into(), found: signatures(many) }),
    }
}

/// The word of `handler_shape_check` for functions that take a set.
const SET: &str = "jobs";

/// A set is one call and one transaction: no procedure has one, and no set is larger than what is known of it after a
/// crash.
fn fit_for_sets(function: &Function, batch: Option<i32>) -> Result<()> {
    if function.is_procedure {
        return Err(Error::UnfitFunction {
            signature: function.signature.clone(),
            reason: "A procedure holds a lease of its own for each job.".into(),
            hint: "Write a function that takes (jobs pgq.job[]), or a procedure that takes (job pgq.job).".into(),
        });
    }
    match batch.and_then(|batch| usize::try_from(batch).ok()) {
        Some(batch) if batch > MAX_SET => Err(Error::argument(
            format!("\"batch\" of {batch} exceeds {MAX_SET}, the most jobs in one call"),
            format!("Give batch => {MAX_SET}, or leave it out: that is the default of a function that takes a set."),
        )),
        _ => Ok(()),
    }
}

/// The caller must be able to act as the role; for the rest the rules of parking hold: what would be parked at once
/// is refused.
fn may_register(run_as: &str, caller_may: bool, function: &Function) -> Result<()> {
    if !caller_may {
        return Err(Error::denied(
            format!("permission denied to register a handler that runs as \"{run_as}\""),
            format!("Have a member of \"{run_as}\" register it, or leave run_as out."),
        ));
    }
    let signature = &function.signature;
    let subject = Subject {
        role: function.role,
        run_as,
        function: Some(function.oid),
        signature,
        is_procedure: function.is_procedure,
    };
    if let Some(reason) = parking::reason(&subject, settings::allow_superuser_handlers()) {
        return Err(refusal(reason));
    }
    if user::is_superuser(function.role) {
        log::notice(&format!(
            "{signature} will run as superuser \"{run_as}\": give run_as => 'another_role' unless it must"
        ));
    }
    Ok(())
}

fn refusal(reason: Reason) -> Error {
    let fix = reason.fix(|_| String::new());
    let message = reason.to_string();
    match reason {
        Reason::FunctionUnfit { function, why } => Error::UnfitFunction {
            signature: function,
            reason: why.replacen("it", "It", 1) + ".",
            hint: "Write a plain function or procedure that returns one value or void.".into(),
        },
        Reason::NoLogin { .. } | Reason::NoConnect { .. } => {
            Error::state(message, format!("{fix} A worker connects as the role."))
        }
        Reason::Untrusted { .. } => Error::Denied {
            message,
            detail: Some("Whoever owns a handler's function decides what its role does.".into()),
            hint: fix,
        },
        _ => Error::denied(message, fix),
    }
}

#[pg_extern(sql = false)]
fn unregister(queue: Option<Text>, task: Option<Text>) -> std::result::Result<bool, ErrorReport> {
    let queue = queue.as_deref();
    let task = task.as_deref();
    let (queue, task) = (check::queue(queue)?, check::task(task)?);
    rights::need(Access::Admin, queue)?;
    Ok(registry::unregister(queue, task)?)
}

#[pg_extern(sql = false)]
fn arm() -> std::result::Result<bool, ErrorReport> {
    rights::need_all(Access::Admin)?;
    let armed = arming::arm_all(user::current())?;
    if armed {
        for (_, queue) in registry::queue_ids()? {
            at_commit::touch(names::hash(&queue));
        }
        at_commit::ensure_workers();
    }
    Ok(armed)
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn configure_queue(
    queue: Option<Text>,
    max_attempts: Option<i32>,
    backoff: Option<Interval>,
    max_backoff: Option<Interval>,
    keep_done: Option<Interval>,
    keep_dead: Option<Interval>,
    notify: Option<bool>,
    reset: Option<bool>,
    group_running: Option<i32>,
    group_holds: Option<bool>,
) -> std::result::Result<Option<Flat>, ErrorReport> {
    let queue = queue.as_deref();
    let queue = check::queue(queue)?;
    rights::need(Access::Admin, queue)?;
    let spans =
        [("backoff", backoff), ("max_backoff", max_backoff), ("keep_done", keep_done), ("keep_dead", keep_dead)];
    for (name, span) in spans {
        span.map(|s| check::not_negative(name, s)).transpose()?;
    }
    let configuration = Configuration {
        queue,
        max_attempts: check::at_least_one("max_attempts", max_attempts)?,
        spans: spans.map(|s| s.1),
        notify,
        reset: reset.unwrap_or(false),
        group_running: check::at_least_one("group_running", group_running)?,
        group_holds,
    };
    let configured = registry::configure(&configuration)?;
    at_commit::touch(names::hash(queue));
    Ok(configured)
}
