"""A signal's handler may raise at any line: it leaves no task that nobody has, and no result that cannot be read."""

from __future__ import annotations

import contextlib
import gc
import linecache
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import SOON_SECONDS, eventually

import furlong


class OutOfTime(Exception):
    """The exception that the handler raises."""


def handler(number: int, frame: types.FrameType | None) -> None:
    raise OutOfTime


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """Have a signal handled, as one does that ends what takes too long."""
    before = signal.signal(signal.SIGUSR1, handler)
    yield
    sys.settrace(None)
    signal.signal(signal.SIGUSR1, before)


class Interrupt:
    """Sends this process a signal at one line of the package, counted from the call of a function on."""

    def __init__(self, at: int, begins: str, ends: str | None) -> None:
        self.left = at
        self.where = ""
        self._begins, self._ends = begins, ends
        self._is_counting = False

    def __enter__(self) -> Interrupt:
        # What a finalizer raises is shown and passed over, by Python itself: none is to run
        # meanwhile.
        gc.disable()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        gc.enable()

    def _trace(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if "furlong" not in frame.f_globals.get("__name__", ""):
            return None
        name = frame.f_code.co_name
        self._is_counting = self._is_counting or name == self._begins
        if event == "call" and self._is_counting and name == self._ends:
            self._send("the wait")
        # Lines that do nothing by themselves are places for a tracer only, not for a signal.
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if (
            event == "line"
            and self._is_counting
            and text != "try:"
            and not text.startswith("with ")
        ):
            self.left -= 1
            if self.left == 0:
                self._send(f"{frame.f_code.co_filename}:{frame.f_lineno} {text}")
        return self._trace

    def _send(self, where: str) -> None:
        self.where = where
        sys.settrace(None)
        signal.raise_signal(signal.SIGUSR1)


def slow(*_: object) -> None:
    import time

    time.sleep(600)


def on_the_last() -> bool:
    import furlong_worker  # type: ignore[import-not-found]  # engines have it

    return bool(furlong_worker.current_engine().id == 3)


# Calls that submit, and the function from which on each line is tried.
CALLS: dict[str, tuple[Callable[[furlong.Client], Any], str]] = {
    "apply": (lambda rc: rc.load_balanced_view().apply_sync(slow), "_submit"),
    "apply_async": (lambda rc: rc.load_balanced_view().apply_async(slow), "_submit"),
    "direct": (lambda rc: rc[:].apply_sync(slow), "_submit"),
    "execute": (lambda rc: rc[:].execute("import time; time.sleep(600)", block=True), "_submit"),
    "map": (lambda rc: rc.load_balanced_view().map_sync(slow, range(3), chunksize=2), "_submit"),
    "map_async": (lambda rc: rc.load_balanced_view().map_async(slow, range(3)), "_submit"),
    "direct_map": (lambda rc: rc[:].map_sync(slow, range(3)), "_submit"),
    "parallel": (lambda rc: rc[:].parallel(block=True)(slow)(range(3)), "_submit"),
    "imap": (lambda rc: next(rc.load_balanced_view().imap(slow, range(3))), "_submit"),
    "submit": (lambda rc: rc.executor().submit(slow), "_submit"),
}
READS: dict[str, Callable[[furlong.Client], furlong.AsyncResult]] = {
    "apply": lambda rc: rc.load_balanced_view().apply_async(complex, 1, 2),
    "array": lambda rc: rc.load_balanced_view().apply_async(np.arange, 3),
    "direct": lambda rc: rc[:].apply_async(complex, 1, 2),
    "map": lambda rc: rc.load_balanced_view().map_async(complex, range(3), chunksize=2),
    "fails": lambda rc: rc.load_balanced_view().apply_async(divmod, 1, 0),
    "some_fail": lambda rc: rc.load_balanced_view().map_async(
        divmod, [1, 1, 1], [1, 0, 1], chunksize=3
    ),
    "moves": lambda rc: rc.load_balanced_view().apply_async(furlong.depend(on_the_last)(pow), 2, 3),
    "gather": lambda rc: rc[:].gather("__name__"),
}


@pytest.mark.parametrize("name", CALLS)
def test_interrupted_submit_leaves_no_task(rc: furlong.Client, name: str) -> None:
    call, begins = CALLS[name]
    # What is done once, such as to look for modules, has been done.
    with Interrupt(-1, begins, "wait_patiently"), contextlib.suppress(OutOfTime):
        call(rc)
    rc.cancel()
    at, tried = 0, []
    while True:
        at += 1
        with Interrupt(at, begins, "wait_patiently") as interrupt:
            try:
                call(rc)
            except OutOfTime:
                pass
            else:
                break  # it has come to its end without waiting
        tried.append(interrupt.where)
        try:
            eventually(lambda: not rc.outstanding)
        except AssertionError:
            pytest.fail(f"tasks are left: {interrupt.where}")
        if interrupt.where == "the wait":
            break
    assert len(tried) > 10
    rc.cancel()
    assert rc.wait(timeout=SOON_SECONDS)
    assert rc.load_balanced_view().apply_async(pow, 2, 3).get(SOON_SECONDS) == 8


@pytest.mark.parametrize("name", READS)
def test_interrupted_read_can_be_repeated(rc: furlong.Client, name: str) -> None:
    def read(result: furlong.AsyncResult) -> str:
        return repr(result.get(SOON_SECONDS, return_exceptions=True))

    expected = read(READS[name](rc))
    at = 0
    while True:
        at += 1
        result = READS[name](rc)
        with Interrupt(at, "get", None) as interrupt:
            try:
                read(result)
            except OutOfTime:
                pass
            else:
                break
        assert read(result) == expected, interrupt.where
    assert at > 20


def test_interrupt_while_a_value_is_read_keeps_the_value(rc: furlong.Client) -> None:
    """The value's own code runs for long, and the handler ends it."""
    result = rc.load_balanced_view().apply_async(Patient)
    Patient.signals = [signal.SIGUSR1]
    with pytest.raises(OutOfTime):
        result.get(SOON_SECONDS)
    assert result.get(SOON_SECONDS).is_read


class Patient:
    """Its pickle is read slowly, and once it is interrupted meanwhile."""

    signals: list[signal.Signals] = []

    def __setstate__(self, state: object) -> None:
        while self.signals:
            signal.raise_signal(self.signals.pop())
        self.is_read = True

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}
