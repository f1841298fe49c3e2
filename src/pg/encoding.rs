//! Text between Rust, which is UTF-8, and a database that may be LATIN1, SQL_ASCII or another encoding.
//!
//! In a database that is not UTF-8 no text is converted: each byte beyond ASCII is carried through Rust as a character
//! of its own (private use, U+10FF80 to U+10FFFF) and is the same byte again where it goes back. So every text arrives
//! as it was, whatever it means, and nothing here looks at the catalog or fails: it is used in error callbacks too.
//! The server's encodings never use an ASCII byte as a part of another character.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

const UTF8: i32 = 6;
/// The character that stands for byte 0 of these, of which only the upper half is used.
const BYTES: u32 = 0x10_FF00;

fn is_utf8() -> bool {
    // SAFETY: reads a static of mbutils.c.
    unsafe { pg_sys::GetDatabaseEncoding() == UTF8 }
}

/// A text of the database's as Rust's. In a UTF-8 database what is not valid, which the server refuses, is replaced.
pub fn from_server(bytes: &[u8]) -> String {
    if is_utf8() {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let carried = |byte: &u8| char::from_u32(BYTES + u32::from(*byte)).unwrap_or('?');
    bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { carried(byte) }).collect()
}

/// The same for a C string.
pub fn from_server_c(text: &CStr) -> String {
    from_server(text.to_bytes())
}

/// Rust's text as the database's. A character that is none of its bytes, which only a text of our own has, becomes `?`.
pub fn to_server(text: &str) -> Cow<'_, [u8]> {
    if is_utf8() || text.is_ascii() {
        return Cow::Borrowed(text.as_bytes());
    }
    let byte = |c: char| u8::try_from(u32::from(c).wrapping_sub(BYTES)).ok().filter(|byte| !byte.is_ascii());
    let plain = |c: char| u8::try_from(c).ok().filter(u8::is_ascii);
    Cow::Owned(text.chars().map(|c| plain(c).or_else(|| byte(c)).unwrap_or(b'?')).collect())
}

/// The same as a C string; `None` for a text with a zero byte.
pub fn to_server_c(text: &str) -> Option<CString> {
    CString::new(to_server(text)).ok()
}

/// How many bytes the text has in the database.
pub fn length(text: &str) -> usize {
    to_server(text).len()
}

/// A text for a message: what the server is given must be valid UTF-8 for Rust, and is taken for the database's.
pub fn shown(text: &str) -> Cow<'_, str> {
    match to_server(text) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(bytes) => Cow::Owned(
            String::from_utf8(bytes)
                .unwrap_or_else(|_| text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()),
        ),
    }
}
