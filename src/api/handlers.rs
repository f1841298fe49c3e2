//! register, unregister, configure: which function runs a queue's jobs, and how a queue behaves.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::check;
use crate::engine::names;
use crate::error::{self, Error, Result};
use crate::pg::datum::Flat;
use crate::pg::report::ErrorReport;
use crate::pg::{at_commit, log, user};
use crate::settings;
use crate::store::registry::{self, Configuration, Function, Registration, RoleFacts};

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn register(
    queue: Option<&str>,
    handler: Option<&str>,
    task: Option<&str>,
    run_as: Option<&core::ffi::CStr>,
    timeout: Option<Interval>,
    concurrency: Option<i32>,
    batch: Option<i32>,
    max_attempts: Option<i32>,
    backoff: Option<Interval>,
    max_backoff: Option<Interval>,
) -> std::result::Result<String, ErrorReport> {
    let (queue, task) = (check::queue(queue)?, check::task(task)?);
    let name = function_name(handler)?;
    let caller = user::current();
    let run_as = match run_as {
        Some(name) => name.to_string_lossy().into_owned(),
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
    let mut function = one_that_fits(name)?;
    let role = registry::role_facts(&run_as, caller, function.oid)?.ok_or_else(|| Error::NoSuchRole(run_as.clone()))?;
    may_register(&role, &run_as, &function)?;
    function.role = role.oid;
    let spans = [timeout, backoff, max_backoff];
    registry::register(&Registration { queue, task, function: &function, run_as: &run_as, spans, numbers })?;
    at_commit::touch(names::hash(queue));
    at_commit::ensure_workers();
    Ok(function.signature)
}

/// The longest name or signature of a function, in bytes: three identifiers, quoted, and two types.
const LONGEST_FUNCTION: usize = 1_000;

fn function_name(handler: Option<&str>) -> Result<&str> {
    let name = check::given("handler", handler)?;
    if name.len() > LONGEST_FUNCTION {
        return Err(Error::argument(
            format!("invalid function name of {} bytes", name.len()),
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
        [one] => match one.unfit {
            None => Ok(one.clone()),
            Some(reason) => Err(Error::UnfitFunction {
                signature: one.signature.clone(),
                reason: reason.into(),
                hint: "Write a plain function or procedure that returns one value or void.".into(),
            }),
        },
        many => Err(Error::AmbiguousFunction { name: name.into(), found: signatures(many) }),
    }
}

/// The rights a registration needs: of the caller, of the role, and of the function's owner, who could otherwise
/// rewrite the function and act as the role.
fn may_register(role: &RoleFacts, name: &str, function: &Function) -> Result<()> {
    let (signature, quoted) = (&function.signature, error::identifier(name));
    if !role.caller_may {
        return Err(Error::denied(
            format!("permission denied to register a handler that runs as \"{name}\""),
            format!("Have a member of \"{name}\" register it, or leave run_as out."),
        ));
    }
    if role.is_superuser && !settings::allow_superuser_handlers() {
        return Err(Error::denied(
            format!("role \"{name}\" is a superuser, and handlers may not run as one"),
            "Give another role: run_as => 'app'; or set pgq.allow_superuser_handlers = on.",
        ));
    }
    if !role.may_execute {
        return Err(Error::denied(
            format!("role \"{name}\" may not execute {signature}"),
            format!("GRANT EXECUTE ON ROUTINE {signature} TO {quoted}, and USAGE on its schema."),
        ));
    }
    if !role.owner_is_trusted {
        return Err(Error::Denied {
            message: format!("the owner of {signature} could act as \"{name}\""),
            detail: Some("Whoever owns a handler's function decides what its role does.".into()),
            hint: format!("ALTER ROUTINE {signature} OWNER TO {quoted}, or choose another run_as."),
        });
    }
    if !role.can_login || !role.may_connect {
        return Err(Error::state(
            format!("role \"{name}\" cannot connect to this database"),
            format!("ALTER ROLE {quoted} LOGIN, and GRANT CONNECT ON DATABASE: a worker connects as the role."),
        ));
    }
    if role.is_superuser {
        log::notice(&format!(
            "{signature} will run as superuser \"{name}\": give run_as => 'another_role' unless it must"
        ));
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn unregister(queue: Option<&str>, task: Option<&str>) -> std::result::Result<bool, ErrorReport> {
    Ok(registry::unregister(check::queue(queue)?, check::task(task)?)?)
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn configure(
    queue: Option<&str>,
    max_attempts: Option<i32>,
    backoff: Option<Interval>,
    max_backoff: Option<Interval>,
    keep_done: Option<Interval>,
    keep_dead: Option<Interval>,
    notify: Option<bool>,
    reset: Option<bool>,
) -> std::result::Result<Option<Flat>, ErrorReport> {
    let spans =
        [("backoff", backoff), ("max_backoff", max_backoff), ("keep_done", keep_done), ("keep_dead", keep_dead)];
    for (name, span) in spans {
        span.map(|s| check::not_negative(name, s)).transpose()?;
    }
    let configuration = Configuration {
        queue: check::queue(queue)?,
        max_attempts: check::at_least_one("max_attempts", max_attempts)?,
        spans: spans.map(|s| s.1),
        notify,
        reset: reset.unwrap_or(false),
    };
    Ok(registry::configure(&configuration)?)
}
