//! The baseline that Furlong's latency is measured against: a plain TCP relay with the broker's job
//! and nothing else.
//!
//! Three processes on loopback, as with the product: a client (the calling process), a relay in the
//! broker's place, and an echo in the engine's. No encryption, no ids, no queues to keep: what is
//! left is what the kernel and tokio cost, so the difference to `furlong bench latency` is what
//! Furlong itself costs.
//!
//! It is meant to be hard to beat. Every socket has `TCP_NODELAY`, a read of up to 64 KiB is cut
//! into all the messages that it holds without copying them, and a writer sends all that waits in
//! its channel with one call. Each direction is a reader task, a bounded channel and a writer task;
//! each process runs on tokio as it is by default ([`on_own_runtime`] has the measurement).
//!
//! A message is its length as `u32` little-endian, then that many bytes, of which the first eight
//! are the time of sending.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::program::Program;

/// The parameters of the measurement.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Bytes of each message, [`STAMP_BYTES`] to [`MESSAGE_BYTES_MAX`].
    pub size: usize,
    /// Round trips that are measured; a warm-up of 5 %, at most 2000, precedes them.
    pub count: usize,
    /// Messages on their way at any time. 1 measures latency, some hundreds throughput.
    pub window: usize,
    /// The threads of each process.
    pub threads: Threads,
}

/// The number of threads of each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Threads {
    /// As tokio has it by default: one for each core. The baseline.
    #[default]
    Cores,
    /// One: a harder baseline, since nothing is handed from thread to thread.
    One,
}

/// The results of the measurement.
#[derive(Clone, Debug)]
pub struct RelayFigures {
    /// Round trips measured, without the warm-up.
    pub count: usize,
    /// Bytes of each message.
    pub size: usize,
    /// Messages on their way at any time.
    pub window: usize,
    /// Median round trip of a message, from its entry into the client's queue to the reply's
    /// parsing, in microseconds.
    pub p50_us: f64,
    /// The same, 99th percentile.
    pub p99_us: f64,
    /// Round trips a second.
    pub per_s: f64,
    /// Payload bytes a second, counted in one direction.
    pub bytes_per_s: f64,
}

/// The part that a process started by [`measure`] plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RelayRole {
    /// Passes messages between its one client and the echo.
    Relay,
    /// Returns each message as it came.
    Echo,
}

/// Starts an echo and a relay, sends `count` messages through both and says how long that took.
///
/// The two processes are this program with the arguments of [`Node::start`]. They end with their
/// standard input, thus also when this process is killed.
pub async fn measure(options: &RelayOptions, program: &Program) -> anyhow::Result<RelayFigures> {
    ensure!(
        options.size >= STAMP_BYTES,
        "a message needs at least {STAMP_BYTES} bytes, for the time of sending"
    );
    ensure!(options.size <= MESSAGE_BYTES_MAX, "a message has at most {MESSAGE_BYTES_MAX} bytes");
    ensure!(options.count > 0 && options.window > 0, "count and window must be at least 1");
    let (options, program) = (options.clone(), program.clone());
    let threads = options.threads;
    on_own_runtime(threads, async move {
        let echo = Node::start(&program, RelayRole::Echo, threads, None).await?;
        let relay = Node::start(&program, RelayRole::Relay, threads, Some(echo.addr)).await?;
        let mut client = Client::connect(relay.addr, &options).await?;
        client.run((options.count / 20).min(WARM_UP_MAX)).await?;
        let began = Instant::now();
        let round_trips = client.run(options.count).await?;
        let figures = RelayFigures::of(&options, round_trips, began.elapsed());
        relay.stop().await?;
        echo.stop().await?;
        Ok(figures)
    })
    .await
}

/// Plays one part until standard input ends: binds a port of its own on loopback and prints the
/// address as one line.
///
/// `connect` is the echo's address, which the relay needs.
pub async fn run_relay_node(
    role: RelayRole,
    threads: Threads,
    connect: Option<SocketAddr>,
) -> anyhow::Result<()> {
    on_own_runtime(threads, async move {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
        crate::print::line(listener.local_addr()?.to_string())?;
        let parent_gone = tokio::task::spawn_blocking(|| {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        });
        tokio::select! {
            served = serve(role, &listener, connect) => served,
            _ = parent_gone => Ok(()),
        }
    })
    .await
}

/// Takes one connection after the other; a broken one is its client's trouble, which sees it.
async fn serve(
    role: RelayRole,
    listener: &TcpListener,
    connect: Option<SocketAddr>,
) -> anyhow::Result<()> {
    loop {
        let (near, _) = listener.accept().await.context("cannot accept")?;
        near.set_nodelay(true)?;
        let (near_reader, near_writer) = near.into_split();
        match role {
            RelayRole::Echo => pass(near_reader, near_writer),
            RelayRole::Relay => {
                let addr = connect.context("the relay needs the echo's address")?;
                let (far_reader, far_writer) = dial(addr).await?.into_split();
                pass(near_reader, far_writer);
                pass(far_reader, near_writer);
            }
        }
    }
}

/// Passes every message of `from` on to `to`: a reader task, a channel, a writer task.
fn pass(from: OwnedReadHalf, to: OwnedWriteHalf) {
    let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES);
    tokio::spawn(async move {
        let mut frames = Frames::new(from);
        while let Ok(true) = frames.fill().await {
            while let Ok(Some(frame)) = frames.next() {
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        }
    });
    tokio::spawn(write_all_queued(receiver, to));
}

/// Writes what the channel holds, everything that waits with one call, until the channel or the
/// connection ends.
async fn write_all_queued(
    mut queue: mpsc::Receiver<Bytes>,
    mut to: OwnedWriteHalf,
) -> std::io::Result<()> {
    let mut waiting = Vec::with_capacity(QUEUE_MESSAGES);
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    while queue.recv_many(&mut waiting, QUEUE_MESSAGES).await > 0 {
        for frame in waiting.drain(..) {
            // A small frame is cheaper to copy than to name in an `iovec`; a large one goes out
            // from where it lies.
            let is_large = frame.len() > COPY_BYTES_MAX;
            if is_large || buffer.len() + frame.len() > BUFFER_BYTES {
                to.write_all(&buffer).await?;
                buffer.clear();
            }
            if is_large {
                to.write_all(&frame).await?;
            } else {
                buffer.extend_from_slice(&frame);
            }
        }
        to.write_all(&buffer).await?;
        buffer.clear();
    }
    Ok(())
}

/// A connection's input, cut into frames. `fill` reads once; `next` hands out what that completed.
struct Frames {
    from: OwnedReadHalf,
    buffer: BytesMut,
}

impl Frames {
    fn new(from: OwnedReadHalf) -> Self {
        Self { from, buffer: BytesMut::with_capacity(BUFFER_BYTES) }
    }

    /// Waits for bytes; `false` at the end of the stream.
    async fn fill(&mut self) -> std::io::Result<bool> {
        // Reserving only when little is left lets one allocation take many small reads.
        if self.buffer.capacity() - self.buffer.len() < BUFFER_BYTES / 4 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        Ok(self.from.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next complete frame, its length included, as a reference into the read buffer.
    fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        ensure!(
            length <= MESSAGE_BYTES_MAX,
            "a message of {length} bytes: more than {MESSAGE_BYTES_MAX}"
        );
        let frame_bytes = LENGTH_BYTES + length;
        if self.buffer.len() < frame_bytes {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(frame_bytes).freeze()))
    }
}

/// The measuring end. Its own task reads; a writer task sends, as everywhere else.
struct Client {
    frames: Frames,
    queue: mpsc::Sender<Bytes>,
    scratch: BytesMut,
    epoch: Instant,
    size: usize,
    window: usize,
}

impl Client {
    async fn connect(addr: SocketAddr, options: &RelayOptions) -> anyhow::Result<Self> {
        let (reader, writer) = dial(addr).await?.into_split();
        // As deep as the window, so that putting a message in never has to wait: a client that
        // stopped reading in order to send could lock up the whole ring.
        let (queue, receiver) = mpsc::channel(options.window);
        tokio::spawn(write_all_queued(receiver, writer));
        Ok(Self {
            frames: Frames::new(reader),
            queue,
            scratch: BytesMut::new(),
            epoch: Instant::now(),
            size: options.size,
            window: options.window,
        })
    }

    /// Sends `count` messages with at most `window` on their way, and returns each one's round
    /// trip.
    async fn run(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut round_trips = Vec::with_capacity(count);
        let mut sent = 0;
        while round_trips.len() < count {
            while sent < count && sent - round_trips.len() < self.window {
                let message = self.stamped();
                self.queue
                    .try_send(message)
                    .context("the writer stopped: the relay closed the connection")?;
                sent += 1;
            }
            ensure!(self.frames.fill().await?, "the relay closed the connection");
            while let Some(frame) = self.frames.next()? {
                round_trips.push(self.round_trip(&frame)?);
            }
        }
        Ok(round_trips)
    }

    /// A frame that carries the time of its making. Many share one allocation.
    fn stamped(&mut self) -> Bytes {
        let frame_bytes = LENGTH_BYTES + self.size;
        if self.scratch.capacity() < frame_bytes {
            self.scratch.reserve(frame_bytes.max(BUFFER_BYTES));
        }
        self.scratch.put_u32_le(self.size as u32);
        self.scratch.put_u64_le(self.epoch.elapsed().as_nanos() as u64);
        self.scratch.put_bytes(0, self.size - STAMP_BYTES);
        self.scratch.split().freeze()
    }

    fn round_trip(&self, frame: &[u8]) -> anyhow::Result<Duration> {
        let body = &frame[LENGTH_BYTES..];
        ensure!(body.len() == self.size, "sent {} bytes, got {} back", self.size, body.len());
        let stamp = body.first_chunk::<STAMP_BYTES>().context("a reply without a time")?;
        Ok(self.epoch.elapsed().saturating_sub(Duration::from_nanos(u64::from_le_bytes(*stamp))))
    }
}

/// A relay or an echo in a process of its own.
struct Node {
    child: Child,
    addr: SocketAddr,
}

impl Node {
    /// Runs `<this program> bench relay-node --role ROLE --threads T [--connect ADDR]` and reads
    /// the address from its first line.
    async fn start(
        program: &Program,
        role: RelayRole,
        threads: Threads,
        connect: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::from(program.command()?);
        command.args(["bench", "relay-node", "--role"]);
        command.arg(match role {
            RelayRole::Relay => "relay",
            RelayRole::Echo => "echo",
        });
        command.args(["--threads", if threads == Threads::One { "one" } else { "cores" }]);
        if let Some(addr) = connect {
            command.arg("--connect").arg(addr.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("cannot start the {role:?} process"))?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let mut line = String::new();
        tokio::time::timeout(START_MAX, BufReader::new(stdout).read_line(&mut line))
            .await
            .with_context(|| {
                format!("the {role:?} process said no address within {START_MAX:?}")
            })??;
        let addr = line
            .trim()
            .parse()
            .with_context(|| format!("the {role:?} process said {line:?}, not its address"))?;
        Ok(Self { child, addr })
    }

    /// Ends the process by closing its standard input, and waits for it.
    async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = tokio::time::timeout(START_MAX, self.child.wait())
            .await
            .context("a process did not end")??;
        ensure!(status.success(), "a process of the relay ended with {status}");
        Ok(())
    }
}

impl RelayFigures {
    fn of(options: &RelayOptions, mut round_trips: Vec<Duration>, elapsed: Duration) -> Self {
        round_trips.sort_unstable();
        let per_s = options.count as f64 / elapsed.as_secs_f64();
        Self {
            count: options.count,
            size: options.size,
            window: options.window,
            p50_us: percentile_us(&round_trips, 50),
            p99_us: percentile_us(&round_trips, 99),
            per_s,
            bytes_per_s: per_s * options.size as f64,
        }
    }
}

/// Nearest-rank percentile of sorted durations, in microseconds; zero of none.
fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |duration| duration.as_secs_f64() * 1e6)
}

async fn dial(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream =
        TcpStream::connect(addr).await.with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Runs the future on a runtime of its own, whatever runtime the program has.
///
/// By default that is tokio's multi-threaded one, which a plain relay would be written on. With one
/// thread it is faster. Measured on a virtual machine of two cores, 96 bytes, medians of nine runs
/// each in turn: 1.73 with one thread against 1.15 M round trips/s, window 1000; a median round
/// trip of 168 against 171 us. Compare only with figures taken in turn with these, on the same
/// cores.
async fn on_own_runtime<T, F>(threads: Threads, future: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let mut runtime = match threads {
        Threads::Cores => tokio::runtime::Builder::new_multi_thread(),
        Threads::One => tokio::runtime::Builder::new_current_thread(),
    };
    // Spawned, so that it runs on the runtime's own threads.
    let run = move || runtime.enable_all().build()?.block_on(async { tokio::spawn(future).await? });
    tokio::task::spawn_blocking(run).await.context("the relay's thread panicked")?
}

/// Bytes of the length before each message.
const LENGTH_BYTES: usize = 4;
/// Bytes of the time of sending, nanoseconds since the client's start: the least size of a message.
pub const STAMP_BYTES: usize = 8;
/// A length above this is an error of the peer, not a request for memory.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Of a read buffer, and of what a writer gathers for one call.
const BUFFER_BYTES: usize = 64 << 10;
/// Larger frames are written from where they lie.
const COPY_BYTES_MAX: usize = 8 << 10;
/// Messages between a reader and its writer. A full queue stops the reader, thus TCP, thus the
/// sender.
const QUEUE_MESSAGES: usize = 1024;
/// Messages before the measurement, at most.
const WARM_UP_MAX: usize = 2000;
/// The time limit for a child to say its address, or to end.
const START_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert!((percentile_us(&sorted, 50) - 50.0).abs() < 1e-6);
        assert!((percentile_us(&sorted, 99) - 99.0).abs() < 1e-6);
        assert!((percentile_us(&sorted[..1], 99) - 1.0).abs() < 1e-6);
        assert!(percentile_us(&[], 99).abs() < 1e-6);
    }

    #[tokio::test]
    async fn messages_pass_a_relay_and_come_back_from_the_echo() -> anyhow::Result<()> {
        let echo = TcpListener::bind(("127.0.0.1", 0)).await?;
        let relay = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (echo_addr, relay_addr) = (echo.local_addr()?, relay.local_addr()?);
        tokio::spawn(async move { serve(RelayRole::Echo, &echo, None).await });
        tokio::spawn(async move { serve(RelayRole::Relay, &relay, Some(echo_addr)).await });
        for size in [STAMP_BYTES, 96, COPY_BYTES_MAX, 3 * BUFFER_BYTES] {
            let options = RelayOptions { size, count: 300, window: 7, threads: Threads::default() };
            let round_trips =
                Client::connect(relay_addr, &options).await?.run(options.count).await?;
            assert_eq!(round_trips.len(), options.count);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_huge_length_is_refused() -> anyhow::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut peer = dial(listener.local_addr()?).await?;
        let (reader, _writer) = listener.accept().await?.0.into_split();
        peer.write_all(&u32::MAX.to_le_bytes()).await?;
        let mut frames = Frames::new(reader);
        assert!(frames.fill().await?);
        assert!(frames.next().is_err());
        Ok(())
    }
}
