//! Text between Rust, which is UTF-8, and a database that may be LATIN1 or another encoding.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

const UTF8: i32 = 6;
const SQL_ASCII: i32 = 0;

/// Is every character of Rust's one of the database's?
pub fn is_utf8() -> bool {
    // SAFETY: reads a static of mbutils.c.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    encoding == UTF8 || encoding == SQL_ASCII
}

/// A C string of the database's as Rust's. What is not valid there either is replaced.
pub fn from_server(text: &CStr) -> String {
    if is_utf8() {
        return text.to_string_lossy().into_owned();
    }
    // SAFETY: pg_server_to_any returns its argument or a palloc'd C string.
    unsafe {
        let len = i32::try_from(text.count_bytes()).unwrap_or(i32::MAX);
        let utf8 = pg_sys::pg_server_to_any(text.as_ptr(), len, UTF8);
        CStr::from_ptr(utf8).to_string_lossy().into_owned()
    }
}

/// Rust's text in the database's encoding. Raises 22P05 for a character that it does not have; `None` for a text
/// with a zero byte.
pub fn to_server(text: &str) -> Option<CString> {
    let text = CString::new(text).ok()?;
    if is_utf8() {
        return Some(text);
    }
    // SAFETY: pg_any_to_server returns its argument or a palloc'd C string.
    unsafe {
        let len = i32::try_from(text.count_bytes()).unwrap_or(i32::MAX);
        let converted = pg_sys::pg_any_to_server(text.as_ptr(), len, UTF8);
        Some(CStr::from_ptr(converted).to_owned())
    }
}
