//! Memory files that are not what they must be, from a holder of a capability on the broker's
//! machine.

use std::os::fd::{AsFd, OwnedFd};

use furlong_link::file::{FileId, PayloadFile, create, write_at};
use furlong_tests::farm::Farm;
use furlong_tests::good::Good;
use furlong_tests::measure::memory_files;
use furlong_tests::wait::eventually;
use furlong_wire::limits::PAYLOAD_BYTES_MAX;
use furlong_wire::message::{Define, FromClient, Passed, Payload, Query};
use furlong_wire::token::Role;
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

use crate::{CLOSED, PENDING_GROWTH_BYTES_MAX};

const TRANSFER: u64 = 1;
const BYTES: u64 = 100_000;

/// A file of so many bytes, not sealed.
fn open_file(bytes: u64) -> OwnedFd {
    let file = create().unwrap();
    write_at(&file, 0, &vec![7; bytes as usize]).unwrap();
    file
}

pub(crate) fn sealed(bytes: u64) -> PayloadFile {
    PayloadFile::seal(open_file(bytes)).unwrap()
}

fn seal_all(file: OwnedFd) -> OwnedFd {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, all).unwrap();
    file
}

/// Announces a payload.
fn announce(peer: &mut Good, bytes: u64) -> Result<(), String> {
    let payload = Payload::Chunked { transfer: TRANSFER, counter: 0, bytes, instance: None };
    peer.send(&FromClient::Define(Define { number: 1, payload }))
}

fn says(peer: &mut Good, id: FileId) -> Result<(), String> {
    let FileId { device, inode } = id;
    peer.send(&FromClient::Passed(Passed { transfer: TRANSFER, device, inode }))
}

/// Announces a payload, passes that file, and says that it is this one. Returns true if the broker
/// still serves it then.
fn is_served(farm: &Farm, bytes: u64, file: impl AsFd, id: FileId) -> bool {
    let mut peer = farm.good(Role::Client);
    announce(&mut peer, bytes).unwrap();
    assert!(peer.socket().files().unwrap().send(TRANSFER, file.as_fd()));
    says(&mut peer, id).and_then(|()| peer.ask(Query::Engines)).is_ok()
}

#[test]
fn a_file_that_is_not_what_its_sender_says_closes_its_sender_alone() {
    let mut farm = Farm::start();
    let sound = sealed(BYTES);
    assert!(is_served(&farm, BYTES, sound.descriptor(), sound.id()));

    let other = sealed(BYTES);
    assert!(!is_served(&farm, BYTES, other.descriptor(), sound.id()), "another file");
    assert!(!is_served(&farm, BYTES + 1, sound.descriptor(), sound.id()), "another size");
    assert!(!is_served(&farm, BYTES, open_file(BYTES), sound.id()), "not sealed");
    let half = open_file(BYTES);
    fcntl_add_seals(&half, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    assert!(!is_served(&farm, BYTES, half, sound.id()), "its content may change");
    let sparse = create().unwrap();
    ftruncate(&sparse, 1 << 30).unwrap();
    assert!(!is_served(&farm, 1 << 30, seal_all(sparse), sound.id()), "holes");
    let huge = create().unwrap();
    ftruncate(&huge, PAYLOAD_BYTES_MAX + 1).unwrap();
    assert!(!is_served(&farm, BYTES, seal_all(huge), sound.id()), "larger than any payload");
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    assert!(!is_served(&farm, BYTES, pipe, sound.id()), "a pipe blocks who reads it");
    let ordinary = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(!is_served(&farm, BYTES, ordinary, sound.id()), "a file that others may change");
    let folder = std::fs::File::open("/").unwrap();
    assert!(!is_served(&farm, BYTES, folder, sound.id()), "a folder");

    let mut silent = farm.good(Role::Client);
    announce(&mut silent, BYTES).unwrap();
    says(&mut silent, sound.id()).unwrap();
    assert!(silent.ask(Query::Engines).is_err(), "a file that was not passed");

    let mut twice = farm.good(Role::Client);
    announce(&mut twice, BYTES).unwrap();
    for _ in 0..2 {
        assert!(twice.socket().files().unwrap().send(TRANSFER, sound.descriptor()));
        says(&mut twice, sound.id()).unwrap();
    }
    assert!(twice.ask(Query::Engines).is_err(), "a transfer has one payload");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
    let pid = farm.pid();
    // The session of the first one may still be resumed, with its definition.
    assert!(eventually(CLOSED, || memory_files(pid) == 1), "{} files are held", memory_files(pid));
}

#[test]
fn files_that_nobody_has_named_fill_their_senders_socket_and_nothing_else() {
    let mut farm = Farm::start();
    let mut peer = farm.good(Role::Client);
    let file = sealed(BYTES);
    // The broker hears of it, and knows that it takes files.
    peer.ask(Query::Engines).unwrap();
    let files = peer.socket().files().unwrap().clone();
    let sent = (0..100_000).take_while(|n| files.send(*n, file.descriptor())).count();
    assert!(sent < 10_000, "{sent}");
    assert!(peer.ask(Query::Engines).is_ok());
    assert_eq!(memory_files(farm.pid()), 0, "they are in nobody's table");
    farm.check_healthy(PENDING_GROWTH_BYTES_MAX);
}
