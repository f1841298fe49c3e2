//! PostgreSQL's own time zones, and the session's.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::encoding;

/// A time zone. It stays in a table of the process (pg_tzset, pgtz.c), so it is never freed.
#[derive(Clone, Copy)]
pub struct TimeZone(*mut pg_sys::pg_tz);

/// 2000-01-01 00:00 UTC by the count of `pg_time_t`, which begins in 1970.
const EPOCH: i64 = 946_684_800;

/// What holds at a moment: how far the wall clock is ahead of UTC, and until when. Seconds since 2000.
pub type Holds = (i64, Option<i64>);

impl TimeZone {
    /// The zone of a name, as `SET timezone` finds it; `None` for one that is not known, or counts leap seconds.
    pub fn find(name: &str) -> Option<TimeZone> {
        let name = encoding::to_server_c(name)?;
        // SAFETY: a C string; NULL for what is none. It reads a file of the installation, at most once for a name.
        unsafe {
            let zone = pg_sys::pg_tzset(name.as_ptr());
            (!zone.is_null() && pg_sys::pg_tz_acceptable(zone)).then_some(TimeZone(zone))
        }
    }

    /// The session's, by its name.
    pub fn of_session() -> String {
        // SAFETY: set since the backend started; the name is part of the zone.
        let name = unsafe { CStr::from_ptr(pg_sys::pg_get_timezone_name(pg_sys::session_timezone)) };
        encoding::from_server_c(name)
    }

    /// What holds at a moment, in seconds since 2000-01-01 UTC.
    pub fn at(self, moment: i64) -> Holds {
        let time = moment + EPOCH;
        let (mut before, mut after) = (0, 0);
        let (mut before_dst, mut after_dst, mut change) = (0, 0, 0);
        // SAFETY: the zone lives for ever; the rest are variables of ours that it sets (localtime.c).
        let found = unsafe {
            pg_sys::pg_next_dst_boundary(
                &raw const time,
                &raw mut before,
                &raw mut before_dst,
                &raw mut change,
                &raw mut after,
                &raw mut after_dst,
                self.0,
            )
        };
        (before, (found == 1).then_some(change - EPOCH))
    }
}
