//! A disk of its own for a server, small enough to be filled: a file system in memory. To mount one
//! takes root, or sudo without a password.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system. Dropped, it is gone with all that is in it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

fn as_root(program: &str) -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if is_root {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or(format!("{command:?}: {text}"))
}

impl SmallDisk {
    /// Mounts one of so many megabytes over an empty directory, whose owner and mode it takes.
    ///
    /// # Errors
    /// When this user may not.
    pub fn mount(path: &Path, megabytes: u32) -> Result<SmallDisk, String> {
        let own = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&own), std::os::unix::fs::MetadataExt::gid(&own));
        let options = format!("size={megabytes}m,uid={uid},gid={gid},mode=700");
        succeed(as_root("mount").args(["-t", "tmpfs", "-o", &options, "pgq-tests"]).arg(path))?;
        Ok(SmallDisk { path: path.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes what is left of it, all but `spare` bytes.
    ///
    /// # Errors
    /// When it cannot be written for another reason than that it is full.
    pub fn fill(&self, spare: u64) -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.filler())?;
        let block = vec![0; 64 * 1024];
        let full = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        if full.raw_os_error() != Some(libc::ENOSPC) {
            return Err(full);
        }
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(spare))
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When the file that takes it cannot be removed.
    pub fn free(&self) -> std::io::Result<()> {
        fs::remove_file(self.filler())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that ends may still have a file open.
        if let Err(what) = succeed(as_root("umount").arg("-l").arg(&self.path)) {
            eprintln!("{what}");
        }
    }
}
