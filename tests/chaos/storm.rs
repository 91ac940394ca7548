//! The first scenario: everything breaks at random under load, heals, and nothing may be missing.

use std::fmt::Write;
use std::time::{Duration, Instant};

use furlong_tests::command::{furlong, processes_of};
use furlong_tests::proxy::Proxy;
use furlong_tests::wait::eventually;
use rustix::process::Signal;
use serde_json::Value;

use crate::disk::Disk;
use crate::farm::{Farm, Setup};
use crate::log::{What, now_us};
use crate::plan::{Fault, Hit, Planned, Targets, plan};
use crate::verdict::{Account, Struck, Tally, Violation};

/// A history in which something is not as it must be.
pub struct Failure {
    /// The details.
    pub violation: Violation,
    /// The report about it.
    pub report: String,
}

/// A farm in trouble.
struct Storm {
    farm: Farm,
    begun: Instant,
    begun_us: u64,
    struck: Vec<Struck>,
    /// The faults to heal, and when.
    heals: Vec<(Duration, Planned)>,
    /// The time at which the disk was last full.
    full: Option<Instant>,
    shown: Duration,
}

/// Lives through one history, and counts.
///
/// # Errors
/// If the farm cannot be started. What is not as it must be is the inner error.
pub fn run(setup: Setup, lasts: Duration) -> anyhow::Result<Result<Tally, Box<Failure>>> {
    let targets = Targets {
        engines: setup.engines,
        clients: setup.clients,
        with_python: setup.python.is_some(),
        with_disk: setup.with_disk,
        last_at_most: setup.faults_last_at_most,
        pauses_at_most: setup.pauses_at_most,
    };
    let planned = plan(setup.seed, lasts, targets);
    let farm = Farm::start(setup)?;
    let (begun, begun_us) = (Instant::now(), now_us());
    let (struck, heals, full, shown) = (Vec::new(), Vec::new(), None, Duration::ZERO);
    let mut storm = Storm { farm, begun, begun_us, struck, heals, full, shown };
    let outcome = match storm.rage(planned, lasts)? {
        None => storm.calm(),
        Some(text) => Err(text),
    };
    storm.farm.read_logs()?;
    storm.judge(outcome)
}

impl Storm {
    /// Breaks things while the time lasts. What ended though nobody ended it.
    fn rage(&mut self, planned: Vec<Planned>, lasts: Duration) -> anyhow::Result<Option<String>> {
        let mut planned = planned.into_iter().peekable();
        while self.begun.elapsed() < lasts {
            while let Some(due) = planned.next_if(|next| next.at <= self.begun.elapsed()) {
                self.strike(due)?;
            }
            self.heal(false);
            if let Some(text) = self.look_after() {
                return Ok(Some(text));
            }
            self.show()?;
            std::thread::sleep(TICK);
        }
        Ok(None)
    }

    fn strike(&mut self, planned: Planned) -> anyhow::Result<()> {
        let from_us = now_us();
        let mut count = 1;
        match (planned.hit, planned.fault) {
            (Hit::Broker, Fault::Kill) => self.farm.restart_broker(),
            (Hit::Engine(place), Fault::Kill) => self.farm.replace_engine(place),
            (Hit::Client(place), Fault::Kill) => self.farm.replace_client(place)?,
            (Hit::Interpreter(place), _) => count = self.farm.kill_interpreters(place),
            (Hit::Disk, _) => self.farm.disk().into_iter().for_each(Disk::fill),
            (hit, Fault::Stop) => self.signal(hit, Signal::STOP),
            (hit, fault) => self.break_line(hit, fault),
        }
        let until_us = from_us + planned.lasts.as_micros() as u64;
        self.struck.push(Struck {
            from_us,
            until_us,
            hit: planned.hit,
            fault: planned.fault,
            count,
        });
        if !planned.lasts.is_zero() {
            self.heals.push((self.begun.elapsed() + planned.lasts, planned));
        }
        Ok(())
    }

    fn signal(&self, hit: Hit, which: Signal) {
        match hit {
            Hit::Engine(place) => self.farm.signal_engine(place, which),
            Hit::Client(place) => self.farm.signal_client(place, which),
            _ => self.farm.signal_broker(which),
        }
    }

    fn break_line(&self, hit: Hit, fault: Fault) {
        let (Hit::Engine(place) | Hit::Client(place)) = hit else { return };
        let peers =
            if matches!(hit, Hit::Engine(_)) { &self.farm.engines } else { &self.farm.clients };
        let Some(line) = &peers[place].proxy else { return };
        match fault {
            Fault::Cut => line.cut(),
            Fault::CutAfter(bytes) => line.cut_after(bytes),
            Fault::Hold => line.hold(),
            Fault::Swallow => line.swallow(),
            Fault::HalfOpen(side) => line.half_open(side),
            Fault::Slow(ms) => line.delay(Duration::from_millis(ms.into())),
            Fault::Kill | Fault::Stop | Fault::Full => {}
        }
    }

    /// Heals what is due, or all.
    fn heal(&mut self, all: bool) {
        let now = self.begun.elapsed();
        let (due, later): (Vec<_>, Vec<_>) =
            self.heals.drain(..).partition(|(at, _)| all || *at <= now);
        self.heals = later;
        for (_, planned) in due {
            match (planned.hit, planned.fault) {
                (Hit::Disk, _) => self.farm.disk().into_iter().for_each(Disk::free),
                (hit, Fault::Stop) => self.signal(hit, Signal::CONT),
                (Hit::Engine(place), _) => {
                    self.farm.engines[place].proxy.iter().for_each(Proxy::mend);
                }
                (Hit::Client(place), _) => {
                    self.farm.clients[place].proxy.iter().for_each(Proxy::mend);
                }
                _ => {}
            }
        }
    }

    fn look_after(&mut self) -> Option<String> {
        if self.heals.iter().any(|(_, planned)| planned.fault == Fault::Full) {
            self.full = Some(Instant::now());
        }
        let is_full = self.full.is_some_and(|full| full.elapsed() < AFTER_FULL);
        self.farm.look_after(is_full)
    }

    /// One line on stderr, now and then.
    fn show(&mut self) -> anyhow::Result<()> {
        let now = self.begun.elapsed();
        if now < self.shown + SHOW {
            return Ok(());
        }
        self.shown = now;
        self.farm.read_logs()?;
        let entries = || self.farm.logs.iter().flat_map(|log| &log.entries);
        let submitted = entries().filter(|entry| matches!(entry.what, What::Submits(_))).count();
        let ended = entries().filter(|entry| matches!(entry.what, What::Ended(_))).count();
        let (faults, open) = (self.struck.len(), self.heals.len());
        eprintln!(
            "  {:4.0} s: {faults} faults, {open} last; {submitted} tasks, {ended} ended",
            now.as_secs_f64()
        );
        Ok(())
    }

    /// Everything is healed; now everything must come to its end.
    fn calm(&mut self) -> Result<(), String> {
        self.heal(true);
        // Who was stopped and then replaced, or is stopped by two.
        (0..self.farm.engines.len()).for_each(|place| self.farm.signal_engine(place, Signal::CONT));
        (0..self.farm.clients.len()).for_each(|place| self.farm.signal_client(place, Signal::CONT));
        self.farm.signal_broker(Signal::CONT);
        self.farm
            .engines
            .iter()
            .chain(&self.farm.clients)
            .filter_map(|peer| peer.proxy.as_ref())
            .for_each(Proxy::mend);
        self.everybody_is_back()?;
        self.farm.stop_clients(CALM)?;
        self.farm.read_logs().map_err(|error| error.to_string())?;
        self.queues_are_empty()?;
        self.farm.stop()?;
        let mut left = Vec::new();
        let home = self.farm.home().path();
        let are_gone = eventually(CALM, || {
            left = processes_of(home);
            left.is_empty()
        });
        if are_gone { Ok(()) } else { Err(format!("processes are left: {left:?}")) }
    }

    /// Waits until the broker is up, and all have had the time to end that could not start as there
    /// was no space.
    fn everybody_is_back(&mut self) -> Result<(), String> {
        let mut ended = None;
        let is_back = eventually(CALM, || {
            ended = self.look_after();
            let had_space = self.full.is_none_or(|full| full.elapsed() > AFTER_FULL / 2);
            ended.is_some() || had_space && self.farm.is_up()
        });
        match ended {
            Some(text) => Err(text),
            None if is_back => Ok(()),
            None => Err("the broker does not come back".to_owned()),
        }
    }

    fn queues_are_empty(&self) -> Result<(), String> {
        // What a killed client has not acknowledged waits for it.
        let may_hold = self.farm.logs.iter().any(|log| log.is_gone && !log.cancels);
        let mut last = String::new();
        let are_empty = eventually(CALM, || {
            let outcome = furlong(&["status", "--json", "--wait", "20"], self.farm.home());
            last = format!("{}{}", outcome.stdout, outcome.stderr);
            let Ok(status) = serde_json::from_str::<Value>(&outcome.stdout) else { return false };
            let count = |name: &str| status["tasks"][name].as_u64().unwrap_or(u64::MAX);
            let mut engines = status["engines"].as_array().into_iter().flatten();
            let is_idle =
                engines.all(|engine| engine["stuck"] == 0 && engine["tasks_assigned"] == 0);
            let open = count("waiting") + count("held") + count("assigned");
            is_idle && open == 0 && (may_hold || count("results_held") == 0)
        });
        if are_empty { Ok(()) } else { Err(format!("the queues are not empty: {last}")) }
    }

    fn judge(&self, outcome: Result<(), String>) -> anyhow::Result<Result<Tally, Box<Failure>>> {
        let trace = self.farm.folder().join("trace");
        let account = Account::of(&self.farm.logs, &trace, &self.struck, &self.farm.engine_pids)?;
        let judged = account.check();
        // A task's history says more than that a farm did not become quiet; but what is open is
        // then no surprise.
        let violation = match (outcome, judged) {
            (Ok(()), Ok(())) => return Ok(Ok(account.tally())),
            (Err(text), Ok(())) => {
                Violation { invariant: "everything_ends".to_owned(), task: None, text }
            }
            (Ok(()), Err(violation)) => violation,
            (Err(text), Err(violation)) => {
                Violation { text: format!("{text}; {}", violation.text), ..violation }
            }
        };
        self.farm.keep_home();
        let mut report = String::from("faults:\n");
        for struck in &self.struck {
            let at = |us: u64| us.saturating_sub(self.begun_us) as f64 / 1e6;
            let (from, until) = (at(struck.from_us), at(struck.until_us));
            let _ = writeln!(
                report,
                "{from:9.3} s to {until:9.3} s: {:?}, {}",
                struck.fault, struck.hit
            );
        }
        if let Some(task) = violation.task {
            report = report + "the task:\n" + &account.tell(task, self.begun_us);
        }
        Ok(Err(Box::new(Failure { violation, report })))
    }
}

/// The interval at which the plan is checked.
const TICK: Duration = Duration::from_millis(10);
/// The interval of progress reports.
const SHOW: Duration = Duration::from_secs(5);
/// The time after a full disk in which programs may not have started.
const AFTER_FULL: Duration = Duration::from_secs(5);
/// The time limit for everything to end once everything is healed.
const CALM: Duration = Duration::from_secs(120);
