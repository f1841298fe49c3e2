//! The format of the attacks: `tests/attacks/*.sql`. Text between lines that begin with `--- `:
//!
//! ```text
//! --- case NAME                what is tried, in a sentence
//! --- low                      SQL of the attacker, which must succeed
//! --- low 42501                SQL that must fail with this SQLSTATE; several: 42501|0A000
//! --- low any                  SQL that may do what it likes, except to fail with an internal error
//! --- low sees VALUE           a query whose one value must be this
//! --- low login OPTIONS        ends the session; the next one begins with these options
//! --- job QUEUE done           puts a job as the superuser and waits until it is done, or
//! --- job QUEUE dead 42501     dead with this SQLSTATE, or
//! --- job QUEUE parked         its handler is parked
//! --- each low 42501           each line that follows is a case of its own
//! ```
//!
//! Sessions: `low` (the attacker), `low2` (another one of his), `peer` (another low role), `boss` (a superuser).

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// In a sentence.
    pub name: String,
    /// In this order.
    pub steps: Vec<Step>,
}

/// One step of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Who, or `job`.
    pub actor: String,
    /// What is to come of it.
    pub expected: Expected,
    /// The SQL, the options of a login, or the queue of a job.
    pub text: String,
}

/// What is to come of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Success.
    Success,
    /// Failure with one of these SQLSTATEs.
    Failure(Vec<String>),
    /// Anything but an internal error.
    Anything,
    /// A query's one value.
    Value(String),
    /// A new session.
    Login,
    /// A job's end: done, dead or parked, and the SQLSTATE of the dead.
    End(String, Option<String>),
}

/// Reads a file of attacks.
///
/// # Panics
/// When it is not in the format.
pub fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for block in format!("\n{text}").split("\n--- ").skip(1) {
        let (head, body) = block.split_once('\n').unwrap_or((block, ""));
        let body = body.trim();
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            ["case", ..] => cases.push(Case { name: head[5..].trim().to_owned(), steps: Vec::new() }),
            ["each", rest @ ..] => {
                for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
                    cases.push(Case { name: line.to_owned(), steps: vec![step(rest, line)] });
                }
            }
            words => cases.last_mut().expect("a case before its steps").steps.push(step(words, body)),
        }
    }
    cases
}

fn step(words: &[&str], body: &str) -> Step {
    let of = |actor: &str, expected, text: &str| Step { actor: actor.into(), expected, text: text.into() };
    match words {
        ["job", queue, end] => of("job", Expected::End((*end).into(), None), queue),
        ["job", queue, end, code] => of("job", Expected::End((*end).into(), Some((*code).into())), queue),
        [actor] => of(actor, Expected::Success, body),
        [actor, "any"] => of(actor, Expected::Anything, body),
        [actor, "login", options @ ..] => of(actor, Expected::Login, &options.join(" ")),
        [actor, "sees", value @ ..] => of(actor, Expected::Value(value.join(" ")), body),
        [actor, codes] => of(actor, Expected::Failure(codes.split('|').map(str::to_owned).collect()), body),
        other => panic!("not a step: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_and_their_steps_are_read() {
        let cases =
            parse("--- case one thing\n--- low\nSELECT 1;\nSELECT 2\n--- job q dead 42501\n--- each low 1|2\nA\nB\n");
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["one thing", "A", "B"]);
        assert_eq!(cases[0].steps[0].text, "SELECT 1;\nSELECT 2");
        assert_eq!(cases[0].steps[0].expected, Expected::Success);
        assert_eq!(cases[0].steps[1].expected, Expected::End("dead".into(), Some("42501".into())));
        assert_eq!(cases[2].steps[0].expected, Expected::Failure(vec!["1".into(), "2".into()]));
    }
}
