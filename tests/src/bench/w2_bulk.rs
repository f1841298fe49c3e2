//! W2: many jobs in one call against COPY of the same rows into an identical table and against
//! INSERT … SELECT. What is sent is made beforehand; the time is from the call to its commit.

use super::figures::{median, Bound};
use super::meter::{metered, Sample};
use super::report::{rate, ratios, Row};
use super::stage::Stage;
use super::Bench;
use crate::run as sql;
use postgres::types::private::BytesMut;
use postgres::types::{to_sql_checked, IsNull, ToSql, Type};
use postgres::Client;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

/// A jsonb[] as drivers send it: in the binary format of arrays (array_recv, jsonb_recv).
#[derive(Debug)]
struct Array(Vec<u8>);

impl Array {
    fn of(elements: impl ExactSizeIterator<Item = String>) -> Array {
        let word = |n: usize| u32::try_from(n).expect("a short array").to_be_bytes();
        let head = [1, 0, Type::JSONB.oid(), u32::from_be_bytes(word(elements.len())), 1];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
        for element in elements {
            bytes.extend(word(element.len() + 1));
            // The version of jsonb's format, which is its text.
            bytes.push(1);
            bytes.extend(element.as_bytes());
        }
        Array(bytes)
    }
}

impl ToSql for Array {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB_ARRAY
    }

    to_sql_checked!();
}

/// The same rows in each form.
struct Rows {
    count: u64,
    array: Array,
    text: String,
    jobs: String,
    lines: String,
}

impl Rows {
    fn new(count: u64) -> Rows {
        let (mut text, mut jobs, mut lines) = ("{".to_owned(), "[".to_owned(), String::new());
        for n in 1..=count {
            let comma = if n == 1 { "" } else { "," };
            let _ = write!(text, "{comma}\"{{\\\"n\\\": {n}}}\"");
            let _ = write!(jobs, "{comma}{{\"args\": {{\"n\": {n}}}}}");
            let _ = writeln!(lines, "silent\t{{\"n\": {n}}}\t0\t2026-01-01 00:00:00+00\tready");
        }
        let each = 0..usize::try_from(count).unwrap_or(0);
        let array = Array::of(each.map(|n| format!("{{\"n\": {}}}", n + 1)));
        Rows { count, array, text: text + "}", jobs: jobs + "]", lines }
    }
}

const COPY: &str = "COPY bare (queue, args, priority, execute_at, state) FROM STDIN";

const INSERT: &str = "INSERT INTO bare (queue, args, priority, execute_at, state)
     SELECT 'silent', jsonb_build_object('n', n), 0, now(), 'ready' FROM generate_series(1, $1::bigint) n";

const ARMS: [&str; 5] = ["pgq args", "pgq jobs", "COPY", "INSERT SELECT", "pgq args as text"];

/// Puts the rows once, in the way of an arm.
fn put(client: &mut Client, arm: usize, rows: &Rows) {
    let count = match arm {
        0 | 1 | 4 => {
            let (name, given): (&str, &(dyn ToSql + Sync)) = match arm {
                0 => ("args => $1", &rows.array),
                1 => ("jobs => $1::text::jsonb", &rows.jobs),
                _ => ("args => $1::text::jsonb[]", &rows.text),
            };
            let call = format!("SELECT count(*) FROM pgq.bulk_put('silent', {name})");
            let counted: i64 = client.query_one(&call, &[given]).expect("bulk_put").get(0);
            u64::try_from(counted).unwrap_or_default()
        }
        2 => {
            let mut writer = client.copy_in(COPY).expect("COPY");
            writer.write_all(rows.lines.as_bytes()).expect("COPY");
            writer.finish().expect("COPY")
        }
        _ => client.execute(INSERT, &[&i64::try_from(rows.count).unwrap_or(i64::MAX)]).expect("INSERT"),
    };
    assert_eq!(count, rows.count, "{}", ARMS[arm]);
}

/// One sample: the rows again and again until the time is over.
fn take(stage: &mut Stage, arm: usize, rows: &Rows, seconds: u64) -> Sample {
    sql(&mut stage.client, "TRUNCATE pgq.job, bare");
    metered(stage, |stage| {
        let began = Instant::now();
        let mut calls = 0;
        while calls == 0 || began.elapsed().as_secs_f64() < seconds as f64 {
            put(&mut stage.client, arm, rows);
            calls += 1;
        }
        ((calls * rows.count) as f64, began.elapsed().as_secs_f64())
    })
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    sql(&mut stage.client, "SELECT pgq.configure('silent', notify => false)");
    let (seconds, rounds, pairs) = (bench.sizes.seconds, bench.sizes.rounds, bench.sizes.pairs);
    for (index, count) in bench.sizes.bulks.clone().into_iter().enumerate() {
        let title = format!("bulk_put of {count}");
        let rows = Rows::new(count);
        stage.checkpoint();
        let pairs = if index == 0 { pairs } else { rounds };
        let mut samples = bench.alternate(&title, pairs, &ARMS[..3], |arm| take(&mut stage, arm, &rows, seconds));
        stage.checkpoint();
        samples.extend(bench.alternate(&title, rounds, &ARMS[3..], |arm| take(&mut stage, 3 + arm, &rows, seconds)));
        tell(bench, &title, &samples);
    }
}

fn tell(bench: &mut Bench, title: &str, samples: &[Vec<Sample>]) {
    let rates: Vec<f64> = samples.iter().map(|of| rate(of)).collect();
    for arm in [0, 1] {
        let name = ARMS[arm].trim_start_matches("pgq ");
        let mut row = Row::new("W2", &format!("{title}, {name}, to COPY"), "jobs/s").of(&samples[arm]);
        row.raw = Some(rates[2]);
        bench.report.rows.push(row);
        let what = format!("{title}, {name}, to COPY");
        bench.report.check_pairs("W2", &what, (&samples[arm], &samples[2]), 1.0);
        bench.report.show("W2", &format!("{title}, {name}, to INSERT SELECT"), rates[arm] / rates[3]);
        let wal = median(&ratios(&samples[arm], &samples[2], Sample::wal_per_job));
        // To the hundredth: the commit of each call is in it.
        let wal = (wal * 100.0).round() / 100.0;
        bench.report.check("W2", &format!("{title}, {name}, WAL to COPY's"), wal, Bound::AtMost(1.0));
    }
    // What the server takes to read an array from its text is in it.
    let mut row = Row::new("W2", &format!("{title}, args as text, to COPY"), "jobs/s").of(&samples[4]);
    row.raw = Some(rates[2]);
    bench.report.rows.push(row);
    bench.report.show("W2", &format!("{title}, args as text, to COPY"), rates[4] / rates[2]);
    let labels = [
        "pgq bulk_put(args)",
        "pgq bulk_put(jobs)",
        "COPY into an identical table",
        "INSERT SELECT into it",
        "pgq bulk_put(args as text)",
    ];
    let bars: Vec<(&str, f64)> = labels.into_iter().zip(rates).collect();
    bench.report.chart(&format!("W2 {title}"), "jobs/s", &bars);
}
