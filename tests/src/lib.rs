//! The harness of the black-box tests: the real programs as child processes, in folders of their
//! own, and peers that speak the protocol to them, well or badly.
//!
//! - [`home::Home`] is a temporary `FURLONG_HOME`, [`program::Program`] a child process whose lines
//!   are captured, and [`farm::Farm`] a broker that runs in such a home. All of them clean up when
//!   they are dropped.
//! - [`command`] runs `furlong` and the other programs to their end, and starts clusters with it.
//! - [`raw::RawPeer`] is a bare TCP connection for bytes that no honest peer sends,
//!   [`session::RawSession`] the same after a handshake, where records can be forged.
//!   [`good::Good`] is an honest peer, made with the programs' own code.
//! - [`engine::RawEngine`] is an engine process that is played by the test.
//! - [`impostor::Impostor`] is somebody in the broker's place who gives no answers.
//! - [`work::Work`] is a broker with engines and a session of the client library, and
//!   [`proxy::Proxy`] a line to a broker that can be cut.
//! - [`wait::eventually`] waits for what has no handle to wait on. Nothing sleeps for a time that
//!   was guessed.
//! - [`history::History`] is what a farm did, seen from outside, with what must be true of it.
//! - [`measure`] reads what a process costs.
//! - [`browser::Browser`] is a headless Chromium, where there is one.
//! - [`slurm::Slurm`] is a Slurm of a test's own, where there is one, and [`sge::GridEngine`]
//!   a Grid Engine. [`kubernetes::Kubernetes`] is played, for the real `kubectl`.

pub mod browser;
pub mod command;
pub mod engine;
pub mod farm;
pub mod good;
pub mod history;
pub mod home;
pub mod impostor;
pub mod kubernetes;
pub mod measure;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod session;
pub mod sge;
pub mod site;
pub mod slurm;
pub mod sshd;
pub mod wait;
pub mod work;
