//! From a command's description to a program that runs, or to the line that says why not.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use furlong_wire::call::{Call, Codec, CommandSpec};
use furlong_wire::os_text::OsText;
use rustix::fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Pid;

use super::inputs::InputFiles;
use super::slot::SlotContext;
use crate::runtime::reaper::MARK_VARIABLE;
use crate::runtime::{Job, Unable};

/// The reason why a program was not started: a line for the user, by whose fault it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum LaunchError {
    /// The task asks for something that can be run nowhere.
    Task(String),
    /// This engine lacks something that another one may have.
    Engine(Unable, String),
}

impl From<String> for LaunchError {
    /// Of the task, unless somebody says otherwise.
    fn from(text: String) -> Self {
        Self::Task(text)
    }
}

/// This engine has not what such a command needs.
fn missing(text: String) -> LaunchError {
    LaunchError::Engine(Unable::Kind, text)
}

/// A program that was started.
pub(super) struct Launched {
    pub(super) child: Child,
    /// What is written to its standard input, which is then a pipe.
    pub(super) input: Vec<Bytes>,
    /// The files of its inputs, which stay open until it has ended.
    pub(super) files: InputFiles,
}

/// Starts a job's program.
///
/// # Errors
/// The reason why it was not started.
pub(super) fn launch(
    job: Job,
    context: &SlotContext,
    engine_id: Option<u32>,
) -> Result<Launched, LaunchError> {
    let Call::Command(spec) = &job.header.call else {
        let text =
            "a task of the runtime `command` names a program; functions are for python and native";
        return Err(LaunchError::Task(text.to_owned()));
    };
    let mut input = job.data;
    input.retain(|buffer| !buffer.is_empty());
    if !input.is_empty() && job.header.codec != Codec::Raw {
        return Err(LaunchError::Task(
            "a command's standard input is sent as raw buffers".to_owned(),
        ));
    }
    if !input.is_empty() && !spec.extras.stdin.is_empty() {
        let text = "a command's standard input is data or inputs, not both";
        return Err(LaunchError::Task(text.to_owned()));
    }
    let files = InputFiles::new(&spec.extras, job.inputs.as_deref().unwrap_or_default())?;
    let launch = Launch { spec, context, engine_id };
    let program = launch.program()?;
    let arguments = files.arguments(&spec.argv, &spec.extras.paths)?;
    let mut command = launch.command(&program, &arguments[1..])?;
    command.stdin(match files.stdin() {
        Some(file) => file.map_err(|error| launch.cannot_start(&program, &error))?.into(),
        None if input.is_empty() => Stdio::null(),
        None => Stdio::piped(),
    });
    let child = command.spawn().map_err(|error| launch.cannot_start(&program, &error))?;
    context.memory.admit(Pid::from_child(&child));
    Ok(Launched { child, input, files })
}

struct Launch<'a> {
    spec: &'a CommandSpec,
    context: &'a SlotContext,
    engine_id: Option<u32>,
}

impl Launch<'_> {
    /// The program's file. It is looked for here and not by the system, which would say of a miss
    /// only that something does not exist; and the standard library is faster with a whole path
    /// when the environment is changed.
    fn program(&self) -> Result<PathBuf, LaunchError> {
        let Some(name) = self.spec.argv.first().filter(|name| !name.is_empty()) else {
            return Err(LaunchError::Task(
                "the command is empty: it needs a program and its arguments".to_owned(),
            ));
        };
        if name.as_bytes().contains(&b'/') {
            return Ok(self.in_directory(Path::new(name)));
        }
        let path = self.variable("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let candidates =
            std::env::split_paths(&path).map(|folder| self.in_directory(&folder).join(&**name));
        let mut not_executable = None;
        for candidate in candidates {
            if access(&candidate, Access::EXISTS).is_err() || candidate.is_dir() {
                continue;
            }
            if access(&candidate, Access::EXEC_OK).is_ok() {
                return Ok(candidate);
            }
            not_executable.get_or_insert(candidate);
        }
        Err(missing(match not_executable {
            Some(candidate) => not_executable_text(&candidate),
            None => {
                format!("there is no program `{name}` in the engine's PATH, {}", path.display())
            }
        }))
    }

    fn command(&self, program: &Path, arguments: &[OsString]) -> Result<Command, LaunchError> {
        let spec = self.spec;
        let mut command = Command::new(program);
        command.arg0(&spec.argv[0]).args(arguments).process_group(0);
        command.envs(self.context.env.iter().map(|(name, value)| (name, value)));
        check_variables(&spec.env)?;
        command.envs(&spec.env);
        command.env(MARK_VARIABLE, self.context.shared.reaper.mark());
        if let Some(task) = spec.task {
            command.env("FURLONG_TASK", task.to_string());
        }
        if let Some(item) = &spec.item {
            command.env("FURLONG_ITEM", item);
        }
        if let Some(id) = self.engine_id {
            command.env("FURLONG_ENGINE", id.to_string());
        }
        if let Some(cwd) = &spec.cwd {
            check_directory(cwd).map_err(missing)?;
            command.current_dir(&**cwd);
        }
        let files = self.output_files()?;
        let [stdout, stderr] = files.map(|file| file.map_or_else(Stdio::piped, Stdio::from));
        command.stdout(stdout).stderr(stderr);
        Ok(command)
    }

    /// The files that output goes to. Two streams that go to one file share it, as with `2>&1`.
    fn output_files(&self) -> Result<[Option<File>; 2], LaunchError> {
        let path =
            |name: &Option<OsText>| name.as_ref().map(|name| self.output_path(name)).transpose();
        let (stdout, stderr) = (path(&self.spec.stdout)?, path(&self.spec.stderr)?);
        let out = stdout.as_deref().map(create).transpose().map_err(missing)?;
        let err = match (&out, &stderr) {
            (Some(out), Some(path)) if stdout == stderr => {
                Some(out.try_clone().map_err(|error| {
                    missing(format!("cannot write {}: {error}", path.display()))
                })?)
            }
            (_, path) => path.as_deref().map(create).transpose().map_err(missing)?,
        };
        Ok([out, err])
    }

    fn output_path(&self, name: &OsText) -> Result<PathBuf, String> {
        let mut filled = Vec::new();
        let mut rest = name.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            let Some((word, after)) = placeholder(after).filter(|_| byte == b'{') else {
                filled.push(byte);
                continue;
            };
            let number = match word {
                "task" => self.spec.task,
                "engine" => self.engine_id.map(u64::from),
                _ => {
                    return Err(format!(
                        "the output file `{name}` names {{{word}}}; only {{task}} and {{engine}} are filled in"
                    ));
                }
            };
            let Some(number) = number else {
                return Err(format!(
                    "the output file `{name}` names {{{word}}}, which this task does not have"
                ));
            };
            filled.extend_from_slice(number.to_string().as_bytes());
            rest = after;
        }
        Ok(self.in_directory(Path::new(OsStr::from_bytes(&filled))))
    }

    /// A path as the program would see it.
    fn in_directory(&self, path: &Path) -> PathBuf {
        self.spec.cwd.as_ref().map_or_else(|| path.to_owned(), |cwd| Path::new(&**cwd).join(path))
    }

    /// A variable as the program will see it.
    fn variable(&self, name: &str) -> Option<OsString> {
        let own = self.spec.env.get(&OsText::from(name)).map(|value| value.to_os_string());
        let of_engine = || {
            let config = self.context.env.iter().rev().find(|(known, _)| known == OsStr::new(name));
            config.map(|(_, value)| value.clone())
        };
        own.or_else(of_engine).or_else(|| std::env::var_os(name))
    }

    fn cannot_start(&self, program: &Path, error: &io::Error) -> LaunchError {
        let text = self.why_not_started(program, error);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            None | Some(Errno::TOOBIG) => LaunchError::Task(text),
            Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM) => {
                LaunchError::Engine(Unable::Runtime, text)
            }
            Some(_) => missing(text),
        }
    }

    fn why_not_started(&self, program: &Path, error: &io::Error) -> String {
        let shown = program.display();
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) if program.exists() => {
                format!(
                    "cannot start {shown}: the interpreter or the loader that it names does not exist"
                )
            }
            Some(Errno::NOENT | Errno::NOTDIR) => {
                format!("there is no program {shown} on this engine's machine")
            }
            Some(Errno::ACCESS) if program.is_dir() => {
                format!("cannot start {shown}: it is a directory")
            }
            Some(Errno::ACCESS) => not_executable_text(program),
            Some(Errno::NOEXEC) => format!(
                "cannot start {shown}: it has no `#!` line that names an interpreter, or is for another kind of machine"
            ),
            Some(Errno::TOOBIG) => {
                let arguments = self.spec.argv.len();
                format!(
                    "cannot start {shown}: its {arguments} arguments and variables are too long for the system"
                )
            }
            None if error.kind() == io::ErrorKind::InvalidInput => {
                format!(
                    "cannot start {shown}: an argument, the item or the directory has a zero byte in it"
                )
            }
            _ => format!("cannot start {shown}: {error}"),
        }
    }
}

/// A word of letters before a closing brace, and what comes after that.
fn placeholder(rest: &[u8]) -> Option<(&str, &[u8])> {
    let end = rest.iter().position(|byte| *byte == b'}').filter(|end| *end > 0)?;
    let word = std::str::from_utf8(&rest[..end]).ok()?;
    word.bytes().all(|byte| byte.is_ascii_alphabetic()).then_some((word, &rest[end + 1..]))
}

fn check_directory(cwd: &OsText) -> Result<(), String> {
    let path = Path::new(&**cwd);
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            Err(format!("cannot run the command in `{cwd}`: it is not a directory"))
        }
        Ok(_) => access(path, Access::EXEC_OK).map_err(|error| {
            format!("cannot run the command in `{cwd}`: {}", io::Error::from(error))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "cannot run the command in `{cwd}`: there is no such directory on this engine's machine"
        )),
        Err(error) => Err(format!("cannot run the command in `{cwd}`: {error}")),
    }
}

/// Creates an output file, or empties it.
fn create(path: &Path) -> Result<File, String> {
    // Nobody may be at the other end of a named pipe: to wait for that would keep the slot for
    // ever.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .custom_flags(flags)
        .open(path);
    let opened = opened.and_then(|file| {
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        Ok(file)
    });
    opened.map_err(|error| {
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        match folder {
            Some(folder) => format!(
                "cannot write {}: there is no folder {} on this engine's machine; make it first",
                path.display(),
                folder.display()
            ),
            None => format!("cannot write {}: {error}", path.display()),
        }
    })
}

fn check_variables(env: &BTreeMap<OsText, OsText>) -> Result<(), String> {
    for (name, value) in env {
        if name.is_empty() || name.as_bytes().iter().any(|byte| [b'=', 0].contains(byte)) {
            return Err(format!("`{}` is no name of a variable", name.as_bytes().escape_ascii()));
        }
        if value.as_bytes().contains(&0) {
            return Err(format!("the variable `{name}` has a zero byte in it"));
        }
    }
    Ok(())
}

fn not_executable_text(program: &Path) -> String {
    let shown = program.display();
    format!("cannot start {shown}: it is not executable; `chmod +x` makes it so")
}

/// As the system's C library has it.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
