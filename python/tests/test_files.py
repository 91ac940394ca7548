"""Large arguments and results, which go in memory files on one machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import furlong

KIB = 1024
MIB = 1024 * KIB
# On both sides of what is passed in a file (32 KiB), what is mapped (128 KiB), and what a thread of
# the client writes (4 MiB).
SIZES = [31 * KIB, 33 * KIB, 127 * KIB, 129 * KIB, MIB + 1, 5 * MIB]


def array(size: int) -> np.ndarray:
    """Return bytes that differ from place to place."""
    return np.arange(size, dtype=np.uint64).astype(np.uint8)


def descriptors(pid: int) -> list[str]:
    """Return what the open files of a process are."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            links.append(str(entry.readlink()))
    return links


def memory_files(pid: int) -> int:
    """Count the payloads that a process holds open."""
    kinds = ("memfd:furlong-payload", "memfd:furlong-result")
    return sum(kind in link for link in descriptors(pid) for kind in kinds)


@pytest.mark.parametrize("size", SIZES)
def test_arrays_come_as_they_were_and_may_be_written_to_on_both_sides(
    rc: furlong.Client, size: int
) -> None:
    """An argument and a result are whole, aligned, and their receiver's own."""
    sent = array(size)

    def add(values: np.ndarray) -> tuple[bool, np.ndarray, np.ndarray]:
        aligned = values.ctypes.data % 64 == 0
        values += 1  # in place
        return aligned, values, values[::2].copy()

    aligned, whole, half = rc[0].apply_sync(add, sent)
    assert aligned or size < 64 * KIB  # small ones are copied out of the frame of their job
    assert (whole == array(size) + 1).all()
    assert (half == whole[::2]).all()
    assert (sent == array(size)).all()
    whole[:] = 0
    assert (half == (array(size) + 1)[::2]).all()


def test_who_changes_what_all_engines_were_given_changes_its_own(
    rc: furlong.Client, view: furlong.DirectView
) -> None:
    """A pushed array is one file for all engines, and each has its own all the same."""
    view.push({"shared": array(MIB)}, block=True)
    rc[0].execute("shared[:] = 7", block=True)
    first, *others = view.pull("shared", block=True)
    assert (first == 7).all()
    assert all((other == array(MIB)).all() for other in others)


def test_very_many_arrays_can_be_kept(rc: furlong.Client) -> None:
    """Mappings are bounded where each holds a descriptor: what is beyond is copied."""
    engine = rc[0]
    engine.execute("from pathlib import Path; kept = []", block=True)

    def keep(values: np.ndarray) -> int:
        kept.append(values)  # type: ignore[name-defined]  # noqa: F821
        return len(list(Path("/proc/self/fd").iterdir()))

    count = 400
    sent = [np.full(129 * KIB, at % 251, dtype=np.uint8) for at in range(count)]
    results = [engine.apply_async(keep, values) for values in sent]
    descriptors = [result.get() for result in results]
    assert descriptors[-1] < 320
    last = engine.pull("[int(values[-1]) for values in kept]", block=True)
    assert last == [at % 251 for at in range(count)]


def test_nobody_holds_a_file_when_its_task_has_ended(rc: furlong.Client) -> None:
    """Descriptors come back on all sides."""
    engine = rc[0]
    result = engine.apply_async(lambda values: (os.getpid(), os.getppid(), values), array(6 * MIB))
    worker, parent, back = result.get()
    assert (back == array(6 * MIB)).all()
    here = len(descriptors(os.getpid()))
    for _ in range(20):
        engine.apply_sync(lambda values: values, array(200 * KIB))
    assert len(descriptors(os.getpid())) <= here
    for pid in (worker, parent, os.getpid()):
        # The engine keeps the last results until it hears that they have arrived.
        eventually(lambda pid=pid: memory_files(pid) <= 4)


def test_several_buffers_and_an_empty_one_go_in_one_file(lview: furlong.LoadBalancedView) -> None:
    """Each buffer has its place in the file."""
    sent = {f"at {at}": array(at * 10 * KIB) for at in range(20)}
    back = lview.apply_sync(lambda arrays: arrays, sent)
    assert list(back) == list(sent)
    assert all((back[name] == sent[name]).all() for name in sent)


def test_the_memory_that_was_sent_may_be_changed_once_it_is_sent(rc: furlong.Client) -> None:
    """A file is a copy: `sent` says when it is made."""
    values = array(6 * MIB)
    result = rc[0].apply_async(lambda given: int(given.astype(np.int64).sum()), values)
    expected = int(array(6 * MIB).astype(np.int64).sum())
    result.wait_for_send(timeout=60)
    values[:] = 0
    assert result.get() == expected
