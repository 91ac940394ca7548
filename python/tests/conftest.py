"""A cluster of four engines for all tests of a run, and what tests take from it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import furlong

ENGINES = 4
# How long anything may take on a machine that is busy with other tests.
SOON_SECONDS = 60
ROOT = Path(__file__).parents[2]
PROGRAM = Path(os.environ.get("FURLONG_TEST_BIN_DIR", ROOT / "target/debug")) / "furlong"
PYTHON = os.environ.get("FURLONG_TEST_PYTHON", sys.executable)


class Farm:
    """A cluster of its own, in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.capability = home / "default/security/client.cap.json"
        self._environment = {**os.environ, "FURLONG_HOME": str(home)}
        # Engines have what is installed, and nothing of the tests.
        for name in ("FURLONG_CAP", "PYTHONPATH"):
            self._environment.pop(name, None)

    def run(self, *args: str) -> None:
        """Run the command, which must succeed."""
        ended = subprocess.run(
            [PROGRAM, *args],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SOON_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout.decode()

    def start(self, engines: int = ENGINES) -> None:
        """Start broker and engines."""
        self.run("cluster", "start", "-n", str(engines), "--daemon", "--python", PYTHON)

    def stop(self) -> None:
        """Stop all of it."""
        self.run("cluster", "stop")

    def client(self) -> furlong.Client:
        """Connect."""
        return furlong.Client(self.capability, timeout=SOON_SECONDS)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Give the cluster that tests share; they leave its engines as they are."""
    farm = Farm(tmp_path_factory.mktemp("furlong"))
    farm.start()
    yield farm
    farm.stop()


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Give a cluster that a test may break."""
    farm = Farm(tmp_path / "home")
    farm.start()
    yield farm
    farm.stop()


@pytest.fixture
def rc(cluster: Farm) -> Iterator[furlong.Client]:
    """Give a client of its own, with empty namespaces on all engines."""
    with cluster.client() as client:
        assert len(client) == ENGINES
        client[:].clear(block=True)
        yield client
        client.cancel(force=True)


@pytest.fixture
def view(rc: furlong.Client) -> furlong.DirectView:
    """Give a view on all engines."""
    return rc[:]


@pytest.fixture
def lview(rc: furlong.Client) -> furlong.LoadBalancedView:
    """Give a view on the shared queue."""
    return rc.load_balanced_view()
