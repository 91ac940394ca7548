//! `furlong push`, `pull`, `keys` and `clear`: variables in the namespaces of engines.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use furlong_client::{Client, EngineTargets, Multiengine, TaskOutcome, TaskResult};
use furlong_wire::token::Role;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::connect::{ConnectArgs, TargetsArg, targets};
use crate::ended;
use crate::exit::ExitCode;
use crate::{interrupt, print};

/// Roles that may use engines by their ids.
pub const DIRECT: &[Role] = &[Role::Client, Role::Multiengine, Role::Admin];

const AFTER_PUSH: &str = "\
A value is read as JSON, and is a string where it is none: `n=3` is a number, `name=Ada` and `id='\"3\"'` are strings.
What is queued on an engine before it runs before it.

Exit codes: 0 all engines have the variables; 1 some have not, or an error; 2 wrong usage; 130 Ctrl-C.

Examples:
  furlong push n=1000 'sizes=[1, 2, 4]' name=Ada
  furlong push --targets 0 seed=42";

const AFTER_PULL: &str = "\
A name may also be an expression, such as `len(x)`. Each engine is a JSON document on a line of its own:
{\"engine\":0,\"values\":{\"x\":1}}. What JSON cannot say is given as text, with a warning.

Exit codes: 0 all engines have answered; 1 some had no such name, or an error; 2 wrong usage; 130 Ctrl-C.

Examples:
  furlong pull x 'len(data)'
  furlong pull --targets 1 x | jq .values.x";

const AFTER_KEYS: &str = "\
Exit codes: 0 all engines have answered; 1 some have not, or an error; 2 wrong usage; 130 Ctrl-C.

Example: furlong keys --targets 0-3";

const AFTER_CLEAR: &str = "\
Imported modules stay loaded; `furlong restart` gives an engine a new interpreter.

Exit codes: 0 all namespaces are empty; 1 some are not, or an error; 2 wrong usage; 130 Ctrl-C.

Example: furlong clear --targets 0-3";

/// The engines, and how to reach them.
#[derive(Debug, clap::Args)]
pub struct DirectArgs {
    /// Engines: `all`, `3`, `0,2` or `1-3`
    #[arg(short, long, value_name = "ENGINES", default_value = "all", value_parser = targets)]
    pub targets: TargetsArg,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Flags of `push`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_PUSH, after_help = "`--help` says more, with examples.")]
pub struct PushArgs {
    /// Variables and their values: JSON, else a string
    #[arg(value_name = "NAME=VALUE", required = true, value_parser = variable)]
    variables: Vec<(String, Box<RawValue>)>,
    #[command(flatten)]
    direct: DirectArgs,
}

/// Flags of `pull`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_PULL, after_help = "`--help` says more, with examples.")]
pub struct PullArgs {
    /// Names, or expressions
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    direct: DirectArgs,
}

/// Flags of `keys`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_KEYS)]
pub struct KeysArgs {
    /// Print a JSON document for each engine, on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    direct: DirectArgs,
}

/// Flags of `clear`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_CLEAR)]
pub struct ClearArgs {
    #[command(flatten)]
    direct: DirectArgs,
}

/// Sets variables.
pub async fn push(args: PushArgs) -> Result<ExitCode> {
    let variables: BTreeMap<String, Box<RawValue>> = args.variables.into_iter().collect();
    on_engines(
        &args.direct,
        async |engines| Ok(engines.push(&variables).await?.wait_each().await),
        |_| Ok(()),
    )
    .await
}

/// Prints values.
pub async fn pull(args: PullArgs) -> Result<ExitCode> {
    let names = &args.names;
    let show = |result: &TaskResult| {
        let values: Vec<Box<RawValue>> =
            result.json().context("the values are no list: the engine speaks another version")?;
        let values: BTreeMap<&String, Box<RawValue>> = names.iter().zip(values).collect();
        print::json_line(&Pulled { engine: engine(result), values })
    };
    on_engines(&args.direct, async |engines| Ok(engines.pull(names).await?.wait_each().await), show)
        .await
}

/// The output of `pull` for one engine. The values stay the text that they are.
#[derive(serde::Serialize)]
struct Pulled<'a> {
    engine: Option<u32>,
    values: BTreeMap<&'a String, Box<RawValue>>,
}

/// Prints names.
pub async fn keys(args: KeysArgs) -> Result<ExitCode> {
    let show = |result: &TaskResult| {
        let keys: Vec<String> =
            result.json().context("the names are no list: the engine speaks another version")?;
        if args.json {
            return print::json_line(&json!({ "engine": engine(result), "keys": keys }));
        }
        let id = engine(result).map_or("?".to_owned(), |id| id.to_string());
        print::line(format!("[{id}] {}", keys.join(" ")).trim_end())
    };
    on_engines(&args.direct, async |engines| Ok(engines.keys().await?.wait_each().await), show)
        .await
}

/// Empties namespaces.
pub async fn clear(args: ClearArgs) -> Result<ExitCode> {
    on_engines(
        &args.direct,
        async |engines| Ok(engines.clear().await?.wait_each().await),
        |_| Ok(()),
    )
    .await
}

fn engine(result: &TaskResult) -> Option<u32> {
    result.report.engine.map(|id| id.0)
}

/// Does something on each engine, shows the results, and says what failed.
async fn on_engines(
    args: &DirectArgs,
    begin: impl AsyncFnOnce(&Multiengine) -> Result<Vec<TaskOutcome>>,
    show: impl Fn(&TaskResult) -> Result<()>,
) -> Result<ExitCode> {
    let client: Client = args.connect.connect(DIRECT).await?;
    let work = async {
        let engines = client.multiengine(EngineTargets::from(args.targets.clone()));
        let ends = begin(&engines).await?;
        let mut refused = BTreeSet::new();
        for end in &ends {
            match end {
                Ok(result) => show(result)?,
                Err(failure) => ended::print_direct_failure(failure, &mut refused),
            }
        }
        Ok(if ends.iter().all(Result::is_ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    interrupt::or_cancel(&client, work).await
}

/// Reads `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, Box<RawValue>), String> {
    let wrong =
        || format!("`{text}`: a variable is NAME=VALUE, and a name has letters, digits and `_`");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let is_name = name.chars().all(|it| it.is_alphanumeric() || it == '_')
        && name.chars().next().is_some_and(|it| !it.is_ascii_digit());
    let value = serde_json::from_str(value)
        .or_else(|_| to_raw_value(value))
        .map_err(|error| error.to_string())?;
    is_name.then(|| (name.to_owned(), value)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_json_or_else_a_string() {
        for (text, name, value) in [
            ("n=3", "n", "3"),
            ("name=Ada", "name", r#""Ada""#),
            ("id=\"3\"", "id", r#""3""#),
            ("n=12345678901234567890123", "n", "12345678901234567890123"),
            ("x=1.10", "x", "1.10"),
            ("a=[1, 2]", "a", "[1, 2]"),
            ("b=x=y", "b", r#""x=y""#),
            ("_=", "_", r#""""#),
        ] {
            let (known, raw) = variable(text).unwrap();
            assert_eq!((known.as_str(), raw.get()), (name, value), "{text}");
        }
        for wrong in ["n", "=3", "1n=3", "a b=3", "a.b=3"] {
            assert!(variable(wrong).is_err(), "{wrong}");
        }
    }
}
