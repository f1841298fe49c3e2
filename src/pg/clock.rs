//! The server's clock, and the arithmetic of `timestamptz` and `interval` that must be PostgreSQL's own.

use std::ffi::CStr;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::{direct_function_call, pg_sys, IntoDatum};

use super::{encoding, xact};
use crate::error::{Error, Result};

/// Microseconds since 2000-01-01, now, by the wall clock (`clock_timestamp()`).
pub fn now() -> i64 {
    // SAFETY: GetCurrentTimestamp reads the clock and touches nothing else.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// `at + interval`, with calendar months and days in the session's time zone. `None` if out of range
/// is never returned: PostgreSQL raises 22008.
pub fn add(at: i64, interval: Interval) -> Option<i64> {
    let args = [at.into_datum(), interval.into_datum()];
    // SAFETY: timestamptz_pl_interval takes (timestamptz, interval), both given and not null.
    unsafe { direct_function_call::<i64>(pg_sys::timestamptz_pl_interval, &args) }
}

/// The raw microseconds of a `timestamptz` argument; infinities are i64::MIN and i64::MAX.
pub fn raw(at: TimestampWithTimeZone) -> i64 {
    at.into_inner()
}

/// A moment from its text, in the session's time zone. 22007 or 22008 for what is none; then the transaction, or the
/// subtransaction, can only be aborted.
pub fn parse_moment(text: &str) -> Result<TimestampWithTimeZone> {
    const HINT: &str = "\"execute_at\": \"2030-01-01 12:00\"";
    let raw: Option<i64> = read(pg_sys::timestamptz_in, text, HINT)?;
    raw.and_then(|r| TimestampWithTimeZone::try_from(r).ok()).ok_or_else(|| Error::argument("invalid execute_at", HINT))
}

/// A length of time from its text. As `parse_moment`.
pub fn parse_interval(text: &str) -> Result<Interval> {
    const HINT: &str = "\"delay\": \"5 min\"";
    read(pg_sys::interval_in, text, HINT)?.ok_or_else(|| Error::argument("invalid delay", HINT))
}

type Input = unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

fn read<T: pgrx::FromDatum>(input: Input, text: &str, hint: &str) -> Result<Option<T>> {
    let text = encoding::to_server_c(text).ok_or_else(|| Error::argument("a text has a zero byte", hint))?;
    let args = [Some(text.as_ptr().into()), Some(pg_sys::Datum::from(0_u32)), (-1_i32).into_datum()];
    // SAFETY: an input function with (cstring, typioparam, typmod), as fmgr calls it. What it raises is raised again.
    let value = xact::catching(|| Ok(unsafe { direct_function_call(input, &args) }));
    value.map_err(|caught| match caught.sqlstate.starts_with("22") {
        true => Error::Unreadable {
            is_range: caught.sqlstate == "22008",
            message: caught.message,
            detail: caught.detail,
            hint: hint.into(),
        },
        false => Error::Internal(caught.message),
    })
}

/// A moment as the session writes it.
pub fn text(at: i64) -> String {
    // SAFETY: timestamptz_out takes one timestamptz and returns a palloc'd C string.
    let out: Option<&CStr> = unsafe { direct_function_call(pg_sys::timestamptz_out, &[at.into_datum()]) };
    out.map(|c| c.to_string_lossy().into_owned()).unwrap_or_default()
}
