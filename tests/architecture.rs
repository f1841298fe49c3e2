//! The house's rules, checked by reading the files: which layer may name what, what is said beside
//! unsafe code, how large things are. The checks and their planted violations are in `src/rules/`.

use pgq_tests::repository;
use pgq_tests::rules::{check_text, check_tree, sources, Finding, RULES};

fn report(name: &str, found: &[Finding]) {
    let lines: Vec<String> = found.iter().map(Finding::to_string).collect();
    assert!(found.is_empty(), "{name}:\n{}\n", lines.join("\n"));
}

/// Applies the rule of this name to all files, and makes sure that it looks at some.
fn check(name: &str) {
    let rule = RULES.iter().find(|rule| rule.name == name).expect("a rule of this name");
    let sources = sources(&repository()).expect("the tree can be read");
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "src/lib.rs was not found");
    let found: Vec<Finding> = sources.iter().flat_map(|source| (rule.check)(source)).collect();
    report(name, &found);
}

#[test]
fn the_engine_is_pure() {
    check("the engine is pure");
}

#[test]
fn unsafe_and_pg_sys_only_in_pg() {
    check("unsafe and pg_sys only in src/pg/");
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    check("every unsafe says why it is sound");
}

#[test]
fn our_tables_only_in_store() {
    check("our tables only in src/store/");
}

#[test]
fn layers_import_downward() {
    check("layers import downward");
}

#[test]
fn errors_are_values() {
    check("errors are values");
}

#[test]
fn nothing_sleeps() {
    check("no sleeping, threads, async");
}

#[test]
fn files_and_functions_are_small() {
    check("files and functions are small");
}

#[test]
fn every_file_says_what_it_is() {
    check("every file says what it is");
}

#[test]
fn every_rule_is_checked() {
    let own = include_str!("architecture.rs");
    for rule in RULES {
        assert!(own.contains(&format!("check(\"{}\")", rule.name)), "no test for: {}", rule.name);
    }
}

#[test]
fn the_tree_is_in_order() {
    report("the tree", &check_tree(&repository()).expect("the tree can be read"));
}

#[test]
fn a_file_that_breaks_every_rule_is_reported_for_each() {
    let arguments = "a: A, b: B, c: C, d: D, e: E, f: F";
    let text = format!(
        "use crate::workers::launcher;\nfn f({arguments}) {{ unsafe {{ x.unwrap() }} }}\n\
         const S: &str = \"SELECT * FROM pgq.job\";\nfn g() {{ sleep(d) }}\n"
    );
    let found = check_text("src/api/x.rs", &text);
    let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
    // unsafe outside pg, unsafe unexplained, statement, import, unwrap, sleep, arguments, header.
    assert_eq!(lines, [2, 2, 3, 1, 2, 4, 2, 1], "{found:#?}");
}
