"""The Rust functions of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from furlong import _furlong
from furlong.calls.codecs import MSGPACK, RAW
from furlong.calls.task_spec import CallInfo, TaskSpec
from furlong.results.async_result import AsyncResult
from furlong.results.subtasks import SubTask
from furlong.waiting import signals

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["Native", "NativeFunction"]


class Native:
    """The Rust functions that engines have registered, as attributes or by name: ``rc.native["sum"](1, 2)``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> NativeFunction:
        if name.startswith("_"):
            raise AttributeError(name)
        return NativeFunction(self._client, name)

    def __getitem__(self, name: str) -> NativeFunction:
        return NativeFunction(self._client, name)


class NativeFunction:
    """A Rust function. Its call waits for the value, which is data as msgpack has it; `submit` gives a result."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._function = _furlong.Function.native(name)

    def __repr__(self) -> str:
        return f"<native function {self._name!r}>"

    def __call__(self, *args: object) -> Any:
        """Call it on whichever engine is free, and wait.

        Parameters
        ----------
        *args
            Numbers, text, bytes, None, and lists and dictionaries of such.

        Raises
        ------
        TypeError
            For an argument that msgpack has no form for.
        RemoteError
            What the function, or its engine, says.
        """
        return self.submit(*args).get()

    def submit(self, *args: object) -> AsyncResult:
        """Call it, and give an `AsyncResult` at once."""
        from furlong.calls.msgpack import pack

        view = self._client.load_balanced_view()
        info = CallInfo(self._client, self._name, label=view.label, codecs=(MSGPACK, RAW))
        call = _furlong.Call(self._function, MSGPACK, [pack(list(args))])
        return signals.owned(self._client._session, self._submit, TaskSpec(call, info))

    def _submit(self, spec: TaskSpec) -> AsyncResult:
        result = AsyncResult([SubTask(spec.submit(), spec)], True)
        self._client._note(result)
        return result
