//! PgBouncer in transaction mode: an ordinary process with a configuration of its own, on loopback.

use super::{Stage, Way, PATIENCE};
use crate::process::{self, owner};
use crate::{run, wait_for};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A running pooler. Dropped, it is stopped.
struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    fn start(stage: &Stage) -> Pooler {
        let directory = stage.server.socket_directory();
        let port = process::free_port();
        let config = configure(directory, stage, port);
        // A copy, because the servers' user may not be able to enter this tree.
        let installed = std::env::var_os("PGQ_PGBOUNCER").unwrap_or_else(|| "/usr/sbin/pgbouncer".into());
        let program = directory.join("pgbouncer");
        fs::copy(&installed, &program).unwrap_or_else(|error| panic!("{}: {error}", installed.to_string_lossy()));
        owner().give(&program);
        let mut command = owner().command(&program);
        command.arg("--quiet").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        let child = process::spawn_bound(command).expect("pgbouncer can be started");
        let pooler = Pooler { child, port };
        wait_for(PATIENCE, "the pooler to listen", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
        pooler
    }

    fn dsn(&self) -> String {
        format!("postgresql://worker@127.0.0.1:{}/app", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // SIGQUIT is immediate; it may have ended by itself.
        let _ = process::signal_below(self.child.id(), self.child.id(), libc::SIGQUIT);
        let _ = self.child.wait();
        process::forget_process(self.child.id());
    }
}

/// Writes its configuration and returns where it is. Two sessions of the server for all its clients,
/// so that a client meets both.
fn configure(directory: &Path, stage: &Stage, port: u16) -> PathBuf {
    let path = directory.join("pgbouncer.ini");
    let users = directory.join("users.txt");
    let text = format!(
        "[databases]\napp = host={socket} port={server} dbname=app\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = {users}\nlogfile = {socket}/pgbouncer.log\n\
         pool_mode = transaction\ndefault_pool_size = 2\nserver_round_robin = 1\n\
         ignore_startup_parameters = extra_float_digits\n",
        socket = directory.display(),
        server = stage.server.port(),
        users = users.display(),
    );
    for (path, text) in [(&path, text.as_str()), (&users, "\"worker\" \"\"\n")] {
        fs::write(path, text).expect("a file in the server's directory");
        owner().give(path);
    }
    path
}

pub(super) fn polls(stage: &mut Stage) {
    let pooler = Pooler::start(stage);
    let configure = format!("SELECT pgq.configure('{}', backoff => '100 ms', max_attempts => 2)", stage.queue);
    run(&mut stage.client, &configure);
    // In the lease way longer than the lease: the heartbeat goes through the pooler too.
    for (way, seconds) in [(Way::Transaction, 0.5), (Way::Lease, 4.0)] {
        let worker = stage.worker(way).with("PGQ_DSN", &pooler.dsn()).with("PGQ_POOLED", "1");
        let mut worker = worker.with("PGQ_POLL_SECONDS", "1").with("PGQ_LEASE_SECONDS", "3").start();
        stage.does_a_job();
        let jobs = stage.put_many(50);
        let failing = stage.put("fail", "{}");
        let slow = stage.put_sleep(seconds);
        for job in jobs {
            stage.until_gone(job);
            assert_eq!(stage.effects(job), [1], "{way:?}: job {job}");
        }
        stage.until_gone(slow);
        assert_eq!(stage.effects(slow), [1], "{way:?}: of the slow job");
        let dead = format!("SELECT EXISTS (SELECT FROM pgq.dead WHERE id = {failing} AND failures = 2)");
        stage.until(PATIENCE, "the failing job to be dead", &dead);
        worker.stop(PATIENCE);
    }
}
