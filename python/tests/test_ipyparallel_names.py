"""Names of ipyparallel: what its programs call is here, or says what to use instead."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from conftest import SOON_SECONDS, eventually

import furlong
from furlong import errors


def test_names_of_the_package() -> None:
    from furlong.error import KernelError, RemoteError

    assert RemoteError is furlong.RemoteError
    assert issubclass(furlong.TaskTimeout, KernelError)
    assert furlong.TimeoutError is TimeoutError
    assert (furlong.FIRST_EXCEPTION, furlong.ALL_COMPLETED) == ("FIRST_EXCEPTION", "ALL_COMPLETED")
    assert furlong.version_info[:2] == tuple(map(int, furlong.__version__.split(".")[:2]))
    assert furlong.util.interactive is furlong.interactive
    assert furlong.use_dill() is None
    assert issubclass(furlong.errors.DependencyTimeout, furlong.TaskTimeout)
    for name, instead in (
        ("bind_kernel", "view.execute"),
        ("can", "pickled"),
        ("register_joblib_backend", "furlong.joblib"),
    ):
        with pytest.raises(AttributeError, match=instead):
            getattr(furlong, name)


def test_a_client_that_blocks_makes_views_that_block(rc: furlong.Client) -> None:
    assert rc.block is False
    rc.block = True
    assert rc[0].apply(pow, 2, 4) == 16
    assert rc[:].block
    assert rc.load_balanced_view().apply(pow, 2, 4) == 16
    assert rc.broadcast_view().block
    assert not rc.direct_view(0, block=False).block
    with pytest.raises(TypeError, match="block"):
        rc.block = "yes"  # type: ignore[assignment]


def test_unknown_attributes_are_refused_aloud(rc: furlong.Client) -> None:
    for thing in (rc[:], rc.load_balanced_view()):
        with pytest.raises(AttributeError, match="did you mean 'block'"):
            thing.blok = True
        with pytest.raises(AttributeError, match="no flag"):
            thing.chunksize = 3
        with pytest.raises(KeyError, match="did you mean 'label'"):
            thing.set_flags(labels="x")
        thing.block = True
    with pytest.raises(AttributeError, match="no attribute 'blok'"):
        rc.blok = True  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="joblib"):
        rc.register_joblib_backend()  # type: ignore[attr-defined]


def test_what_a_view_has_submitted(rc: furlong.Client, gate: object) -> None:
    view, lview = rc[:], rc.load_balanced_view()
    first, second, third = view.apply_async(int), lview.apply_async(int), view.push({"a": 1})
    waits = rc[0].apply_async(gate.wait)  # type: ignore[attr-defined]
    for made in (first, second, third):
        made.get(SOON_SECONDS)
    assert view.history == first.msg_ids + third.msg_ids
    assert lview.history == second.msg_ids
    assert (view.outstanding, lview.outstanding) == (set(), set())
    assert rc.outstanding == set(waits.msg_ids)
    assert lview.results == {second.msg_ids[0]: 0}
    assert lview.get_result(-1).msg_ids == second.msg_ids
    assert rc.results[first.msg_ids[2]] == 0
    assert rc.metadata[first.msg_ids[2]].engine_id == 2
    assert view.apply_async(int).metadata[1]["msg_id"]
    for thing in (rc, view, lview):
        assert thing.spin() is None
    assert rc.get_result(indices_or_msg_ids=first.msg_ids[0]).get() == 0
    assert rc.profile == rc.cluster_name
    gate.open()  # type: ignore[attr-defined]


def test_results_are_forgotten_by_job_and_by_engine(rc: furlong.Client) -> None:
    for purge in (rc.purge_results, rc.purge_local_results, rc[0].purge_results):
        with pytest.raises(ValueError, match="say which"):
            purge()
    view = rc.direct_view(keep=True)
    made = view.apply_async(int)
    made.get(SOON_SECONDS)

    def known() -> set[str]:
        return {record["id"] for record in rc.records()}

    assert set(made.msg_ids) <= known()
    rc.purge_results(targets=[1])
    eventually(lambda: made.msg_ids[1] not in known())
    assert made.msg_ids[0] in known()
    view.purge_results(made)
    eventually(lambda: not set(made.msg_ids) & known())


def test_activate_warns_outside_of_ipython(rc: furlong.Client) -> None:
    with pytest.warns(UserWarning, match="sessions of IPython"):
        view = rc.activate()
    assert view.block
    assert view.apply(int) == [0, 0, 0, 0]
    with pytest.warns(UserWarning, match="sessions of IPython"):
        view.activate("0")


def test_choices_of_pickles_give_results(rc: furlong.Client, tmp_path: object) -> None:
    assert rc[:].use_dill().get(SOON_SECONDS) == [None] * 4
    assert rc[0].use_cloudpickle().get(SOON_SECONDS) is None
    path = tmp_path / "a.py"  # type: ignore[operator]
    path.write_text("a = 3")
    assert rc[0].run(path, label="script").label == "script"
    assert rc[0]["a"] == 3


def test_timeouts_of_0_are_none(rc: furlong.Client) -> None:
    lview = rc.load_balanced_view(timeout=0)
    assert lview.timeout is None
    assert lview.apply_sync(int) == 0


def test_names_of_errors() -> None:
    error = furlong.CompositeError("message", [errors.RemoteError("ValueError", "no")])
    assert error.msg == "message"
    assert furlong.AlreadyDisplayedError(error).original_error is error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("log_level", logging.INFO),
        ("engines", "Local"),
        ("send_engines_connection_env", True),
        ("controller_ip", "127.0.0.1"),
    ],
)
def test_options_of_clusters(own: object, option: str, value: object) -> None:
    cluster = own(n=1, **{option: value})  # type: ignore[operator]
    assert cluster.start_cluster_sync() is cluster
    with cluster.connect_client_sync() as client:
        client.wait_for_engines(1, timeout=SOON_SECONDS)
    assert list(cluster.engines) == ["0"]
    assert cluster.engine_set.n == 1
    assert cluster.controller.is_alive()
    assert cluster.profile == cluster.cluster_id
    assert isinstance(cluster.log, logging.Logger)
    assert furlong.Cluster.from_file(cluster.cluster_file).is_running
    assert cluster.cluster_id in furlong.ClusterManager().load_clusters()


def test_options_that_mean_nothing_here_are_refused() -> None:
    for option in ({"profile_dir": "x"}, {"controller_launcher_class": "MPI"}, {"nonsense": 1}):
        with pytest.raises(TypeError, match=f"no option '{next(iter(option))}'"):
            furlong.Cluster(**option)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="furlong engine"):
        furlong.Cluster(engines="oar")
    with pytest.raises(AttributeError, match="no attribute 'engine_timout'"):
        furlong.Cluster().engine_timout = 3  # type: ignore[attr-defined]


def test_a_cluster_of_the_command_is_found_and_stopped(
    own: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "furlong", "cluster"]
    started = [*command, "start", "-n", "2", "--cluster", "commanded", "--daemon"]
    subprocess.run(started, check=True, stdout=subprocess.DEVNULL, timeout=SOON_SECONDS)
    try:
        found = furlong.Cluster.from_file(cluster_id="commanded")
        assert found.is_running
        with found.connect_client_sync() as client:
            client.wait_for_engines(2, timeout=SOON_SECONDS)
        monkeypatch.delenv("FURLONG_CAP", raising=False)
        with furlong.Client(cluster="commanded") as client:
            client.shutdown(hub=True)
        eventually(lambda: not found.is_running)
        with pytest.raises(FileNotFoundError):
            furlong.Cluster.from_file(cluster_id="commanded")
    finally:
        subprocess.run(
            [*command, "stop", "--cluster", "commanded"],
            capture_output=True,
            timeout=SOON_SECONDS,
            check=False,
        )


def test_a_cluster_of_the_command_is_stopped_by_its_name(home: object) -> None:
    command = [
        sys.executable,
        "-m",
        "furlong",
        "cluster",
        "start",
        "-n",
        "1",
        "--cluster",
        "named",
        "--daemon",
    ]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, timeout=SOON_SECONDS, env=dict(os.environ)
    )
    found = furlong.Cluster.from_file(cluster_id="named")
    found.stop_cluster_sync()
    eventually(lambda: not found.is_running)
