//! Checking arguments: each function returns the value in the form the rest works with, or the error.

use pgrx::datum::{Interval, TimestampWithTimeZone};

use crate::engine::names::{is_name, MAX_NAME};
use crate::engine::state::State;
use crate::engine::time::{Micros, Span};
use crate::error::{Error, Result};
use crate::pg::{clock, encoding};

/// A queue's name.
pub fn queue(name: Option<&str>) -> Result<&str> {
    let name = name.ok_or(Error::Null("queue"))?;
    valid("queue", name)?;
    Ok(name)
}

/// A schedule's name.
pub fn schedule(name: Option<&str>) -> Result<&str> {
    let name = given("name", name)?;
    valid("schedule", name)?;
    Ok(name)
}

/// A task's name, if any.
pub fn task(name: Option<&str>) -> Result<Option<&str>> {
    name.map_or(Ok(()), |n| valid("task", n))?;
    Ok(name)
}

fn valid(kind: &str, name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::Argument {
        message: format!("invalid {kind} name \"{}\"", name.chars().take(80).collect::<String>()),
        detail: Some(format!("It has {} bytes.", encoding::length(name))),
        hint: format!("A {kind} name is 1 to {MAX_NAME} bytes of A-Z, a-z, 0-9, underscore, dot and hyphen."),
    })
}

/// An argument that must be given.
pub fn given<T>(name: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(Error::Null(name))
}

/// An interval as a length of time: months count 30 days, as PostgreSQL compares them. Longer than some thousand years
/// is an error: what is kept is pruned by subtracting this from now, and timestamps begin in 4714 BC.
pub fn span(name: &str, interval: Interval) -> Result<Span> {
    const LONGEST: i128 = 4_000 * 365 * 86_400 * 1_000_000;
    let micros = interval.as_micros();
    match i64::try_from(micros) {
        Ok(fits) if micros.abs() <= LONGEST => Ok(Span(fits)),
        _ => Err(Error::argument(format!("\"{name}\" is out of range"), "Give a span of at most some thousand years.")),
    }
}

/// A span that may be zero but not negative.
pub fn not_negative(name: &str, interval: Interval) -> Result<Span> {
    let span = span(name, interval)?;
    if span < Span::ZERO {
        return Err(Error::argument(format!("\"{name}\" must not be negative"), format!("{name} => '1 minute'")));
    }
    Ok(span)
}

/// A span that must be longer than nothing.
pub fn positive(name: &str, interval: Interval) -> Result<Span> {
    let span = span(name, interval)?;
    if span <= Span::ZERO {
        return Err(Error::argument(format!("\"{name}\" must be positive"), format!("{name} => '30 s'")));
    }
    Ok(span)
}

/// A number that must be at least 1, if given.
pub fn at_least_one(name: &str, value: Option<i32>) -> Result<Option<i32>> {
    match value {
        Some(n) if n < 1 => Err(Error::argument(format!("\"{name}\" must be at least 1"), format!("{name} => 1"))),
        other => Ok(other),
    }
}

/// A moment that is not an infinity.
pub fn finite(name: &str, at: TimestampWithTimeZone) -> Result<Micros> {
    if at.is_infinity() || at.is_neg_infinity() {
        return Err(Error::argument(
            format!("\"{name}\" must not be infinity"),
            "Give a moment; to keep a job from running, pause its queue: SELECT pgq.pause('queue').",
        ));
    }
    Ok(Micros(clock::raw(at)))
}

/// When a job is due, and the state that follows from it.
pub fn due(execute_at: Option<TimestampWithTimeZone>, delay: Option<Interval>) -> Result<(Micros, State)> {
    let now = Micros(clock::now());
    let at = match (execute_at, delay) {
        (None, None) => return Ok((now, State::Ready)),
        (Some(_), Some(_)) => {
            return Err(Error::argument("\"execute_at\" and \"delay\" cannot both be given", "Leave one of them out."))
        }
        (Some(at), None) => finite("execute_at", at)?,
        (None, Some(delay)) => {
            not_negative("delay", delay)?;
            Micros(
                clock::add(now.0, delay)
                    .ok_or_else(|| Error::argument("\"delay\" is out of range", "delay => '1 day'"))?,
            )
        }
    };
    Ok((at, if at <= now { State::Ready } else { State::Scheduled }))
}
