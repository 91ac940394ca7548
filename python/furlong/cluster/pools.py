"""A cluster whose engines a batch system, Kubernetes or ``ssh`` starts.

Examples
--------
>>> with furlong.Cluster(engines="slurm", n=64, walltime="2h", options="--partition=cpu") as rc:
...     rc.load_balanced_view().map_sync(f, items)
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from furlong.__main__ import SAFE_PATH
from furlong.cluster.cluster import Cluster
from furlong.cluster.coroutine import coroutine
from furlong.cluster.files import launcher_of

__all__ = ["PoolCluster"]


# How each system's command is told the queue.
QUEUE_FLAGS = {
    "slurm": ("--partition={}",),
    "pbs": ("-q", "{}"),
    "sge": ("-q", "{}"),
    "lsf": ("-q", "{}"),
}


class PoolCluster(Cluster):
    """A broker here, and a pool of engines in the jobs of a batch system, or on hosts by ssh.

    `furlong.Cluster` is one if `engines` is ``"slurm"``, ``"pbs"``, ``"sge"``, ``"lsf"``, ``"htcondor"``, ``"k8s"``, ``"mpi"`` or ``"ssh"``.
    The home has to be shared with the nodes of a batch system.

    Parameters
    ----------
    n : int, optional
        Engines; on hosts those of each.
    engines : {"slurm", "pbs", "sge", "lsf", "htcondor", "k8s", "mpi", "ssh"}
        The system, no matter in which case it is written.
    walltime : str, optional
        Time of a job, as ``"2h"``; an hour by default.
    queue : str, optional
        The queue, or Slurm's partition.
    options : str or sequence of str
        Arguments for the system's command that submits.
    per_job, cpus : int, optional
        Engines of a job, and cores of an engine.
    setup : str or iterable of str
        Shell commands in each job before its engines.
    template, via, hosts, image : str or path, optional
        As the flags of ``furlong pool add``.
    max_jobs, max_pending : int, optional
        Jobs at a time, and of these those that wait.
    **others
        As those of `furlong.Cluster`.
    """

    _most = 100_000

    def __init__(
        self,
        n: int | None = None,
        *,
        engines: str = "local",
        engine_launcher_class: str | None = None,
        queue: str | None = None,
        walltime: str | None = None,
        options: str | Sequence[str] = (),
        per_job: int | None = None,
        cpus: int | None = None,
        setup: str | Iterable[str] = (),
        template: str | os.PathLike[str] | None = None,
        via: str | None = None,
        hosts: str | os.PathLike[str] | None = None,
        image: str | None = None,
        max_jobs: int | None = None,
        max_pending: int | None = None,
        **others: Any,
    ) -> None:
        others.setdefault("controller_ip", "0.0.0.0")
        super().__init__(n, **others)
        self._system = str(launcher_of(engines, engine_launcher_class))
        self._options = shlex.split(options) if isinstance(options, str) else list(options)
        if queue is not None:
            if self._system not in QUEUE_FLAGS:
                raise ValueError(f"queue={queue!r}: {self._system} has no queues")
            self._options += [word.format(queue) for word in QUEUE_FLAGS[self._system]]
        self._flags: list[str] = []
        for name, value in (
            ("walltime", walltime),
            ("per-job", per_job),
            ("cpus", cpus),
            ("template", template),
            ("via", via),
            ("hosts", hosts),
            ("image", image),
            ("max-jobs", max_jobs),
            ("max-pending", max_pending),
            # An image has another one than this machine.
            ("python", self.python or (None if self._system == "k8s" else sys.executable)),
            ("cwd", self.cwd),
            ("memory", self.memory),
        ):
            if value is not None:
                self._flags.append(
                    f"--{name}={os.fspath(value) if hasattr(value, '__fspath__') else value}"
                )
        setup = [setup] if isinstance(setup, str) else setup
        self._flags += [f"--setup={command}" for command in setup]
        self._flags += [f"--label={label}" for label in self.labels]
        self._flags += [f"--env={name}={value}" for name, value in self.env.items()]

    def start_cluster_sync(self, n: int | None = None) -> PoolCluster:
        """Start the broker and the pool, without waiting for engines, and give the cluster itself.

        Raises
        ------
        RuntimeError
            If it runs already, the broker does not start, or the system would refuse the jobs.
        """
        if n is not None:
            self.n = n
        with self._lock:
            try:
                self.start_controller_sync()
                self._furlong("pool", "add", self._system, *self._add_flags())
            except BaseException:
                self.stop_cluster_sync()
                raise
        return self

    def scale(self, n: int) -> None:
        """Have so many engines: jobs are added, or those that are too many end when they have nothing to do."""
        self._furlong("pool", "scale", self._system, str(n))
        self.n = n

    def adapt(self, minimum: int = 0, maximum: int = 64) -> None:
        """Have as many engines as there is work for, within these bounds."""
        self._furlong("pool", "scale", self._system, f"{minimum}..{maximum}")
        self.n = minimum

    def job_script(self) -> str:
        """Return the script of the jobs; the system is asked if it would take it.

        Raises
        ------
        RuntimeError
            If it would not.
        """
        return self._furlong("pool", "add", self._system, "--dry-run", *self._add_flags())

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs, each with its state, node, engines, and why it is not running.

        Jobs that failed are there too, the last ones.
        """
        pools: list[dict[str, Any]] = json.loads(self._furlong("pool", "--json"))
        return [job for pool in pools for job in pool["jobs"]]

    def stop_cluster_sync(self) -> None:
        """Stop the jobs, the engines and the broker, as far as they run."""
        with self._lock:
            self._check_process()
            if self.is_running:
                # It ends the broker too, when the jobs have ended.
                self._furlong("cluster", "stop")
            super().stop_cluster_sync()

    close = stop_cluster_sync

    async def start_cluster(self, n: int | None = None) -> PoolCluster:
        """Start the broker and the pool, in a thread."""
        return await coroutine(self.start_cluster_sync)(n)

    async def stop_cluster(self) -> None:
        """Stop the jobs, the engines and the broker, in a thread."""
        await coroutine(self.stop_cluster_sync)()

    def _add_flags(self) -> list[str]:
        n = [] if self._n is None else ["-n", str(self._n)]
        return ["--on", self._system, *n, *self._flags, "--", *self._options]

    def _furlong(self, *words: str) -> str:
        """Run the command on this cluster, and return what it prints.

        Raises
        ------
        RuntimeError
            With what the command says, if it fails.
        """
        self._check_process()
        # Before what is for the system's command.
        at = words.index("--") if "--" in words else len(words)
        argv = [sys.executable, *SAFE_PATH, "-m", "furlong", *words[:at]]
        argv += ["--cluster", self.cluster_id, *words[at:]]
        env = {**os.environ, "FURLONG_HOME": str(self._home)}
        env.pop("FURLONG_CAP", None)
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().removeprefix("furlong: "))
        return done.stdout
