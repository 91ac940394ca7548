"""Tasks that submit tasks: clients without a capability file, slots that are lent, circles, and what ends when."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SOON_SECONDS, eventually

import furlong


@pytest.fixture(scope="module")
def small(nothing_is_left):
    """Return a cluster of a single engine: whoever waits there for a task waits for his own place."""
    made = furlong.Cluster(n=1)
    made.start_and_connect_sync().close()
    yield made
    made.stop_cluster_sync()


@pytest.fixture
def one(small):
    """Return a client of the single engine."""
    with furlong.Client(cluster=small) as client:
        client.wait_for_engines(1, timeout=SOON_SECONDS)
        yield client
        client.cancel(force=True)


def double(x):
    return 2 * x


def in_task(x):
    """Submit and wait, as a program of a user's would."""
    import furlong

    with furlong.Client() as rc:
        return rc.load_balanced_view().apply_sync(double, x) + 1


def fib(n):
    import furlong

    if n < 2:
        return n
    with furlong.Client() as rc:
        view = rc.load_balanced_view()
        parts = [view.apply_async(fib, n - 1), view.apply_async(fib, n - 2)]
        return sum(part.get() for part in parts)


def test_a_task_has_a_client_of_its_farm_without_being_told_how(lview):
    assert lview.apply_async(in_task, 4).get(SOON_SECONDS) == 9


def test_a_map_in_each_task_of_a_map(lview):
    def outer(n):
        import furlong

        with furlong.Client() as rc:
            return sum(rc.load_balanced_view().map_sync(double, range(n)))

    assert lview.map_async(outer, range(8)).get(SOON_SECONDS) == [
        sum(range(0, 2 * n, 2)) for n in range(8)
    ]


def test_a_task_submits_with_default_flags_whatever_its_own_are(lview):
    def flags_here():
        import furlong

        with furlong.Client() as rc:
            view = rc.load_balanced_view()
            inner = view.apply_async(double, 1)
            inner.get()
            names = ("priority", "retries", "run_timeout", "label", "at_most_once", "keep")
            return {name: getattr(view, name) for name in names}, inner.label

    own = {"priority": 3, "run_timeout": 60, "label": "outer", "at_most_once": True, "keep": True}
    with lview.temp_flags(**own):
        flags, label = lview.apply_async(flags_here).get(SOON_SECONDS)
    defaults = {"priority": 0, "retries": None, "run_timeout": None, "label": None}
    assert flags == {**defaults, "at_most_once": False, "keep": False}
    assert label is None


def test_depth_beyond_the_engines_does_not_deadlock(one):
    assert one.load_balanced_view().apply_async(fib, 6).get(SOON_SECONDS) == 8


def test_many_tasks_that_wait_each_for_one_of_their_own(one):
    """More outer tasks than places: only what is nested deeper stands in, so there is no crowd of interpreters."""
    results = one.load_balanced_view().map_async(in_task, range(12))
    assert results.get(SOON_SECONDS) == [2 * n + 1 for n in range(12)]
    (engine,) = one.status()["processes"]
    interpreters = len(children_of(engine["pid"]))
    assert interpreters < 8, "an outer task stood in for another"


def children_of(pid):
    import psutil

    def is_python(child):
        try:
            return "python" in child.name()
        except psutil.NoSuchProcess:
            return False

    return [child for child in psutil.Process(pid).children(recursive=True) if is_python(child)]


WAYS = {
    "get": "value = view.apply_async(double, 3).get()",
    "wait": "ar = view.apply_async(double, 3); ar.wait(); value = ar.get()",
    "iterate": "value = list(view.map_async(double, [3]))[0]",
    "imap": "value = next(iter(view.imap(double, [3])))",
    "map_sync": "value = view.map_sync(double, [3])[0]",
    "apply_sync": "value = view.apply_sync(double, 3)",
    "executor": "value = rc.executor().submit(double, 3).result()",
    "executor_map": "value = list(rc.executor().map(double, [3]))[0]",
    "as_completed": (
        "value = next(concurrent.futures.as_completed([view.apply_async(double, 3)])).result()"
    ),
    "futures_wait": (
        "value = concurrent.futures.wait([view.apply_async(double, 3)]).done.pop().result()"
    ),
    "client_wait": "ar = view.apply_async(double, 3); rc.wait([ar]); value = ar.get()",
    "await": "async def main():\n    return await view.apply_async(double, 3)\n"
    "value = asyncio.run(main())",
    "gather": "async def main():\n"
    "    return await asyncio.gather(*[view.apply_async(double, n) for n in (3, 4)])\n"
    "value = asyncio.run(main())[0]",
    "polling": "ar = view.apply_async(double, 3)\n"
    "while not ar.ready(): time.sleep(0.002)\nvalue = ar.get()",
    "asking": "ar = view.apply_async(double, 3)\nwhile not ar.ready(): pass\nvalue = ar.get()",
    "asking_with_limits": "ar = view.apply_async(double, 3)\n"
    "while not ar.wait(0): pass\nvalue = ar.get()",
    "asking_the_client": "ar = view.apply_async(double, 3)\n"
    "while rc.outstanding: pass\nvalue = ar.get()",
    "asking_a_map": "ar = view.map_async(double, [3, 4])\n"
    "while ar.progress < 2: pass\nvalue = ar.get()[0]",
    "asking_in_a_loop": "async def main():\n    ar = view.apply_async(double, 3)\n"
    "    while not ar.done(): await asyncio.sleep(0)\n    return ar.get()\nvalue = asyncio.run(main())",
    "thread": "with concurrent.futures.ThreadPoolExecutor(2) as pool:\n"
    "    value = pool.submit(view.apply_sync, double, 3).result()",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_waiting_lends_the_slot(one, way):
    def outer(code):
        import asyncio
        import concurrent.futures
        import time

        import furlong

        def double(x):
            return 2 * x

        with furlong.Client() as rc:
            names = {"rc": rc, "view": rc.load_balanced_view(), "double": double, "time": time}
            names.update(asyncio=asyncio, concurrent=concurrent)
            exec(code, names)
            return names["value"]

    assert one.load_balanced_view().apply_async(outer, WAYS[way]).get(SOON_SECONDS) == 6


def test_a_client_by_a_capability_file_lends_as_well(one, small):
    def outer(path, n):
        import furlong

        with furlong.Client(path) as rc:
            return rc.load_balanced_view().apply_sync(pow, n, 2)

    view = one.load_balanced_view()
    results = [view.apply_async(outer, str(small.capability), n) for n in range(3)]
    assert [result.get(SOON_SECONDS) for result in results] == [0, 1, 4]


def test_a_direct_task_lends_and_its_namespace_is_kept(one):
    view = one[0]
    view.push({"kept": 5}, block=True)
    assert view.apply_async(in_task, 1).get(SOON_SECONDS) == 3
    assert view["kept"] == 5


def test_a_client_is_used_by_the_next_task_too_and_lends(one, small):
    view = one[0]
    view.execute(f"import furlong; held = furlong.Client({str(small.capability)!r})", block=True)
    for _ in range(2):
        view.execute("value = held.load_balanced_view().apply_sync(pow, 2, 3)", block=True)
    assert view["value"] == 8
    view.execute("held.close()", block=True)


def test_an_error_comes_up_through_the_levels(one):
    def fail(depth):
        import furlong

        if depth == 0:
            raise LookupError("at the bottom")
        with furlong.Client() as rc:
            rc.load_balanced_view().apply_sync(fail, depth - 1)

    with pytest.raises(furlong.RemoteError, match="LookupError: at the bottom"):
        one.load_balanced_view().apply_async(fail, 3).get(SOON_SECONDS)


def outer_that_waits(path, keep=False):
    """Wait for a task that waits for a file that never comes."""
    import furlong

    def wait(path):
        import pathlib
        import time

        pathlib.Path(path).touch()
        while pathlib.Path(path).exists():
            time.sleep(0.01)
        return 7

    rc = furlong.Client()
    with rc.load_balanced_view().temp_flags(keep=keep):
        return rc.load_balanced_view().apply_async(wait, path).get()


def unfinished(rc):
    return [record for record in rc.records() if record["phase"] != "ended"]


def test_a_cancel_of_the_parent_ends_its_children(one, tmp_path):
    path = str(tmp_path / "runs")
    parent = one.load_balanced_view().apply_async(outer_that_waits, path)
    eventually(lambda: Path(path).exists())
    assert len(unfinished(one)) == 2
    parent.cancel()
    eventually(lambda: not unfinished(one))
    ends = [record["outcome"]["state"] for record in one.records()][-2:]
    assert ends != ["succeeded", "succeeded"]


def test_a_parent_that_is_killed_leaves_no_children(farm, tmp_path):
    path = str(tmp_path / "runs")

    def outer(path, pid):
        import os
        import pathlib

        written = pathlib.Path(pid)
        written.write_text(str(os.getpid()))
        written.rename(pid + ".whole")
        return outer_that_waits(path)

    with farm.client() as rc:
        rc[:].push({"outer_that_waits": outer_that_waits}, block=True)
        parent = rc[0].apply_async(outer, path, str(tmp_path / "pid"))
        eventually(lambda: Path(path).exists())
        os.kill(int((tmp_path / "pid.whole").read_text()), signal.SIGKILL)
        with pytest.raises(furlong.EngineError):
            parent.get(SOON_SECONDS)
        eventually(lambda: not unfinished(rc))


def test_children_end_with_their_parent_unless_they_are_kept(one):
    def outer(keep):
        import time

        import furlong

        rc = furlong.Client()
        view = rc.load_balanced_view()
        view.set_flags(keep=keep)
        made = view.apply_async(time.sleep, 0.3).msg_ids[0]
        rc.flush()
        return made

    view = one.load_balanced_view()
    kept = view.apply_async(outer, True).get(SOON_SECONDS)
    assert one.get_result(kept).get(SOON_SECONDS) is None
    left = view.apply_async(outer, False).get(SOON_SECONDS)
    eventually(lambda: not unfinished(one))
    with pytest.raises(furlong.FurlongError):
        one.get_result(left).get(SOON_SECONDS)


def test_the_pass_is_good_only_while_the_task_runs(one):
    view = one[0]

    def keeps():
        import sys

        import furlong

        sys.held_for_the_test = furlong.Client()

    view.apply_async(keeps).get(SOON_SECONDS)

    def uses():
        import sys

        sys.held_for_the_test.load_balanced_view().apply_sync(pow, 2, 2)

    with pytest.raises(
        furlong.RemoteError, match="ConnectionLost.*the task that opened this client has ended"
    ):
        view.apply_async(uses).get(SOON_SECONDS)


def test_a_late_thread_and_a_fork_get_no_client(one):
    def outer():
        import os
        import sys
        import threading

        import furlong

        def late(after, told):
            after.wait()
            try:
                furlong.Client(timeout=5)
            except furlong.errors.ConnectionRefused as error:
                told.append(str(error))

        go, told = threading.Event(), []
        thread = threading.Thread(target=late, args=(go, told), daemon=True)
        thread.start()
        sys.held_for_the_test = go, told, thread
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                furlong.Client(timeout=5)
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        return os.read(reading, 1000).decode()

    def after():
        import sys

        go, told, thread = sys.held_for_the_test
        go.set()
        thread.join(20)
        return told

    assert "ConnectionRefused: no task runs here" in one[0].apply_async(outer).get(SOON_SECONDS)
    (told,) = one[0].apply_async(after).get(SOON_SECONDS)
    assert "no task runs here" in told


def issue(home, cluster, *flags):
    path = home / f"issued-{time.monotonic_ns()}.cap.json"
    command = [
        sys.executable,
        "-m",
        "furlong",
        "cap",
        "issue",
        "--role",
        "client",
        "--cluster",
        cluster.cluster_id,
    ]
    command += ["--output", str(path), "--json", *flags]
    issued = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return path, issued["token_id"]


def test_a_capability_can_forbid_it(small, home):
    path, _ = issue(home, small, "--no-nested")
    with furlong.Client(path) as rc:
        view = rc.load_balanced_view()
        assert view.apply_async(pow, 2, 2).get(SOON_SECONDS) == 4
        with pytest.raises(
            furlong.RemoteError, match="ConnectionRefused.*forbids its tasks to submit others"
        ):
            view.apply_async(in_task, 1).get(SOON_SECONDS)
    path.unlink()


def test_tasks_of_a_nested_client_are_their_owners_and_no_administrators(small, home):
    path, _ = issue(home, small, "--owner", "alice")

    def outer():
        import furlong

        with furlong.Client() as rc:
            rc.load_balanced_view().apply_sync(pow, 1, 1)
            try:
                rc.shutdown(hub=True)
            except furlong.errors.RequestRefused as error:
                refusal = str(error)
            return len(rc.records()), refusal

    with furlong.Client(path) as alice, furlong.Client(cluster=small) as other:
        before = len(other.records())
        records, refusal = alice.load_balanced_view().apply_async(outer).get(SOON_SECONDS)
        assert records == 1  # its own
        assert "may not stop engines" in refusal
        assert len(other.records()) == before
    path.unlink()


def test_a_revoked_token_ends_what_its_tasks_have_opened(farm, home, tmp_path):
    path, token = issue(home, farm.cluster)
    runs = str(tmp_path / "runs")
    with farm.client() as other:
        rc = furlong.Client(path)
        parent = rc.load_balanced_view().apply_async(outer_that_waits, runs)
        eventually(lambda: Path(runs).exists())
        command = [
            sys.executable,
            "-m",
            "furlong",
            "cap",
            "revoke",
            token,
            "--cluster",
            farm.cluster.cluster_id,
        ]
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(furlong.FurlongError):
            parent.get(SOON_SECONDS)
        eventually(lambda: other.status()["tasks_assigned"] == 0)
        eventually(lambda: other.status()["clients"] == 1)
    path.unlink()


def test_a_task_for_the_engine_that_waits_for_it_is_an_error(one):
    def outer():
        import furlong

        with furlong.Client() as rc:
            rc[0].apply_sync(pow, 2, 2)

    with pytest.raises(furlong.FurlongError, match="a circle: engine 0 runs task"):
        one[0].apply_async(outer).get(SOON_SECONDS)


def test_explain_names_a_circle_of_a_client_by_file(one, small):
    def outer(path):
        import furlong

        with furlong.Client(path) as rc:
            rc[0].apply_sync(pow, 2, 2)

    result = one[0].apply_async(outer, str(small.capability))

    def named():
        waits = [record["waits"] for record in one.records() if record["phase"] != "ended"]
        return any("a circle: engine 0 runs task" in why for why in waits if why)

    eventually(named)
    result.cancel(force=True)
    eventually(lambda: not unfinished(one))


def test_stand_ins_end_when_they_have_nothing_to_do(one):
    one.load_balanced_view().apply_async(fib, 3).get(SOON_SECONDS)
    (engine,) = one.status()["processes"]
    eventually(lambda: len(children_of(engine["pid"])) <= 1)
