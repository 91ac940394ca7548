//! `cargo xtask sim`: many histories of a simulated farm (`tests/sim/`), on all cores.

use anyhow::{Context, bail};

use crate::workspace::{Workspace, check};

/// The histories to run, and how long they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Histories {
    from: u64,
    seeds: u64,
    steps: u64,
    /// The number of histories that may fail before the rest is skipped.
    failures: u64,
    /// On how many threads; on all cores, if that is 0.
    threads: u64,
    /// The number of last log lines that are shown of a failing history.
    lines: u64,
}

impl Histories {
    /// Reads the options.
    pub fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut histories =
            Self { from: 0, seeds: 100, steps: 10_000, failures: 1, threads: 0, lines: 60 };
        while let Some(name) = args.next() {
            let place = match name.as_str() {
                "--from" => &mut histories.from,
                "--seeds" => &mut histories.seeds,
                "--steps" => &mut histories.steps,
                "--failures" => &mut histories.failures,
                "--threads" => &mut histories.threads,
                "--lines" => &mut histories.lines,
                other => {
                    bail!(
                        "no option `{other}`; there are --from, --seeds, --steps, --failures, --threads and --lines"
                    )
                }
            };
            let value = args.next().with_context(|| format!("{name} needs a number"))?;
            *place =
                value.parse().with_context(|| format!("{name} needs a number, not `{value}`"))?;
        }
        Ok(histories)
    }
}

/// Builds the simulation, and runs it.
pub fn run(workspace: &Workspace, histories: Histories) -> anyhow::Result<()> {
    let test = "many_histories_keep_every_promise";
    let mut cargo = workspace.cargo("test --locked --profile sim -p furlong-tests --test sim --");
    cargo.args(["--ignored", "--exact", test, "--nocapture"]).env("RUST_BACKTRACE", "0");
    let Histories { from, seeds, steps, failures, threads, lines } = histories;
    let of_history = [("FROM", from), ("SEEDS", seeds), ("STEPS", steps)];
    for (name, number) in of_history.into_iter().chain([
        ("FAILURES", failures),
        ("THREADS", threads),
        ("LINES", lines),
    ]) {
        cargo.env(format!("FURLONG_SIM_{name}"), number.to_string());
    }
    check(&mut cargo)
}

#[cfg(test)]
mod tests {
    use super::Histories;

    #[test]
    fn options_are_numbers_in_any_order() {
        let parse = |line: &str| Histories::parse(line.split_whitespace().map(str::to_owned));
        let expected =
            Histories { from: 7, seeds: 3, steps: 10_000, failures: 1, threads: 0, lines: 60 };
        assert_eq!(parse("--seeds 3 --from 7").unwrap(), expected);
        assert!(parse("--seeds many").is_err() && parse("--from").is_err());
    }
}
