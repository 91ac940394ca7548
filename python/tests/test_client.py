"""The client: which engines there are, views on them by their ids, and waiting for them."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ENGINES, SOON_SECONDS, eventually

import furlong

Own = Callable[..., furlong.Cluster]


def test_001_ids_grow_by_themselves(own: Own) -> None:
    with own(1).start_and_connect_sync() as rc:
        before = rc.ids
        rc.cluster.start_engines_sync(2)
        eventually(lambda: len(rc.ids) == 3)
        assert rc.ids[:1] == before
        assert sorted(set(rc.ids)) == rc.ids


def test_002_iterating_gives_a_view_for_each_engine(rc: furlong.Client) -> None:
    assert len(rc.ids) == ENGINES
    assert [view.targets for view in rc] == rc.ids
    assert len(rc) == ENGINES


def test_003_engines_are_chosen_as_items_of_a_list(rc: furlong.Client) -> None:
    ids = rc.ids
    assert rc[:].targets == ids
    assert rc[ids[2]].targets == ids[2]
    for chosen in (slice(2, 4), slice(None, None, 2), slice(1, None, 3), slice(None, -3)):
        assert rc[chosen].targets == ids[chosen]
    assert rc[-1].targets == ids[-1]
    assert rc[ids[1:3]].targets == ids[1:3]
    assert rc[tuple(ids[:2])].targets == ids[:2]
    for wrong in (None, "0", True, 1.0):
        with pytest.raises(TypeError):
            rc[wrong]
    for missing in (ids[-1] + 1, -ENGINES - 1, [ids[0], ids[-1] + 1]):
        with pytest.raises(IndexError):
            rc[missing]


def test_004_ids_are_a_copy(rc: furlong.Client) -> None:
    ids = rc.ids
    removed = ids.pop()
    assert removed in rc.ids
    assert rc.ids is not rc.ids


def test_005_what_is_outstanding(rc: furlong.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    result = rc[0].apply_async(wait_for_file, str(go))
    (key,) = result.msg_ids
    assert rc.outstanding == {key}
    go.touch()
    assert result.get(SOON_SECONDS) == os.fspath(go)
    assert rc.outstanding == set()
    assert list(rc.history) == [key]


def test_006_all_means_those_that_are_there_at_the_call(own: Own) -> None:
    with own(1).start_and_connect_sync() as rc:
        view = rc.direct_view("all")
        frozen = rc[:]
        assert len(view.apply_sync(os.getpid)) == 1
        rc.cluster.start_engines_sync(1)
        rc.wait_for_engines(2, timeout=SOON_SECONDS)
        assert len(set(view.apply_sync(os.getpid))) == 2
        assert len(set(view.map_sync(process_of, range(8)))) == 2
        assert len(frozen.apply_sync(os.getpid)) == 1
        assert view.targets == "all"


@pytest.mark.parametrize("kind", ["direct_view", "load_balanced_view"])
def test_007_targets_as_a_flag_are_what_they_are_elsewhere(rc: furlong.Client, kind: str) -> None:
    def where() -> int:
        return engine_id  # type: ignore[name-defined,no-any-return] # noqa: F821

    ids = rc.ids
    view = getattr(rc, kind)()
    for chosen in (1, -1, [2], (2,), slice(2, 3), range(3, 4)):
        view.set_flags(targets=chosen)
        expected = (
            [ids[chosen]]
            if isinstance(chosen, int)
            else list(ids[chosen] if type(chosen) is slice else chosen)
        )
        assert view.apply_sync(where) in (expected, expected[0])
        assert len(view) == 1
    with view.temp_flags(targets="all"):
        assert len(view) == len(ids)
        assert view.apply_async(len, "ab").get() in (2, [2] * len(ids))
    assert len(view) == 1
    for wrong, error in (
        (1.5, TypeError),
        ("x", TypeError),
        (["1"], TypeError),
        ([-1], IndexError),
        (-9, IndexError),
    ):
        with pytest.raises(error):
            view.targets = wrong
    assert len(view) == 1


def test_007_targets_of_balanced_views(rc: furlong.Client) -> None:
    ids = rc.ids
    assert rc.load_balanced_view(-1).targets == [ids[-1]]
    assert rc.load_balanced_view("all").targets is None
    assert rc.load_balanced_view().targets is None
    assert rc.load_balanced_view(ids[:2]).targets == ids[:2]
    assert rc.load_balanced_view(slice(None, None, 2)).targets == ids[::2]
    assert len(rc.load_balanced_view()) == ENGINES
    first = rc[0].apply_sync(os.getpid)
    assert set(rc.load_balanced_view(0).map_sync(process_of, range(6))) == {first}


def test_008_waiting_for_engines(own: Own) -> None:
    with own(1).start_and_connect_sync() as rc:
        assert rc.wait_for_engines(1) is None
        assert rc.wait_for_engines() is None
        there = rc.wait_for_engines(1, block=False)
        assert there is not None
        assert there.done()
        assert there.result() is None
        with pytest.raises(TimeoutError, match="1 of 2 engines"):
            rc.wait_for_engines(2, timeout=0.1)
        late = rc.wait_for_engines(2, timeout=0.1, block=False)
        coming = rc.wait_for_engines(2, timeout=SOON_SECONDS, block=False)
        assert late is not None
        assert coming is not None
        with pytest.raises(TimeoutError):
            late.result(SOON_SECONDS)
        assert not coming.done()
        rc.cluster.start_engines_sync(1)
        assert coming.result(SOON_SECONDS) is None
        assert len(rc) == 2


def test_008_waiting_ends_with_the_client(own: Own) -> None:
    rc = own(1).start_and_connect_sync()
    waiting = rc.wait_for_engines(2, block=False)
    assert waiting is not None
    rc.close()
    with pytest.raises(furlong.errors.ConnectionLost):
        waiting.result(SOON_SECONDS)


def test_011_an_engine_is_shut_down(own: Own) -> None:
    with own(2).start_and_connect_sync() as rc:
        gone, stays = rc.ids
        rc.shutdown(gone, block=True)
        assert rc.ids == [stays]
        with pytest.raises(IndexError):
            rc[gone]
        assert rc[stays].apply_sync(os.getpid) > 0
        with pytest.raises(furlong.EngineError):
            rc._session  # noqa: B018 - the client is still there
            furlong.DirectView(rc, gone).apply_sync(os.getpid)


def test_011_shutdown_with_the_broker_ends_the_cluster(own: Own) -> None:
    with own(1).start_and_connect_sync() as rc:
        rc.shutdown(hub=True)
        eventually(lambda: not rc.cluster.is_running)
        rc.cluster.stop_cluster_sync()


@pytest.mark.parametrize("number", [signal.SIGINT, int(signal.SIGINT), "SIGINT"])
def test_090_a_signal_interrupts_what_runs(
    rc: furlong.Client, tmp_path: Path, number: int | str
) -> None:
    view = rc[:]
    # Idle engines do not respond to it.
    rc.send_signal(number)
    result = view.apply_async(touch_and_sleep, str(tmp_path))
    eventually(lambda: len(list(tmp_path.iterdir())) == ENGINES)
    rc.send_signal(number)
    with pytest.raises(furlong.CompositeError) as caught:
        result.get(SOON_SECONDS)
    assert [error.ename for error in caught.value.errors] == ["KeyboardInterrupt"] * ENGINES
    assert len(set(view.apply_sync(os.getpid))) == ENGINES


def test_the_state_of_queues(rc: furlong.Client, tmp_path: Path) -> None:
    idle = rc.queue_status()
    assert set(idle) == {*rc.ids, "unassigned"}
    assert idle["unassigned"] == 0
    go = tmp_path / "go"
    results = [rc[0].apply_async(wait_for_file, str(go)) for _ in range(3)]
    first = rc.ids[0]
    eventually(lambda: sum(rc.queue_status()[first][name] for name in ("queue", "tasks")) == 3)
    go.touch()
    assert rc.wait(results, SOON_SECONDS)
    eventually(lambda: rc.queue_status()[first]["completed"] == idle[first]["completed"] + 3)
    assert set(rc.queue_status([first])) == {first, "unassigned"}
    assert set(rc.queue_status(first)) == {"queue", "tasks", "completed"}


def test_an_address_is_no_capability() -> None:
    with pytest.raises(ValueError, match="capability file"):
        furlong.Client("tcp://127.0.0.1:4000")


def test_no_capability_is_said_with_its_place(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    with pytest.raises(OSError, match="missing.json"):
        furlong.Client(missing, timeout=0.05)


@pytest.mark.parametrize("timeout", [float("inf"), 1e30, -1])
def test_a_client_may_wait_for_ever(cluster: furlong.Cluster, timeout: float) -> None:
    with furlong.Client(cluster=cluster, timeout=timeout) as client:
        assert client.ids is not None


def wait_for_file(path: str) -> str:
    while not os.path.exists(path):  # noqa: PTH110
        time.sleep(0.005)
    return path


def touch_and_sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)


def process_of(_: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_a_client_that_nobody_holds_leaves(rc: furlong.Client, cluster: furlong.Cluster) -> None:
    here = rc.status()["clients"]
    other = furlong.Client(cluster=cluster)
    result = other[0].apply_async(os.getpid)
    assert rc.status()["clients"] == here + 1
    del other
    gc.collect()
    assert result.get(SOON_SECONDS) > 0, "a result keeps its session"
    del result
    gc.collect()
    eventually(lambda: rc.status()["clients"] == here)
