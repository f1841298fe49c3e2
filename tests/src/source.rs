//! A Rust file as tokens and comments: enough of the language's lexical rules that the checker of
//! the house's rules is not misled by comments, strings and characters.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or keyword.
    Ident,
    /// A string literal of any kind; the text is what is between the quotes, escapes as written.
    Str,
    /// A number, a character or a lifetime.
    Other,
    /// One character of punctuation.
    Punct,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its text.
    pub text: String,
    /// Its first line, counted from 1.
    pub line: usize,
}

/// One comment, or one line of a row of line comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Its lines, counted from 1.
    pub lines: Range<usize>,
    /// Its text with its marks.
    pub text: String,
}

/// One file, read.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path below the root of the repository, with `/`.
    pub path: String,
    /// The lines.
    pub lines: Vec<String>,
    /// The tokens without comments.
    pub tokens: Vec<Token>,
    /// The comments.
    pub comments: Vec<Comment>,
    tests: Vec<Range<usize>>,
}

impl Source {
    /// Reads a text as the file `path`.
    pub fn new(path: &str, text: &str) -> Source {
        let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new(), comments: Vec::new() };
        lexer.run();
        let Lexer { tokens, comments, .. } = lexer;
        let tests = test_ranges(&tokens);
        let lines = text.lines().map(str::to_owned).collect();
        Source { path: path.to_owned(), lines, tokens, comments, tests }
    }

    /// Whether token `index` is an identifier, keyword or punctuation with this text.
    pub fn is(&self, index: usize, text: &str) -> bool {
        self.tokens.get(index).is_some_and(|token| token.kind != Kind::Str && token.text == text)
    }

    /// Whether these tokens stand at `index`, one after the other.
    pub fn is_sequence(&self, index: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(offset, text)| self.is(index + offset, text))
    }

    /// The indexes of the identifiers.
    pub fn idents(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.tokens.len()).filter(|index| self.tokens[*index].kind == Kind::Ident)
    }

    /// Whether token `index` is compiled for tests only.
    pub fn is_in_test(&self, index: usize) -> bool {
        self.is_test_file() || self.tests.iter().any(|range| range.contains(&index))
    }

    /// Whether the whole file holds tests.
    pub fn is_test_file(&self) -> bool {
        self.path.ends_with("_tests.rs") || self.path.starts_with("tests/")
    }

    /// The closing bracket of the opening one at `index`, or the last token.
    pub fn closing(&self, index: usize) -> usize {
        closing(&self.tokens, index)
    }
}

fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.kind != Kind::Punct {
            continue;
        }
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len().saturating_sub(1)
}

/// The items behind `#[cfg(test)]`, `#[cfg(any(test, feature = "pg_test"))]`, `#[test]` and
/// `#[pg_test]`.
fn test_ranges(tokens: &[Token]) -> Vec<Range<usize>> {
    let punct = |index: usize, text: &str| tokens.get(index).is_some_and(|t| t.kind == Kind::Punct && t.text == text);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for start in 0..tokens.len() {
        if !punct(start, "#") || !punct(start + 1, "[") {
            continue;
        }
        let end = closing(tokens, start + 1);
        let attribute = &tokens[start + 2..end];
        let has = |text: &str| attribute.iter().any(|token| token.text == text);
        let first = attribute.first().map(|token| token.text.as_str()).unwrap_or_default();
        let is_test = match first {
            "test" | "pg_test" => true,
            "cfg" => (has("test") || has("pg_test")) && !has("not"),
            _ => false,
        };
        if is_test {
            ranges.push(start..item_end(tokens, end + 1) + 1);
        }
    }
    ranges
}

/// The last token of the item that begins at `index`.
fn item_end(tokens: &[Token], mut index: usize) -> usize {
    while let Some(token) = tokens.get(index) {
        match (token.kind, token.text.as_str()) {
            (Kind::Punct, ";") => return index,
            (Kind::Punct, "{") => return closing(tokens, index),
            (Kind::Punct, "(" | "[") => index = closing(tokens, index),
            _ => {}
        }
        index += 1;
    }
    tokens.len().saturating_sub(1)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
    comments: Vec<Comment>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) {
        while let Some(first) = self.rest.chars().next() {
            if first.is_whitespace() {
                self.take(first.len_utf8());
            } else if self.rest.starts_with("//") {
                let length = self.rest.find('\n').unwrap_or(self.rest.len());
                self.comment(length);
            } else if self.rest.starts_with("/*") {
                self.comment(block_comment_length(self.rest));
            } else if let Some(quotes) = quotes(self.rest) {
                self.string(&quotes);
            } else if first == '\'' {
                let length = quote_length(self.rest);
                self.push(Kind::Other, length);
            } else if first.is_alphanumeric() || first == '_' {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                let length = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
                let kind = if first.is_ascii_digit() { Kind::Other } else { Kind::Ident };
                self.push(kind, length);
            } else {
                self.push(Kind::Punct, first.len_utf8());
            }
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn push(&mut self, kind: Kind, length: usize) {
        let line = self.line;
        let text = self.take(length).to_owned();
        self.tokens.push(Token { kind, text, line });
    }

    fn comment(&mut self, length: usize) {
        let first = self.line;
        let text = self.take(length).to_owned();
        self.comments.push(Comment { lines: first..self.line + 1, text });
    }

    fn string(&mut self, quotes: &Quotes) {
        let line = self.line;
        self.take(quotes.open);
        let end = match quotes.is_raw {
            true => self.rest.find(&quotes.close),
            false => unescaped_quote(self.rest),
        };
        let text = self.take(end.unwrap_or(self.rest.len())).to_owned();
        self.take(quotes.close.len().min(self.rest.len()));
        self.tokens.push(Token { kind: Kind::Str, text, line });
    }
}

/// What opens and closes a string.
struct Quotes {
    open: usize,
    close: String,
    is_raw: bool,
}

/// The quotes of the string that begins here: `"`, `b"`, `c"`, `r#"`, `br"`, …
fn quotes(text: &str) -> Option<Quotes> {
    let length = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let (prefix, rest) = text.split_at(length);
    if !["", "b", "c", "r", "br", "cr"].contains(&prefix) {
        return None;
    }
    let is_raw = prefix.ends_with('r');
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if !rest[hashes..].starts_with('"') || (hashes > 0 && !is_raw) {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    Some(Quotes { open: length + hashes + 1, close, is_raw })
}

fn unescaped_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some(index),
            _ => {}
        }
    }
    None
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut index) = (0_usize, 0_usize);
    while index < text.len() {
        let rest = &text[index..];
        if rest.starts_with("/*") {
            depth += 1;
            index += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            index += 2;
            if depth == 0 {
                return index;
            }
        } else {
            index += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// A character literal or a lifetime.
fn quote_length(text: &str) -> usize {
    let behind = &text[1..];
    if let Some(escaped) = behind.strip_prefix('\\') {
        let skip = escaped.chars().next().map_or(0, char::len_utf8);
        let close = escaped[skip..].find('\'').unwrap_or(0);
        return 1 + 1 + skip + close + 1;
    }
    let first = behind.chars().next().map_or(0, char::len_utf8);
    if behind[first..].starts_with('\'') {
        return 1 + first + 1;
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    1 + behind.find(|c| !is_word(c)).unwrap_or(behind.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let tokens = Source::new("src/x.rs", text).tokens;
        tokens.into_iter().filter(|t| t.kind == Kind::Ident).map(|t| t.text).collect()
    }

    #[test]
    fn words_in_comments_strings_and_characters_are_no_idents() {
        let text = "a /* unsafe /* nested */ still */ b // unsafe\n\"unsafe \\\" unsafe\" c \
                    r#\"unsafe \" unsafe\"# d 'u' '\\'' 'static e b\"unsafe\" c\"unsafe\" f";
        assert_eq!(words(text), ["a", "b", "c", "d", "e", "f"]);
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let source = Source::new("src/x.rs", "/* 1\n2 */ \"3\n\" last\n// end");
        assert_eq!(source.tokens.last().map(|token| token.line), Some(3));
        assert_eq!(source.comments.last().map(|comment| comment.lines.start), Some(4));
    }

    #[test]
    fn raw_strings_keep_backslashes() {
        let source = Source::new("src/x.rs", r##"r"a\" b r#"c"d"# e"##);
        let texts: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(texts, ["a\\", "b", "c\"d", "e"]);
    }

    #[test]
    fn items_for_tests_are_known() {
        let text = "fn a() {} #[cfg(any(test, feature = \"pg_test\"))] mod t { fn b() {} } #[test] \
                    fn c() {} #[cfg(not(test))] fn d() {}";
        let source = Source::new("src/x.rs", text);
        let is_in_test = |name: &str| {
            let index = source.idents().find(|index| source.is(*index, name)).expect("there");
            source.is_in_test(index)
        };
        assert_eq!(["a", "b", "c", "d"].map(is_in_test), [false, true, true, false]);
    }
}
