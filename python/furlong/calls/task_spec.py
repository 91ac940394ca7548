"""The submit of one call, with all that is needed to submit it once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from furlong.calls.codecs import PICKLE, Codecs

if TYPE_CHECKING:
    from furlong import _furlong
    from furlong.client.client import Client
    from furlong.results.subtasks import SubTask

__all__ = ["CallInfo", "Decode", "TaskSpec"]

# Makes the value of a task from its end.
Decode = Callable[["SubTask", "_furlong.Outcome"], object]


class CallInfo:
    """The common parts of the tasks of one call."""

    __slots__ = (
        "after",
        "client",
        "code",
        "codecs",
        "follow",
        "label",
        "method",
        "name",
        "owner",
        "stays",
    )

    def __init__(
        self,
        client: Client,
        name: str,
        method: str = "apply",
        *,
        label: str | None = None,
        after: object = None,
        follow: object = None,
        code: str | None = None,
        owner: bool = True,
        codecs: Codecs = (PICKLE,),
        stays: bool = False,
    ) -> None:
        self.client = client
        self.name = name
        self.method = method
        self.label = label
        self.after = after
        self.follow = follow
        self.code = code
        self.owner = owner
        # Whether values are to stay at the cluster. Code that is executed has none.
        self.stays = stays and method != "execute"
        # The codecs in which a value may come: that of the call. Code that is executed has no
        # value.
        self.codecs: Codecs = (None,) if method == "execute" else codecs

    @property
    def is_pickled(self) -> bool:
        """True if what comes may be pickles, which can run code when they are read."""
        return PICKLE in self.codecs


class TaskSpec(NamedTuple):
    """A call as tasks are made of it: one task, one for each engine, or another one later.

    Attributes
    ----------
    call : _furlong.Call or None
        Function, arguments and options, made ready; none if another session has submitted it.
    info : CallInfo
        What people are told of it.
    decode : callable, optional
        Makes the value, if it is not what came.
    targets : sequence of int, optional
        The engines that it may go to; any if nothing is said.
    inputs : sequence of str
        The tasks whose values are among the arguments.
    again : callable, optional
        Makes the same call anew, with the values that have come since, where it may have to go to another engine.
    may_move : bool
        Whether another task may take the place of one that has failed.
    """

    call: _furlong.Call | None
    info: CallInfo
    decode: Decode | None = None
    targets: Sequence[int] | None = None
    inputs: Sequence[str] = ()
    again: Callable[[], TaskSpec] | None = None
    may_move: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its arguments."""
        return 0 if self.call is None else self.call.nbytes

    def submit(self, engine: int | None = None) -> _furlong.Task:
        """Submit a task: to an engine, or to the shared queue."""
        assert self.call is not None, "a spec without a call cannot be submitted"
        session = self.info.client._session
        if engine is None:
            return session.submit(self.call)
        return session.submit_to([engine], self.call)[0]

    def engine_beside(self, tried: set[int]) -> int | None:
        """Choose an engine that has not had it; none if there is no other."""
        engines = (engine for engine in self.info.client.ids if engine not in tried)
        return next((engine for engine in engines if self._may_go_to(engine)), None)

    def _may_go_to(self, engine: int) -> bool:
        return self.targets is None or engine in self.targets
