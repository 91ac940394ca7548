"""CPython's own tests of `concurrent.futures`, those that do not depend on one of its executors, run with ours.

They are taken from the `test` package of the interpreter, which some distributions leave out; then from where Debian's
package `libpython3.x-testsuite` puts it, or from another version of Python beside this one. Where there is none, they
are skipped.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import furlong

NAME = "test_concurrent_futures"
# Where Python 3.12 and later have them, beside each other.
PACKAGE = ("executor", "test_as_completed", "test_wait", "test_shutdown")
CLASSES = ("ExecutorTest", "AsCompletedTests", "WaitTests", "ExecutorShutdownTest")
# Those that cannot apply, and why.
LEFT_OUT = {
    "test_max_workers_negative": "engines are started by clusters, so the executor has no number of workers",
    "test_interpreter_shutdown": "names an executor of the standard library in a script; see test_executor.py",
    "test_submit_after_interpreter_shutdown": "names an executor of the standard library; see test_executor.py",
    "test_hang_gh83386": "names an executor of the standard library in a script; see test_executor.py",
    "test_hang_gh94440": "passes an initializer, which engines do not have",
}


def candidates() -> Iterator[Path]:
    """Give files that may hold the tests: of this version, and of others that stand beside it."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for root in (Path(sys.base_prefix), Path("/usr")):
        yield root / "lib" / version / "test" / f"{NAME}.py"
    others = Path(sys.base_prefix).parent.glob(f"*/lib/python3.*/test/{NAME}.py")
    yield from sorted(others, key=lambda path: abs(int(path.parts[-3].partition(".")[2]) - sys.version_info[1]))


@functools.cache
def found() -> dict[str, Any]:
    """Give the classes of tests by their names; none if there is no place that has them."""
    modules: list[ModuleType] = []
    try:
        whole = importlib.import_module(f"test.{NAME}")
        modules = [importlib.import_module(f"test.{NAME}.{part}") for part in PACKAGE if hasattr(whole, "__path__")]
        modules = modules or [whole]
    except (ImportError, unittest.SkipTest):
        for path in candidates():
            spec = importlib.util.spec_from_file_location("stdlib_futures", path) if path.exists() else None
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
    return {name: getattr(module, name) for name in CLASSES for module in modules if hasattr(module, name)}


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


class OnChosenEngines(OnFarm):
    """The same with an executor whose engines are chosen, and have queues of their own."""

    def make(self, rc: furlong.Client) -> Any:
        """Make the executor of chosen engines."""
        return rc.executor([0, 1, 2, 3])


def classes() -> dict[str, type[unittest.TestCase]]:
    """Make the classes that are run."""
    made: dict[str, type[unittest.TestCase]] = {}
    for name, tests in found().items():
        left_out = {test: unittest.skip(why)(lambda _: None) for test, why in LEFT_OUT.items() if hasattr(tests, test)}
        for mixin in (OnFarm, OnChosenEngines) if name.startswith("Executor") else (OnFarm,):
            made_name = f"Test{name}{mixin.__name__}"
            made[made_name] = type(made_name, (mixin, tests, unittest.TestCase), {"__module__": __name__, **left_out})
    return made


globals().update(classes())


def test_there_are_tests_of_the_standard_library() -> None:
    """Skips where there are none, and says so."""
    if not found():
        pytest.skip(
            f"no test.{NAME} here: install the test suite of Python {sys.version_info[0]}.{sys.version_info[1]}"
        )
    assert sorted(found()) == sorted(CLASSES)
