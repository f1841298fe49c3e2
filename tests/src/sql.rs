//! Statements of tests, in a word each: what fails panics with the statement.

use postgres::types::FromSqlOwned;
use postgres::Client;

/// Runs one or more statements.
pub fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The one value that a query returns.
pub fn one<T: FromSqlOwned>(client: &mut Client, sql: &str) -> T {
    client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The number of rows of `from`: what may follow FROM.
pub fn count(client: &mut Client, from: &str) -> i64 {
    one(client, &format!("SELECT count(*) FROM {from}"))
}
