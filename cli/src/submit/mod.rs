//! `furlong submit`: programs as tasks.

mod detached;
mod inputs;
mod items;
mod options;
mod waiting;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::builder::{OsStringValueParser, TypedValueParser};
use furlong_client::{
    Arguments, CallSpec, Client, ClientError, CommandSpec, EngineTargets, OsText, TaskFuture,
    TaskOptions,
};
use furlong_wire::token::Role;
use futures_util::Stream;

use self::inputs::Inputs;
use self::items::{Array, Item, Items, array};
pub use self::options::OptionArgs;
use crate::connect::{BrokerArgs, ConnectArgs, TargetsArg, targets};
use crate::exit::ExitCode;
use crate::select::Selector;
use crate::{interrupt, usage_error};

const AFTER_HELP: &str = "\
Each task sees the variables FURLONG_TASK (the array's number, or the place of its line or item, from 1), FURLONG_ITEM
(its line, or its JSON item: a string as it is, everything else as compact JSON) and FURLONG_ENGINE.

Without --wait the tasks are handed to the broker, their names are printed, as `k3f9a2:1-100`, and the command ends.
Their results are kept for an hour after their end: `furlong result`, `queue`, `explain` and `cancel` take the names.

With --wait each task's standard output and standard error are printed as they were written, in the order of the tasks;
of the first one that has not ended they are printed while it runs: its first MiB, and all the rest at its end, up to
256 MiB. However slowly they are read, nothing is lost. Ctrl-C cancels what has not ended.

Results of other tasks can be inputs: --stdin-from gives them as standard input, one after the other, and `{input:TASK}`
in an argument is the path of a file with one, which can be read and not written; alone it is an argument for each task
that it names. The results go from the broker to the engine. A command whose output is to be an input needs --stay, which
keeps all of it, up to 256 MiB. A task whose input fails is cancelled, and says which.

Tasks run in the engine's own directory, unless --cwd says otherwise; `--cwd .` is the directory of this command.

Exit codes: 0 the tasks were handed over, or with --wait all of them succeeded; 1 some did not, or an error; with --wait
and a single task, that one's own exit code (128 and the number of the signal that ended it); 2 wrong usage; 3 all
succeeded, but a part of their output is missing, as the messages or left_out_bytes say; 130 Ctrl-C.

Examples:
  furlong submit --array 1-100 --wait -- sh -c 'echo $((FURLONG_TASK * FURLONG_TASK))'
  ls *.wav | furlong submit --each-line - --cwd . -- sh -c 'flac \"$FURLONG_ITEM\"'
  furlong submit --label report --after last --cwd . -- make report
  furlong submit --stay --array 1-8 -- ./part.sh; furlong submit --stdin-from last --wait -- sort -m
  furlong submit --wait -- diff {input:k3f9a2:1} {input:k3f9a2:2}
  furlong submit --from-json jobs.json --time-limit 10m --error-retries 2 --backoff 5s -- ./job.py";

/// Flags of `submit`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`--help` says more, with examples.")]
pub struct SubmitArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    program: ProgramArgs,
    #[command(flatten)]
    options: OptionArgs,
    /// Each task on each of these engines, in their own queues: `all`, `3`, `0,2` or `1-3`; else
    /// wherever one is free
    #[arg(long, value_name = "ENGINES", value_parser = targets)]
    targets: Option<TargetsArg>,
    /// Keep all of what each task writes at the broker, for other tasks to read, until
    /// `furlong purge` names it or an hour after its end; it does not give way to others
    #[arg(long, conflicts_with_all = ["wait", "stdout", "durable"])]
    stay: bool,
    /// Wait for the ends, print the output in the order of the tasks, and end as they did
    #[arg(long)]
    wait: bool,
    /// With --wait: cancel the rest after so many failures
    #[arg(
        long,
        value_name = "N",
        requires = "wait",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    max_fails: Option<u64>,
    /// Show a progress bar, if standard error is a terminal
    #[arg(long)]
    progress: bool,
    /// Print JSON: with --wait one document for each task, on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: BrokerArgs,
    /// The program, found in the engine's PATH where it has no slash, and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// The source of the tasks.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct SourceArgs {
    /// A task for each number: `1-100`, `0-90:10`, `7` or `1,4,10-20:2`
    #[arg(long, value_name = "NUMBERS", value_parser = array)]
    array: Option<Array>,
    /// A task for each line of a file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    each_line: Option<PathBuf>,
    /// A task for each element of the JSON array in a file, or for each of its JSON documents; `-`
    /// is standard input
    #[arg(long, value_name = "FILE")]
    from_json: Option<PathBuf>,
}

/// The options for running the program.
#[derive(Debug, clap::Args)]
struct ProgramArgs {
    /// A variable that the tasks see, in addition to those of the engine; without `=VALUE` it is
    /// passed on from here
    #[arg(
        long,
        value_name = "NAME=VALUE",
        value_parser = OsStringValueParser::new().try_map(variable)
    )]
    env: Vec<(OsString, OsString)>,
    /// The directory that the tasks run in, on the engine's machine; a relative one begins here, so
    /// `.` is this one
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// File that each task reads as its standard input; `-` is the standard input of this command
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Tasks whose results each task reads as its standard input, one after the other: what a
    /// command has written to standard output, the bytes or text that a function returned, or JSON.
    /// It runs after they have succeeded
    #[arg(long, value_name = "TASKS", conflicts_with = "stdin")]
    stdin_from: Option<Selector>,
    /// The file for standard output, on the engine's machine; `{task}` and `{engine}` in it are the
    /// numbers
    #[arg(long, value_name = "PATH")]
    stdout: Option<OsString>,
    /// The same for standard error
    #[arg(long, value_name = "PATH")]
    stderr: Option<OsString>,
}

/// Submits the tasks, and waits for them if that was asked for.
pub async fn run(args: SubmitArgs) -> Result<ExitCode> {
    let is_stdin = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    let sources = [&args.source.each_line, &args.source.from_json, &args.program.stdin];
    if sources.into_iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(usage_error(
            "items and the tasks' own input cannot both be standard input; put one into a file",
        ));
    }
    let mut items = args.source.open()?;
    if items.total() != Some(1) {
        for file in [&args.program.stdout, &args.program.stderr].into_iter().flatten() {
            if !file.as_encoded_bytes().windows(6).any(|part| part == b"{task}")
                && file != "/dev/null"
            {
                let file = file.display();
                return Err(usage_error(&format!(
                    "`{file}` is one file for many tasks, of which each begins it anew; put {{task}} into its name"
                )));
            }
        }
    }
    let inputs = Inputs::new(args.program.stdin_from.clone(), args.command.clone())?;
    let mut template = args.program.template(&args.command)?;
    let roles = match args.targets {
        None => [Role::Client, Role::Task, Role::Admin],
        Some(_) => [Role::Client, Role::Multiengine, Role::Admin],
    };
    let client = ConnectArgs::from(args.broker.clone()).connect(&roles).await?;
    let work = async {
        let resolved = inputs.resolve(&client).await?;
        let options = args.options.resolve(&client).await?;
        let (keep, stay) = (!args.wait, args.stay);
        let options = TaskOptions { keep, stay, inputs: resolved.tasks, ..options };
        (template.command.argv, template.command.extras) = (resolved.argv, resolved.extras);
        template.command.extras.whole_output = args.wait || args.stay;
        let submitter =
            Submitter { client: &client, template, options, targets: args.targets.clone() };
        if args.wait {
            waiting::run(&submitter, &mut items, &args).await
        } else {
            detached::run(&submitter, &mut items, &args).await
        }
    };
    if args.wait {
        interrupt::or_cancel(&client, work).await
    } else {
        interrupt::or_go_on(&client, work).await
    }
}

impl SourceArgs {
    fn open(&self) -> Result<Items> {
        match (&self.array, &self.each_line, &self.from_json) {
            (Some(array), ..) => Ok(Items::array(array.clone())),
            (_, Some(path), _) => Items::lines(path),
            (.., Some(path)) => Items::json(path),
            _ => Ok(Items::one()),
        }
    }
}

/// The common part of all tasks of a submit.
struct Template {
    command: CommandSpec,
    stdin: Option<Bytes>,
}

impl ProgramArgs {
    /// All but the arguments, which may name inputs.
    fn template(&self, argv: &[OsString]) -> Result<Template> {
        if argv.first().is_some_and(|name| name.is_empty()) {
            bail!("the program has no name; write furlong submit [OPTIONS] -- PROGRAM [ARGS]");
        }
        let text = |name: &Option<OsString>| name.clone().map(OsText::from);
        let command = CommandSpec {
            env: self
                .env
                .iter()
                .map(|(name, value)| (name.clone().into(), value.clone().into()))
                .collect(),
            cwd: self.cwd.as_deref().map(absolute).transpose()?,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            ..CommandSpec::default()
        };
        let stdin = self.stdin.as_deref().map(read_whole).transpose()?;
        Ok(Template { command, stdin })
    }
}

impl Template {
    fn call(&self, item: Item) -> CallSpec {
        let command =
            CommandSpec { task: Some(item.number), item: item.text, ..self.command.clone() };
        let stdin = self.stdin.clone().map_or(Arguments::None, |bytes| Arguments::Raw(vec![bytes]));
        CallSpec::command_with(command).arguments(stdin)
    }
}

fn absolute(path: &Path) -> Result<OsText> {
    let here = std::path::absolute(path).with_context(|| format!("--cwd {}", path.display()))?;
    Ok(here.into_os_string().into())
}

fn read_whole(path: &Path) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes.into())
}

/// Reads `NAME=VALUE`, or `NAME`, which takes the value from here.
fn variable(text: OsString) -> Result<(OsString, OsString), String> {
    let bytes = text.as_bytes();
    let (name, value) = if let Some(place) = bytes.iter().position(|byte| *byte == b'=') {
        (&bytes[..place], OsStr::from_bytes(&bytes[place + 1..]).to_owned())
    } else {
        let missing =
            || format!("there is no variable `{}` here; NAME=VALUE sets one", text.display());
        (bytes, std::env::var_os(&text).ok_or_else(missing)?)
    };
    if name.is_empty() {
        Err("a variable is NAME=VALUE".to_owned())
    } else {
        Ok((OsStr::from_bytes(name).to_owned(), value))
    }
}

/// Makes tasks of items.
struct Submitter<'a> {
    client: &'a Client,
    template: Template,
    options: TaskOptions,
    targets: Option<TargetsArg>,
}

/// The tasks of one item: one, or one for each engine.
struct Submitted {
    number: u64,
    item: Option<OsText>,
    tasks: Vec<TaskFuture>,
}

impl Submitter<'_> {
    /// The items' tasks, submitted one after the other while this is polled, as fast as the broker
    /// takes them.
    fn submits<'b>(&'b self, items: &'b mut Items) -> impl Stream<Item = Result<Submitted>> + 'b {
        futures_util::stream::unfold(Some(items), async |items| {
            let items = items?;
            let item = match items.next().await? {
                Ok(item) => item,
                Err(error) => return Some((Err(error), None)),
            };
            match self.make(item).await {
                Ok(submitted) => Some((Ok(submitted), Some(items))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn make(&self, item: Item) -> Result<Submitted, ClientError> {
        let (number, text) = (item.number, item.text.clone());
        let call = self.template.call(item).options(self.options.clone());
        let tasks = match &self.targets {
            None => vec![self.client.tasks().call(&call).await?],
            Some(targets) => {
                let targets = EngineTargets::from(targets.clone());
                self.client.multiengine(targets).call(&call).await?.into_iter().collect()
            }
        };
        Ok(Submitted { number, item: text, tasks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_a_value_or_are_passed_on() {
        assert_eq!(variable("A=b=c".into()), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A=".into()), Ok(("A".into(), OsString::new())));
        assert_eq!(variable("PATH".into()).unwrap().1, std::env::var_os("PATH").unwrap());
        assert!(
            variable("=b".into()).is_err() && variable("NO_SUCH_VARIABLE_HERE".into()).is_err()
        );
    }

    #[test]
    fn a_directory_is_absolute_when_it_travels() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(&*absolute(Path::new(".")).unwrap(), here.as_os_str());
        assert_eq!(&*absolute(Path::new("/data")).unwrap(), "/data");
        assert_eq!(&*absolute(Path::new("sub")).unwrap(), here.join("sub").as_os_str());
    }
}
