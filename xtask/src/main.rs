//! The project's own tools: `cargo xtask test`, the one command that says whether the tree is good,
//! and `cargo xtask chaos` and `cargo xtask sim`, which break a farm for as long as they are told:
//! a real one of the release build, and a simulated one in many histories. `cargo xtask fuzz`
//! fuzzes what reads bytes. `cargo xtask compare-ipyparallel` compares the Python package with
//! that. `cargo xtask contrib` writes the dashboard and the alerts of `contrib/`.
//! `cargo xtask dist` makes what a release hands out, and `cargo xtask docs` the site of the
//! documents.
//!
//! `cargo xtask test` runs every step of [`steps::STEPS`] in order and stops at the first that
//! fails. `--list` names them, `--step NAME` (repeatable) runs only those named. A step needs no
//! other to have run before it.

mod contrib;
mod dist;
mod docs;
mod fuzz;
mod peer;
mod python;
mod sim;
mod steps;
mod workspace;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;

use crate::dist::Distribution;
use crate::fuzz::Fuzzing;
use crate::sim::Histories;
use crate::steps::{STEPS, Step};
use crate::workspace::Workspace;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    match Request::parse(args)? {
        Request::Help => println!("{USAGE}"),
        Request::List => STEPS.iter().for_each(|step| println!("{:<9} {}", step.name, step.what)),
        Request::Run(steps) => run_steps(&steps)?,
        Request::Chaos(args) => steps::long_chaos(&Workspace::find()?, &args)?,
        Request::Contrib => contrib::write(&Workspace::find()?)?,
        Request::Document => docs::build(&Workspace::find()?)?,
        Request::Distribute(it) => dist::make(&Workspace::find()?, &it)?,
        Request::Compare => peer::compare(&Workspace::find()?)?,
        Request::Simulate(histories) => sim::run(&Workspace::find()?, histories)?,
        Request::Fuzz(fuzzing) => fuzz::run(&Workspace::find()?, &fuzzing)?,
    }
    Ok(())
}

fn run_steps(steps: &[&Step]) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let began = Instant::now();
    for step in steps {
        println!("== {}: {}", step.name, step.what);
        let step_began = Instant::now();
        let outcome = (step.run)(&workspace);
        let seconds = step_began.elapsed().as_secs_f64();
        if let Err(error) = outcome {
            let name = step.name;
            bail!(
                "step `{name}` failed after {seconds:.1} s: {error:#}; alone: cargo xtask test --step {name}"
            );
        }
        println!("== {}: passed in {seconds:.1} s\n", step.name);
    }
    let plural = if steps.len() == 1 { "" } else { "s" };
    println!("{} step{plural} passed in {:.0} s", steps.len(), began.elapsed().as_secs_f64());
    Ok(())
}

/// The request of the command line.
#[derive(Debug)]
enum Request {
    Help,
    List,
    Run(Vec<&'static Step>),
    /// With the arguments of the program that does it.
    Chaos(Vec<String>),
    Simulate(Histories),
    Fuzz(Fuzzing),
    Document,
    Distribute(Distribution),
    Compare,
    Contrib,
}

impl Request {
    /// By hand: three words do not pay for compiling an argument parser before every test run.
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        match args.next().as_deref() {
            Some("test") => {}
            Some("chaos") => return Ok(Self::Chaos(args.collect())),
            Some("contrib") => return Ok(Self::Contrib),
            Some("docs") => return Ok(Self::Document),
            Some("dist") => return Ok(Self::Distribute(Distribution::parse(args)?)),
            Some("compare-ipyparallel") => return Ok(Self::Compare),
            Some("sim") => return Ok(Self::Simulate(Histories::parse(args)?)),
            Some("fuzz") => return Ok(Self::Fuzz(Fuzzing::parse(args)?)),
            None | Some("help" | "-h" | "--help") => return Ok(Self::Help),
            Some(other) => bail!("no command `{other}`\n{USAGE}"),
        }
        let mut named = Vec::new();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => return Ok(Self::List),
                "-h" | "--help" => return Ok(Self::Help),
                "--step" => named.push(args.next().unwrap_or_default()),
                other => match other.strip_prefix("--step=") {
                    Some(name) => named.push(name.to_owned()),
                    None => bail!("no option `{other}`\n{USAGE}"),
                },
            }
        }
        if let Some(name) = named.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
            bail!("no step `{name}`; `cargo xtask test --list` names them");
        }
        // In the order of STEPS, whatever the order of the arguments.
        Ok(Self::Run(
            STEPS
                .iter()
                .filter(|step| named.is_empty() || named.iter().any(|n| n == step.name))
                .collect(),
        ))
    }
}

const USAGE: &str = "usage: cargo xtask test [--list | --step NAME ...]
       cargo xtask chaos [--minutes N] [--seed S] [--scenario all|broker]   (--help says more)
       cargo xtask sim [--seeds N] [--from SEED] [--steps M] [--failures K] [--threads T] [--lines L]
       cargo xtask fuzz [TARGET [--seconds N]]   (without a target: lists them)
       cargo xtask compare-ipyparallel
       cargo xtask contrib
       cargo xtask dist [--arch x86_64|aarch64]
       cargo xtask docs";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Request> {
        Request::parse(line.split_whitespace().map(str::to_owned))
    }

    fn names(request: &Request) -> Vec<&str> {
        match request {
            Request::Run(steps) => steps.iter().map(|step| step.name).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_step_runs_by_default_in_order() {
        let request = parse("test").unwrap();
        assert_eq!(
            names(&request),
            ["fmt", "clippy", "venv", "rust", "chaos", "portable", "doc", "python"]
        );
    }

    #[test]
    fn named_steps_run_alone() {
        assert_eq!(names(&parse("test --step doc --step=fmt").unwrap()), ["fmt", "doc"]);
    }

    #[test]
    fn chaos_takes_all_that_follows() {
        let Request::Chaos(args) = parse("chaos --minutes 3 --seed=7").unwrap() else {
            panic!("it is chaos")
        };
        assert_eq!(args, ["--minutes", "3", "--seed=7"]);
    }

    #[test]
    fn an_unknown_word_is_refused() {
        for line in [
            "tests",
            "sim --seed 3",
            "sim --seeds",
            "test --steps",
            "test --step",
            "test --step nonsense",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
