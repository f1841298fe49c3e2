//! The server's log, from workers.

use super::encoding::shown;
use super::session;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// One LOG line. A cancel that is pending stays so: to report anything answers interrupts (errfinish, elog.c), and
/// between two transactions nobody catches what that raises.
pub fn line(message: &str) {
    session::without_cancel(|| pgrx::log!("pgq: {}", shown(message)));
}

/// One WARNING line, as `line`.
pub fn warning(message: &str) {
    session::without_cancel(|| pgrx::warning!("pgq: {}", shown(message)));
}

/// A NOTICE to the client.
pub fn notice(message: &str) {
    pgrx::notice!("{}", shown(message));
}

/// A WARNING to the client with a SQLSTATE and a hint.
pub fn warn_client(sqlstate: &str, message: &str, hint: &str) {
    let code = match sqlstate {
        "25P01" => PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
        _ => PgSqlErrorCode::ERRCODE_WARNING,
    };
    ErrorReport::new(code, shown(message).into_owned(), "pgq")
        .set_hint(shown(hint).into_owned())
        .report(PgLogLevel::WARNING);
}
