"""``rc.become_dask()``: Dask's own scheduler and workers on the engines, and nothing of them afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ENGINES, SOON_SECONDS, Farm, eventually, start_threads_of_dask

import furlong

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def threads_that_stay(threads_that_stay: None) -> None:
    """Start the one of Dask, too."""
    start_threads_of_dask()


@pytest.fixture(autouse=True)
def nothing_of_dask_is_left(threads_that_stay: None) -> Iterator[None]:
    """Check that no folder of a scheduler or a worker is left, and no thread of Dask's here."""
    before, threads = folders(), set(threading.enumerate())
    yield
    eventually(lambda: folders() <= before)
    eventually(lambda: set(threading.enumerate()) <= threads)


def folders() -> set[Path]:
    return {
        path
        for name in ("furlong-dask-*", "dask-scratch-space/*-*")
        for path in Path(tempfile.gettempdir()).glob(name)
    }


def threads_there() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def listening(pid: int) -> list[str]:
    """Return the addresses at which a process listens."""
    found = psutil.Process(pid).net_connections("tcp")
    return [connection.laddr.ip for connection in found if connection.status == "LISTEN"]


def left_threads(rc: furlong.Client) -> list[list[str]]:
    """Return the threads of workers that each engine has."""
    return [
        [name for name in names if "dask" in name.lower() and "Offload" not in name]
        for names in rc[:].apply_sync(threads_there)
    ]


def no_threads(rc: furlong.Client) -> bool:
    """Return whether engines have no thread of a worker any longer."""
    return not any(left_threads(rc))


def test_calls_run_on_engines_and_results_are_dasks_own(rc: furlong.Client) -> None:
    dask = rc.become_dask()
    assert isinstance(dask, distributed.Client)
    squares = dask.map(lambda x: x * x, range(10))
    assert dask.submit(sum, squares).result() == 285
    assert isinstance(squares[0], distributed.Future)
    pids = dask.run(os.getpid)
    assert sorted(pids.values()) == sorted(rc[:].apply_sync(os.getpid))
    with pytest.raises(ZeroDivisionError):
        dask.submit(lambda: 1 / 0).result()


def test_it_is_the_default_scheduler_of_collections(rc: furlong.Client) -> None:
    bag = pytest.importorskip("dask.bag")
    rc.become_dask()
    pids = set(bag.range(8, npartitions=8).map(lambda _: os.getpid()).compute())
    assert pids <= set(rc[:].apply_sync(os.getpid))
    rc.stop_dask()
    assert bag.range(8, npartitions=8).sum().compute(scheduler="sync") == 28


def test_workers_are_named_by_engines_and_have_one_thread(rc: furlong.Client) -> None:
    dask = rc.become_dask(targets=[1, 3])
    known = dask.scheduler_info(n_workers=-1)["workers"].values()
    assert sorted((worker["id"], worker["nthreads"]) for worker in known) == [(1, 1), (3, 1)]
    assert dask.submit(os.getpid, workers=[3]).result() == rc[3].apply_sync(os.getpid)
    rc.stop_dask()
    dask = rc.become_dask(targets=0, nthreads=3, resources={"GPU": 2})
    assert dask.nthreads() == dict.fromkeys(dask.nthreads(), 3)
    assert dask.submit(int, resources={"GPU": 1}).result() == 0


def test_the_names_that_ipyparallel_gives_the_worker(rc: furlong.Client) -> None:
    rc.become_dask()
    for name in ("dask_worker", "distributed_worker"):
        assert all("Worker" in text for text in rc[:].apply_sync(repr, furlong.Reference(name)))
    rc.stop_dask()
    with pytest.raises(NameError):
        rc[0].apply_sync(lambda x: x, furlong.Reference("distributed_worker"))


def test_a_second_call_adds_a_client_and_starts_missing_workers(rc: furlong.Client) -> None:
    first = rc.become_dask(targets=[0])
    second = rc.become_dask()
    assert first is not second
    assert first.scheduler.address == second.scheduler.address
    assert len(second.scheduler_info(n_workers=-1)["workers"]) == ENGINES


def test_engines_run_tasks_of_the_farm_beside_those_of_dask(rc: furlong.Client) -> None:
    dask = rc.become_dask()
    held = dask.submit(lambda: distributed.Event("go").wait(SOON_SECONDS))
    assert rc[:].apply_sync(pow, 2, 3) == [8] * ENGINES
    distributed.Event("go", client=dask).set()
    assert held.result() is True


def test_to_stop_leaves_nothing(rc: furlong.Client) -> None:
    eventually(lambda: no_threads(rc))  # of the test before, which end with their scheduler
    before = set(threading.enumerate())
    dask = rc.become_dask()
    pids = [os.getpid(), *rc[:].apply_sync(os.getpid)]
    rc.stop_dask()
    assert dask.status == "closed"
    assert left_threads(rc) == [[]] * ENGINES
    assert set(threading.enumerate()) <= before
    assert not [pid for pid in pids if listening(pid)]
    assert not folders()
    assert rc.become_dask().submit(int).result() == 0
    rc.become_distributed()
    rc.stop_distributed()
    rc.stop_dask()  # there is nothing to stop


def test_the_end_of_the_client_stops_it(cluster: furlong.Cluster, rc: furlong.Client) -> None:
    with furlong.Client(cluster=cluster) as other:
        dask = other.become_dask()
        assert dask.submit(int).result() == 0
    assert dask.status == "closed"
    eventually(lambda: no_threads(rc))


def test_a_client_that_is_forgotten_stops_it(cluster: furlong.Cluster, rc: furlong.Client) -> None:
    other = furlong.Client(cluster=cluster)
    dask = other.become_dask()
    del other
    eventually(lambda: dask.status == "closed")
    eventually(lambda: no_threads(rc))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_death_of_the_clients_process_stops_it(
    cluster: furlong.Cluster, rc: furlong.Client, number: signal.Signals
) -> None:
    code = f"""
        import furlong, sys
        rc = furlong.Client({str(cluster.capability)!r})
        print(rc.become_dask().submit(int).result(), flush=True)
        sys.stdin.read()
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(number)
    eventually(lambda: no_threads(rc))


def test_a_program_that_ends_stops_it(cluster: furlong.Cluster, rc: furlong.Client) -> None:
    code = f"""
        import furlong
        rc = furlong.Client({str(cluster.capability)!r})
        print(rc.become_dask().submit(int).result())
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=SOON_SECONDS, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "0\n", "")
    eventually(lambda: no_threads(rc))


def test_an_engine_that_dies_is_replaced_and_its_work_runs_again(farm: Farm) -> None:
    with farm.client() as rc:
        dask = rc.become_dask()
        pid = rc[2].apply_sync(os.getpid)
        held = dask.submit(
            lambda: distributed.Event("go").wait(SOON_SECONDS),
            workers=[2],
            allow_other_workers=True,
        )
        eventually(lambda: any(dask.processing().values()))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(dask.scheduler_info(n_workers=-1)["workers"]) == ENGINES - 1)
        distributed.Event("go", client=dask).set()
        assert held.result() is True
        rc.wait_for_engines(ENGINES, timeout=SOON_SECONDS)
        dask = rc.become_dask()
        assert len(dask.scheduler_info(n_workers=-1)["workers"]) == ENGINES
        rc.stop_dask()
        assert not folders()


def test_dasks_client_may_shut_it_down(rc: furlong.Client) -> None:
    dask = rc.become_dask()
    dask.shutdown()
    eventually(lambda: no_threads(rc))
    again = rc.become_dask()
    assert again.submit(int).result() == 0


def test_a_nanny_has_a_process_of_its_own(rc: furlong.Client) -> None:
    dask = rc.become_dask(targets=[0], nanny=True)
    pid = dask.submit(os.getpid).result()
    assert pid != rc[0].apply_sync(os.getpid)
    dask.restart()
    assert dask.submit(os.getpid).result() != pid
    rc.stop_dask()
    eventually(lambda: not psutil.pid_exists(pid))
    own = psutil.Process(rc[0].apply_sync(os.getpid))
    # Python's own tracker of such processes stays for as long as the interpreter does.
    eventually(lambda: all("resource_tracker" in str(child.cmdline()) for child in own.children()))


def test_nobody_without_the_keys_is_let_in(rc: furlong.Client) -> None:
    dask = rc.become_dask()
    address = dask.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    foreign = distributed.Security.temporary().get_connection_args("client")
    for refused, keys in ((address.replace("tls", "tcp"), {}), (address, foreign)):
        with pytest.raises(OSError):
            asyncio.run(distributed.core.connect(refused, timeout=1, **keys))
    for pid in (os.getpid(), *rc[:].apply_sync(os.getpid)):
        assert set(listening(pid)) <= {"127.0.0.1"}


def test_plain_connections_where_that_is_wanted(rc: furlong.Client) -> None:
    dask = rc.become_dask(security=False)
    assert dask.scheduler.address.startswith("tcp://127.0.0.1:")
    assert dask.submit(int).result() == 0


def test_options_of_the_scheduler(rc: furlong.Client) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dask = rc.become_dask(port=port, scheduler_args={"host": "127.0.0.1"})
    assert dask.scheduler.address == f"tls://127.0.0.1:{port}"
    rc.stop_dask()
    with pytest.raises(TypeError, match="no_such_option"):
        rc.become_dask(scheduler_args={"no_such_option": 1})
    with pytest.raises((TypeError, furlong.RemoteError), match="no_such_option"):
        rc.become_dask(no_such_option=1)
    assert rc.become_dask().submit(int).result() == 0


def test_without_the_package_on_engines(
    own: Callable[..., furlong.Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['distributed'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with own(n=2) as rc, pytest.raises(ImportError, match=r"engines \[0, 1\] have no package"):
        rc.become_dask()


def test_without_engines(own: Callable[..., furlong.Cluster]) -> None:
    with own(n=0) as rc, pytest.raises(furlong.NoEnginesRegistered):
        rc.become_dask()


def test_without_the_maker_of_keys(rc: furlong.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ImportError, match="security=False"):
        rc.become_dask()
