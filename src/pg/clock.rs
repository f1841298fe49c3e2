//! The server's clock, and the arithmetic of `timestamptz` and `interval` that must be PostgreSQL's own.

use std::ffi::{CStr, CString};

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::{direct_function_call, pg_sys, IntoDatum};

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

/// A moment from its text, in the session's time zone. Raises 22007 or 22008 for what is none.
pub fn parse_moment(text: &str) -> Result<TimestampWithTimeZone> {
    let text = CString::new(text)
        .map_err(|_| Error::argument("invalid execute_at", "\"execute_at\": \"2030-01-01 12:00\""))?;
    let args = [Some(text.as_ptr().into()), Some(pg_sys::Datum::from(0_u32)), (-1_i32).into_datum()];
    // SAFETY: an input function with (cstring, typioparam, typmod), as fmgr calls it.
    let raw: Option<i64> = unsafe { direct_function_call(pg_sys::timestamptz_in, &args) };
    raw.and_then(|r| TimestampWithTimeZone::try_from(r).ok())
        .ok_or_else(|| Error::argument("invalid execute_at", "\"execute_at\": \"2030-01-01 12:00\""))
}

/// A length of time from its text. Raises 22007 or 22008 for what is none.
pub fn parse_interval(text: &str) -> Result<Interval> {
    let text = CString::new(text).map_err(|_| Error::argument("invalid delay", "\"delay\": \"5 min\""))?;
    let args = [Some(text.as_ptr().into()), Some(pg_sys::Datum::from(0_u32)), (-1_i32).into_datum()];
    // SAFETY: as above.
    let interval: Option<Interval> = unsafe { direct_function_call(pg_sys::interval_in, &args) };
    interval.ok_or_else(|| Error::argument("invalid delay", "\"delay\": \"5 min\""))
}

/// A moment as the session writes it.
pub fn text(at: i64) -> String {
    // SAFETY: timestamptz_out takes one timestamptz and returns a palloc'd C string.
    let out: Option<&CStr> = unsafe { direct_function_call(pg_sys::timestamptz_out, &[at.into_datum()]) };
    out.map(|c| c.to_string_lossy().into_owned()).unwrap_or_default()
}
