//! The server's log, from workers.

use super::encoding::shown;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// One LOG line.
pub fn line(message: &str) {
    pgrx::log!("pgq: {}", shown(message));
}

/// One WARNING line.
pub fn warning(message: &str) {
    pgrx::warning!("pgq: {}", shown(message));
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
