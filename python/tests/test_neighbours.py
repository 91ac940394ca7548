"""A client that stands still, and what others feel of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import SOON_SECONDS, eventually

import furlong

#: Each result, and how many there are: far more than the broker's memory takes.
RESULT_BYTES, RESULTS = 300_000, 400

CLIENT = f"""
import sys, furlong
with furlong.Client(cluster=sys.argv[1]) as client:
    view = client.load_balanced_view()
    results = [view.apply_async(bytes, {RESULT_BYTES}) for _ in range({RESULTS})]
    print("submitted", flush=True)
    print(sum(len(result.get()) for result in results), flush=True)
"""


@pytest.fixture
def small_cluster(nothing_is_left: None) -> Iterator[furlong.Cluster]:
    """Return a cluster of one engine process with two slots, whose broker has 64 MiB."""
    made = furlong.Cluster(n=2, broker_memory="64M")
    made.start_and_connect_sync().close()
    yield made
    made.stop_cluster_sync()


def test_a_client_that_is_stopped_holds_nobody_else_up_and_loses_nothing(
    small_cluster: furlong.Cluster,
) -> None:
    program = [sys.executable, "-c", CLIENT, small_cluster.cluster_id]
    with (
        furlong.Client(cluster=small_cluster) as other,
        subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as stopped,
    ):
        try:
            assert stopped.stdout is not None
            assert stopped.stdout.readline() == "submitted\n"
            os.kill(stopped.pid, signal.SIGSTOP)
            view = other.load_balanced_view()
            # All that its session may hold is held when its tasks stand still.
            before = -1

            def stands_still() -> bool:
                nonlocal before
                view.apply_sync(len, b"12345")
                finished, before_that = other.status()["tasks_finished"], before
                before = finished
                return bool(finished == before_that + 1)

            eventually(stands_still)
            for _ in range(20):
                assert view.apply_sync(len, b"12345") == 5
                assert len(view.apply_sync(bytes, RESULT_BYTES)) == RESULT_BYTES
            os.kill(stopped.pid, signal.SIGCONT)
            assert stopped.stdout.readline() == f"{RESULT_BYTES * RESULTS}\n"
            assert stopped.wait(SOON_SECONDS) == 0
        finally:
            stopped.kill()
