//! T54: roles are dropped, renamed, re-created, stripped of rights and given back, at random, while 0, 1 or 1,000
//! jobs of theirs wait or run, and another role's queue goes on. After each step the reason is the one that a
//! model of the roles expects; after each repair everything drains.

use super::{Part, Run};
use crate::server::Server;
use crate::{count, one, run as execute, wait_until, Ledger};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T54",
    title: "roles dropped, renamed, re-created, stripped of rights",
    unit: "steps",
    quick: 30,
    full: 1_000,
    run: lifecycle,
}];

const PATIENCE: Duration = Duration::from_secs(100);
/// A parked or mended handler is seen at the next look, at most a second later: ten times that.
const NEXT_LOOK: Duration = Duration::from_secs(10);
const ROLES: usize = 3;

const SETUP: &str = "
    CREATE ROLE eve;
    CREATE TABLE put (id bigint);
    CREATE TABLE calm_put (id bigint);
    REVOKE CONNECT ON DATABASE shop FROM PUBLIC";

/// What a step changes. Each is a way out of the state in which the handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Drop,
    Rename,
    Recreate,
    NoLogin,
    Execute,
    Connect,
    Usage,
    Superuser,
    Reassign,
    DropOwned,
}

const CHANGES: [(Change, &str); 10] = [
    (Change::Drop, "drop"),
    (Change::Rename, "rename"),
    (Change::Recreate, "re-create"),
    (Change::NoLogin, "nologin"),
    (Change::Execute, "revoke execute"),
    (Change::Connect, "revoke connect"),
    (Change::Usage, "revoke usage"),
    (Change::Superuser, "superuser"),
    (Change::Reassign, "reassign owned"),
    (Change::DropOwned, "drop owned"),
];

/// A role `victim<n>` with a schema and a queue of its name. The schema is the superuser's.
struct Victim {
    name: String,
    /// Its name now, while it is renamed.
    renamed: Option<String>,
}

impl Victim {
    fn create(client: &mut Client, n: usize) -> Victim {
        let name = format!("victim{n}");
        execute(
            client,
            &format!(
                "CREATE ROLE {name} LOGIN; CREATE SCHEMA {name};
                 GRANT CONNECT ON DATABASE shop TO {name}; GRANT USAGE ON SCHEMA {name} TO {name}"
            ),
        );
        let victim = Victim { name, renamed: None };
        victim.create_function(client);
        victim.register(client);
        victim
    }

    /// Owned by the role, and nobody else may execute it.
    fn create_function(&self, client: &mut Client) {
        let name = &self.name;
        execute(
            client,
            &format!(
                "CREATE FUNCTION {name}.f(id bigint, args jsonb) RETURNS void LANGUAGE sql
                     AS 'INSERT INTO public.ledger VALUES (id)';
                 ALTER FUNCTION {name}.f OWNER TO {name};
                 REVOKE ALL ON FUNCTION {name}.f FROM PUBLIC"
            ),
        );
    }

    fn register(&self, client: &mut Client) {
        let name = &self.name;
        execute(client, &format!("SELECT pgq.register('{name}', '{name}.f', run_as => '{name}')"));
    }

    fn put(&self, client: &mut Client, n: u64) {
        let jobs = format!("pgq.bulk_put('{}', args => array_fill('{{}}'::jsonb, ARRAY[{n}]))", self.name);
        if n > 0 {
            execute(client, &format!("INSERT INTO put SELECT {jobs}"));
        }
    }

    fn left(&self, client: &mut Client) -> i64 {
        count(client, &format!("pgq.job WHERE queue = '{}'", self.name))
    }

    /// Does it, and says what doctor must say then.
    fn breaks(&mut self, client: &mut Client, change: Change) -> String {
        let name = self.name.clone();
        let away = format!("ALTER FUNCTION {name}.f OWNER TO postgres; DROP OWNED BY {name}; DROP ROLE {name}");
        let role = format!("role \"{name}\"");
        let f = format!("{name}.f(bigint, jsonb)");
        let (sql, reason) = match change {
            Change::Drop => (away, format!("{role} is gone")),
            Change::Rename => {
                self.renamed = Some(format!("{name}_away"));
                let reason = format!("{role} has been renamed to \"{name}_away\": register again");
                (format!("ALTER ROLE {name} RENAME TO {name}_away"), reason)
            }
            Change::Recreate => {
                (format!("{away}; CREATE ROLE {name} LOGIN"), format!("{role} was re-created: register again"))
            }
            Change::NoLogin => (format!("ALTER ROLE {name} NOLOGIN"), format!("{role} may not log in")),
            Change::Execute => {
                (format!("REVOKE EXECUTE ON FUNCTION {name}.f FROM {name}"), format!("{role} may not execute {f}"))
            }
            Change::Connect => {
                let reason = format!("{role} may not connect to database \"shop\"");
                (format!("REVOKE CONNECT ON DATABASE shop FROM {name}"), reason)
            }
            Change::Usage => {
                let reason = format!("{role} may not use schema \"{name}\"");
                (format!("REVOKE USAGE ON SCHEMA {name} FROM {name}"), reason)
            }
            Change::Superuser => (
                format!("ALTER ROLE {name} SUPERUSER"),
                format!("{role} is a superuser, and handlers may not run as one"),
            ),
            Change::Reassign => (
                format!("REASSIGN OWNED BY {name} TO eve; GRANT EXECUTE ON FUNCTION {name}.f TO {name}"),
                format!("{f} belongs to \"eve\", who could act as \"{name}\""),
            ),
            Change::DropOwned => (format!("DROP OWNED BY {name}"), format!("function {f} does not exist")),
        };
        execute(client, &sql);
        reason
    }

    /// Mends what was broken, whatever it was, as a DBA would.
    fn mend(&mut self, client: &mut Client, change: Change) {
        let name = self.name.clone();
        let grants = format!(
            "GRANT CONNECT ON DATABASE shop TO {name}; GRANT USAGE ON SCHEMA {name} TO {name};
             ALTER FUNCTION {name}.f OWNER TO {name}; GRANT EXECUTE ON FUNCTION {name}.f TO {name}"
        );
        match change {
            Change::Drop => execute(client, &format!("CREATE ROLE {name} LOGIN; {grants}")),
            Change::Rename => {
                let now = self.renamed.take().expect("a renamed role");
                execute(client, &format!("ALTER ROLE {now} RENAME TO {name}"));
            }
            Change::Recreate | Change::Execute | Change::Connect | Change::Usage | Change::Reassign => {
                execute(client, &grants);
            }
            Change::NoLogin => execute(client, &format!("ALTER ROLE {name} LOGIN")),
            Change::Superuser => execute(client, &format!("ALTER ROLE {name} NOSUPERUSER")),
            Change::DropOwned => {
                self.create_function(client);
                execute(client, &grants);
            }
        }
        if matches!(change, Change::Drop | Change::Recreate) {
            self.register(client);
        }
    }
}

/// A queue that nothing is done to: a job at a time, each done before the next is put. The longest that one took.
fn calm(server: &Server, stop: &AtomicBool) -> Duration {
    let mut client = server.connect("shop");
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let put = "WITH j AS (SELECT pgq.put('calm') AS id) INSERT INTO calm_put SELECT id FROM j RETURNING id";
        let id: i64 = one(&mut client, put);
        let left = format!("pgq.job WHERE id = {id}");
        let took = wait_until(PATIENCE, "the calm queue's job", || count(&mut client, &left) == 0);
        longest = longest.max(took);
    }
    longest
}

fn lifecycle(run: &mut Run) {
    let server = run.server().conf("pgq.allow_superuser_handlers", "off").start();
    let mut client = server.create_database("shop");
    let ledger = Ledger::create(&mut client, "ledger");
    let calm_ledger = Ledger::create(&mut client, "calm_ledger");
    execute(&mut client, SETUP);
    execute(
        &mut client,
        "CREATE ROLE calm LOGIN; GRANT CONNECT ON DATABASE shop TO calm;
         CREATE FUNCTION calm(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO calm_ledger VALUES (id)';
         SELECT pgq.register('calm', 'calm', run_as => 'calm')",
    );
    let mut victims: Vec<Victim> = (0..ROLES).map(|n| Victim::create(&mut client, n)).collect();
    let stop = AtomicBool::new(false);
    let mut parked = 0;
    let longest = thread::scope(|scope| {
        let calm = scope.spawn(|| calm(&server, &stop));
        while run.goes_on() {
            step(run, &mut client, &mut victims, &mut parked);
        }
        stop.store(true, Ordering::Relaxed);
        calm.join().expect("the calm queue")
    });
    for (table, ledger) in [("put", &ledger), ("calm_put", &calm_ledger)] {
        let put = client.query(&format!("SELECT id FROM {table}"), &[]).expect("ids");
        let put: Vec<i64> = put.iter().map(|row| row.get(0)).collect();
        let verdict = ledger.verify(&mut client, &put);
        if !verdict.is_exact() {
            run.differ(verdict);
        }
    }
    println!("the calm queue's jobs took at most {longest:?}");
    let log = server.log();
    let lines = (log.matches(" is parked: ").count(), log.matches(" runs again").count());
    // A handler without jobs is seen by the recheck only, if it is broken then; registering again needs no line.
    let steps = usize::try_from(run.done()).expect("a number");
    // Only an executor that was on its way as the role changed is refused.
    let refused = log.matches(" pgq executor FATAL: ").count();
    if refused > 3 + steps / 4 {
        run.differ(format!("{refused} executors were refused in {steps} steps"));
    }
    if lines.0 < parked || lines.0 > steps || lines.1 > lines.0 {
        let (stops, goes) = lines;
        run.differ(format!("{steps} steps parked {parked} times: {stops} lines say so, {goes} that it runs again"));
    }
    for storm in ["a look at the queues failed", "a handler could not be parked", "permission denied for"] {
        if let Some(line) = log.lines().find(|line| line.contains(storm) && !line.contains(" FATAL: ")) {
            run.differ(format!("in the log: {line}"));
        }
    }
}

/// Breaks one role with jobs in its queue, looks at everything, mends it, and waits until all is done.
fn step(run: &mut Run, client: &mut Client, victims: &mut [Victim], parked: &mut usize) {
    let (change, kind) = *run.rng.pick(&CHANGES);
    let which = usize::try_from(run.rng.below(ROLES as u64)).expect("an index");
    let victim = &mut victims[which];
    let jobs = *run.rng.pick(&[0, 1, 1_000]);
    // Before: so that the change comes while they run. After: so that they meet it.
    let before = run.rng.chance(50);
    if before {
        victim.put(client, jobs);
    }
    let reason = victim.breaks(client, change);
    if !before {
        victim.put(client, jobs);
    }
    run.fault(kind);
    let shown: Option<String> = one(client, &format!("SELECT parked FROM pgq.stats('{}')", victim.name));
    if shown.as_ref() != Some(&reason) {
        run.differ(format!("{kind}: stats says {shown:?}, not \"{reason}\""));
    }
    if victim.left(client) > 0 {
        let sql = format!("SELECT parked FROM pgq.handler WHERE queue = '{}'", victim.name);
        wait_until(NEXT_LOOK, &format!("the record of: {reason}"), || {
            one::<Option<String>>(client, &sql).as_ref() == Some(&reason) || victim.left(client) == 0
        });
    }
    if victim.left(client) > 0 {
        *parked += 1;
        let touched = format!("pgq.job WHERE queue = '{}' AND (attempt > 0 OR state <> 'ready')", victim.name);
        if count(client, &touched) > 0 {
            run.differ(format!("{kind}: a job was touched"));
        }
    }
    let others = format!(
        "pgq.doctor() WHERE check_name = 'parked handlers' AND NOT ok AND detail NOT LIKE 'queue \"{}\"%'",
        victim.name
    );
    if count(client, &others) > 0 {
        run.differ(format!("{kind} of {} parked somebody else", victim.name));
    }
    victim.mend(client, change);
    let began = std::time::Instant::now();
    wait_until(PATIENCE, "the jobs to drain", || victim.left(client) == 0);
    if began.elapsed() > NEXT_LOOK * 2 {
        run.differ(format!("{kind}: mended, {jobs} jobs took {:?}", began.elapsed()));
    }
    run.did(1);
}
