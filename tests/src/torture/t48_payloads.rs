//! T48: args of every size and depth, and what is too much of either, in databases of four encodings: each arrives as it
//! was put, or is refused with an error that says so.

use super::{Part, Rng, Run};
use crate::{count, one, run as execute, wait_until, Server};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T48",
    title: "args of 0 bytes to 64 MB, over the limit, too deep, in four encodings",
    unit: "payloads",
    quick: 400,
    full: 10_000,
    run: payloads,
}];

const PATIENCE: Duration = Duration::from_secs(120);
/// One in so many is large.
const LARGE: u64 = 200;

const SHOP: &str = "
    CREATE EXTENSION pgq;
    CREATE TABLE sent (id bigint, digest text);
    CREATE TABLE seen (id bigint, digest text);
    CREATE FUNCTION look(id bigint, args jsonb) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO seen VALUES (id, md5(args::text)) $$;
    SELECT pgq.register('look', 'look');";

/// How a payload goes in; `$1` is its JSON as text.
const WAYS: [&str; 4] = [
    "pgq.put('look', $1::text::jsonb)",
    "pgq.bulk_put('look', args => ARRAY[$1::text::jsonb])",
    "pgq.bulk_put('look', jobs => jsonb_build_array(jsonb_build_object('args', $1::text::jsonb)))",
    "pgq.put('look', $1::text::jsonb, key => md5($1))",
];

fn payloads(run: &mut Run) {
    let server = run.server().conf("pgq.max_args_size", "64MB").start();
    let mut clients: Vec<Client> =
        ["UTF8", "LATIN1", "SQL_ASCII", "EUC_JP"].iter().map(|encoding| open(&server, encoding)).collect();
    for client in &mut clients {
        refused(run, client);
    }
    while run.goes_on() {
        let which = usize::try_from(run.rng.below(4)).expect("small");
        let (client, payload) = (&mut clients[which], payload(&mut run.rng, which));
        let way = WAYS[usize::try_from(run.rng.below(4)).expect("small")];
        let sql = format!("INSERT INTO sent SELECT id, md5($1::text::jsonb::text) FROM {way} AS id");
        if let Err(error) = client.execute(&sql, &[&payload]) {
            run.differ(format!("{} bytes by {way}: {error:?}", payload.len()));
        }
        run.did(1);
    }
    for client in &mut clients {
        wait_until(PATIENCE, "all to have run", || count(client, "pgq.job") == 0);
        let wrong = count(client, "sent FULL JOIN seen USING (id, digest) WHERE sent.id IS NULL OR seen.id IS NULL");
        let dead = count(client, "pgq.finished_job");
        if wrong + dead > 0 {
            run.differ(format!("{wrong} arrived in another form, {dead} died"));
        }
    }
}

fn open(server: &Server, encoding: &str) -> Client {
    let name = format!("in_{}", encoding.to_lowercase());
    let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
    execute(&mut server.connect("postgres"), &sql);
    let mut client = server.connect(&name);
    execute(&mut client, SHOP);
    client
}

/// JSON of some size, with what the encoding has beyond ASCII.
fn payload(rng: &mut Rng, which: usize) -> String {
    let letter = ["é\u{1F600}", "é", "é", "猫"][which];
    let bytes = if rng.below(LARGE) == 0 { rng.below(60 << 20) } else { 1_u64 << rng.below(18) };
    let bytes = usize::try_from(bytes).expect("fits");
    let text: String = letter.chars().chain("abc \\\" xyz".chars()).cycle().take(bytes / 2).collect();
    let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    match rng.below(6) {
        0 => "null".to_owned(),
        1 => "{}".to_owned(),
        2 => format!("{{\"k\": {quoted}, \"n\": [1, 2.50, -1e10]}}"),
        3 => {
            let depth = usize::try_from(rng.below(1_000)).expect("small");
            format!("{}{}", "[".repeat(depth + 1), "]".repeat(depth + 1))
        }
        _ => quoted,
    }
}

/// What no args can be, and the error that each gives.
fn refused(run: &mut Run, client: &mut Client) {
    // The same check as for 64 MB, and a hundred times as fast.
    execute(client, "SET pgq.max_args_size = '1MB'");
    let too_large = "to_jsonb(repeat('x', 1024 * 1024))";
    for (args, code) in [
        (too_large, "54000"),
        ("repeat('[', 1000000)::jsonb", "54001"),
        ("'{\"a\": \"\\u0000\"}'::jsonb", "22P05"),
        ("'{\"a\": }'::jsonb", "22P02"),
    ] {
        for call in [
            format!("pgq.put('look', {args})"),
            format!("pgq.bulk_put('look', args => ARRAY[{args}])"),
            format!("pgq.bulk_put('look', jobs => jsonb_build_array(jsonb_build_object('args', {args})))"),
        ] {
            let got = client.batch_execute(&format!("SELECT {call}")).err();
            let got = got.and_then(|error| error.code().map(|code| code.code().to_owned()));
            if got.as_deref() != Some(code) {
                run.differ(format!("{call}: {got:?} instead of {code}"));
            }
        }
    }
    execute(client, "RESET pgq.max_args_size");
    let smaller: i64 = one(client, "SELECT count(*) FROM pgq.job");
    assert_eq!(smaller, 0, "nothing of it was put");
}
