//! What the benchmark was asked for, and how much of everything that means.

/// The command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The workloads to run: `W3`; all of them when empty.
    pub names: Vec<String>,
    /// W1 to W4 with small numbers.
    pub is_quick: bool,
    /// Prints the workloads and does nothing.
    pub is_list: bool,
    /// Jobs of one drain, instead of 300,000; every other number of jobs goes with it.
    pub jobs: Option<u64>,
    /// Seconds of one sample.
    pub seconds: Option<u64>,
    /// Alternating rounds where a bound is far from 1.
    pub rounds: Option<u64>,
    /// Pairs of samples where it is near.
    pub pairs: Option<u64>,
    /// Of the orders in which samples are taken.
    pub seed: Option<u64>,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with which argument.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<Option<u64>, String> {
                let value = arguments.next().ok_or(format!("{argument} needs a number"))?;
                let number = value.parse().ok().filter(|number| *number > 0);
                number.map(Some).ok_or(format!("{argument} {value}: not a number above 0"))
            };
            match argument.as_str() {
                "--quick" => options.is_quick = true,
                "--list" => options.is_list = true,
                "--jobs" => options.jobs = number()?,
                "--seconds" => options.seconds = number()?,
                "--rounds" => options.rounds = number()?,
                "--pairs" => options.pairs = number()?,
                "--seed" => options.seed = number()?,
                name if name.starts_with('-') => return Err(format!("{name} is no option")),
                _ => options.names.push(argument),
            }
        }
        Ok(options)
    }
}

/// How much is done: what a full run has, a quick one, or one that was given numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Alternating rounds of which the medians are taken.
    pub rounds: usize,
    /// Pairs of samples for a bound near 1.
    pub pairs: usize,
    /// Of one sample that lasts a given time.
    pub seconds: u64,
    /// Of one drain.
    pub jobs: u64,
    /// Rows of the bulk puts, the second in a few rounds only.
    pub bulks: Vec<u64>,
    /// Single puts in all whose pick-up is timed.
    pub puts: u64,
    /// How many jobs wait while some are drained.
    pub depths: [u64; 3],
    /// How many are scheduled for later beside the smallest of these.
    pub later: u64,
    /// How many are drained at such a depth, at least.
    pub window: u64,
    /// Length of a "minute" beside an old snapshot, in seconds, of which there are five.
    pub minute: u64,
    /// How many are drained to see what the queue can do in such a minute.
    pub burst: u64,
    /// Jobs that wait while stats() is asked.
    pub counted: u64,
    /// pgbench's scale factor.
    pub scale: u64,
}

impl Sizes {
    /// The sizes of these options.
    pub fn of(options: &Options) -> Sizes {
        let jobs = options.jobs.unwrap_or(if options.is_quick { 100_000 } else { 300_000 });
        // A run that was given a number of jobs is a trial: everything shrinks alike.
        let scaled = |count: u64| match options.jobs {
            Some(jobs) => (count * jobs / 300_000).clamp(100, count),
            None => count,
        };
        let seconds = options.seconds.unwrap_or(if options.is_quick { 1 } else { 2 });
        let rounds = options.rounds.unwrap_or(if options.is_quick { 3 } else { 5 });
        let pairs = options.pairs.or(options.rounds).unwrap_or(if options.is_quick { 8 } else { 30 });
        let bulks = if options.is_quick { vec![100_000] } else { vec![100_000, 1_000_000] };
        Sizes {
            rounds: usize::try_from(rounds).unwrap_or(5),
            pairs: usize::try_from(pairs).unwrap_or(30),
            seconds,
            jobs,
            bulks: bulks.into_iter().map(scaled).collect(),
            puts: if options.is_quick { 150 } else { scaled(300) },
            depths: [10_000, 1_000_000, 5_000_000].map(scaled),
            later: scaled(1_000_000),
            window: scaled(10_000),
            minute: seconds * 30,
            burst: scaled(20_000),
            counted: scaled(1_000_000),
            scale: if options.jobs.is_some() { 1 } else { 10 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_and_numbers_are_read_and_what_is_wrong_is_said() {
        let options = parse("W3 --jobs 3000 W5 --rounds 2").expect("an ordinary line");
        assert_eq!(
            (options.names, options.jobs, options.rounds),
            (vec!["W3".into(), "W5".into()], Some(3000), Some(2))
        );
        assert_eq!(parse("--jobs"), Err("--jobs needs a number".into()));
        assert_eq!(parse("--seconds 0"), Err("--seconds 0: not a number above 0".into()));
        assert_eq!(parse("--fast"), Err("--fast is no option".into()));
    }

    #[test]
    fn a_full_run_has_the_numbers_that_are_asked_for_and_a_trial_has_less_of_all() {
        let full = Sizes::of(&Options::default());
        assert_eq!((full.jobs, full.rounds, full.pairs, full.seconds, full.minute), (300_000, 5, 30, 2, 60));
        assert_eq!((full.depths, full.bulks), ([10_000, 1_000_000, 5_000_000], vec![100_000, 1_000_000]));
        let quick = Sizes::of(&parse("--quick").expect("an option"));
        assert_eq!((quick.jobs, quick.rounds), (100_000, 3));
        let trial = Sizes::of(&parse("--jobs 3000 --pairs 2 --seconds 1").expect("options"));
        assert_eq!((trial.depths, trial.window, trial.pairs), ([100, 10_000, 50_000], 100, 2));
    }
}
