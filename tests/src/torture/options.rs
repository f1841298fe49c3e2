//! What the program was asked for.

use std::time::Duration;

/// The command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Pieces of the names of the parts to run; all of them when empty.
    pub names: Vec<String>,
    /// Full numbers, one part after the other, each with a line in the report.
    pub is_long: bool,
    /// Instead of the part's own number.
    pub count: Option<u64>,
    /// At most so long for each part.
    pub limit: Option<Duration>,
    /// Instead of a random one.
    pub seed: Option<u64>,
    /// Prints the parts and does nothing.
    pub is_list: bool,
    /// Prints the sums of the report and does nothing.
    pub is_report: bool,
    /// How many parts at the same time.
    pub threads: usize,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with which argument.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { threads: 1, ..Options::default() };
        let mut arguments = arguments.flat_map(|argument| match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => vec![name.to_owned(), value.to_owned()],
            _ => vec![argument],
        });
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<u64, String> {
                let value = arguments.next().ok_or(format!("{argument} needs a number"))?;
                value.parse().map_err(|_| format!("{argument} {value}: not a number"))
            };
            match argument.as_str() {
                "--long" => options.is_long = true,
                "--count" => options.count = Some(number()?),
                "--minutes" => options.limit = Some(Duration::from_secs(60 * number()?)),
                "--seed" => options.seed = Some(number()?),
                "--test-threads" => options.threads = usize::try_from(number()?).unwrap_or(1).max(1),
                "--list" => options.is_list = true,
                "--report" => options.is_report = true,
                name if name.starts_with('-') => return Err(format!("{name} is no option")),
                _ => options.names.push(argument),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_and_numbers_are_told_apart() {
        let options = parse("--long T01 --count 30 T02 --minutes=2 --seed 7").expect("an ordinary line");
        assert_eq!(options.names, ["T01", "T02"]);
        assert_eq!((options.count, options.seed, options.is_long), (Some(30), Some(7), true));
        assert_eq!(options.limit, Some(Duration::from_secs(120)));
        assert_eq!(parse("--test-threads=2").expect("as cargo has it").threads, 2);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(parse("--count"), Err("--count needs a number".to_owned()));
        assert_eq!(parse("--count x"), Err("--count x: not a number".to_owned()));
        assert_eq!(parse("--nocapture"), Err("--nocapture is no option".to_owned()));
    }
}
