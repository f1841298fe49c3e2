//! What most parts have in common: a server with books, producers at work, a session that survives
//! crashes, and the verdict at the end.

use super::Run;
use crate::ledger::books;
use crate::ledger::producers::{Load, Mix};
use crate::ledger::state;
use crate::ledger::verdict::{judge, Rules, Verdict};
use crate::process;
use crate::server::{Builder, Server};
use postgres::{Client, Config, NoTls};
use std::thread;
use std::time::{Duration, Instant};

/// The database with the books.
pub const DATABASE: &str = "shop";

/// The promise: so long after the last fault every job is done.
const DRAINED: Duration = Duration::from_secs(10);

/// How long a question may go unanswered: a crash of the server on a busy machine, twice.
const PATIENCE: Duration = Duration::from_secs(120);

/// A session that connects again when the server was gone.
pub struct Watch {
    config: Config,
    client: Option<Client>,
}

impl Watch {
    /// Of a database of the server.
    pub fn new(server: &Server, database: &str) -> Watch {
        Watch { config: server.config(database, "postgres"), client: None }
    }

    /// Tries once; none when the server is not there, or went.
    pub fn try_ask<T>(&mut self, question: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Option<T> {
        if self.client.is_none() {
            self.client = self.config.connect(NoTls).ok();
        }
        let answer = self.client.as_mut().and_then(|client| question(client).ok());
        if answer.is_none() {
            self.client = None;
        }
        answer
    }

    /// Asks until there is an answer.
    ///
    /// # Panics
    /// When there is none for two minutes.
    pub fn ask<T>(&mut self, mut question: impl FnMut(&mut Client) -> Result<T, postgres::Error>) -> T {
        crate::wait_for(PATIENCE, "the server to answer", || self.try_ask(&mut question))
    }

    /// The session, connected.
    ///
    /// # Panics
    /// As [`Watch::ask`].
    pub fn client(&mut self) -> &mut Client {
        self.ask(|client| client.batch_execute("SELECT"));
        self.client.as_mut().expect("it has just answered")
    }

    /// The number that a query returns.
    ///
    /// # Panics
    /// As [`Watch::ask`].
    pub fn number(&mut self, sql: &str) -> i64 {
        self.ask(|client| client.query_one(sql, &[])).get(0)
    }

    /// The pid that a query returns in its first row, if it returns any: tried once.
    pub fn pid(&mut self, sql: &str) -> Option<u32> {
        let row = self.try_ask(|client| client.query_opt(sql, &[])).flatten()?;
        u32::try_from(row.get::<_, i32>(0)).ok()
    }
}

/// A server under load.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// The session.
    pub watch: Watch,
    /// What is promised.
    pub rules: Rules,
    /// Pieces of alarming log lines that the part's faults explain.
    pub expected: Vec<&'static str>,
    load: Option<Load>,
}

impl Stage {
    /// A server with books; nobody puts yet.
    ///
    /// # Panics
    /// When the server does not start.
    pub fn open(builder: Builder, rules: Rules) -> Stage {
        let server = builder.start();
        books::open(&server, DATABASE, rules.max_attempts);
        let watch = Watch::new(&server, DATABASE);
        Stage { server, watch, rules, expected: Vec::new(), load: None }
    }

    /// Producers begin.
    pub fn begin(&mut self, run: &mut Run, mix: &Mix) {
        self.load = Some(Load::start(&self.server, DATABASE, mix, &mut run.rng));
    }

    /// Producers end, the rest is drained, and everything is compared and looked at.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn close(mut self, run: &mut Run) -> Verdict {
        self.end_load(run);
        self.drain(run);
        let record = self.watch.ask(books::read);
        let verdict = judge(&record, &self.rules);
        eprintln!("{}: {verdict}", run.part.id);
        if !verdict.is_even() {
            run.differ(&verdict);
        }
        let mut client = self.server.connect(DATABASE);
        state::leftovers(&self.server, &mut client).iter().for_each(|left| run.differ(left));
        let alarms = state::alarms(&self.server.log(), 0, &self.expected);
        alarms.iter().take(5).for_each(|line| run.differ(line));
        if !run.differences().is_empty() {
            keep_log(&format!("{}-{}", run.part.id, run.seed), &self.server);
        }
        verdict
    }

    /// Producers end.
    pub fn end_load(&mut self, run: &mut Run) {
        if let Some(load) = self.load.take() {
            let produced = load.finish();
            produced.surprises.iter().take(5).for_each(|surprise| run.differ(surprise));
        }
    }

    /// Waits until nothing is left, and says so if that takes longer than promised.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn drain(&mut self, run: &mut Run) {
        let began = Instant::now();
        let limit = run.allow(DRAINED);
        while self.watch.number("SELECT count(*) FROM pgq.job") > 0 {
            if began.elapsed() > limit {
                run.differ(format!("not drained {limit:?} after the last fault"));
                self.say_why(run);
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        run.took("drained", began.elapsed());
    }

    /// Why what is left does not run, as pgq says it.
    fn say_why(&mut self, run: &Run) {
        let sql =
            "SELECT format('%s %s %s %s: %s', queue, state, attempt, failures, pgq.waiting(id)) FROM pgq.job LIMIT 5";
        let rows = self.watch.try_ask(|client| client.query(sql, &[])).unwrap_or_default();
        rows.iter().for_each(|row| eprintln!("{}: {}", run.part.id, row.get::<_, String>(0)));
    }
}

/// For whoever looks for the cause: the server and its directory go.
fn keep_log(name: &str, server: &Server) {
    let path = crate::repository().join(format!("target/logs/torture-{name}.log"));
    let folder = path.parent().map(std::fs::create_dir_all);
    match folder.transpose().and_then(|_| std::fs::write(&path, server.log())) {
        Ok(()) => eprintln!("the server's log is kept in {}", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
    for pid in process::working_in(&server.data_directory()) {
        eprintln!("still there: {}", process::describe(pid));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            keep_log(&format!("panic-{}", std::process::id()), &self.server);
        }
        // A part that did not get to its end; their threads must not outlive the server.
        if let Some(load) = self.load.take() {
            load.finish();
        }
    }
}
