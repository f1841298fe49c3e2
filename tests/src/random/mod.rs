//! Random calls against the model: sequences of operations are drawn by proptest, done by a server
//! and by its `World`, and after each step what was answered and everything in the tables is
//! compared. A sequence that differs is shrunk to the shortest one that still does, and comes out as
//! a script for psql.

mod op;
mod picture;
mod world;

use crate::{run, wait_until, Server, Stop};
use op::Op;
use postgres::{Client, SimpleQueryMessage};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use world::{Answer, Micros, Window, World};

/// The most operations of a sequence.
const LONGEST: usize = 40;
/// How long the scheduler may take to do what time asks for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The answer to a call that returned an error.
type Failed = String;

/// A server with the settings that the model knows. Without the scheduler a claim does itself what
/// time asks for; with it, it is done as time passes.
pub fn server(with_scheduler: bool) -> Server {
    Server::builder()
        .preload(true)
        .conf("pgq.enabled", if with_scheduler { "on" } else { "off" })
        .conf("pgq.max_attempts", world::MAX_ATTEMPTS)
        .conf("pgq.backoff", format!("{}s", world::BACKOFF))
        .conf("pgq.log_jobs", "none")
        .conf("shared_buffers", "32MB")
        .start()
}

/// Who does them.
pub struct Player<'a> {
    server: &'a Server,
    client: Client,
    with_scheduler: bool,
    /// Operations done.
    pub done: u64,
    /// Of these, how often the server crashed.
    pub crashes: u64,
}

/// One sequence as far as it came.
#[derive(Default)]
struct Course {
    world: World,
    /// The world at BEGIN.
    saved: Option<World>,
    claims: Vec<(i64, i32)>,
    accepted: BTreeSet<(i64, i32)>,
    script: String,
}

/// Draws so many sequences and plays them.
///
/// # Errors
/// The script of the shortest sequence that differs, and how.
pub fn search(player: &mut Player<'_>, sequences: u32, seed: u64) -> Result<(), String> {
    let config = Config { cases: sequences, failure_persistence: None, max_shrink_iters: 1_000, ..Config::default() };
    let mut bytes = [0_u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let player = RefCell::new(player);
    let strategy = proptest::collection::vec(op::op(), 1..=LONGEST);
    let result = runner.run(&strategy, |ops| player.borrow_mut().play(&ops).map_err(TestCaseError::fail));
    result.map_err(|error| match error {
        TestError::Fail(why, _) => why.message().to_owned(),
        TestError::Abort(why) => why.message().to_owned(),
    })
}

impl<'a> Player<'a> {
    /// One for a server that [`server`] started; makes its database.
    pub fn new(server: &'a Server, with_scheduler: bool) -> Player<'a> {
        let client = server.create_database("random");
        Player { server, client, with_scheduler, done: 0, crashes: 0 }
    }

    /// Plays one sequence; or the script until the first difference, and the difference.
    fn play(&mut self, ops: &[Op]) -> Result<(), String> {
        if self.client.is_closed() {
            self.client = self.server.connect("random");
        }
        run(&mut self.client, "ROLLBACK");
        run(&mut self.client, "TRUNCATE pgq.job, pgq.finished_job, pgq.queue_setting RESTART IDENTITY");
        let mut course = Course::default();
        for op in ops {
            let step = self.step(&mut course, op);
            self.done += 1;
            step.map_err(|what| format!("{what}\n\n{}{}", self.preamble(), course.script))?;
        }
        Ok(())
    }

    fn preamble(&self) -> String {
        format!(
            "-- pgq.enabled {}, pgq.max_attempts {}, pgq.backoff {} s; time is moved by hand\n\
             CREATE EXTENSION IF NOT EXISTS pgq;\n\
             TRUNCATE pgq.job, pgq.finished_job, pgq.queue_setting RESTART IDENTITY;\n",
            if self.with_scheduler { "on" } else { "off" },
            world::MAX_ATTEMPTS,
            world::BACKOFF
        )
    }

    fn step(&mut self, course: &mut Course, op: &Op) -> Result<(), String> {
        let is_inside = course.saved.is_some();
        // There is one transaction at a time, and no time passes in it.
        match op {
            Op::Begin | Op::Pass { .. } if is_inside => return Ok(()),
            Op::End { .. } if !is_inside => return Ok(()),
            _ => {}
        }
        let Some(sql) = op.sql(&course.claims, course.world.last) else { return self.crash(course) };
        let began = now();
        let answer = ask(&mut self.client, &sql);
        self.let_time_act(op);
        let window = (began, now());
        let _ = writeln!(course.script, "{sql};  -- {}", answer.as_ref().map_or_else(Failed::clone, |a| a.join(", ")));
        let expected = course.expect(op, window, self.with_scheduler);
        let same = match (&answer, &expected) {
            (Ok(rows), Answer::Rows(wanted)) => rows == wanted,
            (Err(state), Answer::Error(wanted)) => state == wanted,
            _ => false,
        };
        if !same {
            return Err(format!("answered {answer:?}, expected {expected:?}"));
        }
        if answer.is_err() && is_inside {
            run(&mut self.client, "ROLLBACK");
            course.script += "ROLLBACK;\n";
            course.roll_back();
        }
        course.note_accepted(op, answer.as_deref().unwrap_or_default())?;
        picture::compare(&mut self.client, &mut course.world)
    }

    /// With a scheduler: waits until it has done what is due.
    fn let_time_act(&mut self, op: &Op) {
        if !self.with_scheduler || !matches!(op, Op::Pass { .. }) {
            return;
        }
        run(&mut self.client, "SELECT pgq.start()");
        let is_over =
            "SELECT NOT EXISTS (SELECT FROM pgq.job WHERE state <> 'ready' AND execute_at <= clock_timestamp())";
        wait_until(PATIENCE, "the scheduler", || crate::one(&mut self.client, is_over));
    }

    /// The server stops as in a crash: what was committed is there.
    fn crash(&mut self, course: &mut Course) -> Result<(), String> {
        self.crashes += 1;
        self.server.restart(Stop::Immediate);
        self.client = self.server.connect("random");
        course.script += "-- the server crashed here: pg_ctl restart -m immediate\n";
        course.roll_back();
        // Numbers that were fetched ahead are lost (sequence.c, SEQ_LOG_VALS).
        let last: i64 = crate::one(
            &mut self.client,
            "SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM pgq.job_id_seq",
        );
        course.world.last = last;
        picture::compare(&mut self.client, &mut course.world)
    }
}

impl Course {
    fn expect(&mut self, op: &Op, window: Window, with_scheduler: bool) -> Answer {
        match op {
            Op::Begin => self.saved = Some(self.world.clone()),
            Op::End { commit: true } => self.saved = None,
            Op::End { commit: false } => self.roll_back(),
            _ => {}
        }
        let answer = self.world.act(op, window, &mut self.claims);
        if with_scheduler && matches!(op, Op::Pass { .. }) {
            self.world.time_acts(None, window);
        }
        answer
    }

    /// Everything is as it was at BEGIN, but for the sequence.
    fn roll_back(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.world = World { last: self.world.last, ..saved };
        }
    }

    /// No claim is completed twice. What a transaction did may be undone, so only what is outside counts.
    fn note_accepted(&mut self, op: &Op, rows: &[String]) -> Result<(), String> {
        if self.saved.is_some() {
            return Ok(());
        }
        let accepted = match op {
            Op::Complete { token } if rows == ["t"] => vec![op::held(*token, &self.claims)],
            Op::BulkComplete { tokens } => {
                let all = tokens.iter().map(|token| op::held(*token, &self.claims));
                let mut all: Vec<(i64, i32)> = all.filter(|(id, _)| rows.contains(&id.to_string())).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
            _ => Vec::new(),
        };
        // An id of which two attempts were given: which of them was accepted, the world has compared.
        let ids: BTreeSet<i64> = accepted.iter().map(|(id, _)| *id).collect();
        if ids.len() < accepted.len() {
            return Ok(());
        }
        match accepted.into_iter().find(|claim| !self.accepted.insert(*claim)) {
            Some((id, attempt)) => Err(format!("attempt {attempt} of job {id} was completed twice")),
            None => Ok(()),
        }
    }
}

/// The rows' first columns, NULL as the empty text; or the SQLSTATE.
fn ask(client: &mut Client, sql: &str) -> Result<Vec<String>, Failed> {
    let messages = client
        .simple_query(sql)
        .map_err(|error| error.code().map_or_else(|| format!("{error:?}"), |state| state.code().to_owned()))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(rows.collect())
}

fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}
