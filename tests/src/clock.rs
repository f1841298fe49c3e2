//! A clock of a server's own, which tests set forward and back (Debian's libfaketime, which `PGQ_FAKETIME` names).

use crate::process;
use crate::programs::binary;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The clock: what it adds to the time is read anew each time somebody asks for it.
pub struct Clock {
    directory: PathBuf,
}

impl Clock {
    /// One that is right.
    ///
    /// # Panics
    /// When `PGQ_FAKETIME` names no library.
    pub fn new() -> Clock {
        let library = std::env::var_os("PGQ_FAKETIME").expect("PGQ_FAKETIME names the library");
        let directory = process::make_directory("c");
        fs::copy(library, directory.join("faketime.so")).expect("the library");
        let clock = Clock { directory };
        clock.set(0);
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD={0}/faketime.so FAKETIME_TIMESTAMP_FILE={0}/offset FAKETIME_NO_CACHE=1 \\\n    \
             FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1\nexec {1} \"$@\"\n",
            clock.directory.display(),
            binary("postgres").display()
        );
        fs::write(clock.program(), script).expect("the program");
        for file in [clock.program(), clock.directory.join("faketime.so")] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        fs::set_permissions(&clock.directory, fs::Permissions::from_mode(0o755)).expect("its mode");
        clock
    }

    /// A server's program, with this clock.
    pub fn program(&self) -> PathBuf {
        self.directory.join("postgres")
    }

    /// So many seconds ahead of the right time.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) {
        let new = self.directory.join("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("the offset");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("its mode");
        fs::rename(new, self.directory.join("offset")).expect("the offset");
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        process::remove_directory(&self.directory);
    }
}
