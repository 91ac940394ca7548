"""A cluster of this machine: its broker and its engines.

Examples
--------
>>> with furlong.Cluster(n=4) as rc:
...     rc[:].apply_sync(lambda: engine_id)
[0, 1, 2, 3]
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.__main__ import SAFE_PATH
from furlong._home import check_name, home, is_of_broker, read_json
from furlong.calls.checks import check_whole
from furlong.cluster.coroutine import coroutine
from furlong.cluster.files import STATE, ClusterFiles, check_launchers, has_pool, level_of
from furlong.cluster.processes import Child, EngineSet, Folder, Process, end_all
from furlong.cluster.supervisor import Supervisor
from furlong.waiting import dispatch

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["Cluster"]

# How long a broker has to listen, in seconds, and how long to sleep between two looks.
BROKER_SECONDS = 30.0
LOOK_SECONDS = 0.005
# What one engine process takes.
ENGINES_MAX = 1024


class Cluster(ClusterFiles):
    """A broker that only this machine reaches, and engines, as processes of their own.

    Each method that waits is a coroutine, and has a twin with the suffix ``_sync``. As a context manager, of ``with``
    or ``async with``, the cluster is started, gives a connected `Client`, and is stopped at the end.

    What is started here ends with this process, however that ends; so does the cluster's folder, if its name was not
    chosen by the user. Engines that are killed are started again, later each time.

    Parameters
    ----------
    n : int, optional
        Engines; as many as there are processors if nothing is said.
    engines, controller : {"local"}
        Where they run; no matter in which case it is written. With ``engines="slurm"``, ``"pbs"``, ``"sge"``, ``"lsf"``, ``"htcondor"``, ``"k8s"``, ``"mpi"`` or ``"ssh"`` it is a
        `furlong.cluster.pools.PoolCluster`, which has more parameters. The names of ipyparallel's launchers are taken as
        well, as ``"SlurmEngineSetLauncher"``, and `engine_launcher_class` in the place of `engines`.
    profile, cluster_id : str, optional
        The cluster's name: `cluster_id`, else `profile`, else a random one.
    controller_args, engine_args : sequence of str
        Further flags of ``furlong broker`` and ``furlong engine``.
    engine_timeout : float
        How many seconds engines have to come.
    shutdown_atexit : bool
        Whether the cluster ends with this process. If not, `from_file` finds it again.
    python : str or path, optional
        The engines' interpreter; by default this one.
    labels : sequence of str
        Labels of the engines that tasks can require.
    env : mapping, optional
        Variables for tasks.
    cwd : str or path, optional
        The folder in which tasks run; by default the current one.
    memory, broker_memory : str or int, optional
        What each process of a task may take, and the broker for tasks and payloads: bytes, or as ``"4G"``, ``"10%"``.
    journal : bool, str or path, optional
        Keep durable tasks over restarts of the broker: in this file, or in the cluster's folder.
    log_level : str or int, optional
        ``"error"``, ``"warn"``, ``"info"``, ``"debug"`` or ``"trace"``, or a level of `logging`.
    controller_ip : str, optional
        The address at which the broker listens, instead of this machine's own alone.
    delay, send_engines_connection_env : optional
        Are accepted, and have no meaning: engines wait for the broker and its files by themselves.
    """

    _most = ENGINES_MAX

    def __new__(cls, *_args: Any, engines: object = "local", **_others: Any) -> Cluster:
        """Make one of the kind that starts such engines."""
        if has_pool(engines, _others.get("engine_launcher_class")):
            from furlong.cluster.pools import PoolCluster

            return super().__new__(PoolCluster)
        return super().__new__(cls)

    def __init__(
        self,
        n: int | None = None,
        *,
        engines: str = "local",
        controller: str = "local",
        profile: str | None = None,
        cluster_id: str | None = None,
        controller_args: Sequence[str] = (),
        engine_args: Sequence[str] = (),
        engine_timeout: float = 60,
        shutdown_atexit: bool = True,
        python: str | os.PathLike[str] | None = None,
        labels: str | Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        memory: str | int | None = None,
        broker_memory: str | int | None = None,
        journal: bool | str | os.PathLike[str] | None = None,
        log_level: str | int | None = None,
        delay: float | None = None,
        controller_ip: str = "",
        send_engines_connection_env: bool = True,
        **others: object,
    ) -> None:
        check_launchers(engines, controller, others)
        n = None if n is None else check_whole("n", n, 0, self._most)
        self._has_random_name = not (name := cluster_id or profile)
        self.cluster_id = check_name(name or f"py-{secrets.token_hex(4)}")
        self.controller_args = list(controller_args)
        self.engine_args = list(engine_args)
        self.engine_timeout = engine_timeout
        self.shutdown_atexit = shutdown_atexit
        self.python = None if python is None else os.fspath(python)
        self.labels = [labels] if isinstance(labels, str) else list(labels)
        self.env = dict(env or {})
        self.cwd = None if cwd is None else os.fspath(cwd)
        self.memory, self.broker_memory = memory, broker_memory
        self.journal = (
            journal if journal is None or isinstance(journal, bool) else os.fspath(journal)
        )
        self.log_level = level_of(log_level)
        self.controller_ip = controller_ip
        self._n = n
        self._home = home()
        self._controller: Process | None = None
        self._engines: dict[str, EngineSet] = {}
        self._folder: Folder | None = None
        self._numbers = itertools.count()
        self._client: Client | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    @property
    def n(self) -> int:
        """The number of engines it was told to start; before its start, of those that it will."""
        if self._engines:
            return sum(engines.n for engines in self._engines.values())
        return _processors() if self._n is None else self._n

    @n.setter
    def n(self, value: int | None) -> None:
        self._n = None if value is None else check_whole("n", value, 0, self._most)

    @property
    def folder(self) -> Path:
        """The cluster's folder."""
        return self._home / self.cluster_id

    @property
    def capability(self) -> Path:
        """The capability file with which everything can be done, else that for clients."""
        admin = self.folder / "security" / "admin.cap.json"
        return admin if admin.exists() else admin.with_name("client.cap.json")

    @property
    def engine_sets(self) -> dict[str, int]:
        """The number of engines each set was started with, by the sets' ids."""
        return {key: engines.n for key, engines in self._engines.items()}

    @property
    def is_running(self) -> bool:
        """True if there is a broker."""
        return self._controller is not None and self._controller.is_alive()

    def __repr__(self) -> str:
        """Return name, state and engines."""
        if os.getpid() != self._pid:
            return f"<{type(self).__name__} {self.cluster_id!r}: of another process>"
        state = "running" if self.is_running else "stopped"
        sets = f" in {len(self._engines)} sets" if len(self._engines) > 1 else ""
        n = self.n if self._engines else 0
        return f"<{type(self).__name__} {self.cluster_id!r}: {state}, {n} engines{sets}>"

    def _repr_html_(self) -> str:
        from furlong.notebook.pages import page_of_cluster

        return page_of_cluster(self)

    # Starting.

    def start_controller_sync(self) -> None:
        """Start the broker, and wait until it listens.

        Raises
        ------
        RuntimeError
            If it runs already, or does not start.
        """
        with self._lock:
            controller = self._spawn_controller()
            try:
                self._await_controller(controller)
            except BaseException:
                self.stop_controller_sync()
                raise
            self._save()

    def start_engines_sync(self, n: int | None = None, engine_set_id: str | None = None) -> str:
        """Start a set of engines, without waiting for them.

        Parameters
        ----------
        n : int, optional
            How many.
        engine_set_id : str, optional
            What the set is called.

        Returns
        -------
        str
            What it is called.

        Raises
        ------
        RuntimeError
            If there is a set of that name.
        """
        with self._lock:
            key = self._spawn_engines(n, engine_set_id)
            self._save()
            return key

    def start_cluster_sync(self, n: int | None = None) -> Cluster:
        """Start broker and engines, without waiting for the engines, and give the cluster itself.

        Raises
        ------
        RuntimeError
            If it runs already, or the broker does not start.
        """
        with self._lock:
            controller = self._spawn_controller()
            try:
                # Engines wait for the broker by themselves; but one of this name may run already,
                # which is not ours.
                if not self._has_random_name:
                    self._await_controller(controller)
                if self._count(n):
                    self._spawn_engines(n, None)
                self._await_controller(controller)
                self._save()
            except BaseException:
                self.stop_cluster_sync()
                raise
        return self

    def start_and_connect_sync(self, n: int | None = None, activate: bool = False) -> Client:
        """Start the cluster, unless it runs, and give a client of it when its engines are there.

        Parameters
        ----------
        n : int, optional
            How many engines.
        activate : bool
            Let the magics of IPython work with this client.
        """
        was_running = self.is_running
        if not was_running:
            self.start_cluster_sync(n)
        try:
            client = self.connect_client_sync()
            try:
                client.wait_for_engines(self.n if n is None else n, timeout=self.engine_timeout)
                if activate:
                    client.activate()
            except BaseException:
                client.close()
                raise
        except BaseException:
            if not was_running:
                self.stop_cluster_sync()
            raise
        return client

    def connect_client_sync(self, **kwargs: Any) -> Client:
        """Return a client; the arguments are those of `Client`."""
        from furlong.client.client import Client

        self._check_process()
        return Client(cluster=self, **kwargs)

    def _spawn_controller(self) -> Child:
        self._check_process()
        if self.is_running:
            raise RuntimeError(f"the controller of cluster {self.cluster_id!r} is running already")
        memory = [] if self.broker_memory is None else [f"--memory={self.broker_memory}"]
        argv = ["--bind", self.controller_ip or "127.0.0.1", "--of-cluster", *memory]
        if self.journal:
            argv.append("--journal" if self.journal is True else f"--journal={self.journal}")
        self._controller = child = self._spawn("broker", [*argv, *self.controller_args])
        return child

    def _await_controller(self, controller: Child) -> None:
        deadline = time.monotonic() + BROKER_SECONDS
        path = self.folder / "run" / "broker.json"
        while True:
            if is_of_broker(read_json(path), controller.pid):
                return
            if controller.wait(LOOK_SECONDS):
                raise RuntimeError(
                    f"the broker of cluster {self.cluster_id!r} {controller.ending()}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the broker of cluster {self.cluster_id!r} does not listen: {controller.said()}"
                )

    def _spawn_engines(self, n: int | None, engine_set_id: str | None) -> str:
        self._check_process()
        n = self._count(n)
        if not 1 <= n <= ENGINES_MAX:
            raise ValueError(f"a set has 1 to {ENGINES_MAX} engines, not {n}")
        self._prune()
        if engine_set_id is None:
            engine_set_id = next(key for key in map(str, self._numbers) if key not in self._engines)
        elif engine_set_id in self._engines:
            raise RuntimeError(f"there is a set of engines {engine_set_id!r} already")
        argv = ["-n", str(n), "--cap", str(self.folder / "security" / "engine.cap.json")]
        for name, value in (
            ("--python", self.python),
            ("--cwd", self.cwd),
            ("--memory", self.memory),
        ):
            if value is not None:
                argv += [name, str(value)]
        argv += [f"--label={label}" for label in self.labels]
        argv += [*(f"--env={name}={value}" for name, value in self.env.items()), *self.engine_args]
        engines = self._engines[engine_set_id] = EngineSet(n, self._spawn("engine", argv))
        return Supervisor(self, engine_set_id, engines, argv).key

    def _spawn(self, command: str, argv: list[str]) -> Child:
        if self.shutdown_atexit:
            argv = ["--stop-with-stdin", *argv]
            if self not in _tied:
                _tied.add(self)
                dispatch.close_at_exit(self, last=True)
            if self._has_random_name and self._folder is None:
                self._folder = Folder(self.folder)
        if self.log_level is not None:
            argv = ["--log-level", self.log_level, *argv]
        argv = [
            sys.executable,
            *SAFE_PATH,
            "-m",
            "furlong",
            command,
            "--cluster",
            self.cluster_id,
            *argv,
        ]
        env = {**os.environ, "FURLONG_HOME": str(self._home)}
        env.pop("FURLONG_CAP", None)
        inherits = () if self._folder is None else (self._folder.held,)
        return Child(argv, env, self.shutdown_atexit, inherits)

    def _count(self, n: int | None) -> int:
        if n is not None:
            return n
        return _processors() if self._n is None else self._n

    # Stopping.

    def stop_engine_sync(self, engine_id: int) -> None:
        """Stop one engine, and wait until it has left."""
        with self.connect_client_sync() as client:
            client.shutdown(engine_id, block=True)

    def stop_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Stop a set of engines, or all of them; what runs there is lost.

        Raises
        ------
        KeyError
            If there is no set of that name.
        """
        with self._lock:
            self._check_process()
            keys = self._sets(engine_set_id)
            end_all([self._engines[key].process for key in keys])
            for key in keys:
                del self._engines[key]
            self._save()

    def stop_controller_sync(self) -> None:
        """Stop the broker, if it runs."""
        with self._lock:
            self._check_process()
            if self._controller is not None:
                end_all([self._controller])
                self._controller = None
            self._save()
            if not self._engines:
                self._remove()

    def stop_cluster_sync(self) -> None:
        """Stop engines and broker, as far as they run."""
        with self._lock:
            self._check_process()
            end_all([*(engines.process for engines in self._engines.values()), *self._others()])
            self._engines.clear()
            self.stop_controller_sync()

    def restart_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Stop a set of engines, or all of them, and start as many anew, without waiting for them.

        They have new ids.

        Raises
        ------
        KeyError
            If there is no set of that name.
        """
        with self._lock:
            counts = {key: self._engines[key].n for key in self._sets(engine_set_id)}
            for key in counts:
                self.stop_engines_sync(key)
            for key, n in counts.items():
                self.start_engines_sync(n, key)

    def restart_engine_sync(self, engine_id: int) -> None:
        """Replace an engine's interpreter by a new one, with an empty namespace; it keeps its id."""
        with self.connect_client_sync() as client:
            client.restart(engine_id)

    def signal_engine_sync(self, engine_id: int, signum: int | str) -> None:
        """Send a signal to what runs on an engine."""
        with self.connect_client_sync() as client:
            client.send_signal(signum, engine_id)

    def signal_engines_sync(self, signum: int | str, engine_set_id: str | None = None) -> None:
        """Send a signal to what runs on the engines of a set, or on all of them.

        Raises
        ------
        KeyError
            If there is no set of that name.
        """
        pids = {self._engines[key].process.pid for key in self._sets(engine_set_id)}
        with self.connect_client_sync() as client:
            processes = [
                process for process in client.status()["processes"] if process["pid"] in pids
            ]
            client.send_signal(
                signum, [engine for process in processes for engine in process["engines"]]
            )

    def _sets(self, engine_set_id: str | None) -> list[str]:
        if engine_set_id is None:
            return list(self._engines)
        if engine_set_id not in self._engines:
            raise KeyError(
                f"there is no set of engines {engine_set_id!r}; there are {sorted(self._engines)}"
            )
        return [engine_set_id]

    def _others(self) -> list[Process]:
        """Return engine processes that others have started for this broker, who came by `from_file`."""
        written = read_json(self.folder / STATE)
        if (
            written is None
            or self._controller is None
            or written["controller"] != self._controller.to_dict()
        ):
            return []
        known = {engines.process.pid for engines in self._engines.values()}
        engines = [Process.from_dict(engines) for engines in written["engines"].values()]
        return [process for process in engines if process.pid not in known]

    def _prune(self) -> None:
        """Forget sets whose engines were all told to stop."""
        for key, engines in list(self._engines.items()):
            if isinstance(engines.process, Child) and engines.process.code == 0:
                engines.process.forget()
                del self._engines[key]

    def _check_engines(self) -> None:
        """Check whether engines that were started here have died.

        Raises
        ------
        EngineError
            If so, with how they ended and what they said.
        """
        with self._lock:
            self._prune()
            for key, engines in self._engines.items():
                process = engines.process
                if (
                    engines.ended is None
                    and isinstance(process, Child)
                    and process.code is not None
                ):
                    text = f"the engine process {process.pid} of set {key!r} {process.ending()}"
                    raise errors.EngineError("EngineError", text)

    def _remove(self) -> None:
        """Leave nothing of a cluster that has stopped."""
        _tied.discard(self)
        dispatch.forget(self)
        if self._folder is not None:
            self._folder.forget()
            self._folder = None
        if self._has_random_name:
            shutil.rmtree(self.folder, ignore_errors=True)

    #: What is called at the interpreter's exit.
    close = stop_cluster_sync

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the cluster {self.cluster_id!r} was started before the process forked, and is the parent's"
            )

    def _after_fork(self) -> None:
        """Let go of the ends of pipes that say that the parent lives."""
        for process in (self._controller, *(engines.process for engines in self._engines.values())):
            if isinstance(process, Child):
                process.let_go()
        if self._folder is not None:
            self._folder.let_go()

    # As a context manager.

    def __enter__(self) -> Client:
        """Start the cluster, and give a client when its engines are there."""
        self._client = self.start_and_connect_sync()
        return self._client

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it. A child of a fork in between leaves it as it is."""
        if os.getpid() != self._pid:
            return
        try:
            if self._client is not None:
                self._client.close()
        finally:
            self._client = None
            self.stop_cluster_sync()

    # The same, for programs with an event loop.

    start_controller = coroutine(start_controller_sync)
    start_engines = coroutine(start_engines_sync)
    start_cluster = coroutine(start_cluster_sync)
    start_and_connect = coroutine(start_and_connect_sync)
    connect_client = coroutine(connect_client_sync)
    stop_engine = coroutine(stop_engine_sync)
    stop_engines = coroutine(stop_engines_sync)
    stop_controller = coroutine(stop_controller_sync)
    stop_cluster = coroutine(stop_cluster_sync)
    restart_engine = coroutine(restart_engine_sync)
    restart_engines = coroutine(restart_engines_sync)
    signal_engine = coroutine(signal_engine_sync)
    signal_engines = coroutine(signal_engines_sync)
    __aenter__ = coroutine(__enter__)
    __aexit__ = coroutine(__exit__)


# Clusters that end with this process; they are kept until then.
_tied: set[Cluster] = set()


def _processors() -> int:
    return min(ENGINES_MAX, len(os.sched_getaffinity(0)))


def _after_fork() -> None:
    for cluster in _tied:
        cluster._after_fork()
    _tied.clear()


os.register_at_fork(after_in_child=_after_fork)
