//! The crash journal: who is charged for a crash and who is not, and files that are no journal of
//! this server. That every kind of poison is found and buried is shown by the torture parts T09 to
//! T11.

use pgq_tests::{count, crasher, one, run, wait_for, wait_until, Server, Stop};
use postgres::Client;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn journal(server: &Server) -> PathBuf {
    server.data_directory().join("pgq/journal")
}

fn lines(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

fn again(server: &Server, client: &mut Client) {
    *client = wait_for(SOON, "the server to be back", || server.try_connect("shop", "postgres").ok());
}

/// Jobs that are done are kept, with their attempts and crashes.
fn kept(server: &Server) -> Client {
    let mut client = server.create_database("shop");
    crasher::create(&mut client);
    run(
        &mut client,
        "CREATE ROLE a LOGIN; CREATE ROLE b LOGIN;
         CREATE FUNCTION nap(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(3) $$;
         CREATE FUNCTION crash_once(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             IF job.attempt = 1 THEN PERFORM crash_segv(); END IF;
         END $$;
         SELECT pgq.register('nap', 'nap', run_as => 'a');
         SELECT pgq.register('crash', 'crash_once', run_as => 'b');
         SELECT pgq.configure('nap', keep_done => '1 day'), pgq.configure('crash', keep_done => '1 day')",
    );
    client
}

#[test]
fn only_the_job_that_crashed_the_server_is_charged_and_not_its_bystanders() {
    let server = Server::builder().preload(true).conf("pgq.backoff", "10ms").start();
    let mut client = kept(&server);
    run(&mut client, "SELECT pgq.put('nap'), pgq.put('nap')");
    wait_until(SOON, "both bystanders to run", || count(&mut client, "pgq.running") == 2);
    run(&mut client, "SELECT pgq.put('crash')");
    wait_until(SOON, "the crash", || lines(&server, "was terminated by signal 11") > 0);
    again(&server, &mut client);
    wait_until(SOON, "all three to be done", || count(&mut client, "pgq.finished_job") == 3);
    let charged = "pgq.finished_job WHERE outcome = 'done' AND queue = 'crash' AND (attempt, crashes) = (2, 1)";
    assert_eq!(count(&mut client, charged), 1);
    let bystanders = "pgq.finished_job WHERE outcome = 'done' AND queue = 'nap' AND (attempt, crashes) = (1, 0)";
    assert_eq!(count(&mut client, bystanders), 2);
}

#[test]
fn a_job_that_runs_while_the_server_is_stopped_at_once_is_not_charged() {
    let server = Server::builder().preload(true).start();
    let mut client = kept(&server);
    run(&mut client, "SELECT pgq.put('nap')");
    for _ in 0..3 {
        wait_until(SOON, "the job to run", || count(&mut client, "pgq.running") == 1);
        server.restart(Stop::Immediate);
        again(&server, &mut client);
    }
    wait_until(SOON, "it to be done", || count(&mut client, "pgq.finished_job") == 1);
    assert_eq!(count(&mut client, "pgq.finished_job WHERE (attempt, crashes) = (1, 0) AND outcome = 'done'"), 1);
}

#[test]
fn a_job_is_charged_when_it_runs_alone_and_the_others_of_its_transaction_never() {
    let server = Server::builder().preload(true).conf("pgq.backoff", "10ms").start();
    let mut client = kept(&server);
    run(
        &mut client,
        "CREATE FUNCTION quick(args jsonb) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             IF args = '\"crash\"' THEN PERFORM crash_segv(); END IF;
         END $$;
         SELECT pgq.register('quick', 'quick', run_as => 'a');
         SELECT pgq.configure('quick', keep_done => '1 day');
         SELECT pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[5000]))",
    );
    // By now its jobs share transactions; in one of them is the poison.
    wait_until(SOON, "the handler to be trusted", || count(&mut client, "pgq.finished_job") == 5_000);
    run(
        &mut client,
        "SELECT pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[200]) || '\"crash\"'::jsonb
            || array_fill('{}'::jsonb, ARRAY[200]))",
    );
    wait_until(SOON, "the poison to be dead", || {
        if client.is_closed() {
            again(&server, &mut client);
        }
        client.query_one("SELECT count(*) FROM pgq.dead", &[]).is_ok_and(|row| row.get::<_, i64>(0) == 1)
    });
    wait_until(SOON, "the others to be done", || count(&mut client, "pgq.job") == 0);
    assert_eq!(one::<String>(&mut client, "SELECT message FROM pgq.dead"), "crashed the server 3 times");
    let crashes = lines(&server, "was terminated by signal 11");
    assert!(crashes == 4, "{crashes}: one in company, uncharged, and three alone");
    assert!(lines(&server, "each runs alone next") == 1);
    assert_eq!(count(&mut client, "pgq.finished_job WHERE outcome = 'done' AND attempt = 1 AND crashes = 0"), 5_400);
}

#[test]
fn a_procedure_that_crashes_the_server_is_found_and_buried() {
    let server = Server::builder().preload(true).conf("pgq.backoff", "10ms").start();
    let mut client = kept(&server);
    run(
        &mut client,
        "CREATE PROCEDURE step(args jsonb) LANGUAGE plpgsql AS $$
         BEGIN COMMIT; PERFORM crash_kill(); END $$;
         SELECT pgq.register('step', 'step', run_as => 'a', max_attempts => 1);
         SELECT pgq.put('step')",
    );
    wait_until(SOON, "the poison to be dead", || {
        if client.is_closed() {
            again(&server, &mut client);
        }
        client.query_one("SELECT count(*) FROM pgq.dead", &[]).is_ok_and(|row| row.get::<_, i64>(0) == 1)
    });
    assert_eq!(one::<String>(&mut client, "SELECT message FROM pgq.dead"), "crashed the server 3 times");
    // Brought back it still runs alone.
    run(&mut client, "SELECT pgq.pause('step'), pgq.redrive('step')");
    assert_eq!(count(&mut client, "pgq.job WHERE quarantined AND crashes = 0"), 1);
}

#[test]
fn a_worker_that_an_administrator_ends_costs_its_job_nothing() {
    let server = Server::builder().preload(true).start();
    let mut client = kept(&server);
    run(&mut client, "SELECT pgq.put('nap')");
    for _ in 0..4 {
        wait_until(SOON, "the job to run", || count(&mut client, "pgq.running") == 1);
        run(&mut client, "SELECT pg_terminate_backend(pid, 5000) FROM pgq.running");
    }
    wait_until(SOON, "it to be done", || count(&mut client, "pgq.finished_job") == 1);
    assert_eq!(count(&mut client, "pgq.finished_job WHERE (attempt, crashes) = (1, 0) AND outcome = 'done'"), 1);
}

/// Starts the server with `content` as its journal; the number of lines that give this reason.
fn starts_with(content: Option<&[u8]>, reason: &str) -> usize {
    let server = Server::builder().preload(true).start();
    let mut client = kept(&server);
    run(&mut client, "SELECT pgq.put('crash', delay => '1 hour')");
    let own = wait_for(SOON, "a journal", || fs::read(journal(&server)).ok());
    server.stop(Stop::Fast);
    // Its own content in another file is a copy.
    let text = content.unwrap_or(&own).to_vec();
    let mut copy = fs::File::create(journal(&server).with_extension("copy")).expect("a file in the data directory");
    // Synced, so that it has its blocks: without them it is refused for that.
    copy.write_all(&text).and_then(|()| copy.sync_all()).expect("room");
    pgq_tests::process::owner().give(&journal(&server).with_extension("copy"));
    fs::rename(journal(&server).with_extension("copy"), journal(&server)).expect("another file in its place");
    server.start();
    let mut client = server.connect("shop");
    run(&mut client, "SELECT pgq.put('nap')");
    wait_until(SOON, "a job to be done", || count(&mut client, "pgq.finished_job") == 1);
    assert_eq!(fs::metadata(journal(&server)).expect("a new journal").len(), own.len() as u64);
    assert_eq!(lines(&server, "the crash journal \"pgq/journal\" is ignored"), 1);
    lines(&server, &format!("is ignored: {reason}"))
}

#[test]
fn a_short_a_foreign_a_hostile_and_a_copied_journal_are_ignored_with_one_line() {
    assert_eq!(starts_with(Some(b""), "it has the wrong size"), 1);
    assert_eq!(starts_with(Some(b"pgq jrnl, but not quite"), "it has the wrong size"), 1);
    assert_eq!(starts_with(Some(&[0xff; 1_028_160]), "it was not written by this version"), 1);
    assert_eq!(starts_with(None, "it came with a copy"), 1);
}

#[test]
fn where_no_journal_can_be_made_jobs_run_and_doctor_says_so_until_it_can() {
    let server = Server::builder().preload(true).start();
    let mut client = kept(&server);
    server.stop(Stop::Fast);
    fs::remove_file(journal(&server)).expect("there was one");
    fs::remove_dir(server.data_directory().join("pgq")).expect("nothing else is in there");
    fs::write(server.data_directory().join("pgq"), "in the way").expect("a file where the directory would be");
    server.start();
    again(&server, &mut client);
    run(&mut client, "SELECT pgq.put('nap')");
    wait_until(SOON, "a job to be done", || count(&mut client, "pgq.finished_job") == 1);
    assert_eq!(lines(&server, "crashes cannot be laid at a job's door"), 1);
    assert_eq!(count(&mut client, "pgq.doctor() WHERE check_name = 'crash journal' AND NOT ok AND fix <> ''"), 1);
    fs::remove_file(server.data_directory().join("pgq")).expect("out of the way again");
    server.restart(Stop::Fast);
    again(&server, &mut client);
    wait_until(SOON, "a journal", || count(&mut client, "pgq.doctor() WHERE check_name = 'crash journal' AND ok") == 1);
}
