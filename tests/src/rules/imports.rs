//! Rule 4 of the house: a layer imports only those below it.

use super::Finding;
use crate::source::Source;

/// What the layers that serve users and jobs may import.
const SERVICES: &[&str] = &["engine", "store", "pg", "settings", "error", "observe", "outcome"];

/// What each layer may import besides itself.
const ALLOWED: &[(&str, &[&str])] = &[
    ("engine", &[]),
    // pg only for the types of PostgreSQL's own errors (pg::report).
    ("error", &["engine", "pg"]),
    ("pg", &["error"]),
    ("settings", &["engine", "pg", "error"]),
    ("observe", &["engine", "pg", "error", "settings"]),
    ("store", &["engine", "pg", "error"]),
    ("outcome", SERVICES),
    ("api", SERVICES),
    ("workers", SERVICES),
    ("schema", &[]),
];

/// The layer of a file: the folder below `src/`, or the file itself. lib.rs is above all of them.
fn layer(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|layer| *layer != "lib")
}

/// Checks every path that begins with `crate::`, and `super::` where it leaves the layer.
pub fn layers_import_downward(source: &Source) -> Vec<Finding> {
    let Some(own) = layer(&source.path) else {
        return Vec::new();
    };
    let Some((_, allowed)) = ALLOWED.iter().find(|(layer, _)| *layer == own) else {
        let text = format!("\"{own}\" is no layer of the house: give it a place in one");
        return vec![Finding::new(&source.path, 1, text)];
    };
    let mut found = Vec::new();
    for index in source.idents() {
        for (at, target) in targets(source, index) {
            let is_layer = ALLOWED.iter().any(|(layer, _)| *layer == target);
            if is_layer && target != own && !allowed.contains(&target) {
                let line = source.tokens[at].line;
                found.push(Finding::new(&source.path, line, format!("{own} may not import {target}")));
            }
        }
        if source.is_sequence(index, &["super", ":", ":", "super"]) {
            let text = "write crate::…, so that the layer can be seen";
            found.push(Finding::new(&source.path, source.tokens[index].line, text));
        }
    }
    found
}

/// The first names behind a `crate::` at `index`, or behind a `super::` that means the same.
fn targets(source: &Source, index: usize) -> Vec<(usize, &str)> {
    let is_root = source.is(index, "crate") || (source.is(index, "super") && is_top(&source.path));
    if !is_root || !source.is_sequence(index + 1, &[":", ":"]) {
        return Vec::new();
    }
    let name = |at: usize| source.tokens.get(at).map(|token| (at, token.text.as_str()));
    if !source.is(index + 3, "{") {
        return name(index + 3).into_iter().collect();
    }
    let end = source.closing(index + 3);
    let mut depth = 0_usize;
    let mut names = Vec::new();
    for at in index + 3..end {
        match source.tokens[at].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {
                let is_first = source.is(at - 1, ",") || source.is(at - 1, "{");
                names.extend(name(at).filter(|_| depth == 1 && is_first));
            }
        }
    }
    names
}

/// Whether the module's parent is the root of the crate.
fn is_top(path: &str) -> bool {
    path.ends_with("/mod.rs") && path.matches('/').count() == 2 || path.matches('/').count() == 1
}

#[cfg(test)]
mod tests {
    use super::super::planted::lines;
    use super::*;

    #[test]
    fn upward_imports_are_found_in_every_form() {
        let text = "use crate::workers::launcher;\nuse crate::{engine::state, store::{self, row}};\n\
                    fn f() { crate::settings::poll_interval() }\n// use crate::api;\n\
                    use crate::pg::{spi, api};\n";
        assert_eq!(lines(layers_import_downward, "src/api/x.rs", text), [1]);
        assert_eq!(lines(layers_import_downward, "src/store/x.rs", text), [1, 3]);
        assert_eq!(lines(layers_import_downward, "src/workers/x.rs", text), [0; 0]);
        assert_eq!(lines(layers_import_downward, "src/pg/x.rs", text), [1, 2, 2, 3]);
        assert_eq!(lines(layers_import_downward, "src/engine/x.rs", text), [1, 2, 3, 5]);
        assert_eq!(lines(layers_import_downward, "src/lib.rs", text), [0; 0]);
    }

    #[test]
    fn api_and_workers_do_not_know_each_other() {
        assert_eq!(lines(layers_import_downward, "src/api/x.rs", "use crate::workers::a;"), [1]);
        assert_eq!(lines(layers_import_downward, "src/workers/x.rs", "use crate::api::a;"), [1]);
    }

    #[test]
    fn super_does_not_hide_a_layer() {
        let text = "use super::api::put;\nuse super::*;";
        assert_eq!(lines(layers_import_downward, "src/pg/mod.rs", text), [1]);
        assert_eq!(lines(layers_import_downward, "src/error.rs", text), [1]);
        assert_eq!(lines(layers_import_downward, "src/pg/x.rs", text), [0; 0]);
        let text = "use super::super::api::put;";
        assert_eq!(lines(layers_import_downward, "src/pg/x.rs", text), [1]);
    }

    #[test]
    fn a_new_folder_needs_a_place_in_the_house() {
        assert_eq!(lines(layers_import_downward, "src/util/x.rs", ""), [1]);
    }
}
