//! A psql transcript: what a reader types behind the prompts, and what psql answers. Compared
//! loosely: white space and the width of columns do not count, times, durations and process ids
//! match any other, and `...` matches anything.

/// One statement or command with the answer that the transcript shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The line in the block, counted from 0.
    pub line: usize,
    /// What is typed, without the prompts.
    pub input: String,
    /// What psql answers.
    pub expected: String,
}

/// A prompt: `shop=# `, `shop-# `, `shop(# `, `shop=*> `, …
#[derive(Debug, PartialEq, Eq)]
struct Prompt<'a> {
    database: &'a str,
    is_first: bool,
    rest: &'a str,
}

fn prompt(line: &str) -> Option<Prompt<'_>> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let length = line.find(|c: char| !is_name(c)).filter(|length| *length > 0)?;
    let (database, behind) = line.split_at(length);
    let mut rest = behind.chars();
    let state = rest.next().filter(|c| "=-('\"^!".contains(*c))?;
    let mut rest = rest.as_str();
    // An open transaction shows as *, a failed one as !.
    rest = rest.strip_prefix(['*', '!']).unwrap_or(rest);
    rest = rest.strip_prefix(['#', '>'])?;
    let rest = if rest.is_empty() { "" } else { rest.strip_prefix(' ')? };
    Some(Prompt { database, is_first: state == '=', rest })
}

/// The database that the first prompt names.
pub fn database(text: &str) -> Option<&str> {
    text.lines().find_map(|line| prompt(line).map(|prompt| prompt.database))
}

/// Takes a transcript apart.
///
/// # Errors
/// Says what is wrong with which line of the block, counted from 0.
pub fn parse(text: &str) -> Result<Vec<Exchange>, (usize, String)> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for (line, content) in text.lines().enumerate() {
        match (prompt(content), exchanges.last_mut()) {
            (Some(prompt), last) => match last {
                Some(last) if !prompt.is_first && last.expected.trim().is_empty() => {
                    last.input.push('\n');
                    last.input.push_str(prompt.rest);
                }
                _ if !prompt.is_first => {
                    return Err((line, "continues a statement that has not begun".to_owned()));
                }
                _ => exchanges.push(Exchange { line, input: prompt.rest.to_owned(), expected: String::new() }),
            },
            (None, Some(last)) => {
                last.expected.push_str(content);
                last.expected.push('\n');
            }
            (None, None) if content.trim().is_empty() => {}
            (None, None) => return Err((line, "output before the first prompt".to_owned())),
        }
    }
    Ok(exchanges)
}

/// Whether psql's answer is what the transcript shows. Otherwise both, made comparable.
///
/// # Errors
/// The difference, to be printed.
pub fn compare(expected: &str, actual: &str) -> Result<(), String> {
    let (wanted, got) = (words(expected), words(actual));
    if matches(&wanted, &got) {
        Ok(())
    } else {
        Err(format!("expected:\n{}\ngot:\n{}", expected.trim_end(), actual.trim_end()))
    }
}

/// `...` stands for any number of words.
fn matches(wanted: &[String], got: &[String]) -> bool {
    match wanted.split_first() {
        None => got.is_empty(),
        Some((first, rest)) if first == "..." => (0..=got.len()).any(|skipped| matches(rest, &got[skipped..])),
        Some((first, rest)) => got.first() == Some(first) && matches(rest, &got[1..]),
    }
}

/// The words of a text, those that differ from run to run replaced by what they are.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut pid_column = None;
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if lines.get(index + 1).is_some_and(|next| is_rule(next)) {
            pid_column = line.split('|').position(|name| name.trim().ends_with("pid"));
        }
        if is_rule(line) {
            words.push("----".to_owned());
            continue;
        }
        let cells: Vec<&str> = line.split('|').collect();
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                words.push("|".to_owned());
            }
            let is_pid = pid_column == Some(column) && cells.len() > 1;
            words.extend(cell_words(cell, is_pid));
        }
        if line.trim().is_empty() {
            pid_column = None;
        }
    }
    words
}

/// The line below the names of the columns, or the one above an expanded record.
fn is_rule(line: &str) -> bool {
    let line = line.trim();
    line.starts_with('-') && line.chars().all(|c| "-+".contains(c))
}

fn cell_words(cell: &str, is_pid: bool) -> Vec<String> {
    let raw: Vec<&str> = cell.split_whitespace().collect();
    let mut words = Vec::new();
    for (index, word) in raw.iter().enumerate() {
        let before = index.checked_sub(1).map(|previous| raw[previous].to_lowercase());
        let after = raw.get(index + 1).copied().unwrap_or_default();
        words.push(if is_number(word) && (is_pid || before.as_deref() == Some("pid")) {
            "<pid>".to_owned()
        } else if is_time(word) || (is_number(word) && is_unit(after)) {
            "<time>".to_owned()
        } else if word.starts_with('-') && word.trim_matches('-').is_empty() {
            "----".to_owned()
        } else {
            (*word).to_owned()
        });
    }
    // A timestamp is one thing, whether it is written in one word or in two.
    words.dedup_by(|second, first| first == "<time>" && second == "<time>");
    words
}

fn is_number(word: &str) -> bool {
    let word = word.trim_end_matches([',', '.', ';', ')']).trim_start_matches('(');
    !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn is_unit(word: &str) -> bool {
    ["ms", "s", "sec", "second", "seconds", "min", "minute", "minutes"]
        .contains(&word.trim_end_matches([',', '.', ';', ')']))
}

/// `2026-01-31`, `12:34:56.789+00`, `00:00:00.1`, and both with a T between them.
fn is_time(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let marks = word.matches(':').count().max(word.matches('-').count());
    let word = word.trim_matches(['"', '\'', ',', '.', '(', ')']);
    let is_part = |c: char| c.is_ascii_digit() || ":-+.TZ".contains(c);
    marks == 2 && digits >= 6 && word.chars().all(is_part) && word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_taken_apart_at_its_prompts() {
        let text = "shop=# SELECT 1\nshop-#   AS a;\n a\n---\n 1\n(1 row)\n\nshop=*# COMMIT;\nCOMMIT\n";
        let exchanges = parse(text).expect("well formed");
        assert_eq!(exchanges.len(), 2);
        assert_eq!(exchanges[0].input, "SELECT 1\n  AS a;");
        assert_eq!(exchanges[0].expected, " a\n---\n 1\n(1 row)\n\n");
        assert_eq!((exchanges[1].line, exchanges[1].input.as_str()), (7, "COMMIT;"));
        assert_eq!(database(text), Some("shop"));
    }

    #[test]
    fn output_without_a_prompt_is_refused() {
        assert_eq!(parse("hello\n").map_err(|(line, _)| line), Err(0));
        assert_eq!(parse("shop-# x;\n").map_err(|(line, _)| line), Err(0));
    }

    #[test]
    fn a_line_that_only_looks_like_a_prompt_is_output() {
        assert_eq!(prompt("a=b"), None);
        assert_eq!(prompt("(1 row)"), None);
        assert_eq!(prompt("---+---"), None);
        assert!(prompt("shop=> SELECT 1;").is_some());
        assert!(prompt("shop(# )").is_some());
    }

    #[test]
    fn width_times_and_pids_do_not_count() {
        let expected = " pid | at | state\n-----+----+---\n 12 | 2026-01-31 10:00:00+00 | done\n";
        let actual = "  pid  |             at              | state\n-------+---+----\n \
                      99123 | 2027-12-01 23:59:59.123+00 | done\n";
        assert_eq!(compare(expected, actual), Ok(()));
        assert_eq!(compare("Time: 1.5 ms", "Time: 20.123 ms"), Ok(()));
        assert_eq!(compare("running in pid 7", "running in pid 8"), Ok(()));
    }

    #[test]
    fn values_names_and_numbers_of_rows_count() {
        assert!(compare(" n\n---\n 1\n(1 row)", " n\n---\n 2\n(1 row)").is_err());
        assert!(compare("UPDATE 1", "UPDATE 10").is_err());
        assert!(compare("CREATE FUNCTION", "").is_err());
        assert!(compare("", "NOTICE:  hello").is_err());
        assert!(compare("2026-01-31", "done").is_err());
    }

    #[test]
    fn three_dots_match_anything_but_what_is_around_them_counts() {
        assert_eq!(compare("a ... z", "a b\nc z"), Ok(()));
        assert_eq!(compare("a ... z", "a z"), Ok(()));
        assert!(compare("a ... z", "a b c").is_err());
        assert!(compare("x ...", "a b").is_err());
    }
}
