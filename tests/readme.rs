//! Every fenced block of README.md that touches pgq is run, in order, through the real psql: the
//! README is true or this fails, and says at which line.
//!
//! A block is ```` ```sql ````, and may say more behind that word: `error=22023` (its last
//! statement, and only that, fails with this SQLSTATE), `transcript` (prompts and answers, compared
//! loosely), `as=ROLE`, `db=NAME` (created when first named; `shop` otherwise, or what the prompt
//! says), `session=NAME` (another session beside the first). The session of a database, role and
//! name stays open from block to block. A block in another language that touches pgq says
//! `file=PATH`, and its lines are in that file, which is tested for itself.

use pgq_tests::markdown::{blocks, Block};
use pgq_tests::psql::{Reply, Session};
use pgq_tests::{repository, transcript, Server};
use std::collections::BTreeMap;

/// The database of blocks that name none.
const DATABASE: &str = "shop";
const OPTIONS: [&str; 5] = ["error", "transcript", "as", "db", "session"];

fn readme() -> Vec<Block> {
    let path = repository().join("README.md");
    let text = std::fs::read_to_string(&path).expect("README.md is there");
    let found = blocks(&text).unwrap_or_else(|line| panic!("README.md:{line}: never closed"));
    assert!(!found.is_empty(), "README.md has no fenced block");
    found
}

/// What is wrong with the first lines of blocks.
fn untagged(blocks: &[Block]) -> Vec<String> {
    let mut wrong = Vec::new();
    for block in blocks {
        if block.language != "sql" {
            let line = block.line;
            match block.option("file") {
                None if block.text.contains("pgq.") => {
                    wrong.push(format!("README.md:{line}: a block with \"pgq.\" must be tagged sql or name its file"));
                }
                Some(file) if !is_quoted(&block.text, file) => {
                    wrong.push(format!("README.md:{line}: these lines are not in {file}"));
                }
                _ => {}
            }
            continue;
        }
        let unknown = block.options.keys().find(|name| !OPTIONS.contains(&name.as_str()));
        if let Some(name) = unknown {
            wrong.push(format!("README.md:{}: option \"{name}\" is not known", block.line));
        }
    }
    wrong
}

/// Whether all of it stands in that file of the tree, in a row.
fn is_quoted(text: &str, file: &str) -> bool {
    let whole = std::fs::read_to_string(repository().join(file)).unwrap_or_default();
    !text.trim().is_empty() && format!("\n{whole}").contains(&format!("\n{text}"))
}

/// A statement that is not ended would silently become part of the next block.
fn is_ended(text: &str) -> bool {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("--");
    let last = text.lines().rfind(is_code).unwrap_or(";");
    let code = last.split(" --").next().unwrap_or(last).trim();
    code.ends_with(';') || code.starts_with('\\') || code.contains("\\g")
}

/// Runs the blocks of one server.
struct Reader<'a> {
    server: &'a Server,
    sessions: BTreeMap<String, Session>,
    databases: Vec<String>,
}

impl Reader<'_> {
    fn session(&mut self, block: &Block) -> &mut Session {
        let prompt = block.option("transcript").and_then(|_| transcript::database(&block.text));
        let database = block.option("db").or(prompt).unwrap_or(DATABASE).to_owned();
        let role = block.option("as").unwrap_or("postgres").to_owned();
        if !self.databases.contains(&database) {
            self.server.psql("postgres", &format!("CREATE DATABASE \"{database}\""));
            self.databases.push(database.clone());
        }
        let name = format!("{database} {role} {}", block.option("session").unwrap_or_default());
        let server = self.server;
        self.sessions.entry(name).or_insert_with(|| server.session(&database, &role))
    }

    fn run(&mut self, block: &Block) -> Result<(), String> {
        if block.options.contains_key("transcript") {
            return self.run_transcript(block);
        }
        if !is_ended(&block.text) {
            return Err(format!("README.md:{}: the last statement has no semicolon", block.line));
        }
        let reply = self.session(block).execute(&block.text);
        let reply = reply.map_err(|error| format!("README.md:{}: {error}", block.line))?;
        judge(&reply, block.option("error")).map_err(|error| format!("README.md:{}: {error}", block.line))
    }

    fn run_transcript(&mut self, block: &Block) -> Result<(), String> {
        let at = |line: usize, error: &str| format!("README.md:{}: {error}", block.line + 1 + line);
        let exchanges = transcript::parse(&block.text).map_err(|(line, e)| at(line, &e))?;
        for exchange in exchanges {
            if !is_ended(&exchange.input) {
                return Err(at(exchange.line, "the statement has no semicolon"));
            }
            let reply = self.session(block).execute(&exchange.input);
            let reply = reply.map_err(|error| at(exchange.line, &error))?;
            // Notices are sent before the result, and psql shows them first.
            let shown = format!("{}{}", reply.stderr, reply.stdout);
            transcript::compare(&exchange.expected, &shown).map_err(|error| at(exchange.line, &error))?;
        }
        Ok(())
    }
}

/// Whether a plain block went as it says.
fn judge(reply: &Reply, error: Option<&str>) -> Result<(), String> {
    let errors = reply.errors();
    match error {
        None if errors.is_empty() => Ok(()),
        None => Err(reply.stderr.trim_end().to_owned()),
        Some(wanted) if reply.sqlstate != wanted => Err(format!(
            "must fail with {wanted}, its last statement ended with {}: {}{}",
            reply.sqlstate, reply.stderr, reply.stdout
        )),
        Some(_) if errors.len() != 1 => Err(format!("only the last statement may fail: {}", reply.stderr)),
        Some(_) => Ok(()),
    }
}

fn run_all(server: &Server, blocks: &[Block]) -> (usize, Vec<String>) {
    let mut reader = Reader { server, sessions: BTreeMap::new(), databases: Vec::new() };
    let blocks: Vec<&Block> = blocks.iter().filter(|block| block.language == "sql").collect();
    let failures = blocks.iter().filter_map(|block| reader.run(block).err()).collect();
    (blocks.len(), failures)
}

#[test]
fn every_block_with_pgq_is_tagged_sql() {
    let wrong = untagged(&readme());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_sql_block_does_what_the_readme_says() {
    let server = Server::builder().preload(true).start();
    let (count, failures) = run_all(&server, &readme());
    println!("{count} blocks of README.md run");
    assert!(count > 0, "README.md has no sql block");
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

#[test]
fn what_is_wrong_in_a_readme_is_found() {
    let fence = "```";
    let text = format!(
        "{fence}sql\nSELECT 1;\n{fence}\n{fence}sql\nSELECT 1/0;\n{fence}\n\
         {fence}sql error=22012\nSELECT 1;\nSELECT 1/0;\n{fence}\n\
         {fence}sql error=22012\nSELECT 1;\n{fence}\n{fence}sql error=42601\nSELECT 1/0;\n{fence}\n\
         {fence}sql error=22012\nSELECT 1/0;\nSELECT 1/0;\n{fence}\n\
         {fence}sql transcript\nshop=# SELECT 2 AS two;\n two\n---\n 2\n(1 row)\n{fence}\n\
         {fence}sql transcript\nshop=# SELECT 2 AS two;\n two\n---\n 3\n(1 row)\n{fence}\n\
         {fence}sql\nSELECT 1\n{fence}\n{fence}sql session=b\nBEGIN;\n{fence}\n{fence}sql\n\
         \\nonsense\n{fence}\n{fence}sql session=b db=shop\nCOMMIT;\n{fence}\n"
    );
    let server = Server::builder().start();
    let (count, failures) = run_all(&server, &blocks(&text).expect("closed"));
    let lines: Vec<&str> = failures.iter().filter_map(|failure| failure.split(':').nth(1)).collect();
    assert_eq!(count, 12);
    assert_eq!(lines, ["4", "11", "14", "17", "29", "35", "41"], "{failures:#?}");
}

#[test]
fn a_block_that_hides_pgq_behind_another_tag_is_found() {
    let fence = "```";
    let text = format!(
        "{fence}\npgq.put\n{fence}\n{fence}sh\nls\n{fence}\n{fence}python\npgq.put\n{fence}\n\
         {fence}sql skip\nSELECT pgq.put('a');\n{fence}\n\
         {fence}toml file=tests/Cargo.toml\n[package]\nname = \"pgq-tests\"\n{fence}\n\
         {fence}toml file=tests/Cargo.toml\n[package]\nname = \"pgq.put\"\n{fence}\n"
    );
    let wrong = untagged(&blocks(&text).expect("closed"));
    let lines: Vec<&str> = wrong.iter().filter_map(|line| line.split(':').nth(1)).collect();
    assert_eq!(lines, ["1", "7", "10", "17"], "{wrong:?}");
}
