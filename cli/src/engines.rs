//! `furlong restart`, `signal` and `shutdown`: what is done to engines.

use anyhow::Result;
use furlong_client::{Client, EngineId, EngineTargets, Signal};
use furlong_wire::token::Role;

use crate::connect::{ConnectArgs, TargetsArg, targets};
use crate::exit::ExitCode;
use crate::namespace::DIRECT;
use crate::{interrupt, print, usage_error};

const AFTER_RESTART: &str = "\
The answer comes when the old interpreters have ended. What they ran ends as lost, and so does what is queued on them
and needs their namespace. An engine with tasks of another owner is restarted for an `admin` capability only.

Exit codes: 0 they have new interpreters; 1 an error: one of them is not there, or serves others; 2 wrong usage.

Examples:
  furlong restart all
  furlong restart 0,2";

const AFTER_SIGNAL: &str = "\
The signal reaches what your own tasks run there now: a command's processes, or the interpreter. Other tasks, and
engines that run nothing, are left alone. SIGINT interrupts Python code as Ctrl-C would.

Exit codes: 0 it was sent; 1 an error: one of the engines is not there; 2 wrong usage: no such signal.

Examples:
  furlong signal INT all
  furlong signal SIGUSR1 0,2
  furlong signal 9 3";

const AFTER_SHUTDOWN: &str = "\
Engines leave: what they run ends there, and shared work goes to others; with --finish they end what they run first, and
take nothing new. With --broker the broker ends too, and without ENGINES all engines with it. A cluster of `furlong
cluster start` starts again what ends: `furlong cluster stop` stops it. It needs an `admin` capability.

Exit codes: 0 they were told; 1 an error: not allowed, or one of the engines is not there; 2 wrong usage.

Examples:
  furlong shutdown 3 --finish
  furlong shutdown all
  furlong shutdown --broker";

/// Flags of `restart`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_RESTART, after_help = "`--help` says more, with examples.")]
pub struct RestartArgs {
    /// Engines: `all`, `3`, `0,2` or `1-3`
    #[arg(value_name = "ENGINES", value_parser = targets)]
    engines: TargetsArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Flags of `signal`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_SIGNAL, after_help = "`--help` says more, with examples.")]
pub struct SignalArgs {
    /// The signal: its name, as `INT` or `SIGINT`, or its number
    #[arg(value_name = "SIGNAL")]
    signal: Signal,
    /// Engines: `all`, `3`, `0,2` or `1-3`
    #[arg(value_name = "ENGINES", value_parser = targets)]
    engines: TargetsArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Flags of `shutdown`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_SHUTDOWN, after_help = "`--help` says more, with examples.")]
pub struct ShutdownArgs {
    /// Engines: `all`, `3`, `0,2` or `1-3`
    #[arg(value_name = "ENGINES", value_parser = targets)]
    engines: Option<TargetsArg>,
    /// Let them finish what they run
    #[arg(long)]
    finish: bool,
    /// Stop the broker, and all engines with it
    #[arg(long, conflicts_with = "engines")]
    broker: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Gives engines new interpreters.
pub async fn restart(args: RestartArgs) -> Result<ExitCode> {
    let client = args.connect.connect(DIRECT).await?;
    let work = async {
        let engines = client.multiengine(EngineTargets::from(args.engines.clone()));
        let ids = engines.engines().await?;
        // By their ids: nobody who comes meanwhile is meant.
        client.multiengine(EngineTargets::Ids(ids.clone())).restart().await?;
        say(&ids, "no engines are connected", "restarted")
    };
    interrupt::or_leave(&client, work).await
}

/// Sends a signal to what runs on engines.
pub async fn signal(args: SignalArgs) -> Result<ExitCode> {
    let client = args.connect.connect(DIRECT).await?;
    let work = async {
        client.multiengine(EngineTargets::from(args.engines.clone())).signal(args.signal).await?;
        Ok(ExitCode::SUCCESS)
    };
    interrupt::or_leave(&client, work).await
}

/// Stops engines, or the broker with them.
pub async fn shutdown(args: ShutdownArgs) -> Result<ExitCode> {
    let Some(targets) = &args.engines else {
        if !args.broker {
            return Err(usage_error(
                "name the engines to stop (`all` for all of them), or stop everything with --broker",
            ));
        }
        let client = args.connect.connect(&[Role::Admin]).await?;
        client.shutdown_cluster(args.finish).await?;
        client.close().await;
        print::line("the broker and its engines stop")?;
        return Ok(ExitCode::SUCCESS);
    };
    let client: Client = args.connect.connect(&[Role::Admin]).await?;
    let work = async {
        let ids = client.multiengine(EngineTargets::from(targets.clone())).engines().await?;
        client.shutdown(EngineTargets::Ids(ids.clone()), args.finish).await?;
        say(
            &ids,
            "no engines are connected",
            if args.finish { "leave when they are done" } else { "stop" },
        )
    };
    interrupt::or_leave(&client, work).await
}

fn say(ids: &[EngineId], none: &str, what: &str) -> Result<ExitCode> {
    let names = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match ids.len() {
        0 => print::line(none)?,
        1 => print::line(format!("engine {names}: {what}"))?,
        _ => print::line(format!("engines {names}: {what}"))?,
    }
    Ok(ExitCode::SUCCESS)
}
