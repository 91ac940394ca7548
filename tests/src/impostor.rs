//! Somebody with a broker's key who does not do a broker's work: it lets peers in, beats, and gives
//! no answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use furlong_host::private_file::write_private;
use furlong_link::dial::random_bytes;
use furlong_link::incoming::Incoming;
use furlong_link::peer::outbox::Outbox;
use furlong_link::pending::PendingPeer;
use furlong_link::stream::{WriteHalf, split};
use furlong_wire::capability::{Capability, ClusterName, Grant};
use furlong_wire::handshake::{ExpectStart, HelloBody};
use furlong_wire::ids::{BrokerStart, ClusterId, OwnerId, TaskSeq, TokenId};
use furlong_wire::keys::{IssuerKey, SecretKey};
use furlong_wire::message::{Accepted, FromClient, Greeting, ToClient, Welcome, encode_message};
use furlong_wire::record::{RecordSealer, SEQ_BYTES};
use furlong_wire::token::{Claims, Role, TokenLimits};
use furlong_wire::zmtp;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use crate::home::Home;
use crate::raw::{long_header, message};

/// The fate of a question, or of an engine's registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// Nothing.
    None,
    /// A frame that is longer than any may be.
    TooLong,
}

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Impostor {
    home: Home,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Impostor {
    /// Listens, with capabilities for clients and engines in a home of its own.
    ///
    /// # Panics
    /// If it cannot listen, or write into its home.
    pub fn start(answers: Answers) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (issuer, server_secret) =
            (IssuerKey::from_seed(random_bytes()), SecretKey::from_bytes(random_bytes()));
        let home = Home::new();
        std::fs::create_dir_all(home.cluster().security())
            .expect("a temporary folder can be written to");
        for role in [Role::Client, Role::Engine] {
            let capability = capability(&issuer, &server_secret, role, port);
            write_private(&home.cluster().capability(role), capability.to_json().as_bytes())
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let connections = Arc::<AtomicUsize>::default();
        let broker = Broker { cluster: ClusterId::of(&issuer.public()), server_secret, answers };
        runtime.spawn(listen(listener, Arc::new(broker), Arc::clone(&connections)));
        Self { home, connections, _runtime: runtime }
    }

    /// The home in which its capabilities are.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The number of peers that it has let in.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

struct Broker {
    cluster: ClusterId,
    server_secret: SecretKey,
    answers: Answers,
}

fn capability(issuer: &IssuerKey, server_secret: &SecretKey, role: Role, port: u16) -> Capability {
    let grant = Grant {
        owner: OwnerId([1; 16]),
        role,
        scopes: Vec::new(),
        limits: TokenLimits::default(),
        not_before_s: 1,
        expires_s: Claims::NEVER,
    };
    let endpoint = format!("tcp://127.0.0.1:{port}").parse().expect("an endpoint");
    let (token, holder) = (TokenId([2; 16]), SecretKey::from_bytes(random_bytes()));
    let server_key = server_secret.public();
    Capability::issue(
        issuer,
        ClusterName::default(),
        vec![endpoint],
        server_key,
        grant,
        token,
        holder,
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

async fn listen(listener: TcpListener, broker: Arc<Broker>, connections: Arc<AtomicUsize>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (broker, connections) = (Arc::clone(&broker), Arc::clone(&connections));
        tokio::spawn(async move { broker.serve(socket, &connections).await });
    }
}

impl Broker {
    /// Serves a peer until it has enough. None if that comes to nothing.
    async fn serve(&self, socket: TcpStream, connections: &AtomicUsize) -> Option<()> {
        let mut pending = PendingPeer::new(split(socket), zmtp::Role::Broker);
        pending.ready().await.ok()?;
        let expect =
            ExpectStart::new(&self.cluster, self.server_secret.expose(), random_bytes()).ok()?;
        let (second, expect) = expect.handle_start(&pending.receive().await.ok()?).ok()?;
        pending.send(&second).await.ok()?;
        let proof = expect.handle_proof(&pending.receive().await.ok()?).ok()?;
        let HelloBody { incarnation, role, .. } = proof.hello.body?;
        let (sealer, opener) = proof.keys.split();
        let (mut incoming, socket) = pending.prove(opener);
        connections.fetch_add(1, Ordering::Relaxed);
        let mut outbox =
            Outbox::new::<ToClient>(greet(self.welcome(incarnation), sealer, &socket).await.ok()?);
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                read = incoming.read() => {
                    let answers = match role {
                        _ if read.ok()? == 0 => return None,
                        Role::Engine => self.answers,
                        _ => self.handle(&mut incoming, &mut outbox)?,
                    };
                    if answers == Answers::TooLong {
                        return write(&socket, &long_header(0x02, 1 << 30)).await.ok();
                    }
                }
                _ = beat.tick() => outbox.push_heartbeat(),
            }
            socket.write_from(&mut outbox, usize::MAX).ok()?;
        }
    }

    fn welcome(&self, incarnation: u64) -> Welcome {
        Welcome {
            connection: 1,
            start: BrokerStart(1),
            cluster_name: "default".to_owned(),
            cluster: self.cluster,
            software: "an impostor".to_owned(),
            heartbeat_idle_ms: 5_000,
            heartbeat_dead_ms: 15_000,
            unfinished_tasks_max: 1_000,
            payload_credit_bytes: 1 << 20,
            resumed: incarnation > 1,
            memory_flag: "--memory".to_owned(),
        }
    }

    /// Hears what a client says, and what becomes of its questions.
    fn handle(&self, incoming: &mut Incoming, outbox: &mut Outbox) -> Option<Answers> {
        let mut answers = Answers::None;
        while let Some(record) = incoming.poll_record().ok()? {
            for message in record.into_messages::<FromClient>() {
                match message.ok()?.0 {
                    FromClient::Open(_) => {
                        let accepted = Accepted {
                            n: TaskSeq::MIN,
                            missing: Vec::new(),
                            definitions: Vec::new(),
                        };
                        outbox.push(&ToClient::Accepted(accepted));
                    }
                    FromClient::Query(_) => answers = self.answers,
                    _ => {}
                }
            }
        }
        Some(answers)
    }
}

/// Sends the first record.
async fn greet(
    welcome: Welcome,
    mut sealer: RecordSealer,
    socket: &WriteHalf,
) -> io::Result<RecordSealer> {
    let mut envelope = vec![0; SEQ_BYTES];
    encode_message(&Greeting::Welcome(welcome), &mut envelope);
    sealer.seal::<&[u8]>(&mut envelope, 0, &[]);
    write(socket, &message(&[&envelope])).await?;
    Ok(sealer)
}

async fn write(socket: &WriteHalf, bytes: &[u8]) -> io::Result<()> {
    socket.writable().await?;
    // A fresh socket takes far more at once.
    socket.try_write(bytes).map(|_| ())
}

/// The interval of its heartbeats.
const BEAT: Duration = Duration::from_secs(1);
