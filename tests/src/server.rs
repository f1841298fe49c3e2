//! A private PostgreSQL server: its own directory, reached by a Unix socket in it, on loopback where a
//! test asks for that, run by an ordinary user, with fsync on, because what a crash leaves behind is
//! what many tests look at.

use crate::disk::SmallDisk;
use crate::installation::Installation;
use crate::process::{self, owner};
use crate::programs::{copy_template, succeed};
use crate::psql;
use crate::time::wait_for;
use postgres::{Client, Config, NoTls};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

pub use crate::programs::binary;

/// How long a server may take to start or to stop before the test fails: recovery after a crash in
/// the middle of many jobs takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Only a name, unless it listens on loopback: each server has a socket directory of its own.
const PORT: u16 = 5432;

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: waits for the clients.
    Smart,
    /// SIGINT: ends the sessions, then shuts down in order.
    Fast,
    /// SIGQUIT: as in a crash; the next start recovers.
    Immediate,
}

/// What a server is started with.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    preload: bool,
    hooked: bool,
    program: Option<PathBuf>,
    data: Option<PathBuf>,
    settings: Vec<(String, String)>,
    disk_megabytes: Option<u32>,
    loopback: Option<u16>,
}

impl Builder {
    /// Listens on 127.0.0.1 too, on a port of its own, for clients that know no Unix sockets.
    pub fn loopback(mut self) -> Builder {
        self.loopback = Some(process::free_port());
        self.conf("listen_addresses", "127.0.0.1")
    }

    /// The data directory gets a disk of its own of this size.
    pub fn small_disk(mut self, megabytes: u32) -> Builder {
        self.disk_megabytes = Some(megabytes);
        self
    }

    /// Whether `pgq` is in `shared_preload_libraries`. Not, unless said.
    pub fn preload(mut self, preload: bool) -> Builder {
        self.preload = preload;
        self
    }

    /// With the build of the library that has hooks: see [`crate::hooked`].
    pub fn hooked(mut self) -> Builder {
        self.hooked = true;
        self
    }

    /// With the programs of a copy: see [`Installation`].
    pub fn of(mut self, installation: &Installation) -> Builder {
        self.program = Some(installation.postgres());
        self
    }

    /// By this program, which becomes the server.
    pub fn program(mut self, program: PathBuf) -> Builder {
        self.program = Some(program);
        self
    }

    /// Another version's server, over a data directory that it moves to its own place.
    pub fn over(mut self, program: PathBuf, data: PathBuf) -> Builder {
        (self.program, self.data) = (Some(program), Some(data));
        self
    }

    /// A line of postgresql.conf.
    pub fn conf(mut self, name: &str, value: impl ToString) -> Builder {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Makes the server's directory and starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(self) -> Server {
        let directory = process::make_directory("s");
        let installed = || if self.hooked { crate::hooked::postgres() } else { binary("postgres") };
        let program = self.program.clone().unwrap_or_else(installed);
        let disk = self.disk_megabytes.map(|megabytes| {
            let path = directory.join("disk");
            succeed(owner().command("/bin/mkdir").arg(&path));
            SmallDisk::mount(&path, megabytes).unwrap_or_else(|error| panic!("no small disk: {error}"))
        });
        let server = Server { directory, program, port: self.loopback.unwrap_or(PORT), child: Mutex::new(None), disk };
        match &self.data {
            Some(data) => succeed(owner().command("/bin/mv").arg(data).arg(server.data_directory())),
            None => copy_template(&server.data_directory()),
        }
        server.append_configuration(&self);
        server.start();
        server
    }
}

/// A running, or stopped, private server. Dropped, it is stopped and removed.
pub struct Server {
    directory: PathBuf,
    program: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
    disk: Option<SmallDisk>,
}

impl Server {
    /// A server to be described, then started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Another server that follows this one: a base backup that streams from here.
    ///
    /// # Panics
    /// When it cannot be made or does not start.
    pub fn standby(&self) -> Server {
        let directory = process::make_directory("s");
        let standby = Server { directory, program: self.program.clone(), child: Mutex::new(None), disk: None, ..*self };
        let mut backup = owner().command(binary("pg_basebackup"));
        backup.arg("-D").arg(standby.data_directory()).arg("-h").arg(&self.directory);
        backup.args(["-p", &self.port.to_string()]);
        succeed(backup.args("-U postgres -R -X stream -c fast --no-sync".split(' ')));
        standby.append(&format!("unix_socket_directories = '{}'\n", standby.directory.display()));
        standby.start();
        standby
    }

    /// Starts it, again after a [`Server::stop`], and returns when it accepts connections.
    ///
    /// # Panics
    /// When it runs already or does not start.
    pub fn start(&self) {
        self.start_with(&[]);
    }

    /// The same with further arguments: `-b` is how pg_upgrade does it.
    ///
    /// # Panics
    /// When it runs already or does not start.
    pub fn start_with(&self, arguments: &[&str]) {
        let mut child = self.child();
        assert!(child.is_none(), "the server runs already");
        let log = OpenOptions::new().append(true).create(true).open(self.log_path());
        let log = log.expect("the server's log can be written");
        let mut command = owner().command(&self.program);
        command.arg("-D").arg(self.data_directory()).args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle of the log")).stderr(log);
        let mut started = process::spawn_bound(command).expect("postgres can be started");
        wait_for(PATIENCE, "the server to accept connections", || {
            if let Ok(Some(status)) = started.try_wait() {
                panic!("the server ended with {status} as it started\n{}", self.log_tail());
            }
            self.is_ready(started.id()).then_some(())
        });
        *child = Some(started);
    }

    /// Starts it if it ended by itself: whether it had.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_if_ended(&self) -> bool {
        let mut child = self.child();
        let has_ended = child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if has_ended {
            if let Some(child) = child.take() {
                process::forget_process(child.id());
            }
            drop(child);
            self.start();
        }
        has_ended
    }

    /// Stops it and returns how long that took.
    ///
    /// # Panics
    /// When it does not run, or takes longer than a minute.
    pub fn stop(&self, mode: Stop) -> Duration {
        let signal = match mode {
            Stop::Smart => libc::SIGTERM,
            Stop::Fast => libc::SIGINT,
            Stop::Immediate => libc::SIGQUIT,
        };
        let (_, took) = crate::timed(|| self.end_with(signal));
        took
    }

    /// Stops and starts it.
    ///
    /// # Panics
    /// When either fails.
    pub fn restart(&self, mode: Stop) {
        self.stop(mode);
        self.start();
    }

    /// SIGKILL to the postmaster itself: its children find out by themselves.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_postmaster_only(&self) {
        self.end_with(libc::SIGKILL);
    }

    /// The same, and waits until they have.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_postmaster(&self) {
        self.kill_postmaster_only();
        let segment = self.data_directory().join("postmaster.pid");
        // The next start refuses while a child still has the shared memory.
        wait_for(PATIENCE, "the children of a killed postmaster to leave", || {
            let attached = fs::read_to_string(&segment).ok()?;
            let id = attached.lines().nth(6)?.split_whitespace().nth(1)?.to_owned();
            let segments = fs::read_to_string("/proc/sysvipc/shm").ok()?;
            let users = segments.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields.get(1) == Some(&id.as_str())).then(|| fields.get(6).map(|n| n.to_string()))
            });
            users.flatten().is_none_or(|users| users == "0").then_some(())
        });
    }

    fn end_with(&self, signal: i32) -> ExitStatus {
        let mut slot = self.child();
        let mut child = slot.take().expect("the server runs");
        process::signal_below(child.id(), child.id(), signal).expect("the server can be signalled");
        let status = wait_for(PATIENCE, "the server to stop", || child.try_wait().ok().flatten());
        process::forget_process(child.id());
        status
    }

    /// Waits until it accepts connections: after a crash of a backend it starts over by itself.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn wait_ready(&self) {
        wait_for(PATIENCE, "the server to accept connections again", || {
            self.try_connect("postgres", "postgres").ok().map(drop)
        });
    }

    fn is_ready(&self, pid: u32) -> bool {
        let lock = fs::read_to_string(self.data_directory().join("postmaster.pid"));
        let lines: Vec<String> = lock.unwrap_or_default().lines().map(str::to_owned).collect();
        // The lines are fixed in utils/pidfile.h; a file of an earlier run has another pid.
        lines.first() == Some(&pid.to_string()) && lines.get(7).is_some_and(|status| status.trim() == "ready")
    }

    /// A session of the superuser.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as(database, "postgres")
    }

    /// A session of a role.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn connect_as(&self, database: &str, role: &str) -> Client {
        self.try_connect(database, role)
            .unwrap_or_else(|error| panic!("cannot connect to {database} as {role}: {error:?}\n{}", self.log_tail()))
    }

    /// A session of a role, or why there is none.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn try_connect(&self, database: &str, role: &str) -> Result<Client, postgres::Error> {
        self.config(database, role).connect(NoTls)
    }

    /// Where it is, for a thread that connects by itself.
    pub fn config(&self, database: &str, role: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.directory).port(self.port).dbname(database).user(role);
        config.application_name("pgq-tests").connect_timeout(PATIENCE);
        config
    }

    /// Creates a database with the extension in it and returns a session of the superuser there.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_database(&self, database: &str) -> Client {
        let mut client = self.connect("postgres");
        let sql = format!("CREATE DATABASE {database}");
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut client = self.connect(database);
        client
            .batch_execute("CREATE EXTENSION pgq")
            .unwrap_or_else(|error| panic!("CREATE EXTENSION pgq in {database}: {error}\n{}", self.log_tail()));
        client
    }

    /// Runs SQL through the real psql and returns what it printed, unaligned and without headers.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|error| panic!("psql: {error}\nin: {sql}"))
    }

    /// The same, or what psql wrote to its standard error.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        psql::run(self, database, sql)
    }

    /// A psql that stays connected: see [`psql::Session`].
    ///
    /// # Panics
    /// When psql is not there.
    pub fn session(&self, database: &str, role: &str) -> psql::Session {
        psql::Session::open(self, database, role)
    }

    /// ALTER SYSTEM SET, then a reload.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn set(&self, name: &str, value: &str) {
        let mut client = self.connect("postgres");
        let quoted = value.replace('\'', "''");
        for sql in [&format!("ALTER SYSTEM SET {name} = '{quoted}'"), "SELECT pg_reload_conf()"] {
            client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    /// The pids of all pgq processes, of one database (its executors and scheduler) or of all
    /// (the launcher too), as `pg_stat_activity` has them.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn worker_pids(&self, database: Option<&str>) -> Vec<u32> {
        self.worker_pids_like("pgq%", database)
    }

    /// The same for those whose `backend_type` fits a LIKE pattern.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn worker_pids_like(&self, kind: &str, database: Option<&str>) -> Vec<u32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE $1 \
                   AND ($2::text IS NULL OR datname = $2) ORDER BY pid";
        let rows = self.connect("postgres").query(sql, &[&kind, &database]);
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.iter().filter_map(|row| u32::try_from(row.get::<_, i32>(0)).ok()).collect()
    }

    /// The postmaster's pid.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("the server runs").id()
    }

    /// Sends a signal to a process of this server, and to no other.
    ///
    /// # Panics
    /// When the process is not this server's.
    pub fn signal(&self, pid: u32, signal: i32) {
        process::signal_below(self.pid(), pid, signal)
            .unwrap_or_else(|error| panic!("signal {signal} to {pid}: {error}"));
    }

    /// The same, unless the process is gone: whether it was there.
    pub fn try_signal(&self, pid: u32, signal: i32) -> bool {
        process::signal_below(self.pid(), pid, signal).is_ok()
    }

    /// SIGKILL to a process of this server.
    ///
    /// # Panics
    /// When the process is not this server's.
    pub fn kill_9(&self, pid: u32) {
        self.signal(pid, libc::SIGKILL);
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of the log, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n  | ");
        format!("the end of the server log:\n  | {tail}")
    }

    /// The directory of the socket.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// The port, which is part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join(if self.disk.is_some() { "disk/data" } else { "data" })
    }

    /// The disk of its own, if it has one.
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that failed while it held the lock is reported by itself.
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn append_configuration(&self, builder: &Builder) {
        let mut lines = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = {}\n\
             lc_messages = 'C'\nmax_worker_processes = 32\nlog_line_prefix = '%m [%p] %b '\n",
            self.directory.display(),
            self.port
        );
        if builder.preload {
            lines.push_str("shared_preload_libraries = 'pgq'\n");
        }
        for (name, value) in &builder.settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        self.append(&lines);
    }

    fn append(&self, lines: &str) {
        let path = self.data_directory().join("postgresql.conf");
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("postgresql.conf");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended by itself; then there is nothing to signal.
            let _ = process::signal_below(child.id(), child.id(), libc::SIGQUIT);
            let _ = child.wait();
            process::forget_process(child.id());
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        drop(self.disk.take());
        process::remove_directory(&self.directory);
    }
}
