//! The program that this command is, and thus how it is started again: a cluster's broker and
//! engines are this program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, ensure};
use clap::Command;
use furlong_engine::EngineArgs;

/// The way in which this program is started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Program {
    /// It is an executable of its own.
    Executable,
    /// It runs in a Python interpreter, which is then also the one of engines that are told of no
    /// other.
    Python {
        /// The interpreter, as `sys.executable` says.
        interpreter: PathBuf,
        /// The arguments between the interpreter and those of `furlong`, as `-m furlong`.
        words: Vec<OsString>,
    },
}

impl Program {
    /// This program, to be started again with arguments yet to be added.
    pub(crate) fn command(&self) -> Result<process::Command> {
        match self {
            Self::Executable => {
                let path = std::env::current_exe().context("this program has no path")?;
                // An upgrade replaces the file. Whoever runs already goes on with what it is.
                Ok(process::Command::new(if path.is_file() {
                    &path
                } else {
                    Path::new("/proc/self/exe")
                }))
            }
            Self::Python { interpreter, words } => {
                ensure!(
                    !interpreter.as_os_str().is_empty(),
                    "this Python does not know where its interpreter is"
                );
                let mut command = process::Command::new(interpreter);
                command.args(words);
                Ok(command)
            }
        }
    }

    /// The words that start this program on another machine.
    pub(crate) fn words(&self) -> Result<Vec<String>> {
        let command = self.command()?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Ok(words.map(|word| word.to_string_lossy().into_owned()).collect())
    }

    /// The flags of an engine, with the interpreter that it gets from this program.
    pub(crate) fn engine(&self, args: EngineArgs) -> EngineArgs {
        EngineArgs {
            python: args.python.or_else(|| self.interpreter().map(Path::to_owned)),
            ..args
        }
    }

    /// The command line as it is for this program: whose interpreter an engine gets is said
    /// differently.
    pub(crate) fn described(&self, command: Command) -> Command {
        if self.interpreter().is_none() {
            return command;
        }
        let help = "Python interpreter; by default that which runs this command. It needs no \
                    package of ours";
        command
            .mut_subcommand("engine", |engine| engine.mut_arg("python", |python| python.help(help)))
    }

    /// The interpreter that runs this program, if one does.
    pub(crate) fn interpreter(&self) -> Option<&Path> {
        match self {
            Self::Python { interpreter, .. } if !interpreter.as_os_str().is_empty() => {
                Some(interpreter)
            }
            Self::Python { .. } | Self::Executable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn python(interpreter: &str) -> Program {
        Program::Python {
            interpreter: interpreter.into(),
            words: ["-m", "furlong"].map(OsString::from).into(),
        }
    }

    #[derive(Parser)]
    struct Engine {
        #[command(flatten)]
        args: EngineArgs,
    }

    fn engine_args(line: &str) -> EngineArgs {
        Engine::parse_from(line.split_whitespace()).args
    }

    #[test]
    fn a_python_package_is_started_again_by_its_interpreter() {
        let command = python("/env/bin/python").command().unwrap();
        assert_eq!(command.get_program(), "/env/bin/python");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-m", "furlong"]);
        assert!(python("").command().is_err());
    }

    #[test]
    fn engines_of_a_python_package_run_its_interpreter_unless_told_otherwise() {
        let interpreter = |program: Program, line| program.engine(engine_args(line)).python;
        assert_eq!(
            interpreter(python("/env/bin/python"), "engine"),
            Some("/env/bin/python".into())
        );
        assert_eq!(
            interpreter(python("/env/bin/python"), "engine --python pypy3"),
            Some("pypy3".into())
        );
        assert_eq!(interpreter(python(""), "engine"), None);
        assert_eq!(interpreter(Program::Executable, "engine"), None);
    }

    #[test]
    fn the_help_says_which_interpreter_engines_get() {
        let help = |program: Program| {
            let mut command = program.described(crate::Cli::command());
            command.find_subcommand_mut("engine").unwrap().render_long_help().to_string()
        };
        assert!(help(Program::Executable).contains("else python3"));
        assert!(
            help(python("/env/bin/python")).contains("by default that which runs this command")
        );
    }
}
