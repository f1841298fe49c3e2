//! One process of a recipe: started in a process group of its own, killed with no warning, or asked
//! to stop.

use super::stage::Stage;
use crate::process;
use crate::wait_for;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How a worker claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In its own transaction, with the work.
    Transaction,
    /// With a lease.
    Lease,
}

impl Way {
    /// As the contract spells it.
    pub fn word(self) -> &'static str {
        match self {
            Way::Transaction => "transaction",
            Way::Lease => "lease",
        }
    }
}

/// A worker that is described, or runs. Dropped, it is killed with all that it started.
pub struct Worker {
    command: Option<Command>,
    child: Option<Child>,
    log: PathBuf,
}

impl Worker {
    pub(super) fn new(stage: &Stage, way: Way) -> Worker {
        let mut worker = Worker::program(stage, "run");
        worker.set("PGQ_WAY", way.word());
        worker
    }

    /// A program of the recipe, with what the contract gives it.
    pub(super) fn program(stage: &Stage, name: &str) -> Worker {
        let directory = stage.recipe.directory();
        let log = stage.worker_log();
        let mut command = Command::new(directory.join(name));
        command.current_dir(directory).process_group(0).stdin(Stdio::null());
        command.env("PGQ_DSN", stage.dsn()).env("PGQ_QUEUE", &stage.queue);
        command.env("PGQ_CLIENT_DIR", stage.recipe.client_directory());
        Worker { command: Some(command), child: None, log }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.command.as_mut().expect("not started yet").env(name, value);
    }

    /// One more variable of the contract.
    pub fn with(mut self, name: &str, value: &str) -> Worker {
        self.set(name, value);
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut self) -> Worker {
        let mut command = self.command.take().expect("not started yet");
        let log = OpenOptions::new().append(true).create(true).open(&self.log).expect("the worker's log");
        command.stdout(log.try_clone().expect("a second handle of the log")).stderr(log);
        self.child = Some(process::spawn_bound(command).expect("the recipe can be started"));
        self
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("started and not yet waited for")
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    fn signal(&mut self, signal: i32) {
        let pid = self.child().id();
        process::signal_below(pid, pid, signal).expect("the worker can be signalled");
    }

    /// SIGKILL to this process, and to none that it started.
    ///
    /// # Panics
    /// When it had ended already.
    pub fn kill_9(&mut self) {
        assert!(self.is_alive(), "the worker ended by itself");
        self.signal(libc::SIGKILL);
        self.ended(Duration::from_secs(10));
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// When it had ended already.
    pub fn ask_to_stop(&mut self) {
        assert!(self.is_alive(), "the worker ended by itself");
        self.signal(libc::SIGTERM);
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let child = self.child();
        let pid = child.id();
        let status = wait_for(deadline, "the worker to end", || child.try_wait().ok().flatten());
        process::forget_process(pid);
        status
    }

    /// SIGTERM, and its exit status is 0.
    ///
    /// # Panics
    /// When it is not.
    pub fn stop(&mut self, deadline: Duration) {
        self.ask_to_stop();
        self.has_stopped(deadline);
    }

    /// After [`Worker::ask_to_stop`]: it ends in time, and its exit status is 0.
    ///
    /// # Panics
    /// When it is not.
    pub fn has_stopped(&mut self, deadline: Duration) {
        let status = self.ended(deadline);
        assert_eq!(status.code(), Some(0), "the worker's {status}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(child) = self.child.as_mut() else { return };
        // What a killed worker had started is in its group still.
        process::kill_group(child.id());
        let _ = child.wait();
        process::forget_process(child.id());
    }
}
