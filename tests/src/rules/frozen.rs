//! Rule 9: what was released is frozen. An upgrade script that somebody has run, and the install script of an earlier
//! version that tests start from, never change; `tests/upgrade/frozen.sha256` has their checksums, as sha256sum writes
//! them. What leads to the present version is not released yet.

use super::{below, files_below, Finding};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::Path;

const LIST: &str = "tests/upgrade/frozen.sha256";

/// All checks of it.
///
/// # Errors
/// When a file cannot be read.
pub fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let own =
        manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')).unwrap_or_default();
    let mut paths = Vec::new();
    files_below(&root.join("tests/upgrade"), "sql", &mut paths)?;
    files_below(&root.join("sql"), "sql", &mut paths)?;
    let mut scripts: Vec<String> = paths.iter().map(|path| below(root, path)).collect();
    scripts.retain(|path| !path.starts_with("sql/schema/"));
    scripts.sort();
    let list = fs::read_to_string(root.join(LIST)).unwrap_or_default();
    let mut found = checksums(root, &list)?;
    for path in scripts.iter().filter(|path| versions(path).last().is_some_and(|last| last != own)) {
        if !list.lines().any(|line| line.ends_with(&format!("  {path}"))) {
            found.push(Finding::new(path, 1, format!("released, but not in {LIST}: sha256sum {path} >>{LIST}")));
        }
    }
    found.extend(ways(&scripts, own));
    Ok(found)
}

/// The versions that a script's name has: one, or where from and where to.
fn versions(path: &str) -> Vec<String> {
    let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".sql");
    name.split("--").skip(1).map(str::to_owned).collect()
}

fn checksums(root: &Path, list: &str) -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (index, line) in list.lines().enumerate() {
        let (sum, path) = line.split_once("  ").unwrap_or((line, ""));
        let text = match fs::read(root.join(path)) {
            Ok(bytes) if hex(&Sha256::digest(&bytes)) == sum => continue,
            Ok(_) => format!("{path} was released and has changed: write another upgrade script"),
            Err(_) => format!("{path} is not there"),
        };
        found.push(Finding::new(LIST, index + 1, text));
    }
    Ok(found)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// From each version that was released there is a way to the present one, and its install script is kept for the test
/// of it.
fn ways(scripts: &[String], own: &str) -> Vec<Finding> {
    let steps: Vec<Vec<String>> = scripts.iter().map(|path| versions(path)).collect();
    let mut released: Vec<&String> = steps.iter().flatten().filter(|version| *version != own).collect();
    released.sort();
    released.dedup();
    let mut found = Vec::new();
    for version in released {
        let kept = format!("tests/upgrade/pgq--{version}.sql");
        if !scripts.contains(&kept) {
            found.push(Finding::new(&kept, 1, "the install script of a released version is kept here"));
        }
        let mut reached = vec![version.as_str()];
        while let Some(step) = steps
            .iter()
            .find(|step| step.len() == 2 && reached.contains(&step[0].as_str()) && !reached.contains(&step[1].as_str()))
        {
            reached.push(&step[1]);
        }
        if !reached.contains(&own) {
            found.push(Finding::new("sql", 1, format!("there is no way from {version} to {own}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, version: &str, files: &[(&str, &str)]) -> Vec<String> {
        let root = std::env::temp_dir().join(format!("pgq-frozen-{name}-{}", std::process::id()));
        for folder in ["sql/schema", "tests/upgrade"] {
            fs::create_dir_all(root.join(folder)).expect("a new directory");
        }
        fs::write(root.join("Cargo.toml"), format!("[package]\nversion = \"{version}\"\n")).expect("a new file");
        for (path, text) in files {
            fs::write(root.join(path), text).expect("a new file");
        }
        let found = check(&root);
        fs::remove_dir_all(&root).expect("its own directory");
        found.expect("readable").iter().map(Finding::to_string).collect()
    }

    const FIRST: (&str, &str) = ("tests/upgrade/pgq--1.sql", "first\n");
    const SECOND: (&str, &str) = ("sql/pgq--1--2.sql", "second\n");
    fn sums(files: &[(&str, &str)]) -> String {
        files.iter().map(|(path, text)| format!("{}  {path}\n", hex(&Sha256::digest(text)))).collect()
    }

    #[test]
    fn what_leads_to_the_present_version_is_free_and_what_is_behind_it_frozen() {
        let list = sums(&[FIRST]);
        assert_eq!(tree("free", "2", &[FIRST, SECOND, (LIST, &list)]), [""; 0]);
        assert_eq!(tree("free", "2", &[FIRST, ("sql/pgq--1--2.sql", "other\n"), (LIST, &list)]), [""; 0]);
        let found = tree("changed", "2", &[("tests/upgrade/pgq--1.sql", "other\n"), SECOND, (LIST, &list)]);
        assert!(found.len() == 1 && found[0].contains("has changed"), "{found:?}");
        let found = tree("unlisted", "2", &[FIRST, SECOND]);
        assert!(found.len() == 1 && found[0].contains("not in"), "{found:?}");
        let found = tree("gone", "2", &[SECOND, (LIST, &list)]);
        assert!(found.iter().any(|line| line.contains("is not there")), "{found:?}");
    }

    #[test]
    fn a_new_version_freezes_the_last_and_needs_a_way() {
        let third = ("sql/pgq--2--3.sql", "third\n");
        let kept = ("tests/upgrade/pgq--2.sql", "fresh\n");
        let list = sums(&[FIRST, SECOND, kept]);
        assert_eq!(tree("next", "3", &[FIRST, SECOND, third, kept, (LIST, &list)]), [""; 0]);
        let list = sums(&[FIRST]);
        let found = tree("bumped", "3", &[FIRST, SECOND, (LIST, &list)]);
        for expected in ["not in", "no way from 1 to 3", "no way from 2 to 3", "pgq--2.sql"] {
            assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
        }
    }
}
