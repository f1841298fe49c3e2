//! What may be called: an operation, how one is drawn, and its SQL.

use proptest::prelude::*;

/// The queues. None has a handler.
pub const QUEUES: [&str; 2] = ["a", "b"];
/// Their keys.
const KEYS: [&str; 2] = ["k", "l"];

/// A job to be put.
#[derive(Debug, Clone)]
pub struct New {
    /// Larger first.
    pub priority: i32,
    /// In seconds; 0 is ready at once.
    pub delay: u32,
    /// Has it the task "t"?
    pub task: bool,
    /// Its key.
    pub key: Option<&'static str>,
    /// Failures after which it is dead.
    pub max_attempts: Option<i32>,
}

/// A claim that somebody once got, by its place among all of them, the latest first, or one beside it.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    /// Its place; any number will do.
    pub place: usize,
    /// Added to its attempt: mostly 0.
    pub beside: i32,
}

/// One call, or what else happens to a queue. Spans are in seconds.
#[derive(Debug, Clone)]
pub enum Op {
    /// pgq.put
    Put { queue: &'static str, job: New, on_conflict: &'static str },
    /// pgq.bulk_put with jobs
    BulkPut { queue: &'static str, jobs: Vec<New> },
    /// pgq.bulk_put with args
    BulkArgs { queue: &'static str, n: usize, like: New },
    /// pgq.claim
    Claim { queues: Vec<&'static str>, n: usize, lease: Option<u32>, task: bool },
    /// pgq.complete
    Complete { token: Token },
    /// pgq.bulk_complete
    BulkComplete { tokens: Vec<Token> },
    /// pgq.fail
    Fail { token: Token, retry_in: Option<u32>, permanent: bool },
    /// pgq.extend
    Extend { token: Token, lease: u32 },
    /// pgq.release
    Release { token: Token, delay: u32 },
    /// pgq.cancel of the job at this place
    Cancel { id: usize, force: bool },
    /// pgq.retry
    Retry { id: usize, delay: Option<u32> },
    /// pgq.redrive
    Redrive { queue: &'static str, n: Option<usize> },
    /// pgq.purge
    Purge { queue: &'static str, state: &'static str, older_than: u32 },
    /// pgq.pause
    Pause { queue: Option<&'static str> },
    /// pgq.resume
    Resume { queue: Option<&'static str> },
    /// pgq.configure
    Configure {
        queue: &'static str,
        max_attempts: Option<i32>,
        backoff: Option<u32>,
        keep_done: Option<u32>,
        reset: bool,
    },
    /// So much time passes.
    Pass { seconds: u32 },
    /// BEGIN, where there is no transaction.
    Begin,
    /// COMMIT or ROLLBACK, where there is one.
    End { commit: bool },
    /// The server stops as in a crash and starts again.
    Crash,
}

fn queue() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&QUEUES[..])
}

/// Nothing, or a time from now; so far apart that the time that a call takes makes no difference.
fn span() -> impl Strategy<Value = u32> {
    proptest::sample::select(vec![0, 0, 0, 0, 100, 200, 1_000])
}

fn new() -> impl Strategy<Value = New> {
    let key = prop_oneof![3 => Just(None), 2 => proptest::sample::select(&KEYS[..]).prop_map(Some)];
    let max_attempts = prop_oneof![3 => Just(None), 1 => (1..3i32).prop_map(Some)];
    (-1..2i32, span(), proptest::bool::weighted(0.3), key, max_attempts)
        .prop_map(|(priority, delay, task, key, max_attempts)| New { priority, delay, task, key, max_attempts })
}

fn token() -> impl Strategy<Value = Token> {
    let beside = prop_oneof![12 => Just(0), 1 => Just(-1), 1 => Just(1)];
    // One of the latest in three of four cases: they are the ones that are still held.
    let place = prop_oneof![3 => 0..3usize, 1 => any::<usize>()];
    (place, beside).prop_map(|(place, beside)| Token { place, beside })
}

fn claim() -> impl Strategy<Value = Op> {
    let queues = prop_oneof![queue().prop_map(|q| vec![q]), Just(vec!["b", "a"])];
    let lease = prop_oneof![1 => Just(None), 3 => proptest::sample::select(vec![100, 1_000]).prop_map(Some)];
    (queues, 1..4usize, lease, proptest::bool::weighted(0.2)).prop_map(|(queues, n, lease, task)| Op::Claim {
        queues,
        n,
        lease,
        task,
    })
}

/// Any operation.
pub fn op() -> impl Strategy<Value = Op> {
    let on_conflict = proptest::sample::select(vec!["keep", "replace", "error"]);
    let state = proptest::sample::select(vec!["ready", "scheduled", "done", "dead", "cancelled", "leased"]);
    let retry_in = proptest::option::of(span());
    let configure =
        (queue(), proptest::option::of(1..4i32), proptest::option::of(Just(300)), proptest::option::of(Just(9_000)));
    prop_oneof![
        12 => (queue(), new(), on_conflict).prop_map(|(queue, job, on_conflict)| Op::Put { queue, job, on_conflict }),
        2 => (queue(), proptest::collection::vec(new(), 0..4)).prop_map(|(queue, jobs)| Op::BulkPut { queue, jobs }),
        1 => (queue(), 0..3usize, new()).prop_map(|(queue, n, like)| Op::BulkArgs { queue, n, like }),
        12 => claim(),
        5 => token().prop_map(|token| Op::Complete { token }),
        2 => proptest::collection::vec(token(), 0..4).prop_map(|tokens| Op::BulkComplete { tokens }),
        6 => (token(), retry_in, proptest::bool::weighted(0.2))
            .prop_map(|(token, retry_in, permanent)| Op::Fail { token, retry_in, permanent }),
        2 => (token(), 100..101u32).prop_map(|(token, lease)| Op::Extend { token, lease }),
        3 => (token(), span()).prop_map(|(token, delay)| Op::Release { token, delay }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(id, force)| Op::Cancel { id, force }),
        4 => (any::<usize>(), proptest::option::of(span())).prop_map(|(id, delay)| Op::Retry { id, delay }),
        2 => (queue(), proptest::option::of(1..3usize)).prop_map(|(queue, n)| Op::Redrive { queue, n }),
        2 => (queue(), state, proptest::sample::select(vec![0, 50]))
            .prop_map(|(queue, state, older_than)| Op::Purge { queue, state, older_than }),
        1 => proptest::option::of(queue()).prop_map(|queue| Op::Pause { queue }),
        3 => proptest::option::of(queue()).prop_map(|queue| Op::Resume { queue }),
        2 => (configure, any::<bool>()).prop_map(|((queue, max_attempts, backoff, keep_done), reset)|
            Op::Configure { queue, max_attempts, backoff, keep_done, reset }),
        4 => proptest::sample::select(vec![100, 250, 2_000]).prop_map(|seconds| Op::Pass { seconds }),
        3 => Just(Op::Begin),
        3 => any::<bool>().prop_map(|commit| Op::End { commit }),
        // Seldom: it takes a second.
        1 => (0..20u8).prop_map(|n| if n == 0 { Op::Crash } else { Op::End { commit: true } }),
    ]
}

/// `name => '5 s'`, or nothing.
fn argument(name: &str, value: Option<impl std::fmt::Display>, quoted: bool) -> String {
    let mark = if quoted { "'" } else { "" };
    value.map_or(String::new(), |value| format!(", {name} => {mark}{value}{mark}"))
}

fn seconds(name: &str, value: Option<u32>) -> String {
    argument(name, value.map(|s| format!("{s} s")), true)
}

fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>, kind: &str) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    format!("ARRAY[{}]::{kind}[]", items.join(", "))
}

impl New {
    fn element(&self) -> String {
        let mut text = format!("{{\"args\": {}, \"priority\": {0}", self.priority);
        if self.delay > 0 {
            text += &format!(", \"delay\": \"{} s\"", self.delay);
        }
        if self.task {
            text += ", \"task\": \"t\"";
        }
        if let Some(key) = self.key {
            text += &format!(", \"key\": \"{key}\"");
        }
        text + &self.max_attempts.map_or(String::new(), |most| format!(", \"max_attempts\": {most}")) + "}"
    }

    fn delay(&self) -> String {
        seconds("delay", Some(self.delay).filter(|delay| *delay > 0))
    }
}

impl Op {
    /// Its statement; `claims` are (id, attempt) of all claims so far, `last` the last id. What a test does to the
    /// server itself has none.
    pub fn sql(&self, claims: &[(i64, i32)], last: i64) -> Option<String> {
        let held = |token: &Token| held(*token, claims);
        Some(match self {
            Op::Put { queue, job, on_conflict } => format!(
                "SELECT pgq.put('{queue}', '{0}', {0}{1}{2}{3}, on_conflict => '{on_conflict}'{4})",
                job.priority,
                job.delay(),
                argument("task", job.task.then_some("t"), true),
                argument("key", job.key, true),
                argument("max_attempts", job.max_attempts, false)
            ),
            Op::BulkPut { queue, jobs } => {
                let elements: Vec<String> = jobs.iter().map(New::element).collect();
                format!("SELECT pgq.bulk_put('{queue}', '[{}]')", elements.join(", "))
            }
            Op::BulkArgs { queue, n, like } => format!(
                "SELECT pgq.bulk_put('{queue}', args => array_fill('{0}'::jsonb, ARRAY[{n}]), priority => {0}{1}{2})",
                like.priority,
                like.delay(),
                argument("task", like.task.then_some("t"), true)
            ),
            Op::Claim { queues, n, lease, task } => {
                let from = match queues.as_slice() {
                    [queue] => format!("'{queue}'"),
                    many => format!("queues => '{{{}}}'", many.join(",")),
                };
                let (lease, tasks) = (seconds("lease", *lease), if *task { ", tasks => '{t}'" } else { "" });
                format!("SELECT format('%s %s', id, attempt) FROM pgq.claim({from}, n => {n}{lease}{tasks})")
            }
            Op::Complete { token } => format!("SELECT pgq.complete({}, {})", held(token).0, held(token).1),
            Op::BulkComplete { tokens } => format!(
                "SELECT pgq.bulk_complete({}, {})",
                list(tokens.iter().map(|t| held(t).0), "bigint"),
                list(tokens.iter().map(|t| held(t).1), "int")
            ),
            Op::Fail { token, retry_in, permanent } => format!(
                "SELECT pgq.fail({}, {1}, 'e{1}'{2}, permanent => {permanent})",
                held(token).0,
                held(token).1,
                seconds("retry_in", *retry_in)
            ),
            Op::Extend { token, lease } => {
                format!("SELECT pgq.extend({}, {}, '{lease} s') IS NOT NULL", held(token).0, held(token).1)
            }
            Op::Release { token, delay } => {
                format!("SELECT pgq.release({}, {}, '{delay} s')", held(token).0, held(token).1)
            }
            Op::Crash => return None,
            other => other.management(last),
        })
    }

    fn management(&self, last: i64) -> String {
        let id = |place: &usize| pick(*place, last);
        match self {
            Op::Cancel { id: place, force } => format!("SELECT pgq.cancel({}, {force})", id(place)),
            Op::Retry { id: place, delay: None } => format!("SELECT pgq.retry({})", id(place)),
            Op::Retry { id: place, delay: Some(delay) } => {
                format!("SELECT pgq.retry({}, clock_timestamp() + '{delay} s')", id(place))
            }
            Op::Redrive { queue, n } => format!("SELECT pgq.redrive('{queue}'{})", argument("n", *n, false)),
            Op::Purge { queue, state, older_than } => {
                format!("SELECT pgq.purge('{queue}', '{state}', '{older_than} s')")
            }
            Op::Pause { queue } => format!("SELECT pgq.pause({})", queue.map_or("NULL".into(), |q| format!("'{q}'"))),
            Op::Resume { queue } => format!("SELECT pgq.resume({})", queue.map_or("NULL".into(), |q| format!("'{q}'"))),
            Op::Configure { queue, max_attempts, backoff, keep_done, reset } => format!(
                "SELECT (pgq.configure('{queue}'{}{}{}, reset => {reset})).queue",
                argument("max_attempts", *max_attempts, false),
                seconds("backoff", *backoff),
                seconds("keep_done", *keep_done)
            ),
            Op::Pass { seconds } => pass(*seconds),
            Op::Begin => "BEGIN".to_owned(),
            Op::End { commit } => if *commit { "COMMIT" } else { "ROLLBACK" }.to_owned(),
            _ => String::new(),
        }
    }
}

/// The claim that a token means.
pub fn held(token: Token, claims: &[(i64, i32)]) -> (i64, i32) {
    let (id, attempt) = token.place.checked_rem(claims.len()).map_or((1, 1), |at| claims[claims.len() - 1 - at]);
    (id, attempt + token.beside)
}

/// The job at a place: any that there was, and one that there was not.
pub fn pick(place: usize, last: i64) -> i64 {
    let all = usize::try_from(last).unwrap_or(0) + 1;
    i64::try_from(place % all).unwrap_or(0) + 1
}

/// Time is moved by moving all that is written down the other way.
pub fn pass(seconds: u32) -> String {
    let by = format!("interval '{seconds} s'");
    format!(
        "UPDATE pgq.job SET execute_at = execute_at - {by}, created_at = created_at - {by};
         UPDATE pgq.finished_job SET finished_at = finished_at - {by}, created_at = created_at - {by}"
    )
}
