//! Order within groups: of the jobs of one (queue, group) one runs at a time, in the order of their ids.
//!
//! The first of a group is ready (or scheduled, leased, taken by somebody's transaction); those behind it are `waiting`,
//! in none of the indexes that claims walk along. Three hands keep it so:
//!
//! * `place`, for whoever puts: a job is waiting when one of its group stands before it that nobody has taken, and that
//!   one is locked FOR KEY SHARE to the producer's commit. So it cannot be taken, and then finish, without seeing the
//!   new job: nobody waits for a job that is gone. A job that finds none such is ready, and may be the second: running
//!   jobs are not waited for.
//! * `admit`, for whoever takes: looks whether it is really this job's turn, under the newest snapshot and with the
//!   group's lock, which is held from the look until the rows are taken, and no longer. A row that is deleted by a
//!   transaction in progress is still visible to that look: it is the mark that somebody runs it. This, and nothing
//!   else, is what keeps the order.
//! * `pass_on`, for whoever had a job of the group: before its commit the next one becomes ready. An UPDATE of state is
//!   no change of a key, so it does not wait for producers. What slips through (a row that somebody had locked, a
//!   transaction that sees one moment only) is found by `find_stranded`, which the scheduler calls.
//!
//! Jobs of a lower id that are committed after a higher one ran are late: they run next.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use crate::engine::deltas::Fact;
use crate::engine::groups::{admits, Member, Rule};
use crate::engine::names;
use crate::engine::state::State;
use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};
use crate::pg::{at_commit, clock, extension};
use crate::store::insert::NewJob;
use crate::store::row::{job_columns, Job};
use crate::store::{numbers, ready};

/// Index: primary key of queue_setting; locks nothing.
static RULE: Statement = Statement::new(
    "SELECT COALESCE(s.group_running, 1), NOT COALESCE(s.group_holds, true)
       FROM pgq.queue_setting AS s WHERE s.queue = $1",
    &[Type::Text],
);

/// What a queue says about its groups.
pub fn rule(queue: &str) -> Result<Rule> {
    let found = RULE.row(&[Arg::Text(queue)], |row| Ok(Rule { running: row.must(1)?, passes: row.must(2)? }))?;
    Ok(found.unwrap_or_default())
}

/// Index: job_waiting_idx from the end of the group; locks one row that nobody has.
static LAST_WAITING: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j
      WHERE j.queue = $1 AND j.group_key = $2 AND j.state = 'waiting'
      ORDER BY j.id DESC LIMIT 1 FOR KEY SHARE SKIP LOCKED",
    &[Type::Text, Type::Text],
);

/// Index: job_group_idx; locks up to $3 rows that nobody has. Leased rows are their holders'. With $4 one that failed
/// lets the others pass.
static FIRST_ONES: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j
      WHERE j.queue = $1 AND j.group_key = $2 AND j.group_key IS NOT NULL AND j.state <> 'waiting'
        AND j.state <> 'leased' AND NOT ($4 AND j.state = 'scheduled' AND j.attempt > 0)
      ORDER BY j.id DESC LIMIT $3 FOR KEY SHARE SKIP LOCKED",
    &[Type::Text, Type::Text, Type::Bigint, Type::Bool],
);

/// Gives new jobs of one queue their places in their groups.
#[derive(Default)]
pub struct Placing {
    rule: Option<Rule>,
    /// How many more of a group may stand at its head.
    room: HashMap<String, i64>,
}

impl Placing {
    /// The state in which a new job begins.
    pub fn place(&mut self, job: &NewJob) -> Result<State> {
        let Some(group) = &job.group else { return Ok(job.state) };
        if job.state == State::Waiting {
            return Ok(State::Waiting);
        }
        let rule = match self.rule {
            Some(rule) => rule,
            None => *self.rule.insert(self::rule(&job.queue)?),
        };
        let room = match self.room.get_mut(group) {
            Some(room) => room,
            None => self.room.entry(group.clone()).or_insert(room(&job.queue, group, rule)?),
        };
        *room -= 1;
        Ok(if *room >= 0 { job.state } else { State::Waiting })
    }
}

/// How many jobs of a group may be put at its head.
fn room(queue: &str, group: &str, rule: Rule) -> Result<i64> {
    let args = [Arg::Text(queue), Arg::Text(group)];
    if LAST_WAITING.row(&args, |row| row.must::<i64>(1))?.is_some() {
        return Ok(0);
    }
    let most = i64::from(rule.running);
    let args = [Arg::Text(queue), Arg::Text(group), Arg::Bigint(most), Arg::Bool(rule.passes)];
    let first: Vec<i64> = FIRST_ONES.rows(&args, |row| row.must(1))?;
    // Whoever walks along the ready jobs until our commit passes them by.
    if let Some(lowest) = first.iter().min() {
        at_commit::give_back(names::hash(queue), *lowest);
    }
    Ok(most - i64::try_from(first.len()).unwrap_or(most))
}

/// Groups whose locks are held: from the look whose turn it is until its row is taken.
#[must_use]
pub struct Turns {
    locks: Vec<u32>,
}

impl Turns {
    /// The rows are taken, or not wanted.
    pub fn over(self) {
        for lock in self.locks {
            extension::unlock_group(lock);
        }
    }
}

/// Index: job_group_idx and job_waiting_idx, a few entries for each group; locks nothing. Under the newest snapshot.
static MEMBERS: Statement = Statement::by_index(
    "SELECT g.at, m.id, m.state, m.attempt
       FROM pg_catalog.unnest($2) WITH ORDINALITY AS g (key, at),
            LATERAL ((SELECT j.id, j.state, j.attempt FROM pgq.job AS j
                       WHERE j.queue = $1 AND j.group_key = g.key AND j.group_key IS NOT NULL AND j.state <> 'waiting'
                       ORDER BY j.id)
                     UNION ALL
                     (SELECT j.id, j.state, j.attempt FROM pgq.job AS j
                       WHERE j.queue = $1 AND j.group_key = g.key AND j.state = 'waiting'
                       ORDER BY j.id LIMIT 1)) AS m",
    &[Type::Text, Type::Texts],
);

/// Which of these jobs (id, group) may run now; of one group in the order of their ids. Until the `Turns` are over
/// nobody else asks about their groups.
pub fn admit(queue: &str, jobs: &[(i64, &str)]) -> Result<(BTreeSet<i64>, Turns)> {
    let groups: BTreeSet<&str> = jobs.iter().map(|(_, group)| *group).collect();
    let lock = |group: &str| names::fold(&format!("{queue}\u{1}{group}"));
    // In one order, so that two who look do not wait for each other.
    let all: BTreeSet<u32> = groups.iter().map(|group| lock(group)).collect();
    all.iter().for_each(|lock| extension::lock_group(*lock));
    let rule = rule(queue)?;
    let keys: Vec<Option<String>> = groups.iter().map(|group| Some((*group).into())).collect();
    let mut members: Vec<Vec<Member>> = vec![Vec::new(); keys.len()];
    let args = [Arg::Text(queue), Arg::Texts(&keys)];
    MEMBERS.rows_now(&args, |row| {
        let at = usize::try_from(row.must::<i64>(1)?).unwrap_or(1);
        let state: String = row.must(3)?;
        let member = Member {
            id: row.must(2)?,
            is_running: state == State::Leased.word(),
            is_retry: state == State::Scheduled.word() && row.must::<i32>(4)? > 0,
        };
        if let Some(of_group) = members.get_mut(at.saturating_sub(1)) {
            of_group.push(member);
        }
        Ok(())
    })?;
    let (mut admitted, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for (group, members) in groups.iter().zip(&mut members) {
        let mut wanted: Vec<i64> = jobs.iter().filter(|job| job.1 == *group).map(|job| job.0).collect();
        wanted.sort_unstable();
        for id in wanted {
            if turn(members, id, rule)? {
                members.iter_mut().filter(|m| m.id == id).for_each(|m| m.is_running = true);
                admitted.insert(id);
                kept.insert(lock(group));
            }
        }
    }
    all.difference(&kept).for_each(|lock| extension::unlock_group(*lock));
    Ok((admitted, Turns { locks: kept.into_iter().collect() }))
}

/// Is it this job's turn, whatever its state? `None` when it waits for others.
pub fn turn_of(job: &Job) -> Result<Option<Turns>> {
    if job.parents > 0 {
        return Ok(None);
    }
    let Some(group) = &job.group else { return Ok(Some(Turns { locks: Vec::new() })) };
    let (admitted, turns) = admit(&job.queue, &[(job.id, group)])?;
    Ok(admitted.contains(&job.id).then_some(turns))
}

/// The most groups that one claim looks at together: each is a lock for a moment, and the server has not many.
pub const AT_ONCE: usize = 64;

/// Index: job_group_idx, one entry; locks nothing.
static ANY: Statement = Statement::by_index(
    "SELECT true FROM pgq.job AS j
      WHERE j.queue = $1 AND j.group_key IS NOT NULL AND j.state <> 'waiting' LIMIT 1",
    &[Type::Text],
);

/// Takes up to `n` jobs of a queue by a statement, which gets those jobs with a group whose turn it is.
/// `candidates` are the first so many jobs, by id and group, that it would take.
pub fn in_turn<T>(
    queue: &str,
    n: i64,
    mut candidates: impl FnMut(i64) -> Result<Vec<(i64, Option<String>)>>,
    take: impl FnOnce(&[i64]) -> Result<T>,
) -> Result<T> {
    if ANY.row(&[Arg::Text(queue)], |row| row.must::<bool>(1))?.is_none() {
        return take(&[]);
    }
    let (mut admitted, mut turns) = (Vec::new(), Vec::new());
    let (mut most, mut known) = (n.saturating_add(i64::try_from(AT_ONCE).unwrap_or(0)), 0);
    loop {
        let found = candidates(most)?;
        let grouped = |job: &'_ (i64, Option<String>)| job.1.clone().map(|group| (job.0, group));
        let news: Vec<(i64, String)> = found.iter().skip(known).filter_map(grouped).collect();
        let free = found.iter().filter(|job| job.1.is_none()).count();
        for part in news.chunks(AT_ONCE) {
            let part: Vec<(i64, &str)> = part.iter().map(|(id, group)| (*id, group.as_str())).collect();
            let (ids, turn) = admit(queue, &part)?;
            admitted.extend(ids);
            turns.push(turn);
            if admitted.len() >= AT_ONCE {
                break;
            }
        }
        let enough = i64::try_from(admitted.len() + free).unwrap_or(i64::MAX) >= n || admitted.len() >= AT_ONCE;
        if enough || i64::try_from(found.len()).unwrap_or(i64::MAX) < most {
            break;
        }
        (known, most) = (found.len(), most.saturating_mul(8));
    }
    let taken = take(&admitted)?;
    turns.into_iter().for_each(Turns::over);
    Ok(taken)
}

/// Index: job_waiting_idx, from the start of each group; locks the rows it deletes. What follows the jobs that this
/// transaction has taken of these groups, $4 of each at most: as far as it may run now, is of the same task, and nobody
/// has it. One that cannot be taken ends its group.
static FOLLOW: Statement = Statement::by_index(
    concat!(
        "WITH next AS MATERIALIZED (
            SELECT g.key, w.ctid AS place, w.id, w.fits
              FROM pg_catalog.unnest($2) AS g (key),
                   LATERAL (SELECT c.ctid, c.id,
                                   c.parents = 0 AND c.execute_at <= $6 AND NOT c.quarantined
                                     AND c.task IS NOT DISTINCT FROM $3 AND c.id <> ALL ($5) AS fits
                              FROM pgq.job AS c
                             WHERE c.queue = $1 AND c.group_key = g.key AND c.state = 'waiting'
                             ORDER BY c.id LIMIT $4) AS w),
         had AS MATERIALIZED (
            SELECT c.ctid AS place FROM pgq.job AS c
             WHERE c.ctid = ANY (ARRAY(SELECT n.place FROM next AS n)) FOR UPDATE SKIP LOCKED),
         fit AS (
            SELECT n.place, pg_catalog.bool_and(n.fits AND h.place IS NOT NULL) OVER (PARTITION BY n.key ORDER BY n.id) AS fits
              FROM next AS n LEFT JOIN had AS h ON h.place = n.place)
         DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(SELECT f.place FROM fit AS f WHERE f.fits))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Text, Type::Texts, Type::Text, Type::Bigint, Type::Bigints, Type::Time],
);

/// Takes what follows these jobs in their groups, up to `most` in all: first the next of each group, then the ones after.
pub fn follow(queue: &str, task: Option<&str>, heads: &[Job], most: usize, except: &[i64]) -> Result<Vec<Job>> {
    let groups: BTreeSet<&str> = heads.iter().filter_map(|job| job.group.as_deref()).collect();
    if groups.is_empty() || most == 0 {
        return Ok(Vec::new());
    }
    let each = i64::try_from(most / groups.len()).unwrap_or(0);
    let keys: Vec<Option<String>> = groups.into_iter().map(|group| Some(group.into())).collect();
    let args = [
        Arg::Text(queue),
        Arg::Texts(&keys),
        Arg::text(task),
        Arg::Bigint(each),
        Arg::Bigints(except),
        Arg::Time(clock::now()),
    ];
    if each == 0 {
        return Ok(Vec::new());
    }
    let mut jobs = FOLLOW.rows(&args, Job::read)?;
    numbers::taken(&jobs);
    jobs.sort_by(|a, b| (&a.group, a.id).cmp(&(&b.group, b.id)));
    let places: HashMap<i64, usize> = jobs
        .chunk_by(|a, b| a.group == b.group)
        .flat_map(|of_group| of_group.iter().enumerate().map(|(n, job)| (job.id, n)))
        .collect();
    jobs.sort_by_key(|job| (places.get(&job.id).copied(), job.id));
    Ok(jobs)
}

/// Index: job_pkey; locks those that nobody has.
static UNTAKEN: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j WHERE j.id = ANY ($1) AND j.state <> 'leased' FOR KEY SHARE SKIP LOCKED",
    &[Type::Bigints],
);

/// Is it this job's turn? Where it depends on whether somebody's transaction has others of the group, they are tried to
/// be locked: that is rare, because as a rule the others are waiting.
fn turn(members: &mut [Member], id: i64, rule: Rule) -> Result<bool> {
    let if_none_runs = admits(members, id, rule);
    let others: Vec<i64> = members.iter().filter(|m| m.id != id && !m.is_running).map(|m| m.id).collect();
    if others.is_empty() {
        return Ok(if_none_runs);
    }
    let all: Vec<Member> = members.iter().map(|m| Member { is_running: m.is_running || m.id != id, ..*m }).collect();
    if !if_none_runs && !admits(&all, id, rule) {
        return Ok(false);
    }
    let untaken = UNTAKEN.rows(&[Arg::Bigints(&others)], |row| row.must::<i64>(1))?;
    members.iter_mut().filter(|m| others.contains(&m.id)).for_each(|m| m.is_running = !untaken.contains(&m.id));
    Ok(admits(members, id, rule))
}

thread_local! {
    /// Groups of which the present transaction took a job.
    static LEFT: RefCell<BTreeSet<(String, String)>> = const { RefCell::new(BTreeSet::new()) };
}

/// This transaction has taken a job of the group: `pass_on` follows.
pub fn left(queue: &str, group: &str) {
    LEFT.with_borrow_mut(|left| left.insert((queue.into(), group.into())));
}

/// Forgets what was left in a transaction that is over.
pub fn forget() {
    LEFT.with_borrow_mut(BTreeSet::clear);
}

/// Index: job_group_idx and job_waiting_idx; locks the rows that it changes, skips those that somebody has. For each
/// group as many of its first waiting jobs as there is room at its head: $3 less those that nobody has taken.
static PASS_ON: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET state = CASE WHEN j.execute_at > $5 THEN 'scheduled' ELSE 'ready' END
      WHERE j.ctid = ANY (ARRAY(
            SELECT n.ctid
              FROM pg_catalog.unnest($2) AS g (key),
                   LATERAL (SELECT pg_catalog.count(*) AS heads FROM pgq.job AS h
                             WHERE h.queue = $1 AND h.group_key = g.key AND h.group_key IS NOT NULL
                               AND h.state <> 'waiting'
                               AND NOT ($4 AND h.state = 'scheduled' AND h.attempt > 0)) AS f,
                   LATERAL (SELECT w.ctid, w.parents FROM pgq.job AS w
                             WHERE w.queue = $1 AND w.group_key = g.key AND w.state = 'waiting'
                             ORDER BY w.id LIMIT GREATEST($3 - f.heads, 0) FOR NO KEY UPDATE SKIP LOCKED) AS n
             WHERE n.parents = 0))
     RETURNING j.id, j.state",
    &[Type::Text, Type::Texts, Type::Bigint, Type::Bool, Type::Time],
);

/// Index: job_group_idx; the first that is ready of each group; locks nothing.
static READY_ONES: Statement = Statement::by_index(
    "SELECT pg_catalog.min(n.id)
       FROM pg_catalog.unnest($2) AS g (key),
            LATERAL (SELECT h.id FROM pgq.job AS h
                      WHERE h.queue = $1 AND h.group_key = g.key AND h.group_key IS NOT NULL AND h.state <> 'waiting'
                        AND h.state = 'ready'
                      ORDER BY h.id LIMIT 1) AS n",
    &[Type::Text, Type::Texts],
);

/// The groups of which this transaction took jobs go on with the next ones when it commits.
pub fn pass_on() -> Result<()> {
    let left = LEFT.take();
    let mut of_queue: Vec<Option<String>> = Vec::new();
    let mut left = left.into_iter().peekable();
    while let Some((queue, group)) = left.next() {
        of_queue.push(Some(group));
        if left.peek().is_none_or(|next| next.0 != queue) {
            go_on(&queue, &std::mem::take(&mut of_queue))?;
        }
    }
    Ok(())
}

/// The next jobs of these groups of a queue become ready, where there is room.
fn go_on(queue: &str, groups: &[Option<String>]) -> Result<()> {
    let rule = rule(queue)?;
    let args = [
        Arg::Text(queue),
        Arg::Texts(groups),
        Arg::Bigint(rule.running.into()),
        Arg::Bool(rule.passes),
        Arg::Time(clock::now()),
    ];
    let next: Vec<(i64, String)> = PASS_ON.rows(&args, |row| Ok((row.must(1)?, row.must(2)?)))?;
    let ready_now = next.iter().filter(|(_, state)| state == State::Ready.word()).count();
    numbers::changed(queue, Fact::Live(State::Waiting), -i64::try_from(next.len()).unwrap_or(0));
    numbers::changed_by(queue, Fact::Live(State::Ready), ready_now);
    numbers::changed_by(queue, Fact::Live(State::Scheduled), next.len() - ready_now);
    let first = READY_ONES.row(&args[..2], |row| Ok(row.get::<i64>(1)))?.flatten();
    if let Some(first) = first {
        ready::returns(queue, first);
        at_commit::call_at_commit(names::hash(queue));
    } else if !next.is_empty() {
        // One with a time that the scheduler must know.
        at_commit::call_at_commit(names::hash(queue));
    }
    Ok(())
}

/// Index: job_waiting_idx, one entry for each group that waits; locks nothing.
static WAITING_GROUPS: Statement = Statement::by_index(
    "WITH RECURSIVE walk AS (
        (SELECT j.queue, j.group_key FROM pgq.job AS j
          WHERE j.state = 'waiting' AND j.group_key IS NOT NULL ORDER BY j.queue, j.group_key LIMIT 1)
        UNION ALL
        SELECT n.queue, n.group_key FROM walk AS w,
               LATERAL (SELECT j.queue, j.group_key FROM pgq.job AS j
                         WHERE j.state = 'waiting' AND j.group_key IS NOT NULL
                           AND (j.queue, j.group_key) > (w.queue, w.group_key)
                         ORDER BY j.queue, j.group_key LIMIT 1) AS n)
     SELECT w.queue, w.group_key FROM walk AS w
      WHERE NOT EXISTS (SELECT FROM pgq.job AS h
                         WHERE h.queue = w.queue AND h.group_key = w.group_key AND h.group_key IS NOT NULL
                           AND h.state <> 'waiting')
      LIMIT $1",
    &[Type::Bigint],
);

/// Index: job_group_idx, job_waiting_idx: the first entry of the group in each; locks nothing.
static HOLDER: Statement = Statement::by_index(
    "SELECT m.id FROM (
        (SELECT j.id FROM pgq.job AS j
          WHERE j.queue = $1 AND j.group_key = $2 AND j.group_key IS NOT NULL AND j.state <> 'waiting'
            AND j.id <> $3 AND (j.id < $3 OR j.state = 'leased')
          ORDER BY j.id LIMIT 1)
        UNION ALL
        (SELECT j.id FROM pgq.job AS j
          WHERE j.queue = $1 AND j.group_key = $2 AND j.state = 'waiting' AND j.id < $3
          ORDER BY j.id LIMIT 1)) AS m
      ORDER BY m.id LIMIT 1",
    &[Type::Text, Type::Text, Type::Bigint],
);

/// The job of a group that comes before job `id`.
pub fn holder(queue: &str, group: &str, id: i64) -> Result<Option<i64>> {
    HOLDER.row(&[Arg::Text(queue), Arg::Text(group), Arg::Bigint(id)], |row| row.must(1))
}

/// The most groups that one look sets going.
const STRANDED: i64 = 1_000;

/// Sets groups going that wait for nobody; were there any?
pub fn find_stranded() -> Result<bool> {
    let found =
        WAITING_GROUPS.rows(&[Arg::Bigint(STRANDED)], |row| Ok((row.must::<String>(1)?, row.must::<String>(2)?)))?;
    for (queue, group) in &found {
        left(queue, group);
    }
    pass_on()?;
    Ok(!found.is_empty())
}
