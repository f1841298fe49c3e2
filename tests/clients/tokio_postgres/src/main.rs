//! A worker for one queue, with tokio-postgres: `cargo run`.
//!
//! Two ways to claim, `PGQ_WAY`:
//!
//! * `transaction`: Claim, work and COMMIT are one transaction: what the work does on this connection
//!   happens exactly once. A job that kills the worker (out of memory, a segfault) is back at once and
//!   nothing is counted, so it can kill one worker after the other, for ever.
//! * `lease`: The claim commits at once; the job is done again if this worker does not complete it
//!   while the lease lasts: at least once. A job that kills the worker is back when its lease ends, a
//!   failure is counted, and at `max_attempts` the job is dead. For long work, and for work that is not
//!   in the database.

use serde_json::Value;
use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::{watch, Notify};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, GenericClient, NoTls, Row};

/// What the work and the database say when something is wrong.
type Failure = Box<dyn Error + Send + Sync>;

// --- the work: one arm for each task of the queue

const TASKS: [&str; 3] = ["insert", "sleep", "fail"];

struct Job {
    id: i64,
    attempt: i32,
    task: String,
    args: Value,
}

/// In the transaction way `database` is the transaction of the claim.
async fn run_task(database: &impl GenericClient, job: &Job) -> Result<(), Failure> {
    let insert = "INSERT INTO effect (job, attempt) VALUES ($1, $2)";
    database.query_typed(insert, &[(&job.id, Type::INT8), (&job.attempt, Type::INT4)]).await?;
    match job.task.as_str() {
        "sleep" => sleep(Duration::from_secs_f64(job.args["seconds"].as_f64().ok_or("no seconds")?)).await,
        "fail" => return Err("failed on purpose".into()),
        _ => {}
    }
    Ok(())
}

// --- one job

/// The queue's worker, and how it claims. Each statement is `query_typed`: one round trip with no named
/// statement, so that a pooler in transaction mode may be in between.
struct Worker {
    dsn: String,
    queue: String,
    is_lease: bool,
    lease_seconds: f64,
    /// For what no notification tells: jobs whose notification was lost with a connection.
    poll: Duration,
    /// Behind a pooler in transaction mode LISTEN does not last.
    is_pooled: bool,
}

impl Worker {
    /// Claims a job, does it, and commits both. False: there is none.
    async fn run_in_transaction(&self, client: &mut Client) -> Result<bool, tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        let claim = "SELECT id, attempt, task, args FROM pgq.claim($1, tasks => $2)";
        let row = transaction
            .query_typed_opt(claim, &[(&self.queue, Type::TEXT), (&TASKS.as_slice(), Type::TEXT_ARRAY)])
            .await?;
        let Some(job) = row.map(Job::from) else { return Ok(false) };
        let result = match run_task(&transaction, &job).await {
            Ok(()) => transaction.commit().await.map_err(Failure::from),
            Err(failure) => {
                // Fails when the connection is lost: then the server has the job back already, and
                // nothing is to be counted.
                transaction.rollback().await?;
                Err(failure)
            }
        };
        if let Err(failure) = result {
            record_failure(client, &job, &failure).await?;
        }
        Ok(true)
    }

    /// Claims a job with a lease, does it, and completes it. False: there is none.
    async fn run_with_lease(&self, client: &Client) -> Result<bool, tokio_postgres::Error> {
        let claim = "SELECT id, attempt, task, args
                       FROM pgq.claim($1, tasks => $2, lease => make_interval(secs => $3))";
        let row = client
            .query_typed_opt(
                claim,
                &[
                    (&self.queue, Type::TEXT),
                    (&TASKS.as_slice(), Type::TEXT_ARRAY),
                    (&self.lease_seconds, Type::FLOAT8),
                ],
            )
            .await?;
        let Some(job) = row.map(Job::from) else { return Ok(false) };
        let heart = self.start_heartbeat(&job);
        let result = run_task(client, &job).await;
        heart.abort();
        if let Err(failure) = result {
            record_failure(client, &job, &failure).await?;
            return Ok(true);
        }
        let complete = "SELECT pgq.complete($1, $2)";
        let row = client.query_typed_one(complete, &[(&job.id, Type::INT8), (&job.attempt, Type::INT4)]).await?;
        if !row.get::<_, bool>(0) {
            eprintln!("job {}: attempt {} had lost its lease; it is done again", job.id, job.attempt);
        }
        Ok(true)
    }

    /// Extends the lease every third of it, in a task, on a connection of its own. Work that computes
    /// for long belongs into `spawn_blocking`.
    fn start_heartbeat(&self, job: &Job) -> JoinHandle<()> {
        let (dsn, id, attempt, lease) = (self.dsn.clone(), job.id, job.attempt, self.lease_seconds);
        tokio::spawn(async move {
            let mut beats = interval(Duration::from_secs_f64(lease / 3.0));
            beats.tick().await; // the first is at once
            loop {
                beats.tick().await;
                if let Err(error) = extend(&dsn, id, attempt, lease).await {
                    eprintln!("no heartbeat this time: {error}");
                }
            }
        })
    }

    // --- the loop

    /// Works until it shall stop or the connection is lost.
    async fn work(&self, stop: &mut watch::Receiver<bool>) -> Result<(), tokio_postgres::Error> {
        let (mut client, called) = connect(&self.dsn).await?;
        if !self.is_pooled {
            client.batch_execute(&format!("LISTEN \"pgq_{}\"", self.queue)).await?;
        }
        while !*stop.borrow() {
            let found = match self.is_lease {
                true => self.run_with_lease(&client).await?,
                false => self.run_in_transaction(&mut client).await?,
            };
            if !found {
                tokio::select! {
                    // A call that came during the claim is kept.
                    _ = timeout(self.poll, called.notified()) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        Ok(())
    }
}

impl From<Row> for Job {
    fn from(row: Row) -> Job {
        Job { id: row.get(0), attempt: row.get(1), task: row.get(2), args: row.get(3) }
    }
}

/// In a transaction of its own: otherwise the failing job would be the next one, at once, for ever.
async fn record_failure(client: &Client, job: &Job, failure: &Failure) -> Result<(), tokio_postgres::Error> {
    eprintln!("job {}, attempt {}: {failure}", job.id, job.attempt);
    let fail = "SELECT pgq.fail($1, $2, $3)";
    let message = failure.to_string();
    client.query_typed(fail, &[(&job.id, Type::INT8), (&job.attempt, Type::INT4), (&message, Type::TEXT)]).await?;
    Ok(())
}

async fn extend(dsn: &str, id: i64, attempt: i32, seconds: f64) -> Result<(), tokio_postgres::Error> {
    let (client, _) = connect(dsn).await?;
    let extend = "SELECT pgq.extend($1, $2, make_interval(secs => $3))";
    client.query_typed(extend, &[(&id, Type::INT8), (&attempt, Type::INT4), (&seconds, Type::FLOAT8)]).await?;
    Ok(())
}

/// A connection, and what is called by each notification and when the connection is lost.
async fn connect(dsn: &str) -> Result<(Client, Arc<Notify>), tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = dsn.parse()?;
    let (client, mut connection) = config.connect_timeout(Duration::from_secs(10)).connect(NoTls).await?;
    let called = Arc::new(Notify::new());
    let caller = Arc::clone(&called);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message {
                caller.notify_one();
            }
        }
        caller.notify_one();
    });
    Ok((client, called))
}

/// Set by SIGTERM and SIGINT.
fn stop_on_signals() -> Result<watch::Receiver<bool>, Failure> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        // The receivers would take its end for a change.
        sender.closed().await;
    });
    Ok(receiver)
}

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let worker = Worker {
        dsn: setting("PGQ_DSN", "postgresql:///"),
        queue: std::env::var("PGQ_QUEUE")?,
        is_lease: setting("PGQ_WAY", "transaction") == "lease",
        lease_seconds: setting("PGQ_LEASE_SECONDS", "30").parse()?,
        poll: Duration::from_secs(setting("PGQ_POLL_SECONDS", "30").parse()?),
        is_pooled: setting("PGQ_POOLED", "0") == "1",
    };
    let mut stop = stop_on_signals()?;
    let mut pause = Duration::from_millis(100);
    while !*stop.borrow() {
        let began = std::time::Instant::now();
        if let Err(error) = worker.work(&mut stop).await {
            if began.elapsed() > Duration::from_secs(5) {
                pause = Duration::from_millis(100);
            }
            eprintln!("connection lost, next try in {pause:?}: {error}");
            let _ = timeout(pause, stop.changed()).await;
            pause = (2 * pause).min(Duration::from_secs(5));
        }
    }
    Ok(())
}
