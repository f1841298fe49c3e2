//! Runs the benchmark's workloads, prints the table and writes it, the chart and every sample into
//! `target/bench/`. Exits with 1 when a bound is missed or a workload failed, with 3 when the run is void.

use pgq_tests::bench::options::{Options, Sizes};
use pgq_tests::bench::{gauge, svg, workloads, Bench, Workload};
use std::fs;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;

/// What a quick run has.
const QUICK: [&str; 4] = ["W1", "W2", "W3", "W4"];

/// Nothing can be concluded from the run.
const VOID: u8 = 3;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| act(&options)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::from(2)
        }
    }
}

fn act(options: &Options) -> Result<ExitCode, String> {
    let chosen = choose(options)?;
    if options.is_list {
        chosen.iter().for_each(|workload| println!("{} {}", workload.id, workload.title));
        return Ok(ExitCode::SUCCESS);
    }
    let mut bench = Bench::new(Sizes::of(options), options.seed.unwrap_or(1));
    gauge::measure(&mut bench);
    let failed: Vec<&str> = chosen.iter().filter(|workload| !run(&mut bench, workload)).map(|one| one.id).collect();
    finish(&mut bench, &failed).map_err(|error| error.to_string())
}

/// The workloads of these names; all, or the quick ones, without any.
fn choose(options: &Options) -> Result<Vec<Workload>, String> {
    let all = workloads();
    if let Some(name) = options.names.iter().find(|name| !all.iter().any(|workload| workload.id == **name)) {
        return Err(format!("no workload is named \"{name}\"; --list shows what there is"));
    }
    let is_chosen = |id: &str| match options.names.as_slice() {
        [] => !options.is_quick || QUICK.contains(&id),
        names => names.iter().any(|name| name == id),
    };
    Ok(all.into_iter().filter(|workload| is_chosen(workload.id)).collect())
}

/// Runs one; false when it did not get to its end.
fn run(bench: &mut Bench, workload: &Workload) -> bool {
    bench.current = workload.id;
    bench.step(workload.title);
    // A panic is the harness's way to say that a deadline passed or a ledger was not even.
    catch_unwind(AssertUnwindSafe(|| (workload.run)(bench))).is_ok()
}

/// Prints and writes what was found.
fn finish(bench: &mut Bench, failed: &[&str]) -> io::Result<ExitCode> {
    let void = bench.gauge.void();
    let minutes = bench.elapsed().as_secs_f64() / 60.0;
    let machine = bench.gauge.line();
    let mut text = format!("\nthis machine: {machine}\n\n{}", bench.report.table());
    for workload in failed {
        text.push_str(&format!("{workload} FAILED: see above\n"));
    }
    if let Some(why) = &void {
        text.push_str(&format!("\nVOID: {why}; the machine was measured, not the queues\n"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(pgq_tests::repository().join("target"), PathBuf::from);
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let chart = svg::chart("pgq against the hand-written queue and plain statements", &machine, &bench.report.groups);
    for (name, content) in [("table.txt", &text), ("chart.svg", &chart), ("samples.tsv", &bench.report.tsv())] {
        fs::write(folder.join(name), content)?;
    }
    println!("{text}\n{minutes:.1} minutes; {}: table.txt, chart.svg, samples.tsv", folder.display());
    Ok(match void {
        Some(_) => ExitCode::from(VOID),
        None if failed.is_empty() && bench.report.is_met() => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}
