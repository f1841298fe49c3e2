//! The query by which a trigger of on_change reads what a statement changed.

use super::parking::quoted;

/// What happened to rows: the words of on_change's `events`, in the order in which triggers are made.
pub const EVENTS: [&str; 3] = ["insert", "update", "delete"];

/// A text as an SQL literal, whatever standard_conforming_strings is.
pub fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What one trigger looks at.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'a> {
    /// The changed table, as it is shown in args.
    pub relation: &'a str,
    /// One of EVENTS.
    pub event: &'a str,
    /// The name of the rows as they were.
    pub old: Option<&'a str>,
    /// And as they are now.
    pub new: Option<&'a str>,
    /// One job for each value of these; none: one job.
    pub key: &'a [String],
    /// Of an update only what changes one of these; none: all of it.
    pub columns: &'a [String],
}

impl Watch<'_> {
    /// The query: one jsonb[], the args of the jobs; NULL where nothing was changed.
    pub fn query(&self) -> String {
        let shown = format!(
            "pg_catalog.jsonb_build_object('relation', {}::pg_catalog.text, 'event', '{}'::pg_catalog.text",
            literal(self.relation),
            self.event
        );
        if self.key.is_empty() {
            return format!("SELECT CASE WHEN EXISTS ({}) THEN ARRAY[{shown})] END", self.rows("*"));
        }
        let names: Vec<String> = self.key.iter().map(|name| quoted(name)).collect();
        let pairs: Vec<String> = self
            .key
            .iter()
            .zip(&names)
            .map(|(name, quoted)| format!("{}::pg_catalog.text, k.{quoted}", literal(name)))
            .collect();
        format!(
            "SELECT pg_catalog.array_agg({shown}, 'key', pg_catalog.jsonb_build_object({}))) FROM ({}) AS k",
            pairs.join(", "),
            self.rows(&names.join(", "))
        )
    }

    /// The changed rows, or what of them is asked for, each once.
    fn rows(&self, what: &str) -> String {
        let from = |name: &str| format!("SELECT {what} FROM {}", quoted(name));
        match (self.old, self.new) {
            (Some(old), Some(new)) if self.columns.is_empty() => match what {
                "*" => from(new),
                _ => format!("{} UNION {}", from(old), from(new)),
            },
            (Some(old), Some(new)) => {
                // With names of their own: one of them may be of the key too.
                let text =
                    |(n, name): (usize, &String)| format!("{}::pg_catalog.text AS \"pgq watched {n}\"", quoted(name));
                let columns = self.columns.iter().enumerate().map(text).collect::<Vec<_>>().join(", ");
                // What a row was and is no more, or is and was not: also where rows cannot be told from each other.
                let all = if what == "*" { columns } else { format!("{what}, {columns}") };
                let less = |one: &str, other: &str| {
                    format!("(SELECT {all} FROM {} EXCEPT ALL SELECT {all} FROM {})", quoted(one), quoted(other))
                };
                let changed = format!("({} UNION ALL {}) AS changed", less(new, old), less(old, new));
                match what {
                    "*" => format!("SELECT FROM {changed}"),
                    _ => format!("SELECT DISTINCT {what} FROM {changed}"),
                }
            }
            (Some(one), None) | (None, Some(one)) => match what {
                "*" => from(one),
                _ => format!("SELECT DISTINCT {what} FROM {}", quoted(one)),
            },
            (None, None) => "SELECT WHERE false".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_texts_are_literals() {
        let key = ["a\"b".to_owned()];
        let watch =
            Watch { relation: "s'; \\.t", event: "insert", old: None, new: Some("n\"ew"), key: &key, columns: &[] };
        assert_eq!(
            watch.query(),
            "SELECT pg_catalog.array_agg(pg_catalog.jsonb_build_object('relation', E's''; \\\\.t'::pg_catalog.text, 'event', \
             'insert'::pg_catalog.text, 'key', pg_catalog.jsonb_build_object('a\"b'::pg_catalog.text, k.\"a\"\"b\"))) \
             FROM (SELECT DISTINCT \"a\"\"b\" FROM \"n\"\"ew\") AS k"
        );
    }

    #[test]
    fn without_a_key_it_only_asks_whether_there_is_a_row() {
        let watch = Watch { relation: "s.t", event: "delete", old: Some("old"), new: None, key: &[], columns: &[] };
        assert!(
            watch.query().starts_with("SELECT CASE WHEN EXISTS (SELECT * FROM \"old\") THEN ARRAY["),
            "{}",
            watch.query()
        );
    }
}
