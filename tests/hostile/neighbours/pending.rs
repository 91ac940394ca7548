//! What those take who have no capability: connections, places, handshakes.

use std::collections::VecDeque;

use furlong_tests::farm::Farm;
use furlong_tests::raw::{RawPeer, command, greeting, long_header, message, ready};
use furlong_tests::session::{Caller, Credentials, shake_hands};
use furlong_wire::token::Role;

use super::{Taker, Window};

pub(super) const TAKERS: &[Taker] = &[
    Taker { name: "connections that leave", messages: &[], takes: comes_and_goes },
    Taker { name: "connections that are silent", messages: &[], takes: is_silent },
    Taker { name: "first messages of nobody", messages: &[], takes: says_anything },
    Taker { name: "handshakes that stop", messages: &[], takes: stops },
    Taker { name: "tokens of somebody else", messages: &[], takes: shows_a_wrong_token },
    Taker { name: "pings", messages: &[], takes: pings },
    Taker { name: "frames without end", messages: &[], takes: declares },
];

fn comes_and_goes(farm: &Farm, window: &Window) {
    while window.goes_on() {
        drop(RawPeer::connect_from_elsewhere(farm.port()));
    }
}

/// A crowd, in which the oldest makes room.
fn is_silent(farm: &Farm, window: &Window) {
    let mut crowd = VecDeque::new();
    while window.goes_on() {
        let mut peer = RawPeer::connect_from_elsewhere(farm.port());
        peer.send(&greeting()[..11]);
        crowd.push_back(peer);
        if crowd.len() > 500 {
            crowd.pop_front();
        }
    }
}

/// Greeting, READY and these bytes, again and again.
fn floods(farm: &Farm, window: &Window, bytes: &[u8]) {
    let all = [&greeting()[..], &ready(), bytes].concat();
    let mut crowd = VecDeque::new();
    while window.goes_on() {
        let mut peer = RawPeer::connect_from_elsewhere(farm.port());
        peer.send(&all);
        crowd.push_back(peer);
        if crowd.len() > 100 {
            crowd.pop_front();
        }
    }
}

fn says_anything(farm: &Farm, window: &Window) {
    floods(farm, window, &message(&[&[0xa5; 48]]));
}

fn pings(farm: &Farm, window: &Window) {
    floods(farm, window, &command(b"PING", b"\0\0context").repeat(100));
}

fn declares(farm: &Farm, window: &Window) {
    floods(farm, window, &[&long_header(2, u64::MAX)[..], &[0; 4096]].concat());
}

fn stops(farm: &Farm, window: &Window) {
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let mut callers = Vec::new();
    while window.goes_on() {
        callers.extend(Caller::call(farm.port(), &credentials));
    }
}

fn shows_a_wrong_token(farm: &Farm, window: &Window) {
    let mut credentials = Credentials::of(&farm.capability(Role::Client));
    let last = credentials.hello.token.len() - 1;
    credentials.hello.token[last] ^= 1;
    while window.goes_on() {
        assert!(shake_hands(farm.port(), &credentials).refusal().is_none(), "it is told nothing");
    }
}
