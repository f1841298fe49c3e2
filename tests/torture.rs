//! Runs the torture parts. Without an option: all of them at their quick numbers, as cases of
//! `tests/run`, closing with the line that cargo's own tests close with. With `--long`, as
//! `tests/torture` calls it: to full numbers, with a line in the report for each.

use pgq_tests::torture::options::Options;
use pgq_tests::torture::{parts, report, Part, Run};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| act(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("torture: {message}");
            ExitCode::from(2)
        }
    }
}

/// Does what was asked for; false when something was different.
fn act(options: &Options) -> Result<bool, String> {
    let chosen = choose(&options.names)?;
    if options.is_list {
        chosen.iter().for_each(|part| println!("{} ({} {})", part.name(), part.full, part.unit));
        return Ok(true);
    }
    let commit = report::commit();
    if options.is_report {
        println!("commit {commit}");
        report::sums(&chosen, &commit).map_err(|error| error.to_string())?.iter().for_each(|line| println!("{line}"));
        return Ok(true);
    }
    let failed = run_all(options, &chosen, &commit);
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {failed} failed; 0 ignored", chosen.len() - failed);
    Ok(failed == 0)
}

/// The parts of these names: by number, else by a piece of the name.
fn choose(names: &[String]) -> Result<Vec<&'static Part>, String> {
    let all = parts();
    let fits = |part: &Part, name: &String| part.id == name || part.name().contains(name.as_str());
    if let Some(name) = names.iter().find(|name| !all.iter().any(|part| fits(part, name))) {
        return Err(format!("no part is named \"{name}\"; --list shows what there is"));
    }
    Ok(all.into_iter().filter(|part| names.is_empty() || names.iter().any(|name| fits(part, name))).collect())
}

/// Runs them, some at the same time, and returns how many failed.
fn run_all(options: &Options, chosen: &[&'static Part], commit: &str) -> usize {
    let waiting = Mutex::new(chosen.iter());
    let failed = Mutex::new(0);
    let work = || loop {
        let Some(part) = waiting.lock().expect("not poisoned").next() else { return };
        if !run_one(options, part, commit) {
            *failed.lock().expect("not poisoned") += 1;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(chosen.len()) {
            scope.spawn(work);
        }
    });
    failed.into_inner().expect("not poisoned")
}

/// Runs one part; false when it panicked, something was different or nothing was done.
fn run_one(options: &Options, part: &'static Part, commit: &str) -> bool {
    let count = options.count.unwrap_or(if options.is_long { part.full } else { part.quick });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_micros()).unwrap_or(1);
    let seed = options.seed.unwrap_or(u64::try_from(now).unwrap_or(1));
    let mut run = Run::new(part, count, seed);
    if options.is_long {
        run = run.long(options.limit);
    }
    eprintln!("{}: {} {}, seed {seed}", part.name(), count, part.unit);
    // A panic is the harness's way to say that a deadline passed or a statement failed.
    if catch_unwind(AssertUnwindSafe(|| (part.run)(&mut run))).is_err() {
        run.differ("the part did not get to its end");
    }
    if run.done() == 0 {
        run.differ("nothing was done");
    }
    let is_even = run.differences().is_empty();
    println!("{}", report::summary(&run, commit));
    println!("test {} ... {}", part.name(), if is_even { "ok" } else { "FAILED" });
    if options.is_long {
        if let Err(error) = report::append(&run, commit) {
            eprintln!("{}: {error}", report::path().display());
            return false;
        }
    }
    is_even
}
