use super::*;
use crate::incoming::Incoming;
use crate::stream::split;
use furlong_wire::handshake::{ExpectReply, ExpectStart, Hello, HelloBody};
use furlong_wire::ids::{ClusterId, SessionId};
use furlong_wire::limits::CHUNK_BYTES_MAX;
use furlong_wire::message::{Ack, Cancel, FromClient};
use furlong_wire::payload::{Packed, PayloadOpener, PayloadSecret};
use furlong_wire::record::RecordKeys;
use furlong_wire::token::Role;
use furlong_wire::zmtp;
use tokio::net::{TcpListener, TcpStream};

/// The keys of both sides of a connection, from a real handshake.
fn keys() -> (RecordKeys, RecordKeys) {
    let cluster = ClusterId([1; 32]);
    let broker_secret = [2; 32];
    let public = furlong_wire::keys::SecretKey::from_bytes(broker_secret).public();
    let (first, peer) = ExpectReply::start(&cluster, &public.0, &[3; 32], [4; 32]).unwrap();
    let broker = ExpectStart::new(&cluster, &broker_secret, [5; 32]).unwrap();
    let (second, broker) = broker.handle_start(&first).unwrap();
    let hello = HelloBody {
        token: vec![],
        session: SessionId::default(),
        incarnation: 0,
        role: Role::Client,
        software: String::new(),
        payload_credit_bytes: 0,
    };
    let (third, peer_keys) = peer.handle_reply(&second, &Hello::new(hello)).unwrap();
    (peer_keys, broker.handle_proof(&third).unwrap().keys)
}

/// Two ZMTP codecs that have greeted each other.
fn codecs() -> (zmtp::Connection, zmtp::Connection) {
    let (mut peer, mut broker) =
        (zmtp::Connection::new(zmtp::Role::Peer), zmtp::Connection::new(zmtp::Role::Broker));
    let (mut to_peer, mut to_broker) = (BytesMut::new(), BytesMut::new());
    let (mut peer_ready, mut broker_ready) = (false, false);
    while !(peer_ready && broker_ready) {
        while let Some(bytes) = peer.poll_output() {
            to_broker.extend_from_slice(&bytes);
        }
        broker_ready |= broker.handle_input(&mut to_broker).unwrap().is_some();
        while let Some(bytes) = broker.poll_output() {
            to_peer.extend_from_slice(&bytes);
        }
        peer_ready |= peer.handle_input(&mut to_peer).unwrap().is_some();
    }
    peer.peer_proved();
    broker.peer_proved();
    (peer, broker)
}

async fn connection() -> (Outgoing<FromClient>, WriteHalf, Incoming) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let (peer_keys, broker_keys) = keys();
    let incoming =
        Incoming::new(split(server).0, BytesMut::new(), codecs().1, broker_keys.split().1);
    (Outgoing::new(peer_keys.split().0), split(client).1, incoming)
}

/// Writes and reads until so many messages have arrived, or a record without any; returns the
/// messages and chunks of each record.
async fn deliver(
    outgoing: &mut Outgoing<FromClient>,
    socket: &WriteHalf,
    incoming: &mut Incoming,
    messages: usize,
) -> Vec<Vec<(FromClient, Option<BytesMut>)>> {
    let mut records: Vec<Vec<_>> = Vec::new();
    while records.iter().map(Vec::len).sum::<usize>() < messages || records.is_empty() {
        outgoing.write_to(socket, 100_000).unwrap();
        incoming.read().await.unwrap();
        while let Some(record) = incoming.poll_record().unwrap() {
            records.push(record.into_messages().collect::<Result<_, _>>().unwrap());
        }
    }
    records
}

fn ack(n: u64) -> FromClient {
    FromClient::Ack(Ack { ranges: vec![(n, n)].into() })
}

fn sealed(bytes: usize, seed: u8) -> SealedPayload {
    let key = PayloadSecret::new([seed; 32]).request_key(&SessionId::default());
    match key.into_sealer().pack(vec![vec![seed; bytes].into()]).unwrap() {
        Packed::Chunked(sealed) => sealed,
        Packed::Inline(_) => panic!("too small"),
    }
}

#[tokio::test]
async fn what_waits_goes_together_and_control_goes_first() {
    let (mut outgoing, socket, mut incoming) = connection().await;
    (1..=100).for_each(|n| outgoing.push(&ack(n)));
    outgoing.push_control(&ack(0));
    let records = deliver(&mut outgoing, &socket, &mut incoming, 101).await;
    assert_eq!(records.len(), 2);
    let numbers: Vec<FromClient> =
        records.concat().into_iter().map(|(message, _)| message).collect();
    assert_eq!(numbers, (0..=100).map(ack).collect::<Vec<_>>());
    assert!(outgoing.is_empty() && outgoing.queued_bytes() == 0);
}

#[tokio::test]
async fn a_heartbeat_is_an_empty_record() {
    let (mut outgoing, socket, mut incoming) = connection().await;
    outgoing.push_heartbeat();
    assert!(!outgoing.is_empty());
    assert_eq!(deliver(&mut outgoing, &socket, &mut incoming, 0).await, [vec![]]);
    assert!(outgoing.is_empty());
}

#[tokio::test]
async fn payloads_take_turns_follow_their_announcements_and_let_messages_pass() {
    let (mut outgoing, socket, mut incoming) = connection().await;
    let payloads = [sealed(3 * CHUNK_BYTES_MAX, 1), sealed(3 * CHUNK_BYTES_MAX, 2)];
    for (number, payload) in (1..).zip(&payloads) {
        outgoing.push(&ack(number));
        outgoing.push_transfer(number, Chunks::Sealed(payload.clone()));
    }
    let records = deliver(&mut outgoing, &socket, &mut incoming, 10).await;
    assert_eq!(records[0][0].0, ack(1), "the announcement comes before its chunks");
    let turns: Vec<u64> =
        records.concat().iter().filter_map(|(message, _)| message.chunk_transfer()).collect();
    assert_eq!(turns, [1, 2, 1, 2, 1, 2, 1, 2]);
    for record in &records {
        let bytes: usize =
            record.iter().filter_map(|(_, chunk)| chunk.as_ref()).map(BytesMut::len).sum();
        assert!(bytes <= RECORD_CHUNK_BYTES_MAX, "{bytes} bytes of chunks in one record");
    }
    let key = PayloadSecret::new([2; 32]).request_key(&SessionId::default());
    let mut opener = PayloadOpener::new(key, 0, payloads[1].bytes()).unwrap();
    for (message, chunk) in records.concat() {
        if message.chunk_transfer() == Some(2) {
            opener.handle_chunk(&chunk.unwrap()).unwrap();
        }
    }
    assert_eq!(opener.into_buffers().unwrap(), [vec![2; 3 * CHUNK_BYTES_MAX]]);
}

#[tokio::test]
async fn many_small_payloads_share_a_record() {
    let (mut outgoing, socket, mut incoming) = connection().await;
    for number in 1..=50 {
        outgoing.push(&ack(number));
        outgoing.push_transfer(number, Chunks::Sealed(sealed(2_000, 1)));
    }
    let records = deliver(&mut outgoing, &socket, &mut incoming, 100).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].len(), 100);
}

#[test]
fn sealing_costs_what_is_sent_however_much_waits() {
    // Two, seven and sixty-three of these chunks fill a record.
    for (waiting, divisor) in [(1, 2), (10, 2), (1_000, 2), (10_000, 7), (10_000, 63)] {
        let mut outgoing = Outgoing::<FromClient>::new(keys().0.split().0);
        let payload = sealed(CHUNK_BYTES_MAX / divisor - 140, 1);
        for number in 1..=waiting {
            outgoing.push(&ack(number));
            outgoing.push_transfer(number, Chunks::Sealed(payload.clone()));
        }
        let (mut records, mut bytes) = (0, 0);
        while outgoing.seal_next() {
            records += 1;
            bytes += std::mem::take(&mut outgoing.sealed_bytes);
            outgoing.sealed.clear();
        }
        let payload_bytes = waiting as usize * payload.bytes() as usize;
        assert!(
            (payload_bytes..payload_bytes + payload_bytes / 50).contains(&bytes),
            "{bytes} of {payload_bytes}"
        );
        assert_eq!(records, waiting.div_ceil(divisor as u64));
        // Once each transfer may go, when it is announced; once for each chunk, which is sealed
        // then and only then; and once at the end of each record.
        assert_eq!(outgoing.steps as u64, 2 * waiting + records);
    }
}

/// As many messages of the longest kind that there is.
fn cancels(count: usize, ranges: u64) -> Vec<FromClient> {
    let ranges: Vec<(u64, u64)> = (1..=ranges).map(|n| (n << 40, n << 40)).collect();
    vec![FromClient::Cancel(Cancel { ranges, force: false }); count]
}

#[tokio::test]
async fn no_record_is_longer_than_its_receiver_takes() {
    let (mut outgoing, socket, mut incoming) = connection().await;
    // Short ones, long ones and the longest that a message may be, between them and with chunks
    // beside each.
    let messages = [cancels(50, 3), cancels(20, 1_000), cancels(3, 25_000)].concat();
    for (number, message) in (1..).zip(&messages) {
        outgoing.push_control(message);
        outgoing.push(message);
        outgoing.push(&ack(number));
        outgoing.push_transfer(number, Chunks::Sealed(sealed(CHUNK_BYTES_MAX, 1)));
    }
    let chunks = 2 * messages.len();
    let all = 3 * messages.len() + chunks;
    let mut records = Vec::new();
    let mut come = 0;
    while come < all {
        // What the opener takes is what the receiver's limits let through.
        for record in deliver(&mut outgoing, &socket, &mut incoming, 1).await {
            come += record.len();
            records.extend(record);
        }
    }
    let is_chunk = |message: &&(FromClient, _)| message.0.chunk_transfer().is_some();
    assert_eq!((come, records.iter().filter(is_chunk).count()), (all, chunks));
    let controls: Vec<_> = records.iter().filter(|it| !is_chunk(it)).take(messages.len()).collect();
    assert!(
        controls.iter().zip(&messages).all(|(come, sent)| come.0 == *sent),
        "control goes first, in its order"
    );
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "must be split where it is made")]
fn a_message_that_no_record_can_carry_is_a_bug() {
    let mut outgoing = Outgoing::<FromClient>::new(keys().0.split().0);
    outgoing.push_control(&cancels(1, 30_000)[0]);
}

#[tokio::test]
async fn a_chunk_that_does_not_fit_goes_first_in_the_next_record() {
    let (mut outgoing, socket, mut incoming) = connection().await;
    for (number, bytes) in (1..).zip([2_000, CHUNK_BYTES_MAX - 100, 3_000, 4_000]) {
        outgoing.push(&ack(number));
        outgoing.push_transfer(number, Chunks::Sealed(sealed(bytes, 1)));
    }
    let records = deliver(&mut outgoing, &socket, &mut incoming, 8).await;
    let turns = |record: &[(FromClient, _)]| {
        record.iter().filter_map(|(message, _)| message.chunk_transfer()).collect()
    };
    let turns: Vec<Vec<u64>> = records.iter().map(|record| turns(record)).collect();
    assert_eq!(turns, [vec![1], vec![2], vec![3, 4]]);
}
