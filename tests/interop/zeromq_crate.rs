//! The `zeromq` crate's DEALER as a client.

use bytes::{Bytes, BytesMut};
use furlong_link::dial::random_bytes;
use furlong_tests::farm::Farm;
use furlong_tests::session::Credentials;
use furlong_tests::wait::SOON;
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    FromClient, Greeting, Message, Open, Query, Reply, ReplyBody, Request, ToClient, decode_batch,
    encode_message,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::record::{RecordOpener, SEQ_BYTES};
use furlong_wire::token::Role;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend};

/// The next message, which has one frame.
async fn receive(socket: &mut DealerSocket) -> BytesMut {
    let message =
        tokio::time::timeout(SOON, socket.recv()).await.expect("an answer in time").unwrap();
    assert_eq!(message.len(), 1);
    BytesMut::from(&message.get(0).unwrap()[..])
}

/// The messages of the next record.
async fn receive_record<M: Message>(
    socket: &mut DealerSocket,
    opener: &mut RecordOpener,
) -> Vec<M> {
    let mut envelope = receive(socket).await;
    opener.open::<Bytes>(&mut envelope, &[]).unwrap();
    decode_batch(&envelope).collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_dealer_of_the_zeromq_crate_is_served() {
    let farm = Farm::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask_for_engines(&farm));
}

async fn ask_for_engines(farm: &Farm) {
    let credentials = Credentials::of(&farm.capability(Role::Client));
    let mut socket = DealerSocket::new();
    socket.connect(&format!("tcp://127.0.0.1:{}", farm.port())).await.unwrap();

    let (first, expect) = credentials.start();
    socket.send(first.into()).await.unwrap();
    let reply = receive(&mut socket).await;
    let (third, keys) = expect.handle_reply(&reply, &credentials.hello()).unwrap();
    socket.send(third.into()).await.unwrap();
    let (mut sealer, mut opener) = keys.split();
    let greeting: Vec<Greeting> = receive_record(&mut socket, &mut opener).await;
    assert!(matches!(greeting[..], [Greeting::Welcome(_)]), "{greeting:?}");

    let mut envelope = vec![0; SEQ_BYTES];
    encode_message(
        &FromClient::Open(Open {
            secret: PayloadSecret::new(random_bytes()),
            cancel_on_disconnect: false,
            submitted: TaskSeq::MIN,
            hides_names: false,
        }),
        &mut envelope,
    );
    encode_message(
        &FromClient::Query(Request { request: 7, query: Query::Engines }),
        &mut envelope,
    );
    sealer.seal::<Bytes>(&mut envelope, 0, &[]);
    socket.send(Bytes::from(envelope).into()).await.unwrap();
    let mut received: Vec<ToClient> = Vec::new();
    let answer = ToClient::Reply(Reply { request: 7, body: ReplyBody::Engines(vec![]) });
    while !received.contains(&answer) {
        received.extend(receive_record::<ToClient>(&mut socket, &mut opener).await);
    }
}
