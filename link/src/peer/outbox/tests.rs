use super::*;
use crate::peer::inbox::Inbox;
use furlong_wire::handshake::{ExpectReply, ExpectStart, Hello, HelloBody};
use furlong_wire::ids::{ClusterId, SessionId, TaskSeq};
use furlong_wire::limits::CHUNK_BYTES_MAX;
use furlong_wire::message::{Ack, Cancel, FromClient};
use furlong_wire::payload::{Packed, PayloadOpener, PayloadSecret};
use furlong_wire::record::RecordKeys;
use furlong_wire::token::Role;
use furlong_wire::zmtp;

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
        abilities: 0,
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

fn connection() -> (Outbox, Inbox) {
    let (peer_keys, broker_keys) = keys();
    let inbox = Inbox::new(BytesMut::new(), codecs().1, broker_keys.split().1);
    (Outbox::new::<FromClient>(peer_keys.split().0), inbox)
}

/// Lets up to so many bytes go from one to the other. Returns how many have gone.
fn carry(outbox: &mut Outbox, inbox: &mut Inbox, bytes_max: usize) -> usize {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = outbox.poll_slices(&mut slices, bytes_max);
    slices[..count].iter().for_each(|slice| inbox.room().extend_from_slice(slice));
    let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
    outbox.handle_written(bytes);
    bytes
}

/// Writes and reads until so many messages have arrived, or a record without any; returns the
/// messages and chunks of each record.
fn deliver(
    outbox: &mut Outbox,
    inbox: &mut Inbox,
    messages: usize,
) -> Vec<Vec<(FromClient, Option<BytesMut>)>> {
    let mut records: Vec<Vec<_>> = Vec::new();
    while records.iter().map(Vec::len).sum::<usize>() < messages || records.is_empty() {
        assert!(carry(outbox, inbox, 100_000) > 0);
        while let Some(record) = inbox.poll_record().unwrap() {
            records.push(record.into_messages().collect::<Result<_, _>>().unwrap());
        }
    }
    records
}

fn ack(n: u64) -> FromClient {
    FromClient::Ack(Ack { ranges: vec![(TaskSeq(n), TaskSeq(n))].into() })
}

fn sealed(bytes: usize, seed: u8) -> SealedPayload {
    let key = PayloadSecret::new([seed; 32]).request_key(&SessionId::default());
    match key.into_sealer().pack(vec![vec![seed; bytes].into()]).unwrap() {
        Packed::Chunked(sealed) => sealed,
        Packed::Inline(_) => panic!("too small"),
    }
}

#[test]
fn what_waits_goes_together_and_control_goes_first() {
    let (mut outbox, mut inbox) = connection();
    (1..=100).for_each(|n| outbox.push(&ack(n)));
    outbox.push_control(&ack(0));
    let records = deliver(&mut outbox, &mut inbox, 101);
    assert_eq!(records.len(), 2);
    let numbers: Vec<FromClient> =
        records.concat().into_iter().map(|(message, _)| message).collect();
    assert_eq!(numbers, (0..=100).map(ack).collect::<Vec<_>>());
    assert!(outbox.is_empty() && outbox.queued_bytes() == 0);
}

#[test]
fn a_heartbeat_is_an_empty_record() {
    let (mut outbox, mut inbox) = connection();
    outbox.push_heartbeat();
    assert!(!outbox.is_empty());
    assert_eq!(deliver(&mut outbox, &mut inbox, 0), [vec![]]);
    assert!(outbox.is_empty());
}

#[test]
fn payloads_take_turns_follow_their_announcements_and_let_messages_pass() {
    let (mut outbox, mut inbox) = connection();
    let payloads = [sealed(3 * CHUNK_BYTES_MAX, 1), sealed(3 * CHUNK_BYTES_MAX, 2)];
    for (number, payload) in (1..).zip(&payloads) {
        outbox.push(&ack(number));
        outbox.push_transfer(number, Chunks::from(payload.clone()));
    }
    let records = deliver(&mut outbox, &mut inbox, 10);
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

#[test]
fn many_small_payloads_share_a_record() {
    let (mut outbox, mut inbox) = connection();
    for number in 1..=50 {
        outbox.push(&ack(number));
        outbox.push_transfer(number, Chunks::from(sealed(2_000, 1)));
    }
    let records = deliver(&mut outbox, &mut inbox, 100);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].len(), 100);
}

#[test]
fn sealing_costs_what_is_sent_however_much_waits() {
    // Two, seven and sixty-three of these chunks fill a record.
    for (waiting, divisor) in [(1, 2), (10, 2), (1_000, 2), (10_000, 7), (10_000, 63)] {
        let mut outbox = Outbox::new::<FromClient>(keys().0.split().0);
        let payload = sealed(CHUNK_BYTES_MAX / divisor - 140, 1);
        for number in 1..=waiting {
            outbox.push(&ack(number));
            outbox.push_transfer(number, Chunks::from(payload.clone()));
        }
        let (mut records, mut bytes) = (0, 0);
        while outbox.seal_next() {
            records += 1;
            bytes += std::mem::take(&mut outbox.sealed_bytes);
            outbox.sealed.clear();
        }
        let payload_bytes = waiting as usize * payload.bytes() as usize;
        assert!(
            (payload_bytes..payload_bytes + payload_bytes / 50).contains(&bytes),
            "{bytes} of {payload_bytes}"
        );
        assert_eq!(records, waiting.div_ceil(divisor as u64));
        // Once each transfer may go, when it is announced; once for each chunk, which is sealed
        // then and only then; and once at the end of each record.
        assert_eq!(outbox.steps as u64, 2 * waiting + records);
    }
}

/// As many messages of the longest kind that there is.
fn cancels(count: usize, ranges: u64) -> Vec<FromClient> {
    let ranges: Vec<_> = (1..=ranges).map(|n| (TaskSeq(n << 40), TaskSeq(n << 40))).collect();
    vec![FromClient::Cancel(Cancel { ranges, force: false }); count]
}

#[test]
fn no_record_is_longer_than_its_receiver_takes() {
    let (mut outbox, mut inbox) = connection();
    // Short ones, long ones and the longest that a message may be, between them and with chunks
    // beside each.
    let messages = [cancels(50, 3), cancels(20, 1_000), cancels(3, 25_000)].concat();
    for (number, message) in (1..).zip(&messages) {
        outbox.push_control(message);
        outbox.push(message);
        outbox.push(&ack(number));
        outbox.push_transfer(number, Chunks::from(sealed(CHUNK_BYTES_MAX, 1)));
    }
    let chunks = 2 * messages.len();
    let all = 3 * messages.len() + chunks;
    let mut records = Vec::new();
    let mut come = 0;
    while come < all {
        // What the opener takes is what the receiver's limits let through.
        for record in deliver(&mut outbox, &mut inbox, 1) {
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
    let mut outbox = Outbox::new::<FromClient>(keys().0.split().0);
    outbox.push_control(&cancels(1, 30_000)[0]);
}

#[test]
fn a_chunk_that_does_not_fit_goes_first_in_the_next_record() {
    let (mut outbox, mut inbox) = connection();
    for (number, bytes) in (1..).zip([2_000, CHUNK_BYTES_MAX - 100, 3_000, 4_000]) {
        outbox.push(&ack(number));
        outbox.push_transfer(number, Chunks::from(sealed(bytes, 1)));
    }
    let records = deliver(&mut outbox, &mut inbox, 8);
    let turns = |record: &[(FromClient, _)]| {
        record.iter().filter_map(|(message, _)| message.chunk_transfer()).collect()
    };
    let turns: Vec<Vec<u64>> = records.iter().map(|record| turns(record)).collect();
    assert_eq!(turns, [vec![1], vec![2], vec![3, 4]]);
}

#[test]
fn pongs_go_between_two_records_and_wait_once() {
    let (mut outbox, _) = connection();
    outbox.push(&ack(1));
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    assert_eq!(outbox.poll_slices(&mut slices, 1), 1);
    outbox.handle_written(1);
    let record_rest = outbox.queued_bytes();
    for _ in 0..1000 {
        outbox.push_codec_bytes(Bytes::from_static(b"pong"));
    }
    assert_eq!(outbox.queued_bytes(), record_rest + 4, "one answer waits, however many were asked");
    outbox.handle_written(record_rest);
    assert!(!outbox.is_empty());
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    assert_eq!(outbox.poll_slices(&mut slices, usize::MAX), 1);
    assert_eq!(&*slices[0], b"pong");
    outbox.handle_written(4);
    assert!(outbox.is_empty());
}

#[test]
fn what_is_written_in_small_parts_arrives_whole() {
    let (mut outbox, mut inbox) = connection();
    for number in 1..=3 {
        outbox.push(&ack(number));
        outbox.push_transfer(number, Chunks::from(sealed(5_000, 1)));
    }
    let mut messages = 0;
    // A seventh of a chunk at a time, and each part ends within a frame.
    while carry(&mut outbox, &mut inbox, 701) > 0 {
        while let Some(record) = inbox.poll_record().unwrap() {
            messages += record.into_messages::<FromClient>().map(Result::unwrap).count();
        }
    }
    assert_eq!((messages, outbox.queued_bytes()), (6, 0));
    assert!(outbox.written_bytes() > 15_000);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "a message of another direction")]
fn a_message_of_another_direction_is_a_bug() {
    let goodbye = furlong_wire::message::Goodbye { reason: String::new() };
    connection().0.push(&furlong_wire::message::ToEngine::Goodbye(goodbye));
}
