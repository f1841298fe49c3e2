//! Proves of each recipe in tests/clients what tests/clients/README.md says is proven: each case of
//! each recipe, several recipes at a time, closing with the lines that cargo's own tests close with.

use pgq_tests::clients::{cases_of, Case, Recipe, Stage};
use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| act(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("clients: {message}");
            ExitCode::from(2)
        }
    }
}

/// The command line: pieces of names, and how many recipes at a time.
#[derive(Debug, Default)]
struct Options {
    names: Vec<String>,
    threads: usize,
    is_list: bool,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { threads: 1, ..Options::default() };
        for argument in arguments {
            match argument.split_once('=').unwrap_or((&argument, "")) {
                ("--test-threads", number) => {
                    options.threads = number.parse().map_err(|_| format!("{argument}: not a number"))?;
                }
                ("--list", "") => options.is_list = true,
                (name, _) if name.starts_with('-') => return Err(format!("{name} is no option")),
                _ => options.names.push(argument),
            }
        }
        Ok(options)
    }
}

/// A recipe and what is asked of it.
type Work = (Recipe, Vec<&'static Case>);

/// Those of these names: a recipe's, else a piece of "RECIPE CASE".
fn choose(names: &[String]) -> Result<Vec<Work>, String> {
    let recipes = Recipe::all().map_err(|error| format!("tests/clients: {error}"))?;
    let is_recipe = |name: &String| recipes.iter().any(|recipe| recipe.name == *name);
    let full = |recipe: &Recipe, case: &Case| format!("{} {}", recipe.name, case.name);
    let fits = |recipe: &Recipe, case: &Case, name: &String| match is_recipe(name) {
        true => recipe.name == *name,
        false => full(recipe, case).contains(name.as_str()),
    };
    let mut chosen = Vec::new();
    let mut unused: Vec<&String> = names.iter().collect();
    for recipe in &recipes {
        let mut cases = cases_of(recipe);
        unused.retain(|name| !cases.iter().any(|case| fits(recipe, case, name)));
        cases.retain(|case| names.is_empty() || names.iter().any(|name| fits(recipe, case, name)));
        if !cases.is_empty() {
            chosen.push((recipe.clone(), cases));
        }
    }
    match unused.first() {
        Some(name) => Err(format!("nothing is named \"{name}\"; --list shows what there is")),
        None => Ok(chosen),
    }
}

/// Does what was asked for; false when something was not so.
fn act(options: &Options) -> Result<bool, String> {
    let chosen = choose(&options.names)?;
    if options.is_list {
        for (recipe, cases) in &chosen {
            cases.iter().for_each(|case| println!("{} {}", recipe.name, case.name));
        }
        return Ok(true);
    }
    let count: usize = chosen.iter().map(|(_, cases)| cases.len()).sum();
    let failures = run_all(options.threads, &chosen);
    if !failures.is_empty() {
        println!("\nfailures:\n\n{}", failures.join("\n"));
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {} failed; 0 ignored", count - failures.len(), failures.len());
    Ok(failures.is_empty())
}

/// Runs all, each recipe's cases one after the other, and returns what failed and why.
fn run_all(threads: usize, chosen: &[Work]) -> Vec<String> {
    let waiting = Mutex::new(chosen.iter());
    let failures = Mutex::new(Vec::new());
    let work = || loop {
        let Some((recipe, cases)) = waiting.lock().expect("not poisoned").next() else { return };
        let failed = run_recipe(recipe, cases);
        failures.lock().expect("not poisoned").extend(failed);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(chosen.len()) {
            scope.spawn(work);
        }
    });
    failures.into_inner().expect("not poisoned")
}

/// The cases of one recipe share a server, as long as they succeed.
fn run_recipe(recipe: &Recipe, cases: &[&'static Case]) -> Vec<String> {
    let mut stage: Option<Stage> = None;
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let began = std::time::Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let stage = stage.get_or_insert_with(|| Stage::open(recipe));
            stage.queue = format!("{}_{number}", recipe.name);
            (case.run)(stage);
        }));
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {} {} ... {verdict} ({:.1} s)", recipe.name, case.name, began.elapsed().as_secs_f64());
        if let Err(panic) = result {
            let log = stage.take().map(|stage| stage.log_tails()).unwrap_or_default();
            failures.push(format!("---- {} {} ----\n{}\n{log}\n", recipe.name, case.name, message(&*panic)));
        }
    }
    failures
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
