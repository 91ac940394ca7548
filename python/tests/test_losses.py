"""Return whether user code began, whose fault it is that it did not, and who is told."""

import os
import signal
import sys
import warnings

import pytest
from conftest import SOON_SECONDS, eventually

import furlong
from furlong.errors import NoEnginesWarning


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def kill_parent():
    """Kill the engine process, as an out-of-memory kill of a job does."""
    import os
    import time

    os.kill(os.getppid(), 9)
    time.sleep(60)


def pids(rc):
    return [process["pid"] for process in rc.status()["processes"]]


def test_arguments_beyond_the_memory_are_an_error_that_names_the_bound(own):
    with own(n=1, memory="300M") as rc:
        view = rc.load_balanced_view()
        view.apply_sync(exec, "import builtins; builtins.mark = 1")
        task = view.apply_async(len, bytes(350 << 20))
        with pytest.raises(MemoryError, match=r"the arguments have \d+ bytes.*300 MiB.*--memory"):
            task.get(timeout=SOON_SECONDS)
        assert view.apply_sync(eval, "mark") == 1, "its interpreter lives on"


def test_arguments_that_grow_beyond_the_memory_end_the_task_alone(own):
    class Grows:
        def __reduce__(self):
            return bytearray, (1 << 30,)

    with own(n=1, memory="300M") as rc:
        view = rc.load_balanced_view()
        with pytest.raises(MemoryError, match="300 MiB"):
            view.apply_async(len, Grows()).get(timeout=SOON_SECONDS)
        assert view.apply_sync(len, "abc") == 3


def test_code_that_kills_what_reads_it_is_lost(own):
    class Bomb:
        def __reduce__(self):
            return os._exit, (7,)

    with own(n=2) as rc:
        with pytest.raises(furlong.EngineError, match="exit code 7"):
            rc.load_balanced_view().apply_async(len, Bomb()).get(timeout=SOON_SECONDS)
        assert rc.load_balanced_view().map_sync(abs, [-1, -2]) == [1, 2]


def test_an_engine_without_an_interpreter_takes_nothing(own, tmp_path):
    cluster = own(n=1)
    rc = cluster.start_and_connect_sync()
    cluster.python = str(script(tmp_path / "broken", "#!/bin/sh\necho broken >&2\nexit 127\n"))
    cluster.start_engines_sync(1)
    rc.wait_for_engines(2, timeout=SOON_SECONDS)
    good, bad = rc.ids
    assert rc.load_balanced_view().map_sync(abs, range(-40, 0), chunksize=1) == list(
        range(40, 0, -1)
    )
    (aside,) = rc.queue_status()[bad]["set_aside"]
    assert (aside["runtime"], aside["is_whole_runtime"]) == ("python", True)
    assert "set_aside" not in rc.queue_status()[good]
    with pytest.raises(furlong.RemoteError, match="broken"):
        rc[bad].apply_sync(abs, -1)


def test_an_interpreter_that_is_mended_is_used_again(own, tmp_path):
    cluster = own(n=1)
    python = script(tmp_path / "python", "#!/bin/sh\nexit 127\n")
    cluster.python = str(python)
    rc = cluster.start_and_connect_sync()
    view = rc.load_balanced_view()
    with pytest.raises(furlong.RemoteError, match="of no use as an interpreter"):
        view.apply_sync(abs, -1)
    script(python, f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert view.apply_sync(abs, -1) == 1, (
        "it is the only one: nobody waits for it to be tried again"
    )
    assert "set_aside" not in rc.queue_status()[rc.ids[0]]


def test_poison_is_lost_and_costs_nobody_else(own):
    with own(n=1) as rc:
        view = rc.load_balanced_view()
        poison = view.apply_async(kill_parent)
        healthy = view.map_async(abs, range(-50, 0), chunksize=1)
        with pytest.raises(furlong.EngineError, match="does it kill what runs it"):
            poison.get(timeout=SOON_SECONDS)
        assert healthy.get(timeout=SOON_SECONDS) == list(range(50, 0, -1))


def test_engines_that_are_killed_come_back(own):
    with own(n=2) as rc:
        before = rc.ids
        for _ in range(2):
            (pid,) = eventually(lambda: pids(rc))
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: pids(rc) not in ([], [pid]))
        eventually(lambda: len(rc.ids) == 2)
        assert not set(before) & set(rc.ids)
        assert rc.load_balanced_view().apply_sync(abs, -1) == 1


def test_engines_that_were_stopped_stay_away(own):
    with own(n=1) as rc:
        cluster = rc.cluster
        (pid,) = pids(rc)
        cluster.stop_engines_sync()
        assert pids(rc) == []
        key = cluster.start_engines_sync(1)
        rc.wait_for_engines(1, timeout=SOON_SECONDS)
        assert pids(rc) != [pid]
        cluster.stop_engines_sync(key)


def test_who_waits_without_engines_is_told_once_and_waits_on(own):
    cluster = own(n=1)
    with cluster as rc:
        cluster.stop_engines_sync()
        eventually(lambda: not rc.ids)
        task = rc.load_balanced_view().apply_async(abs, -1)
        with pytest.warns(NoEnginesWarning, match="no engine of cluster") as caught:
            assert not task.wait(8)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        cluster.start_engines_sync(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert task.get(timeout=SOON_SECONDS) == 1


def test_who_waits_for_a_map_without_engines_is_told(own):
    cluster = own(n=1)
    with cluster as rc:
        cluster.stop_engines_sync()
        eventually(lambda: not rc.ids)
        result = rc.load_balanced_view().map_async(abs, range(-5, 0))
        with pytest.warns(NoEnginesWarning):
            assert not result.wait(8)
        result.cancel()
