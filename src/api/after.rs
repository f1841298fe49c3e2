//! What put and bulk_put say about other jobs: after which a job comes, and to which flow it belongs.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::rights;
use crate::engine::access::Access;
use crate::error::{Error, Result};
use crate::store::after::{self, Link, Parent, Standing};
use crate::store::insert::NewJob;

/// The most jobs that one comes after.
const MOST: usize = 100_000;

/// Who may let a job come after one of a queue: whoever has to do with it.
const KNOWN: [Access; 3] = [Access::Produce, Access::Consume, Access::Monitor];

/// What one job comes after.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    /// Ids, each once.
    parents: Rc<Vec<i64>>,
    /// Does it run even if one of them does not succeed?
    run_anyway: bool,
}

impl Wish {
    /// Checks what the caller gave.
    pub(super) fn new(after: Option<Vec<Option<i64>>>, failure: Option<&str>) -> Result<Self> {
        let run_anyway = match failure.unwrap_or("cancel") {
            "cancel" => false,
            "run" => true,
            other => {
                return Err(Error::argument(
                    format!("unrecognized after_failure \"{other}\""),
                    "after_failure is 'cancel' (the job is cancelled when one that it comes after is) or 'run'.",
                ))
            }
        };
        let given = after.unwrap_or_default();
        if given.len() > MOST {
            return Err(Error::argument(
                format!("\"after\" has {} elements, at most {MOST} are allowed", given.len()),
                "Put jobs in between that come after a part of them each.",
            ));
        }
        let ids: Option<BTreeSet<i64>> = given.into_iter().collect();
        let ids = ids.ok_or_else(|| {
            Error::argument(
                "\"after\" must not have NULL elements",
                "after => array[17, 18]: ids that put has returned.",
            )
        })?;
        Ok(Wish { parents: Rc::new(ids.into_iter().collect()), run_anyway })
    }

    /// The same with what an element of bulk_put says of its own.
    pub(super) fn or(&self, after: Option<Vec<Option<i64>>>, failure: Option<&str>) -> Result<Self> {
        if after.is_none() && failure.is_none() {
            return Ok(self.clone());
        }
        let own = Wish::new(after.or_else(|| Some(self.parents.iter().copied().map(Some).collect())), failure)?;
        Ok(Wish { run_anyway: if failure.is_some() { own.run_anyway } else { self.run_anyway }, ..own })
    }
}

/// Where the parents of one or more new jobs stand.
#[derive(Debug, Default)]
pub(super) struct Parents(HashMap<i64, Standing>);

impl Parents {
    /// Finds those of all wishes, and holds them back to the end of the transaction.
    ///
    /// # Errors
    /// 22023 for one that never was, or that the caller may not see.
    pub(super) fn of<'a>(wishes: impl Iterator<Item = &'a Wish>) -> Result<Self> {
        let ids: BTreeSet<i64> = wishes.flat_map(|wish| wish.parents.iter().copied()).collect();
        if ids.is_empty() {
            return Ok(Parents::default());
        }
        let ids: Vec<i64> = ids.into_iter().collect();
        let found = after::hold(&ids)?;
        let mut visible: HashMap<&str, bool> = HashMap::new();
        for Parent { id, queue, standing } in &found {
            let is_visible = match queue.as_deref() {
                None => true,
                Some(queue) => match visible.get(queue) {
                    Some(known) => *known,
                    None => *visible.entry(queue).or_insert(rights::reach(&KNOWN, queue)?),
                },
            };
            if *standing == Standing::Unknown || !is_visible {
                return Err(after::unknown(*id));
            }
        }
        Ok(Parents(found.into_iter().map(|parent| (parent.id, parent.standing)).collect()))
    }

    /// How many of them a job waits for.
    pub(super) fn count(&self, wish: &Wish) -> i32 {
        let live = wish.parents.iter().filter(|id| self.0.get(id).is_some_and(after::counts)).count();
        i32::try_from(live).unwrap_or(i32::MAX)
    }

    /// Notes for which jobs the new ones wait.
    pub(super) fn link<'a>(&self, jobs: impl Iterator<Item = (i64, &'a Wish)>) -> Result<()> {
        let mut links: [Vec<Link>; 2] = Default::default();
        for (child, wish) in jobs {
            let own = wish.parents.iter().filter_map(|id| Some((child, *id, self.0.get(id)?.clone())));
            links[usize::from(wish.run_anyway)].extend(own);
        }
        after::link(&links[0], false)?;
        after::link(&links[1], true)
    }
}

/// A job that was put, with what it wishes to come after.
pub(super) type Wished = (NewJob, Wish);
