//! The fenced blocks of a Markdown file, with what their first line says about them.

use std::collections::BTreeMap;

/// One fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of the opening fence, counted from 1.
    pub line: usize,
    /// The first word behind the fence; empty when there is none.
    pub language: String,
    /// The other words: `name=value`, or `name` with an empty value.
    pub options: BTreeMap<String, String>,
    /// What is between the fences.
    pub text: String,
}

impl Block {
    /// The value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

/// All fenced blocks in order.
///
/// # Errors
/// The line of a fence that is never closed.
pub fn blocks(markdown: &str) -> Result<Vec<Block>, usize> {
    let mut found = Vec::new();
    let mut open: Option<(Block, String, usize)> = None;
    for (index, line) in markdown.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        match &mut open {
            None => {
                if let Some((block, fence)) = opening(trimmed, index + 1) {
                    open = Some((block, fence, indent));
                }
            }
            Some((block, fence, fence_indent)) => {
                let rest = trimmed.strip_prefix(fence.as_str());
                if rest.is_some_and(|rest| rest.trim_matches(['`', '~', ' ']).is_empty()) {
                    found.push(block.clone());
                    open = None;
                } else {
                    // A block inside a list is indented as a whole.
                    block.text.push_str(&line[indent.min(*fence_indent)..]);
                    block.text.push('\n');
                }
            }
        }
    }
    match open {
        Some((block, ..)) => Err(block.line),
        None => Ok(found),
    }
}

fn opening(line: &str, number: usize) -> Option<(Block, String)> {
    let mark = line.chars().next().filter(|mark| ['`', '~'].contains(mark))?;
    let length = line.chars().take_while(|c| *c == mark).count();
    if length < 3 || line[length..].contains('`') {
        return None;
    }
    let mut words = line[length..].split_whitespace();
    let language = words.next().unwrap_or_default().to_owned();
    let options = words.map(|word| match word.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (word.to_owned(), String::new()),
    });
    let options = options.collect();
    Some((Block { line: number, language, options, text: String::new() }, line[..length].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_line_its_language_and_its_options() {
        let text = "# a\n\n```sql error=22023 transcript\nSELECT 1;\n```\nend\n";
        let found = blocks(text).expect("closed");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
        assert_eq!(found[0].language, "sql");
        assert_eq!(found[0].option("error"), Some("22023"));
        assert_eq!(found[0].option("transcript"), Some(""));
        assert_eq!(found[0].option("as"), None);
        assert_eq!(found[0].text, "SELECT 1;\n");
    }

    #[test]
    fn blocks_without_a_language_and_inside_lists_are_found() {
        let text = "1. do\n   ```\n   a\n     b\n   ```\n~~~~ sh\n```\n~~~~\n";
        let found = blocks(text).expect("closed");
        assert_eq!(found[0].text, "a\n  b\n");
        assert_eq!(found[0].language, "");
        assert_eq!((found[1].language.as_str(), found[1].text.as_str()), ("sh", "```\n"));
    }

    #[test]
    fn inline_code_is_no_block_and_an_open_fence_is_an_error() {
        assert_eq!(blocks("```x``` inline\n"), Ok(vec![]));
        assert_eq!(blocks("text\n```sql\nSELECT 1;\n"), Err(2));
    }
}
