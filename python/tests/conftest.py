"""The base of all tests: a cluster for each module, a client for each test, deadlines, and a look at what is left."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

import furlong
from furlong import _furlong
from furlong.waiting import dispatch

#: How long a test may take on a machine that is busy with others.
TEST_SECONDS = 60
#: How long anything may take to come true.
SOON_SECONDS = 30
#: Engines of a module's cluster.
ENGINES = 4

T = TypeVar("T")

# A shell without job control starts what runs in the background with Ctrl-C ignored, which the
# tests of it would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def eventually(condition: Callable[[], T], seconds: float = SOON_SECONDS) -> T:
    """Wait until something is true, and give it; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.01)
    return value


def processes_of(home: Path) -> list[psutil.Process]:
    """Return all processes that have this home in their environment, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("FURLONG_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that takes too long, with what all threads do."""

    def fail(*_: object) -> None:
        faulthandler.dump_traceback()
        pytest.fail(f"{item.name} has not ended in {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(TEST_SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return all clusters a folder of their own, whatever the environment says."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FURLONG_HOME", str(folder))
        environment.delenv("FURLONG_CAP", raising=False)
        environment.delenv("VIRTUAL_ENV", raising=False)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def threads_that_stay(session_home: Path) -> None:
    """Start the threads that a process has for all of its clients, so that no module is blamed for them."""
    with pytest.raises(furlong.FurlongError):
        _furlong.Session.connect(session_home / "nowhere", None, 0.0)
    for dispatcher in (dispatch.dispatcher(), dispatch.callbacks()):
        called = threading.Event()
        dispatcher.soon(called.set)
        assert called.wait(SOON_SECONDS)


def start_threads_of_dask() -> None:
    """Start the thread that Dask keeps to the end of a process, where Dask is installed."""
    try:
        from distributed.utils import _offload_executor
    except ImportError:
        return
    _offload_executor.submit(int).result()


def descriptors() -> Counter[str]:
    """Count open files by what they are."""
    counted: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        try:
            counted[str(path.readlink()).partition(":")[0]] += 1
        except FileNotFoundError:
            # It is that of the listing itself.
            continue
    return counted


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(threads_that_stay: None, session_home: Path) -> Iterator[None]:
    """Check that a module leaves no process, thread, open file or cluster's folder."""
    before = descriptors()
    threads = set(threading.enumerate())
    children = set(psutil.Process().children(recursive=True))
    yield
    eventually(lambda: set(psutil.Process().children(recursive=True)) <= children)
    eventually(lambda: not processes_of(session_home))
    eventually(lambda: set(threading.enumerate()) <= threads)
    try:
        eventually(lambda: not descriptors() - before, 5)
    except AssertionError:
        pytest.fail(f"open files are left: {descriptors() - before}")
    assert [path.name for path in session_home.iterdir() if path.name.startswith("py-")] == []


@pytest.fixture
def home(session_home: Path) -> Path:
    """Return the folder of all clusters."""
    return session_home


@pytest.fixture(scope="module")
def cluster(nothing_is_left: None) -> Iterator[furlong.Cluster]:
    """Return a cluster for the tests of a module, whose engines they leave as they are."""
    made = furlong.Cluster(n=ENGINES)
    made.start_and_connect_sync().close()
    yield made
    made.stop_cluster_sync()


@pytest.fixture
def rc(cluster: furlong.Cluster) -> Iterator[furlong.Client]:
    """Return a client, with empty namespaces on all engines; it is closed after the test."""
    with furlong.Client(cluster=cluster) as other:
        other.wait_for_engines(ENGINES, timeout=SOON_SECONDS)
        other[:].clear(block=True)
    with furlong.Client(cluster=cluster) as client:
        yield client
        client.cancel(force=True)


@pytest.fixture
def view(rc: furlong.Client) -> furlong.DirectView:
    """Return a view on all engines."""
    return rc[:]


@pytest.fixture
def lview(rc: furlong.Client) -> furlong.LoadBalancedView:
    """Return a view on the shared queue."""
    return rc.load_balanced_view()


@pytest.fixture
def own() -> Iterator[Callable[..., furlong.Cluster]]:
    """Return a maker of clusters of a test's own, which are stopped after it."""
    made: list[furlong.Cluster] = []

    def make(*args: object, **options: object) -> furlong.Cluster:
        made.append(furlong.Cluster(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop_cluster_sync()


class Farm:
    """A cluster that a test may break."""

    def __init__(self, cluster: furlong.Cluster) -> None:
        self.cluster = cluster

    def client(self) -> furlong.Client:
        """Connect."""
        return furlong.Client(cluster=self.cluster, timeout=SOON_SECONDS)


@pytest.fixture
def farm(own: Callable[..., furlong.Cluster]) -> Farm:
    """Return a cluster of four engines that the test may break."""
    cluster = own(n=ENGINES)
    cluster.start_and_connect_sync().close()
    return Farm(cluster)


class Gate:
    """A gate that tasks wait for, until the test opens it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: Code that waits.
        self.code = f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.005)"

    def wait(self, value: object = None) -> object:
        """Wait on an engine, and give the value."""
        exec(self.code, {})
        return value

    def open(self) -> None:
        """Let all of them go on."""
        self._path.touch()

    def close(self) -> None:
        """Let those that come from now on wait again."""
        self._path.unlink(missing_ok=True)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Return a gate, which is open after the test in any case."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()
