//! Very many engines that go and come: for how long the broker serves nobody else, and how soon all
//! are back.
//!
//! ```text
//! furlong-crowd cut [ENGINES [PROCESSES [SUBSCRIBERS]]]
//! furlong-crowd restart [ENGINES [BROKER-FLAG...]]
//! ```
//!
//! `cut` lets all engines lose their connections in one moment, come back, lose them for good, and
//! come back after that, while a client asks one short question after the other: the longest of
//! these took as long as the broker was busy. The quiet figure beside it says what the machine
//! itself does. `restart` kills the broker, starts it again, and says when the engines are back,
//! which are processes of one engine each. It needs more descriptors than engines. The engines are
//! the programs' own link with nothing behind it.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use furlong_link::dial::{Dialed, dial, random_bytes};
use furlong_link::incoming::Incoming;
use furlong_link::outgoing::Written;
use furlong_link::peer::backoff::Backoff;
use furlong_link::peer::outbox::Outbox;
use furlong_link::stream::WriteHalf;
use furlong_tests::engine::register;
use furlong_tests::farm::Farm;
use furlong_tests::measure::{cpu_seconds, rss_bytes, rss_peak_bytes};
use furlong_wire::capability::Capability;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{SessionId, TaskSeq};
use furlong_wire::message::{
    Direction, Event, FromClient, FromEngine, Open, Query, Register, Subscribe, TaskQuery,
    ToClient, ToEngine,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::Role;
use tokio::sync::watch;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default| {
        args.get(place).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    match args.first().map(String::as_str) {
        Some("cut") => cut(number(1, 16_000), number(2, 16), number(3, 4)),
        Some("restart") => restart(number(1, 1_000), args.get(2..).unwrap_or_default()),
        _ => {
            eprintln!(
                "usage: furlong-crowd cut [ENGINES [PROCESSES [SUBSCRIBERS]]] | restart [ENGINES [FLAG...]]"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// All engines are cut off and come back, twice.
fn cut(engines: usize, processes: usize, subscribers: usize) {
    let farm = Farm::start_with(&["--tcp-only"]);
    let mut question = Question::begin(&farm);
    let told = Arc::new(AtomicUsize::new(0));
    let crowd = Crowd::new(farm.capability(Role::Engine), processes, engines / processes);
    for _ in 0..subscribers {
        crowd.runtime.spawn(subscriber(farm.capability(Role::Client), told.clone()));
    }
    std::thread::sleep(Duration::from_secs(1));
    question.report("quiet");
    crowd.come();
    crowd.wait_for(processes);
    question.report(&format!("{engines} engines come"));
    let before = rss_bytes(farm.pid());
    std::thread::sleep(Duration::from_secs(1));
    question.report("quiet, with them");
    crowd.go();
    std::thread::sleep(Duration::from_secs(1));
    question.report("all go");
    crowd.come();
    crowd.wait_for(processes);
    question.report("all come back");
    crowd.go();
    std::thread::sleep(Duration::from_secs(17));
    question.report("all go, and are given up after 15 s");
    crowd.come();
    crowd.wait_for(processes);
    question.report("all come back once more");
    let growth = rss_peak_bytes(farm.pid()).saturating_sub(before);
    println!(
        "memory with all engines {} MiB; grew by {} KiB after that",
        before >> 20,
        growth >> 10
    );
    std::thread::sleep(Duration::from_secs(1));
    println!("events that came to {subscribers} subscribers: {}", told.load(Ordering::Relaxed));
}

/// The broker is killed and started again.
fn restart(engines: usize, flags: &[String]) {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut farm = Farm::start_with(&flags);
    let crowd = Crowd::new(farm.capability(Role::Engine), engines, 1);
    let began = Instant::now();
    crowd.come();
    crowd.wait_for(engines);
    println!("{engines} engines are here after {:.2} s", began.elapsed().as_secs_f64());
    for _ in 0..3 {
        let killed = Instant::now();
        farm.restart_after_sigkill();
        let started = Instant::now();
        // Those whose connections were cut have noticed by then.
        crowd.wait_for_half(engines);
        let half = started.elapsed();
        crowd.wait_for(engines);
        let (down, all) = ((started - killed).as_secs_f64(), started.elapsed().as_secs_f64());
        let (half, cpu) = (half.as_secs_f64(), cpu_seconds(farm.pid()));
        println!(
            "broker back {down:.2} s after it was killed; half of the engines {half:.2} s after that, all {all:.2} s"
        );
        println!("    it has used {cpu:.2} s of a processor");
    }
}

/// Engine processes, in threads of this one.
struct Crowd {
    runtime: tokio::runtime::Runtime,
    is_wanted: watch::Sender<bool>,
    here: Arc<AtomicUsize>,
}

impl Crowd {
    fn new(capability: Capability, processes: usize, slots: usize) -> Self {
        let capability = Arc::new(capability);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a tokio runtime");
        let (is_wanted, _) = watch::channel(false);
        let here = Arc::new(AtomicUsize::new(0));
        for number in 1..=processes {
            let process =
                Process::new(capability.clone(), register(number as u32, slots), here.clone());
            runtime.spawn(process.run(is_wanted.subscribe()));
        }
        Self { runtime, is_wanted, here }
    }

    fn come(&self) {
        self.is_wanted.send_replace(true);
    }

    fn go(&self) {
        self.is_wanted.send_replace(false);
        self.until(|here| here == 0);
    }

    fn wait_for(&self, processes: usize) {
        self.until(|here| here == processes);
    }

    fn wait_for_half(&self, processes: usize) {
        self.until(|here| here < processes / 10);
        self.until(|here| here >= processes / 2);
    }

    fn until(&self, is_so: impl Fn(usize) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so(self.here.load(Ordering::Relaxed)) {
            assert!(
                Instant::now() < end,
                "{} processes are here",
                self.here.load(Ordering::Relaxed)
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// An engine process that runs nothing.
struct Process {
    capability: Arc<Capability>,
    session: SessionId,
    register: Register,
    here: Arc<AtomicUsize>,
}

impl Process {
    fn new(capability: Arc<Capability>, register: Register, here: Arc<AtomicUsize>) -> Self {
        Self { capability, session: SessionId(random_bytes()), register, here }
    }

    async fn run(self, mut is_wanted: watch::Receiver<bool>) {
        let (mut incarnation, mut backoff) = (0, Backoff::default());
        while is_wanted.wait_for(|wanted| *wanted).await.is_ok() {
            incarnation += 1;
            if let Ok(mut peer) =
                Peer::dial::<FromEngine>(&self.capability, self.session, incarnation).await
            {
                backoff.reset();
                self.stay(&mut peer, &mut is_wanted).await;
            }
            tokio::time::sleep(backoff.next_wait(u64::from_le_bytes(random_bytes()))).await;
        }
    }

    /// Until the connection is cut, or the process shall cut it.
    async fn stay(&self, peer: &mut Peer, is_wanted: &mut watch::Receiver<bool>) {
        if peer.send(&FromEngine::Register(Box::new(self.register.clone()))).await.is_err() {
            return;
        }
        let mut is_here = false;
        let end = async {
            while let Ok(messages) = peer.receive::<ToEngine>().await {
                if !is_here
                    && messages.iter().any(|message| matches!(message, ToEngine::Registered(_)))
                {
                    is_here = true;
                    self.here.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        tokio::select! {
            () = end => {}
            _ = is_wanted.wait_for(|wanted| !*wanted) => {}
        }
        if is_here {
            self.here.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Counts the events that come.
async fn subscriber(capability: Capability, told: Arc<AtomicUsize>) {
    let session = SessionId(random_bytes());
    let mut peer = Peer::dial::<FromClient>(&capability, session, 1).await.expect("it is let in");
    let open = Open {
        secret: PayloadSecret::new(random_bytes()),
        cancel_on_disconnect: false,
        submitted: TaskSeq::MIN,
        hides_names: false,
    };
    peer.send(&FromClient::Open(open)).await.expect("the broker reads");
    peer.send(&FromClient::Subscribe(Subscribe { engines: true })).await.expect("the broker reads");
    while let Ok(messages) = peer.receive::<ToClient>().await {
        let is_event = |message: &&ToClient| {
            matches!(message, ToClient::Event(Event::EngineOnline(_) | Event::EngineOffline(_)))
        };
        told.fetch_add(messages.iter().filter(is_event).count(), Ordering::Relaxed);
    }
}

/// A connection that sends heartbeats while it waits.
struct Peer {
    incoming: Incoming,
    socket: WriteHalf,
    outbox: Outbox,
}

/// Often enough for a peer that says nothing else.
const HEARTBEAT: Duration = Duration::from_secs(4);

impl Peer {
    async fn dial<M: Direction + 'static>(
        capability: &Capability,
        session: SessionId,
        incarnation: u64,
    ) -> Result<Self, String> {
        let hello = HelloBody {
            token: capability.token().as_bytes().to_vec(),
            session,
            incarnation,
            role: capability.role(),
            software: "furlong-crowd".to_owned(),
            abilities: 0,
        };
        let dialed = dial(capability.door(), &hello).await.map_err(|error| error.to_string())?;
        let Dialed { incoming, socket, sealer, .. } = dialed;
        Ok(Self { incoming, socket, outbox: Outbox::new::<M>(sealer) })
    }

    async fn send<M: Direction + 'static>(&mut self, message: &M) -> std::io::Result<()> {
        self.outbox.push(message);
        self.write().await
    }

    async fn write(&mut self) -> std::io::Result<()> {
        while self.socket.write_from(&mut self.outbox, usize::MAX)? != Written::All {
            self.socket.writable().await?;
        }
        Ok(())
    }

    /// The messages of the next records.
    async fn receive<R: Direction>(&mut self) -> Result<Vec<R>, String> {
        loop {
            let mut messages = Vec::new();
            while let Some(record) =
                self.incoming.poll_record().map_err(|error| error.to_string())?
            {
                messages.extend(
                    record.into_messages::<R>().filter_map(Result::ok).map(|(message, _)| message),
                );
            }
            while let Some(bytes) = self.incoming.poll_codec_output() {
                self.outbox.push_codec_bytes(bytes);
            }
            self.write().await.map_err(|error| error.to_string())?;
            if !messages.is_empty() {
                return Ok(messages);
            }
            match tokio::time::timeout(HEARTBEAT, self.incoming.read()).await {
                Ok(Ok(0)) => return Err("the broker closed the connection".to_owned()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => self.outbox.push_heartbeat(),
            }
        }
    }
}

/// A client that asks one question after the other.
struct Question {
    longest_us: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Question {
    fn begin(farm: &Farm) -> Self {
        let mut good = farm.good(Role::Client);
        let (longest_us, asked, is_over) = (Arc::default(), Arc::default(), Arc::default());
        let mut question = Self { longest_us, asked, is_over, thread: None };
        let (longest_us, asked, is_over) =
            (question.longest_us.clone(), question.asked.clone(), question.is_over.clone());
        question.thread = Some(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let nothing = TaskQuery { limit: 1, ..TaskQuery::default() };
                good.ask(Query::Tasks(Box::new(nothing))).expect("the broker answers");
                longest_us.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
        question
    }

    /// Says how long the longest answer has taken since the last report.
    fn report(&mut self, what: &str) {
        let (longest_us, asked) =
            (self.longest_us.swap(0, Ordering::Relaxed), self.asked.swap(0, Ordering::Relaxed));
        println!("{what}: the longest of {asked} answers took {:.1} ms", longest_us as f64 / 1e3);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
