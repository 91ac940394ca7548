//! The jobs that the clients of a chaotic farm submit, and the outcomes that they must have.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use furlong_client::{
    Arguments, CallSpec, CommandExtras, CommandSpec, Depends, OsText, SourceFunction, TaskId,
    TaskResult,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// The runtime of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Runtime {
    /// A function of our own engine.
    Native,
    /// A function of `work.py`.
    Python,
    /// A shell script.
    Command,
}

/// The way in which a task's code ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    /// With what it was sent.
    Return,
    /// With an error.
    Raise,
    /// With an error now and then.
    Flaky,
    /// With its interpreter.
    Die,
}

/// An engine that a task is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Its integer.
    pub engine: u32,
    /// Its process.
    pub pid: u32,
    /// True if it has our own functions.
    pub is_own: bool,
}

/// The end that another task must have come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum On {
    /// To its success.
    Success,
    /// To anything else.
    Failure,
    /// To its end.
    End,
}

/// The tasks that one waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct After {
    /// Their numbers.
    pub tasks: Vec<u64>,
    /// True if one of them is enough.
    pub is_any: bool,
    /// The ends that they must have come to.
    pub on: On,
    /// True if the task runs where they ran.
    pub follow: bool,
}

/// A task whose result another one has as an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its number.
    pub n: u64,
    /// The bytes that it gives back.
    pub bytes: u32,
}

/// A task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Its number at its client.
    pub n: u64,
    /// Its runtime.
    pub runtime: Runtime,
    /// The engine that it names.
    pub target: Option<Target>,
    /// True if it may run once only.
    pub at_most_once: bool,
    /// True if what is accepted of it outlives its client and the broker, and its result is kept.
    pub durable: bool,
    /// The way its code ends.
    pub how: How,
    /// Its duration.
    pub ms: u32,
    /// The bytes that it is sent, and gives back.
    pub bytes: u32,
    /// The number of times that it is run again after its own errors.
    pub error_retries: u32,
    /// Its priority.
    pub priority: i32,
    /// The tasks it waits for.
    pub after: Option<After>,
    /// The time from the submit until its client cancels it.
    pub cancel_after_ms: Option<u32>,
    /// True if that cancel kills an interpreter.
    pub force: bool,
    /// Its limits.
    pub run_timeout_ms: Option<u32>,
    /// The maximum time to wait for an engine.
    pub queue_timeout_ms: Option<u32>,
    /// True if a command writes to a file in the farm's home.
    pub to_file: bool,
    /// True if its result stays at the broker, for others to read.
    pub stays: bool,
    /// The tasks whose results it has as inputs, which it gives back behind what it is sent.
    pub reads: Vec<Source>,
}

/// Makes jobs from a seed.
#[derive(Debug)]
pub struct Jobs {
    random: StdRng,
    next_n: u64,
    with_python: bool,
    with_durable: bool,
}

/// The place in which tasks leave their traces, and the client that sends them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The client's number.
    pub client: u32,
    /// The file to which each beginning of a task adds a line: client, task, engine.
    pub trace: String,
    /// The folder of files that commands write.
    pub files: String,
}

impl Jobs {
    /// The jobs of one client, some of them durable if that may be.
    pub fn new(seed: u64, client: u32, with_python: bool, with_durable: bool) -> Self {
        let random =
            StdRng::seed_from_u64(seed ^ u64::from(client).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { random, next_n: 1, with_python, with_durable }
    }

    /// The next one. `targets` are the engines that are known, `recent` tasks that it may wait for,
    /// `staying` tasks whose results it may read.
    pub fn next(&mut self, targets: &[Target], recent: &[u64], staying: &[Source]) -> Job {
        let target = if self.chance(25) { targets.choose(&mut self.random).copied() } else { None };
        let runtime = match self.random.random_range(0..100) {
            0..45 if target.is_none_or(|target| target.is_own) => Runtime::Native,
            0..80 if self.with_python => Runtime::Python,
            _ => Runtime::Command,
        };
        let at_most_once = target.is_none() && self.chance(25);
        let once = at_most_once || target.is_some();
        let how = self.how(runtime, once);
        let after = if target.is_none() && !recent.is_empty() && self.chance(10) {
            self.after(recent)
        } else {
            None
        };
        // A durable task may not wait for one that is not.
        let reads: Vec<Source> = if self.chance(20) {
            let count = self.random.random_range(1..=3);
            staying.sample(&mut self.random, count).copied().collect()
        } else {
            Vec::new()
        };
        let is_plain = after.is_none() && reads.is_empty();
        let durable = self.with_durable && is_plain && self.chance(40);
        let to_file = runtime == Runtime::Command && self.chance(10);
        // One that is made again for a broker that was killed may run again, and ends the same.
        let may_stay = is_plain && !durable && !once && !to_file && how == How::Return;
        let stays = may_stay && self.chance(25);
        let n = self.next_n;
        self.next_n += 1;
        Job {
            n,
            runtime,
            target,
            at_most_once,
            durable,
            how,
            ms: self.ms(),
            bytes: if stays { self.bytes().min(STAYING_BYTES_MAX) } else { self.bytes() },
            error_retries: if how == How::Flaky { 30 } else { 0 },
            // An engine takes what is for it alone in the order of the submits, if nothing goes
            // first.
            priority: if target.is_none() && self.chance(10) {
                self.random.random_range(-1..=1)
            } else {
                0
            },
            after,
            cancel_after_ms: self.chance(5).then(|| self.random.random_range(0..400)),
            force: self.chance(50),
            run_timeout_ms: self.chance(4).then(|| self.random.random_range(5..3_000)),
            queue_timeout_ms: self.chance(2).then(|| self.random.random_range(100..20_000)),
            to_file,
            stays,
            reads,
        }
    }

    /// Returns the pause before the next submit. Now and then many come in a burst.
    pub fn pause(&mut self, n: u64) -> Duration {
        let is_burst = n % 400 < 150;
        if is_burst {
            Duration::ZERO
        } else {
            Duration::from_micros(self.random.random_range(0..8_000))
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn how(&mut self, runtime: Runtime, once: bool) -> How {
        match self.random.random_range(0..200) {
            0..6 => How::Raise,
            6..16 if !once => How::Flaky,
            16..17 if runtime == Runtime::Python => How::Die,
            _ => How::Return,
        }
    }

    fn ms(&mut self) -> u32 {
        match self.random.random_range(0..1_000) {
            0..700 => 0,
            700..950 => self.random.random_range(1..20),
            950..995 => self.random.random_range(20..300),
            _ => self.random.random_range(300..3_000),
        }
    }

    fn bytes(&mut self) -> u32 {
        match self.random.random_range(0..1_000) {
            0..700 => self.random.random_range(0..100),
            700..960 => self.random.random_range(100..8_000),
            960..995 => self.random.random_range(8_000..300_000),
            _ => self.random.random_range(300_000..3_000_000),
        }
    }

    fn after(&mut self, recent: &[u64]) -> Option<After> {
        let count = self.random.random_range(1..=3);
        let mut tasks: Vec<u64> = recent.sample(&mut self.random, count).copied().collect();
        tasks.sort_unstable();
        let follow = tasks.len() == 1 && self.chance(20);
        let on = *[On::Success, On::Success, On::End, On::Failure].choose(&mut self.random)?;
        Some(After { tasks, is_any: self.chance(30), on, follow })
    }
}

impl Job {
    /// The call that it is. `id_of` gives the ids of tasks by their numbers.
    pub fn call(&self, place: &Place, id_of: impl Fn(u64) -> TaskId) -> CallSpec {
        let call = match self.runtime {
            Runtime::Native => {
                CallSpec::native(FUNCTION).arguments(self.arguments(place)).require(OWN)
            }
            Runtime::Python => CallSpec::source(python()).arguments(self.arguments(place)),
            Runtime::Command => CallSpec::command_with(self.command(place))
                .arguments(Arguments::Raw(vec![payload(place.client, self.n, self.bytes)])),
        };
        // A direct task names its engine, and then labels say nothing.
        let mut call = call
            .priority(self.priority)
            .error_retries(self.error_retries)
            .at_most_once(self.at_most_once);
        call = call.durable(self.durable).keep(self.durable).stay(self.stays);
        call = match self.runtime {
            // A path for each, behind its other arguments.
            Runtime::Command => {
                self.reads.iter().fold(call, |call, read| call.input_argument(id_of(read.n)))
            }
            Runtime::Native | Runtime::Python => {
                call.inputs(self.reads.iter().map(|read| id_of(read.n)))
            }
        };
        if !self.at_most_once && self.target.is_none() {
            call = call.retries(RETRIES);
        }
        if let Some(ms) = self.run_timeout_ms {
            call = call.run_timeout(Duration::from_millis(ms.into()));
        }
        if let Some(ms) = self.queue_timeout_ms {
            call = call.queue_timeout(Duration::from_millis(ms.into()));
        }
        let Some(after) = &self.after else { return call };
        let tasks = after.tasks.iter().map(|n| id_of(*n));
        let depends = if after.is_any { Depends::any(tasks) } else { Depends::all(tasks) };
        let depends = match after.on {
            On::Success => depends,
            On::Failure => depends.on_failure(),
            On::End => depends.on_end(),
        };
        if after.follow { call.follow(depends) } else { call.after(depends) }
    }

    /// Describes what is wrong with its result, if anything.
    pub fn wrong(&self, place: &Place, result: &TaskResult) -> Option<String> {
        if result.report.stays.is_some() && result.data.is_empty() {
            return None;
        }
        let inputs = self.reads.iter().map(|read| payload(place.client, read.n, read.bytes));
        let own = payload(place.client, self.n, self.bytes);
        let expected = std::iter::once(own).chain(inputs).collect::<Vec<_>>().concat();
        if self.runtime != Runtime::Command {
            let got = result.data.concat();
            return (got != expected)
                .then(|| format!("{} bytes came back of {}", got.len(), expected.len()));
        }
        let output = &result.report.stdout;
        if self.to_file {
            return (!output.is_empty())
                .then(|| "it wrote to its output, not to the file".to_owned());
        }
        let (total, start, end) = (output.total_bytes() as usize, output.start(), output.end());
        let is_right = total <= expected.len()
            && expected.starts_with(start)
            && expected[..total].ends_with(&end)
            && (output.left_out_bytes() > 0 || start.len() + end.len() == total);
        (!is_right)
            .then(|| format!("{total} bytes of output, of {}, and not those", expected.len()))
    }

    /// Returns the arguments: code is told in its first buffer what it does. Commands are told by
    /// their arguments.
    fn arguments(&self, place: &Place) -> Arguments {
        let orders = Orders {
            trace: place.trace.clone(),
            client: place.client,
            n: self.n,
            ms: self.ms,
            how: self.how,
        };
        let orders = serde_json::to_vec(&orders).unwrap();
        Arguments::Raw(vec![orders.into(), payload(place.client, self.n, self.bytes)])
    }

    fn command(&self, place: &Place) -> CommandSpec {
        let seconds = format!("{}.{:03}", self.ms / 1_000, self.ms % 1_000);
        let words =
            [place.client.to_string(), self.n.to_string(), seconds, format!("{:?}", self.how)];
        let argv = ["sh", "-c", SCRIPT, "sh", &place.trace]
            .map(str::to_owned)
            .into_iter()
            .chain(words)
            .map(OsText::from)
            .collect();
        let stdout =
            self.to_file.then(|| format!("{}/{}-{}", place.files, place.client, self.n % 8).into());
        let extras = CommandExtras { whole_output: self.stays, ..CommandExtras::default() };
        CommandSpec { argv, stdout, extras, ..CommandSpec::default() }
    }
}

/// The orders to a function of ours.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The file for its trace.
    pub trace: String,
    /// Its client.
    pub client: u32,
    /// Its task.
    pub n: u64,
    /// Its duration.
    pub ms: u32,
    /// The way it ends.
    pub how: How,
}

/// The bytes that a task is sent.
fn payload(client: u32, n: u64, bytes: u32) -> Bytes {
    (0..bytes)
        .map(|at| (u64::from(at / 7 + client) + n).wrapping_mul(31).to_le_bytes()[0])
        .collect()
}

fn python() -> Arc<SourceFunction> {
    Arc::new(SourceFunction::new("work.py", include_str!("work.py"), FUNCTION))
}

/// The function, of our own engine and of `work.py`.
pub const FUNCTION: &str = "work";

/// The label of engines that have it.
pub const OWN: &str = "own";

/// More losses than there are faults.
const RETRIES: u32 = 100_000;

/// A line in the trace, in one write; some time; what comes in goes out.
const SCRIPT: &str = "printf '%s %s %s\\n' \"$2\" \"$3\" \"$FURLONG_ENGINE\" >> \"$1\" || exit 9
[ \"$4\" = 0.000 ] || sleep \"$4\"
[ \"$5\" = Raise ] && exit 3
[ \"$5\" = Flaky ] && [ $(($$ % 2)) = 0 ] && exit 4
shift 5
exec cat - \"$@\"";

/// Bytes of a result that stays, at most: all of them have half of the payload memory.
const STAYING_BYTES_MAX: u32 = 300_000;

#[cfg(test)]
mod tests {
    use super::{Jobs, Source, Target};

    #[test]
    fn a_seed_always_makes_the_same_jobs() {
        let target = Target { engine: 3, pid: 1, is_own: true };
        let staying = [Source { n: 7, bytes: 1 }, Source { n: 8, bytes: 2 }];
        let jobs = |seed| {
            let mut jobs = Jobs::new(seed, 1, true, true);
            (0..500).map(|_| jobs.next(&[target], &[7, 8, 9], &staying)).collect::<Vec<_>>()
        };
        assert_eq!(jobs(5), jobs(5));
        assert_ne!(jobs(5), jobs(6));
        assert!(
            jobs(5).iter().any(|job| job.after.is_some())
                && jobs(5).iter().any(|job| job.target.is_some())
        );
        assert!(jobs(5).iter().any(|job| job.durable) && jobs(5).iter().any(|job| job.stays));
        assert!(jobs(5).iter().any(|job| job.reads.len() > 1));
    }
}
