//! `furlong dashboard`: the page of the farm, served by this process.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use furlong_client::LinkEvent;
use furlong_dashboard::keys::Secret;
use furlong_dashboard::{Address, Connecting, Door, Farm, Page, Told};
use furlong_host::home::{ClusterDir, Home};
use furlong_host::private_file::{ensure_private_dir, read_private, write_private};
use furlong_wire::capability::ClusterName;
use serde::{Deserialize, Serialize};

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::exit::ExitCode;
use crate::print;
use crate::record;

/// Flags of `dashboard`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
It prints an address with a key that is good once and for 5 minutes; `furlong dashboard url` prints another one.
It needs the file observer.cap.json alone, which may look and nothing else, so it can run where the browser is.
With --cap of a client's file it also draws profiles of what its owner runs.

Exit codes: 0 it was told to stop; 1 an error; 2 wrong usage.

Examples:
  furlong dashboard
  furlong dashboard --port 8100
  furlong dashboard --listen 0.0.0.0:8100 --behind-proxy farm.example"
)]
pub struct DashboardArgs {
    #[command(subcommand)]
    command: Option<DashboardCommand>,
    /// Port on 127.0.0.1; by default any free one
    #[arg(long, value_name = "N", default_value = "0", conflicts_with_all = ["listen", "socket"])]
    port: u16,
    /// Serve a Unix socket that only this user can connect to; no key is asked for
    #[arg(long, value_name = "PATH", conflicts_with_all = ["listen", "hosts", "behind_proxy"])]
    socket: Option<PathBuf>,
    /// Serve another address than 127.0.0.1, for a proxy with HTTPS that `--behind-proxy` names
    #[arg(long, value_name = "ADDR:PORT", requires = "behind_proxy")]
    listen: Option<SocketAddr>,
    /// Name of the host, as browsers see it, whose proxy with HTTPS passes requests on to this one
    #[arg(long, value_name = "NAME", value_parser = host)]
    behind_proxy: Option<String>,
    /// Another name and port under which browsers may ask for the page, as a tunnel's end; repeat
    /// the flag for more
    #[arg(long = "host", value_name = "NAME:PORT", value_parser = host)]
    hosts: Vec<String>,
    /// End with the process that holds the other end of standard input
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Commands about a page that is served.
#[derive(Debug, clap::Subcommand)]
enum DashboardCommand {
    /// Print an address with a new key, for the page that is served
    #[command(after_help = "\
Exit codes: 0 printed; 1 no page is served; 2 wrong usage.

Example: furlong dashboard url")]
    Url {
        /// Name of the cluster
        #[arg(long, value_name = "NAME", default_value_t)]
        cluster: ClusterName,
    },
}

/// `run/dashboard.json`: where the page is served, and the secret from which its keys are made.
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    pid: u32,
    address: SocketAddr,
    /// The address for browsers, without a key.
    url: String,
    secret: String,
}

/// Bytes of that file at most.
const FILE_BYTES_MAX: u64 = 4096;
/// The time limit for a page to take a connection.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A host as it stands in a request: a name, and perhaps a port.
fn host(text: &str) -> Result<String, String> {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-._:[]".contains(it);
    if !text.is_empty() && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("a name, or NAME:PORT, as browsers show it".to_owned())
    }
}

/// Serves the page, or prints an address of one that is served.
pub async fn run(args: DashboardArgs) -> Result<ExitCode> {
    match &args.command {
        Some(DashboardCommand::Url { cluster }) => {
            print::line(url(&Home::from_env()?.cluster(cluster))?)?;
            Ok(ExitCode::SUCCESS)
        }
        None => serve(args).await,
    }
}

/// An address with a new key, for the page of this cluster.
///
/// # Errors
/// No page is served.
pub fn url(dir: &ClusterDir) -> Result<String> {
    let none = || format!("no page of cluster {} is served; `furlong dashboard` does", dir.name());
    let text = read_private(&file(dir), FILE_BYTES_MAX).with_context(none)?;
    let served: Served = serde_json::from_str(&text).with_context(none)?;
    let secret = Secret::from_text(&served.secret).with_context(none)?;
    let is_there = TcpStream::connect_timeout(&served.address, ANSWERS_WITHIN).is_ok();
    ensure!(is_there, none());
    Ok(with_key(&served.url, &secret))
}

/// The port at which the page of a cluster is served, as far as its file knows.
pub fn port(dir: &ClusterDir) -> Option<u16> {
    served(dir).map(|served| served.address.port())
}

/// In the fragment, which a browser sends nowhere and writes into no log of a proxy.
fn with_key(url: &str, secret: &Secret) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{url}#key={}", secret.new_key(now.as_secs()))
}

fn file(dir: &ClusterDir) -> PathBuf {
    dir.run().join("dashboard.json")
}

async fn serve(args: DashboardArgs) -> Result<ExitCode> {
    let secret = Secret::random();
    let page = Page::open(farm(args.connect.clone())).await.map_err(|error| anyhow!(error))?;
    let door = door(&args, secret.clone()).await?;
    let cluster = args.connect.cluster.clone().unwrap_or_default();
    let dir = Home::from_env()?.cluster(&cluster);
    let is_written = match door.address() {
        Address::Socket(path) => {
            print::line(format!("page      {}", path.display()))?;
            false
        }
        Address::Tcp(address) => {
            let url = match &args.behind_proxy {
                Some(name) => format!("https://{name}/"),
                None => format!("http://{address}/"),
            };
            let (pid, secret_text) = (std::process::id(), secret.to_text());
            let address = loopback(*address);
            let served = Served { pid, address, url: url.clone(), secret: secret_text };
            ensure_private_dir(dir.path())?;
            ensure_private_dir(&dir.run())?;
            write_private(&file(&dir), &serde_json::to_vec_pretty(&served)?)?;
            print::line(format!("page      {}", with_key(&url, &secret)))?;
            true
        }
    };
    if std::io::stdout().is_terminal() {
        print::line(
            "(open it within 5 minutes, once; `furlong dashboard url` prints another; Ctrl-C ends)",
        )?;
    }
    page.serve(door, furlong_host::stop::requested(args.stop_with_stdin)).await;
    if is_written && is_served_by(&dir, std::process::id()) {
        let _ = std::fs::remove_file(file(&dir));
    }
    Ok(ExitCode::SUCCESS)
}

/// The address at which this machine reaches itself there.
fn loopback(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

/// Returns true if the page of a cluster that was started last is served by this process.
pub fn is_served_by(dir: &ClusterDir, pid: u32) -> bool {
    served(dir).is_some_and(|served| served.pid == pid)
}

fn served(dir: &ClusterDir) -> Option<Served> {
    let text = read_private(&file(dir), FILE_BYTES_MAX).ok()?;
    serde_json::from_str(&text).ok()
}

async fn door(args: &DashboardArgs, secret: Secret) -> Result<Door> {
    if let Some(path) = &args.socket {
        return Door::socket(path)
            .with_context(|| format!("the socket {} cannot be made", path.display()));
    }
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), args.port);
    let address = args.listen.unwrap_or(local);
    Door::at(address, &args.hosts, args.behind_proxy.as_deref(), secret)
        .await
        .with_context(|| format!("{address} cannot be used"))
}

/// The way to the farm.
fn farm(connect: ConnectArgs) -> Farm {
    let capability = connect.capability(OBSERVERS);
    let may_profile = capability.is_ok_and(|capability| capability.role().may_cancel());
    let connect = move |told: Told| -> Connecting {
        let connect = connect.clone();
        Box::pin(async move {
            let told = Arc::clone(&told);
            let told = move |event: &LinkEvent| told(event);
            connect.connect_telling(OBSERVERS, told).await.map_err(|error| format!("{error:#}"))
        })
    };
    Farm { connect: Box::new(connect), record: record::as_json, may_profile }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        for good in ["farm.example", "127.0.0.1:8100", "[::1]:8100"] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        for wrong in ["", "https://farm.example", "a b", "a/b", "a\r\nb"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
