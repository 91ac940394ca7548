"""CPython's own tests of `concurrent.futures`, those that do not depend on one of its executors, run with ours.

They are taken from the `test` package of the interpreter, which some distributions leave out; then from where Debian's
package `libpython3.x-testsuite` puts it, or from another version of Python beside this one. Where there is none, they
are skipped.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pickle
import sys
import threading
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import SOON_SECONDS, eventually

import furlong
from furlong.views.executor import ExecutorFuture

NAME = "test_concurrent_futures"
# Where Python 3.12 and later have them, beside each other.
PACKAGE = ("executor", "test_as_completed", "test_wait", "test_shutdown", "test_future")
CLASSES = ("ExecutorTest", "AsCompletedTests", "WaitTests", "ExecutorShutdownTest", "FutureTests")
# Those that cannot apply, and why.
LEFT_OUT = {
    "test_max_workers_negative": (
        "engines are started by clusters, so the executor has no number of workers"
    ),
    "test_interpreter_shutdown": (
        "names an executor of the standard library in a script; see test_executor.py"
    ),
    "test_submit_after_interpreter_shutdown": (
        "names an executor of the standard library; see test_executor.py"
    ),
    "test_hang_gh83386": (
        "names an executor of the standard library in a script; see test_executor.py"
    ),
    "test_hang_gh94440": "passes an initializer, which engines do not have",
    "test_repr": "results are shown with the function's name",
    "test_cancel": "compares the names of states, which are derived here; see test_executor.py",
    "test_exception_with_success": "sets the parts of a future by hand",
    "test_multiple_set_result": "nobody but an engine sets a result",
    "test_multiple_set_exception": "nobody but an engine sets an exception",
    "test_done_callback_raises": (
        "reads what logging prints, which pytest takes; see test_futures.py"
    ),
    "test_done_callback_raises_already_succeeded": "reads what logging prints, which pytest takes",
    "test_get_snapshot": "reads the parts of a future",
}


def candidates() -> Iterator[Path]:
    """Return files that may hold the tests: of this version, and of others that stand beside it."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for root in (Path(sys.base_prefix), Path("/usr")):
        yield root / "lib" / version / "test" / f"{NAME}.py"
    others = Path(sys.base_prefix).parent.glob(f"*/lib/python3.*/test/{NAME}.py")
    yield from sorted(
        others, key=lambda path: abs(int(path.parts[-3].partition(".")[2]) - sys.version_info[1])
    )


@functools.cache
def found() -> dict[str, Any]:
    """Return the classes of tests by their names; none if there is no place that has them."""
    modules: list[ModuleType] = []
    try:
        whole = importlib.import_module(f"test.{NAME}")
        modules = [
            importlib.import_module(f"test.{NAME}.{part}")
            for part in PACKAGE
            if hasattr(whole, "__path__")
        ]
        modules = modules or [whole]
    except (ImportError, unittest.SkipTest):
        for path in candidates():
            spec = (
                importlib.util.spec_from_file_location("stdlib_futures", path)
                if path.exists()
                else None
            )
            if spec is None or spec.loader is None:
                continue
            module = importlib.util.module_from_spec(spec)
            sys.modules["stdlib_futures"] = module
            try:
                spec.loader.exec_module(module)
            except (ImportError, AttributeError, unittest.SkipTest):
                continue  # it is for a version of Python that is too far from this one
            modules = [module]
            break
    return {
        name: getattr(module, name)
        for name in CLASSES
        for module in modules
        if hasattr(module, name)
    }


class OnFarm:
    """Gives each test an executor of the module's cluster, as CPython's mixins give one of its own."""

    worker_count = 4
    executor_type = furlong.ViewExecutor
    executor: Any

    @pytest.fixture(autouse=True)
    def on_farm(self, rc: furlong.Client) -> Iterator[None]:
        """Make the executor, and shut it down after the test."""
        self.executor = self.make(rc)
        yield
        self.executor.shutdown(wait=True)
        self.executor = None

    def make(self, rc: furlong.Client) -> Any:
        """Make the executor of the client."""
        return rc.executor()


def wait_for(path: str) -> Any:
    """Wait on an engine for a file, and do what it says: give a value, or raise."""
    while not os.path.exists(path):  # noqa: PTH110
        time.sleep(0.005)
    with open(path, "rb") as file:  # noqa: PTH123
        value, error = pickle.load(file)
    if error is not None:
        raise error
    return value


def tell(path: Path, value: Any = None, error: BaseException | None = None) -> None:
    """Write what such a call does, as a whole."""
    made = path.with_suffix(".new")
    made.write_bytes(pickle.dumps((value, error)))
    made.rename(path)


class Told(ExecutorFuture):
    """A future whose call waits behind another, and does what it is told by the methods that plain futures have."""

    def __init__(
        self, rc: furlong.Client, folder: Path, engine: int, *, is_running: bool = False
    ) -> None:
        at = len(list(folder.iterdir()))
        self._first, self._own = folder / f"{at}.first", folder / f"{at}.own"
        # They are looked for on engines, and so that the next has other names.
        (folder / f"{at}.taken").touch()
        executor = rc[engine].executor
        if is_running:
            tell(self._first)
        self._before = executor.submit(wait_for, str(self._first))
        super().__init__(executor.submit(wait_for, str(self._own)), executor)
        if is_running:
            eventually(self.running)

    def set_result(self, result: Any) -> None:
        """Let the call give this."""
        self._end(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Let the call raise this."""
        self._end(None, exception)

    def _end(self, value: Any, error: BaseException | None) -> None:
        tell(self._own, value, error)
        tell(self._first)
        self.wait(SOON_SECONDS)
        # Callbacks have been called as well, as they have after `Future.set_result`.
        ended = threading.Event()
        self.add_done_callback(lambda _: ended.set())
        assert ended.wait(SOON_SECONDS)

    def cancel(self, force: bool = False) -> bool:
        """Take it back, and wait until the callbacks have been called."""
        done = super().cancel(force)
        if done:
            ended = threading.Event()
            self.add_done_callback(lambda _: ended.set())
            assert ended.wait(SOON_SECONDS)
        return done


class WithOurFutures:
    """Gives CPython's tests of futures ours in the place of plain ones, in the states that they want."""

    @pytest.fixture(autouse=True)
    def with_our_futures(
        self, rc: furlong.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        """Replace the constants and makers of their module, and end what is left."""
        module = sys.modules[found()["FutureTests"].__module__]

        def make(
            state: str = "PENDING", exception: BaseException | None = None, result: Any = None
        ) -> Told:
            made = Told(rc, tmp_path, 0 if state != "RUNNING" else 1, is_running=state == "RUNNING")
            if state.startswith("CANCELLED"):
                assert made.cancel()
            elif state == "FINISHED":
                made.set_exception(exception) if exception is not None else made.set_result(result)
            return made

        states = {"PENDING": {}, "RUNNING": {}, "CANCELLED": {}, "CANCELLED_AND_NOTIFIED": {}}
        ended = {"EXCEPTION": {"exception": OSError()}, "SUCCESSFUL": {"result": 42}}
        # What ends is made first: what waits holds up the engine.
        for name, how in ended.items():
            monkeypatch.setattr(module, f"{name}_FUTURE", make("FINISHED", **how), raising=False)
        for name in reversed(states):
            monkeypatch.setattr(module, f"{name}_FUTURE", make(name), raising=False)
        monkeypatch.setattr(module, "Future", lambda: Told(rc, tmp_path, 2))
        monkeypatch.setattr(
            module, "create_future", lambda state="PENDING", **how: Told(rc, tmp_path, 2)
        )
        yield
        rc.cancel(force=True)


class OnChosenEngines(OnFarm):
    """The same with an executor whose engines are chosen, and have queues of their own."""

    def make(self, rc: furlong.Client) -> Any:
        """Make the executor of chosen engines."""
        return rc.executor([0, 1, 2, 3])


MIXINS: dict[str, tuple[type, ...]] = {
    "AsCompletedTests": (OnFarm,),
    "WaitTests": (OnFarm,),
    "FutureTests": (WithOurFutures,),
}


def classes() -> dict[str, type[unittest.TestCase]]:
    """Make the classes that are run."""
    made: dict[str, type[unittest.TestCase]] = {}
    for name, tests in found().items():
        left_out = {
            test: unittest.skip(why)(lambda _: None)
            for test, why in LEFT_OUT.items()
            if hasattr(tests, test)
        }
        for mixin in MIXINS.get(name, (OnFarm, OnChosenEngines)):
            made_name = f"Test{name}{mixin.__name__}"
            made[made_name] = type(
                made_name, (mixin, tests, unittest.TestCase), {"__module__": __name__, **left_out}
            )
    return made


globals().update(classes())


def test_there_are_tests_of_the_standard_library() -> None:
    """Skips where there are none, and says so."""
    if not found():
        pytest.skip(
            f"no test.{NAME} here: install the test suite of Python {sys.version_info[0]}.{sys.version_info[1]}"
        )
    assert sorted(found()) == sorted(CLASSES)
