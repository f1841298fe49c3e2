//! The real psql: once, or as a session that stays open and is given one piece of input after the
//! other. What a reader of the README types goes through here.

use crate::server::{binary, Server};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::Duration;

/// How long one piece of input may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Printed by psql itself behind the output of each piece of input.
const MARK: &str = "--- end of input";

fn command(server: &Server, database: &str, role: &str) -> Command {
    let mut command = Command::new(binary("psql"));
    command.arg("-X").arg("-h").arg(server.socket_directory());
    command.args(["-p", &server.port().to_string(), "-U", role, "-d", database]);
    // Times and messages in the README are the same everywhere.
    command.env("PGTZ", "UTC").env("PGAPPNAME", "pgq-tests").env_remove("PGOPTIONS");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs SQL as the superuser, stops at the first error.
///
/// # Errors
/// What psql wrote to its standard error, when a statement failed.
pub fn run(server: &Server, database: &str, sql: &str) -> Result<String, String> {
    let mut command = command(server, database, "postgres");
    command.args(["-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
    let mut child = command.spawn().map_err(|error| format!("psql: {error}"))?;
    let mut input = child.stdin.take().ok_or("no standard input")?;
    // Written by another thread: psql may fill its output before it has read all.
    let text = sql.to_owned();
    let writer = thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|error| format!("psql: {error}"))?;
    let _ = writer.join();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What one piece of input led to.
#[derive(Debug, Default, Clone)]
pub struct Reply {
    /// Standard output.
    pub stdout: String,
    /// Notices, warnings and errors.
    pub stderr: String,
    /// The SQLSTATE of the last statement; 00000 when it succeeded.
    pub sqlstate: String,
}

impl Reply {
    /// The error messages: the server's and psql's own.
    pub fn errors(&self) -> Vec<&str> {
        let is_error = |line: &&str| {
            ["ERROR:", "FATAL:", "PANIC:", "psql:", "invalid command", "\\"].iter().any(|start| line.starts_with(start))
        };
        self.stderr.lines().filter(is_error).collect()
    }
}

/// A psql that stays connected.
pub struct Session {
    child: Child,
    input: ChildStdin,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Session {
    /// Opens one. A refused connection shows at the first input.
    ///
    /// # Panics
    /// When psql is not there.
    pub fn open(server: &Server, database: &str, role: &str) -> Session {
        let mut child = command(server, database, role).spawn().expect("psql is installed");
        let input = child.stdin.take().expect("piped");
        let stdout = lines_of(child.stdout.take().expect("piped"));
        let stderr = lines_of(child.stderr.take().expect("piped"));
        Session { child, input, stdout, stderr }
    }

    /// Gives it statements and waits for what they lead to.
    ///
    /// # Errors
    /// When psql ended, or took longer than two minutes.
    pub fn execute(&mut self, text: &str) -> Result<Reply, String> {
        let input = format!("{text}\n\\echo '{MARK}' :SQLSTATE\n\\warn '{MARK}'\n");
        self.input.write_all(input.as_bytes()).map_err(|error| format!("psql ended: {error}"))?;
        let (stdout, mark) = read_to_mark(&self.stdout)?;
        let (stderr, _) = read_to_mark(&self.stderr)?;
        let sqlstate = mark.split_whitespace().last().unwrap_or_default().to_owned();
        Ok(Reply { stdout, stderr, sqlstate })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn read_to_mark(from: &Receiver<String>) -> Result<(String, String), String> {
    let mut text = String::new();
    loop {
        match from.recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with(MARK) => return Ok((text, line)),
            Ok(line) => {
                text.push_str(&line);
                text.push('\n');
            }
            Err(error) => return Err(format!("psql gave no answer ({error}) after:\n{text}")),
        }
    }
}
