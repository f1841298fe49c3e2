//! Processes and directories that never outlive this program: every server is started by one
//! thread that lives as long as the program, with the kernel's order to be stopped when that thread
//! ends; directories are removed on exit. Knows nothing of PostgreSQL but its user's name.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{chown, DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

/// The user who owns the servers: root may not, so root's belong to `postgres`.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    uid: u32,
    gid: u32,
    is_other: bool,
}

/// The owner of this run's servers.
pub fn owner() -> Owner {
    static OWNER: OnceLock<Owner> = OnceLock::new();
    *OWNER.get_or_init(|| {
        let own = fs::metadata("/proc/self").expect("/proc is mounted");
        if own.uid() != 0 {
            return Owner { uid: own.uid(), gid: own.gid(), is_other: false };
        }
        Owner { uid: id_of("-u"), gid: id_of("-g"), is_other: true }
    })
}

fn id_of(which: &str) -> u32 {
    let output = Command::new("id").args([which, "postgres"]).output().expect("id is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().expect("root's servers run as postgres, and there is no such user")
}

impl Owner {
    /// Makes a file this user's.
    ///
    /// # Panics
    /// When it is not ours to give.
    pub fn give(self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A command that runs as this user, in a directory everybody may enter.
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/");
        // A server has none of it in real life; with it, each error walks the stack.
        command.env_remove("RUST_BACKTRACE");
        if self.is_other {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

/// Makes a directory for a server that belongs to the owner. Its path is short, because it is the
/// socket's directory too.
///
/// # Panics
/// When it cannot be made.
pub fn make_directory(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let (parent, prefix) = match std::env::var_os("PGQ_RUN_DIR") {
        Some(run) if !run.is_empty() => (PathBuf::from(run), ""),
        _ => (PathBuf::from("/tmp"), "pgq-"),
    };
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{prefix}{name}{}-{number}", process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                let owner = owner();
                chown(&path, Some(owner.uid), Some(owner.gid)).expect("chown of a new directory");
                leftovers().lock().expect("not poisoned").push(Leftover::Directory(path.clone()));
                return path;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => panic!("cannot make {}: {error}", path.display()),
        }
    }
}

/// Removes a directory that [`make_directory`] made.
pub fn remove_directory(path: &Path) {
    // What is left here is found again on exit; a file that a process still writes is no error.
    let _ = fs::remove_dir_all(path);
    forget(&Leftover::Directory(path.to_owned()));
}

/// Starts a process that is sent SIGQUIT when this program ends, however it ends.
///
/// # Errors
/// When it cannot be started.
pub fn spawn_bound(command: Command) -> io::Result<Child> {
    type Request = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    // The kernel sends the signal when the *thread* that forked ends, and a test is a thread.
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (reply, answer) = channel();
    let bound = bind_to_parent(command);
    spawner.lock().expect("not poisoned").send((bound, reply)).expect("the spawner lives");
    let child = answer.recv().expect("the spawner lives")?;
    leftovers().lock().expect("not poisoned").push(Leftover::Process(child.id()));
    Ok(child)
}

fn bind_to_parent(mut command: Command) -> Command {
    // SAFETY: prctl is async-signal-safe and touches only the child's own state; nothing is
    // allocated between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command
}

/// Forgets a process that [`spawn_bound`] started and that was waited for.
pub fn forget_process(pid: u32) {
    forget(&Leftover::Process(pid));
}

/// Sends a signal to a process that is `root` or a child of it.
///
/// # Errors
/// When it is neither, or gone.
pub fn signal_below(root: u32, pid: u32, signal: i32) -> io::Result<()> {
    if pid != root && parent_of(pid)? != root {
        return Err(io::Error::other(format!("process {pid} is not a child of {root}")));
    }
    send(pid, signal)
}

fn send(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SIGKILL to all processes of a group that [`spawn_bound`] started as one of its own; whether there were any.
pub fn kill_group(leader: u32) -> bool {
    let Ok(group) = i32::try_from(leader) else { return false };
    // SAFETY: kill takes two integers and touches no memory of ours; a group's number is above 1.
    group > 1 && unsafe { libc::kill(-group, libc::SIGKILL) } == 0
}

/// A port of 127.0.0.1 that nobody listens on.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("the address that was bound").port()
}

/// The fields of /proc/PID/stat after the command, which may itself hold spaces and parentheses.
fn stat_of(pid: u32) -> io::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// The living processes whose working directory this is.
pub fn working_in(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory)).collect()
}

/// A process in a line: its pid, state, title, and what it waits for in the kernel.
pub fn describe(pid: u32) -> String {
    let read = |what: &str| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let title = read("cmdline").replace('\0', " ");
    let state = stat_of(pid).ok().and_then(|stat| stat.first().cloned()).unwrap_or_default();
    let signals: Vec<String> = read("status")
        .lines()
        .filter(|line| line.starts_with("SigBlk") || line.starts_with("ShdPnd") || line.starts_with("SigPnd"))
        .map(|line| line.replace('\t', " "))
        .collect();
    format!("{pid} {state} {} [{}] {}", title.trim(), read("wchan"), signals.join(" "))
}

/// The parent of a process.
///
/// # Errors
/// When it is gone.
pub fn parent_of(pid: u32) -> io::Result<u32> {
    let fields = stat_of(pid)?;
    fields.get(1).and_then(|ppid| ppid.parse().ok()).ok_or_else(|| io::Error::other("no ppid"))
}

/// Fixed at 100 a second in what the kernel shows to programs (proc(5), USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// The processor time a process has used so far, user and system.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let fields = stat_of(pid)?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(TICK * (user + system)),
        _ => Err(io::Error::other("no times")),
    }
}

/// The processor time that the children of a process have used, those that it has waited for too.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time_below(root: u32) -> io::Result<Duration> {
    // Read first: a child that ends meanwhile is then missed for a moment and never counted twice.
    let fields = stat_of(root)?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|pid| parent_of(*pid).is_ok_and(|parent| parent == root));
    let living: Duration = children.filter_map(|pid| cpu_time(pid).ok()).sum();
    Ok(living + TICK * (ticks(13) + ticks(14)))
}

/// What exists now and must not exist after this program.
#[derive(Debug, PartialEq, Eq)]
enum Leftover {
    Process(u32),
    Directory(PathBuf),
}

fn leftovers() -> &'static Mutex<Vec<Leftover>> {
    static LEFTOVERS: OnceLock<Mutex<Vec<Leftover>>> = OnceLock::new();
    LEFTOVERS.get_or_init(|| {
        // SAFETY: the handler is a plain function that stays valid; it runs once, at exit.
        unsafe { libc::atexit(remove_leftovers) };
        Mutex::new(Vec::new())
    })
}

fn forget(what: &Leftover) {
    leftovers().lock().expect("not poisoned").retain(|leftover| leftover != what);
}

/// Stops the servers that tests keep in statics, which are never dropped, and removes what is left.
extern "C" fn remove_leftovers() {
    let Ok(mut leftovers) = leftovers().lock() else {
        return;
    };
    let (mut processes, mut directories) = (Vec::new(), Vec::new());
    for leftover in leftovers.drain(..) {
        match leftover {
            Leftover::Process(pid) => processes.push(pid),
            Leftover::Directory(path) => directories.push(path),
        }
    }
    for pid in &processes {
        let _ = send(*pid, libc::SIGQUIT);
    }
    for pid in processes {
        for _ in 0..500 {
            // The parent of a living child of ours is this program; a zombie's state is Z.
            let gone = stat_of(pid).map_or(true, |stat| stat.first().is_none_or(|s| s == "Z"));
            if gone {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    for path in directories {
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_below_is_not_signalled() {
        let error = signal_below(process::id(), 1, 0).expect_err("init is no child of ours");
        assert!(error.to_string().contains("not a child"), "{error}");
    }

    #[test]
    fn own_processor_time_is_readable() {
        assert!(cpu_time(process::id()).is_ok());
    }
}
