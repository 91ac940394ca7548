"""joblib's calls on the farm, by themselves and as scikit-learn makes them."""

from __future__ import annotations

import ast
import builtins
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing import TimeoutError as JobTimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ENGINES, Gate, eventually

import furlong

joblib = pytest.importorskip("joblib")

import furlong.joblib
from furlong.joblib import FurlongBackend

Parallel, delayed, parallel_config = joblib.Parallel, joblib.delayed, joblib.parallel_config


class Odd(Exception):
    """An exception that its arguments alone do not make."""

    def __init__(self, text: str, place: int) -> None:
        super().__init__(text)
        self.place = place


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    """Let joblib say nothing of what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def on_farm(rc: furlong.Client) -> Iterator[furlong.Client]:
    """Have all calls within a test run on the farm."""
    with parallel_config(backend="furlong", client=rc):
        yield rc


def payload_bytes(rc: furlong.Client) -> int:
    return int(rc.status()["payload_bytes"][0])


def fail_at(place: int, x: int) -> int:
    if x == place:
        raise Odd("odd", x)
    return x


def square(x: int) -> int:
    return x * x


def write(text: str) -> None:
    print(text)


# Calls.


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 3])
def test_values_come_in_the_order_of_the_calls(
    return_as: str, batch_size: Any, pre_dispatch: Any, on_farm: furlong.Client
) -> None:
    parallel = Parallel(return_as=return_as, batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert list(parallel(delayed(square)(n) for n in range(50))) == [n * n for n in range(50)]


def test_unordered_generator_gives_what_comes_first(on_farm: furlong.Client, gate: Gate) -> None:
    calls = [delayed(gate.wait)("late"), *(delayed(square)(n) for n in range(5))]
    values = Parallel(return_as="generator_unordered", batch_size=1)(calls)
    assert sorted(next(values) for _ in range(5)) == [0, 1, 4, 9, 16]
    gate.open()
    assert list(values) == ["late"]


def test_short_calls_go_in_larger_and_larger_batches(on_farm: furlong.Client) -> None:
    with Parallel() as parallel:
        assert len(parallel(delayed(square)(n) for n in range(5000))) == 5000
        assert parallel._backend._effective_batch_size > 10


def test_calls_run_on_all_engines(on_farm: furlong.Client) -> None:
    def meet(_: int) -> int:
        time.sleep(0.01)
        return os.getpid()

    engines = on_farm[:].apply_sync(os.getpid)
    assert set(Parallel()(delayed(meet)(n) for n in range(40))) == set(engines)


def test_backend_by_name_connects_by_itself(
    cluster: furlong.Cluster, rc: furlong.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FURLONG_CAP", str(cluster.capability))
    before = rc.status()["clients"]
    assert Parallel(backend="furlong")(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
    with parallel_config(backend="furlong", label="by joblib"):
        assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]
        assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]
    gc.collect()
    assert eventually(lambda: rc.status()["clients"] == before)


def test_farm_names_the_functions_that_joblib_calls(on_farm: furlong.Client) -> None:
    Parallel()(delayed(square)(n) for n in range(3))
    assert f"{__name__}.square" in {span["name"] for span in on_farm.trace().spans}


def test_output_of_calls_comes_here(
    on_farm: furlong.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    Parallel()(delayed(write)(f"line {n}") for n in range(5))
    assert sorted(capsys.readouterr().out.splitlines()) == [f"line {n}" for n in range(5)]


# Jobs.


def test_jobs_are_the_engines_unless_it_is_said_otherwise(on_farm: furlong.Client) -> None:
    assert joblib.effective_n_jobs(-1) == joblib.effective_n_jobs(None) == ENGINES
    assert joblib.effective_n_jobs(-2) == ENGINES - 1
    assert joblib.effective_n_jobs(3) == 3
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0)([])


def test_fewer_jobs_than_engines_run_no_more_at_once(
    on_farm: furlong.Client, tmp_path: Path
) -> None:
    def count(n: int) -> int:
        mine = tmp_path / str(n)
        mine.touch()
        time.sleep(0.02)
        found = len(list(tmp_path.iterdir()))
        mine.unlink()
        return found

    counts = Parallel(n_jobs=2, batch_size=1)(delayed(count)(n) for n in range(20))
    assert max(counts) == 2


def test_single_job_runs_here(on_farm: furlong.Client) -> None:
    assert set(Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(3))) == {os.getpid()}


def test_options_of_a_call_are_those_of_the_backend(rc: furlong.Client) -> None:
    engine = rc[rc.ids[-1]].apply_sync(os.getpid)
    parallel = Parallel(backend="furlong", client=rc, targets=rc.ids[-1:])
    assert set(parallel(delayed(os.getpid)() for _ in range(5))) == {engine}
    with pytest.raises(TypeError, match="no flag 'labell'"):
        Parallel(backend="furlong", client=rc, labell="x")([])


def set_number(number: int) -> None:
    global _number
    _number = number


def number_and(x: int) -> tuple[int, int]:
    return _number, x


def test_initializer_runs_before_the_first_call(rc: furlong.Client) -> None:
    with parallel_config(backend="furlong", client=rc, initializer=set_number, initargs=(7,)):
        assert Parallel()(delayed(number_and)(n) for n in range(9)) == [(7, n) for n in range(9)]


def test_only_engine_of_a_farm_runs_the_calls(rc: furlong.Client) -> None:
    with parallel_config(backend="furlong", client=rc, targets=rc.ids[:1]):
        assert joblib.effective_n_jobs(-1) == 2
        engine = rc[rc.ids[0]].apply_sync(os.getpid)
        assert set(Parallel()(delayed(os.getpid)() for _ in range(5))) == {engine}


def test_without_engines_it_says_how_to_start_some(own: Any) -> None:
    with own(n=0) as rc:
        parallel = Parallel(backend="furlong", client=rc, engines_timeout=0.1)
        with pytest.raises(furlong.NoEnginesRegistered, match="furlong cluster start"):
            parallel(delayed(square)(n) for n in range(3))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"nested": "no"}, ValueError),
        ({"client": 3}, TypeError),
        ({"inner_max_num_threads": 2}, AssertionError),
    ],
)
def test_backend_refuses_what_it_does_not_know(options: dict[str, Any], kind: type) -> None:
    with pytest.raises(kind), parallel_config(backend="furlong", **options):
        pass


# Large arguments.


def test_large_array_is_sent_once_and_let_go(on_farm: furlong.Client) -> None:
    large = np.ones(1_000_000)
    before = payload_bytes(on_farm)
    seen = []

    def look(n: int) -> int:
        seen.append(payload_bytes(on_farm))
        return n

    with Parallel(batch_size=1, return_as="generator") as parallel:
        values = parallel(delayed(np.take)(large, n) for n in range(40))
        assert sum(float(value) + look(0) for value in values) == 40
    assert max(seen) - before < 2 * large.nbytes
    eventually(lambda: payload_bytes(on_farm) - before < large.nbytes)


def test_large_arrays_of_single_calls_go_with_them(on_farm: furlong.Client) -> None:
    before = payload_bytes(on_farm)
    most = 0
    values = Parallel(batch_size=1, return_as="generator", pre_dispatch=4)(
        delayed(np.sum)(np.full(1_000_000, n)) for n in range(30)
    )
    for n, value in enumerate(values):
        assert value == n * 1_000_000
        most = max(most, payload_bytes(on_farm) - before)
    assert most < 20 * 8_000_000


def test_large_array_is_read_only_as_with_other_backends(on_farm: furlong.Client) -> None:
    def write_to(array: Any) -> None:
        array[0] = 7

    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(write_to)(np.zeros(1_000_000)) for _ in range(2))
    Parallel()(delayed(write_to)(np.zeros(10)) for _ in range(2))
    Parallel(max_nbytes=None)(delayed(write_to)(np.zeros(1_000_000)) for _ in range(2))
    Parallel(mmap_mode="c")(delayed(write_to)(np.zeros(1_000_000)) for _ in range(2))


def test_writes_to_a_mapped_file_are_not_lost_without_a_word(
    on_farm: furlong.Client, tmp_path: Path
) -> None:
    mapped = np.memmap(tmp_path / "out", np.float64, "w+", shape=(10,))

    def write_to(array: Any, n: int) -> None:
        array[n] = n

    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(write_to)(mapped, n) for n in range(3))


def test_array_changed_between_two_calls_is_sent_anew(on_farm: furlong.Client) -> None:
    array = np.zeros(1_000_000)
    with Parallel() as parallel:
        assert set(parallel(delayed(np.max)(array) for _ in range(5))) == {0.0}
        array[5] = 3.0
        assert set(parallel(delayed(np.max)(array) for _ in range(5))) == {3.0}


def test_shared_arrays_stay_for_all_calls_of_the_backend(rc: furlong.Client) -> None:
    array = np.ones(500_000)
    before = payload_bytes(rc)
    with parallel_config(backend="furlong", client=rc, shared=[array]):
        for _ in range(3):
            assert sum(Parallel()(delayed(np.take)(array, n) for n in range(9))) == 9
            held = payload_bytes(rc) - before
            assert array.nbytes <= held < 2 * array.nbytes
    gc.collect()
    eventually(lambda: payload_bytes(rc) - before < array.nbytes)


# Errors, and the end.


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_error_is_the_one_that_was_raised(return_as: str, on_farm: furlong.Client) -> None:
    with pytest.raises(Odd) as raised:
        list(Parallel(return_as=return_as)(delayed(fail_at)(3, n) for n in range(10)))
    assert type(raised.value) is Odd
    assert (raised.value.args, raised.value.place) == (("odd",), 3)
    assert "in fail_at" in str(raised.value.__cause__)
    assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_error_ends_what_runs_and_what_waits(on_farm: furlong.Client, gate: Gate) -> None:
    calls = [delayed(fail_at)(3, 3), *(delayed(gate.wait)() for _ in range(3 * ENGINES))]
    with pytest.raises(Odd):
        Parallel(batch_size=1, pre_dispatch="all")(calls)
    assert eventually(lambda: not on_farm.outstanding)


def test_call_that_takes_too_long_ends_the_others(on_farm: furlong.Client, gate: Gate) -> None:
    with pytest.raises(JobTimeoutError):
        Parallel(timeout=0.05)(delayed(gate.wait)() for _ in range(3))
    assert eventually(lambda: not on_farm.outstanding)


def test_generator_that_is_let_go_ends_its_calls(on_farm: furlong.Client, gate: Gate) -> None:
    calls = [delayed(square)(2), *(delayed(gate.wait)() for _ in range(ENGINES))]
    values = Parallel(return_as="generator", batch_size=1)(calls)
    assert next(values) == 4
    with pytest.warns(UserWarning, match="have been cancelled"):
        del values
        gc.collect()
    assert eventually(lambda: not on_farm.outstanding)


def test_one_call_that_fails_leaves_another_alone(on_farm: furlong.Client, gate: Gate) -> None:
    values = Parallel(return_as="generator")(delayed(gate.wait)(n) for n in range(2))
    with pytest.raises(Odd):
        Parallel()(delayed(fail_at)(0, n) for n in range(2))
    gate.open()
    assert list(values) == [0, 1]


def test_argument_without_a_pickle_is_an_error_and_no_hang(on_farm: furlong.Client) -> None:
    with pytest.raises(furlong.errors.PicklingError, match=r"is a _thread\.lock"):
        Parallel(pre_dispatch=2)(delayed(id)(threading.Lock() if n == 9 else n) for n in range(20))


def test_generator_of_one_call_feeds_another(on_farm: furlong.Client) -> None:
    first = Parallel(return_as="generator")(delayed(square)(n) for n in range(50))
    assert Parallel()(delayed(square)(n) for n in first) == [n**4 for n in range(50)]


def test_nothing_is_left_of_a_call(on_farm: furlong.Client) -> None:
    for _ in range(3):
        Parallel()(delayed(square)(n) for n in range(30))
    names = {"furlong-joblib"}
    eventually(lambda: not names & {thread.name for thread in threading.enumerate()})
    assert not on_farm.outstanding


# Calls within calls.


def inner_pids(_: int) -> list[int]:
    from joblib import Parallel, delayed

    return [os.getpid(), *Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(3))]


@pytest.mark.parametrize("nested", ["threads", "sequential"])
def test_inner_calls_stay_on_the_engine(nested: str, rc: furlong.Client) -> None:
    with parallel_config(backend="furlong", client=rc, nested=nested):
        for pids in Parallel()(delayed(inner_pids)(n) for n in range(3)):
            assert len(set(pids)) == 1


def test_inner_calls_as_tasks_of_the_farm(rc: furlong.Client) -> None:
    with parallel_config(backend="furlong", client=rc, nested="tasks"):
        found = Parallel()(delayed(inner_pids)(n) for n in range(3))
    assert len({pid for pids in found for pid in pids}) > 1
    spans = [span["name"] for span in rc.trace().spans]
    assert "getpid" in " ".join(spans)


def level(backend: Any) -> tuple[str, int]:
    return type(backend).__name__, backend.nesting_level


def test_nesting_is_counted_as_joblib_does(rc: furlong.Client) -> None:
    backend = FurlongBackend(rc, nesting_level=0)
    assert level(backend.get_nested_backend()[0]) == ("ThreadingBackend", 1)
    backend = FurlongBackend(rc, nesting_level=0, nested="tasks")
    inner, n_jobs = backend.get_nested_backend()
    assert (level(inner), n_jobs) == (("FurlongBackend", 1), -1)


def inner_by_name(n: int) -> int:
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=2, backend="furlong")(delayed(square)(k) for k in range(n)))


def test_inner_call_can_name_the_backend(on_farm: furlong.Client) -> None:
    assert Parallel()(delayed(inner_by_name)(n) for n in (3, 4)) == [5, 14]


# The backend as the default.


def test_backend_can_be_the_default(
    cluster: furlong.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FURLONG_CAP", str(cluster.capability))
    monkeypatch.setattr(joblib.parallel, "DEFAULT_BACKEND", "loky")
    furlong.joblib.register(make_default=True)
    assert os.getpid() not in Parallel()(delayed(os.getpid)() for _ in range(3))
    gc.collect()


EXITS = [
    ("SystemExit", 3),
    ("SystemExit", "no more"),
    ("SystemExit",),
    ("KeyboardInterrupt", "there"),
    ("StopIteration", 5),
    ("StopAsyncIteration", 5),
    ("GeneratorExit",),
    ("KeyError", "k"),
]


def raise_it(name: str, *args: Any) -> None:
    raise getattr(builtins, name)(*args)


def outcome(raised: tuple[Any, ...], **options: Any) -> tuple[Any, ...]:
    """Return what a call raises of which two tasks raise that: the type's name, and what it says beyond that."""
    try:
        with parallel_config(n_jobs=2, **options):
            Parallel()(delayed(raise_it)(*raised) for _ in range(2))
    except BaseException as error:
        code, value = getattr(error, "code", None), getattr(error, "value", None)
        return type(error).__name__, error.args, code, value
    raise AssertionError("it raises nothing")


@pytest.fixture(scope="module")
def exits_of_processes() -> list[tuple[Any, ...]]:
    """Return the same for processes of this machine, which end with a process of their own."""
    code = "import test_joblib as t; print([t.outcome(one, backend='loky') for one in t.EXITS])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    outcomes: list[tuple[Any, ...]] = ast.literal_eval(found.stdout)
    return outcomes


def test_errors_are_those_that_processes_of_this_machine_raise(
    rc: furlong.Client, exits_of_processes: list[tuple[Any, ...]]
) -> None:
    found = [outcome(raised, backend="furlong", client=rc) for raised in EXITS]
    assert found == exits_of_processes


def end_process(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@pytest.mark.parametrize("how", ["killed", "left"])
def test_an_engine_that_dies_is_a_worker_that_was_terminated(farm: Any, how: str) -> None:
    terminated = joblib.externals.loky.process_executor.TerminatedWorkerError
    with farm.client() as rc, parallel_config(backend="furlong", client=rc):
        with pytest.raises(terminated, match="SIGKILL|exit code 3") as caught:
            Parallel()(delayed(end_process)(how) for _ in range(2))
        assert isinstance(caught.value, furlong.EngineError)
        assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)
        assert Parallel()(delayed(abs)(x) for x in range(2)) == [0, 1]
