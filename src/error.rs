//! Every error that pgq raises itself: its SQLSTATE, DETAIL and HINT, all in this file.
//!
//! Functions return `Result<T, Error>` up to the edge; there `From<Error> for ErrorReport` turns the
//! value into PostgreSQL's error. A failing job is no `Error`: it is data (`pg::xact::Caught`).

use crate::pg::encoding;
use crate::pg::report::{Code, ErrorReport};

/// The result of everything that can fail because of what the caller asked for.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with a call, named by what the user must change.
#[derive(Debug, Clone)]
pub enum Error {
    /// 22023: an argument has a value that can never be right.
    Argument { message: String, detail: Option<String>, hint: String },
    /// 22007, or 22008 when it is out of range: a text that is no moment or no interval.
    Unreadable { is_range: bool, message: String, detail: Option<String>, hint: String },
    /// 22004: an argument that must be given is NULL.
    Null(&'static str),
    /// 54000: args larger than `pgq.max_args_size`.
    ArgsTooLarge { bytes: i64, limit: i64 },
    /// 42704: the job is not there (any more).
    NoSuchJob(i64),
    /// 42704: the flow is not there (any more).
    NoSuchFlow(i64),
    /// 42704: the role is not there.
    NoSuchRole(String),
    /// 42883: no function of that name, or none that fits.
    NoSuchFunction { name: String, found: Vec<String> },
    /// 42725: more than one function fits a bare name.
    AmbiguousFunction { name: String, found: Vec<String> },
    /// 42P13: the function exists but cannot be a handler.
    UnfitFunction { signature: String, reason: String, hint: String },
    /// 42501: the caller, the role or the function's owner lacks a right.
    Denied { message: String, detail: Option<String>, hint: String },
    /// 55000: the job or the server is not in a state in which this can be done.
    WrongState { message: String, hint: String },
    /// 55000: something, which this says, was planted on our tables; nothing is written until it is gone.
    Tampered(String),
    /// 55000: the extension has a version in this database that this library does not know.
    Unserved { message: String, hint: String },
    /// 23505: `on_conflict => 'error'` and a job with the key waits.
    DuplicateKey { queue: String, key: String, id: i64 },
    /// XX000: the extension's own tables are not as this library expects them.
    Internal(String),
}

impl Error {
    /// A 22023 without DETAIL.
    pub fn argument(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Argument { message: message.into(), detail: None, hint: hint.into() }
    }

    /// A 55000.
    pub fn state(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::WrongState { message: message.into(), hint: hint.into() }
    }

    /// A 42501 without DETAIL.
    pub fn denied(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Denied { message: message.into(), detail: None, hint: hint.into() }
    }
}

/// A text for a command in a HINT: whoever types it must not run what somebody put into a name.
fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

const SHAPES: &str =
    "A handler takes (args jsonb), (job pgq.job), (id bigint, args jsonb) or no argument; a function also (jobs pgq.job[]).";

fn report(code: Code, message: String) -> ErrorReport {
    ErrorReport::new(code, encoding::shown(&message).into_owned(), "pgq")
}

fn lookup_report(error: Error) -> ErrorReport {
    match error {
        Error::NoSuchFunction { name, found } if found.is_empty() => {
            report(Code::ERRCODE_UNDEFINED_FUNCTION, format!("function \"{name}\" does not exist"))
                .detail_shown(SHAPES)
                .hint_shown("Create the function first, or give its schema: pgq.register('queue', 'app.send_mail').")
        }
        Error::NoSuchFunction { name, found } => {
            report(Code::ERRCODE_UNDEFINED_FUNCTION, format!("no function \"{name}\" can be a handler"))
                .detail_shown(format!("{SHAPES} Found: {}.", found.join(", ")))
                .hint_shown("Change the function's arguments to one of these shapes, or name another function.")
        }
        Error::AmbiguousFunction { name, found } => {
            report(Code::ERRCODE_AMBIGUOUS_FUNCTION, format!("function name \"{name}\" is not unique"))
                .detail_shown(format!("These fit: {}.", found.join(", ")))
                .hint_shown(format!(
                    "Give the whole signature: pgq.register('queue', {}).",
                    literal(found.first().map_or("", String::as_str))
                ))
        }
        Error::UnfitFunction { signature, reason, hint } => {
            report(Code::ERRCODE_INVALID_FUNCTION_DEFINITION, format!("{signature} cannot be a handler"))
                .detail_shown(reason)
                .hint_shown(hint)
        }
        other => Internal(other).into(),
    }
}

/// Carries the variants that `lookup_report` does not know back to the general conversion.
struct Internal(Error);

impl From<Internal> for ErrorReport {
    fn from(inner: Internal) -> Self {
        report(Code::ERRCODE_INTERNAL_ERROR, format!("pgq: {:?}", inner.0))
            .hint_shown("This is a defect of pgq: please report it.")
    }
}

/// DETAIL and HINT as the database writes them: they may quote what a user called something.
trait Shown {
    fn detail_shown(self, detail: impl AsRef<str>) -> Self;
    fn hint_shown(self, hint: impl AsRef<str>) -> Self;
}

impl Shown for ErrorReport {
    fn detail_shown(self, detail: impl AsRef<str>) -> Self {
        self.set_detail(encoding::shown(detail.as_ref()))
    }

    fn hint_shown(self, hint: impl AsRef<str>) -> Self {
        self.set_hint(encoding::shown(hint.as_ref()))
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        match error {
            Error::Argument { message, detail, hint } => {
                with_detail(report(Code::ERRCODE_INVALID_PARAMETER_VALUE, message), detail).hint_shown(hint)
            }
            Error::Unreadable { is_range, message, detail, hint } => {
                let code = match is_range {
                    true => Code::ERRCODE_DATETIME_FIELD_OVERFLOW,
                    false => Code::ERRCODE_INVALID_DATETIME_FORMAT,
                };
                with_detail(report(code, message), detail).hint_shown(hint)
            }
            Error::Null(name) => {
                report(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("argument \"{name}\" must not be null"))
                    .hint_shown(format!("Give a value for \"{name}\"."))
            }
            Error::ArgsTooLarge { bytes, limit } => report(
                Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("args of {bytes} bytes exceed \"pgq.max_args_size\" of {limit} bytes"),
            )
            .hint_shown(
                "Put the data into a table and its key into args, or have a superuser raise \"pgq.max_args_size\".",
            ),
            Error::NoSuchJob(id) => report(Code::ERRCODE_UNDEFINED_OBJECT, format!("job {id} does not wait here"))
                .hint_shown(format!("It is finished, or was never put: SELECT * FROM pgq.wait({id}, '0').")),
            Error::NoSuchFlow(id) => report(Code::ERRCODE_UNDEFINED_OBJECT, format!("flow {id} does not exist"))
                .hint_shown("SELECT pgq.flow('name') makes one and returns its id."),
            Error::NoSuchRole(name) => {
                report(Code::ERRCODE_UNDEFINED_OBJECT, format!("role \"{name}\" does not exist"))
                    .hint_shown("CREATE ROLE first, or look for its name: SELECT rolname FROM pg_roles.")
            }
            Error::Denied { message, detail, hint } => {
                with_detail(report(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message), detail).hint_shown(hint)
            }
            Error::WrongState { message, hint } | Error::Unserved { message, hint } => {
                report(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint_shown(hint)
            }
            Error::Tampered(what) => report(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, what)
                .hint_shown("The commands that undo it: SELECT detail, fix FROM pgq.doctor() WHERE NOT ok."),
            Error::DuplicateKey { queue, key, id } => report(
                Code::ERRCODE_UNIQUE_VIOLATION,
                format!("a job with key \"{key}\" waits in queue \"{queue}\" already"),
            )
            .detail_shown(format!("It is job {id}."))
            .hint_shown("Use on_conflict => 'keep' to get its id, or 'replace' to change it."),
            Error::Internal(what) => report(Code::ERRCODE_INTERNAL_ERROR, what)
                .hint_shown("Compare pgq.version() with the installed library, and report this."),
            lookup => lookup_report(lookup),
        }
    }
}

fn with_detail(report: ErrorReport, detail: Option<String>) -> ErrorReport {
    match detail {
        Some(detail) => report.detail_shown(detail),
        None => report,
    }
}
