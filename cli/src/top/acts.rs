//! Acts of keys on tasks and engines: whether this capability may, on what, and the question that
//! is asked first.

use furlong_client::{EngineId, Picture, TaskId};
use furlong_host::printable;

use super::cursor::Row;
use crate::print;

/// The effect of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Cancels tasks.
    Cancel,
    /// The same, and kills interpreters that do not respond.
    Kill,
    /// Interrupts what runs on engines.
    Interrupt,
    /// Gives engines new interpreters.
    Restart,
    /// Lets engines finish what they have been given, and leave.
    Drain,
    /// Samples an interpreter.
    Profile,
}

/// The rights that the capability at hand gives to keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// To end tasks of its owner, and to look into their interpreters.
    pub tasks: bool,
    /// To send signals to engines, and to restart them.
    pub engines: bool,
    /// To stop engines.
    pub stops: bool,
}

/// Something to be done, when the question has been answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Act {
    /// The effect.
    pub verb: Verb,
    /// The tasks to which it is done.
    pub tasks: Vec<TaskId>,
    /// The engines to which it is done.
    pub engines: Vec<EngineId>,
}

/// The length of a profile, in seconds.
pub const PROFILE_S: u64 = 5;

impl Act {
    /// The act of a key on the rows that are meant.
    ///
    /// # Errors
    /// The reason why it cannot be, for people: one line.
    pub fn new(
        verb: Verb,
        rows: &[Row],
        picture: &Picture,
        rights: Rights,
    ) -> Result<Self, String> {
        let (is_allowed, role) = match verb {
            Verb::Cancel | Verb::Kill | Verb::Profile => (rights.tasks, "client"),
            Verb::Interrupt | Verb::Restart => (rights.engines, "client or multiengine"),
            Verb::Drain => (rights.stops, "admin"),
        };
        if !is_allowed {
            return Err(format!(
                "there is no capability here that may do that: `furlong top --cap FILE` with one of the role {role} may"
            ));
        }
        let (mut tasks, mut engines) = (Vec::new(), Vec::new());
        for row in rows {
            match (*row, verb) {
                (Row::Task(task), _) => tasks.push(task),
                (Row::Engine(id), Verb::Cancel | Verb::Kill) => {
                    let running = picture.engines.get(&id).and_then(|engine| engine.running);
                    tasks.extend(running.and_then(|running| running.task));
                }
                (Row::Engine(id), _) => engines.push(id),
            }
        }
        match verb {
            Verb::Cancel | Verb::Kill if tasks.is_empty() => {
                Err("no task of yours runs there: page 8 has all that have not ended".to_owned())
            }
            Verb::Interrupt | Verb::Restart | Verb::Drain if engines.is_empty() => {
                Err("that is for engines, on page 3; c cancels a task".to_owned())
            }
            Verb::Profile if tasks.len() + engines.len() != 1 => {
                Err("one at a time is profiled: M takes the marks back".to_owned())
            }
            _ => Ok(Self { verb, tasks, engines }),
        }
    }

    /// The question that is asked first.
    pub fn question(&self) -> String {
        let on = self.on();
        let what = match self.verb {
            Verb::Cancel => format!("cancel {on}"),
            Verb::Kill => format!("cancel {on}, and kill an interpreter that does not respond"),
            Verb::Interrupt => format!("interrupt what runs of yours on {on}"),
            Verb::Restart => {
                format!("give {on} a new interpreter; what runs there and its variables are lost")
            }
            Verb::Drain => format!("let {on} finish what it has been given, and leave the farm"),
            Verb::Profile => format!("profile {on} for {PROFILE_S} s"),
        };
        format!("{what}? y: yes, any other key: no")
    }

    /// The line that is shown while it is being done.
    pub fn going(&self) -> String {
        let on = self.on();
        match self.verb {
            Verb::Cancel | Verb::Kill => format!("cancelling {on}"),
            Verb::Interrupt => format!("interrupting {on}"),
            Verb::Restart => format!("restarting {on}"),
            Verb::Drain => format!("draining {on}"),
            Verb::Profile => format!("profiling {on} for {PROFILE_S} s"),
        }
    }

    /// That to which it is done.
    pub fn on(&self) -> String {
        match (&self.tasks[..], &self.engines[..]) {
            ([task], []) => format!("task {task}"),
            ([], [engine]) => format!("engine {engine}"),
            (tasks, []) => print::counted(tasks.len() as u64, "task"),
            (_, engines) => print::counted(engines.len() as u64, "engine"),
        }
    }
}

/// Acts that keys have asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acting {
    /// The rights of the capability at hand.
    pub rights: Rights,
    /// The act that waits for the answer to its question.
    pub question: Option<Act>,
    /// The act that is being done, as a line.
    pub going: String,
    /// The result, or the reason that there is none: until the next key.
    pub said: String,
    /// Lines that are shown instead of the page.
    pub report: Vec<String>,
}

impl Acting {
    /// Asks before it is done, or says why it cannot be.
    pub fn ask(&mut self, act: Result<Act, String>) {
        match act {
            Ok(_) if !self.going.is_empty() => {
                self.said = format!("{} goes on: one at a time", self.going);
            }
            Ok(act) => self.question = Some(act),
            Err(why) => self.said = why,
        }
    }

    /// The answer to the question, if there is one: what is to be done if it is yes.
    pub fn answer(&mut self, is_yes: bool) -> Option<Act> {
        let act = self.question.take().filter(|_| is_yes);
        match &act {
            Some(act) => self.going = act.going(),
            None => "nothing is done".clone_into(&mut self.said),
        }
        act
    }

    /// Takes the result of an act.
    pub fn tell(&mut self, done: anyhow::Result<Done>) {
        self.going.clear();
        match done {
            Ok(Done::Said(said)) => self.said = said,
            Ok(Done::Report(lines)) => {
                let lines = lines.iter().map(|line| printable::line(line).into_owned());
                (self.said, self.report) = (String::new(), lines.collect());
            }
            Err(error) => self.said = format!("not done: {error:#}"),
        }
    }

    /// The line that is to be seen now, if there is one.
    pub fn line(&self) -> Option<String> {
        let said = if self.said.is_empty() { &self.going } else { &self.said };
        let text = self.question.as_ref().map_or_else(|| said.clone(), Act::question);
        (!text.is_empty()).then(|| printable::line(&text).into_owned())
    }
}

/// The result of an act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// A line.
    Said(String),
    /// Lines.
    Report(Vec<String>),
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::{SessionId, TaskSeq};

    use super::*;

    const ALL: Rights = Rights { tasks: true, engines: true, stops: true };

    fn task(n: u64) -> TaskId {
        TaskId { session: SessionId([7; 16]), n: TaskSeq(n) }
    }

    fn act(verb: Verb, rows: &[Row], rights: Rights) -> Result<Act, String> {
        Act::new(verb, rows, &Picture::default(), rights)
    }

    #[test]
    fn what_the_capability_may_not_do_is_not_asked() {
        let engine = [Row::Engine(EngineId(3))];
        let owners = Rights { stops: false, ..ALL };
        assert!(act(Verb::Restart, &engine, owners).is_ok());
        let refused = act(Verb::Drain, &engine, owners).unwrap_err();
        assert!(refused.contains("one of the role admin"), "{refused}");
        let looks = Rights::default();
        for verb in [Verb::Cancel, Verb::Kill, Verb::Profile, Verb::Restart, Verb::Interrupt] {
            assert!(act(verb, &engine, looks).unwrap_err().contains("--cap FILE"));
        }
    }

    #[test]
    fn a_question_says_how_many_are_meant_and_only_yes_does_it() {
        let tasks = [Row::Task(task(1)), Row::Task(task(2))];
        let mut acting = Acting::default();
        acting.ask(act(Verb::Cancel, &tasks, ALL));
        assert_eq!(acting.line().unwrap(), "cancel 2 tasks? y: yes, any other key: no");
        assert_eq!(acting.answer(false), None);
        assert_eq!(acting.line().unwrap(), "nothing is done");
        acting.ask(act(Verb::Kill, &tasks[..1], ALL));
        let asked = acting.answer(true).expect("it was yes");
        assert_eq!((asked.verb, asked.tasks), (Verb::Kill, vec![task(1)]));
        assert!(acting.question.is_none() && !acting.going.is_empty());
    }

    #[test]
    fn one_thing_at_a_time_is_done_and_its_end_is_told() {
        let engine = [Row::Engine(EngineId(3))];
        let mut acting = Acting::default();
        acting.ask(act(Verb::Restart, &engine, ALL));
        acting.answer(true);
        acting.said.clear();
        assert_eq!(acting.line().unwrap(), "restarting engine 3");
        acting.ask(act(Verb::Restart, &engine, ALL));
        assert_eq!(acting.line().unwrap(), "restarting engine 3 goes on: one at a time");
        acting.tell(Err(anyhow::anyhow!("the engine \u{1b}[2J is away")));
        let told = acting.line().unwrap();
        assert!(told.starts_with("not done: the engine") && !told.contains('\u{1b}'), "{told}");
        acting.tell(Ok(Done::Report(vec!["a\nb".to_owned()])));
        assert_eq!((acting.line(), acting.report.len()), (None, 1));
        assert!(!acting.report[0].contains('\n'));
    }

    #[test]
    fn what_a_row_is_not_for_is_said() {
        let (task, engine) = (Row::Task(task(1)), Row::Engine(EngineId(3)));
        for verb in [Verb::Restart, Verb::Interrupt, Verb::Drain] {
            assert!(act(verb, &[task], ALL).unwrap_err().contains("page 3"));
        }
        assert!(act(Verb::Cancel, &[engine], ALL).unwrap_err().contains("no task of yours"));
        let many = act(Verb::Profile, &[task, engine], ALL).unwrap_err();
        assert!(many.contains("one at a time"), "{many}");
    }
}
