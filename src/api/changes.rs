//! on_change and off_change: jobs put by what statements change in a table; and the trigger that puts them.
//!
//! The triggers are made, and read what was changed, with the caller's rights: it is his table. The jobs are put for the
//! table's owner, who must have `produce` on the queue, now and whenever a statement changes something.

use pgrx::prelude::*;

use super::{check, put, rights};
use crate::engine::access::Access;
use crate::engine::changes::{literal, Watch, EVENTS};
use crate::engine::names;
use crate::engine::parking::quoted;
use crate::error::{Error, Result};
use crate::pg::changes::{Call, Change, Event};
use crate::pg::datum::Flat;
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::user::{self, Oid};
use crate::pg::{clock, spi};
use crate::store::insert::NewJob;
use crate::store::{changes, rights as grants};

/// The names of old and new rows in the triggers.
const ROWS: [&str; 2] = ["pgq_old", "pgq_new"];

fn texts(name: &'static str, given: Option<Vec<Option<Text>>>) -> Result<Vec<String>> {
    given.unwrap_or_default().into_iter().map(|text| text.map(|t| t.0).ok_or(Error::Null(name))).collect()
}

fn events(given: Option<Vec<Option<Text>>>) -> Result<Vec<&'static str>> {
    let Some(given) = given else { return Ok(EVENTS.to_vec()) };
    let given = texts("events", Some(given))?;
    if let Some(other) = given.iter().find(|word| !EVENTS.contains(&word.as_str())) {
        return Err(Error::argument(format!("unrecognized event \"{other}\""), "events => '{insert,update,delete}'"));
    }
    if given.is_empty() {
        return Err(Error::argument("\"events\" must not be empty", "events => '{insert,update,delete}'"));
    }
    Ok(EVENTS.into_iter().filter(|event| given.iter().any(|word| word == event)).collect())
}

/// 42501 unless the owner of the table may put into the queue.
fn owner_may_put(owner: user::Role, queue: &str) -> Result<()> {
    if grants::of(owner)?.allow(&[Access::Produce], Some(queue)) {
        return Ok(());
    }
    let name = user::name(owner).unwrap_or_default();
    Err(Error::Denied {
        message: format!("permission denied for queue \"{queue}\""),
        detail: Some(format!("Role \"{name}\", which owns the table, lacks the access \"produce\".")),
        hint: format!(
            "An administrator can give it: SELECT pgq.grant_usage({}, 'produce', '{queue}');",
            literal(&name)
        ),
    })
}

/// One for each queue and event; PostgreSQL has 63 bytes for it.
fn trigger_name(event: &str, queue: &str) -> String {
    let name = format!("pgq_{event}_{queue}");
    if name.len() <= 63 {
        return name;
    }
    format!("pgq_{event}_{:016x}", names::hash(queue))
}

#[pg_extern(sql = false)]
fn on_change(
    relation: Option<Oid>,
    queue: Option<Text>,
    events: Option<Vec<Option<Text>>>,
    columns: Option<Vec<Option<Text>>>,
    key: Option<Vec<Option<Text>>>,
) -> std::result::Result<i32, ErrorReport> {
    let relation = check::given("relation", relation)?.to_u32();
    let queue = check::queue(queue.as_deref())?;
    rights::need(Access::Produce, queue)?;
    let (events, columns, key) = (self::events(events)?, texts("columns", columns)?, texts("key", key)?);
    if !columns.is_empty() && !events.contains(&"update") {
        let hint = "Leave \"columns\" out, or add 'update' to \"events\".";
        return Err(Error::argument("\"columns\" are for updates only", hint).into());
    }
    if (1..key.len()).any(|n| key[..n].contains(&key[n])) {
        return Err(Error::argument("\"key\" names a column twice", "key => '{id}'").into());
    }
    let table = changes::table(relation)?
        .ok_or_else(|| Error::argument("the relation is not there", "SELECT pgq.on_change('orders', 'mail')"))?;
    owner_may_put(table.owner, queue)?;
    let name = format!("{}.{}", quoted(&table.schema), quoted(&table.table));
    let names = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>();
    if !key.is_empty() || !columns.is_empty() {
        // Are they there, and can keys be told from each other?
        let columns: Vec<String> = names(&columns).iter().map(|name| format!("{name}::pg_catalog.text")).collect();
        let all: Vec<String> = names(&key).into_iter().chain(columns).collect();
        spi::execute(&format!("SELECT DISTINCT {} FROM {name} LIMIT 0", all.join(", ")))?;
    }
    drop_triggers(relation, &name, Some(queue))?;
    let mut arguments = vec![literal(queue), literal(&key.len().to_string())];
    arguments.extend(key.iter().chain(&columns).map(|name| literal(name)));
    for event in &events {
        let [old, new] = ROWS;
        let rows = match *event {
            "insert" => format!("NEW TABLE AS {new}"),
            "delete" => format!("OLD TABLE AS {old}"),
            _ => format!("OLD TABLE AS {old} NEW TABLE AS {new}"),
        };
        spi::execute(&format!(
            "CREATE TRIGGER {} AFTER {event} ON {name} REFERENCING {rows} FOR EACH STATEMENT
             EXECUTE FUNCTION pgq.change_trigger({})",
            quoted(&trigger_name(event, queue)),
            arguments.join(", ")
        ))?;
    }
    Ok(i32::try_from(events.len()).unwrap_or(0))
}

#[pg_extern(sql = false)]
fn off_change(relation: Option<Oid>, queue: Option<Text>) -> std::result::Result<i32, ErrorReport> {
    let relation = check::given("relation", relation)?.to_u32();
    let queue = queue.as_deref().map(|queue| check::queue(Some(queue))).transpose()?;
    rights::need_some(&[Access::Produce], queue)?;
    let Some(table) = changes::table(relation)? else { return Ok(0) };
    Ok(drop_triggers(relation, &format!("{}.{}", quoted(&table.schema), quoted(&table.table)), queue)?)
}

/// Drops the triggers of a table, as the caller; how many.
fn drop_triggers(relation: u32, name: &str, queue: Option<&str>) -> Result<i32> {
    let triggers = changes::triggers(relation, queue)?;
    for trigger in &triggers {
        spi::execute(&format!("DROP TRIGGER {} ON {name}", quoted(trigger)))?;
    }
    Ok(i32::try_from(triggers.len()).unwrap_or(i32::MAX))
}

/// The triggers' function.
#[pg_extern(sql = false)]
fn change_trigger(call: Call) -> std::result::Result<(), ErrorReport> {
    let change = Change::of(call).ok_or_else(misused)?;
    let (queue, key, columns) = arguments(&change)?;
    owner_may_put(change.owner, queue)?;
    let relation = format!("{}.{}", change.schema, change.table);
    let event = match change.event {
        Event::Insert => EVENTS[0],
        Event::Update => EVENTS[1],
        Event::Delete => EVENTS[2],
    };
    let [old, new] = &change.rows;
    if old.is_none() && new.is_none() {
        return Err(misused().into());
    }
    let watch = Watch { relation: &relation, event, old: old.as_deref(), new: new.as_deref(), key, columns };
    let args = Flat::jsonb("{}").ok_or_else(|| Error::Internal("{} is no JSON".into()))?;
    let like = NewJob::ready(queue.into(), args, clock::now());
    change.query(&watch.query(), |args| put::many(&like, args))?;
    Ok(())
}

fn misused() -> Error {
    Error::state(
        "pgq.change_trigger is for the triggers of on_change only",
        "SELECT pgq.on_change('orders', 'mail') makes them.",
    )
}

/// As on_change gives them: the queue, how many keys, the keys, the columns.
fn arguments(change: &Change) -> Result<(&str, &[String], &[String])> {
    let (Some(queue), Some(count)) = (change.arguments.first(), change.arguments.get(1)) else {
        return Err(misused());
    };
    let names = &change.arguments[2..];
    let keys = count.parse().ok().filter(|count| *count <= names.len()).ok_or_else(misused)?;
    let (key, columns) = names.split_at(keys);
    Ok((check::queue(Some(queue))?, key, columns))
}
