//! Rules about more than one file: the list of the install script (rule 7), the registration of the
//! tests, the sizes of what is not Rust (rule 8) and the fixed top level.

use super::{below, files_below, size, Finding};
use crate::source::{Kind, Source};
use std::fs;
use std::io;
use std::path::Path;

/// What may stand in the root besides dot files; `target` is the build's own.
const TOP_LEVEL: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "pgq.control", "sql", "src", "target", "tests"];

/// All checks of the tree.
///
/// # Errors
/// When a file cannot be read.
pub fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let mut found = top_level(root)?;
    found.extend(install_script(root)?);
    found.extend(inline_sql(root)?);
    found.extend(registration(root)?);
    found.extend(other_sizes(root)?);
    Ok(found)
}

fn top_level(root: &Path) -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) {
            found.push(Finding::new(&name, 1, "the top level is fixed: find it a place inside"));
        }
    }
    Ok(found)
}

/// Rule 7: what is in `sql/schema/` is listed in src/schema.rs, and neither takes over nor tolerates
/// an object that is there already.
fn install_script(root: &Path) -> io::Result<Vec<Finding>> {
    let mut paths = Vec::new();
    files_below(&root.join("sql/schema"), "sql", &mut paths)?;
    paths.sort();
    let list = fs::read_to_string(root.join("src/schema.rs")).unwrap_or_default();
    let list = Source::new("src/schema.rs", &list);
    let mut listed = Vec::new();
    for token in list.tokens.iter().filter(|token| token.kind == Kind::Str) {
        if let Some(start) = token.text.find("sql/schema/") {
            listed.push((token.text[start..].to_owned(), token.line));
        }
    }
    let mut found = Vec::new();
    for path in &paths {
        let name = below(root, path);
        if !listed.iter().any(|(listed, _)| *listed == name) {
            found.push(Finding::new(&name, 1, "not listed in src/schema.rs"));
        }
        found.extend(tolerant_sql(&name, &fs::read_to_string(path)?));
    }
    for (name, line) in listed.iter().filter(|(name, _)| !root.join(name).is_file()) {
        found.push(Finding::new("src/schema.rs", *line, format!("{name} is not there")));
    }
    Ok(found)
}

fn tolerant_sql(path: &str, text: &str) -> Vec<Finding> {
    let mut words: Vec<(String, usize)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("--").next().unwrap_or_default().to_uppercase();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let in_line = code.split(|c| !is_word(c)).filter(|word| !word.is_empty());
        words.extend(in_line.map(|word| (word.to_owned(), index + 1)));
    }
    let mut found = Vec::new();
    for wrong in [&["IF", "NOT", "EXISTS"][..], &["OR", "REPLACE"][..]] {
        let places = words.windows(wrong.len());
        for place in places.filter(|place| place.iter().map(|(word, _)| word).eq(wrong)) {
            let text = format!("{} at install: an extension creates, or fails", wrong.join(" "));
            found.push(Finding::new(path, place[0].1, text));
        }
    }
    found
}

/// Install SQL comes through src/schema.rs only.
fn inline_sql(root: &Path) -> io::Result<Vec<Finding>> {
    let sources = super::sources(root)?;
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/")) {
        found.extend(inline_sql_in(source));
    }
    Ok(found)
}

fn inline_sql_in(source: &Source) -> Vec<Finding> {
    if source.path == "src/schema.rs" {
        return Vec::new();
    }
    let is_macro = |index: &usize| {
        (source.is(*index, "extension_sql") || source.is(*index, "extension_sql_file")) && !source.is_in_test(*index)
    };
    let text = "install SQL only through src/schema.rs";
    let places = source.idents().filter(is_macro);
    places.map(|index| Finding::new(&source.path, source.tokens[index].line, text)).collect()
}

/// A test file that Cargo.toml does not name is never run.
fn registration(root: &Path) -> io::Result<Vec<Finding>> {
    let manifest = fs::read_to_string(root.join("tests/Cargo.toml"))?;
    let mut found = Vec::new();
    let package = fs::read_to_string(root.join("Cargo.toml"))?;
    if !package.lines().any(|line| line.trim() == "autotests = false") {
        let text = "[package] needs autotests = false: tests/*.rs belong to the member crate in tests/";
        found.push(Finding::new("Cargo.toml", 1, text));
    }
    for entry in fs::read_dir(root.join("tests"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rs") && !manifest.contains(&format!("path = \"{name}\"")) {
            let text = "no [[test]] entry in tests/Cargo.toml: it would never be run";
            found.push(Finding::new(&format!("tests/{name}"), 1, text));
        }
    }
    Ok(found)
}

/// SQL and shell scripts; released upgrade scripts are frozen as they are.
fn other_sizes(root: &Path) -> io::Result<Vec<Finding>> {
    let mut paths = Vec::new();
    files_below(&root.join("sql/schema"), "sql", &mut paths)?;
    files_below(&root.join("tests"), "sh", &mut paths)?;
    files_below(&root.join("tests/pg_regress/sql"), "sql", &mut paths)?;
    paths.extend(["tests/demo", "tests/run", "tests/torture"].map(|name| root.join(name)));
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let count = fs::read_to_string(path)?.lines().count();
        if count > size::FILE {
            let text = format!("{count} lines: a file has at most {}", size::FILE);
            found.push(Finding::new(&below(root, path), size::FILE + 1, text));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerant_install_sql_is_found() {
        let text = "CREATE TABLE a (b int);\nCREATE TABLE IF NOT\n  EXISTS c (d int);\n\
                    -- OR REPLACE\ncreate or replace function e() ...;\n";
        let lines: Vec<usize> = tolerant_sql("a.sql", text).iter().map(|f| f.line).collect();
        assert_eq!(lines, [2, 5]);
    }

    #[test]
    fn install_sql_beside_the_list_is_found() {
        let text = "extension_sql!(\"\");\nextension_sql_file!(\"\");";
        assert_eq!(inline_sql_in(&Source::new("src/api/put.rs", text)).len(), 2);
        assert_eq!(inline_sql_in(&Source::new("src/schema.rs", text)).len(), 0);
    }

    #[test]
    fn a_planted_tree_shows_each_mistake() {
        let root = std::env::temp_dir().join(format!("pgq-tree-{}", std::process::id()));
        for folder in ["sql/schema", "src", "tests", "docs"] {
            fs::create_dir_all(root.join(folder)).expect("a new directory");
        }
        let long = "-- line\n".repeat(501);
        for (name, text) in [
            (
                "src/schema.rs",
                "//! List.\nextension_sql_file!(\"../sql/schema/a.sql\");\n\
                               extension_sql_file!(\"../sql/schema/gone.sql\");\n",
            ),
            ("sql/schema/a.sql", "CREATE SCHEMA a;\n"),
            ("sql/schema/b.sql", long.as_str()),
            ("Cargo.toml", "[package]\n"),
            ("tests/Cargo.toml", "path = \"known.rs\"\n"),
            ("tests/known.rs", "//! Known.\n"),
            ("tests/forgotten.rs", "//! Forgotten.\n"),
        ] {
            fs::write(root.join(name), text).expect("a new file");
        }
        let found = check(&root);
        fs::remove_dir_all(&root).expect("its own directory");
        let mut places: Vec<String> = found.expect("readable").iter().map(Finding::to_string).collect();
        places.sort();
        let starts = [
            "Cargo.toml:1:",
            "docs:1:",
            "sql/schema/b.sql:1:",
            "sql/schema/b.sql:501:",
            "src/schema.rs:3:",
            "tests/forgotten.rs:1:",
        ];
        assert_eq!(places.len(), starts.len(), "{places:#?}");
        assert!(places.iter().zip(starts).all(|(place, start)| place.starts_with(start)), "{places:#?}");
    }
}
