//! Handlers and the settings of queues; and the questions to the catalog that registering asks.

use pgrx::datum::Interval;

use crate::error::Result;
use crate::pg::database;
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::row::{handler_columns, is_held, Handler};
use crate::store::{arming, ready};

/// Index: armed_handler_pkey; locks nothing; handlers are few.
static HANDLERS: Statement = Statement::new(
    concat!(
        "SELECT ",
        handler_columns!(),
        is_held!("$3"),
        ", 0::bigint
           FROM pgq.handler AS h LEFT JOIN pgq.queue_setting AS s ON s.queue = h.queue
          WHERE ($1 = 0::pg_catalog.oid OR h.run_as_oid = $1) AND ($2 OR NOT COALESCE(s.paused, false))"
    ),
    &[Type::Oid, Type::Bool, Type::Oid],
);

/// The handlers of a role (0: of all), with their ready jobs counted up to `bound`; with bound 0 uncounted, and those
/// of paused queues too. Whether they may run is `store::parking`'s to say.
pub fn handlers(role: u32, bound: i64) -> Result<Vec<Handler>> {
    let args = [Arg::Oid(role), Arg::Bool(bound == 0), Arg::Oid(database::current())];
    let mut handlers = HANDLERS.rows(&args, Handler::read)?;
    if bound > 0 {
        ready::count(&mut handlers, bound)?;
    }
    Ok(handlers)
}

/// Index: handler_queue_task_key, armed_handler_pkey; locks nothing.
static FIND: Statement = Statement::new(
    concat!(
        "SELECT ",
        handler_columns!(),
        is_held!("$3"),
        ", 0::bigint
           FROM pgq.handler AS h LEFT JOIN pgq.queue_setting AS s ON s.queue = h.queue
          WHERE h.queue = $1 AND h.task IS NOT DISTINCT FROM $2"
    ),
    &[Type::Text, Type::Text, Type::Oid],
);

/// The handler of (queue, task).
pub fn find(queue: &str, task: Option<&str>) -> Result<Option<Handler>> {
    let args = [Arg::Text(queue), Arg::text(task), Arg::Oid(database::current())];
    FIND.row(&args, Handler::read)
}

/// A registration, checked.
pub struct Registration<'a> {
    /// Its queue.
    pub queue: &'a str,
    /// Its task.
    pub task: Option<&'a str>,
    /// The function.
    pub function: &'a Function,
    /// The role's name.
    pub run_as: &'a str,
    /// timeout, backoff, max_backoff.
    pub spans: [Option<Interval>; 3],
    /// concurrency, batch, max_attempts.
    pub numbers: [Option<i32>; 3],
    /// on_done, on_dead.
    pub queues: [Option<&'a str>; 2],
}

/// Locks the handler's row.
static REGISTER: Statement = Statement::new(
    "INSERT INTO pgq.handler AS h (queue, task, function, shape, is_procedure, run_as, run_as_oid, timeout, backoff,
                                   max_backoff, concurrency, batch, max_attempts, on_done, on_dead)
     VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.name, $7, $8, $9, $10, $11, $12, $13, $14, $15)
     ON CONFLICT ON CONSTRAINT handler_queue_task_key DO UPDATE
        SET function = EXCLUDED.function, shape = EXCLUDED.shape, is_procedure = EXCLUDED.is_procedure,
            run_as = EXCLUDED.run_as, run_as_oid = EXCLUDED.run_as_oid, timeout = EXCLUDED.timeout,
            backoff = EXCLUDED.backoff, max_backoff = EXCLUDED.max_backoff, concurrency = EXCLUDED.concurrency,
            batch = EXCLUDED.batch, max_attempts = EXCLUDED.max_attempts,
            on_done = EXCLUDED.on_done, on_dead = EXCLUDED.on_dead,
            registered_at = pg_catalog.clock_timestamp(),
            parked = NULL, parked_at = NULL, parked_until = NULL
     RETURNING h.id",
    &[
        Type::Text,
        Type::Text,
        Type::Text,
        Type::Text,
        Type::Bool,
        Type::Text,
        Type::Oid,
        Type::Interval,
        Type::Interval,
        Type::Interval,
        Type::Int,
        Type::Int,
        Type::Int,
        Type::Text,
        Type::Text,
    ],
);

/// Stores a handler, replacing the one of the same (queue, task).
pub fn register(r: &Registration<'_>) -> Result<()> {
    let args = [
        Arg::Text(r.queue),
        Arg::text(r.task),
        Arg::Text(&r.function.signature),
        Arg::Text(&r.function.shape),
        Arg::Bool(r.function.is_procedure),
        Arg::Text(r.run_as),
        Arg::Oid(r.function.role),
        Arg::interval(r.spans[0]),
        Arg::interval(r.spans[1]),
        Arg::interval(r.spans[2]),
        Arg::int(r.numbers[0]),
        Arg::int(r.numbers[1]),
        Arg::int(r.numbers[2]),
        Arg::text(r.queues[0]),
        Arg::text(r.queues[1]),
    ];
    match REGISTER.row(&args, |row| row.must(1))? {
        Some(handler) => arming::arm_one(handler),
        None => Ok(()),
    }
}

static UNREGISTER: Statement = Statement::new(
    "DELETE FROM pgq.handler AS h WHERE h.queue = $1 AND h.task IS NOT DISTINCT FROM $2 RETURNING h.id",
    &[Type::Text, Type::Text],
);

/// Removes a handler; was there one?
pub fn unregister(queue: &str, task: Option<&str>) -> Result<bool> {
    let removed = UNREGISTER.row(&[Arg::Text(queue), Arg::text(task)], |row| row.must(1))?;
    removed.map(arming::forget).transpose()?;
    Ok(removed.is_some())
}

/// The schema, name and arguments that a user wrote, by the caller's own rules (search_path). So every operator is
/// qualified, and its operands are of the types it is declared for: one of somebody else's that fits better, in a
/// schema of that path, would be called with the caller's rights (CVE-2018-1058). For the same reason no CASE … WHEN
/// with a value, which looks for a `=`.
static CANDIDATES: Statement = Statement::new(
    "WITH named AS MATERIALIZED (
        SELECT CASE WHEN n.place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.to_regprocedure($1) END AS exact,
               CASE WHEN n.place OPERATOR(pg_catalog.=) 0 THEN pg_catalog.parse_ident($1) END AS parts
          FROM pg_catalog.strpos($1, '(') AS n (place))
     SELECT p.oid,
            pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(p.proname), '(',
                (SELECT pg_catalog.string_agg(
                     CASE WHEN a.t OPERATOR(pg_catalog.=) k.args THEN 'jsonb'
                          WHEN a.t OPERATOR(pg_catalog.=) k.id THEN 'bigint'
                          WHEN a.t OPERATOR(pg_catalog.=) k.job THEN 'pgq.job'
                          WHEN a.t OPERATOR(pg_catalog.=) k.jobs THEN 'pgq.job[]'
                          ELSE pg_catalog.format_type(a.t, NULL) END, ', ' ORDER BY a.place)
                   FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS a (t, place)), ')'),
            CASE WHEN p.pronargs OPERATOR(pg_catalog.=) 0 THEN 'nothing'
                 WHEN p.pronargs OPERATOR(pg_catalog.=) 1 AND p.proargtypes[0] OPERATOR(pg_catalog.=) k.args THEN 'args'
                 WHEN p.pronargs OPERATOR(pg_catalog.=) 1 AND p.proargtypes[0] OPERATOR(pg_catalog.=) k.job THEN 'job'
                 WHEN p.pronargs OPERATOR(pg_catalog.=) 1 AND p.proargtypes[0] OPERATOR(pg_catalog.=) k.jobs THEN 'jobs'
                 WHEN p.pronargs OPERATOR(pg_catalog.=) 2 AND p.proargtypes[0] OPERATOR(pg_catalog.=) k.id
                      AND p.proargtypes[1] OPERATOR(pg_catalog.=) k.args THEN 'id_args' END,
            p.prokind OPERATOR(pg_catalog.=) 'p'::pg_catalog.\"char\"
       FROM named,
            (SELECT 'pg_catalog.jsonb'::pg_catalog.regtype::pg_catalog.oid,
                    'pg_catalog.int8'::pg_catalog.regtype::pg_catalog.oid,
                    'pgq.job'::pg_catalog.regtype::pg_catalog.oid,
                    'pgq.job[]'::pg_catalog.regtype::pg_catalog.oid) AS k (args, id, job, jobs),
            pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
      WHERE CASE WHEN named.parts IS NULL THEN p.oid OPERATOR(pg_catalog.=) named.exact::pg_catalog.oid
                 WHEN pg_catalog.array_length(named.parts, 1) OPERATOR(pg_catalog.=) 1
                 THEN p.proname OPERATOR(pg_catalog.=) named.parts[1]::pg_catalog.name
                      AND pg_catalog.pg_function_is_visible(p.oid)
                 ELSE p.proname OPERATOR(pg_catalog.=) named.parts[2]::pg_catalog.name
                      AND n.nspname OPERATOR(pg_catalog.=) named.parts[1]::pg_catalog.name
                      AND pg_catalog.array_length(named.parts, 1) OPERATOR(pg_catalog.=) 2 END",
    &[Type::Text],
);

/// A function that a user may mean.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its oid.
    pub oid: u32,
    /// Fully qualified, with argument types.
    pub signature: String,
    /// A word of handler_shape_check; empty when no handler looks like this.
    pub shape: String,
    /// Is it a procedure?
    pub is_procedure: bool,
    /// The role that will run it; set by the registration.
    pub role: u32,
}

/// The functions of a name, or the one of a whole signature.
pub fn candidates(name: &str) -> Result<Vec<Function>> {
    CANDIDATES.rows_as_caller(&[Arg::Text(name)], |row| {
        Ok(Function {
            oid: row.must_oid(1)?,
            signature: row.must(2)?,
            shape: row.get(3).unwrap_or_default(),
            is_procedure: row.must(4)?,
            role: 0,
        })
    })
}

static ROLE: Statement = Statement::new(
    "SELECT r.oid, pg_catalog.pg_has_role($2, r.oid, 'MEMBER')
       FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1::pg_catalog.name",
    &[Type::Text, Type::Oid],
);

/// (its oid, may `caller` act as it) of a role, if there is one of this name.
pub fn role(name: &str, caller: u32) -> Result<Option<(u32, bool)>> {
    ROLE.row(&[Arg::Text(name), Arg::Oid(caller)], |row| Ok((row.must_oid(1)?, row.must(2)?)))
}

static FUNCTION_OWNER: Statement =
    Statement::new("SELECT p.proowner, p.prosecdef FROM pg_catalog.pg_proc AS p WHERE p.oid = $1", &[Type::Oid]);

/// (owner, SECURITY DEFINER) of a function.
pub fn function_owner(function: u32) -> Result<Option<(u32, bool)>> {
    FUNCTION_OWNER.row(&[Arg::Oid(function)], |row| Ok((row.must_oid(1)?, row.must(2)?)))
}

/// Locks the queue's row.
static CONFIGURE: Statement = Statement::new(
    "INSERT INTO pgq.queue_setting AS s (queue, max_attempts, backoff, max_backoff, keep_done, keep_dead, notify,
            group_running, group_holds)
     VALUES ($1, $3, $4, $5, $6, $7, $8, $9, $10)
     ON CONFLICT (queue) DO UPDATE
        SET max_attempts = CASE WHEN $2 THEN $3 ELSE COALESCE($3, s.max_attempts) END,
            backoff = CASE WHEN $2 THEN $4 ELSE COALESCE($4, s.backoff) END,
            max_backoff = CASE WHEN $2 THEN $5 ELSE COALESCE($5, s.max_backoff) END,
            keep_done = CASE WHEN $2 THEN $6 ELSE COALESCE($6, s.keep_done) END,
            keep_dead = CASE WHEN $2 THEN $7 ELSE COALESCE($7, s.keep_dead) END,
            notify = CASE WHEN $2 THEN $8 ELSE COALESCE($8, s.notify) END,
            group_running = CASE WHEN $2 THEN $9 ELSE COALESCE($9, s.group_running) END,
            group_holds = CASE WHEN $2 THEN $10 ELSE COALESCE($10, s.group_holds) END
     RETURNING s",
    &[
        Type::Text,
        Type::Bool,
        Type::Int,
        Type::Interval,
        Type::Interval,
        Type::Interval,
        Type::Interval,
        Type::Bool,
        Type::Int,
        Type::Bool,
    ],
);

/// What configure sets.
pub struct Configuration<'a> {
    /// The queue.
    pub queue: &'a str,
    /// max_attempts
    pub max_attempts: Option<i32>,
    /// backoff, max_backoff, keep_done, keep_dead.
    pub spans: [Option<Interval>; 4],
    /// notify
    pub notify: Option<bool>,
    /// Are values that are not given forgotten?
    pub reset: bool,
    /// group_running
    pub group_running: Option<i32>,
    /// group_holds
    pub group_holds: Option<bool>,
}

/// Stores a queue's settings; the row.
pub fn configure(c: &Configuration<'_>) -> Result<Option<Flat>> {
    let args = [
        Arg::Text(c.queue),
        Arg::Bool(c.reset),
        Arg::int(c.max_attempts),
        Arg::interval(c.spans[0]),
        Arg::interval(c.spans[1]),
        Arg::interval(c.spans[2]),
        Arg::interval(c.spans[3]),
        Arg::bool(c.notify),
        Arg::int(c.group_running),
        Arg::bool(c.group_holds),
    ];
    CONFIGURE.row(&args, |row| row.must(1))
}

// In the order of the names, as RESUME locks them: two that change all queues at once do not deadlock.
static PAUSE: Statement = Statement::new(
    "INSERT INTO pgq.queue_setting AS s (queue, paused)
     SELECT q.queue, true
       FROM (SELECT $1 AS queue WHERE $1 IS NOT NULL
             UNION SELECT j.queue FROM pgq.job AS j WHERE $1 IS NULL
             UNION SELECT h.queue FROM pgq.handler AS h WHERE $1 IS NULL
             UNION SELECT t.queue FROM pgq.queue_setting AS t WHERE $1 IS NULL) AS q
      ORDER BY q.queue
     ON CONFLICT (queue) DO UPDATE SET paused = true WHERE NOT s.paused",
    &[Type::Text],
);

/// Pauses a queue, or all there are; how many were not.
pub fn pause(queue: Option<&str>) -> Result<usize> {
    PAUSE.run(&[Arg::text(queue)])
}

static RESUME: Statement = Statement::new(
    "WITH held AS (
         SELECT s.queue FROM pgq.queue_setting AS s WHERE s.paused AND ($1 IS NULL OR s.queue = $1)
          ORDER BY s.queue FOR UPDATE)
     UPDATE pgq.queue_setting AS s SET paused = false FROM held WHERE s.queue = held.queue RETURNING s.queue",
    &[Type::Text],
);

/// Resumes a queue, or all; those that were paused.
pub fn resume(queue: Option<&str>) -> Result<Vec<String>> {
    RESUME.rows(&[Arg::text(queue)], |row| row.must(1))
}

static SETTING: Statement = Statement::new(
    "SELECT s.max_attempts, (EXTRACT(epoch FROM s.backoff) * 1000000)::bigint,
            (EXTRACT(epoch FROM s.max_backoff) * 1000000)::bigint,
            (EXTRACT(epoch FROM s.keep_done) * 1000000)::bigint, COALESCE(s.paused, false),
            EXISTS (SELECT FROM pgq.handler AS h WHERE h.queue = $1 AND h.on_done IS NOT NULL)
       FROM (VALUES ($1)) AS q (queue) LEFT JOIN pgq.queue_setting AS s ON s.queue = q.queue",
    &[Type::Text],
);

/// What a queue says about retries and keeping, and whether it is paused.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueSetting {
    /// On retries.
    pub retry: crate::engine::options::RetryOptions,
    /// How long done jobs are kept.
    pub keep_done: Option<crate::engine::time::Span>,
    /// Is it paused?
    pub paused: bool,
    /// Has a handler of it on_done?
    pub tells: bool,
}

/// A queue's settings; all empty when it has none.
pub fn setting(queue: &str) -> Result<QueueSetting> {
    use crate::engine::{options::RetryOptions, time::Span};
    let found = SETTING.row(&[Arg::Text(queue)], |row| {
        Ok(QueueSetting {
            retry: RetryOptions {
                max_attempts: row.get(1),
                backoff: row.get(2).map(Span),
                max_backoff: row.get(3).map(Span),
            },
            keep_done: row.get(4).map(Span),
            paused: row.must(5)?,
            tells: row.must(6)?,
        })
    })?;
    Ok(found.unwrap_or_default())
}

/// What the handler of (queue, task), if there is one, and the queue say about retries, in this order.
pub fn retry(queue: &str, task: Option<&str>) -> Result<[crate::engine::options::RetryOptions; 2]> {
    match find(queue, task)? {
        Some(handler) => Ok(handler.retry),
        None => Ok([Default::default(), setting(queue)?.retry]),
    }
}

/// The registration as it was, to be repeated: a shorter one would forget options, and the role first of all.
static COMMAND: Statement = Statement::new(
    "SELECT pg_catalog.format('SELECT pgq.register(%L, %L', h.queue, h.function)
              || COALESCE(', task => ' || pg_catalog.quote_literal(h.task), '')
              || ', run_as => ' || pg_catalog.quote_literal($2)
              || COALESCE(', timeout => ' || pg_catalog.quote_literal(h.timeout), '')
              || COALESCE(', concurrency => ' || h.concurrency, '')
              || COALESCE(', batch => ' || h.batch, '')
              || COALESCE(', max_attempts => ' || h.max_attempts, '')
              || COALESCE(', backoff => ' || pg_catalog.quote_literal(h.backoff), '')
              || COALESCE(', max_backoff => ' || pg_catalog.quote_literal(h.max_backoff), '')
              || COALESCE(', on_done => ' || pg_catalog.quote_literal(h.on_done), '')
              || COALESCE(', on_dead => ' || pg_catalog.quote_literal(h.on_dead), '') || ');'
       FROM pgq.handler AS h WHERE h.id = $1",
    &[Type::Int, Type::Text],
);

/// The command that registers a handler again as it is, to run as this role.
pub fn command(handler: i32, run_as: &str) -> Result<String> {
    Ok(COMMAND.row(&[Arg::Int(handler), Arg::Text(run_as)], |row| row.must(1))?.unwrap_or_default())
}

static PAUSED: Statement =
    Statement::new("SELECT s.queue FROM pgq.queue_setting AS s WHERE s.paused ORDER BY s.queue", &[]);

/// The paused queues.
pub fn paused() -> Result<Vec<String>> {
    PAUSED.rows(&[], |row| row.must(1))
}

static QUEUE_IDS: Statement = Statement::new("SELECT h.id, h.queue FROM pgq.handler AS h", &[]);

/// (id, queue) of every handler.
pub fn queue_ids() -> Result<Vec<(i32, String)>> {
    QUEUE_IDS.rows(&[], |row| Ok((row.must(1)?, row.must(2)?)))
}
