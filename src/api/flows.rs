//! flow: a set of jobs that are counted together, and what is put when they have ended.

use pgrx::prelude::*;

use super::{check, rights};
use crate::engine::access::Access;
use crate::error::{Error, Result};
use crate::pg::encoding;
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::store::flows;

/// The longest name of a flow, in bytes. It is for people.
const MAX_NAME: usize = 1_000;

#[pg_extern(sql = false)]
fn flow(
    name: Option<Text>,
    on_finished: Option<Text>,
    on_succeeded: Option<Text>,
    on_dead: Option<Text>,
) -> std::result::Result<i64, ErrorReport> {
    rights::need_some(&[Access::Produce], None)?;
    let name = name.as_deref();
    if let Some(long) = name.map(encoding::length).filter(|length| *length > MAX_NAME) {
        return Err(Error::argument(
            format!("invalid name of a flow, of {long} bytes"),
            format!("The name of a flow has at most {MAX_NAME} bytes."),
        )
        .into());
    }
    let queues = [on_finished.as_deref(), on_succeeded.as_deref(), on_dead.as_deref()];
    for queue in queues {
        told(queue)?;
    }
    let made = flows::make(name, queues)?;
    Ok(made.ok_or_else(|| Error::Internal("a flow without its id".into()))?)
}

/// A queue into which pgq is to put jobs for the caller, who must be allowed to put them there himself.
pub(super) fn told(queue: Option<&str>) -> Result<()> {
    match queue {
        Some(queue) => rights::need(Access::Produce, check::queue(Some(queue))?),
        None => Ok(()),
    }
}

/// Keeps a flow open until the caller's transaction ends, so that he may put jobs into it.
///
/// # Errors
/// 42704 when there is none, 55000 when it is finished.
pub(super) fn join(flow: Option<i64>) -> Result<Option<i64>> {
    let Some(id) = flow else { return Ok(None) };
    match flows::join(id)? {
        Some(true) => Ok(flow),
        Some(false) => Err(Error::state(
            format!("flow {id} is finished"),
            "Put the job before the last one of its flow ends, or into a new flow: SELECT pgq.flow('name').",
        )),
        None => Err(Error::NoSuchFlow(id)),
    }
}
