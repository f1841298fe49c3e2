//! put and bulk_put: jobs into the caller's own transaction.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::SetOfIterator;
use pgrx::prelude::*;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::after::{Parents, Wish, Wished};
use super::{check, flows, rights, run};
use crate::engine::access::Access;
use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::state::State;
use crate::engine::time::Micros;
use crate::error::{Error, Result};
use crate::pg::datum::{Elements, Flat};
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::{at_commit, clock, encoding};
use crate::settings;
use crate::store::groups::Placing;
use crate::store::insert::{self, NewJob};
use crate::store::{counts, key, numbers};

/// What happens to a put whose key a waiting job has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnConflict {
    Keep,
    Replace,
    Error,
}

fn on_conflict(word: Option<&str>) -> Result<OnConflict> {
    match word.unwrap_or("keep") {
        "keep" => Ok(OnConflict::Keep),
        "replace" => Ok(OnConflict::Replace),
        "error" => Ok(OnConflict::Error),
        other => Err(Error::argument(
            format!("unrecognized on_conflict \"{other}\""),
            "on_conflict is 'keep' (returns the waiting job's id), 'replace' or 'error'.",
        )),
    }
}

/// The longest key, in bytes: it must fit an index entry together with the queue's name.
const MAX_KEY: usize = 1_000;

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn put_job(
    queue: Option<Text>,
    args: Option<Flat>,
    priority: Option<i32>,
    execute_at: Option<TimestampWithTimeZone>,
    delay: Option<Interval>,
    task: Option<Text>,
    key: Option<Text>,
    on_conflict: Option<Text>,
    max_attempts: Option<i32>,
    group_key: Option<Text>,
    after: Option<Vec<Option<i64>>>,
    after_failure: Option<Text>,
    flow: Option<i64>,
) -> std::result::Result<i64, ErrorReport> {
    let queue = queue.as_deref();
    let task = task.as_deref();
    let key = key.as_deref();
    let on_conflict = on_conflict.as_deref();
    let queue = check::queue(queue)?;
    rights::need(Access::Produce, queue)?;
    let conflict = self::on_conflict(on_conflict)?;
    let (due, state) = check::due(execute_at, delay)?;
    let wish = Wish::new(after, after_failure.as_deref())?;
    let mut job = NewJob {
        queue: queue.into(),
        task: check::task(task)?.map(Into::into),
        args: sized(args)?,
        priority: priority.unwrap_or(0),
        execute_at: due.0,
        state,
        key: checked_key(key)?.map(Into::into),
        max_attempts: check::at_least_one("max_attempts", max_attempts)?,
        group: checked_group(group_key.as_deref())?.map(Into::into),
        flow: flows::join(flow)?,
        parents: 0,
    };
    let parents = Parents::of(std::iter::once(&wish))?;
    job.parents = parents.count(&wish);
    let (id, state) = store(&job, conflict)?;
    if state == State::Waiting {
        parents.link(std::iter::once((id, &wish)))?;
    }
    announce(&job, state, id)?;
    if settings::eager() && state == State::Ready {
        run::eager(id)?;
    }
    Ok(id)
}

/// Whoever runs it hears of a job when it is committed.
fn announce(job: &NewJob, state: State, id: i64) -> Result<()> {
    let (hash, is_ready) = (names::hash(&job.queue), state == State::Ready);
    if is_ready {
        at_commit::touch_one(hash, id);
    } else {
        at_commit::touch_from(hash, id);
    }
    tell(&job.queue, is_ready)
}

/// Puts one job without a key, for which the caller has checked everything; its id.
pub(super) fn one(job: &NewJob) -> Result<i64> {
    let (id, state) = store(job, OnConflict::Keep)?;
    announce(job, state, id)?;
    Ok(id)
}

fn checked_group(group: Option<&str>) -> Result<Option<&str>> {
    match group {
        Some(g) if g.is_empty() || encoding::length(g) > MAX_KEY => Err(Error::argument(
            format!("invalid group_key of {} bytes", encoding::length(g)),
            format!("A group_key has 1 to {MAX_KEY} bytes; use a digest of longer ones: md5(...)."),
        )),
        other => Ok(other),
    }
}

fn checked_key(key: Option<&str>) -> Result<Option<&str>> {
    match key {
        Some(k) if k.is_empty() || encoding::length(k) > MAX_KEY => Err(Error::argument(
            format!("invalid key of {} bytes", encoding::length(k)),
            format!("A key has 1 to {MAX_KEY} bytes; use a digest of longer ones: md5(...)."),
        )),
        other => Ok(other),
    }
}

/// NULL args are JSON null; args too large are an error.
pub(super) fn sized(args: Option<Flat>) -> Result<Flat> {
    let args = match args {
        Some(args) => args,
        None => Flat::jsonb("null").ok_or_else(|| Error::Internal("null is no JSON".into()))?,
    };
    fits(i64::try_from(args.len()).unwrap_or(i64::MAX))?;
    Ok(args)
}

fn fits(bytes: i64) -> Result<()> {
    let limit = settings::max_args_size();
    if bytes > limit {
        return Err(Error::ArgsTooLarge { bytes, limit });
    }
    Ok(())
}

/// Its id, and its state; that of a job whose key another has is when it is due.
fn store(job: &NewJob, conflict: OnConflict) -> Result<(i64, State)> {
    if let Some(key) = &job.key {
        key::lock(&job.queue, key, true);
        let waiting = match conflict {
            OnConflict::Replace => key::replace(key, job)?,
            OnConflict::Keep | OnConflict::Error => key::keep(&job.queue, key)?,
        };
        match waiting {
            Some(id) if conflict == OnConflict::Error => {
                return Err(Error::DuplicateKey { queue: job.queue.clone(), key: key.clone(), id })
            }
            Some(id) => return Ok((id, job.state)),
            None => {}
        }
    }
    let state = if job.parents > 0 { State::Waiting } else { Placing::default().place(job)? };
    let id = if state == job.state { insert::put(job)? } else { insert::put(&NewJob { state, ..job.clone() })? };
    numbers::changed(&job.queue, Fact::Live(state), 1);
    Ok((id, state))
}

/// The workers are woken at commit. Where there are none to be had, and only there, workers outside are told by this
/// transaction itself.
fn tell(queue: &str, ready: bool) -> Result<()> {
    let looked_after = settings::enabled() && at_commit::ensure_workers();
    if ready && !looked_after && counts::notifies(queue)? {
        counts::notify(&[Some(queue.into())])?;
    }
    Ok(())
}

/// One element of bulk_put's `jobs`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Element<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    args: Option<&'a RawValue>,
    priority: Option<i32>,
    execute_at: Option<String>,
    delay: Option<String>,
    task: Option<String>,
    key: Option<String>,
    max_attempts: Option<i32>,
    group_key: Option<String>,
    after: Option<Vec<Option<i64>>>,
    after_failure: Option<String>,
    flow: Option<i64>,
}

/// args that are there, even as null: JSON null, as in put.
fn given<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn bulk_put_jobs(
    queue: Option<Text>,
    jobs: Option<Flat>,
    args: Option<Elements<'_>>,
    priority: Option<i32>,
    execute_at: Option<TimestampWithTimeZone>,
    delay: Option<Interval>,
    task: Option<Text>,
    group_key: Option<Text>,
    after: Option<Vec<Option<i64>>>,
    after_failure: Option<Text>,
    flow: Option<i64>,
) -> std::result::Result<SetOfIterator<'static, i64>, ErrorReport> {
    let queue = queue.as_deref();
    let task = task.as_deref();
    let queue = check::queue(queue)?;
    rights::need(Access::Produce, queue)?;
    let (due, state) = check::due(execute_at, delay)?;
    let like = NewJob {
        queue: queue.into(),
        task: check::task(task)?.map(Into::into),
        args: Flat::jsonb("{}").ok_or_else(|| Error::Internal("{} is no JSON".into()))?,
        priority: priority.unwrap_or(0),
        execute_at: due.0,
        state,
        key: None,
        max_attempts: None,
        group: checked_group(group_key.as_deref())?.map(Into::into),
        flow: flows::join(flow)?,
        parents: 0,
    };
    let wish = Wish::new(after, after_failure.as_deref())?;
    let (ids, ready) = match (jobs, args) {
        (None, Some(args)) => (put_args_after(like, &wish, &args)?, state == State::Ready),
        (Some(jobs), None) => put_jobs(&(like, wish), &jobs)?,
        _ => {
            return Err(Error::argument(
                "exactly one of \"jobs\" and \"args\" must be given",
                "SELECT pgq.bulk_put('mail', args => array(SELECT jsonb_build_object('to', id) FROM users))",
            )
            .into())
        }
    };
    if !ids.is_empty() {
        at_commit::touch_from(names::hash(queue), ids.iter().copied().min().unwrap_or(i64::MIN));
        tell(queue, ready)?;
    }
    Ok(SetOfIterator::new(ids))
}

/// Puts one ready job per element of `args`, the rest from `like`, for which the caller has checked everything.
pub(super) fn many(like: &NewJob, args: &Elements<'_>) -> Result<()> {
    let ids = put_args(like, args)?;
    if let Some(first) = ids.iter().min() {
        at_commit::touch_from(names::hash(&like.queue), *first);
        tell(&like.queue, true)?;
    }
    Ok(())
}

/// The same, each of them after others.
fn put_args_after(mut like: NewJob, wish: &Wish, args: &Elements<'_>) -> Result<Vec<i64>> {
    let parents = Parents::of(std::iter::once(wish))?;
    like.parents = parents.count(wish);
    if like.parents > 0 {
        like.state = State::Waiting;
    }
    let ids = put_args(&like, args)?;
    parents.link(ids.iter().map(|id| (*id, wish)))?;
    Ok(ids)
}

fn put_args(like: &NewJob, args: &Elements<'_>) -> Result<Vec<i64>> {
    let mut largest = 0;
    for element in args.iter() {
        let element = element.ok_or_else(|| {
            Error::argument("\"args\" must not have NULL elements", "Use 'null'::jsonb for JSON null.")
        })?;
        largest = largest.max(element.len());
    }
    fits(i64::try_from(largest).unwrap_or(i64::MAX))?;
    if like.group.is_some() {
        return put_grouped(like, args);
    }
    let ids = insert::bulk_put_args(like, args, 0..usize::MAX)?;
    numbers::changed_by(&like.queue, Fact::Live(like.state), ids.len());
    Ok(ids)
}

/// The same of one group: the first stands at its head, if nobody does, and the others behind.
fn put_grouped(like: &NewJob, args: &Elements<'_>) -> Result<Vec<i64>> {
    let (mut placing, all) = (Placing::default(), args.iter().count());
    let mut first = 0;
    while first < all && placing.place(like)? != State::Waiting {
        first += 1;
    }
    let mut ids = insert::bulk_put_args(like, args, 0..first)?;
    let behind = NewJob { state: State::Waiting, ..like.clone() };
    ids.extend(insert::bulk_put_args(&behind, args, first..all)?);
    numbers::changed_by(&like.queue, Fact::Live(like.state), first);
    numbers::changed_by(&like.queue, Fact::Live(State::Waiting), all - first);
    Ok(ids)
}

/// Puts the elements of `jobs`; the ids, and whether one is ready at once.
fn put_jobs(like: &Wished, jobs: &Flat) -> Result<(Vec<i64>, bool)> {
    let text = jobs.json_text();
    let raw: Vec<&RawValue> = serde_json::from_str(&text).map_err(|_| misshapen("It is no array.".into()))?;
    let (mut all, mut wishes) = (Vec::with_capacity(raw.len()), Vec::with_capacity(raw.len()));
    for (n, raw) in raw.iter().enumerate() {
        let element = element(raw).map_err(|why| misshapen(format!("Element {}: {why}.", n + 1)))?;
        let (mut job, wish) = checked(like, &element).map_err(|e| located(e, n + 1))?;
        // As they are in the jsonb: their text would have to be parsed once more.
        if let Some(args) = jobs.member(n, c"args") {
            job.args = args;
        }
        all.push(job);
        wishes.push(wish);
    }
    let parents = Parents::of(wishes.iter())?;
    all.iter_mut().zip(&wishes).for_each(|(job, wish)| job.parents = parents.count(wish));
    let ready = all.iter().any(|job| job.state == State::Ready && job.parents == 0);
    if all.iter().any(|job| job.key.is_some()) {
        let stored: Vec<(i64, State)> = all.iter().map(|job| store(job, OnConflict::Keep)).collect::<Result<_>>()?;
        let new = stored.iter().zip(&wishes).filter(|(job, _)| job.1 == State::Waiting);
        parents.link(new.map(|(job, wish)| (job.0, wish)))?;
        return Ok((stored.into_iter().map(|job| job.0).collect(), ready));
    }
    let ids = put_plain(&mut all)?;
    parents.link(ids.iter().copied().zip(&wishes))?;
    Ok((ids, ready))
}

/// Puts jobs of one queue, none of which has a key.
fn put_plain(all: &mut [NewJob]) -> Result<Vec<i64>> {
    let mut placing = Placing::default();
    for job in all.iter_mut() {
        job.state = if job.parents > 0 { State::Waiting } else { placing.place(job)? };
    }
    let ids = insert::bulk_put(all)?;
    let Some(first) = all.first() else { return Ok(ids) };
    for state in [State::Ready, State::Scheduled, State::Waiting] {
        let jobs = all.iter().filter(|job| job.state == state).count();
        numbers::changed_by(&first.queue, Fact::Live(state), jobs);
    }
    Ok(ids)
}

/// Reads one element; or what is wrong with it, without its args.
fn element(raw: &RawValue) -> std::result::Result<Element<'_>, String> {
    if !raw.get().starts_with('{') {
        return Err("it is no object".into());
    }
    serde_json::from_str(raw.get()).map_err(|e| {
        let text = e.to_string();
        // Where in the text it stands says nothing to whoever gave a jsonb.
        text.split(" at line ").next().unwrap_or(&text).into()
    })
}

fn misshapen(detail: String) -> Error {
    Error::Argument {
        message: "invalid element in \"jobs\"".into(),
        detail: Some(detail),
        hint: "jobs is an array of objects with the keys args, priority, execute_at, delay, task, key, \
               max_attempts, group_key, after, after_failure and flow; wrap your own data: [{\"args\": {\"to\": 1}}]"
            .into(),
    }
}

/// Says which element an error is about.
fn located(error: Error, number: usize) -> Error {
    let place = Some(format!("It is element {number} of \"jobs\"."));
    match error {
        Error::Argument { message, hint, .. } => Error::Argument { message, detail: place, hint },
        Error::Unreadable { is_range, message, hint, .. } => {
            Error::Unreadable { is_range, message, detail: place, hint }
        }
        other => other,
    }
}

/// An element as a job, with the args of `like`.
fn checked((like, wish): &Wished, element: &Element<'_>) -> Result<Wished> {
    let mut job = like.clone();
    if element.execute_at.is_some() || element.delay.is_some() {
        let at = element.execute_at.as_deref().map(clock::parse_moment).transpose()?;
        let delay = element.delay.as_deref().map(clock::parse_interval).transpose()?;
        let (due, state) = check::due(at, delay)?;
        let Micros(at) = due;
        job.execute_at = at;
        job.state = state;
    }
    if let Some(task) = &element.task {
        job.task = check::task(Some(task))?.map(Into::into);
    }
    job.priority = element.priority.unwrap_or(like.priority);
    job.key = checked_key(element.key.as_deref())?.map(Into::into);
    job.max_attempts = check::at_least_one("max_attempts", element.max_attempts)?;
    if element.group_key.is_some() {
        job.group = checked_group(element.group_key.as_deref())?.map(Into::into);
    }
    if element.flow.is_some() && element.flow != like.flow {
        job.flow = flows::join(element.flow)?;
    }
    let text = element.args.map_or("{}", RawValue::get);
    fits(i64::try_from(encoding::length(text)).unwrap_or(i64::MAX))?;
    Ok((job, wish.or(element.after.clone(), element.after_failure.as_deref())?))
}
