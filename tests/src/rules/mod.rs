//! The house's rules as checks on the files of the tree. Each check names the file and the line,
//! and each has planted violations in its unit tests: a check that cannot fail is worth nothing.

mod boundaries;
mod frozen;
mod imports;
mod safety;
mod size;
mod tree;

use crate::source::Source;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, below the root of the repository.
    pub path: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// One check of one Rust file.
pub type Check = fn(&Source) -> Vec<Finding>;

/// A check with its name.
pub struct Rule {
    /// The rule in a few words.
    pub name: &'static str,
    /// The check.
    pub check: Check,
}

/// The rules that are checked file by file.
pub const RULES: [Rule; 9] = [
    Rule { name: "the engine is pure", check: boundaries::engine_is_pure },
    Rule { name: "unsafe and pg_sys only in src/pg/", check: boundaries::unsafe_only_in_pg },
    Rule { name: "every unsafe says why it is sound", check: safety::unsafe_is_explained },
    Rule { name: "our tables only in src/store/", check: boundaries::tables_only_in_store },
    Rule { name: "layers import downward", check: imports::layers_import_downward },
    Rule { name: "errors are values", check: boundaries::errors_are_values },
    Rule { name: "no sleeping, threads, async", check: boundaries::nothing_sleeps },
    Rule { name: "files and functions are small", check: size::sizes },
    Rule { name: "every file says what it is", check: safety::file_is_explained },
];

/// Checks one text as the file `path`: all that is wrong with it.
pub fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let source = Source::new(path, text);
    RULES.iter().flat_map(|rule| (rule.check)(&source)).collect()
}

/// Reads the Rust files of the repository.
///
/// # Errors
/// When a file cannot be read.
pub fn sources(root: &Path) -> io::Result<Vec<Source>> {
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        files_below(&root.join(folder), "rs", &mut paths)?;
    }
    paths.sort();
    paths.iter().map(|path| Ok(Source::new(&below(root, path), &fs::read_to_string(path)?))).collect()
}

/// Checks what concerns more than one file: the install script's list, the tests' registration, the
/// top level, the sizes of what is not Rust, what was released.
///
/// # Errors
/// When a file cannot be read.
pub fn check_tree(root: &Path) -> io::Result<Vec<Finding>> {
    let mut found = tree::check(root)?;
    found.extend(frozen::check(root)?);
    Ok(found)
}

fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// All files below a folder whose name ends in `.extension`; none when the folder is not there.
fn files_below(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, extension, found)?;
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod planted {
    //! For the unit tests of the checks.

    use super::{Check, Finding};
    use crate::source::Source;

    /// The lines that a check complains about.
    pub fn lines(check: Check, path: &str, text: &str) -> Vec<usize> {
        let found: Vec<Finding> = check(&Source::new(path, text));
        found.iter().map(|finding| finding.line).collect()
    }
}
