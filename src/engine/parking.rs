//! Why a handler does not run: the closed list of reasons, each with its words and the command that mends it.
//! `register` refuses with the same reasons that park a registered handler. Whether one holds is `store::parking`'s
//! to find out.

use std::fmt;

/// A reason. Names are as the catalog has them, a function is its whole signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It came with a copy of a database: a dump, a template.
    Held,
    /// No role has the oid, none the name.
    RoleGone { role: String },
    /// The role has another name now.
    RoleRenamed { role: String, now: String },
    /// Another role has the name.
    RoleRecreated { role: String },
    /// A superuser, where handlers may not run as one.
    Superuser { role: String },
    /// Without the attribute LOGIN.
    NoLogin { role: String },
    /// Without the right CONNECT.
    NoConnect { role: String, database: String },
    /// Nothing has the signature.
    FunctionGone { function: String },
    /// What has the signature can be no handler, or not this one.
    FunctionUnfit { function: String, why: &'static str },
    /// Without USAGE on the function's schema.
    NoUsage { role: String, schema: String },
    /// Without EXECUTE.
    NoExecute { role: String, function: String },
    /// The function's owner does not hold the role's rights, and decides what the function does.
    Untrusted { role: String, function: String, owner: String },
    /// No executor came: the catalog does not say why.
    NeverArrived { role: String },
    /// Sessions of the role are read only.
    ReadOnly,
    /// The function's code could not be had.
    NotLoaded { function: String, error: String },
}

/// How many handlers a copy holds, in words.
pub fn held(count: usize) -> String {
    let what = if count == 1 { "handler is" } else { "handlers are" };
    format!("{count} {what} held, because this database is a copy")
}

/// `name` as an SQL identifier, always in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Reason {
    /// What to type: SQL, with a comment where that is not all. `register` gives the command that registers the handler again as it was, for this role.
    pub fn fix(&self, register: impl Fn(&str) -> String) -> String {
        match self {
            Reason::Held => "SELECT pgq.arm();".into(),
            Reason::RoleGone { role } => format!("CREATE ROLE {} LOGIN; {}", quoted(role), register(role)),
            Reason::RoleRenamed { now, .. } => register(now),
            Reason::RoleRecreated { role } => register(role),
            Reason::Superuser { role } => format!(
                "ALTER ROLE {} NOSUPERUSER; -- or let it: ALTER SYSTEM SET pgq.allow_superuser_handlers = on; SELECT pg_reload_conf();",
                quoted(role)
            ),
            Reason::NoLogin { role } => format!("ALTER ROLE {} LOGIN;", quoted(role)),
            Reason::NoConnect { role, database } => {
                format!("GRANT CONNECT ON DATABASE {} TO {};", quoted(database), quoted(role))
            }
            Reason::FunctionGone { .. } => "-- Create it again, or register another function.".into(),
            Reason::FunctionUnfit { .. } => "-- Replace it by one that fits, and register that.".into(),
            Reason::NoUsage { role, schema } => {
                format!("GRANT USAGE ON SCHEMA {} TO {};", quoted(schema), quoted(role))
            }
            Reason::NoExecute { role, function } => {
                format!("GRANT EXECUTE ON ROUTINE {function} TO {};", quoted(role))
            }
            Reason::Untrusted { role, function, .. } => {
                format!("ALTER ROUTINE {function} OWNER TO {}; -- or register it for another role", quoted(role))
            }
            Reason::NeverArrived { .. } | Reason::ReadOnly | Reason::NotLoaded { .. } => {
                "-- The server's log says more. It is tried again every pgq.recheck_interval.".into()
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Held => out.write_str("held: it came with a copy of a database, and runs after SELECT pgq.arm()"),
            Reason::RoleGone { role } => write!(out, "role \"{role}\" is gone"),
            Reason::RoleRenamed { role, now } => {
                write!(out, "role \"{role}\" has been renamed to \"{now}\": register again")
            }
            Reason::RoleRecreated { role } => write!(out, "role \"{role}\" was re-created: register again"),
            Reason::Superuser { role } => {
                write!(out, "role \"{role}\" is a superuser, and handlers may not run as one")
            }
            Reason::NoLogin { role } => write!(out, "role \"{role}\" may not log in"),
            Reason::NoConnect { role, database } => {
                write!(out, "role \"{role}\" may not connect to database \"{database}\"")
            }
            Reason::FunctionGone { function } => write!(out, "function {function} does not exist"),
            Reason::FunctionUnfit { function, why } => write!(out, "{function} cannot be the handler: {why}"),
            Reason::NoUsage { role, schema } => write!(out, "role \"{role}\" may not use schema \"{schema}\""),
            Reason::NoExecute { role, function } => write!(out, "role \"{role}\" may not execute {function}"),
            Reason::Untrusted { role, function, owner } => {
                write!(out, "{function} belongs to \"{owner}\", who could act as \"{role}\"")
            }
            Reason::NeverArrived { role } => {
                write!(out, "no worker could connect as role \"{role}\": the server's log says why")
            }
            Reason::ReadOnly => {
                out.write_str("default_transaction_read_only is on for its role, this database or the server")
            }
            Reason::NotLoaded { function, error } => write!(out, "{function} could not be loaded: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(role: &str) -> String {
        format!("register as {role}")
    }

    #[test]
    fn reasons_name_the_role_and_the_command_that_mends() {
        let role = || "app".to_owned();
        let function = || "app.f(jsonb)".to_owned();
        let cases = [
            (
                Reason::Held,
                "held: it came with a copy of a database, and runs after SELECT pgq.arm()",
                "SELECT pgq.arm();",
            ),
            (Reason::NoLogin { role: role() }, "role \"app\" may not log in", "ALTER ROLE \"app\" LOGIN;"),
            (Reason::RoleRecreated { role: role() }, "role \"app\" was re-created: register again", "register as app"),
            (
                Reason::RoleRenamed { role: role(), now: "web".into() },
                "role \"app\" has been renamed to \"web\": register again",
                "register as web",
            ),
            (
                Reason::NoConnect { role: role(), database: "shop".into() },
                "role \"app\" may not connect to database \"shop\"",
                "GRANT CONNECT ON DATABASE \"shop\" TO \"app\";",
            ),
            (
                Reason::NoExecute { role: role(), function: function() },
                "role \"app\" may not execute app.f(jsonb)",
                "GRANT EXECUTE ON ROUTINE app.f(jsonb) TO \"app\";",
            ),
        ];
        for (reason, words, fix) in cases {
            assert_eq!(reason.to_string(), words);
            assert_eq!(reason.fix(register), fix);
        }
    }

    #[test]
    fn identifiers_are_quoted_so_that_a_name_is_no_command() {
        assert_eq!(quoted("a\"; DROP ROLE b; --"), "\"a\"\"; DROP ROLE b; --\"");
        let fix = Reason::NoLogin { role: "a\"b".into() }.fix(register);
        assert_eq!(fix, "ALTER ROLE \"a\"\"b\" LOGIN;");
    }
}
