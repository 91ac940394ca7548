"""Clusters that are started from Python: what they give, how they fail, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import SOON_SECONDS, eventually, processes_of

import furlong
from furlong.cluster.processes import start_of

Own = Callable[..., furlong.Cluster]


def run_python(code: str, *args: str) -> str:
    """Run code in a process of its own, and give what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=SOON_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def is_gone(cluster: furlong.Cluster) -> bool:
    return not cluster.folder.exists() and not cluster.is_running


def test_009_engines_that_crash_at_their_start_are_told_of(own: Own) -> None:
    cluster = own(2, engine_args=["--no-such-flag"])
    with pytest.raises(furlong.EngineError, match="exit code 2") as caught:
        cluster.start_and_connect_sync()
    assert "--no-such-flag" in caught.value.evalue
    assert is_gone(cluster)


def test_009_engines_that_are_killed_are_started_again(own: Own) -> None:
    with own(1).start_and_connect_sync() as rc:
        before = rc.ids
        (engines,) = rc.cluster.to_dict()["engines"].values()
        os.kill(engines["pid"], signal.SIGKILL)
        eventually(lambda: len(rc.ids) == 1 and rc.ids != before)
        assert rc[:].apply_sync(abs, -1) == [1]


def test_091_engines_are_restarted(own: Own) -> None:
    with own(2).start_and_connect_sync() as rc:
        cluster = rc.cluster
        cluster.start_engines_sync(1, "more")
        rc.wait_for_engines(3, timeout=SOON_SECONDS)
        pids, ids = rc[:].apply_sync(os.getpid), rc.ids
        cluster.restart_engines_sync()
        eventually(lambda: len(rc.ids) == 3 and not set(rc.ids) & set(ids))
        assert not set(rc[:].apply_sync(os.getpid)) & set(pids)
        ids = rc.ids
        cluster.restart_engines_sync("more")
        eventually(lambda: len(rc.ids) == 3 and rc.ids != ids)
        assert len(set(rc.ids) & set(ids)) == 2
        with pytest.raises(KeyError, match="nothing"):
            cluster.restart_engines_sync("nothing")


def test_091_one_engine_gets_a_new_interpreter(own: Own) -> None:
    with own(2).start_and_connect_sync() as rc:
        (first, second), ids = rc[:].apply_sync(os.getpid), rc.ids
        rc.cluster.restart_engine_sync(ids[0])
        again = rc[:].apply_sync(os.getpid)
        assert again[0] != first
        assert again[1] == second
        assert rc.ids == ids


def test_092_to_start_twice_is_an_error(own: Own) -> None:
    cluster = own(1)
    cluster.start_cluster_sync()
    with pytest.raises(RuntimeError, match="running already"):
        cluster.start_cluster_sync()
    with pytest.raises(RuntimeError, match="running already"):
        cluster.start_controller_sync()
    # What runs is not harmed by it.
    with cluster.connect_client_sync() as rc:
        rc.wait_for_engines(timeout=SOON_SECONDS)
        other = own(1, cluster_id=cluster.cluster_id)
        with pytest.raises(RuntimeError, match="exit code 1: .*" + cluster.cluster_id):
            other.start_cluster_sync()
        assert len(rc) == 1
        assert (
            furlong.Cluster.from_file(cluster_id=cluster.cluster_id).to_dict() == cluster.to_dict()
        )
        assert rc[0].apply_sync(os.getpid) > 0


def test_092_to_stop_twice(own: Own) -> None:
    cluster = own(1)
    cluster.start_controller_sync()
    key = cluster.start_engines_sync(1)
    with pytest.raises(RuntimeError, match=key):
        cluster.start_engines_sync(1, key)
    cluster.stop_engines_sync(key)
    with pytest.raises(KeyError):
        cluster.stop_engines_sync(key)
    cluster.stop_controller_sync()
    assert is_gone(cluster)
    cluster.stop_controller_sync()
    cluster.stop_cluster_sync()
    # It can be started anew.
    with cluster as rc:
        assert len(rc) == 1
    assert is_gone(cluster)


def test_093_a_context_starts_and_stops_it(home: Path) -> None:
    cluster = furlong.Cluster(n=5)
    with cluster as rc:
        assert len(rc) == 5
        assert rc.cluster is cluster
        assert len(set(rc[:].apply_sync(os.getpid))) == 5
        assert repr(cluster) == f"<Cluster {cluster.cluster_id!r}: running, 5 engines>"
        running = processes_of(home)
        assert len(running) >= 7
    assert is_gone(cluster)
    # Who was an engine's child is reaped by the system.
    assert not [
        process
        for process in running
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert repr(cluster) == f"<Cluster {cluster.cluster_id!r}: stopped, 0 engines>"


def test_093_an_asynchronous_context() -> None:
    cluster = furlong.Cluster(n=5)

    async def main() -> list[int]:
        async with cluster as rc:
            ids = rc.ids
            assert len(set(await rc[:].apply_async(os.getpid))) == 5
            key = await cluster.start_engines(1)
            eventually(lambda: len(rc) == 6)
            await cluster.stop_engines(key)
            eventually(lambda: len(rc) == 5)
            await cluster.stop_engine(ids[0])
            assert rc.ids == ids[1:]
            other = await cluster.connect_client()
            other.close()
            return ids

    assert len(asyncio.run(main())) == 5
    assert is_gone(cluster)


def test_093_a_context_ends_with_an_error_too() -> None:
    cluster = furlong.Cluster(n=1)
    with pytest.raises(ZeroDivisionError), cluster as rc:
        rc[0].apply_async(time.sleep, 1000)
        1 / 0  # noqa: B018
    assert is_gone(cluster)


def test_094_another_process_signals_and_stops(own: Own, tmp_path: Path) -> None:
    with own(1).start_and_connect_sync() as rc:
        cluster = rc.cluster
        known = json.dumps(cluster.to_dict())
        result = rc[0].apply_async(touch_and_sleep, str(tmp_path / "began"))
        eventually((tmp_path / "began").exists)
        code = """
            import furlong, json, signal, sys
            cluster = furlong.Cluster.from_dict(json.loads(sys.argv[1]))
            assert cluster.is_running
            {}
        """
        run_python(code.format("cluster.signal_engines_sync(signal.SIGINT)"), known)
        with pytest.raises(furlong.RemoteError, match="KeyboardInterrupt"):
            result.get(SOON_SECONDS)
        printed = run_python(
            code.format("print(cluster.start_engines_sync(1), cluster.connect_client_sync())"),
            known,
        )
        assert cluster.cluster_id in printed
        eventually(lambda: len(rc) == 2)
        run_python(code.format("cluster.stop_cluster_sync(); assert not cluster.is_running"), known)
        assert is_gone(cluster)


def test_094_a_cluster_is_found_by_its_name(home: Path) -> None:
    start = """
        import furlong
        cluster = furlong.Cluster(n=1, cluster_id="lab", shutdown_atexit=False)
        with cluster.start_and_connect_sync() as rc:
            print(rc.ids)
    """
    assert run_python(start) == "[0]\n"
    cluster = furlong.Cluster.from_file(cluster_id="lab")
    try:
        with cluster.connect_client_sync() as rc:
            rc.wait_for_engines(timeout=SOON_SECONDS)
            assert cluster.n == 1
    finally:
        cluster.stop_cluster_sync()
    assert not processes_of(home)
    with pytest.raises(FileNotFoundError, match="lab"):
        furlong.Cluster.from_file(profile="lab")


def test_094_an_id_that_another_process_has_is_not_signalled(own: Own) -> None:
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        started = start_of(sleeper.pid)
        assert started is not None
        other = {"pid": sleeper.pid, "started": "1" + started}
        known = own(1).to_dict() | {"controller": other, "engines": {"0": {"n": 1, **other}}}
        cluster = furlong.Cluster.from_dict(known)
        assert not cluster.is_running
        cluster.stop_cluster_sync()
        assert sleeper.poll() is None
        found = furlong.Cluster.from_dict(
            known | {"controller": {"pid": sleeper.pid, "started": started}}
        )
        assert found.is_running
        found.stop_controller_sync()
        assert sleeper.wait(SOON_SECONDS) == -signal.SIGINT
    finally:
        sleeper.kill()
        sleeper.wait()


START = """
    import furlong, time
    cluster = furlong.Cluster(n=1)
    rc = cluster.start_and_connect_sync()
    rc[0].apply_async(time.sleep, 1000)
    print(cluster.folder, flush=True)
"""


def test_nothing_outlives_a_process_that_ends(home: Path) -> None:
    folder = Path(run_python(START).strip())
    assert folder.parent == home
    assert not folder.exists()
    assert not processes_of(home)


def test_nothing_outlives_a_process_that_is_killed(home: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(START + "    time.sleep(1000)")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            folder = Path(process.stdout.readline().strip())
            assert folder.parent == home
            assert folder.exists()
            # The process itself, the broker, the engine, and its interpreter.
            eventually(lambda: len(processes_of(home)) == 4)
        finally:
            process.kill()
    eventually(lambda: not processes_of(home))
    eventually(lambda: not folder.exists())


def test_a_broker_that_does_not_start_is_told_of(own: Own, home: Path) -> None:
    cluster = own(1, controller_args=["--port", "x"])
    with pytest.raises(RuntimeError, match="exit code 2: .*invalid value 'x'") as caught:
        cluster.start_cluster_sync()
    assert len(str(caught.value).splitlines()) <= 6
    assert is_gone(cluster)
    assert not processes_of(home)


def test_what_tasks_find(own: Own, tmp_path: Path) -> None:
    options = {
        "labels": ["gpu"],
        "env": {"FRUIT": "pear"},
        "cwd": tmp_path,
        "log_level": "warn",
        "journal": True,
    }
    with own(1, **options).start_and_connect_sync() as rc:
        assert rc[0].apply_sync(os.getcwd) == str(tmp_path)
        assert rc[0].apply_sync(os.getenv, "FRUIT") == "pear"
        assert rc.load_balanced_view(require="gpu").apply_sync(os.getenv, "FRUIT") == "pear"
        assert (rc.cluster.folder / "journal.db").exists()


def test_arguments_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="slurm"):
        furlong.Cluster(engines="oar")
    with pytest.raises(ValueError, match="name"):
        furlong.Cluster(cluster_id="../lab")
    with pytest.raises(ValueError, match="-1"):
        furlong.Cluster(n=-1)


def test_ctrl_c_in_the_terminal_is_not_for_it(own: Own) -> None:
    with own(1).start_and_connect_sync() as rc:
        (engines,) = rc.cluster.to_dict()["engines"].values()
        started = [
            rc.cluster.to_dict()["controller"]["pid"],
            engines["pid"],
            rc[0].apply_sync(os.getpid),
        ]
        assert os.getsid(0) not in [os.getsid(pid) for pid in started]


def touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(1000)
