//! What every workload stands on: a private server with pgq, the hand-written queue, the bare table
//! and the ledgers; pgbench; and drains of either queue, timed by the commits of their effects.

use super::meter::{metered, Sample};
use crate::server::{binary, Server};
use crate::{run, wait_until};
use postgres::Client;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The database of the workloads.
pub const DATABASE: &str = "bench";

/// The role whose handlers run.
pub const ROLE: &str = "app";

/// How long a drain may take before the workload fails.
const PATIENCE: Duration = Duration::from_secs(600);

/// Made in each database besides the extension. The bare table is pgq's own without pgq.
const OBJECTS: &str = "
CREATE TABLE bare (LIKE pgq.job INCLUDING ALL);
DO $$
DECLARE options text := (SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = 'pgq.job'::regclass);
BEGIN EXECUTE format('ALTER TABLE bare SET (%s)', options); END $$;
CREATE TABLE commit_rate (n int);
CREATE TABLE effect (n bigint);
ALTER TABLE effect OWNER TO app;
GRANT CREATE ON SCHEMA public TO app;
SELECT pgq.grant_usage('app', 'admin');
CREATE FUNCTION of_plpgsql(args jsonb) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO effect VALUES ((args->>'n')::bigint); END $$;
CREATE FUNCTION of_sql(args jsonb) RETURNS void LANGUAGE sql
AS $$ INSERT INTO effect VALUES ((args->>'n')::bigint) $$;
CREATE FUNCTION of_tenth(args jsonb) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN
    IF (args->>'n')::bigint % 10 = 0 THEN RAISE 'every tenth fails'; END IF;
    INSERT INTO effect VALUES ((args->>'n')::bigint);
END $$;
CREATE FUNCTION of_set(jobs pgq.job[]) RETURNS void LANGUAGE sql
AS $$ INSERT INTO effect SELECT (job.args->>'n')::bigint FROM unnest(jobs) job $$;
ALTER FUNCTION of_plpgsql(jsonb) OWNER TO app;
ALTER FUNCTION of_sql(jsonb) OWNER TO app;
ALTER FUNCTION of_tenth(jsonb) OWNER TO app;
ALTER FUNCTION of_set(pgq.job[]) OWNER TO app;
";

/// How long pgbench runs.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// So many seconds.
    Seconds(u64),
    /// So many transactions of each client.
    Each(u64),
}

/// A server with everything in it.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// The superuser's session.
    pub client: Client,
    /// The session of the handlers' role.
    pub app: Client,
    last_n: u64,
}

/// Seconds since 1970 by the clock that the server has too.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs_f64()).unwrap_or_default()
}

/// A file beside the benchmark's command.
fn file(name: &str) -> PathBuf {
    crate::repository().join("tests/bench").join(name)
}

impl Stage {
    /// Starts the server, with so many executors at most.
    ///
    /// # Panics
    /// When it does not start.
    pub fn new(max_workers: usize) -> Stage {
        let builder = Server::builder().preload(true).conf("shared_buffers", "2GB").conf("max_wal_size", "8GB");
        let builder = builder.conf("checkpoint_timeout", "30min").conf("pgq.max_workers", max_workers);
        // The moment of a commit is read from here: no watcher takes processor time from what is measured.
        let server = builder.conf("track_commit_timestamp", "on").conf("pgq.idle_timeout", "1h").start();
        let mut client = server.connect("postgres");
        run(&mut client, "CREATE ROLE app LOGIN");
        Stage::in_database(server, DATABASE)
    }

    fn in_database(server: Server, database: &str) -> Stage {
        let client = Stage::prepare(&server, database);
        let app = server.connect_as(database, ROLE);
        Stage { server, client, app, last_n: 0 }
    }

    /// Makes another database of the same kind and returns a session of the superuser there.
    fn prepare(server: &Server, database: &str) -> Client {
        let mut client = server.create_database(database);
        run(&mut client, OBJECTS);
        let hand = std::fs::read_to_string(file("handwritten.sql")).expect("tests/bench/handwritten.sql");
        run(&mut client, &hand);
        client
    }

    /// Goes to another database of this kind, which is made unless it is there; returns nothing, and
    /// what follows happens there.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn enter(&mut self, database: &str) {
        let sql = "SELECT FROM pg_database WHERE datname = $1";
        let is_there = self.client.query_opt(sql, &[&database]).expect("pg_database").is_some();
        self.client = if is_there { self.server.connect(database) } else { Stage::prepare(&self.server, database) };
        self.app = self.server.connect_as(database, ROLE);
    }

    /// Where the superuser's session is.
    pub fn database(&mut self) -> String {
        crate::one(&mut self.client, "SELECT current_database()::text")
    }

    /// Registers a handler as its role. False: pgq refuses it.
    pub fn register(&mut self, queue: &str, function: &str, options: &str) -> bool {
        let sql = format!("SELECT pgq.register('{queue}', '{function}'{options})");
        self.app.batch_execute(&sql).is_ok()
    }

    /// Runs pgbench with a script of the benchmark's folder, or its own load: transactions and seconds.
    ///
    /// # Panics
    /// When it fails.
    pub fn pgbench(&mut self, script: Option<&str>, clients: u64, amount: Amount) -> (f64, f64) {
        let database = self.database();
        let mut command = self.pgbench_command(&database, script, clients);
        match amount {
            Amount::Seconds(seconds) => command.args(["-T", &seconds.to_string()]),
            Amount::Each(count) => command.args(["-t", &count.to_string()]),
        };
        let output = command.output().expect("pgbench is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "pgbench {script:?}: {}", String::from_utf8_lossy(&output.stderr));
        let after = |start: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default();
            let digits: String = line.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            digits.parse::<f64>().unwrap_or_else(|_| panic!("pgbench printed no {start}: {text}"))
        };
        let transactions = after("number of transactions actually processed:");
        (transactions, transactions / after("tps ="))
    }

    /// A pgbench that is not started yet.
    pub fn pgbench_command(&self, database: &str, script: Option<&str>, clients: u64) -> Command {
        let mut command = Command::new(binary("pgbench"));
        command.args(["-n", "-M", "prepared", "-U", "postgres", "-p", &self.server.port().to_string()]);
        command.arg("-h").arg(self.server.socket_directory());
        command.args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string()]);
        if let Some(script) = script {
            command.arg("-f").arg(file(script));
        }
        command.arg(database).env_remove("PGOPTIONS").stdin(Stdio::null());
        command
    }

    /// Transactions of a script in a given time, with what they cost.
    pub fn sample(&mut self, script: &str, clients: u64, seconds: u64) -> Sample {
        metered(self, |stage| stage.pgbench(Some(script), clients, Amount::Seconds(seconds)))
    }

    /// The next `count` numbers of jobs: the first and the last.
    pub fn numbers(&mut self, count: u64) -> (u64, u64) {
        let first = self.last_n + 1;
        self.last_n += count;
        (first, self.last_n)
    }

    /// Empties the hand-written queue and its ledger, and fills it.
    pub fn hand_fill(&mut self, jobs: u64) {
        let sql = format!(
            "TRUNCATE hand_job, hand_effect;
             INSERT INTO hand_job (args) SELECT jsonb_build_object('n', n) FROM generate_series(1, {jobs}) n"
        );
        run(&mut self.client, &sql);
        run(&mut self.client, "VACUUM ANALYZE hand_job");
    }

    /// Drains the hand-written queue and looks at its ledger.
    ///
    /// # Panics
    /// When a job ran twice or the queue ran empty before the time was over.
    pub fn hand_drain(&mut self, script: &str, clients: u64, amount: Amount) -> Sample {
        let before = self.ledger("hand_effect");
        metered(self, |stage| {
            let (_, seconds) = stage.pgbench(Some(script), clients, amount);
            let done = stage.ledger("hand_effect") - before;
            if let Amount::Seconds(_) = amount {
                let left: bool = crate::one(&mut stage.client, "SELECT EXISTS (SELECT FROM hand_job)");
                assert!(left, "the hand-written queue ran empty: use more jobs");
            }
            (done, seconds)
        })
    }

    /// How many effects a ledger has.
    ///
    /// # Panics
    /// When one is there twice.
    pub fn ledger(&mut self, table: &str) -> f64 {
        let sql = format!("SELECT count(*), count(DISTINCT n) FROM {table}");
        let row = self.client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let (all, distinct): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(all, distinct, "jobs ran more than once");
        all as f64
    }

    /// Empties pgq's tables and the ledger, pauses the queue and fills it by a bulk_put.
    pub fn fill(&mut self, queue: &str, jobs: u64) {
        let (first, last) = self.numbers(jobs);
        let sql = format!(
            "TRUNCATE pgq.job, pgq.finished_job, effect;
             SELECT pgq.pause('{queue}');
             SELECT count(*) FROM pgq.bulk_put('{queue}',
                 args => ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series({first}, {last}) n))"
        );
        run(&mut self.client, &sql);
        run(&mut self.client, "VACUUM ANALYZE pgq.job");
    }

    /// Lets the queue run until it is empty and looks at the ledger: `done` effects, each once. The
    /// time is from the call to the last commit of an effect or of a job that is dead.
    ///
    /// # Panics
    /// When it is not empty in time or the ledger is not even.
    pub fn drain(&mut self, queue: Option<&str>, jobs: u64, done: u64) -> Sample {
        let queue = queue.map_or("NULL".into(), |queue| format!("'{queue}'"));
        let sample = metered(self, |stage| {
            let began = now();
            run(&mut stage.client, &format!("SELECT pgq.resume({queue})"));
            stage.wait_empty();
            (jobs as f64, stage.last_commit() - began)
        });
        assert_eq!(self.ledger("effect"), done as f64, "not every job ran exactly once");
        sample
    }

    /// When the last effect, or death of a job, was committed.
    pub fn last_commit(&mut self) -> f64 {
        let sql = "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 FROM
                   (SELECT xmin FROM effect UNION ALL SELECT xmin FROM pgq.finished_job) ended";
        crate::one(&mut self.client, sql)
    }

    /// Waits until no job waits and no executor works.
    pub fn wait_empty(&mut self) {
        let client = &mut self.client;
        // Jobs last: that look costs more, the more were removed.
        let sql = "SELECT CASE WHEN EXISTS (SELECT FROM pgq.executors() WHERE state <> 'idle') THEN false
                   ELSE NOT EXISTS (SELECT FROM pgq.job) END";
        wait_until(PATIENCE, "the queue to be empty", || crate::one(client, sql));
    }

    /// Waits until no executor works.
    pub fn wait_idle(&mut self) {
        let client = &mut self.client;
        let sql = "SELECT NOT EXISTS (SELECT FROM pgq.executors() WHERE state <> 'idle')";
        wait_until(PATIENCE, "the executors to be idle", || crate::one(client, sql));
    }

    /// Lets dirty pages go, outside of what is measured.
    pub fn checkpoint(&mut self) {
        run(&mut self.client, "CHECKPOINT");
    }

    /// Sets a value for the whole server and lets it arrive.
    pub fn set(&mut self, name: &str, value: &str) {
        self.server.set(name, value);
        thread::sleep(Duration::from_millis(200));
    }
}
