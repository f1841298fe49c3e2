//! Claiming without the SQL executor: a walk along the ready jobs from where they were handed out (`pg::positions`), and
//! their removal under the same snapshot (`pg::scan`). `claim::take` is the same as a statement: what tests compare
//! with, and what claims where the index cannot be used.
//!
//! A walk begins at the remembered positions, takes the snapshot, collects candidates, says how far it came, and only
//! then removes them: so an executor that comes meanwhile begins behind these, and the two do not visit each other's
//! rows. A row that somebody else has is passed by. Who gives rows back says so (`given_back`, `at_commit::touch`);
//! what nobody said is found by the look from the very start (`find_missed`), which is the only guarantee.

use crate::engine::levels::{self, Level};
use crate::engine::names;
use crate::engine::state::State;
use crate::error::Result;
use crate::pg::positions::{Begun, Key};
use crate::pg::scan::{Field, Found, Jobs, Place, Range, Walk};
use crate::pg::shmem::{self, Shared};
use crate::pg::spi::{Arg, Statement, Type};
use crate::pg::{at_commit, clock, database};
use crate::store::row::{Handler, Job};
use crate::store::{claim, groups, numbers};

fn key(queue: &str, task: Option<&str>) -> Key {
    Key::new(database::current(), names::hash(queue), task.map(names::hash))
}

/// Index: primary key of queue_setting; locks nothing.
static PAUSED: Statement =
    Statement::new("SELECT true FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused", &[Type::Text]);

/// Takes up to `n` jobs of a handler's (queue, task), best first, but none in quarantine and none of `except`; up to
/// `follow` of them may be such as follow one of these in its group. The paused flag is looked at once.
pub fn take(queue: &str, task: Option<&str>, n: usize, follow: usize, except: &[i64]) -> Result<Vec<Job>> {
    let Some(shared) = shmem::shared() else { return claim::take(queue, task, n, except) };
    if PAUSED.row(&[Arg::Text(queue)], |row| row.must::<bool>(1))?.is_some() {
        return Ok(Vec::new());
    }
    for _ in 0..TRIES {
        let Some((taken, seen)) = walk_and_take(shared, queue, task, (n, follow), except)? else {
            return claim::take(queue, task, n, except);
        };
        if !taken.is_empty() || seen == 0 {
            numbers::taken(&taken);
            return Ok(taken);
        }
    }
    Ok(Vec::new())
}

/// Two that begin at the same moment begin at the same place, and the slower of them comes away with nothing: he tries
/// again, from where the other one came to.
const TRIES: usize = 3;

/// One walk: what it took, and how many it had seen. `None` where the index cannot be used.
fn walk_and_take(
    shared: &Shared,
    queue: &str,
    task: Option<&str>,
    (n, follow): (usize, usize),
    except: &[i64],
) -> Result<Option<(Vec<Job>, usize)>> {
    let key = key(queue, task);
    // Before the snapshot.
    let begun = shared.begin_walk(key);
    let Some(jobs) = Jobs::open(true)? else {
        begun.iter().for_each(Begun::give_back);
        return Ok(None);
    };
    jobs.of(queue, task);
    let mut candidates: Vec<(Place<'_>, Job)> = Vec::with_capacity(n.min(1_024));
    let mut grouped = 0;
    let met = along(&jobs, &begun, |row| {
        if !row.is_of(task) || row.must::<bool>(Field::Quarantined)? || row.is_held() {
            return Ok(Seen::Passed);
        }
        if except.contains(&row.must(Field::Id)?) {
            return Ok(Seen::Left);
        }
        let job = Job::of_row(row, queue, task)?;
        grouped += usize::from(job.group.is_some());
        candidates.push((row.place(), job));
        Ok(if candidates.len() < n && grouped < groups::AT_ONCE { Seen::Passed } else { Seen::Last })
    })?;
    met.iter().for_each(|priority| shared.make_position(key, *priority));
    let seen = candidates.len();
    let taken = if grouped == 0 {
        jobs.delete(candidates)
    } else {
        let (mut taken, one_by_one) = in_turn(queue, &jobs, candidates)?;
        let follow = if one_by_one { follow.min(n - taken.len()) } else { 0 };
        taken.extend(behind(&jobs, &taken, (queue, task), follow, except)?);
        taken
    };
    jobs.close();
    Ok(Some((taken, seen)))
}

/// Removes those whose turn it is in their group, and those that have none; and do groups run one by one?
fn in_turn<'jobs>(
    queue: &str,
    jobs: &'jobs Jobs,
    mut candidates: Vec<(Place<'jobs>, Job)>,
) -> Result<(Vec<Job>, bool)> {
    let grouped: Vec<(i64, &str)> =
        candidates.iter().filter_map(|(_, job)| job.group.as_deref().map(|group| (job.id, group))).collect();
    let (admitted, turns) = groups::admit(queue, &grouped)?;
    candidates.retain(|(_, job)| job.group.is_none() || admitted.contains(&job.id));
    let (taken, one_by_one) = (jobs.delete(candidates), turns.one_by_one);
    turns.over();
    Ok((taken, one_by_one))
}

/// Takes what follows these jobs in their groups, up to `most` in all: as far as it may run now, is of the same task,
/// and nobody has it. First the next of each group, then the ones after.
fn behind(
    jobs: &Jobs,
    first: &[Job],
    (queue, task): (&str, Option<&str>),
    most: usize,
    except: &[i64],
) -> Result<Vec<Job>> {
    let groups: Vec<(String, i64)> =
        first.iter().filter_map(|job| job.group.clone().map(|group| (group, job.id))).collect();
    let each = most / groups.len().max(1);
    if each == 0 {
        return Ok(Vec::new());
    }
    let (now, mut found): (i64, Vec<(Place<'_>, Job)>) = (clock::now(), Vec::new());
    let (mut group, mut of_group) = (None, 0);
    jobs.walk_behind(&groups, |row| {
        let own: Option<String> = row.get(Field::GroupKey);
        of_group = if own == group { of_group + 1 } else { 0 };
        group = own;
        let may_run = row.must::<i32>(Field::Parents)? == 0
            && row.must::<i64>(Field::ExecuteAt)? <= now
            && !row.must::<bool>(Field::Quarantined)?
            && row.has_task(task)
            && !row.is_held()
            && !except.contains(&row.must(Field::Id)?);
        if of_group >= each || !may_run {
            return Ok(Walk::Stop);
        }
        found.push((row.place(), Job { state: State::Waiting, ..Job::of_row(row, queue, task)? }));
        Ok(Walk::On)
    })?;
    let mut taken: Vec<(usize, Job)> = Vec::new();
    let (mut round, mut broken, mut last) = (0, false, None);
    for (place, job) in found {
        let same = last == job.group;
        (round, broken) = if same { (round + 1, broken) } else { (0, false) };
        last = job.group.clone();
        // One that somebody else has ends its group.
        match if broken { None } else { jobs.delete(vec![(place, job)]).pop() } {
            Some(job) => taken.push((round, job)),
            None => broken = true,
        }
    }
    taken.sort_by_key(|(round, job)| (*round, job.id));
    Ok(taken.into_iter().map(|(_, job)| job).collect())
}

/// What a walk does with a row.
enum Seen {
    /// It is done with, and the walk goes on.
    Passed,
    /// The same, and the walk ends.
    Last,
    /// It stays for the next walk, and this one goes on.
    Left,
    /// It stays for the next walk, and this one ends.
    Stay,
}

/// Walks along the pieces in turn until it ends, and tells the positions how far it came. The priorities that were met
/// without a position.
fn along<'jobs>(
    jobs: &'jobs Jobs,
    begun: &[Begun<'_>],
    mut visit: impl FnMut(&Found<'jobs>) -> Result<Seen>,
) -> Result<Vec<i32>> {
    let known: Vec<Level> = begun.iter().map(|b| Level { priority: b.priority, from: b.from() }).collect();
    let mut met: Vec<i32> = Vec::new();
    let mut over = false;
    for piece in levels::pieces(&known) {
        let level = piece.level.and_then(|at| begun.get(at));
        if over {
            level.into_iter().for_each(Begun::give_back);
            continue;
        }
        let (mut came, mut left) = (piece.from, None);
        let whole = jobs.walk(Range { most: piece.most, least: piece.least, from: piece.from }, |row| {
            let id: i64 = row.must(Field::Id)?;
            if level.is_none() {
                let priority = row.must(Field::Priority)?;
                if met.last() != Some(&priority) {
                    met.push(priority);
                }
            }
            let seen = visit(row)?;
            came = if matches!(seen, Seen::Stay) { id } else { id.saturating_add(1) };
            if matches!(seen, Seen::Left) {
                left = left.or(Some(id));
            }
            Ok(if matches!(seen, Seen::Last | Seen::Stay) { Walk::Stop } else { Walk::On })
        })?;
        if let Some(level) = level {
            level.came(came, whole);
            left.into_iter().for_each(|id| level.lower(id));
        }
        over = !whole;
    }
    Ok(met)
}

/// Who counts remembers where he came to only after a walk over so many rows: past the jobs of other tasks.
const LONG: usize = 1_000;

/// Counts the jobs of each handler that may run now and that nobody has, up to `bound`, into `Handler::ready`.
pub fn count(handlers: &mut [Handler], bound: i64) -> Result<()> {
    let Some(shared) = shmem::shared() else { return count_by_statement(handlers, bound) };
    // Before the snapshot.
    let begun: Vec<Vec<Begun<'_>>> =
        handlers.iter().map(|h| shared.begin_walk(key(&h.queue, h.task.as_deref()))).collect();
    let Some(jobs) = Jobs::open(false)? else {
        begun.iter().flatten().for_each(Begun::give_back);
        return count_by_statement(handlers, bound);
    };
    for (handler, begun) in handlers.iter_mut().zip(&begun) {
        jobs.of(&handler.queue, handler.task.as_deref());
        let (mut ready, mut visited) = (0, 0);
        let met = along(&jobs, begun, |row| {
            visited += 1;
            if !row.is_of(handler.task.as_deref()) || row.is_held() {
                return Ok(Seen::Passed);
            }
            ready += 1;
            Ok(if ready < bound { Seen::Left } else { Seen::Stay })
        })?;
        handler.ready = ready;
        if visited > LONG {
            let key = key(&handler.queue, handler.task.as_deref());
            met.iter().for_each(|priority| shared.make_position(key, *priority));
        }
    }
    jobs.close();
    Ok(())
}

/// Index: job_ready_idx, at most $3 entries; locks nothing.
static COUNT: Statement = Statement::by_index(
    "SELECT pg_catalog.count(*) FROM (
        SELECT FROM pgq.job AS j
         WHERE j.queue = $1 AND j.state = 'ready' AND j.task IS NOT DISTINCT FROM $2 LIMIT $3) AS bounded",
    &[Type::Text, Type::Text, Type::Bigint],
);

/// The same where the index cannot be used directly: with those that somebody has.
fn count_by_statement(handlers: &mut [Handler], bound: i64) -> Result<()> {
    for handler in handlers {
        let args = [Arg::Text(&handler.queue), Arg::text(handler.task.as_deref()), Arg::Bigint(bound)];
        handler.ready = COUNT.row(&args, |row| row.must(1))?.unwrap_or(0);
    }
    Ok(())
}

/// Looks from the very start for jobs that may run and that the positions have passed: locked by somebody who let them
/// go, or of a transaction that told nobody. The next walk begins with them. How many were found.
pub fn find_missed(handlers: &[Handler]) -> Result<usize> {
    let Some(shared) = shmem::shared() else { return Ok(0) };
    let positions: Vec<Vec<Begun<'_>>> =
        handlers.iter().map(|h| shared.positions(key(&h.queue, h.task.as_deref()))).collect();
    let Some(jobs) = Jobs::open(false)? else { return Ok(0) };
    let mut found = 0;
    for (handler, levels) in handlers.iter().zip(&positions) {
        jobs.of(&handler.queue, handler.task.as_deref());
        for level in levels {
            let range = Range { most: level.priority, least: level.priority, from: i64::MIN };
            jobs.walk(range, |row| {
                let id: i64 = row.must(Field::Id)?;
                if id >= level.next() {
                    return Ok(Walk::Stop);
                }
                if !row.is_of(handler.task.as_deref()) || row.is_held() {
                    return Ok(Walk::On);
                }
                level.lower(id);
                found += 1;
                Ok(Walk::Stop)
            })?;
        }
    }
    jobs.close();
    Ok(found)
}

/// This transaction makes a job ready again: the next walks begin with it, in this transaction and when it has
/// committed.
pub fn returns(queue: &str, id: i64) {
    given_back(queue, id);
    at_commit::give_back(names::hash(queue), id);
}

/// Jobs of a queue from this id on, which this process had taken, are there again.
pub fn given_back(queue: &str, from: i64) {
    if let Some(shared) = shmem::shared() {
        shared.lower(database::current(), names::hash(queue), from);
    }
}
