//! `furlong gateway`: the farm for plain ZeroMQ programs, served by this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Result, bail};
use base64ct::{Base64UrlUnpadded, Encoding};
use furlong_gateway::{Door, serve};
use furlong_host::bearer::BearerToken;
use furlong_host::home::{ClusterDir, Home};
use furlong_host::private_file::{ensure_private_dir, write_private};
use furlong_wire::token::Role;

use crate::connect::ConnectArgs;
use crate::exit::ExitCode;
use crate::print;

/// Flags of `gateway`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Whoever may open the socket, or has the token, works with the authority of the capability. Requests and answers are
in docs/guide/gateway.md.

Exit codes: 0 it was told to stop; 1 an error, or the farm has ended; 2 wrong usage.

Examples:
  furlong gateway
  furlong gateway --socket ~/private/farm.sock
  furlong gateway --port 8200")]
pub struct GatewayArgs {
    /// Serve this Unix socket, in a folder of mode 0700; by default gateway.sock in the cluster's
    /// folder
    #[arg(long, value_name = "PATH", conflicts_with_all = ["port", "listen"])]
    socket: Option<PathBuf>,
    /// Serve this port of 127.0.0.1 in place of a socket, for who has the token; 0 for any free one
    #[arg(long, value_name = "N", conflicts_with = "listen")]
    port: Option<u16>,
    /// The same at another loopback address
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// End with the process that holds the other end of standard input
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Serves until it is told to stop.
pub async fn run(args: GatewayArgs) -> Result<ExitCode> {
    let cluster = args.connect.cluster.clone().unwrap_or_default();
    let dir = Home::from_env()?.cluster(&cluster);
    let (door, token) = open(&args, &dir).await?;
    let client = args.connect.connect(&[Role::Client, Role::Admin]).await?;
    print::line(format!("gateway   {}", door.endpoint()))?;
    if let Some(token) = &token {
        print::line(format!("token     {}", token.path.display()))?;
    }
    let stop = async {
        furlong_host::stop::requested(args.stop_with_stdin).await;
    };
    let was_told = serve(&client, door, stop).await;
    if !was_told {
        bail!("the session with the farm has ended; start the gateway again when the farm is back");
    }
    // Detached tasks go on.
    client.detach().await?;
    Ok(ExitCode::SUCCESS)
}

/// The file with the token: programs read it, and it goes with the gateway.
#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn open(args: &GatewayArgs, dir: &ClusterDir) -> Result<(Door, Option<TokenFile>)> {
    ensure_private_dir(dir.path())?;
    ensure_private_dir(&dir.run())?;
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    if let Some(address) = args.listen.or(args.port.map(local)) {
        let text = Base64UrlUnpadded::encode_string(&rand::random::<[u8; 32]>());
        let door = Door::tcp(address, BearerToken::new(&text)).await?;
        // Named by its port, so that several gateways each have their own.
        let port = door.endpoint().rsplit(':').next().unwrap_or_default();
        let path = dir.run().join(format!("gateway-{port}.token"));
        write_private(&path, text.as_bytes())?;
        return Ok((door, Some(TokenFile { path })));
    }
    let path = args.socket.clone().unwrap_or_else(|| dir.run().join("gateway.sock"));
    Ok((Door::socket(&path)?, None))
}
