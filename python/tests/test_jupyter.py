"""The page of the farm in Jupyter: the entry point that jupyter-server-proxy reads, and what it starts."""

import contextlib
import http.client
import json
import socket
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

from conftest import SOON_SECONDS, eventually

import furlong


class OverSocket(http.client.HTTPConnection):
    """A connection over a Unix socket, as the proxy has it."""

    def __init__(self, path: Path) -> None:
        super().__init__("hub.example", timeout=SOON_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def ask(path: Path, name: str) -> tuple[int, bytes]:
    with contextlib.closing(OverSocket(path)) as connection:
        connection.request("GET", name, headers={"Origin": "http://hub.example"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_jupyter_starts_the_page_on_a_socket(cluster: furlong.Cluster, tmp_path: Path) -> None:
    (entry,) = entry_points(group="jupyter_serverproxy_servers", name="furlong")
    server = entry.load()()
    path = tmp_path / "page.sock"
    command = [word.format(unix_socket=path) for word in server["command"]]
    command += ["--cluster", cluster.cluster_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            assert page.stdout.readline().startswith("page")
            status, about = eventually(lambda: ask(path, "/about"))
            assert status == 200
            assert json.loads(about)["endpoint"]
            assert ask(path, "/")[0] == 200
        finally:
            page.terminate()
    assert not path.exists()
