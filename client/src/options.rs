//! The options of a task beyond the defaults, and the other tasks that it waits for.

use std::time::Duration;

use furlong_wire::ids::TaskId;
use furlong_wire::limits::{DEPENDENCIES_MAX, NAME_BYTES_MAX};
use furlong_wire::message::{Dependency, TaskOptions, TaskRecord};

use crate::outcome::{TaskFailure, TaskReport, TaskResult};

/// Labels that a task may require.
const REQUIRED_LABELS_MAX: usize = 64;
/// A limit beyond this counts as this: a hundred years.
const MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Tasks that must end before another one runs: made of a task's id, future, report or record, or
/// of several.
///
/// ```
/// use furlong_client::{CallSpec, Depends, TaskId};
/// # let (fetched, checked, failed) = {
/// #     let session = furlong_client::SessionId([0; 16]);
/// #     let id = |n| TaskId { session, n: furlong_client::TaskSeq(n) };
/// #     (id(1), id(2), id(3))
/// # };
/// // After the success of one task, of all of several, or after the failure of any of several.
/// let call = CallSpec::native("report").after(fetched);
/// let call = CallSpec::native("report").after(Depends::all([fetched, checked]));
/// let call = CallSpec::native("clean_up").after(Depends::any([fetched, failed]).on_failure());
/// ```
///
/// Several dependencies that are set one after another must all be met.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "it is a condition, to be given to `after` or `follow`"]
pub struct Depends {
    tasks: Vec<TaskId>,
    is_any: bool,
    success: bool,
    failure: bool,
}

impl Depends {
    /// On the success of one task.
    pub fn on(task: impl HasTaskId) -> Self {
        Self::all([task])
    }

    /// On the success of all of these.
    pub fn all<T: HasTaskId>(tasks: impl IntoIterator<Item = T>) -> Self {
        let tasks = tasks.into_iter().map(|task| task.task_id()).collect();
        Self { tasks, is_any: false, success: true, failure: false }
    }

    /// On the success of one of these, whichever is the first.
    pub fn any<T: HasTaskId>(tasks: impl IntoIterator<Item = T>) -> Self {
        Self { is_any: true, ..Self::all(tasks) }
    }

    /// On success; so it is if nothing is said.
    pub fn on_success(self) -> Self {
        Self { success: true, failure: false, ..self }
    }

    /// On failure: on any end that is not a success.
    pub fn on_failure(self) -> Self {
        Self { success: false, failure: true, ..self }
    }

    /// On the end, whatever it is.
    pub fn on_end(self) -> Self {
        Self { success: true, failure: true, ..self }
    }
}

impl<T: HasTaskId> From<T> for Depends {
    fn from(task: T) -> Self {
        Self::on(task)
    }
}

/// Anything that names a task: its id, and everything that has one.
pub trait HasTaskId {
    /// The task's name.
    fn task_id(&self) -> TaskId;
}

impl HasTaskId for TaskId {
    fn task_id(&self) -> TaskId {
        *self
    }
}

impl<T: HasTaskId + ?Sized> HasTaskId for &T {
    fn task_id(&self) -> TaskId {
        (**self).task_id()
    }
}

impl HasTaskId for TaskReport {
    fn task_id(&self) -> TaskId {
        self.id
    }
}

impl HasTaskId for TaskResult {
    fn task_id(&self) -> TaskId {
        self.report.id
    }
}

impl HasTaskId for TaskFailure {
    fn task_id(&self) -> TaskId {
        self.report.id
    }
}

impl HasTaskId for TaskRecord {
    fn task_id(&self) -> TaskId {
        self.id
    }
}

/// Options as they are set one by one. What is wrong with them is said when a task is submitted.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Settings {
    options: Option<Box<TaskOptions>>,
    wrong: Option<OptionError>,
}

impl Settings {
    /// These options, in place of all that were set before.
    pub fn replace(&mut self, options: TaskOptions) {
        *self = Self { options: Some(Box::new(options)), wrong: None };
    }

    pub fn get(&self) -> Option<&TaskOptions> {
        self.options.as_deref()
    }

    pub fn get_mut(&mut self) -> &mut TaskOptions {
        self.options.get_or_insert_default()
    }

    /// A limit in milliseconds. One of no time is noted as wrong.
    pub fn limit_ms(&mut self, option: &'static str, limit: Duration) -> u64 {
        if limit.is_zero() {
            self.wrong.get_or_insert(OptionError::Zero { option });
        }
        whole_ms(limit)
    }

    pub fn add_after(&mut self, depends: Depends) {
        let options = self.options.get_or_insert_default();
        let added = add(&mut options.after, &mut options.after_any, "after", depends);
        self.note(added);
    }

    pub fn add_follow(&mut self, depends: Depends) {
        let options = self.options.get_or_insert_default();
        let added = add(&mut options.follow, &mut options.follow_any, "follow", depends);
        self.note(added);
    }

    fn note(&mut self, added: Result<(), OptionError>) {
        if let Err(error) = added {
            self.wrong.get_or_insert(error);
        }
    }

    /// The options, if they can be sent.
    pub fn check(&self) -> Result<Option<CheckedOptions>, OptionError> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let Some(options) = &self.options else { return Ok(None) };
        CheckedOptions::new((**options).clone()).map(Some)
    }
}

/// Options within the bounds that the broker enforces by closing the connection.
#[derive(Clone, PartialEq, Debug)]
pub struct CheckedOptions(Box<TaskOptions>);

impl CheckedOptions {
    /// Checks options.
    ///
    /// # Errors
    /// [`OptionError::TooLong`].
    pub fn new(options: TaskOptions) -> Result<Self, OptionError> {
        let bound = |option, size: usize, limit| {
            if size > limit { Err(OptionError::TooLong { option, limit }) } else { Ok(()) }
        };
        let longest = options.require.iter().map(String::len).max().unwrap_or_default();
        bound("label", options.label.as_ref().map_or(0, String::len), NAME_BYTES_MAX)?;
        bound("require", longest, NAME_BYTES_MAX)?;
        bound("require", options.require.len(), REQUIRED_LABELS_MAX)?;
        bound("after", options.after.len(), DEPENDENCIES_MAX)?;
        bound("follow", options.after.len() + options.follow.len(), DEPENDENCIES_MAX)?;
        Ok(Self(Box::new(options)))
    }

    pub(crate) fn into_inner(self) -> Box<TaskOptions> {
        self.0
    }
}

/// Milliseconds of a time, rounded up.
pub(crate) fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(MS_MAX)
}

fn add(
    dependencies: &mut Vec<Dependency>,
    is_any: &mut bool,
    option: &'static str,
    depends: Depends,
) -> Result<(), OptionError> {
    let Depends { tasks, is_any: any, success, failure } = depends;
    if tasks.is_empty() {
        return if any { Err(OptionError::AnyOfNone { option }) } else { Ok(()) };
    }
    if !dependencies.is_empty() && (*is_any || any) {
        return Err(OptionError::MixedDependencies { option });
    }
    *is_any = any;
    dependencies.extend(tasks.into_iter().map(|task| Dependency { task, success, failure }));
    Ok(())
}

/// An error in a task's options.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// Longer, or more, than the broker takes.
    #[error("the option `{option}` is over its limit of {limit}")]
    TooLong {
        /// Its name.
        option: &'static str,
        /// Bytes, or entries.
        limit: usize,
    },
    /// A limit of no time at all.
    #[error(
        "the option `{option}` of no time would end the task before it begins; leave it out for no limit"
    )]
    Zero {
        /// Its name.
        option: &'static str,
    },
    /// `any` beside other dependencies.
    #[error(
        "the option `{option}` takes one `Depends::any`, or several that must all be met, but not both"
    )]
    MixedDependencies {
        /// Its name.
        option: &'static str,
    },
    /// One of no tasks.
    #[error("the option `{option}` waits for any of no tasks, which never comes")]
    AnyOfNone {
        /// Its name.
        option: &'static str,
    },
}

/// The builder's methods for options, over the `Settings` at that place in `self`.
macro_rules! option_setters {
    ($($place:ident).+) => {
        /// With these options, in place of all that were set before.
        pub fn options(mut self, options: furlong_wire::message::TaskOptions) -> Self {
            self.$($place).+.replace(options);
            self
        }

        /// With a name for people and selectors.
        pub fn label(mut self, label: impl Into<String>) -> Self {
            self.$($place).+.get_mut().label = Some(label.into());
            self
        }

        /// Higher runs first in the queue; 0 is the default.
        pub fn priority(mut self, priority: i32) -> Self {
            self.$($place).+.get_mut().priority = priority;
            self
        }

        /// Sets how often a task of the shared queue is run again after the loss of its engine: 3
        /// times by default.
        pub fn retries(mut self, retries: u32) -> Self {
            self.$($place).+.get_mut().retries = Some(retries);
            self
        }

        /// Sets how often the task is run again after an error of its own: not at all by default.
        pub fn error_retries(mut self, retries: u32) -> Self {
            self.$($place).+.get_mut().error_retries = retries;
            self
        }

        /// Sets the pause before the task is run again after an error, doubled each time up to a
        /// minute. In whole milliseconds.
        pub fn backoff(mut self, pause: std::time::Duration) -> Self {
            self.$($place).+.get_mut().backoff_ms = $crate::options::whole_ms(pause);
            self
        }

        /// Sets whether the task runs at most once: after the loss of its engine it ends as `lost`.
        pub fn at_most_once(mut self, at_most_once: bool) -> Self {
            self.$($place).+.get_mut().at_most_once = at_most_once;
            self
        }

        /// Sets how long the task may wait for an engine, in whole milliseconds. Beyond, it ends as
        /// `timed_out`.
        pub fn queue_timeout(mut self, limit: std::time::Duration) -> Self {
            let settings = &mut self.$($place).+;
            let limit_ms = settings.limit_ms("queue_timeout", limit);
            settings.get_mut().queue_timeout_ms = Some(limit_ms);
            self
        }

        /// Sets how long the task may run, in whole milliseconds. Beyond, it is stopped and ends as
        /// `timed_out`.
        pub fn run_timeout(mut self, limit: std::time::Duration) -> Self {
            let settings = &mut self.$($place).+;
            let limit_ms = settings.limit_ms("run_timeout", limit);
            settings.get_mut().run_timeout_ms = Some(limit_ms);
            self
        }

        /// Runs on engines that have this much time left before they end, as far as they know, in
        /// whole milliseconds; otherwise as much as its [`run_timeout`](Self::run_timeout).
        pub fn time_request(mut self, time: std::time::Duration) -> Self {
            let settings = &mut self.$($place).+;
            let time_ms = settings.limit_ms("time_request", time);
            settings.get_mut().time_request_ms = Some(time_ms);
            self
        }

        /// Runs after these tasks. What is added to others must be met with them.
        pub fn after(mut self, tasks: impl Into<$crate::options::Depends>) -> Self {
            self.$($place).+.add_after(tasks.into());
            self
        }

        /// Runs after these tasks, on the engine that ran them: all on one, unless any of them is
        /// enough.
        pub fn follow(mut self, tasks: impl Into<$crate::options::Depends>) -> Self {
            self.$($place).+.add_follow(tasks.into());
            self
        }

        /// Runs on engines that have this label, and the others that were required before.
        pub fn require(mut self, label: impl Into<String>) -> Self {
            self.$($place).+.get_mut().require.push(label.into());
            self
        }

        /// Sets whether the broker retains result and output after they were received, so that any
        /// process of the same owner can [fetch](crate::Client::fetch) them; and whether the task
        /// goes on after this session.
        pub fn keep(mut self, keep: bool) -> Self {
            self.$($place).+.get_mut().keep = keep;
            self
        }

        /// Sets whether a failure ends what this session has already queued on that engine with the
        /// same option.
        pub fn abort_on_error(mut self, abort: bool) -> Self {
            self.$($place).+.get_mut().abort_on_error = abort;
            self
        }

        /// Sets whether a task for one engine may run there after its interpreter was replaced, in
        /// an empty namespace.
        pub fn restart_safe(mut self, restart_safe: bool) -> Self {
            self.$($place).+.get_mut().restart_safe = restart_safe;
            self
        }

        /// Sets whether the journal must have the task before it is accepted. A broker without a
        /// journal refuses it.
        pub fn durable(mut self, durable: bool) -> Self {
            self.$($place).+.get_mut().durable = durable;
            self
        }

        /// Sets whether the result stays at the broker: the task's end comes without it, it can be
        /// an input of other tasks, and whoever wants it [fetches](crate::Client::fetch) it. It is
        /// held until it is [let go](crate::TaskFuture::release), or the session ends. Where the
        /// broker has no room for it, it comes as any other.
        pub fn stay(mut self, stay: bool) -> Self {
            self.$($place).+.get_mut().stay = stay;
            self
        }

        /// Results of earlier tasks of this session that the code has as values: the place of each
        /// in this list is its number there. Each must succeed first.
        pub fn inputs(mut self, tasks: impl IntoIterator<Item = impl $crate::HasTaskId>) -> Self {
            let tasks = tasks.into_iter().map(|task| $crate::HasTaskId::task_id(&task));
            self.$($place).+.get_mut().inputs.extend(tasks);
            self
        }
    };
}

pub(crate) use option_setters;

#[cfg(test)]
mod tests {
    use furlong_wire::ids::{EngineId, SessionId, TaskSeq};
    use furlong_wire::limits::{INLINE_PAYLOAD_BYTES_MAX, MESSAGE_BYTES_MAX, SUBMIT_TARGETS_MAX};
    use furlong_wire::message::{FromClient, Payload, Runtime, Submit, Targets, encode_message};

    use super::*;
    use crate::call::CallSpec;

    fn task(n: u64) -> TaskId {
        TaskId { session: SessionId([255; 16]), n: TaskSeq(n) }
    }

    fn wrong(call: CallSpec) -> String {
        call.settings.check().unwrap_err().to_string()
    }

    #[test]
    fn every_option_is_set_by_its_own_method() {
        let call = CallSpec::native("f")
            .label("a name")
            .priority(-3)
            .retries(1)
            .error_retries(2)
            .backoff(Duration::from_micros(1_500))
            .queue_timeout(Duration::from_nanos(1))
            .run_timeout(Duration::from_mins(1))
            .time_request(Duration::from_mins(2))
            .at_most_once(true)
            .after(task(1))
            .after(Depends::all([task(2), task(3)]).on_end())
            .follow(Depends::any([task(4), task(5)]).on_failure())
            .require("gpu")
            .require("large")
            .keep(true)
            .abort_on_error(true)
            .restart_safe(true)
            .durable(true)
            .stay(true)
            .inputs([task(6)]);
        let dependency = |n, success, failure| Dependency { task: task(n), success, failure };
        let expected = TaskOptions {
            label: Some("a name".into()),
            priority: -3,
            retries: Some(1),
            error_retries: 2,
            backoff_ms: 2,
            at_most_once: true,
            queue_timeout_ms: Some(1),
            run_timeout_ms: Some(60_000),
            time_request_ms: Some(120_000),
            after: vec![
                dependency(1, true, false),
                dependency(2, true, true),
                dependency(3, true, true),
            ],
            after_any: false,
            follow: vec![dependency(4, false, true), dependency(5, false, true)],
            follow_any: true,
            require: vec!["gpu".into(), "large".into()],
            keep: true,
            abort_on_error: true,
            restart_safe: true,
            durable: true,
            repeated: false,
            inputs: vec![task(6)],
            stay: true,
        };
        assert_eq!(call.settings.check(), Ok(Some(CheckedOptions(Box::new(expected)))));
    }

    #[test]
    fn options_beyond_the_bounds_are_refused_with_their_name() {
        let call = || CallSpec::native("f");
        let long = "l".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(wrong(call().label(&long)), "the option `label` is over its limit of 256");
        assert_eq!(wrong(call().require(&long)), "the option `require` is over its limit of 256");
        let many = (0..=REQUIRED_LABELS_MAX).fold(call(), |call, n| call.require(n.to_string()));
        assert_eq!(wrong(many), "the option `require` is over its limit of 64");
        let tasks = (0..=DEPENDENCIES_MAX as u64).map(task);
        assert_eq!(
            wrong(call().after(Depends::all(tasks))),
            "the option `after` is over its limit of 2048"
        );
        assert!(
            wrong(call().run_timeout(Duration::ZERO))
                .starts_with("the option `run_timeout` of no time")
        );
        let mixed = call().after(task(1)).after(Depends::any([task(2), task(3)]));
        assert!(wrong(mixed).contains("but not both"));
        let none: [TaskId; 0] = [];
        assert!(wrong(call().follow(Depends::any(none))).contains("any of no tasks"));
        assert_eq!(call().after(Depends::all(none)).settings.check().unwrap().unwrap().0.after, []);
    }

    #[test]
    fn times_are_whole_milliseconds_within_bounds() {
        assert_eq!(whole_ms(Duration::ZERO), 0);
        assert_eq!(whole_ms(Duration::from_millis(5)), 5);
        assert_eq!(whole_ms(Duration::MAX), MS_MAX);
    }

    #[test]
    fn the_longest_submit_fits_a_message() {
        let name = "n".repeat(NAME_BYTES_MAX);
        let tasks = || (0..DEPENDENCIES_MAX as u64).map(|n| task(u64::MAX - n));
        let call = CallSpec::native("f").label(&name).priority(i32::MIN).backoff(Duration::MAX);
        let call = (0..REQUIRED_LABELS_MAX)
            .fold(call, |call, _| call.require(&name))
            .after(Depends::all(tasks()));
        let submit = FromClient::Submit(Submit {
            n: TaskSeq::MAX,
            targets: Targets::Engines(vec![EngineId(u32::MAX); SUBMIT_TARGETS_MAX]),
            runtime: Runtime::Native,
            class: u32::MAX,
            define: Some(u32::MAX),
            options: call.settings.check().unwrap().map(CheckedOptions::into_inner),
            payload: Payload::Inline(vec![0; INLINE_PAYLOAD_BYTES_MAX].into()),
        });
        let mut bytes = Vec::new();
        encode_message(&submit, &mut bytes);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX, "{} bytes", bytes.len());
    }
}
