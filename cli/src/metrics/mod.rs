//! `furlong metrics`: what a monitoring system reads of a farm, in the format of `OpenMetrics`.
//!
//! The sums are the broker's, so a total never falls when an engine goes. Labels are few: the kinds
//! with most time have their names, all others are `other`, and no task or session is a label.

mod list;
mod scrape;
mod serve;
mod view;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::replaced::replace;
use crate::{print, usage_error};
use serve::{Door, read_token};

/// Flags of `metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`--listen` answers `GET /metrics`, for Prometheus and what reads its format. A broker that is away is `furlong_up 0` there.
Names and labels are in docs/guide/metrics.md, and `--list` prints them. contrib/ has a dashboard for Grafana and alerts.
A node exporter reads the text file (`--collector.textfile.directory`).

Exit codes: 0 printed; 1 an error; 2 wrong usage.

Examples:
  furlong metrics --listen 127.0.0.1:9464
  furlong metrics --textfile /var/lib/node_exporter/furlong.prom")]
pub struct MetricsArgs {
    /// Serve scrapes over HTTP at this address, which must be one of this machine alone unless
    /// there is a token
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "textfile")]
    listen: Option<SocketAddr>,
    /// Answer only scrapes with this private file's bearer token (Prometheus: `credentials_file`)
    #[arg(long, value_name = "FILE", requires = "listen")]
    token_file: Option<PathBuf>,
    /// Write this file again and again, in one step each time, instead of printing once
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Seconds between two times that the file is written
    #[arg(long, value_name = "SECONDS", default_value = "15",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Print the metrics' names, types, labels and meanings instead, as a table
    #[arg(long, conflicts_with_all = ["listen", "textfile"])]
    list: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The mode of the file: another user's program reads it.
const READABLE: u32 = 0o644;

/// Prints the metrics, writes them to a file or serves them until it is told to stop.
pub async fn run(args: MetricsArgs) -> Result<ExitCode> {
    if args.list {
        print::lines(list::table().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(address) = args.listen {
        return listen(address, args.token_file.as_deref(), args.connect).await;
    }
    let client = args.connect.connect(OBSERVERS).await?;
    let mut look = scrape::Looking::default();
    let Some(path) = &args.textfile else {
        print::lines(look.at(&client).await?.trim_end())?;
        client.close().await;
        return Ok(ExitCode::SUCCESS);
    };
    loop {
        replace(path, look.at(&client).await?.as_bytes(), Some(READABLE))?;
        tokio::time::sleep(Duration::from_secs(args.every)).await;
    }
}

async fn listen(
    address: SocketAddr,
    token_file: Option<&Path>,
    connect: ConnectArgs,
) -> Result<ExitCode> {
    if token_file.is_none() && !address.ip().is_loopback() {
        return Err(usage_error(
            "others than this machine can reach this address: use --token-file, or 127.0.0.1",
        ));
    }
    let token = token_file.map(read_token).transpose()?;
    let door = Door::open(address, token).await?;
    print::line(format!("metrics http://{}{}", door.address(), serve::PATH))?;
    door.serve(connect).await;
    Ok(ExitCode::SUCCESS)
}
