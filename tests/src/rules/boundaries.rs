//! What may be named where: rules 1, 2, 3, 5 and 6 of the house.

use super::Finding;
use crate::source::{Kind, Source};

/// The tables that only `src/store/` may touch.
const TABLES: [&str; 6] =
    ["pgq.job", "pgq.handler", "pgq.finished_job", "pgq.queue_setting", "pgq.queue_grant", "pgq.schedule "];

/// Words that make a text with a table's name a statement.
const VERBS: [&str; 10] = ["select", "insert", "update", "delete", "from", "into", "join", "merge", "truncate", "copy"];

fn is_in(source: &Source, folder: &str) -> bool {
    source.path.starts_with(folder)
}

fn at(source: &Source, index: usize, text: impl Into<String>) -> Finding {
    Finding::new(&source.path, source.tokens[index].line, text)
}

/// Rule 1: `engine/` is std only, without a clock, I/O, processes or threads. croner is as pure: it reads cron patterns.
pub fn engine_is_pure(source: &Source) -> Vec<Finding> {
    if !is_in(source, "src/engine/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for index in source.idents() {
        let name = source.tokens[index].text.as_str();
        let is_module =
            |name: &str| ["fs", "net", "thread", "process", "io", "env", "os", "ffi", "sync"].contains(&name);
        let wrong = match name {
            "pgrx" | "pg_sys" | "libc" | "Instant" | "SystemTime" | "Spi" | "unsafe" => true,
            "std" if source.is_sequence(index + 1, &[":", ":", "{"]) => {
                let end = source.closing(index + 3);
                (index + 4..end).any(|inner| is_module(&source.tokens[inner].text))
            }
            // Atomics are data: the format of the journal is made of them.
            "std" if source.is_sequence(index + 3, &["sync", ":", ":", "atomic"]) => false,
            "std" => source.tokens.get(index + 3).is_some_and(|next| is_module(&next.text)),
            _ => is_foreign_use(source, index),
        };
        if wrong {
            found.push(at(source, index, format!("the engine is pure, std only: no \"{name}\"")));
        }
    }
    if source.path == "src/engine/mod.rs" && !forbids_unsafe(source) {
        found.push(Finding::new(&source.path, 1, "must begin with #![forbid(unsafe_code)]"));
    }
    found
}

/// `use x::…` where x is another crate.
fn is_foreign_use(source: &Source, index: usize) -> bool {
    let is_known = |name: &str| ["std", "core", "alloc", "crate", "self", "super", "croner"].contains(&name);
    let follows_use = index > 0 && source.is(index - 1, "use");
    // `use State::*` names an enum of the engine; crates are lower case.
    let is_lower = source.tokens[index].text.starts_with(|c: char| c.is_ascii_lowercase());
    follows_use
        && is_lower
        && !is_known(&source.tokens[index].text)
        && source.is_sequence(index + 1, &[":", ":"])
        && !declares_module(source, &source.tokens[index].text)
}

fn declares_module(source: &Source, name: &str) -> bool {
    source.idents().any(|index| source.is_sequence(index, &["mod", name]))
}

fn forbids_unsafe(source: &Source) -> bool {
    let wanted = ["#", "!", "[", "forbid", "(", "unsafe_code"];
    (0..source.tokens.len()).any(|index| source.is_sequence(index, &wanted))
}

/// Rule 2: `unsafe` and `pg_sys` only in `src/pg/`; in lib.rs the attributes of exported symbols.
pub fn unsafe_only_in_pg(source: &Source) -> Vec<Finding> {
    if !is_in(source, "src/") || is_in(source, "src/pg/") || source.is_test_file() {
        return Vec::new();
    }
    let is_exempt = |index: usize| {
        let is_attribute = source.is(index + 1, "(") && index > 1 && source.is(index - 1, "[");
        source.path == "src/lib.rs" && is_attribute
    };
    let named = source
        .idents()
        .filter(|index| source.is(*index, "pg_sys") || (source.is(*index, "unsafe") && !is_exempt(*index)));
    named
        .map(|index| {
            let name = &source.tokens[index].text;
            at(source, index, format!("\"{name}\" only in src/pg/: use it from there behind a safe signature"))
        })
        .collect()
}

/// Rule 3: statements on our tables only in `src/store/`, SPI only in `src/pg/spi.rs`.
pub fn tables_only_in_store(source: &Source) -> Vec<Finding> {
    if !is_in(source, "src/") || source.is_test_file() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, token) in source.tokens.iter().enumerate() {
        if source.is_in_test(index) {
            continue;
        }
        let is_spi = token.kind == Kind::Ident
            && (["Spi", "SpiClient", "spi"].contains(&token.text.as_str()) && follows_pgrx(source, index)
                || token.text == "Spi"
                || token.text == "SpiClient"
                || token.text.starts_with("SPI_"));
        if is_spi && source.path != "src/pg/spi.rs" {
            let text = format!("\"{}\": SPI only in src/pg/spi.rs", token.text);
            found.push(Finding::new(&source.path, token.line, text));
        }
        if token.kind == Kind::Str && !is_in(source, "src/store/") {
            if let Some(table) = statement_on(&token.text) {
                let text = format!("a statement on {table}: only in src/store/");
                found.push(Finding::new(&source.path, token.line, text));
            }
        }
    }
    found
}

fn follows_pgrx(source: &Source, index: usize) -> bool {
    index >= 3 && source.is_sequence(index - 3, &["pgrx", ":", ":"])
}

/// The table of ours that a text is a statement on.
fn statement_on(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let has_verb = text.split(|c| !is_word(c)).any(|word| VERBS.contains(&word));
    let names = |table: &&&str| {
        text.match_indices(**table).any(|(start, _)| {
            let before = text[..start].chars().next_back();
            let after = text[start + table.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    };
    TABLES.iter().find(|table| has_verb && names(table)).copied()
}

/// Rule 5: no panic in what runs in the server; errors are values up to the edge.
pub fn errors_are_values(source: &Source) -> Vec<Finding> {
    if !is_in(source, "src/") || source.is_test_file() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for index in source.idents().filter(|index| !source.is_in_test(*index)) {
        let name = source.tokens[index].text.as_str();
        let is_method = index > 0 && (source.is(index - 1, ".") || source.is(index - 1, ":"));
        let wrong = match name {
            "unwrap" | "expect" | "unwrap_unchecked" => is_method,
            "panic" | "unreachable" | "todo" | "unimplemented" => source.is(index + 1, "!"),
            "error" => source.is(index + 1, "!"),
            _ => false,
        };
        if wrong {
            let text = format!("\"{name}\": return an Error; it is raised at the edge only");
            found.push(at(source, index, text));
        }
    }
    found
}

/// Rule 6: no sleeping, no threads, no async runtime in the extension.
pub fn nothing_sleeps(source: &Source) -> Vec<Finding> {
    if !is_in(source, "src/") {
        return Vec::new();
    }
    let is_wrong = |index: &usize| match source.tokens[*index].text.as_str() {
        "sleep" | "pg_usleep" | "tokio" | "async" | "await" | "async_std" | "rayon" => true,
        "thread" => source.is(index + 1, ":") || (*index > 0 && source.is(index - 1, ":")),
        _ => false,
    };
    let wrong = source.idents().filter(is_wrong);
    wrong
        .map(|index| {
            let name = &source.tokens[index].text;
            at(source, index, format!("\"{name}\": no sleeping, threads or async; wait on a latch"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::planted::lines;
    use super::*;

    #[test]
    fn an_engine_with_a_clock_io_or_another_crate_is_found() {
        let text = "use std::time::Instant;\nuse std::{cmp, fs};\nuse std::cmp::max;\n\
                    use pgrx::prelude::*;\nuse serde::Serialize;\nuse State::*;\n\
                    use crate::engine::state;\nfn f() { std::thread::yield_now() }\n";
        assert_eq!(lines(engine_is_pure, "src/engine/x.rs", text), [1, 2, 4, 5, 8]);
        assert_eq!(lines(engine_is_pure, "src/store/x.rs", text), [0; 0]);
        assert_eq!(lines(engine_is_pure, "src/engine/mod.rs", "mod a;\nuse a::B;"), [1]);
        let text = "#![forbid(unsafe_code)]\nmod a;\npub use a::B;";
        assert_eq!(lines(engine_is_pure, "src/engine/mod.rs", text), [0; 0]);
    }

    #[test]
    fn unsafe_and_pg_sys_outside_pg_are_found() {
        let text = "// unsafe pg_sys\nfn f() { unsafe { g() } }\nuse pgrx::pg_sys;\n\
                    #[unsafe(no_mangle)]\nfn h() {}\n";
        assert_eq!(lines(unsafe_only_in_pg, "src/api/x.rs", text), [2, 3, 4]);
        assert_eq!(lines(unsafe_only_in_pg, "src/lib.rs", text), [2, 3]);
        assert_eq!(lines(unsafe_only_in_pg, "src/pg/x.rs", text), [0; 0]);
        assert_eq!(lines(unsafe_only_in_pg, "src/api/x_tests.rs", text), [0; 0]);
    }

    #[test]
    fn statements_on_our_tables_outside_store_are_found() {
        let text = "const A: &str = \"SELECT 1 FROM pgq.job j\";\nconst B: &str = \"pgq.job\";\n\
                    const C: &str = \"SELECT pgq.job_count()\";\n\
                    const D: &str = r#\"\n DELETE FROM\n pgq.finished_job\"#;\n\
                    // SELECT 1 FROM pgq.job\nconst E: &str = \"SELECT * FROM pgq.dead\";\n";
        assert_eq!(lines(tables_only_in_store, "src/api/x.rs", text), [1, 4]);
        assert_eq!(lines(tables_only_in_store, "src/store/x.rs", text), [0; 0]);
        assert_eq!(lines(tables_only_in_store, "src/api/x_tests.rs", text), [0; 0]);
    }

    #[test]
    fn spi_outside_its_file_is_found() {
        let text = "use pgrx::spi::Query;\nfn f() { Spi::run(\"\") }\nfn g() { SPI_connect() }\n\
                    use crate::pg::spi;\n";
        assert_eq!(lines(tables_only_in_store, "src/store/x.rs", text), [1, 2, 3]);
        assert_eq!(lines(tables_only_in_store, "src/pg/spi.rs", text), [0; 0]);
    }

    #[test]
    fn panics_outside_tests_are_found() {
        let text = "fn f() { a.unwrap(); }\nfn g() { a.unwrap_or(1); }\nfn h() { a.expect(\"\"); }\n\
                    fn i() { panic!() }\nfn j() { Option::unwrap(a) }\nfn k() { todo!() }\n\
                    #[cfg(test)]\nmod tests {\n fn l() { a.unwrap() }\n}\n#[expect(dead_code)]\n\
                    fn m() { unreachable!() }\nfn n() { pgrx::error!(\"\") }\n";
        assert_eq!(lines(errors_are_values, "src/api/x.rs", text), [1, 3, 4, 5, 6, 12, 13]);
        assert_eq!(lines(errors_are_values, "src/api/x_tests.rs", text), [0; 0]);
    }

    #[test]
    fn sleeping_threads_and_async_are_found() {
        let text = "use std::thread;\nthread_local!(static A: u8 = 1);\nfn f() { sleep(d) }\n\
                    async fn g() {}\n// sleep\nconst S: &str = \"SELECT pg_sleep(1)\";\n";
        assert_eq!(lines(nothing_sleeps, "src/workers/x.rs", text), [1, 3, 4]);
    }
}
