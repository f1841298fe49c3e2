//! Producers: threads that put jobs and write them down in the same transaction, in all the ways
//! there are, while the server is killed under them. A commit whose answer got lost needs no
//! thought: the job and the row in the books are there together or not at all.

use super::books::QUEUE;
use crate::server::Server;
use crate::torture::Rng;
use postgres::{Client, Config, NoTls};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What producers put.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Into this queue.
    pub queue: &'static str,
    /// How many producers at the same time.
    pub producers: usize,
    /// How many jobs may wait before the producers rest.
    pub backlog: i64,
    /// A job's handler sleeps up to so long, in ms.
    pub sleep_ms: u64,
    /// Of 100 jobs so many fail once or twice before they succeed.
    pub failing: u64,
    /// Of 100 jobs so many never succeed.
    pub hopeless: u64,
    /// SQLSTATEs that a put may get, besides those of a server that goes down.
    pub tolerated: &'static [&'static str],
}

impl Default for Mix {
    fn default() -> Mix {
        let (producers, backlog, sleep_ms, failing, hopeless) = (3, 100, 20, 5, 1);
        Mix { queue: QUEUE, producers, backlog, sleep_ms, failing, hopeless, tolerated: &[] }
    }
}

/// Producers at work.
#[derive(Debug)]
pub struct Load {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Produced>>,
}

/// What they did.
#[derive(Debug, Default)]
pub struct Produced {
    /// Transactions that committed, as far as they know.
    pub commits: u64,
    /// Transactions that got an error that a fault explains.
    pub refused: u64,
    /// Errors that nothing explains.
    pub surprises: Vec<String>,
}

impl Load {
    /// Starts them.
    pub fn start(server: &Server, database: &str, mix: &Mix, rng: &mut Rng) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = (0..mix.producers).map(|_| {
            let config = server.config(database, "postgres");
            let producer = Producer { config, mix: mix.clone(), rng: rng.fork(), is_over: is_over.clone() };
            thread::spawn(move || producer.work())
        });
        let threads = threads.collect();
        Load { is_over, threads }
    }

    /// Stops them and says what they did.
    ///
    /// # Panics
    /// When one of them did.
    pub fn finish(self) -> Produced {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Produced::default();
        for thread in self.threads {
            let one = thread.join().expect("a producer ends by itself");
            all.commits += one.commits;
            all.refused += one.refused;
            all.surprises.extend(one.surprises);
        }
        all
    }
}

/// A server that goes down, or is not there: class 57, and connections that end.
fn is_expected(error: &postgres::Error, tolerated: &[&str]) -> bool {
    match error.code() {
        Some(code) => ["57P01", "57P02", "57P03"].contains(&code.code()) || tolerated.contains(&code.code()),
        None => true,
    }
}

struct Producer {
    config: Config,
    mix: Mix,
    rng: Rng,
    is_over: Arc<AtomicBool>,
}

impl Producer {
    fn work(mut self) -> Produced {
        let mut produced = Produced::default();
        let mut client: Option<Client> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let Some(connected) = client.as_mut() else {
                client = self.config.connect(NoTls).ok();
                if client.is_none() {
                    thread::sleep(Duration::from_millis(10));
                }
                continue;
            };
            match self.put_once(connected) {
                Ok(true) => produced.commits += 1,
                Ok(false) => thread::sleep(Duration::from_millis(5)),
                Err(error) => {
                    produced.refused += 1;
                    if !is_expected(&error, self.mix.tolerated) {
                        produced.surprises.push(format!("a put got {error:?}"));
                    }
                    // A transaction that failed is still open in some of the ways.
                    client = None;
                }
            }
        }
        produced
    }

    /// One transaction; false when enough jobs wait.
    fn put_once(&mut self, client: &mut Client) -> Result<bool, postgres::Error> {
        let waiting = format!("SELECT count(*) FROM (SELECT FROM pgq.job LIMIT {}) AS waiting", self.mix.backlog);
        if client.query_one(&waiting, &[])?.get::<_, i64>(0) >= self.mix.backlog {
            return Ok(false);
        }
        let sql = self.transaction();
        client.batch_execute(&sql)?;
        Ok(true)
    }

    fn transaction(&mut self) -> String {
        match self.rng.below(100) {
            0..=39 => self.single(""),
            40..=54 => {
                let priority = self.rng.below(11);
                self.single(&format!(", priority => {priority} - 5"))
            }
            55..=69 => {
                let delay = self.rng.below(300);
                self.single(&format!(", delay => '{delay} ms'"))
            }
            70..=84 => self.bulk(),
            85..=94 => format!("BEGIN; {}; ROLLBACK", self.single("")),
            _ => format!("BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT", self.single(""), self.single("")),
        }
    }

    /// Quantity, failures, and args that say both.
    fn job(&mut self) -> (u64, u64, String) {
        let qty = self.rng.between(1, 1000);
        let fails = match self.rng.below(100) {
            n if n < self.mix.hopeless => 1_000_000,
            n if n < self.mix.hopeless + self.mix.failing => self.rng.between(1, 2),
            _ => 0,
        };
        let args = format!("{{\"qty\": {qty}, \"fails\": {fails}, \"ms\": {}}}", self.mix.sleep_ms);
        (qty, fails, args)
    }

    fn single(&mut self, options: &str) -> String {
        let (qty, fails, args) = self.job();
        let queue = self.mix.queue;
        format!("INSERT INTO led_put SELECT pgq.put('{queue}', '{args}'{options}), {qty}, {fails}")
    }

    fn bulk(&mut self) -> String {
        let jobs: Vec<(u64, u64, String)> = (0..self.rng.between(1, 30)).map(|_| self.job()).collect();
        let list = |what: &dyn Fn(&(u64, u64, String)) -> String| jobs.iter().map(what).collect::<Vec<_>>().join(", ");
        let args = list(&|(_, _, args)| format!("{{\"args\": {args}}}"));
        let (qty, fails) = (list(&|(qty, _, _)| qty.to_string()), list(&|(_, fails, _)| fails.to_string()));
        format!(
            "INSERT INTO led_put SELECT id, (ARRAY[{qty}])[n], (ARRAY[{fails}])[n]
               FROM pgq.bulk_put('{}', jobs => '[{args}]') WITH ORDINALITY AS job (id, n)",
            self.mix.queue
        )
    }
}
