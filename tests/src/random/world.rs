//! The queue as design.md has it, in memory: what each call answers and what is there afterwards.

use super::op::{held, pick, New, Op};
use std::collections::BTreeMap;

/// Microseconds of the machine's clock.
pub type Micros = i64;
/// From the earliest to the latest that something may be.
pub type Window = (Micros, Micros);

/// What the server is started with: failures until death, and the first wait.
pub const MAX_ATTEMPTS: i32 = 3;
/// In seconds.
pub const BACKOFF: i64 = 100;
const SECOND: Micros = 1_000_000;

/// Where a live job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// May be claimed.
    Ready,
    /// Waits for its time.
    Scheduled,
    /// Somebody has it.
    Leased,
}

/// A live job, and after its end a finished one.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its queue.
    pub queue: String,
    /// Has it the task "t"?
    pub task: bool,
    /// The number that put gave as args.
    pub args: i32,
    /// Larger first.
    pub priority: i32,
    /// Its state, while it lives.
    pub state: State,
    /// Attempts.
    pub attempt: i32,
    /// Those that count.
    pub failures: i32,
    /// What put said.
    pub max_attempts: Option<i32>,
    /// Its key.
    pub key: Option<String>,
    /// The message of its last failure.
    pub error: Option<String>,
    /// When it is due; of a finished one when it ended.
    pub due: Window,
    /// When it was put.
    pub created: Window,
}

/// What a queue says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setting {
    /// Failures until death.
    pub max_attempts: Option<i32>,
    /// Seconds.
    pub backoff: Option<i64>,
    /// Does it keep done jobs?
    pub keep_done: Option<i64>,
    /// Does claim return nothing?
    pub paused: bool,
}

/// Everything there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    /// The live jobs.
    pub jobs: BTreeMap<i64, Job>,
    /// The finished ones, with their outcome.
    pub finished: BTreeMap<i64, (&'static str, Job)>,
    /// Queues with settings of their own.
    pub settings: BTreeMap<String, Setting>,
    /// The last id.
    pub last: i64,
}

/// What a call must return: rows of one column each, as text, or an error's SQLSTATE.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Rows; NULL is the empty text.
    Rows(Vec<String>),
    /// An error.
    Error(&'static str),
}

fn rows<T: ToString>(items: impl IntoIterator<Item = T>) -> Answer {
    Answer::Rows(items.into_iter().map(|item| item.to_string()).collect())
}

fn truth(is: bool) -> Answer {
    rows([if is { "t" } else { "f" }])
}

fn after(now: Window, seconds: i64) -> Window {
    (now.0 + seconds * SECOND, now.1 + seconds * SECOND)
}

fn from(seconds: u32) -> State {
    if seconds == 0 {
        State::Ready
    } else {
        State::Scheduled
    }
}

impl World {
    /// Does it, between `now.0` and `now.1`; what the call must have answered. `claims` grows by what is claimed.
    pub fn act(&mut self, op: &Op, now: Window, claims: &mut Vec<(i64, i32)>) -> Answer {
        match op {
            Op::Put { queue, job, on_conflict } => match self.put(queue, job, on_conflict, now) {
                Ok(id) => rows([id]),
                Err(state) => Answer::Error(state),
            },
            Op::BulkPut { queue, jobs } => {
                let ids: Vec<i64> = jobs.iter().filter_map(|job| self.put(queue, job, "keep", now).ok()).collect();
                rows(ids)
            }
            Op::BulkArgs { queue, n, like } => {
                let like = New { key: None, max_attempts: None, ..like.clone() };
                let ids: Vec<i64> = (0..*n).filter_map(|_| self.put(queue, &like, "keep", now).ok()).collect();
                rows(ids)
            }
            Op::Claim { queues, n, lease, task } => {
                let got = self.claim(queues, *n, *lease, *task, now);
                claims.extend(&got);
                rows(got.iter().map(|(id, attempt)| format!("{id} {attempt}")))
            }
            Op::Complete { token } => truth(self.complete(held(*token, claims), now)),
            Op::BulkComplete { tokens } => {
                let ids: Vec<(i64, i32)> = tokens.iter().map(|token| held(*token, claims)).collect();
                rows(ids.into_iter().filter(|claim| self.complete(*claim, now)).map(|(id, _)| id).collect::<Vec<_>>())
            }
            Op::Fail { token, retry_in, permanent } => {
                let retry_in = retry_in.map(i64::from);
                rows([self.fail(held(*token, claims), retry_in, *permanent, now).unwrap_or_default()])
            }
            Op::Extend { token, lease } => {
                let job = self.holder(held(*token, claims));
                truth(job.map(|job| job.due = after(now, (*lease).into())).is_some())
            }
            Op::Release { token, delay } => {
                let (id, attempt) = held(*token, claims);
                let held = self.holder((id, attempt)).is_some();
                if held {
                    self.put_back(id, from(*delay), after(now, (*delay).into()));
                }
                truth(held)
            }
            Op::Pass { seconds } => {
                self.pass((*seconds).into());
                rows([0; 0])
            }
            other => self.manage(other, now),
        }
    }

    fn manage(&mut self, op: &Op, now: Window) -> Answer {
        match op {
            Op::Cancel { id, force } => rows([self.cancel(pick(*id, self.last), *force, now)]),
            Op::Retry { id, delay } => truth(self.retry(pick(*id, self.last), delay.unwrap_or(0), now)),
            Op::Redrive { queue, n } => {
                let mut dead: Vec<(Window, i64)> = self.ended(queue, "dead").map(|(id, job)| (job.due, id)).collect();
                dead.sort_unstable();
                dead.truncate(n.unwrap_or(usize::MAX));
                dead.iter().for_each(|(_, id)| self.revive(*id, State::Ready, now));
                rows([dead.len()])
            }
            Op::Purge { state: "leased", .. } => Answer::Error("22023"),
            Op::Purge { queue, state, older_than } => rows([self.purge(queue, state, i64::from(*older_than), now)]),
            Op::Pause { queue } => {
                let mut queues: Vec<String> = match queue {
                    Some(queue) => vec![(*queue).to_owned()],
                    None => self.jobs.values().map(|j| j.queue.clone()).chain(self.settings.keys().cloned()).collect(),
                };
                queues.sort_unstable();
                queues.dedup();
                let paused = queues
                    .into_iter()
                    .filter(|q| !std::mem::replace(&mut self.settings.entry(q.clone()).or_default().paused, true));
                rows([paused.count()])
            }
            Op::Resume { queue } => {
                let fits = |name: &String| queue.is_none_or(|q| q == name.as_str());
                let all = self.settings.iter_mut().filter(|(name, setting)| fits(name) && setting.paused);
                rows([all.map(|(_, setting)| setting.paused = false).count()])
            }
            Op::Configure { queue, max_attempts, backoff, keep_done, reset } => {
                let setting = self.settings.entry((*queue).to_owned()).or_default();
                let old = if *reset { Setting { paused: setting.paused, ..Setting::default() } } else { *setting };
                *setting = Setting {
                    max_attempts: max_attempts.or(old.max_attempts),
                    backoff: backoff.map(i64::from).or(old.backoff),
                    keep_done: keep_done.map(i64::from).or(old.keep_done),
                    paused: old.paused,
                };
                rows([*queue])
            }
            _ => rows([0; 0]),
        }
    }

    /// The waiting job of a key.
    fn waiting(&self, queue: &str, key: &str) -> Option<i64> {
        let mut all = self.jobs.iter();
        all.find(|(_, j)| j.queue == queue && j.key.as_deref() == Some(key) && j.state != State::Leased)
            .map(|(id, _)| *id)
    }

    fn put(&mut self, queue: &str, new: &New, on_conflict: &str, now: Window) -> Result<i64, &'static str> {
        let job = Job {
            queue: queue.to_owned(),
            task: new.task,
            args: new.priority,
            priority: new.priority,
            state: from(new.delay),
            attempt: 0,
            failures: 0,
            max_attempts: new.max_attempts,
            key: new.key.map(str::to_owned),
            error: None,
            due: after(now, new.delay.into()),
            created: now,
        };
        if let Some(id) = new.key.and_then(|key| self.waiting(queue, key)) {
            if on_conflict == "replace" {
                let old = &self.jobs[&id];
                let (attempt, failures, error, created) = (old.attempt, old.failures, old.error.clone(), old.created);
                self.jobs.insert(id, Job { attempt, failures, error, created, ..job });
            }
            return if on_conflict == "error" { Err("23505") } else { Ok(id) };
        }
        self.last += 1;
        self.jobs.insert(self.last, job);
        Ok(self.last)
    }

    fn claim(&mut self, queues: &[&str], n: usize, lease: Option<u32>, task: bool, now: Window) -> Vec<(i64, i32)> {
        let mut got = Vec::new();
        for queue in queues {
            if got.len() == n {
                break;
            }
            self.time_acts(Some(queue), now);
            if self.settings.get(*queue).is_some_and(|setting| setting.paused) {
                continue;
            }
            let fits = |j: &Job| j.queue == *queue && j.state == State::Ready && (j.task || !task);
            let mut ready: Vec<(i32, i64)> =
                self.jobs.iter().filter(|(_, j)| fits(j)).map(|(id, j)| (-j.priority, *id)).collect();
            ready.sort_unstable();
            for (_, id) in ready.into_iter().take(n - got.len()) {
                match (lease, self.jobs.get_mut(&id)) {
                    (Some(lease), Some(job)) => {
                        job.state = State::Leased;
                        job.attempt += 1;
                        job.due = after(now, lease.into());
                        got.push((id, job.attempt));
                    }
                    (_, job) => {
                        got.push((id, job.map_or(0, |job| job.attempt) + 1));
                        self.jobs.remove(&id);
                    }
                }
            }
        }
        got
    }

    /// What is due becomes ready, then leases end.
    pub fn time_acts(&mut self, queue: Option<&str>, now: Window) {
        let here = |j: &Job| queue.is_none_or(|q| q == j.queue) && j.due.1 <= now.1;
        self.jobs.values_mut().filter(|j| j.state == State::Scheduled && here(j)).for_each(|j| j.state = State::Ready);
        let is_over = |j: &Job| j.state == State::Leased && here(j);
        let ended: Vec<i64> = self.jobs.iter().filter(|(_, j)| is_over(j)).map(|(id, _)| *id).collect();
        for id in ended {
            self.failed(id, "the lease ended", Some(0), false, now);
        }
    }

    fn holder(&mut self, (id, attempt): (i64, i32)) -> Option<&mut Job> {
        self.jobs.get_mut(&id).filter(|job| job.state == State::Leased && job.attempt == attempt)
    }

    fn complete(&mut self, claim: (i64, i32), now: Window) -> bool {
        let Some(job) = self.holder(claim).cloned() else { return false };
        self.jobs.remove(&claim.0);
        if self.settings.get(&job.queue).and_then(|s| s.keep_done).is_some_and(|keep| keep > 0) {
            self.finished.insert(claim.0, ("done", Job { due: now, ..job }));
        }
        true
    }

    fn fail(&mut self, claim: (i64, i32), retry_in: Option<i64>, permanent: bool, now: Window) -> Option<&'static str> {
        let (id, attempt) = claim;
        let job = self.jobs.get(&id)?;
        // The holder of a lease; or whoever rolled back a claim without one.
        let made = job.attempt + i32::from(job.state != State::Leased);
        (made == attempt).then(|| self.failed(id, &format!("e{attempt}"), retry_in, permanent, now))
    }

    /// The attempt that is being made of this job has failed.
    fn failed(&mut self, id: i64, error: &str, retry_in: Option<i64>, permanent: bool, now: Window) -> &'static str {
        let Some(job) = self.jobs.get_mut(&id) else { return "" };
        job.attempt += i32::from(job.state != State::Leased);
        job.failures += 1;
        job.error = Some(error.to_owned());
        let setting = self.settings.get(&job.queue).copied().unwrap_or_default();
        let most = job.max_attempts.or(setting.max_attempts).unwrap_or(MAX_ATTEMPTS);
        if permanent || job.failures >= most {
            self.finish(id, "dead", now);
            return "dead";
        }
        let backoff = setting.backoff.unwrap_or(BACKOFF) << (job.failures - 1);
        let due = match retry_in {
            Some(wait) => after(now, wait),
            // Give or take a tenth.
            None => (after(now, backoff * 9 / 10).0, after(now, backoff * 11 / 10).1),
        };
        let state = if retry_in == Some(0) { State::Ready } else { State::Scheduled };
        self.put_back(id, state, due);
        if state == State::Ready {
            "ready"
        } else {
            "scheduled"
        }
    }

    /// Waits again; without its key when another waits with it.
    fn put_back(&mut self, id: i64, state: State, due: Window) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        job.key = job.key.filter(|key| self.waiting(&job.queue, key).is_none());
        self.jobs.insert(id, Job { state, due, ..job });
    }

    fn finish(&mut self, id: i64, outcome: &'static str, now: Window) {
        if let Some(job) = self.jobs.remove(&id) {
            self.finished.insert(id, (outcome, Job { due: now, ..job }));
        }
    }

    fn cancel(&mut self, id: i64, force: bool, now: Window) -> &'static str {
        match self.jobs.get(&id) {
            None => "",
            Some(job) if job.state == State::Leased && !force => "leased",
            Some(_) => {
                self.finish(id, "cancelled", now);
                "cancelled"
            }
        }
    }

    fn retry(&mut self, id: i64, delay: u32, now: Window) -> bool {
        let due = after(now, delay.into());
        match self.jobs.get(&id) {
            Some(job) if job.state == State::Leased => return false,
            Some(_) => self.put_back(id, from(delay), due),
            None if self.finished.get(&id).is_none_or(|(outcome, _)| *outcome == "done") => return false,
            None => self.revive(id, from(delay), due),
        }
        true
    }

    /// A finished job lives again: attempts go on, failures begin anew, its key is gone.
    fn revive(&mut self, id: i64, state: State, due: Window) {
        if let Some((_, job)) = self.finished.remove(&id) {
            self.jobs.insert(id, Job { state, due, failures: 0, key: None, ..job });
        }
    }

    fn ended<'a>(&'a self, queue: &'a str, outcome: &'a str) -> impl Iterator<Item = (i64, &'a Job)> {
        self.finished.iter().filter(move |(_, (o, j))| *o == outcome && j.queue == queue).map(|(id, (_, j))| (*id, j))
    }

    fn purge(&mut self, queue: &str, state: &str, age: i64, now: Window) -> usize {
        let before = now.1 - age * SECOND;
        let all = self.jobs.len() + self.finished.len();
        let waits = match state {
            "ready" => Some(State::Ready),
            "scheduled" => Some(State::Scheduled),
            _ => None,
        };
        self.jobs.retain(|_, j| j.queue != queue || Some(j.state) != waits || j.created.0 > before);
        self.finished.retain(|_, (outcome, j)| j.queue != queue || *outcome != state || j.due.0 > before);
        all - self.jobs.len() - self.finished.len()
    }

    /// So many seconds pass.
    pub fn pass(&mut self, seconds: i64) {
        let ended = self.finished.values_mut().map(|(_, job)| job);
        for job in self.jobs.values_mut().chain(ended) {
            job.due = after(job.due, -seconds);
            job.created = after(job.created, -seconds);
        }
    }
}
