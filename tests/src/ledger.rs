//! The ledger: a table without any unique index into which handlers insert the id of the job they
//! ran. Compared with the ids that were put and the ids that are dead, it shows a job that was lost
//! and a job that ran twice.
//!
//! What is here does for a test that puts its jobs itself. Long runs keep `books`: `producers` write
//! down what they put, handlers what they did, and the `verdict` compares quantities and attempts
//! too, while `state` looks at what the server is left with.

pub mod books;
pub mod producers;
pub mod state;
pub mod verdict;

use postgres::Client;
use std::collections::BTreeMap;
use std::fmt;

/// Where dead jobs are found unless a test says otherwise.
const DEAD: &str = "SELECT id FROM pgq.finished_job WHERE outcome = 'dead'";

/// A ledger table.
pub struct Ledger {
    table: String,
}

impl Ledger {
    /// Creates the table, empty: one column `id bigint`, no unique index, writable by everybody.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create(client: &mut Client, table: &str) -> Ledger {
        let sql = format!("CREATE TABLE {table} (id bigint); GRANT INSERT, SELECT ON {table} TO PUBLIC");
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("ledger {table}: {error}"));
        Ledger { table: table.to_owned() }
    }

    /// Compares the jobs that were put with the ledger and the dead jobs, and prints the counts.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn verify(&self, client: &mut Client, put: &[i64]) -> Verdict {
        self.verify_with(client, put, DEAD)
    }

    /// The same, with the query that finds the dead jobs' ids.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn verify_with(&self, client: &mut Client, put: &[i64], dead: &str) -> Verdict {
        let ran = ids(client, &format!("SELECT id FROM {}", self.table));
        let verdict = compare(put, &ran, &ids(client, dead));
        println!("ledger {}: {verdict}", self.table);
        verdict
    }

    /// How many rows there are now.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn count(&self, client: &mut Client) -> i64 {
        let sql = format!("SELECT count(*) FROM {}", self.table);
        client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }
}

fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Jobs put.
    pub put: usize,
    /// Rows of the ledger.
    pub ran: usize,
    /// Dead jobs.
    pub dead: usize,
    /// Put, but neither in the ledger nor dead.
    pub missing: Vec<i64>,
    /// In the ledger and among the dead more than once in all.
    pub doubled: Vec<i64>,
    /// In the ledger or dead, but never put.
    pub unknown: Vec<i64>,
}

impl Verdict {
    /// Each job that was put is in the ledger or dead, exactly once, and nothing else is.
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.doubled.is_empty() && self.unknown.is_empty()
    }

    /// Fails the test unless the comparison is exact.
    ///
    /// # Panics
    /// When a job is missing, doubled or unknown.
    pub fn assert_exact(&self) {
        assert!(self.is_exact(), "not exactly once: {self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} put, {} ran, {} dead", self.put, self.ran, self.dead)?;
        for (name, ids) in [("missing", &self.missing), ("doubled", &self.doubled), ("unknown", &self.unknown)] {
            let first: Vec<String> = ids.iter().take(5).map(i64::to_string).collect();
            write!(out, ", {} {name}", ids.len())?;
            if !first.is_empty() {
                write!(out, " ({}{})", first.join(", "), if ids.len() > 5 { ", …" } else { "" })?;
            }
        }
        Ok(())
    }
}

/// Counts each id on both sides.
pub fn compare(put: &[i64], ran: &[i64], dead: &[i64]) -> Verdict {
    let mut seen: BTreeMap<i64, usize> = put.iter().map(|id| (*id, 0)).collect();
    let mut verdict = Verdict { put: put.len(), ran: ran.len(), dead: dead.len(), ..Verdict::default() };
    for id in ran.iter().chain(dead) {
        match seen.get_mut(id) {
            Some(count) => *count += 1,
            None => verdict.unknown.push(*id),
        }
    }
    for (id, count) in seen {
        match count {
            0 => verdict.missing.push(id),
            1 => {}
            _ => verdict.doubled.push(id),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_once_is_exact_wherever_it_ended() {
        assert!(compare(&[1, 2, 3], &[3, 1], &[2]).is_exact());
    }

    #[test]
    fn a_lost_job_a_double_run_and_a_stranger_are_found() {
        let verdict = compare(&[1, 2, 3, 4], &[1, 1, 9], &[4]);
        assert_eq!(verdict.missing, [2, 3]);
        assert_eq!(verdict.doubled, [1]);
        assert_eq!(verdict.unknown, [9]);
        assert!(!verdict.is_exact());
        assert_eq!(verdict.to_string(), "4 put, 3 ran, 1 dead, 2 missing (2, 3), 1 doubled (1), 1 unknown (9)");
    }

    #[test]
    fn a_job_that_ran_and_is_dead_is_doubled() {
        assert_eq!(compare(&[1], &[1], &[1]).doubled, [1]);
    }
}
