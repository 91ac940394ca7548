"""A Furlong client in one file, which shares no code with Furlong.

It reads a capability file, connects to the broker, asks which engines are online and prints the answer as JSON::

    python peer.py ~/.furlong/default/security/client.cap.json

It is the protocol's independent check, and an example for whoever writes a peer of their own. All that it needs is a
ZeroMQ library (pyzmq), a Noise library (noiseprotocol), ChaCha20-Poly1305 (cryptography) and msgpack.

From the bottom up:

- ZeroMQ, a DEALER socket with the NULL mechanism. One ZeroMQ message for each message of the handshake and each record.
- The handshake, ``Noise_XK_25519_ChaChaPoly_SHA256``, whose third message carries the token (`shake_hands`).
- Records, encrypted under the two keys that come of the handshake (`Records`).
- In each record a batch of messages: msgpack arrays ``[tag, body]`` one after the other, a body an array of its fields.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection

PROTOCOL_VERSION = 1

# Tags of messages: from the broker as its first record, from a client to the broker, from the
# broker to a client.
WELCOME, REFUSED = 1, 2
GOODBYE, OPEN, QUERY = 4, 16, 23
REPLY = 37

WELCOME_FIELDS = (
    "connection",
    "start",
    "cluster_name",
    "cluster",
    "software",
    "heartbeat_idle_ms",
    "heartbeat_dead_ms",
    "unfinished_tasks_max",
    "payload_credit_bytes",
    "resumed",
    "memory_flag",
)

#: Milliseconds that the broker gets for an answer.
ANSWER_MS = 10_000


class RefusedError(Exception):
    """The broker does not let this peer in; the text says why."""


class Records:
    """The encrypted records of one connection, after its handshake.

    A record's first frame is ``seq u64 LE | ciphertext of the batch | tag 16``. Frames after it are chunks of large
    payloads, of which this peer sends none, and passes by what comes. Each direction has a key, and counts its records
    from 0.

    Parameters
    ----------
    socket
        The connected DEALER.
    send_key, receive_key
        The keys of the two directions, 32 bytes each.
    """

    def __init__(self, socket: zmq.Socket, send_key: bytes, receive_key: bytes) -> None:
        self._socket = socket
        self._send, self._receive = ChaCha20Poly1305(send_key), ChaCha20Poly1305(receive_key)
        self._sent = self._received = 0

    def send(self, *messages: tuple[int, list[Any]]) -> None:
        """Send messages, each a tag and the fields of its body, as one record."""
        batch = b"".join(msgpack.packb([tag, body]) for tag, body in messages)
        seq = struct.pack("<Q", self._sent)
        # The nonce is four zero bytes and the counter. The associated data are the counter, and
        # then for each chunk frame its length (u32 LE) and its last 16 bytes.
        self._socket.send(seq + self._send.encrypt(bytes(4) + seq, batch, seq))
        self._sent += 1

    def receive(self) -> list[tuple[int, list[Any]]]:
        """Wait for the next record, and give its messages; a heartbeat has none."""
        envelope, *chunks = self._socket.recv_multipart()
        seq, sealed = envelope[:8], envelope[8:]
        if seq != struct.pack("<Q", self._received):
            raise ValueError("a record that was not due")
        about = b"".join(struct.pack("<I", len(chunk)) + chunk[-16:] for chunk in chunks)
        self._received += 1
        batch = msgpack.Unpacker()
        batch.feed(self._receive.decrypt(bytes(4) + seq, sealed, seq + about))
        return [(tag, body) for tag, body in batch]

    def messages(self) -> Iterator[tuple[int, list[Any]]]:
        """Return the messages that come, one after the other."""
        while True:
            yield from self.receive()


def connect(capability: dict[str, Any]) -> zmq.Socket:
    """Connect to the first endpoint of a capability.

    libzmq connects anew behind one's back, and would then send queued messages on a connection whose handshake has not
    been done: the broker closes that. So a peer that is cut off makes a new socket, and this one has a pause before its
    next connection in which it gives up. (With no reconnection at all, -1, libzmq drops what it has read when the
    broker closes, and a refusal with it.)
    """
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, ANSWER_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, 2 * ANSWER_MS)
    socket.connect(capability["endpoints"][0])
    return socket


def shake_hands(socket: zmq.Socket, capability: dict[str, Any], role: str = "client") -> Records:
    """Prove this peer to the broker, and the broker to this peer.

    The prologue names the protocol and the cluster, so that both must mean the same. The third message's payload is the
    hello: the protocol version (u32 LE), then a msgpack array of token, session, incarnation, role, software, and how
    many bytes of payload this side holds for the other at most.
    """
    noise = NoiseConnection.from_name(b"Noise_XK_25519_ChaChaPoly_SHA256")
    noise.set_as_initiator()
    noise.set_prologue(b"furlong/1" + bytes.fromhex(capability["cluster_id"]))
    noise.set_keypair_from_private_bytes(Keypair.STATIC, bytes.fromhex(capability["holder_secret"]))
    noise.set_keypair_from_public_bytes(
        Keypair.REMOTE_STATIC, bytes.fromhex(capability["server_key"])
    )
    noise.start_handshake()
    token, session = bytes.fromhex(capability["token"]), os.urandom(16)
    hello = [token, session, 1, role, "peer.py", 1 << 20]

    socket.send(bytes(noise.write_message()))
    noise.read_message(socket.recv())
    socket.send(
        bytes(noise.write_message(struct.pack("<I", PROTOCOL_VERSION) + msgpack.packb(hello)))
    )
    # The records have their own framing, so only the two keys are taken from the Noise library.
    ciphers = noise.noise_protocol
    return Records(socket, ciphers.cipher_state_encrypt.k, ciphers.cipher_state_decrypt.k)


def greeting(records: Records) -> dict[str, Any]:
    """Wait for the broker's first record.

    Raises
    ------
    RefusedError
        If the broker does not let this peer in.
    """
    [(tag, body)] = records.receive()
    if tag == REFUSED:
        _kind, text = body
        raise RefusedError(text)
    if tag != WELCOME:
        raise ValueError(f"a first message with tag {tag}")
    welcome = dict(zip(WELCOME_FIELDS, body))
    welcome["cluster"] = welcome["cluster"].hex()
    return welcome


def engines(records: Records) -> list[int]:
    """Ask which engines are online, and return their integers."""
    request = 1
    # A query is its name, and an answer a map of that name to what it says.
    records.send((QUERY, [request, "engines"]))
    for tag, body in records.messages():
        if tag == REPLY and body[0] == request:
            return body[1]["engines"]
    raise AssertionError("messages() does not end")


def main() -> None:
    """Do what the module says, with the file that the command line names."""
    capability = json.loads(Path(sys.argv[1]).read_text())
    socket = connect(capability)
    records = shake_hands(socket, capability)
    try:
        welcome = greeting(records)
    except RefusedError as refused:
        sys.exit(f"the broker refuses: {refused}")
    # First comes the secret from which the keys of this session's payloads are derived.
    records.send((OPEN, [os.urandom(32), False, 0, False]))
    print(json.dumps({"welcome": welcome, "engines": engines(records)}))
    records.send((GOODBYE, ["done"]))
    # The broker ends the connection; a socket that is closed at once may not have sent the goodbye.
    socket.close(linger=1000)


if __name__ == "__main__":
    main()
