//! The server of one recipe: pgq preloaded, the role `worker`, the table `effect`, and one queue for
//! each case.

use super::{Recipe, Way, Worker, PATIENCE};
use crate::{one, run, wait_for, wait_until, Server};
use postgres::Client;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What the jobs of the contract leave.
const SETUP: &str = "
    CREATE ROLE worker LOGIN;
    CREATE TABLE effect (job bigint NOT NULL, attempt int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    GRANT INSERT, SELECT ON effect TO worker;
    SELECT pgq.grant_usage('worker', 'consume'), pgq.grant_usage('worker', 'produce');";

/// A session of the role `worker` is inside a transaction in which nothing happens: its job sleeps.
const SLEEPS_IN_TRANSACTION: &str = "
    SELECT count(*) = 1 FROM pg_stat_activity
     WHERE usename = 'worker' AND state = 'idle in transaction'
       AND clock_timestamp() - state_change > interval '150 ms'";

/// Where a recipe is tried.
pub struct Stage {
    /// Whose workers run here.
    pub recipe: Recipe,
    /// The private server, which listens on loopback.
    pub server: Server,
    /// A session of the superuser.
    pub client: Client,
    /// The queue of the present case.
    pub queue: String,
}

impl Stage {
    /// Starts the server.
    ///
    /// # Panics
    /// When it does not start.
    pub fn open(recipe: &Recipe) -> Stage {
        let server = Server::builder().preload(true).loopback().start();
        let mut client = server.create_database("app");
        run(&mut client, SETUP);
        Stage { recipe: recipe.clone(), server, client, queue: String::new() }
    }

    /// Where the database is, for any client.
    pub fn dsn(&self) -> String {
        format!("postgresql://worker@127.0.0.1:{}/app", self.server.port())
    }

    /// Where what the workers write goes.
    pub fn worker_log(&self) -> PathBuf {
        self.server.socket_directory().join("worker.log")
    }

    /// The ends of the workers' and the server's log, for messages.
    pub fn log_tails(&self) -> String {
        let log = fs::read_to_string(self.worker_log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n  | ");
        format!("the end of what the workers wrote:\n  | {tail}\n{}", self.server.log_tail())
    }

    /// A worker for the queue, described and not yet started.
    pub fn worker(&self, way: Way) -> Worker {
        Worker::new(self, way)
    }

    /// Puts one job and returns its id.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn put(&mut self, task: &str, args: &str) -> i64 {
        let sql = format!("SELECT pgq.put('{}', '{args}', task => '{task}')", self.queue);
        one(&mut self.client, &sql)
    }

    /// Puts a job that sleeps in the client.
    pub fn put_sleep(&mut self, seconds: f64) -> i64 {
        self.put("sleep", &format!("{{\"seconds\": {seconds}}}"))
    }

    /// Puts many jobs that only leave their effect.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn put_many(&mut self, count: usize) -> Vec<i64> {
        let sql = format!(
            "SELECT pgq.bulk_put('{}', args => array_fill('{{}}'::jsonb, ARRAY[{count}]), task => 'insert')",
            self.queue
        );
        let rows = self.client.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Reads a boolean until it is true.
    ///
    /// # Panics
    /// When it is not within the time.
    pub fn until(&mut self, deadline: Duration, what: &str, sql: &str) -> Duration {
        wait_until(deadline, what, || one(&mut self.client, sql))
    }

    /// Waits until a worker is in the middle of a job that sleeps.
    pub fn until_it_sleeps(&mut self, way: Way, job: i64) {
        self.until_it_sleeps_within(PATIENCE, way, job);
    }

    /// The same where many jobs come before.
    pub fn until_it_sleeps_within(&mut self, deadline: Duration, way: Way, job: i64) {
        let sql = match way {
            Way::Transaction => SLEEPS_IN_TRANSACTION.to_owned(),
            // The claim and the effect are committed by then.
            Way::Lease => format!(
                "SELECT EXISTS (SELECT FROM pgq.job JOIN effect ON job = id AND effect.attempt = job.attempt
                                 WHERE id = {job} AND state = 'leased')"
            ),
        };
        self.until(deadline, "a worker to be in the middle of the job", &sql);
    }

    /// Waits until a job is there no more.
    pub fn until_gone(&mut self, job: i64) {
        let sql = format!("SELECT NOT EXISTS (SELECT FROM pgq.job WHERE id = {job})");
        self.until(PATIENCE, &format!("job {job} to be done"), &sql);
    }

    /// The attempts that left an effect.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn effects(&mut self, job: i64) -> Vec<i32> {
        let sql = format!("SELECT coalesce(array_agg(attempt ORDER BY attempt), '{{}}') FROM effect WHERE job = {job}");
        one(&mut self.client, &sql)
    }

    /// One job from its put to its end, done by whoever works now, once.
    ///
    /// # Panics
    /// When it is not.
    pub fn does_a_job(&mut self) {
        let job = self.put("insert", "{}");
        self.until_gone(job);
        assert_eq!(self.effects(job), [1], "the effects of job {job}");
    }

    /// Connects again after the server was away.
    pub fn reconnect(&mut self) {
        self.client = wait_for(PATIENCE, "a session", || self.server.try_connect("app", "postgres").ok());
    }
}
