//! The report of the long runs, `tests/torture.report`: one line for each, tab-separated. What was
//! reached on one commit adds up, so a long part can be done in several sittings.

use super::{Part, Run};
use crate::server::binary;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

/// What a run depends on: with none of it changed, counts add up.
const WATCHED: [&str; 7] =
    ["src", "sql", "Cargo.toml", "Cargo.lock", "pgq.control", "tests/src/torture", "tests/torture.rs"];

const HEADER: &str = "part\tcount\tseed\tcommit\tdifference\tfaults\tserver\tseconds\tdate";

/// Where it is.
pub fn path() -> PathBuf {
    crate::repository().join("tests/torture.report")
}

/// The last commit that changed what is tested, with `+dirty` where something was changed since.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(crate::repository()).args(arguments).arg("--").args(WATCHED);
        let output = command.output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["log", "-1", "--format=%h"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}+dirty"),
        (None, _) => "unknown".to_owned(),
    }
}

/// The server's version, as it says itself.
pub fn server_version() -> String {
    let output = Command::new(binary("postgres")).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(2).unwrap_or("unknown").to_owned()
}

fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%MZ"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The one line that a run ends with.
pub fn summary(run: &Run, commit: &str) -> String {
    let (part, seconds) = (run.part, run.elapsed().as_secs_f64());
    format!(
        "{}: {} of {} {}, difference {}; faults: {}; seed {}, commit {commit}, PostgreSQL {}, {seconds:.1} s",
        part.id,
        run.done(),
        run.count,
        part.unit,
        run.differences().len(),
        run.faults(),
        run.seed,
        server_version(),
    )
}

/// Appends the run's line.
///
/// # Errors
/// When the file cannot be written.
pub fn append(run: &Run, commit: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path())?;
    if file.metadata()?.len() == 0 {
        writeln!(file, "{HEADER}")?;
    }
    let (differences, seconds) = (run.differences().len(), run.elapsed().as_secs());
    let (id, done, seed, faults) = (run.part.id, run.done(), run.seed, run.faults());
    let (version, date) = (server_version(), today());
    writeln!(file, "{id}\t{done}\t{seed}\t{commit}\t{differences}\t{faults}\t{version}\t{seconds}\t{date}")
}

/// The sums of this commit, a line for each part.
///
/// # Errors
/// When there is a report that cannot be read.
pub fn sums(parts: &[&Part], commit: &str) -> io::Result<Vec<String>> {
    let text = match fs::read_to_string(path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let sums = add_up(&text, commit);
    Ok(parts.iter().map(|part| describe(part, sums.get(part.id).copied().unwrap_or_default())).collect())
}

/// Count and differences of one part.
type Sum = (u64, u64);

fn add_up(text: &str, commit: &str) -> BTreeMap<String, Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[id, count, _, of, differences, ..] = fields.as_slice() else { continue };
        if let (true, Ok(count), Ok(differences)) = (of == commit, count.parse::<u64>(), differences.parse::<u64>()) {
            let sum = sums.entry(id.to_owned()).or_default();
            *sum = (sum.0 + count, sum.1 + differences);
        }
    }
    sums
}

fn describe(part: &Part, (count, differences): Sum) -> String {
    let state = match (count >= part.full, differences) {
        (true, 0) => "reached",
        (false, 0) => "to go",
        _ => "DIFFERENT",
    };
    format!("{:<4} {count:>9} of {:>9} {:<12} {state:<9} {}", part.id, part.full, part.unit, part.title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sittings_of_one_commit_add_up_and_others_do_not() {
        let text = format!(
            "{HEADER}\nT01\t30\t1\tabc\t0\t30 kill\t15.20\t40\td\nT01\t12\t2\tabc\t0\t-\t15.20\t9\td\n\
             T01\t500\t3\tother\t0\t-\t15.20\t9\td\nT02\t5\t4\tabc\t1\t-\t15.20\t9\td\nT01\t7\tbroken line\n"
        );
        let sums = add_up(&text, "abc");
        assert_eq!(sums.get("T01"), Some(&(42, 0)));
        assert_eq!(sums.get("T02"), Some(&(5, 1)));
    }

    #[test]
    fn a_part_is_reached_only_in_full_and_without_a_difference() {
        let part = Part { id: "T01", title: "t", unit: "kills", quick: 1, full: 40, run: |_| () };
        for (sum, state) in [((40, 0), "reached"), ((39, 0), "to go"), ((40, 1), "DIFFERENT"), ((1, 1), "DIFFERENT")] {
            assert!(describe(&part, sum).contains(state), "{sum:?}");
        }
    }
}
