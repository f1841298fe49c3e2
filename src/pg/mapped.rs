//! A small file below the data directory, mapped into memory: what is stored there survives the death of every
//! process of the server, without WAL and without a sync.
//!
//! The file is never truncated, and every block of it exists before it is mapped: a store into a hole of a full
//! disk would be a SIGBUS, which is a crash of the server.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use pgrx::pg_sys;

/// The mapped words of a file, and which file that is.
#[derive(Clone, Copy)]
pub struct Mapped {
    /// Lives as long as the process.
    pub words: &'static [AtomicU64],
    /// The file's device.
    pub device: u64,
    /// The file's inode.
    pub inode: u64,
}

const WORD: usize = size_of::<u64>();
const READ_WRITE: i32 = 1 | 2;
const SHARED: i32 = 1;

// SAFETY: mmap(2) and posix_fallocate(3) as Linux and the BSDs declare them for 64-bit offsets; the two variables of
// common/file_perm.h.
unsafe extern "C" {
    fn mmap(
        at: *mut std::ffi::c_void,
        length: usize,
        protection: i32,
        flags: i32,
        file: i32,
        offset: i64,
    ) -> *mut std::ffi::c_void;
    fn posix_fallocate(file: i32, offset: i64, length: i64) -> i32;
    static pg_file_create_mode: i32;
    static pg_dir_create_mode: i32;
}

/// Maps the file at `path`, relative to the data directory, if it has exactly `words` words and all its blocks.
///
/// # Errors
/// `NotFound`, `InvalidData` for another size or a hole, or what the system says.
pub fn open(path: &str, words: usize) -> io::Result<Mapped> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let found = file.metadata()?;
    // Blocks of 512 bytes, whatever the file system's own are (stat(2)); a copying program may have made holes.
    if !found.is_file() || found.len() != (words * WORD) as u64 || found.blocks() * 512 < found.len() {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    map(&file, words)
}

/// Makes the file anew, all zero, in place of what is there, and maps it. `fill` writes the first content before
/// the file has its name.
///
/// # Errors
/// What the system says: no space, no permission.
pub fn create(path: &str, words: usize, fill: impl FnOnce(&Mapped)) -> io::Result<Mapped> {
    let path = Path::new(path);
    let new = path.with_extension("new");
    // SAFETY: set once at the start of the postmaster, from the mode of the data directory.
    let (file_mode, directory_mode) = unsafe { (pg_file_create_mode, pg_dir_create_mode) };
    if let Some(directory) = path.parent().filter(|d| !d.is_dir()) {
        fs::DirBuilder::new().mode(directory_mode.unsigned_abs()).create(directory)?;
    }
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(file_mode.unsigned_abs()).open(&new)?;
    let made = allocate(&file, words).and_then(|()| map(&file, words)).and_then(|mapped| {
        fill(&mapped);
        fs::rename(&new, path).map(|()| mapped)
    });
    if made.is_err() {
        let _ = fs::remove_file(&new);
    }
    made
}

fn allocate(file: &File, words: usize) -> io::Result<()> {
    let length = i64::try_from(words * WORD).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    // SAFETY: a descriptor of ours, open for writing. Returns the error instead of setting errno.
    match unsafe { posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        code => Err(Error::from_raw_os_error(code)),
    }
}

fn map(file: &File, words: usize) -> io::Result<Mapped> {
    let found = file.metadata()?;
    // SAFETY: a new mapping of a whole file of this length, shared, at an address of the system's choice. It stays
    // until the process ends, outlives the descriptor, and is only read and written as atomics.
    let words = unsafe {
        let memory = mmap(std::ptr::null_mut(), words * WORD, READ_WRITE, SHARED, file.as_raw_fd(), 0);
        // MAP_FAILED is all ones.
        if memory.addr() == usize::MAX {
            return Err(Error::last_os_error());
        }
        std::slice::from_raw_parts(memory.cast::<AtomicU64>(), words)
    };
    Ok(Mapped { words, device: found.dev(), inode: found.ino() })
}

/// The server's system identifier and the timeline it writes: not in recovery.
pub fn server_identity() -> (u64, u32) {
    // SAFETY: both read shared memory of xlog.c.
    unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::GetWALInsertionTimeLine()) }
}
