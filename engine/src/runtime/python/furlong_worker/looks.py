"""Looks at this interpreter: where its threads are now, and where they are over a time.

A look is taken by the main thread, between two steps of its code, or by a thread of its own that lives as long
as the interpreter is sampled. While code of C holds the interpreter's lock neither comes to it: then the engine
sends `SIGNAL`, and `faulthandler` writes where all threads are behind the page (`page.rs`).
"""

from __future__ import annotations

import _thread
import faulthandler
import json
import linecache
import os
import struct
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any, Callable

from furlong_worker.output import MAIN_THREAD, far_copy

if TYPE_CHECKING:
    from furlong_worker.worker import Worker

# SIGSTKFLT, which Linux itself never sends.
SIGNAL = 16
# The same numbers as in `looks.rs`.
HEAD = struct.Struct("<QII")
ALL = 1
NO_ATTEMPT = 2**64 - 1
BYTES_MAX = 120 * 1024
# The innermost frames of a thread that are told, and the outermost ones.
INNER_MAX, OUTER_MAX = 100, 20
THREADS_MAX = 64
TEXT_MAX = 300
STACKS_MAX = 20_000
WORKER = "<furlong worker"


class Looks:
    """Answers looks; `send` takes the look's number and what was seen."""

    def __init__(self, worker: Worker, send: Callable[[int, int, bytes], None]) -> None:
        self._worker = worker
        self._send = send
        self._is_sampling = False

    def arm(self, page: int, page_bytes: int) -> None:
        """Have the threads written behind the page at the signal."""
        memory = far_copy(page)
        os.lseek(memory, page_bytes, os.SEEK_SET)
        faulthandler.register(SIGNAL, file=memory, all_threads=True)

    def answer(self, number: int, flags: int, body: bytes) -> None:
        """Answer a look, or begin to sample."""
        attempt, length_ms, per_s = HEAD.unpack_from(body)
        sessions = {session for (session,) in struct.iter_unpack("<Q", body[HEAD.size :])}
        wanted = Wanted(self._worker, attempt, sessions, bool(flags & ALL))
        if not length_ms:
            self._tell(number, wanted.stack())
        elif self._is_sampling:
            self._tell(number, {"refusal": "the interpreter is being sampled already"})
        else:
            self._is_sampling = True
            _thread.start_new_thread(self._sample, (number, wanted, length_ms / 1000, per_s))

    def _sample(self, number: int, wanted: Wanted, seconds: float, per_s: int) -> None:
        samples = Samples()
        try:
            samples.take(wanted, seconds, per_s)
        finally:
            self._is_sampling = False
            self._tell(number, samples.told())

    def _tell(self, number: int, seen: dict[str, Any]) -> None:
        attempt = self._worker.attempt
        text = json.dumps(seen).encode("utf-8")
        self._send(number, NO_ATTEMPT if attempt is None else attempt, text)


class Wanted:
    """The code that may be seen: an attempt, or that of some sessions, or all."""

    def __init__(self, worker: Worker, attempt: int, sessions: set[int], is_all: bool) -> None:
        self._worker = worker
        self._attempt = attempt
        self._sessions = sessions
        self._is_all = is_all

    def is_own(self) -> bool:
        """Return whether the job that runs is of one of the asker's sessions."""
        return self._worker.attempt is not None and self._worker.session() in self._sessions

    def is_over(self) -> bool:
        """Return whether the attempt that was asked for runs no longer."""
        return self._attempt not in (NO_ATTEMPT, self._worker.attempt)

    def may_be_seen(self) -> bool:
        """Return whether what runs now may be seen."""
        return not self.is_over() and (self._is_all or self.is_own())

    def threads(self) -> list[tuple[int, str, types.FrameType]]:
        """Return the threads with their names, the main one first; those of other jobs only where all is seen."""
        frames = sys._current_frames()
        known = dict(threading._active)  # type: ignore[attr-defined]
        own = _thread.get_ident()
        found = []
        for ident, frame in frames.items():
            thread = known.get(ident)
            if ident == own != MAIN_THREAD:
                continue  # the one that samples
            birth = getattr(thread, "_furlong_attempt", None)
            if ident == MAIN_THREAD or self._is_all or birth == self._worker.attempt is not None:
                found.append((ident, thread.name if thread else f"thread {ident}", frame))
        found.sort(key=lambda one: one[0] != MAIN_THREAD)
        return found

    def stack(self) -> dict[str, Any]:
        """Return where the threads are now, the innermost frame first."""
        if not self.may_be_seen():
            return {"refusal": "what ran there has just ended; ask again"}
        with_source = self.is_own()
        told: list[dict[str, Any]] = []
        room = BYTES_MAX
        threads = self.threads()
        for _, name, frame in threads[:THREADS_MAX]:
            places = _frames(frame)
            left_out = max(0, len(places) - INNER_MAX - OUTER_MAX)
            if left_out:
                del places[INNER_MAX:-OUTER_MAX]
            frames = [_place(*place, with_source) for place in places]
            if left_out:
                frames.insert(INNER_MAX, ["", 0, f"... {left_out} more ...", ""])
            thread = {"name": name[:TEXT_MAX], "frames": frames}
            room -= len(json.dumps(thread)) + 2
            if room < 0:
                break
            told.append(thread)
        return {"threads": told, "left_out": len(threads) - len(told)}


class Samples:
    """Stacks of functions, and lines, each with the time for which they were seen."""

    def __init__(self) -> None:
        self._stacks: dict[tuple[str, tuple[types.CodeType, ...]], float] = {}
        self._lines: dict[tuple[str, int], float] = {}
        self._count = 0
        self._seen_s = 0.0
        self._longest_s = 0.0
        self._others_s = 0.0

    def take(self, wanted: Wanted, seconds: float, per_s: int) -> None:
        """Look as often as that, for so long, or until the job that was asked for has ended."""
        period = 1 / per_s
        last = began = time.monotonic()
        due = began
        while last < began + seconds and not wanted.is_over():
            due = max(due + period, last)
            time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            # Nobody could look while C held the lock: the time counts for what is there now.
            passed, last = now - last, now
            if not wanted.may_be_seen():
                continue
            self._count += 1
            self._seen_s += passed
            self._longest_s = max(self._longest_s, passed)
            for ident, name, frame in wanted.threads():
                self._note(name, frame, passed, ident == MAIN_THREAD)

    def _note(self, name: str, frame: types.FrameType, passed: float, is_main: bool) -> None:
        frames = _frames(frame)
        if not frames:
            return
        key = name, tuple(code for code, _ in frames[: INNER_MAX + OUTER_MAX])
        if key in self._stacks or len(self._stacks) < STACKS_MAX:
            self._stacks[key] = self._stacks.get(key, 0.0) + passed
        else:
            self._others_s += passed
        if is_main:
            code, line = frames[0]
            at = code.co_filename, line
            self._lines[at] = self._lines.get(at, 0.0) + passed

    def told(self) -> dict[str, Any]:
        """Return what was seen, what took longest first, as much of it as there is room for."""
        frames: dict[types.CodeType, int] = {}
        names: list[list[Any]] = []
        stacks: list[list[Any]] = []
        room, others = BYTES_MAX, self._others_s
        for (thread, codes), seconds in sorted(self._stacks.items(), key=lambda one: -one[1]):
            new = [code for code in dict.fromkeys(codes) if code not in frames]
            more = [[_name(code), code.co_filename[:TEXT_MAX], code.co_firstlineno] for code in new]
            room -= len(json.dumps(more)) + 6 * len(codes) + len(thread) + 40
            if room < 0:
                others += seconds
                continue
            for code, place in zip(new, more):
                frames[code] = len(names)
                names.append(place)
            # The outermost one first, as the formats for profiles have it.
            stack = [frames[code] for code in reversed(codes)]
            stacks.append([round(seconds * 1e6), thread[:TEXT_MAX], stack])
        lines = sorted(self._lines.items(), key=lambda one: -one[1])[:20]
        return {
            "samples": self._count,
            "seen_us": round(self._seen_s * 1e6),
            "longest_us": round(self._longest_s * 1e6),
            "others_us": round(others * 1e6),
            "frames": names,
            "stacks": stacks,
            "lines": [[round(took * 1e6), file[:TEXT_MAX], at] for (file, at), took in lines],
        }


def _frames(frame: types.FrameType | None) -> list[tuple[types.CodeType, int]]:
    """Return code and line of the frames of user code, the innermost first."""
    found = []
    while frame is not None:
        code = frame.f_code
        is_bootstrap = frame.f_back is None and code.co_filename == "<string>"
        if not is_bootstrap and not code.co_filename.startswith(WORKER):
            found.append((code, frame.f_lineno or 0))
        frame = frame.f_back
    return found


def _name(code: types.CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name))[:TEXT_MAX]


def _place(code: types.CodeType, line: int, with_source: bool) -> list[Any]:
    source = linecache.getline(code.co_filename, line).strip() if with_source else ""
    return [code.co_filename[:TEXT_MAX], line, _name(code), source[:TEXT_MAX]]
