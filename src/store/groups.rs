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
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::engine::deltas::Fact;
use crate::engine::groups::{admits, Member, Rule};
use crate::engine::names;
use crate::engine::state::State;
use crate::error::Result;
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::pg::{at_commit, clock, extension, xact};
use crate::store::insert::NewJob;
use crate::store::row::Job;
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
    // Whoever walks along the ready jobs until we end passes those by that we have locked.
    if let Some(last) = LAST_WAITING.row(&args, |row| row.must::<i64>(1))? {
        at_commit::holds(names::hash(queue), last);
        return Ok(0);
    }
    let most = i64::from(rule.running);
    let args = [Arg::Text(queue), Arg::Text(group), Arg::Bigint(most), Arg::Bool(rule.passes)];
    let first: Vec<i64> = FIRST_ONES.rows(&args, |row| row.must(1))?;
    if let Some(lowest) = first.iter().min() {
        at_commit::holds(names::hash(queue), *lowest);
    }
    Ok(most - i64::try_from(first.len()).unwrap_or(most))
}

/// Groups whose locks are held: from the look whose turn it is until its row is taken.
#[must_use]
pub struct Turns {
    locks: Vec<u32>,
    /// One at a time: so what follows one of these jobs may run behind it.
    pub one_by_one: bool,
}

impl Turns {
    /// The rows are taken, or not wanted.
    pub fn over(self) {
        for lock in self.locks {
            extension::unlock_group(lock);
        }
    }
}

/// Index: job_group_idx, a few entries for each group; locks nothing. Under the newest snapshot.
static MEMBERS: Statement = Statement::by_index(
    "SELECT g.at, j.id, j.state, j.attempt
       FROM pg_catalog.unnest($2) WITH ORDINALITY AS g (key, at)
       JOIN pgq.job AS j ON j.queue = $1 AND j.group_key = g.key AND j.group_key IS NOT NULL AND j.state <> 'waiting'",
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
    Ok((admitted, Turns { locks: kept.into_iter().collect(), one_by_one: rule.running == 1 }))
}

/// Is it this job's turn? `None` when it waits for others.
pub fn turn_of(job: &Job) -> Result<Option<Turns>> {
    if job.parents > 0 || job.state == State::Waiting {
        return Ok(None);
    }
    let Some(group) = &job.group else { return Ok(Some(Turns { locks: Vec::new(), one_by_one: false })) };
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
    let wanted = usize::try_from(n).unwrap_or(AT_ONCE).min(AT_ONCE);
    let (mut most, mut known) = (n.saturating_add(i64::try_from(AT_ONCE).unwrap_or(0)), 0);
    loop {
        let found = candidates(most)?;
        let grouped = |job: &'_ (i64, Option<String>)| job.1.clone().map(|group| (job.0, group));
        let news: Vec<(i64, String)> = found.iter().skip(known).filter_map(grouped).collect();
        let free = found.iter().filter(|job| job.1.is_none()).count();
        // The best ones first: a claim of one job need not look at 64 groups.
        for part in news.chunks(wanted.clamp(4, AT_ONCE)) {
            let part: Vec<(i64, &str)> = part.iter().map(|(id, group)| (*id, group.as_str())).collect();
            let (ids, turn) = admit(queue, &part)?;
            admitted.extend(ids);
            turns.push(turn);
            if admitted.len() >= wanted {
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

/// Index: job_pkey; locks those that nobody has.
static UNTAKEN: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j WHERE j.id = ANY ($1) AND j.state <> 'leased' FOR KEY SHARE SKIP LOCKED",
    &[Type::Bigints],
);

/// Is it this job's turn? Where it depends on whether somebody's transaction has others of the group, they are tried to
/// be locked, for that moment only: this is rare, because as a rule the others are waiting.
fn turn(members: &mut [Member], id: i64, rule: Rule) -> Result<bool> {
    let if_none_runs = admits(members, id, rule);
    let is_open = |m: &Member| m.id != id && !m.is_running;
    let others: Vec<i64> = members.iter().filter(|m| is_open(m)).map(|m| m.id).collect();
    if others.is_empty() {
        return Ok(if_none_runs);
    }
    let all: Vec<Member> = members.iter().map(|m| Member { is_running: m.is_running || is_open(m), ..*m }).collect();
    if if_none_runs == admits(&all, id, rule) {
        return Ok(if_none_runs);
    }
    let untaken = xact::undone(|| UNTAKEN.rows(&[Arg::Bigints(&others)], |row| row.must::<i64>(1)))?;
    members.iter_mut().filter(|m| others.contains(&m.id)).for_each(|m| m.is_running = !untaken.contains(&m.id));
    Ok(admits(members, id, rule))
}

thread_local! {
    /// Groups of which the present transaction took a job, with the first of these: none that waits comes before it.
    static LEFT: RefCell<BTreeMap<(String, String), i64>> = const { RefCell::new(BTreeMap::new()) };
}

/// This transaction has taken a job of the group, or `i64::MIN` for one that nobody knows: `pass_on` follows.
pub fn left(queue: &str, group: &str, id: i64) {
    LEFT.with_borrow_mut(|left| {
        left.entry((queue.into(), group.into())).and_modify(|first| *first = id.min(*first)).or_insert(id);
    });
}

/// Forgets what was left in a transaction that is over.
pub fn forget() {
    LEFT.with_borrow_mut(BTreeMap::clear);
}

/// Index: job_group_idx; locks nothing. How many stand at the head of each group ($3: one that failed lets the others
/// pass), and the first of them that is ready.
static HEADS: Statement = Statement::by_index(
    "SELECT f.heads, f.ready
       FROM pg_catalog.unnest($2) WITH ORDINALITY AS g (key, at),
            LATERAL (SELECT pg_catalog.count(*) FILTER (WHERE NOT ($3 AND h.state = 'scheduled' AND h.attempt > 0)) AS heads,
                            pg_catalog.min(h.id) FILTER (WHERE h.state = 'ready') AS ready
                       FROM pgq.job AS h
                      WHERE h.queue = $1 AND h.group_key = g.key AND h.group_key IS NOT NULL
                        AND h.state <> 'waiting') AS f
      ORDER BY g.at",
    &[Type::Text, Type::Texts, Type::Bool],
);

/// Index: job_waiting_idx, from behind the job $3 of each group: what was done before it has left entries there that
/// would have to be walked over. Locks the rows that it changes, skips those that somebody has. The first waiting jobs
/// of each group, as many as there is room for ($4).
static PROMOTE: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET state = CASE WHEN j.execute_at > $5 THEN 'scheduled' ELSE 'ready' END
      WHERE j.ctid = ANY (ARRAY(
            SELECT n.ctid
              FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) AS g (key, last, room),
                   LATERAL (SELECT w.ctid, w.parents FROM pgq.job AS w
                             WHERE w.queue = $1 AND w.group_key = g.key AND w.state = 'waiting' AND w.id > g.last
                             ORDER BY w.id LIMIT g.room FOR NO KEY UPDATE SKIP LOCKED) AS n
             WHERE n.parents = 0))
     RETURNING j.id, j.state, j.group_key",
    &[Type::Text, Type::Texts, Type::Bigints, Type::Bigints, Type::Time],
);

/// The groups of which this transaction took jobs go on with the next ones when it commits.
pub fn pass_on() -> Result<()> {
    let left = LEFT.take();
    let mut of_queue: Vec<(String, i64)> = Vec::new();
    let mut left = left.into_iter().peekable();
    while let Some(((queue, group), last)) = left.next() {
        of_queue.push((group, last));
        if left.peek().is_none_or(|next| next.0 .0 != queue) {
            go_on(&queue, std::mem::take(&mut of_queue))?;
        }
    }
    Ok(())
}

/// The next jobs of these groups of a queue become ready, where there is room.
fn go_on(queue: &str, groups: Vec<(String, i64)>) -> Result<()> {
    let rule = rule(queue)?;
    let keys: Vec<Option<String>> = groups.iter().map(|group| Some(group.0.clone())).collect();
    let args = [Arg::Text(queue), Arg::Texts(&keys), Arg::Bool(rule.passes)];
    let heads = HEADS.rows(&args, |row| Ok((row.must::<i64>(1)?, row.get::<i64>(2))))?;
    let most = i64::from(rule.running);
    let open: Vec<Open> = groups
        .into_iter()
        .zip(&heads)
        .filter(|(_, head)| head.0 < most)
        .map(|((group, last), head)| Open { group, last, room: most - head.0, is_empty: head.0 == 0 })
        .collect();
    let mut next = promote(queue, &open)?;
    // Where nothing follows, one may have come late, with a lower id.
    let again: Vec<Open> = open
        .into_iter()
        .filter(|open| open.is_empty && open.last > i64::MIN && !next.iter().any(|n| n.1 == open.group))
        .map(|open| Open { last: i64::MIN, ..open })
        .collect();
    next.extend(promote(queue, &again)?);
    let ready = next.iter().map(|n| n.0).chain(heads.iter().filter_map(|head| head.1)).min();
    if let Some(first) = ready {
        ready::returns(queue, first);
        // One that is not due has a time that the scheduler must know.
        at_commit::call_at_commit(names::hash(queue));
    }
    Ok(())
}

/// A group with room at its head.
struct Open {
    group: String,
    last: i64,
    room: i64,
    is_empty: bool,
}

/// Id and group of the jobs that are ready, or scheduled, now.
fn promote(queue: &str, open: &[Open]) -> Result<Vec<(i64, String)>> {
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Option<String>> = open.iter().map(|open| Some(open.group.clone())).collect();
    let last: Vec<i64> = open.iter().map(|open| open.last).collect();
    let room: Vec<i64> = open.iter().map(|open| open.room).collect();
    let args = [Arg::Text(queue), Arg::Texts(&keys), Arg::Bigints(&last), Arg::Bigints(&room), Arg::Time(clock::now())];
    let mut scheduled = 0;
    let next = PROMOTE.rows(&args, |row| {
        scheduled += usize::from(row.must::<String>(2)? == State::Scheduled.word());
        Ok((row.must(1)?, row.must(3)?))
    })?;
    numbers::changed(queue, Fact::Live(State::Waiting), -i64::try_from(next.len()).unwrap_or(0));
    numbers::changed_by(queue, Fact::Live(State::Ready), next.len() - scheduled);
    numbers::changed_by(queue, Fact::Live(State::Scheduled), scheduled);
    Ok(next)
}

/// Index: job_waiting_idx, one entry for each group that waits; locks nothing.
static WAITING_GROUPS: Statement = Statement::by_index(
    "WITH RECURSIVE walk AS (
        (SELECT j.queue, j.group_key, j.id, j.parents FROM pgq.job AS j
          WHERE j.state = 'waiting' AND j.group_key IS NOT NULL ORDER BY j.queue, j.group_key, j.id LIMIT 1)
        UNION ALL
        SELECT n.queue, n.group_key, n.id, n.parents FROM walk AS w,
               LATERAL (SELECT j.queue, j.group_key, j.id, j.parents FROM pgq.job AS j
                         WHERE j.state = 'waiting' AND j.group_key IS NOT NULL
                           AND (j.queue, j.group_key) > (w.queue, w.group_key)
                         ORDER BY j.queue, j.group_key, j.id LIMIT 1) AS n)
     SELECT w.queue, w.group_key, w.id FROM walk AS w
      WHERE w.parents = 0
        AND NOT EXISTS (SELECT FROM pgq.job AS h
                         WHERE h.queue = w.queue AND h.group_key = w.group_key AND h.group_key IS NOT NULL
                           AND h.state <> 'waiting' AND h.id < w.id)
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

/// Index: job_pkey; locks the row, or skips it.
static LET_GO: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET state = CASE WHEN j.execute_at > $2 THEN 'scheduled' ELSE 'ready' END
      WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND c.state = 'waiting' AND c.parents = 0 FOR NO KEY UPDATE SKIP LOCKED))
     RETURNING j.state",
    &[Type::Bigint, Type::Time],
);

/// Sets jobs going that wait although none of their group comes before them.
pub fn find_stranded() -> Result<()> {
    let read = |row: &Row| Ok((row.must::<String>(1)?, row.must::<i64>(3)?));
    for (queue, id) in WAITING_GROUPS.rows(&[Arg::Bigint(STRANDED)], read)? {
        let state: Option<String> = LET_GO.row(&[Arg::Bigint(id), Arg::Time(clock::now())], |row| row.must(1))?;
        if let Some(state) = state.and_then(|word| State::parse(&word)) {
            numbers::changed(&queue, Fact::Live(State::Waiting), -1);
            numbers::changed(&queue, Fact::Live(state), 1);
            ready::returns(&queue, id);
            at_commit::call_at_commit(names::hash(&queue));
        }
    }
    Ok(())
}
