//! pg_upgrade to another major version with workers enabled on both sides: `--check` passes, nothing is lost, and the
//! handlers run on without being armed. `PGQ_UPGRADE_TO` names the new version's `pg_config`, with pgq installed there;
//! so this is no part of an ordinary run (see `tests/run`).

use pgq_tests::process::{make_directory, owner};
use pgq_tests::programs::succeed;
use pgq_tests::{count, one, run, wait_until, Server, Stop};
use postgres::Client;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

const SHOP: &str = "
    CREATE TABLE ledger (id bigint);
    GRANT INSERT ON ledger TO app;
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.ledger VALUES (id)';
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.ledger VALUES (id); COMMIT; END $$;
    CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    SELECT pgq.register('quick', 'note', run_as => 'app'), pgq.register('commits', 'commits', run_as => 'app'),
           pgq.register('fails', 'fails', run_as => 'app', max_attempts => 1);
    SELECT pgq.configure('quick', keep_done => '1 day'), pgq.grant_usage('app', 'produce', 'quick'),
           pgq.schedule('yearly', 'later', '@yearly');
    SELECT pgq.put('quick'), pgq.put('fails');";

const JOBS: &str = "
    SELECT pgq.put('later', '{\"a\": [1, null]}', execute_at => '2100-01-01', key => 'k', task => 't');
    SELECT pgq.put('push');
    SELECT pgq.claim('push', lease => '100 days');
    SELECT pgq.put('commits');
    SELECT count(*) FROM pgq.bulk_put('quick', args => (SELECT array_agg('{}'::jsonb) FROM generate_series(1, 1000)));";

const CONTENTS: &str = "
    SELECT 'job ' || to_jsonb(t)::text FROM pgq.job AS t
    UNION ALL SELECT 'finished ' || to_jsonb(t)::text FROM pgq.finished_job AS t
    UNION ALL SELECT 'setting ' || to_jsonb(t)::text FROM pgq.queue_setting AS t
    UNION ALL SELECT 'handler ' || to_jsonb(t)::text FROM pgq.handler AS t
    UNION ALL SELECT 'armed ' || to_jsonb(t)::text FROM pgq.armed_handler AS t
    UNION ALL SELECT 'grant ' || to_jsonb(t)::text FROM pgq.queue_grant AS t
    UNION ALL SELECT 'schedule ' || to_jsonb(t)::text FROM pgq.schedule AS t
    UNION ALL SELECT 'dependency ' || to_jsonb(t)::text FROM pgq.dependency AS t
    UNION ALL SELECT 'flow ' || to_jsonb(t)::text FROM pgq.flow_state AS t
    UNION ALL SELECT 'armed schedule ' || to_jsonb(t)::text FROM pgq.armed_schedule AS t
    ORDER BY 1";

fn contents(client: &mut Client) -> Vec<String> {
    client.query(CONTENTS, &[]).expect("the tables").iter().map(|row| row.get(0)).collect()
}

fn bindir(pg_config: &str) -> PathBuf {
    let output = Command::new(pg_config).arg("--bindir").output();
    let output = output.unwrap_or_else(|error| panic!("{pg_config}: {error}"));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// An empty cluster of the new version, as like to the old one as pg_upgrade wants it.
fn initialise(new: &Path, place: &Path) -> PathBuf {
    let data = place.join("new");
    let mut initdb = owner().command(new.join("initdb"));
    initdb.arg("-D").arg(&data).args(["-U", "postgres", "--auth=trust", "--no-sync"]);
    initdb.args(["--encoding=UTF8", "--locale=C.UTF-8"]);
    let help = Command::new(new.join("initdb")).arg("--help").output().expect("initdb");
    // From 18 on checksums are on unless one says no.
    if String::from_utf8_lossy(&help.stdout).contains("--no-data-checksums") {
        initdb.arg("--no-data-checksums");
    }
    succeed(&mut initdb);
    data
}

/// The ends of what pg_upgrade wrote, which tells more than it prints.
fn logs(data: &Path) -> String {
    let script = "tail -n 12 $(find \"$1\" -name '*.log') /dev/null";
    let found = Command::new("sh").args(["-c", script, "sh"]).arg(data.join("pg_upgrade_output.d")).output();
    found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Minor releases of November 2026 (15.20) note a version in the options of each column, of every table. A `pg_dump` of
/// before, which pg_upgrade calls, dumps that as an option that its server does not know, and no database with a table
/// can be upgraded. It is no doing of pgq's, so where the two do not fit it is taken away.
fn forget_versions_of_columns(client: &mut Client, new: &Path) {
    const OPTION: &[u8] = b"pg_attver";
    let pg_dump = std::fs::read(new.join("pg_dump")).expect("pg_dump is there");
    if pg_dump.windows(OPTION.len()).any(|window| window == OPTION) {
        return;
    }
    let marked = "pg_attribute WHERE attoptions::text LIKE '%pg_attver%' AND attrelid >= 16384";
    println!("{} columns have an option that the new pg_dump does not know", count(client, marked));
    run(client, &format!("UPDATE {}", marked.replacen(" WHERE", " SET attoptions = NULL WHERE", 1)));
}

#[test]
fn pg_upgrade_passes_its_check_and_jobs_run_on_without_arming() {
    let to = std::env::var("PGQ_UPGRADE_TO").expect("PGQ_UPGRADE_TO names the pg_config of the new version");
    let new = bindir(&to);
    let old = Server::builder().preload(true).start();
    run(&mut old.connect("postgres"), "CREATE ROLE app LOGIN");
    let mut client = old.create_database("shop");
    run(&mut client, SHOP);
    wait_until(PATIENCE, "the handlers to run", || count(&mut client, "pgq.finished_job") == 2);
    // What is there at the upgrade is put while nobody works; at the next start everybody may.
    old.set("pgq.enabled", "off");
    wait_until(PATIENCE, "the workers to leave", || old.worker_pids(Some("shop")).is_empty());
    run(&mut client, JOBS);
    let before = contents(&mut client);
    forget_versions_of_columns(&mut client, &new);
    run(&mut client, "ALTER SYSTEM RESET pgq.enabled");
    drop(client);
    old.stop(Stop::Fast);
    let place = make_directory("u");
    let data = initialise(&new, &place);
    let upgrade = |more: &[&str]| {
        let mut command = owner().command(new.join("pg_upgrade"));
        command.current_dir(&place).args(["-U", "postgres", "-p", "50432", "-P", "50433"]);
        command.arg("-b").arg(bindir(&std::env::var("PG_CONFIG").expect("tests/run sets it")));
        command.arg("-B").arg(&new).arg("-d").arg(old.data_directory()).arg("-D").arg(&data);
        command.arg("-s").arg(&place).args(["-O", "-c shared_preload_libraries=pgq"]).args(more);
        let output = command.output().expect("pg_upgrade is there");
        assert!(output.status.success(), "{command:?}: {}\n{}", String::from_utf8_lossy(&output.stdout), logs(&data));
    };
    upgrade(&["--check"]);
    upgrade(&[]);
    // Nobody runs until the rows have been compared.
    let server = Server::builder().over(new.join("postgres"), data).preload(true).conf("pgq.enabled", "off").start();
    let mut client = server.connect("shop");
    println!("upgraded to {}", one::<String>(&mut client, "SELECT version()"));
    assert!(contents(&mut client) == before, "the rows differ");
    server.set("pgq.enabled", "on");
    let left = "pgq.job WHERE queue IN ('quick', 'commits')";
    wait_until(PATIENCE, "the jobs to run", || count(&mut client, left) == 0);
    assert_eq!(count(&mut client, "ledger"), 1002);
    assert_eq!(count(&mut client, "(SELECT id FROM ledger GROUP BY id HAVING count(*) > 1) AS twice"), 0);
    assert_eq!(count(&mut client, "pgq.doctor() WHERE check_name IN ('restored copy', 'version') AND ok"), 2);
    let last: i64 =
        one(&mut client, "SELECT max(id) FROM (SELECT id FROM pgq.job UNION SELECT id FROM pgq.finished_job) AS x");
    assert_eq!(one::<i64>(&mut client, "SELECT pgq.put('quick')"), last + 1);
    wait_until(PATIENCE, "a new job", || count(&mut client, "ledger") == 1003);
}
