//! What stats says, beside what is counted in the tables.

use postgres::Client;

/// A queue's numbers: ready, scheduled, leased, dead.
pub type Numbers = (String, i64, i64, i64, i64);

/// A live or a kept job makes a queue a row.
const COUNTED: &str = "
    SELECT queue, count(*) FILTER (WHERE state = 'ready'), count(*) FILTER (WHERE state = 'scheduled'),
           count(*) FILTER (WHERE state = 'leased'), count(*) FILTER (WHERE state = 'dead')
      FROM (SELECT queue, state FROM pgq.job UNION ALL SELECT queue, outcome FROM pgq.finished_job) AS j
     GROUP BY queue ORDER BY queue COLLATE \"C\"";
/// Others have a handler, or settings.
const SHOWN: &str = "
    SELECT s.queue, s.ready, s.scheduled, s.leased, s.dead FROM pgq.stats() AS s
     WHERE s.ready + s.scheduled + s.leased + s.dead > 0
        OR EXISTS (SELECT FROM pgq.finished_job AS f WHERE f.queue = s.queue)
        OR s.handlers = 0 AND NOT EXISTS (SELECT FROM pgq.queue_setting AS q WHERE q.queue = s.queue)
     ORDER BY s.queue COLLATE \"C\"";

fn numbers(client: &mut Client, sql: &str) -> Result<Vec<Numbers>, String> {
    let rows = client.query(sql, &[]).map_err(|error| format!("{sql}: {error:?}"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect())
}

/// What the tables hold.
///
/// # Errors
/// The server's.
pub fn counted(client: &mut Client) -> Result<Vec<Numbers>, String> {
    numbers(client, COUNTED)
}

/// Compares, while nothing is in flight.
///
/// # Errors
/// What is different.
pub fn compare(client: &mut Client) -> Result<(), String> {
    let (shown, counted) = (numbers(client, SHOWN)?, counted(client)?);
    if shown != counted {
        return Err(format!("stats says {shown:?}, the tables hold {counted:?}"));
    }
    Ok(())
}

/// Does stats show counters, and not what is in the tables?
///
/// # Panics
/// When the server cannot be asked.
pub fn by_counters(client: &mut Client) -> bool {
    let mut transaction = client.transaction().expect("a transaction");
    let by_hand = "INSERT INTO pgq.job (queue, args, execute_at, state) VALUES ('by_hand', '{}', now(), 'ready')";
    transaction.batch_execute(by_hand).expect("a row by hand");
    let rows = transaction.query("SELECT FROM pgq.stats('by_hand')", &[]).expect("stats");
    transaction.rollback().expect("a rollback");
    rows.is_empty()
}
