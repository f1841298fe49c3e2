//! Attacks of a role with next to no rights: a bank with a vault that must stay as it is, an attacker who
//! owns a schema and may execute what a client may, and the scripts of what he tries.
//!
//! All code of his ends in `low.strike(what)`: it notes as whom it runs, and takes what it can get.
//! So it is not only an error that shows an attack that succeeded: nothing may ever strike as
//! somebody else, and roles, canary, vault and the extension's objects are compared after each.

pub mod script;

use super::Run;
use crate::server::Server;
use crate::time::wait_for;
use postgres::{Client, NoTls};
use script::{Case, Expected, Step};
use std::collections::HashMap;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What stands before any attack.
const BANK: &str = "
    CREATE ROLE low LOGIN; CREATE ROLE peer LOGIN;
    CREATE TABLE public.canary (secret text); INSERT INTO public.canary VALUES ('42');
    CREATE SCHEMA boss; CREATE SCHEMA peer AUTHORIZATION peer;
    SELECT pgq.grant_usage('peer', 'admin', 'peer'), pgq.grant_usage('peer', 'produce', 'peer');
    SELECT pgq.grant_usage('low', access, queue) FROM unnest('{produce,consume,admin}'::text[]) AS access,
        unnest('{own,next,last,nested,listens,a,b,c,d,e,f,g,h,i,j}'::text[]) AS queue;
    CREATE FUNCTION boss.guard(args jsonb) RETURNS void LANGUAGE sql AS '';
    CREATE FUNCTION peer.work(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep((args->>0)::float8); END $$;
    ALTER FUNCTION peer.work OWNER TO peer;
    SELECT pgq.register('vault', 'boss.guard'), pgq.register('peer', 'peer.work', run_as => 'peer'), pgq.pause('vault');
    SELECT pgq.put('vault', '{\"secret\": 42}'), pgq.put('vault', '{}', key => 'k', delay => '1 year');
    INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome, error)
    VALUES (-1, 'vault', '{\"secret\": 42}', 0, now(), 1, 1, 0, 'dead', '{\"message\": \"42\"}');
    INSERT INTO pgq.job (id, queue, args, execute_at, state, attempt)
    VALUES (-2, 'vault', '{\"secret\": 42}', now() + '1 year', 'leased', 1);";

/// What the attacker has, anew for each case.
const ATTACKER: &str = "
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'low';
    DROP OWNED BY low CASCADE; ALTER ROLE low RESET ALL; ALTER DATABASE bank RESET ALL;
    DO $$ DECLARE r name; BEGIN
        FOR r IN SELECT rolname FROM pg_roles WHERE rolname NOT IN ('postgres', 'low', 'peer') AND rolname !~ '^pg_' LOOP
            EXECUTE format('DROP OWNED BY %I CASCADE; DROP ROLE %I', r, r);
        END LOOP; END $$;
    DELETE FROM pgq.job WHERE queue <> 'vault'; DELETE FROM pgq.finished_job WHERE queue <> 'vault';
    DELETE FROM pgq.queue_setting WHERE queue <> 'vault';
    CREATE SCHEMA low AUTHORIZATION low;
    GRANT USAGE ON SCHEMA pgq TO low; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgq TO low;
    GRANT USAGE ON TYPE pgq.job TO low;
    GRANT CREATE ON SCHEMA public TO low;
    SET ROLE low;
    GRANT USAGE ON SCHEMA low TO PUBLIC;
    CREATE TABLE low.seen (what text, who name, session name); GRANT ALL ON low.seen TO PUBLIC;
    CREATE TABLE low.loot (secret text); GRANT ALL ON low.loot TO PUBLIC;
    CREATE FUNCTION low.strike(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO low.seen VALUES (what, current_user, session_user);
        BEGIN EXECUTE 'ALTER ROLE low SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
        BEGIN EXECUTE 'INSERT INTO low.loot SELECT secret FROM public.canary'; EXCEPTION WHEN OTHERS THEN END;
        RETURN true;
    END $$;
    RESET ROLE;";

/// Everything an attack might change and must not, in lines.
const STATE: &str = "
    SELECT 'role ' || a::text FROM pg_authid AS a
    UNION ALL SELECT 'member ' || m::text FROM pg_auth_members AS m
    UNION ALL SELECT 'canary ' || c::text FROM public.canary AS c
    UNION ALL SELECT 'job ' || j::text FROM pgq.job AS j WHERE j.queue = 'vault'
    UNION ALL SELECT 'finished ' || f::text FROM pgq.finished_job AS f WHERE f.queue = 'vault'
    UNION ALL SELECT 'setting ' || s::text FROM pgq.queue_setting AS s WHERE s.queue = 'vault'
    UNION ALL SELECT 'grant ' || g::text FROM pgq.queue_grant AS g
    UNION ALL SELECT 'handler ' || h::text FROM pgq.handler AS h WHERE h.queue IN ('vault', 'peer')
    UNION ALL SELECT 'armed ' || a::text FROM pgq.armed_handler AS a JOIN pgq.handler AS h ON h.id = a.handler
      WHERE h.queue IN ('vault', 'peer')
    UNION ALL SELECT 'function ' || p::text FROM pg_proc AS p
      WHERE p.pronamespace::regnamespace::text IN ('pgq', 'boss', 'peer')
    UNION ALL SELECT concat_ws(' ', 'relation', c.oid, c.relname, c.relowner, c.relkind, c.relhastriggers, c.relhasrules,
        c.relhassubclass, c.relrowsecurity, c.reloptions) FROM pg_class AS c
      WHERE c.relnamespace::regnamespace::text IN ('pgq', 'boss', 'peer')
    UNION ALL SELECT 'schema ' || n.nspname || n.nspowner FROM pg_namespace AS n WHERE n.nspname !~ '^pg_|^low$'
    UNION ALL SELECT 'trigger ' || t.tgname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
      WHERE c.relnamespace::regnamespace::text <> 'low' UNION ALL SELECT 'event ' || evtname FROM pg_event_trigger
    UNION ALL SELECT 'extension ' || e::text FROM pg_extension AS e
    UNION ALL SELECT 'member of the extension ' || d::text FROM pg_depend AS d WHERE d.deptype = 'e'
    UNION ALL SELECT 'setting ' || s::text FROM pg_db_role_setting AS s
      WHERE s.setrole <> 'low'::regrole
    UNION ALL SELECT 'published ' || p::text FROM pg_publication AS p
    ORDER BY 1";

/// A server with the bank on it.
pub struct Bank {
    server: Server,
    boss: Client,
    before: Vec<String>,
}

impl Bank {
    /// Builds it.
    pub fn open(server: Server) -> Bank {
        let mut boss = server.create_database("bank");
        // What is looked at is not to be shadowed either.
        crate::run(&mut boss, "SET search_path = pg_catalog, pg_temp");
        crate::run(&mut boss, BANK);
        crate::run(&mut boss, "CREATE SCHEMA low AUTHORIZATION low");
        let mut bank = Bank { server, boss, before: Vec::new() };
        bank.prepare();
        bank.before = bank.state();
        bank
    }

    fn prepare(&mut self) {
        // Committed before the attacker's workers are ended: others would come at once and take the jobs again, which
        // the DELETE would wait for.
        crate::run(
            &mut self.boss,
            "DELETE FROM pgq.handler WHERE queue NOT IN ('vault', 'peer');
            DELETE FROM pgq.armed_handler AS a WHERE NOT EXISTS (SELECT FROM pgq.handler AS h WHERE h.id = a.handler)",
        );
        crate::run(&mut self.boss, ATTACKER);
    }

    fn state(&mut self) -> Vec<String> {
        let rows = self.boss.query(STATE, &[]).unwrap_or_else(|error| panic!("the state of the bank: {error:?}"));
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
    }

    /// Tries one; what is different from what it promises.
    pub fn try_case(&mut self, case: &Case) -> Vec<String> {
        self.prepare();
        let mut sessions = Sessions { server: &self.server, open: HashMap::new(), options: HashMap::new() };
        let mut differences = Vec::new();
        for step in &case.steps {
            let found = if step.actor == "job" { job(&mut self.boss, step) } else { sessions.act(step) };
            if let Err(what) = found {
                differences.push(format!("{} — {}: {what}", case.name, step.actor));
                break;
            }
        }
        drop(sessions);
        differences.extend(self.damage().into_iter().map(|what| format!("{} — {what}", case.name)));
        differences
    }

    /// What is not as it was, and who struck as somebody else.
    fn damage(&mut self) -> Vec<String> {
        let after = self.state();
        let gone = self.before.iter().filter(|line| !after.contains(line)).map(|line| format!("gone: {line}"));
        let new = after.iter().filter(|line| !self.before.contains(line)).map(|line| format!("new: {line}"));
        let mut damage: Vec<String> = gone.chain(new).map(|line| line.chars().take(300).collect()).collect();
        self.before = after.clone();
        let there: bool = crate::one(
            &mut self.boss,
            "SELECT to_regclass('low.seen') IS NOT NULL AND to_regclass('low.loot') IS NOT NULL",
        );
        if there {
            let strikes = "SELECT concat_ws(' ', what, 'as', who, 'in a session of', session) FROM low.seen
                WHERE who <> 'low' UNION ALL SELECT 'loot: ' || secret FROM low.loot";
            let rows = self.boss.query(strikes, &[]).expect("what was struck");
            damage.extend(rows.iter().map(|row| format!("struck: {}", row.get::<_, String>(0))));
        }
        damage
    }

    /// Tries them all, again and again in another order, as long as the run goes on.
    ///
    /// # Panics
    /// When a count does not reach all of them: what is not tried is not refused.
    pub fn rounds(&mut self, run: &mut Run, cases: &[Case]) {
        eprintln!("{}: {} attacks", run.part.id, cases.len());
        assert!(run.part.quick >= cases.len() as u64, "quick is less than {} attacks", cases.len());
        // A held cursor whose query has an exception block fails an assertion of PostgreSQL's own at COMMIT, without pgq too
        // (RollbackAndReleaseCurrentSubTransaction, xact.c): where it has assertions, these cases are left out.
        let asserts: bool = crate::one(&mut self.boss, "SELECT current_setting('debug_assertions') = 'on'");
        let fails = |case: &Case| case.steps.iter().any(|step| step.text.contains("WITH HOLD"));
        let mut order: Vec<usize> = (0..cases.len()).filter(|n| !(asserts && fails(&cases[*n]))).collect();
        while run.goes_on() {
            for n in (1..order.len()).rev() {
                order.swap(n, usize::try_from(run.rng.below(n as u64 + 1)).unwrap_or(0));
            }
            for n in &order {
                let differences = self.try_case(&cases[*n]);
                run.fault("attack");
                run.did(1);
                differences.iter().for_each(|what| run.differ(what));
                if run.left() == 0 {
                    break;
                }
            }
        }
        self.crashes().iter().for_each(|line| run.differ(line));
    }

    /// What the log says about the server's health.
    pub fn crashes(&self) -> Vec<String> {
        let log = self.server.log();
        let bad = |line: &&str| line.contains("PANIC") || line.contains("server process") || line.contains("signal 11");
        log.lines().filter(bad).map(str::to_owned).collect()
    }
}

/// The sessions of a case, opened when they are first used.
struct Sessions<'a> {
    server: &'a Server,
    open: HashMap<String, Client>,
    options: HashMap<String, String>,
}

impl Sessions<'_> {
    fn of(&mut self, actor: &str) -> &mut Client {
        let role = match actor {
            "boss" => "postgres",
            other => other.trim_end_matches('2'),
        };
        let options = self.options.get(actor).map_or("", String::as_str);
        let server = self.server;
        let open = || {
            let client = server.config("bank", role).options(options).connect(NoTls);
            client.unwrap_or_else(|error| panic!("cannot connect as {role} with {options}: {error:?}"))
        };
        self.open.entry(actor.to_owned()).or_insert_with(open)
    }

    fn act(&mut self, step: &Step) -> Result<(), String> {
        match &step.expected {
            Expected::Login => {
                self.open.remove(&step.actor);
                self.options.insert(step.actor.clone(), step.text.clone());
                Ok(())
            }
            Expected::Value(value) => {
                let row = self.of(&step.actor).query_one(&step.text, &[]);
                let found = row.map_err(|error| format!("{}: {error:?}", step.text))?;
                let found: Option<String> = found.get(0);
                let found = found.unwrap_or_else(|| "NULL".into());
                if found == *value {
                    Ok(())
                } else {
                    Err(format!("sees {found}, not {value}: {}", step.text))
                }
            }
            expected => {
                let result = self.of(&step.actor).batch_execute(&step.text);
                compare(result, expected).map_err(|what| format!("{what}: {}", step.text))
            }
        }
    }
}

fn compare(result: Result<(), postgres::Error>, expected: &Expected) -> Result<(), String> {
    let error = match (result, expected) {
        (Ok(()), Expected::Failure(codes)) => return Err(format!("not refused ({codes:?})")),
        (Ok(()), _) => return Ok(()),
        (Err(error), _) => error,
    };
    let Some(code) = error.code().map(|code| code.code().to_owned()) else { return Err(format!("{error:?}")) };
    match expected {
        Expected::Failure(codes) if codes.contains(&code) => Ok(()),
        Expected::Anything if !code.starts_with("XX") => Ok(()),
        _ => Err(format!("{code} {error:?}")),
    }
}

/// Puts a job as the superuser and waits for its end.
fn job(boss: &mut Client, step: &Step) -> Result<(), String> {
    let Expected::End(end, code) = &step.expected else { return Err("no end".into()) };
    let queue = &step.text;
    crate::run(boss, &format!("SELECT pgq.configure('{queue}', keep_done => '1 h')"));
    let id: i64 = crate::one(boss, &format!("SELECT pgq.put('{queue}')"));
    let look = format!(
        "SELECT COALESCE(f.outcome, CASE WHEN h.parked IS NOT NULL THEN 'parked' END), f.error ->> 'sqlstate',
                COALESCE(f.error::text, h.parked, '')
           FROM (SELECT) AS one LEFT JOIN pgq.finished_job AS f ON f.id = {id}
           LEFT JOIN pgq.handler AS h ON h.queue = '{queue}' AND h.parked IS NOT NULL"
    );
    let row = wait_for(PATIENCE, &format!("the job of {queue} to be {end}"), || {
        let row = boss.query_opt(&look, &[]).expect("the job's end")?;
        row.get::<_, Option<String>>(0).is_some().then_some(row)
    });
    let (state, sqlstate, why): (String, Option<String>, String) = (row.get(0), row.get(1), row.get(2));
    if state == *end && (code.is_none() || *code == sqlstate) {
        return Ok(());
    }
    Err(format!("the job of {queue} is {state} {sqlstate:?}, not {end} {code:?}: {why}"))
}
