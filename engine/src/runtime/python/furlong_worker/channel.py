"""The protocol with the engine; `protocol.rs` is the other side.

Frames
------
All numbers are little-endian.

* To the worker: ``length u64, attempt u64, kind u8, codec u8, flags u8, zero u8, buffers u32``,
  then a ``u64`` size for each buffer, then the buffers. `length` counts what comes after the
  header. With the flag `LARGE`, each buffer begins at a multiple of 64 bytes within the body,
  and no other job is with the worker while its job is unfinished. With the flag `FILE`, the data
  are in a memory file (`files.py`), and the rest of the body says where in it: ``offset u64, size
  u64`` for each.
* To the engine: ``length u64, attempt u64, begun_ns u64, run_us u64, count u64, load_us u32,
  last u32, buffers u32, kind u8, flags u8, zero u16``, then sizes and buffers as above, without
  gaps. `begun_ns` is by the monotonic clock; `READY` says there at what time since 1970 that was at
  0. `last` is for how long the value was encoded, in microseconds, or the fingerprint of what was
  `RAISED`. With the flag `IN_FILE`, the buffers of a `RETURNED` are in a memory file, and only
  their sizes follow.

A call of a pickled function is ``PICKLED [hash, data...]``, or ``NEW_PICKLED [hash, function, text of
cloudpickle, data...]`` if the worker does not have the function. Without a hash it is not kept. The
text comes once at most.

Inputs
------
A job's inputs come before it, in their order. `INPUT` is laid out like a job, and has the buffers of
a result, in the codec that it came in, or in none if it has no value. `KEY` before it has the key
under which the worker keeps it (`inputs.py`), if it is to be kept: `KNOWN` with the key stands for it
later, until `FORGET`, or until there are too many.

Sessions
--------
`SESSION` goes before a job of another session than the job before it, with a number that stands for it.

Output
------
When a job has ended and bytes are unread in a pipe, its reply carries the flag `DRAIN`, and the
worker begins nothing before the engine has answered `DRAINED`. While more than one job is with the
worker, the engine never takes the last byte out of a pipe. So of what a job wrote, some is still
there at its end, and all of it belongs to the job whose reply says `DRAIN`.

Interrupts
----------
To cancel, the engine sends `CANCEL` with the attempt, then SIGINT, which says only "read your
socket": the handler raises `KeyboardInterrupt` if the attempt that runs was cancelled, and never
for another. `INTERRUPT` does the same, but does not make a cancel of it. With `ASK` and SIGINT the
engine asks which attempt runs; the answer comes after all replies that wait, and the next reply is
sent without waiting for others. `RECALL` and SIGINT
take back a job that has not begun: the answer is `RECALLED`, or its end, if it has. With `LOOK` and
SIGINT it asks where the code is (`looks.py`): the answer, `SEEN`, is JSON. With `END`, and
SIGINT if code runs, the process is to end gracefully: nothing more begins.

Death
-----
Small replies that wait are kept in memory that the engine can read, behind the attempt that began
last (`page.rs`). So the engine can tell, whenever this process dies, what had ended, what ran and
what had not begun.
"""

from __future__ import annotations

import collections
import mmap
import os
import select
import socket
import struct
import threading
import time
from typing import Callable, Sequence, Tuple, Union

from furlong_worker import Buffer
from furlong_worker.files import FILE_BYTES_MIN, PLACE, Files
from furlong_worker.inputs import Input, KnownInputs
from furlong_worker.pickles import Functions, PickledFunction
from furlong_worker.sources import LoadedSource, Sources

# Kind, codec, attempt, buffers, what a call by source or by pickle refers to, the session, and the
# inputs.
Job = Tuple[
    int,
    int,
    int,
    Sequence[Buffer],
    Union[LoadedSource, PickledFunction, None],
    int,
    Sequence[Input],
]

# When a job began, for how many microseconds it ran and was loaded, and what `last` is.
Times = Tuple[int, int, int, int]
NO_TIMES: Times = (0, 0, 0, 0)
# The most that a field of 32 bits holds.
U32_MAX = 2**32 - 1

REQUEST = struct.Struct("<QQBBBxI")
REPLY = struct.Struct("<QQQQQIIIBBxx")
REPLY_OF_ONE = struct.Struct(REPLY.format + "Q")
SIZE = struct.Struct("<Q")

# Kinds of request, and what stands for one whose arguments found no room.
UNFIT = 0
EXECUTE, NAMED, SOURCE, RUN, PUSH, PULL, KEYS, CLEAR, PICKLED, NEW_PICKLED = range(1, 11)
CANCEL, DRAINED, ASK, ENGINE_ID, INTERRUPT, RECALL, SESSION = range(11, 18)
END, KEY, KNOWN, FORGET = range(18, 22)
INPUT, LOOK = 22, 23
# Kinds of reply.
READY, RETURNED, EXECUTED, RAISED, CANCELLED, RUNNING, STRAY, PUBLISHED, RECALLED, DISPLAYED = (
    range(1, 11)
)
SEEN = 11
# Codecs.
JSON, PICKLE, MSGPACK, RAW = range(1, 5)
# Flags of a request and of a reply.
LARGE = 1
FILE = 2
DRAIN = 1
IN_FILE = 2

NO_ATTEMPT = 2**64 - 1
ALIGNMENT = 64
# Room for the most that the engine sends ahead (256 KiB) and more.
INBOX_BYTES = 512 * 1024
# What is kept of earlier jobs goes before more data than that come.
ROOM_BYTES_MIN = 1024 * 1024
# A reply waits for others unless so many wait, their bytes are so many, or its job took so long.
REPLIES_MAX = 32
REPLY_BYTES_MAX = 64 * 1024
# The same numbers as in `page.rs`.
PAGE_HEAD_BYTES = 32
PAGE_BYTES = PAGE_HEAD_BYTES + REPLY_BYTES_MAX
SHORT_JOB_US = 1000


class Channel:
    """The sockets from and to the engine.

    Complete jobs come out of `jobs`; control messages take effect as they are read.
    """

    def __init__(
        self, requests: socket.socket, replies: socket.socket, page: mmap.mmap, files: Files
    ) -> None:
        self._requests = requests
        self._replies = replies
        self._files = files
        self.jobs: collections.deque[Job] = collections.deque()
        self.cancelled: set[int] = set()
        self.interrupted: set[int] = set()
        # What the engine wants an answer to: the answer's kind, and the question's number or the
        # attempt.
        self.questions: list[tuple[int, int]] = []
        # Looks at this interpreter, and what answers them.
        self.looks: list[tuple[int, int, bytes]] = []
        self.look: Callable[[int, int, bytes], None] = lambda *_: None
        # Lets go of what is kept of earlier jobs, before the data of a large one come.
        self.make_room: Callable[[], None] = lambda: None
        self.drained = False
        # The engine wants this process to end, or is gone.
        self.ending = False
        self.engine_id: int | None = None
        self._session = 0  # of the jobs that come next
        self.sources = Sources()
        self.functions = Functions()
        self._known_inputs = KnownInputs()
        # The inputs of the job that comes next, and the key of the next one of them.
        self._inputs: list[Input] = []
        self._key: int | None = None
        self._inbox = bytearray(INBOX_BYTES)
        self._view = memoryview(self._inbox)
        self._filled = 0
        self._page = page
        self._page_view = memoryview(page)
        # The attempt that began last, how many bytes of replies there are, and which item of a map
        # runs.
        self.page_words = self._page_view[:PAGE_HEAD_BYTES].cast("Q")
        self._page_end = PAGE_HEAD_BYTES
        self._reply_count = 0
        # The engine was told what runs: it asks no more before that has ended.
        self._is_awaited = False
        self._send_lock = threading.Lock()

    def leave(self) -> None:
        """Close the sockets of a process that was forked."""
        self._requests.close()
        self._replies.close()
        self._files.leave()

    def receive(self) -> None:
        """Wait for at least one byte, then take in all complete frames.

        At the end of file the process is to end.
        """
        try:
            received = self._requests.recv_into(self._view[self._filled :])
        except OSError:
            received = 0
        if received == 0:
            self._end()  # the engine is gone
            return
        self._filled += received
        self._take_frames()

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to receive; False if there is nothing in time."""
        return bool(select.select([self._requests], [], [], seconds)[0])

    def receive_ready(self) -> None:
        """Take in what has arrived, without waiting."""
        while self._filled < INBOX_BYTES:
            try:
                received = self._requests.recv_into(
                    self._view[self._filled :], 0, socket.MSG_DONTWAIT
                )
            except OSError:
                return
            if received == 0:
                return  # the next `receive` sees it as well
            self._filled += received
            self._take_frames()

    def _take_frames(self) -> None:
        inbox, start, filled = self._inbox, 0, self._filled
        while filled - start >= REQUEST.size:
            length, attempt, kind, codec, flags, count = REQUEST.unpack_from(inbox, start)
            body = start + REQUEST.size
            if flags & LARGE:
                # Control messages may be right behind it.
                start = min(body + length, filled)
                self._take_large(kind, codec, attempt, count, length, memoryview(inbox)[body:start])
                continue
            end = body + length
            if end > filled:
                break
            if kind <= NEW_PICKLED or kind == INPUT:
                buffers = []
                at = body + 8 * count
                for (size,) in SIZE.iter_unpack(self._view[body:at]):
                    buffers.append(inbox[at : at + size])
                    at += size
                if flags & FILE:
                    self._open_file(kind, codec, attempt, buffers, bytes(self._view[at:end]))
                else:
                    self._add_job(kind, codec, attempt, buffers)
            elif kind == LOOK:
                self.looks.append((attempt, codec, bytes(self._view[body:end])))
                self.questions.append((SEEN, attempt))
            else:
                self._take_control(kind, attempt)
            start = end
        if start:
            rest = filled - start
            if rest:
                inbox[:rest] = inbox[start:filled]
            self._filled = rest

    def _take_large(
        self, kind: int, codec: int, attempt: int, count: int, length: int, begun: memoryview
    ) -> None:
        """Receive the rest of a large frame into pages of its own.

        So its buffers are aligned, and never copied.
        """
        # It has begun, for the engine: if the process dies of it, that is this job's doing. No
        # other one runs now.
        self.page_words[0] = attempt
        if length > ROOM_BYTES_MIN:
            self.make_room()
        try:
            body = memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except (OSError, MemoryError):
            self._skip(length - len(begun))
            self._add_unfit(kind, codec, attempt, length)
            return
        body[: len(begun)] = begun
        filled = len(begun)
        while filled < length:
            received = self._requests.recv_into(body[filled:])
            if received == 0:
                os._exit(0)
            filled += received
        buffers: list[Buffer] = []
        at = 8 * count
        for (size,) in SIZE.iter_unpack(body[:at]):
            at = (at + ALIGNMENT - 1) & -ALIGNMENT
            buffers.append(body[at : at + size])
            at += size
        self._add_job(kind, codec, attempt, buffers)

    def _open_file(
        self, kind: int, codec: int, attempt: int, buffers: list[Buffer], table: bytes
    ) -> None:
        """Take the data of a job out of its file."""
        self.page_words[0] = attempt  # as for a large one, which comes alone
        if sum(size for _, size in PLACE.iter_unpack(table)) > ROOM_BYTES_MIN:
            self.make_room()
        try:
            if kind == INPUT:
                self._add_input(Input(codec, (), self._files.keep(memoryview(table))))
                return
            data = self._files.open(memoryview(table))
        except (OSError, MemoryError):
            size = sum(size for _, size in PLACE.iter_unpack(table))
            self._add_unfit(kind, codec, attempt, size)
            return
        self._add_job(kind, codec, attempt, [*buffers, *data])

    def _skip(self, size: int) -> None:
        """Read past what there is no memory for."""
        scratch = memoryview(bytearray(min(size, 64 * 1024)))
        while size > 0:
            received = self._requests.recv_into(scratch[: min(size, len(scratch))])
            if received == 0:
                os._exit(0)
            size -= received

    def _add_unfit(self, kind: int, codec: int, attempt: int, size: int) -> None:
        """Note a job, or an input, for which there is no memory."""
        if kind == INPUT:
            self._add_input(Input(codec, (), unfit_bytes=size))
        else:
            self._add_job(UNFIT, codec, attempt, [b"%d" % size])

    def _add_input(self, given: Input) -> None:
        self._inputs.append(given)
        if self._key is not None:
            self._known_inputs.note(self._key, given)
            self._key = None

    def _add_job(self, kind: int, codec: int, attempt: int, buffers: Sequence[Buffer]) -> None:
        if kind == INPUT:
            self._add_input(Input(codec, buffers))
            return
        source: LoadedSource | PickledFunction | None = None
        if kind == PICKLED:
            source = self.functions.find(buffers[0])
        elif kind == SOURCE:
            source = self.sources.note(buffers)
        elif kind == NEW_PICKLED:
            source = self.functions.add(*buffers[:3])
            kind, buffers = PICKLED, buffers[2:]
        inputs: Sequence[Input] = ()
        if self._inputs:
            inputs, self._inputs = self._inputs, []
        self.jobs.append((kind, codec, attempt, buffers, source, self._session, inputs))

    def _take_control(self, kind: int, number: int) -> None:
        if kind == CANCEL:
            self.cancelled.add(number)
        elif kind == INTERRUPT:
            self.interrupted.add(number)
        elif kind == DRAINED:
            self.drained = True
        elif kind == ASK:
            self.questions.append((RUNNING, number))
        elif kind == RECALL:
            self._recall(number)
        elif kind == ENGINE_ID:
            self.engine_id = number
        elif kind == SESSION:
            self._session = number
        elif kind == END:
            self._end()
        elif kind == KEY:
            self._key = number
        elif kind == KNOWN:
            self._inputs.append(self._known_inputs.find(number))
        elif kind == FORGET:
            self._known_inputs.forget(number)

    def _end(self) -> None:
        self.ending = True
        self.jobs.clear()  # they go back

    def _recall(self, attempt: int) -> None:
        """Return a job to the engine, unless it has begun."""
        for at, job in enumerate(self.jobs):
            if job[2] == attempt:
                del self.jobs[at]
                self.questions.append((RECALLED, attempt))
                return

    def reply(
        self,
        attempt: int,
        kind: int,
        flags: int,
        times: Times,
        count: int,
        buffers: Sequence[Buffer],
    ) -> None:
        """Queue a reply; it is sent at once if it should not wait for others."""
        page, at = self._page, self._page_end
        begun, run_us, load_us, last = times
        if len(buffers) == 1:
            (buffer,) = buffers
            size = len(buffer)
            body = at + REPLY_OF_ONE.size
            end = body + size
            if end > PAGE_BYTES:
                self._send_alone(attempt, kind, flags, times, count, buffers)
                return
            head = size + 8, attempt, begun, run_us, count, load_us, last, 1, kind, flags, size
            REPLY_OF_ONE.pack_into(page, at, *head)
            page[body:end] = buffer
        else:
            sizes = [len(buffer) for buffer in buffers]
            body = at + REPLY.size
            end = body + 8 * len(sizes) + sum(sizes)
            if end > PAGE_BYTES:
                self._send_alone(attempt, kind, flags, times, count, buffers)
                return
            head = end - body, attempt, begun, run_us, count, load_us, last, len(sizes), kind, flags
            REPLY.pack_into(page, at, *head)
            page[body:end] = b"".join([*map(SIZE.pack, sizes), *buffers])
        self._page_end = end
        self.page_words[1] = (
            end - PAGE_HEAD_BYTES
        )  # last: from here on it is said, even by the dead
        self._reply_count += 1
        if (
            flags & DRAIN
            or run_us + load_us > SHORT_JOB_US
            or self._reply_count > REPLIES_MAX
            or self._is_awaited
        ):
            self.flush()

    def _send_alone(
        self,
        attempt: int,
        kind: int,
        flags: int,
        times: Times,
        count: int,
        buffers: Sequence[Buffer],
    ) -> None:
        """Send a reply that finds no room behind those that wait."""
        self.flush()
        sizes = [len(buffer) for buffer in buffers]
        length = sum(sizes) + 8 * len(sizes)
        is_filed = kind == RETURNED and length >= FILE_BYTES_MIN
        if is_filed and self._files.write(attempt, buffers):
            length, flags, buffers = 8 * len(sizes), flags | IN_FILE, ()
        begun, run_us, load_us, last = times
        fields = length, attempt, begun, run_us, count, load_us, last, len(sizes), kind, flags
        head = REPLY.pack(*fields)
        self._send([b"".join([head, *map(SIZE.pack, sizes)]), *buffers])

    def flush(self) -> None:
        """Send all queued replies."""
        if self._reply_count:
            self._send([self._page_view[PAGE_HEAD_BYTES : self._page_end]])
            self.page_words[1] = 0
            self._page_end, self._reply_count = PAGE_HEAD_BYTES, 0
            self._is_awaited = False

    def answer_questions(self, running: int | None) -> None:
        """Return the engine what runs now, and what was taken back, after all replies that were queued."""
        self.flush()
        while self.questions:
            kind, number = self.questions.pop(0)
            if kind == RECALLED:
                self._send([_head(0, number, 0, 0, RECALLED)])
            elif kind == SEEN:
                self.look(*self.looks.pop(0))
            else:
                attempt = NO_ATTEMPT if running is None else running
                self._send([_head(0, attempt, number, 0, RUNNING)])
                self._is_awaited = True

    def send_stray(self, stream: int, data: bytes) -> None:
        """Send output that belongs to no job; callable from any thread."""
        self._send(
            [
                _head(8 + len(data), NO_ATTEMPT, stream, 1, STRAY),
                SIZE.pack(len(data)),
                data,
            ]
        )

    def send_seen(self, number: int, attempt: int, text: bytes) -> None:
        """Send what a look has seen; callable from any thread."""
        self._send([_head(8 + len(text), attempt, number, 1, SEEN), SIZE.pack(len(text)), text])

    def send_published(self, attempt: int, codec: int, buffers: Sequence[Buffer]) -> None:
        """Send what a job publishes; callable from any thread."""
        sizes = [len(buffer) for buffer in buffers]
        length = sum(sizes) + 8 * len(sizes)
        head = _head(length, attempt, codec, len(sizes), PUBLISHED)
        self._send([b"".join([head, *map(SIZE.pack, sizes)]), *buffers])

    def send_ready(self) -> None:
        """Return the engine that jobs may come."""
        zero = max(0, time.time_ns() - time.monotonic_ns())
        self._send([REPLY.pack(0, NO_ATTEMPT, zero, 0, 0, 0, 0, 0, READY, 0)])

    def _send(self, pieces: list[Buffer]) -> None:
        with self._send_lock:
            try:
                for piece in pieces:
                    self._replies.sendall(piece)
            except OSError:
                if not self.ending:
                    os._exit(0)  # the engine is gone, or the code has closed our socket


def _head(length: int, attempt: int, count: int, buffers: int, kind: int) -> bytes:
    """Return the head of a frame that is no job's end."""
    return REPLY.pack(length, attempt, *NO_TIMES[:2], count, *NO_TIMES[2:], buffers, kind, 0)
