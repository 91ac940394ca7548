"""The state that engines hold for their users does not end without a word."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import eventually

import furlong


def begin(folder):
    """Set up what is to be done at an interpreter's end."""
    import atexit
    import tempfile
    import weakref

    global kept, written  # noqa: PLW0603 - they live as long as the interpreter
    folder = Path(folder)
    atexit.register(lambda: (folder / "atexit").write_text("done"))
    kept = [tempfile.TemporaryDirectory(dir=folder, prefix="temporary-"), Path()]
    weakref.finalize(kept[0], lambda: (folder / "finalize").write_text("done"))
    written = (folder / "written").open("w")
    written.write("not flushed yet")
    (folder / "here").write_text(str(os.getpid()))


def with_threads(folder, *, daemon):
    """Do that, and leave a thread that never ends."""
    begin(folder)
    threading.Thread(target=threading.Event().wait, daemon=daemon).start()


def with_pool(folder, *, busy):
    """Do that, and leave a pool of threads that nobody has shut down."""
    import concurrent.futures

    begin(folder)
    globals()["pool"] = concurrent.futures.ThreadPoolExecutor(1)
    globals()["pool"].submit(int).result()
    if busy:
        globals()["pool"].submit(threading.Event().wait)


def ended(folder):
    """Return what has been done at the end."""
    files = {
        file.name: file.read_text()
        for file in folder.iterdir()
        if file.is_file() and file.name != "here"
    }
    return files, [file.name for file in folder.iterdir() if file.is_dir()]


IN_ORDER = ({"atexit": "done", "finalize": "done", "written": "not flushed yet"}, [])


@pytest.mark.parametrize("how", ["restart", "shutdown", "one", "stop"])
def test_105_an_interpreter_ends_gracefully(how, tmp_path):
    with furlong.Cluster(n=2) as rc:
        rc[0].apply_sync(begin, str(tmp_path))
        if how == "restart":
            rc.restart(targets=[0])
        elif how == "shutdown":
            rc.shutdown()
        elif how == "one":
            rc.shutdown(targets=[0])
        if how != "stop":
            assert eventually(lambda: ended(tmp_path) == IN_ORDER)
    assert ended(tmp_path) == IN_ORDER


@pytest.mark.parametrize("daemon", [True, False])
def test_105_threads_that_never_end_keep_no_interpreter_from_its_end(daemon, tmp_path):
    with furlong.Cluster(n=1) as rc:
        rc[0].apply_sync(with_threads, str(tmp_path), daemon=daemon)
    assert ended(tmp_path) == IN_ORDER


@pytest.mark.parametrize("busy", [True, False])
def test_105_a_pool_of_threads_is_ended_with_its_interpreter(busy, tmp_path):
    with furlong.Cluster(n=1) as rc:
        rc[0].apply_sync(with_pool, str(tmp_path), busy=busy)
    assert ended(tmp_path) == IN_ORDER


def test_105_code_that_runs_is_interrupted_first(tmp_path):
    def run(folder):
        begin(folder)
        try:
            time.sleep(600)
        finally:
            (Path(folder) / "finally").write_text("done")

    with furlong.Cluster(n=1) as rc:
        result = rc[0].apply_async(run, str(tmp_path))
        eventually((tmp_path / "here").exists)
        rc.restart()
        with pytest.raises(furlong.errors.EngineError, match="restarted on request"):
            result.get(30)
        files, folders = ended(tmp_path)
        assert files.pop("finally") == "done"
        assert (files, folders) == IN_ORDER


def test_105_code_that_does_not_end_is_killed_in_time(tmp_path):
    def run(folder):
        (Path(folder) / "here").write_text(str(os.getpid()))
        while True:
            try:
                time.sleep(600)
            except BaseException:  # noqa: S110 - it takes no notice
                pass

    with furlong.Cluster(n=1) as rc:
        result = rc[0].apply_async(run, str(tmp_path))
        eventually((tmp_path / "here").exists)
        rc.restart()
        with pytest.raises(furlong.errors.EngineError):
            result.get(30)
        assert rc[0].apply_sync(lambda: 3) == 3


def blocked(path):
    """Be in C code that responds to no interrupt, until the file is there."""
    import ctypes

    waits = f"import os, time\nwhile not os.path.exists({path!r}): time.sleep(0.01)"
    Path(path + ".begun").touch()
    # A command of the shell that `system` waits for: it ignores SIGINT meanwhile, and so does C.
    ctypes.PyDLL(None).system(f'exec python3 -c "{waits}"'.encode())


@pytest.mark.parametrize("state", ["pushed", "executed", "stored"])
def test_105_a_plain_cancel_leaves_the_variables(state, tmp_path):
    path = str(tmp_path / "go")

    def store():
        import builtins

        builtins.data = [1, 2, 3]

    with furlong.Cluster(n=1) as rc:
        if state == "pushed":
            rc[0]["data"] = [1, 2, 3]
        elif state == "executed":
            rc[0].execute("data = [1, 2, 3]").get()
        else:
            rc.load_balanced_view().apply_sync(store)
        result = rc.load_balanced_view().apply_async(blocked, path)
        eventually(Path(path + ".begun").exists)
        result.cancel()
        with pytest.raises(furlong.errors.TaskCancelled, match="cancelled with force"):
            result.get(30)
        waits = [rc[0].apply_async(len, "abc"), rc.load_balanced_view().apply_async(len, "abc")]
        mine = {key for task in waits for key in task.msg_ids}

        def is_explained():
            whys = [record.get("waits") or "" for record in rc.records() if record["id"] in mine]
            return len(whys) == 2 and all(
                "does not respond to its interrupt" in why for why in whys
            )

        eventually(is_explained)
        assert [engine["stuck"] for engine in rc.status()["engines"]] == [1]
        Path(path).touch()
        assert [task.get(30) for task in waits] == [3, 3]
        assert rc[0]["data"] == [1, 2, 3]


@pytest.mark.parametrize("how", ["cancel", "limit", "death", "restart"])
def test_105_who_misses_a_variable_is_told_what_took_it(how, tmp_path):
    def stubborn(path):
        Path(path).touch()
        while True:
            try:
                time.sleep(600)
            except BaseException:  # noqa: S110 - it takes no notice
                pass

    with furlong.Cluster(n=1) as rc:
        rc[0]["data"] = [1, 2, 3]
        view, path = rc.load_balanced_view(), tmp_path / "begun"
        if how == "cancel":
            result = view.apply_async(stubborn, str(path))
            eventually(path.exists)
            result.cancel(force=True)
        elif how == "limit":
            with view.temp_flags(run_timeout=0.5):
                result = view.apply_async(stubborn, str(path))
        elif how == "death":
            result = view.apply_async(os.kill, rc[0].apply_sync(os.getpid), signal.SIGKILL)
        else:
            result = None
            rc.restart()
        if result is not None:
            result.wait(30)
            task = result.msg_ids[0].rpartition(":")[2]
        says = {
            "cancel": "killed to cancel a task: ",
            "limit": "killed to cancel a task: ",
            "death": "killed by SIGKILL",
            "restart": "restarted on request",
        }[how]
        uses = [
            lambda: rc[0]["data"],
            lambda: rc[0].execute("data").get(),
            lambda: rc[0].apply_sync(lambda: data),  # noqa: F821 - it is the engine's
        ]
        for use in uses:
            with pytest.raises(NameError, match="if it was set before") as caught:
                use()
            assert says in caught.value.evalue
            if result is not None:
                assert f":{task}" in caught.value.evalue
        with pytest.raises(UnboundLocalError) as caught:
            rc[0].apply_sync(unbound)
        assert "set before" not in caught.value.evalue


def test_105_the_loss_is_told_wherever_a_variable_is_missed():
    """In causes, in groups, as an attribute of the main module, and for each item of a map."""

    def misses():
        return data  # noqa: F821 - it is the engine's

    def with_cause(_=None):
        try:
            misses()
        except NameError as error:
            raise RuntimeError from error

    def of_main():
        import __main__

        return __main__.data

    def imported():
        from __main__ import data

        return data

    with furlong.Cluster(n=1) as rc:
        view = rc[0]
        view["data"] = 1
        view.apply_async(os._exit, 3).wait(30)
        says = (
            "if it was set before: the variables of this engine were lost, "
            "as the interpreter ended with exit code 3"
        )
        caused = view.apply_async(with_cause).exception(30)
        assert isinstance(caused.__cause__, NameError)
        assert str(caused.__cause__).count(says) == 1
        for function, kind in ((of_main, AttributeError), (imported, ImportError)):
            error = view.apply_async(function).exception(30)
            assert isinstance(error, kind)
            assert error.evalue.count(says) == 1
        for one in (view, rc.load_balanced_view()):
            errors = one.map_async(lambda _: misses(), range(2)).get(30, return_exceptions=True)
            assert [error.evalue.count(says) for error in errors] == [1, 1]
            (first, _) = one.map_async(with_cause, range(2)).get(30, return_exceptions=True)
            assert str(first.__cause__).count(says) == 1


def unbound():
    """Miss a variable that is no engine's."""
    print(local)  # noqa: F821
    local = 1  # noqa: F841


def print_later(path, much):
    """Leave a thread that prints when there is a file."""

    def wait_and_print():
        while not Path(path).exists():
            time.sleep(0.001)
        print("late", "output")
        print("and more", file=sys.stderr)
        if much:
            print("x" * 100_000)
        Path(path + ".done").touch()

    threading.Thread(target=wait_and_print, name="mine").start()
    print("in time")


@pytest.mark.parametrize("much", [False, True])
def test_105_what_threads_print_after_their_task_is_there_for_whoever_asks(much, tmp_path):
    path = str(tmp_path / "go")
    with furlong.Cluster(n=1) as rc:
        result = rc[0].apply_async(print_later, path, much)
        result.get(30)
        assert rc[0].late_output(block=True) == []
        Path(path).touch()
        eventually(Path(path + ".done").exists)
        assert result.stdout == "in time\n"
        pieces = rc[0].late_output(block=True)
        if much:
            assert pieces[0][0] == ""
            assert "left out; the engine's log" in pieces[0][2]
            assert 60_000 < sum(len(text) for _, _, text in pieces[1:]) <= 65_536
        else:
            assert pieces == [("mine", "stdout", "late output\n"), ("mine", "stderr", "and more\n")]
        assert rc[:].late_output(block=True) == [[]]


def test_106_an_interrupt_leaves_no_half_of_a_module(rc, tmp_path):
    """A cancel in the middle of an import: the next import is whole."""
    package = tmp_path / "half_of_a_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from .part import value\nimport builtins\nbuiltins.half_waits()\nfound = part.value\n"
    )
    (package / "part.py").write_text("value = 5\n")
    begun = tmp_path / "begun"

    def enter(folder, begun):
        import builtins
        import sys
        import time
        from pathlib import Path

        def waits():
            Path(begun).touch()
            while True:
                time.sleep(0.01)

        builtins.half_waits = waits
        sys.path.insert(0, folder)
        import half_of_a_package

        return half_of_a_package.found

    def again():
        import builtins

        builtins.half_waits = lambda: None
        import half_of_a_package

        return half_of_a_package.found

    first = rc[0].apply_async(enter, str(tmp_path), str(begun))
    eventually(begun.exists)
    first.cancel()
    assert rc[0].apply_async(again).get(30) == 5
