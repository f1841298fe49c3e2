//! Calls of pgq's functions by somebody who has the right to them, or has not: what tests of rights share.

use crate::sql::{one, run};
use crate::Server;
use postgres::error::SqlState;
use postgres::Client;

/// What a call does for somebody who has no right to it.
#[derive(Clone, Copy)]
pub enum Without {
    /// 42501 with the command that gives the right.
    Denied,
    /// This answer: as if the job were not there.
    Answer(&'static str),
    /// 42704: as if the job were not there.
    NoSuchJob,
}
use Without::{Answer, Denied, NoSuchJob};

/// A server whose workers do nothing, so that jobs stay as they are, with a handler `public.noop` in the database
/// `app`, and `public.everything(role)`, which gives the role all that plain GRANTs can give.
pub fn start() -> (Server, Client) {
    let server = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    let mut client = server.create_database("app");
    run(
        &mut client,
        "CREATE FUNCTION public.noop() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION public.everything(role name) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('GRANT USAGE ON SCHEMA pgq TO %1$I;
                GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgq TO %1$I;
                GRANT SELECT ON pgq.queues, pgq.running, pgq.workers, pgq.dead TO %1$I', role); END $$;",
    );
    (server, client)
}

/// The one value of a call as text, or its error.
///
/// # Errors
/// The server's.
///
/// # Panics
/// When there is no row.
pub fn ask(client: &mut Client, call: &str) -> Result<String, postgres::Error> {
    let rows = client.simple_query(call)?;
    let value = rows.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
        _ => None,
    });
    Ok(match value.unwrap_or_else(|| panic!("no row: {call}")).as_str() {
        "t" => "true".into(),
        "f" => "false".into(),
        other => other.into(),
    })
}

/// The call must go as it does without the right; the HINT, where there is one.
///
/// # Panics
/// When it does not.
pub fn refused(client: &mut Client, call: &str, without: Without, when: &str) -> Option<String> {
    let answer = ask(client, call);
    let error = |answer: Result<String, postgres::Error>| match answer {
        Ok(value) => panic!("{when}: not refused, but {value:?}: {call}"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error}")).clone(),
    };
    match without {
        Denied => {
            let error = error(answer);
            assert_eq!(*error.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{when}: {call}: {error:?}");
            Some(error.hint().unwrap_or_default().to_owned())
        }
        NoSuchJob => {
            let error = error(answer);
            assert_eq!(*error.code(), SqlState::UNDEFINED_OBJECT, "{when}: {call}: {error:?}");
            None
        }
        Answer(expected) => {
            let value = answer.unwrap_or_else(|error| panic!("{when}: {call}: {error:?}"));
            assert_eq!(value, expected, "{when}: {call}");
            None
        }
    }
}

/// The call must do what it is for.
///
/// # Panics
/// When it does not.
pub fn works(client: &mut Client, call: &str, without: Without, when: &str) {
    let value = ask(client, call).unwrap_or_else(|error| panic!("{when}: {call}: {error:?}"));
    if let Answer(nothing) = without {
        assert_ne!(value, nothing, "{when}: {call}");
    }
}

/// Grants or revokes (`what`) as `client`; did it change something? `queue` is a literal or NULL.
pub fn grant(client: &mut Client, what: &str, role: &str, access: &str, queue: &str) -> bool {
    one(client, &format!("SELECT pgq.{what}_usage('{role}', '{access}', {queue})"))
}
