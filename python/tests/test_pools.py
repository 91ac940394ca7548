"""Clusters whose engines a batch system starts, or ssh; both are fakes here, and the engines are real.

`tests/farm/pools.rs` tries the command on a real Slurm.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from conftest import eventually, processes_of

import furlong
from furlong.cluster.pools import PoolCluster

SSH = """#!/bin/bash
while [ "$1" != -- ]; do shift; done
exec sh -c "$3"
"""
SBATCH = """#!/bin/bash
case "$*" in *--partition=nope*) echo "sbatch: error: invalid partition specified: nope" >&2; exit 1;; esac
echo "sbatch: Job 7 to start at 2026-12-02T09:57:37 using 1 processors on nodes n1" >&2
"""


KUBECTL = """#!/bin/bash
case "$*" in *config*) printf 'here\\nteam';; *create*) echo pod/furlong-new-k8s-abcde;; esac
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder of fakes first on the path."""
    for name, text in (("ssh", SSH), ("sbatch", SBATCH), ("kubectl", KUBECTL)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_hosts_have_engines_until_the_cluster_stops(fakes: Path, session_home: Path) -> None:
    hosts = fakes / "hosts"
    hosts.write_text("node1\nnode2\n")
    cluster = furlong.Cluster(n=1, engines="SSH", hosts=hosts)
    assert isinstance(cluster, PoolCluster)
    try:
        cluster.start_cluster_sync()
        with cluster.connect_client_sync() as rc:
            rc.wait_for_engines(2, timeout=30)
            assert rc[:].apply_sync(lambda: 6 * 7) == [42, 42]
            jobs = eventually(lambda: [job for job in cluster.jobs() if job["engines"] == 1][1:])
            assert jobs[0]["node"] == "node2"
            cluster.scale(1)
            eventually(lambda: len(rc.ids) == 1)
    finally:
        cluster.stop_cluster_sync()
    assert not cluster.folder.exists()
    eventually(
        lambda: not [it for it in processes_of(session_home) if cluster.cluster_id in it.cmdline()]
    )


def test_job_script_is_what_slurm_would_get(fakes: Path) -> None:
    cluster = furlong.Cluster(
        n=8, engines="slurm", per_job=4, walltime="2h", options="--partition=main", cpus=2
    )
    assert isinstance(cluster, PoolCluster)
    script = cluster.job_script()
    for line in ("#SBATCH --array=1-2", "#SBATCH --cpus-per-task=8", "#SBATCH --time=120"):
        assert line in script.splitlines()
    assert "Job 7 to start" in script
    assert not cluster.folder.exists()


def test_refused_jobs_leave_no_cluster(fakes: Path) -> None:
    cluster = furlong.Cluster(n=8, engines="slurm", options=["--partition=nope"])
    with pytest.raises(RuntimeError, match="invalid partition specified: nope; `sinfo` lists"):
        cluster.start_cluster_sync()
    assert not cluster.is_running
    assert not cluster.folder.exists()


def test_manifests_are_valid_for_all_current_versions(fakes: Path) -> None:
    cluster = furlong.Cluster(
        n=8, engines="Kubernetes", image="farm:1", per_job=2, memory="1G", setup="echo $HOME"
    )
    assert isinstance(cluster, PoolCluster)
    secret, pod = yaml.safe_load_all(cluster.job_script())
    versions = [f"1.{minor}" for minor in range(31, 38)]
    for manifest in (secret, pod):
        for version in versions:
            kubernetes_validate.validate(manifest, version, strict=True)
    pod["spec"]["restart"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, versions[-1], strict=True)
    container = pod["spec"]["containers"][0]
    assert container["resources"]["requests"] == {"cpu": 2, "memory": "2048Mi"}
    assert container["args"][0].startswith("echo $$HOME\nexec furlong engine ")
    # Nothing of this machine is in an image.
    assert "--python" not in container["args"][0]
    assert str(cluster.folder) not in json.dumps(pod)


def test_names_of_ipyparallels_launchers_are_systems(fakes: Path) -> None:
    for name, system in (
        ("SlurmEngineSetLauncher", "slurm"),
        ("PBS", "pbs"),
        ("SGEEngineSetLauncher", "sge"),
        ("lsf", "lsf"),
        ("HTCondorEngineSetLauncher", "htcondor"),
        ("MPI", "mpi"),
        ("sshengineset", "ssh"),
    ):
        assert f"'--on', '{system}'" in str(_words(furlong.Cluster(n=1, engines=name)))
        cluster = furlong.Cluster(n=1, engine_launcher_class=name)
        assert f"'--on', '{system}'" in str(_words(cluster))
    for local in ("Local", "LocalEngineSetLauncher"):
        assert type(furlong.Cluster(n=1, engine_launcher_class=local)) is furlong.Cluster
    script = furlong.Cluster(n=8, engines="slurm", queue="nope")
    assert isinstance(script, PoolCluster)
    with pytest.raises(RuntimeError, match="invalid partition specified: nope"):
        script.job_script()
    with pytest.raises(ValueError, match="mpi has no queues"):
        furlong.Cluster(n=1, engines="mpi", queue="long")
    with pytest.raises(ValueError, match="OAR"):
        furlong.Cluster(n=1, engine_launcher_class="OAR")


def _words(cluster: furlong.Cluster) -> list[str]:
    assert isinstance(cluster, PoolCluster)
    return cluster._add_flags()
