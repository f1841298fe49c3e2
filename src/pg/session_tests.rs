//! What the `#[pg_test]`s share: a client's session as they use it. Each test runs in a transaction of its
//! own that is rolled back, beside others: so each takes queues and roles of its own names.

#![allow(clippy::expect_used, clippy::panic)]

use pgrx::Spi;

/// Runs statements for their effect.
pub fn run(sql: &str) {
    Spi::run(sql).expect(sql);
}

/// The one value of a query, as text.
pub fn value(sql: &str) -> Option<String> {
    Spi::get_one(&format!("SELECT (SELECT v::text FROM ({sql}) AS q (v))")).expect(sql)
}

/// The one value of a query, which is not NULL.
pub fn text(sql: &str) -> String {
    value(sql).unwrap_or_else(|| panic!("NULL: {sql}"))
}

/// The one number of a query.
pub fn number(sql: &str) -> i64 {
    text(sql).parse().expect(sql)
}

/// Is the one value of a query true?
pub fn holds(sql: &str) -> bool {
    text(sql) == "true"
}

/// The rows of a query, in its order, each as row literals are written: `(a,,1)`.
pub fn rows(sql: &str) -> Vec<String> {
    let sql = format!("SELECT q::text FROM ({sql}) AS q");
    Spi::connect_mut(|client| {
        let table = client.update(&sql, None, &[]).expect(&sql);
        table.map(|row| row.get::<String>(1).expect(&sql).unwrap_or_default()).collect()
    })
}

/// An error as a client sees it.
#[derive(Debug)]
pub struct Refusal {
    /// Five characters.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// DETAIL, or nothing.
    pub detail: String,
    /// HINT, or nothing.
    pub hint: String,
}

/// Catches as users do, by a block with an exception handler.
const CATCH: &str = "CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
    DECLARE state text; message text; detail text; hint text;
    BEGIN
        EXECUTE statement;
        RETURN NULL;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                                detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN ARRAY[state, message, detail, hint];
    END $$";

/// The error that a statement raises; `None` when it raises none.
pub fn error_of(sql: &str) -> Option<Refusal> {
    if holds("SELECT pg_catalog.to_regprocedure('pg_temp.refusal(text)') IS NULL") {
        run(CATCH);
    }
    let caught: Option<Vec<Option<String>>> =
        Spi::get_one_with_args("SELECT pg_temp.refusal($1)", &[sql.into()]).expect(sql);
    let mut parts = caught?.into_iter().map(Option::unwrap_or_default);
    let mut next = || parts.next().unwrap_or_default();
    Some(Refusal { sqlstate: next(), message: next(), detail: next(), hint: next() })
}

/// A statement that must fail with this SQLSTATE, and with a HINT.
pub fn refused(sql: &str, sqlstate: &str) -> Refusal {
    let error = error_of(sql).unwrap_or_else(|| panic!("no error: {sql}"));
    assert_eq!(error.sqlstate, sqlstate, "{sql}: {error:?}");
    assert!(!error.hint.is_empty(), "no HINT: {sql}: {error:?}");
    error
}

/// Makes a role that may log in, and has these accesses to all queues.
pub fn role(name: &str, accesses: &[&str]) {
    run(&format!("CREATE ROLE {name} LOGIN"));
    for access in accesses {
        run(&format!("SELECT pgq.grant_usage('{name}', '{access}')"));
    }
}

/// Does `work` as after SET ROLE: the session stays whose it is.
pub fn acting_as<T>(role: &str, work: impl FnOnce() -> T) -> T {
    run(&format!("SET LOCAL ROLE {role}"));
    let done = work();
    run("RESET ROLE");
    done
}

/// Does `work` in a session of that role's own.
pub fn logged_in_as<T>(role: &str, work: impl FnOnce() -> T) -> T {
    run(&format!("SET LOCAL SESSION AUTHORIZATION {role}"));
    let done = work();
    run("RESET SESSION AUTHORIZATION");
    done
}

/// Makes a handler for tests: a function in the schema `public`, with what it takes, returns and does.
pub fn function(signature: &str, returns: &str, body: &str) {
    run(&format!("CREATE FUNCTION public.{signature} RETURNS {returns} LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$"));
}
