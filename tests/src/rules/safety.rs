//! What must be said beside the code: why an unsafe block is sound, and what a file is.

use super::Finding;
use crate::source::Source;

/// How many lines of code may stand between the comment and the word: the head of a statement.
const HEAD: usize = 3;

/// Each `unsafe` block, function, impl and extern block has `SAFETY` or `# Safety` close above.
pub fn unsafe_is_explained(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for index in source.idents().filter(|index| source.is(*index, "unsafe")) {
        let line = source.tokens[index].line;
        let is_explained = is_explained(source, line) || is_explained_inside(source, index);
        if is_explainable(source, index) && !is_explained {
            let text = "unsafe without a SAFETY comment (or # Safety) close above";
            found.push(Finding::new(&source.path, line, text));
        }
    }
    found
}

/// An attribute and the type of a function pointer have nothing to explain.
fn is_explainable(source: &Source, index: usize) -> bool {
    if source.is(index + 1, "(") {
        return false;
    }
    let has_abi = source.is(index + 1, "extern");
    let function = if has_abi { index + 3 } else { index + 1 };
    let is_pointer = source.is(function, "fn") && source.is(function + 1, "(");
    !is_pointer
}

fn says(source: &Source, line: usize) -> bool {
    source.comments.iter().any(|comment| {
        comment.lines.contains(&line) && (comment.text.contains("SAFETY") || comment.text.contains("# Safety"))
    })
}

/// A function whose contract is another's (a trait's, a hook's) says in its first line how it is
/// kept.
fn is_explained_inside(source: &Source, index: usize) -> bool {
    let is_function = (index..index + 4).any(|near| source.is(near, "fn"));
    let open = (index..source.tokens.len()).find(|at| source.is(*at, "{"));
    let line = open.map_or(0, |open| source.tokens[open].line);
    is_function && says(source, line + 1)
}

fn is_explained(source: &Source, line: usize) -> bool {
    if says(source, line) {
        return true;
    }
    let mut code_lines = 0;
    for above in (1..line).rev() {
        if says(source, above) {
            return true;
        }
        let text = source.lines.get(above - 1).map(|line| line.trim()).unwrap_or_default();
        let is_comment = source.comments.iter().any(|comment| comment.lines.contains(&above));
        if is_comment || text.starts_with("#[") {
            continue;
        }
        code_lines += 1;
        if code_lines > HEAD || text.is_empty() || text.ends_with('}') {
            return false;
        }
    }
    false
}

/// Every file opens with `//!`.
pub fn file_is_explained(source: &Source) -> Vec<Finding> {
    let first = source.lines.first().map(String::as_str).unwrap_or_default();
    if first.starts_with("//!") {
        return Vec::new();
    }
    vec![Finding::new(&source.path, 1, "a file opens with //!: what it is and what it never does")]
}

#[cfg(test)]
mod tests {
    use super::super::planted::lines;
    use super::*;

    #[test]
    fn unsafe_without_a_reason_is_found() {
        let text = "fn f() {\n    unsafe { g() }\n}\n\
                    fn h() {\n    // SAFETY: because.\n    let x =\n        unsafe { g() };\n}\n\
                    /// Does.\n///\n/// # Safety\n/// Only then.\n#[inline]\npub unsafe fn i() {}\n\
                    unsafe impl Send for X {}\n// SAFETY: no.\nfn j() {}\n\nunsafe fn k() {}\n";
        assert_eq!(lines(unsafe_is_explained, "src/pg/x.rs", text), [2, 15, 19]);
    }

    #[test]
    fn one_reason_does_not_serve_the_next_statement() {
        let text = "fn f() {\n    // SAFETY: a.\n    unsafe { a() }\n    unsafe { b() }\n}\n";
        assert_eq!(lines(unsafe_is_explained, "src/pg/x.rs", text), [4]);
    }

    #[test]
    fn a_function_may_explain_itself_in_its_first_line() {
        let text = "unsafe extern \"C\" fn f() {\n    // SAFETY: the hook's.\n    g()\n}\n\
                    unsafe extern \"C\" {\n    // SAFETY: not here.\n    fn h();\n}\n";
        assert_eq!(lines(unsafe_is_explained, "src/pg/x.rs", text), [5]);
    }

    #[test]
    fn attributes_and_types_need_no_reason() {
        let text = "#[unsafe(no_mangle)]\ntype A = Option<unsafe extern \"C\" fn(i32)>;\n\
                    type B = unsafe fn(i32);\n";
        assert_eq!(lines(unsafe_is_explained, "src/pg/x.rs", text), [0; 0]);
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_eq!(lines(file_is_explained, "src/pg/x.rs", "use a;\n"), [1]);
        assert_eq!(lines(file_is_explained, "src/pg/x.rs", "//! A.\nuse a;\n"), [0; 0]);
    }
}
