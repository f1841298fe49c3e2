//! Rule 8 of the house: no file over 500 lines, no function over 60, no more than 5 arguments.

use super::Finding;
use crate::source::{Kind, Source};

/// Lines of a file.
pub const FILE: usize = 500;
/// Lines of a function, from `fn` to its closing brace; of one whose signature is given, from the
/// opening one.
const FUNCTION: usize = 60;
/// Arguments of a function besides `self`.
const ARGUMENTS: usize = 5;

/// Checks the file, and each function in it.
pub fn sizes(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    if source.lines.len() > FILE {
        let text = format!("{} lines: a file has at most {FILE}", source.lines.len());
        found.push(Finding::new(&source.path, FILE + 1, text));
    }
    for index in source.idents() {
        let is_function =
            source.is(index, "fn") && source.tokens.get(index + 1).is_some_and(|token| token.kind == Kind::Ident);
        if is_function {
            found.extend(check_function(source, index));
        }
    }
    found
}

fn check_function(source: &Source, index: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    let (name, line) = (&source.tokens[index + 1].text, source.tokens[index].line);
    let open = parameters(source, index + 2);
    let close = source.closing(open);
    let is_given = has_given_signature(source, index);
    let count = count_parameters(source, open, close);
    if count > ARGUMENTS && !is_given {
        let text = format!("{name} has {count} arguments, at most {ARGUMENTS}: make a struct");
        found.push(Finding::new(&source.path, line, text));
    }
    let length = body(source, close + 1).map_or(1, |(start, end)| {
        let first = if is_given { source.tokens[start].line } else { line };
        source.tokens[end].line - first + 1
    });
    if length > FUNCTION {
        let text = format!("{name} has {length} lines, at most {FUNCTION}");
        found.push(Finding::new(&source.path, line, text));
    }
    found
}

/// The parenthesis that opens the parameters, behind the generics if there are any.
fn parameters(source: &Source, mut index: usize) -> usize {
    let mut depth = 0_usize;
    while index < source.tokens.len() {
        if source.is(index, "<") {
            depth += 1;
        } else if source.is(index, ">") && !source.is(index - 1, "-") {
            depth = depth.saturating_sub(1);
        } else if source.is(index, "(") {
            if depth == 0 {
                return index;
            }
            index = source.closing(index);
        }
        index += 1;
    }
    index.saturating_sub(1)
}

fn count_parameters(source: &Source, open: usize, close: usize) -> usize {
    let (mut count, mut angles, mut index) = (0, 0_usize, open + 1);
    let mut is_empty = true;
    let mut is_receiver = false;
    while index <= close {
        match source.tokens[index].text.as_str() {
            _ if source.tokens[index].kind == Kind::Str => is_empty = false,
            "," if angles == 0 => {
                count += usize::from(!is_empty && !is_receiver);
                (is_empty, is_receiver) = (true, false);
            }
            _ if index == close => count += usize::from(!is_empty && !is_receiver),
            // An attribute in front of a parameter.
            "#" if source.is(index + 1, "[") => index = source.closing(index + 1),
            "(" | "[" | "{" => index = source.closing(index),
            "<" => angles += 1,
            ">" if !source.is(index - 1, "-") => angles = angles.saturating_sub(1),
            "self" if angles == 0 && !source.is(index - 1, ":") => {
                (is_receiver, is_empty) = (true, false);
            }
            _ => is_empty = false,
        }
        index += 1;
    }
    count
}

/// The braces of the body; none for a declaration.
fn body(source: &Source, mut index: usize) -> Option<(usize, usize)> {
    while index < source.tokens.len() {
        if source.is(index, ";") {
            return None;
        }
        if source.is(index, "{") {
            return Some((index, source.closing(index)));
        }
        if source.is(index, "[") || source.is(index, "(") {
            index = source.closing(index);
        }
        index += 1;
    }
    None
}

/// What SQL calls has the signature that the API gives it; what PostgreSQL calls or exports has the
/// signature that PostgreSQL gives it.
fn has_given_signature(source: &Source, function: usize) -> bool {
    let is_foreign = (1..=2).any(|back| function >= back && source.is(function - back, "extern"));
    if is_foreign || source.tokens.get(function + 2).is_none() {
        return true;
    }
    // Back through modifiers and attributes to the end of what stands before.
    for index in (0..function).rev() {
        if source.is(index, "pg_extern") {
            return true;
        }
        let is_end = [";", "{", "}"].iter().any(|end| source.is(index, end));
        if is_end && !is_in_attribute(source, index) {
            return is_extern_block(source, index);
        }
    }
    false
}

fn is_in_attribute(source: &Source, index: usize) -> bool {
    (0..index).rev().take(200).any(|start| source.is_sequence(start, &["#", "["]) && source.closing(start + 1) > index)
}

/// `extern "C" {` or a declaration behind another one in such a block.
fn is_extern_block(source: &Source, end: usize) -> bool {
    let mut depth = 0_usize;
    for index in (0..=end).rev() {
        if source.is(index, "}") {
            depth += 1;
        } else if source.is(index, "{") {
            if depth == 0 {
                return index >= 2 && (source.is(index - 1, "extern") || source.is(index - 2, "extern"));
            }
            depth -= 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::planted::lines;
    use super::*;

    #[test]
    fn a_long_file_and_a_long_function_are_found() {
        let text = format!("fn f() {{\n{}}}\nfn g() {{}}\n", "    a();\n".repeat(59));
        assert_eq!(lines(sizes, "src/x.rs", &text), [1]);
        let text = format!("fn f() {{\n{}}}\n", "    a();\n".repeat(58));
        assert_eq!(lines(sizes, "src/x.rs", &text), [0; 0]);
        let text = format!("#[pg_extern]\nfn f(\n\n) {{\n{}}}\n", "    a();\n".repeat(58));
        assert_eq!(lines(sizes, "src/x.rs", &text), [0; 0]);
        let text = format!("#[pg_extern]\nfn f(\n\n) {{\n{}}}\n", "    a();\n".repeat(59));
        assert_eq!(lines(sizes, "src/x.rs", &text), [2]);
        assert_eq!(lines(sizes, "src/x.rs", &"\n".repeat(501)), [501]);
        assert_eq!(lines(sizes, "src/x.rs", &"\n".repeat(500)), [0; 0]);
    }

    #[test]
    fn many_arguments_are_found() {
        let five = "a: A<B, C>, b: [u8; 4], c: (D, E), d: fn(F, G) -> H, e: &'a str,";
        let text = format!(
            "fn f<'a, T: Fn(A, B) -> C>({five}) {{}}\nfn g(&self, {five}) {{}}\n\
             fn h({five} f: F) {{}}\nimpl A {{ fn i(&mut self, {five} f: F); }}\n"
        );
        assert_eq!(lines(sizes, "src/x.rs", &text), [3, 4]);
    }

    #[test]
    fn given_signatures_may_have_more() {
        let six = "a: A, b: B, c: C, d: D, e: E, f: F";
        let text = format!(
            "#[pg_extern(schema = \"pgq\", sql = \"{{;}}\")]\n/// Puts.\npub fn f({six}) {{}}\n\
             extern \"C-unwind\" fn g({six}) {{}}\nextern \"C\" {{ fn h({six}); fn i({six}); }}\n\
             fn j({six}) {{}}\n"
        );
        assert_eq!(lines(sizes, "src/x.rs", &text), [6]);
    }
}
