//! The recipes for workers outside: each directory of tests/clients is a program in another language,
//! known by the contract in tests/clients/README.md and by nothing else. A case starts it, feeds it,
//! kills it, and looks at what is in the database.

pub mod link;
pub mod pooler;
pub mod stage;
pub mod worker;

// The cases.
mod broken_sessions;
mod drain;
mod leases;
mod pickup;
mod single_jobs;

pub use stage::Stage;
pub use worker::{Way, Worker};

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long anything may take that has no figure of its own. Below the poll floor of 30 s, so that
/// what only polling would find is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A recipe: its name, which is its directory's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// As in `tests/clients/NAME`.
    pub name: String,
}

impl Recipe {
    /// All there are, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all() -> io::Result<Vec<Recipe>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(crate::repository().join("tests/clients"))? {
            let entry = entry?;
            if entry.path().join("run").is_file() {
                found.push(Recipe { name: entry.file_name().to_string_lossy().into_owned() });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Where its files are.
    pub fn directory(&self) -> PathBuf {
        crate::repository().join("tests/clients").join(&self.name)
    }

    /// Where its client was installed.
    pub fn client_directory(&self) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        target.unwrap_or_else(|| crate::repository().join("target")).join("clients").join(&self.name)
    }
}

/// One thing that is proven of each recipe.
pub struct Case {
    /// The behaviour, in a sentence. `tests/run --list` reads it from the source.
    pub name: &'static str,
    /// Panics when it is not so.
    pub run: fn(&mut Stage),
}

/// What is proven of a recipe, in this order.
pub const CASES: &[Case] = &[
    Case { name: "drains_exactly_once_while_it_is_killed_twice", run: drain::killed_twice },
    Case { name: "picks_up_a_job_within_50_ms_of_its_commit", run: pickup::single_jobs },
    Case { name: "hears_what_is_notified_during_a_claim", run: pickup::during_a_claim },
    Case { name: "finishes_the_running_job_on_sigterm", run: single_jobs::sigterm },
    Case { name: "a_failing_job_is_rolled_back_and_backs_off", run: single_jobs::failing },
    Case { name: "a_heartbeat_keeps_a_lease_shorter_than_the_job", run: leases::heartbeat },
    Case { name: "a_killed_workers_job_comes_back_after_its_lease", run: leases::killed },
    Case { name: "goes_on_after_its_sessions_and_the_server_are_gone", run: broken_sessions::reconnect },
    Case { name: "drains_exactly_once_while_its_sessions_are_terminated", run: broken_sessions::terminated },
    Case { name: "polls_through_a_pooler_in_transaction_mode", run: pooler::polls },
    Case { name: CHECK, run: single_jobs::own_check },
];

const CHECK: &str = "does_what_its_own_check_asks";

/// The cases of a recipe: all, but for the one that only those have that bring a `check`.
pub fn cases_of(recipe: &Recipe) -> Vec<&'static Case> {
    let has_check = recipe.directory().join("check").is_file();
    CASES.iter().filter(|case| has_check || case.name != CHECK).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_recipe_is_complete_and_linked_from_the_readme() {
        let readme = fs::read_to_string(crate::repository().join("README.md")).expect("README.md");
        let recipes = Recipe::all().expect("tests/clients");
        assert!(!recipes.is_empty(), "no recipe at all");
        for Recipe { name } in &recipes {
            let directory = crate::repository().join("tests/clients").join(name);
            assert!(directory.join("install.sh").is_file(), "{name} has no install.sh");
            assert!(readme.contains(&format!("(tests/clients/{name})")), "README.md has no link to {name}");
        }
    }
}
