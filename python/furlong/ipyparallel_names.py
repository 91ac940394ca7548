"""Names that programs for ipyparallel use, where they are no more than another word for what is here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from furlong.calls.checks import check_flag

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from furlong import _furlong
    from furlong.calls.targets import Targets
    from furlong.client.client import Client
    from furlong.client.tasks import Jobs
    from furlong.results.async_result import AsyncResult
    from furlong.views.direct import DirectView
    from furlong.views.flags import NewViewFlags

__all__ = ["ClientNames", "IpyparallelNames", "ViewNames", "absent"]

# What is not there, and what is used instead.
ABSENT = {
    "register_joblib_backend": (
        "use `import furlong.joblib`, and `joblib.parallel_config(backend='furlong', client=rc)`"
    ),
    "send_apply_request": "use `view.apply_async`",
    "send_execute_request": "use `view.execute`",
    "create_message_futures": "use `view.apply_async`, whose result is a future",
    "curve_publickey": "connections are encrypted by the keys of capability files",
    "curve_secretkey": "connections are encrypted by the keys of capability files",
    "curve_serverkey": "connections are encrypted by the keys of capability files",
    "debug": "set FURLONG_LOG, or `log_level=` of a cluster",
    "bind_kernel": "engines are no kernels; `view.execute` and `view.pull` reach their namespaces",
    "can": "values are pickled as needed",
    "can_map": "values are pickled as needed; `copyreg` registers how",
    "uncan": "values are pickled as needed",
    "uncan_map": "values are pickled as needed; `copyreg` registers how",
    "PrePickled": "functions are sent once by themselves; push data that many calls use",
    "serialize": "values are pickled as needed",
    "serialize_object": "values are pickled as needed",
    "deserialize_object": "values are pickled as needed",
    "pack_apply_message": "values are pickled as needed",
    "unpack_apply_message": "values are pickled as needed",
    "use_pickle": "it is chosen by view: `view.use_pickle()`",
    "wrap_exception": "exceptions of engines are `RemoteError`s",
    "unwrap_exception": "exceptions of engines are `RemoteError`s",
    "collect_exceptions": "results raise a `CompositeError` by themselves",
    "load_jupyter_server_extension": "there is no extension for Jupyter yet; use `furlong.Cluster`",
}


def absent(what: str, name: str) -> AttributeError:
    """Make the error for a name that is not there, with what is used instead if it is one of ipyparallel's."""
    instead = ABSENT.get(name)
    return AttributeError(f"{what} has no attribute {name!r}" + (f": {instead}" if instead else ""))


class _Absent:
    """A name that is not here: whoever reads it is told what is used instead.

    A `__getattr__` would do as well, but makes each look at any attribute several times as dear.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, thing: object, kind: type) -> Any:
        raise absent(repr(kind.__name__), self._name)


class IpyparallelNames:
    """A thing that ipyparallel has as well, under more names."""

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in ABSENT]


for _name in ABSENT:
    setattr(IpyparallelNames, _name, _Absent(_name))


class ClientNames(IpyparallelNames):
    """Names of ipyparallel's clients."""

    _session: _furlong.Session
    _block: bool

    if TYPE_CHECKING:

        def _results(self) -> dict[str, AsyncResult]: ...

        def direct_view(
            self, targets: Targets = "all", **flags: Unpack[NewViewFlags]
        ) -> DirectView:
            """See `Client.direct_view`."""

    @property
    def block(self) -> bool:
        """True if views that are made from now on block."""
        return self._block

    @block.setter
    def block(self, value: bool) -> None:
        self._block = check_flag("block", value)

    @property
    def profile(self) -> str:
        """The cluster's name."""
        return self._session.cluster

    @property
    def results(self) -> Mapping[str, Any]:
        """The values, or exceptions, of results that somebody holds and that have ended, by the ids of their tasks."""
        return {
            part.task.id: part.value if part.error is None else part.error
            for part in _ended_parts(self._results().values())
        }

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of results that somebody holds, by the ids of their tasks."""
        known = {}
        for key, result in self._results().items():
            every = result.metadata
            known.update(
                {each["msg_id"]: each for each in ([every] if isinstance(every, dict) else every)}
            )
            known.setdefault(key, {})
        return known

    def spin(self) -> None:
        """Do nothing: results come by themselves."""

    def spin_thread(self, interval: float = 1) -> None:
        """Do nothing: results come by themselves."""

    def stop_spin_thread(self) -> None:
        """Do nothing: results come by themselves."""

    def activate(self, targets: Targets = "all", suffix: str = "") -> DirectView:
        """Return a view on engines that blocks, and let IPython's magics act on it. See `DirectView.activate`."""
        view = self.direct_view(targets, block=True)
        view.activate(suffix)
        return view

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(
                f"{type(self).__name__!r} has no attribute {name!r} that could be set"
            )
        object.__setattr__(self, name, value)


class ViewNames(IpyparallelNames):
    """Names of ipyparallel's views."""

    client: Client
    _submitted: Any

    @property
    def history(self) -> list[str]:
        """The ids of the tasks that were submitted by this view, in the order of their submits."""
        session = self.client.session
        return [f"{session}:{number}" for number in self._submitted]

    @property
    def outstanding(self) -> set[str]:
        """The ids of the tasks of this view that have not ended."""
        return self.client.outstanding & set(self.history)

    @property
    def results(self) -> Mapping[str, Any]:
        """The values, or exceptions, of this view's results that somebody holds and that have ended, by their ids."""
        own = set(self.history)
        return {key: value for key, value in self.client.results.items() if key in own}

    def spin(self) -> None:
        """Do nothing: results come by themselves."""

    def purge_results(self, jobs: Jobs = None, targets: Targets = None) -> None:
        """Forget retained results. See `Client.purge_results`."""
        self.client.purge_results(jobs, targets)


def _ended_parts(results: Any) -> Iterator[Any]:
    for result in {id(result): result for result in results}.values():
        for part in result._parts:
            if part.poll():
                part.settle()
                yield part
