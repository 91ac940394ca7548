"""Clusters by their files, and the names that programs for ipyparallel use of clusters."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from furlong._home import check_name, home, read_json, remove, write_private
from furlong.cluster.processes import EngineSet, Process, start_of
from furlong.ipyparallel_names import IpyparallelNames

if TYPE_CHECKING:
    from typing_extensions import Self
__all__ = [
    "STATE",
    "SYSTEMS",
    "ClusterFiles",
    "check_launchers",
    "has_pool",
    "launcher_of",
    "level_of",
]

# Where a cluster's own process says what it has started, in the cluster's folder.
STATE = Path("run", "python.json")
# Systems that start engines elsewhere.
SYSTEMS = ("slurm", "pbs", "sge", "lsf", "htcondor", "k8s", "mpi", "ssh")
# Where the command says it.
COMMAND_STATE = Path("run", "cluster.json")
# What `to_dict` gives of the arguments, so that another process starts engines like these.
_OPTIONS = (
    "controller_ip",
    "engine_timeout",
    "controller_args",
    "engine_args",
    "python",
    "labels",
    "env",
    "cwd",
    "memory",
    "broker_memory",
    "journal",
)
# Options of ipyparallel's clusters that have no meaning here, and what is used instead.
ELSEWHERE = {
    "profile_dir": "a cluster's folder is in FURLONG_HOME, under its `cluster_id`",
    "cluster_file": "`Cluster.from_file(cluster_id=)` finds a cluster by its name",
    "config": "there are no configuration files; say it with arguments",
    "parent": "there are no configuration files; say it with arguments",
    "load_profile": "there are no configuration files; say it with arguments",
    "log": "programs write logs of their own; see `furlong logs`",
    "controller_location": (
        "issue a capability file with that address: `furlong cap issue --endpoint`"
    ),
    "controller_launcher_class": "run `furlong broker` there",
}


def launcher_of(engines: object, launcher_class: object = None) -> object:
    """Return the system that starts engines, by its name or by that of ipyparallel's launcher."""
    name = engines if launcher_class is None else launcher_class
    if not isinstance(name, str):
        return name
    name = name.lower().removesuffix("launcher").removesuffix("engineset")
    return {"kubernetes": "k8s"}.get(name, name)


def has_pool(engines: object, launcher_class: object = None) -> bool:
    """Return true if such engines are a pool's."""
    return launcher_of(engines, launcher_class) in SYSTEMS


def check_launchers(engines: object, controller: object, others: Mapping[str, object]) -> None:
    """Check that nothing is said that clusters of this machine do not do.

    Raises
    ------
    ValueError
        For engines or a controller elsewhere.
    TypeError
        For an option that does not exist.
    """
    others = dict(others)
    engines = others.pop("engine_launcher_class", None) or engines
    for what, where, name in (
        ("engines", engines, launcher_of(engines)),
        ("controller", controller, launcher_of(controller)),
    ):
        if name != "local":
            raise ValueError(
                f"{what}={where!r}: only 'local' is started from here, and engines by 'slurm', 'pbs', 'sge', 'lsf', 'htcondor', 'k8s', 'mpi' or 'ssh'; "
                "elsewhere, run `furlong engine` there with the cluster's engine.cap.json"
            )
    for name in others:
        instead = ELSEWHERE.get(name)
        raise TypeError(f"a cluster has no option {name!r}" + (f": {instead}" if instead else ""))


def level_of(level: str | int | None) -> str | None:
    """Return a level of logs as the programs have it, also for one of `logging`."""
    if level is None or isinstance(level, str):
        return level
    names = (
        (logging.ERROR, "error"),
        (logging.WARNING, "warn"),
        (logging.INFO, "info"),
        (logging.DEBUG, "debug"),
    )
    return next((name for least, name in names if level >= least), "trace")


class ClusterFiles(IpyparallelNames):
    """The part of a cluster by which other processes find it, and ipyparallel's names for what it has."""

    if TYPE_CHECKING:
        cluster_id: str
        _n: int | None
        _home: Path
        _has_random_name: bool
        _controller: Process | None
        _engines: dict[str, EngineSet]
        _lock: threading.RLock

        def __init__(self, n: int | None = None, **options: object) -> None: ...

        @property
        def folder(self) -> Path:
            """The cluster's folder."""

    # What it has.

    def _ended_engines(self) -> str:
        """Return how engine processes that were started here have ended, and are not started again yet."""
        with self._lock:
            endings = [(key, engines.ending()) for key, engines in self._engines.items()]
        return "".join(
            f"the engine process of set {key!r} {ending}; "
            for key, ending in endings
            if ending is not None
        )

    @property
    def engines(self) -> Mapping[str, EngineSet]:
        """The sets of engines, by their ids."""
        return dict(self._engines)

    @property
    def engine_set(self) -> EngineSet | None:
        """The first set of engines."""
        return next(iter(self._engines.values()), None)

    @property
    def controller(self) -> Process | None:
        """The broker's process."""
        return self._controller

    @property
    def profile(self) -> str:
        """The cluster's name."""
        return self.cluster_id

    @property
    def cluster_file(self) -> str:
        """The file by which other processes find the cluster."""
        return str(self.folder / STATE)

    @property
    def log(self) -> logging.Logger:
        """A logger of this cluster's name. What the programs write is in the cluster's folder."""
        return logging.getLogger(f"furlong.cluster.{self.cluster_id}")

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_") or name in _SETTABLE or name in _OPTIONS:
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"{type(self).__name__!r} has no attribute {name!r} that could be set"
            )

    # Other processes.

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` makes the same cluster of, in any process of this machine: it can be JSON."""
        return {
            "cluster_id": self.cluster_id,
            "home": str(self._home),
            "n": self._n,
            "has_random_name": self._has_random_name,
            "options": {name: getattr(self, name) for name in (*_OPTIONS, "log_level")},
            "controller": None if self._controller is None else self._controller.to_dict(),
            "engines": {
                key: {"n": it.n, **it.process.to_dict()} for key, it in self._engines.items()
            },
        }

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Self:
        """Make a cluster of what `to_dict` gave, in this process or another.

        It does not end with this process, unless its `shutdown_atexit` is set.
        """
        made = cls(
            known["n"], cluster_id=known["cluster_id"], shutdown_atexit=False, **known["options"]
        )
        made._has_random_name = known["has_random_name"]
        made._home = Path(known["home"])
        if known["controller"] is not None:
            made._controller = Process.from_dict(known["controller"])
        for key, engines in known["engines"].items():
            made._engines[key] = EngineSet(int(engines["n"]), Process.from_dict(engines))
        return made

    @classmethod
    def from_file(
        cls,
        cluster_file: str | os.PathLike[str] | None = None,
        *,
        cluster_id: str | None = None,
        profile: str | None = None,
    ) -> Self:
        """Find a cluster that another process, or the command, has started.

        Parameters
        ----------
        cluster_file : str or path, optional
            What `cluster_file` of the cluster says.
        cluster_id, profile : str, optional
            The cluster's name; ``default`` if nothing is said.

        Raises
        ------
        FileNotFoundError
            If there is none of that name.
        """
        if cluster_file is not None:
            path = Path(cluster_file)
            known = read_json(path)
            if known is None or "cluster_id" not in known:
                raise FileNotFoundError(
                    f"{path} is no file of a cluster that was started from Python"
                )
            return cls.from_dict(known)
        name = check_name(cluster_id or profile or "default")
        known = read_json(home() / name / STATE) or _of_command(name)
        if known is None:
            raise FileNotFoundError(
                f"no cluster {name!r} was started: there is no {home() / name / STATE}"
            )
        return cls.from_dict(known)

    def _save(self) -> None:
        path, own = self.folder / STATE, self.to_dict()
        written = read_json(path)
        of = None if written is None else written["controller"]
        if of is not None and of != own["controller"] and Process.from_dict(of).is_alive():
            # The name is another's.
            return
        if self._controller is None and not self._engines:
            remove(path)
        elif path.parent.is_dir():
            write_private(path, own)


# What users may set after the start.
_SETTABLE = ("cluster_id", "log_level", "n", "shutdown_atexit")


def _of_command(name: str) -> dict[str, object] | None:
    """Return what `to_dict` would, for a cluster that the command has started."""
    state = read_json(home() / name / COMMAND_STATE)
    started = None if state is None else start_of(int(state["pid"]))
    if state is None or started is None:
        return None
    # The command's process looks after broker and engines, and ends them when it is told to leave.
    keeper = {"pid": int(state["pid"]), "started": started}
    return {
        "cluster_id": name,
        "home": str(home()),
        "n": 0,
        "has_random_name": False,
        "options": {},
        "controller": keeper,
        "engines": {},
    }
