"""Libraries that take a map, a pool or an executor: each result is that of the same call in this process."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import numpy as np
import pytest

import furlong


def rosen(x: Any) -> float:
    return float(sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def log_probability(x: Any) -> float:
    return float(-0.5 * np.sum(x * x))


def double(x: int) -> int:
    return 2 * x


def test_scipy_differential_evolution(rc: furlong.Client) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    arguments: dict[str, Any] = {"seed": 1, "maxiter": 4, "updating": "deferred", "polish": False}
    bounds = [(-2, 2)] * 3
    expected = optimize.differential_evolution(rosen, bounds, **arguments)
    with rc.pool() as pool:
        found = optimize.differential_evolution(rosen, bounds, workers=pool.map, **arguments)
    assert found.x.tolist() == expected.x.tolist()
    assert found.nfev == expected.nfev


def test_scipy_minimize(rc: furlong.Client) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    start = np.array([1.2, 0.9, 0.8])
    expected = optimize.minimize(rosen, start, method="BFGS")
    with rc.pool() as pool:
        options = {"workers": pool.map}
        found = optimize.minimize(rosen, start, method="BFGS", options=options)
    assert found.x.tolist() == expected.x.tolist()


def test_emcee(rc: furlong.Client) -> None:
    emcee = pytest.importorskip("emcee")
    start = np.random.default_rng(0).standard_normal((8, 2))

    def chain(pool: object) -> Any:
        np.random.seed(1)  # noqa: NPY002 - emcee's own generator
        sampler = emcee.EnsembleSampler(8, 2, log_probability, pool=pool)
        sampler.run_mcmc(start, 5)
        return sampler.get_chain().tolist()

    with rc.pool() as pool:
        assert chain(pool) == chain(None)


def test_tqdm(
    rc: furlong.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # its thread stays for ever
    with rc.pool() as pool:
        values = list(tqdm.tqdm(pool.imap(double, range(20), chunksize=5), total=20))
    assert values == [2 * n for n in range(20)]
    assert "20/20" in capsys.readouterr().err


def test_dask_array_and_bag(rc: furlong.Client) -> None:
    dask = pytest.importorskip("dask")
    bag = pytest.importorskip("dask.bag")
    array = pytest.importorskip("dask.array")
    with dask.config.set(scheduler=rc.executor()):
        made = array.ones((40, 40), chunks=(10, 20))
        assert float((made @ made.T).sum().compute()) == 40.0**3
        assert bag.from_sequence(range(10), npartitions=3).map(double).sum().compute() == 90
        with pytest.raises(ZeroDivisionError):
            bag.from_sequence([1, 0]).map(lambda x: 1 / x).compute()


def test_pandas_groups(rc: furlong.Client) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"key": list("abcab"), "value": range(5)})

    def total(group: Any) -> int:
        return int(group["value"].sum())

    groups = dict(list(frame.groupby("key")))
    with rc.pool() as pool:
        found = pandas.Series(pool.map(total, groups.values()), index=groups)
    assert found.to_dict() == {"a": 3, "b": 5, "c": 2}


def test_xarray_apply_ufunc(rc: furlong.Client) -> None:
    xarray = pytest.importorskip("xarray")
    dask = pytest.importorskip("dask")
    data = xarray.DataArray(np.arange(12.0).reshape(3, 4), dims=("x", "t")).chunk(x=1)
    lazy = xarray.apply_ufunc(
        lambda block: block.mean(axis=-1),
        data,
        input_core_dims=[["t"]],
        dask="parallelized",
        output_dtypes=[float],
    )
    with dask.config.set(scheduler=rc.executor()):
        assert lazy.compute().to_numpy().tolist() == [1.5, 5.5, 9.5]


def test_executor_counts_as_many_workers_as_there_are_engines(rc: furlong.Client) -> None:
    executor = rc.executor()
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor._max_workers == len(rc)


def test_executor_without_engines_counts_one_worker(own: Any) -> None:
    # Dask takes no 0, and the calls wait for engines.
    with own(n=0) as rc:
        assert rc.executor()._max_workers == 1
