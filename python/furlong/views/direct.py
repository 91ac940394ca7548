"""Engines by their ids, each with its own queue and namespace."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong
from furlong.calls.checks import check_names, described
from furlong.calls.codecs import PICKLE, Codec
from furlong.calls.task_spec import CallInfo, Decode, TaskSpec
from furlong.pickling import main_globals
from furlong.pickling.arguments import Pickle, dumps_call, dumps_pushed, input_ids
from furlong.pickling.engine_names import EngineName, is_interactive
from furlong.pickling.functions import Pickled, call_of, function_of, name_of
from furlong.pickling.plain import goes_by_value
from furlong.results.async_result import AsyncResult
from furlong.results.displays import ExecuteReply
from furlong.results.subtasks import SubTask, first_value
from furlong.views.view import View, in_engine_namespace

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from furlong.calls.targets import Chosen, Targets
    from furlong.client.client import Client
    from furlong.views.flags import NewViewFlags
    from furlong.waiting.progress import Bar

__all__ = ["BroadcastView", "DirectView"]


class DirectView(View):
    """Engines by their ids: each has its own queue and its own lasting namespace.

    What is called on a view of one engine has a value; on a view of several a list of values, in the order of the
    engines. Made by ``rc[0]``, ``rc[::2]``, ``rc[:]``, ``rc.direct_view("all")``.
    """

    targets: Chosen

    _is_direct = True
    # Whether a call that fails aborts what this session has queued behind it on that engine.
    _aborts = True

    def __init__(
        self, client: Client, targets: Chosen = "all", **flags: Unpack[NewViewFlags]
    ) -> None:
        super().__init__(client, **flags)
        self.targets = targets

    def __len__(self) -> int:
        return 1 if isinstance(self.targets, int) else len(self._engines(None))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.targets}>"

    def _engines(self, targets: Targets) -> list[int]:
        """Return the engines of a call."""
        if targets is None:
            targets = self.targets
            if isinstance(targets, int):
                return [targets]
            if isinstance(targets, list) and targets:
                return targets
        return self.client._engines(targets)

    def _checked(self, name: str, value: object) -> object:
        value = super()._checked(name, value)
        if name in ("retries", "error_retries") and value:
            raise ValueError(
                f"{name}={value} is for the shared queue: the tasks of a direct view run once, in the order of their "
                f"queues; use `rc.load_balanced_view({name}={value})`"
            )
        return value

    def _own_engines(self) -> list[int]:
        return self._engines(None)

    def _on(self, engine: int | None) -> Self:
        """Return the same view, flags and all, on one engine."""
        view = copy.copy(self)
        view.targets = self.targets if engine is None else engine
        return view

    def _is_single(self, targets: Targets) -> bool:
        return isinstance(self.targets if targets is None else targets, int)

    def _submit(self, spec: TaskSpec, targets: Targets = None) -> AsyncResult:
        """Submit the same to each engine."""
        assert spec.call is not None, "views make calls"
        tasks = self.client._session.submit_to(self._engines(targets), spec.call)
        for task in tasks:
            self._submitted.add(task.number)
        result = AsyncResult([SubTask(task, spec) for task in tasks], self._is_single(targets))
        self.client._note(result)
        return result

    def _apply(
        self, f: object, args: Sequence[object], kwargs: Mapping[str, object], block: bool
    ) -> object:
        arguments = dumps_call(args, kwargs)
        if arguments.inputs is None:
            spec = self._call_of(self._prepared(f), arguments, self._info(name_of(f)))
            return self._finish(block, self._submit, spec)
        return self._finish_with_inputs(
            block, arguments, lambda: dumps_call(args, kwargs), f, self._info(name_of(f))
        )

    def _finish_with_inputs(
        self,
        block: bool | None,
        arguments: Pickle,
        pickle: Callable[[], Pickle],
        f: object,
        info: CallInfo,
        targets: Targets = None,
    ) -> Any:
        def submit(arguments: Pickle) -> AsyncResult:
            return self._submit(self._call_of(self._prepared(f), arguments, info), targets)

        return self._finish(block, self.client._causes.submit, arguments, pickle, submit)

    def _call_of(self, function: Pickled, arguments: Pickle, info: CallInfo) -> TaskSpec:
        options = self._task_options(self._aborts, info.label)
        call = call_of(function, arguments, options, self.client._session)
        inputs = input_ids(arguments) if arguments.inputs is not None else ()
        return TaskSpec(call, info, None, None, inputs)

    def _on_namespace(
        self,
        function: _furlong.Function,
        info: CallInfo,
        codec: Codec | None = PICKLE,
        decode: Decode | None = None,
    ) -> TaskSpec:
        """Return a call of what engines do to their namespaces; the codec is that of the value."""
        options = self._task_options(self._aborts, info.label, info.stays)
        return TaskSpec(_furlong.Call(function, codec, (), options), info, decode)

    def execute(
        self,
        code: str,
        silent: bool = True,
        targets: Targets = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Execute code in the namespaces of engines.

        An error aborts what this session has queued behind it on that engine. IPython's magics are allowed where the
        engine's interpreter has IPython.

        Parameters
        ----------
        code : str
            Any statements.
        silent : bool
            If false, the result is an `ExecuteReply` with the value of the last expression, as the engine shows it.

        Returns
        -------
        AsyncResult
            Also if it blocks: then it has ended.
        """
        return self._execute(code, silent, targets, block, label)

    def _execute(
        self,
        code: str,
        silent: bool,
        targets: Targets = None,
        block: bool | None = None,
        label: str | None = None,
        name: str = "execute",
    ) -> AsyncResult:
        """Execute code, under the name that its errors have here."""
        if not isinstance(code, str):
            raise TypeError(f"code is a str, not {described(code)}")

        def decode(part: SubTask, outcome: _furlong.Outcome) -> ExecuteReply | None:
            return None if silent else ExecuteReply(outcome, part.engine_id)

        main_globals.put.note_code(code)
        info = self._info(name, "execute", label, code)
        spec = self._on_namespace(_furlong.Function.code(code), info, None, decode)
        return self._finish_with_result(block, spec, targets)

    def run(
        self,
        filename: str | os.PathLike[str],
        targets: Targets = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Run a script, which is read here, in the namespaces of engines."""
        from pathlib import Path

        path = Path(filename)
        source = path.read_bytes()
        text = source.decode("utf-8", "replace")
        main_globals.put.note_code(text)
        info = self._info("run", "execute", label, text)
        function = _furlong.Function.script(str(path), source)
        spec = self._on_namespace(function, info, None, lambda *_: None)
        return self._finish_with_result(block, spec, targets)

    def _finish_with_result(
        self, block: bool | None, spec: TaskSpec, targets: Targets
    ) -> AsyncResult:
        """Return the result, also if it blocks: then it has ended."""
        made: list[AsyncResult] = []

        def begin_and_note() -> AsyncResult:
            made.append(self._submit(spec, targets))
            return made[0]

        self._finish(block, begin_and_note)
        return made[0]

    # The namespace.

    def push(
        self,
        ns: Mapping[str, object],
        targets: Targets = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Set variables: a dictionary of names and values. A name with dots sets an attribute.

        Raises
        ------
        TypeError
            If it is no dictionary, or a name no str.
        ValueError
            If a name is none for a variable.
        """
        if not isinstance(ns, dict):
            raise TypeError(
                f"what is pushed is a dictionary of names and values, not {described(ns)}"
            )
        check_names(ns)
        main_globals.put.note(ns)
        values = {name: self._value(value) for name, value in ns.items()}
        pushed = dumps_pushed(values)
        info = self._info("push")
        if pushed.inputs is not None:
            return self._finish_with_inputs(
                block, pushed, lambda: dumps_pushed(values), EngineName("push"), info, targets
            )
        # As a call of a pickled function it brings cloudpickle along, which the engine may lack.
        if pushed.holds:
            function = function_of(EngineName("push"))
        else:
            function = Pickled(_furlong.Function.push())
        spec = self._call_of(function, pushed, info)
        return self._finish(block, self._submit, spec, targets)

    def _value(self, value: object) -> object:
        return (
            in_engine_namespace(value)
            if is_interactive(value) or self._is_plain_function(value)
            else value
        )

    def _is_plain_function(self, value: object) -> bool:
        return not self._cloudpickle and callable(value) and goes_by_value(value)

    def pull(
        self, names: str | Sequence[str], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Get variables, or any expressions: of one name its value, of several a list; from each engine."""
        one = isinstance(names, str)
        wanted: list[Any] = list(names) if isinstance(names, Iterable) and not one else [names]
        if not all(isinstance(name, str) for name in wanted):
            raise TypeError(
                f"what is pulled are names: a str, or a sequence of such, not {names!r}"
            )

        function = _furlong.Function.pull(wanted)
        decode = first_value if one else None
        spec = self._on_namespace(function, self._info("pull"), PICKLE, decode)
        return self._finish(block, self._submit, spec, targets)

    def get(self, key_s: str | Sequence[str]) -> Any:
        """Get variables, and wait for them."""
        return self.pull(key_s, block=True)

    def update(self, ns: Mapping[str, object]) -> Any:
        """Set variables."""
        return self.push(ns, block=self.block)

    def __getitem__(self, key: str | Sequence[str]) -> Any:
        return self.get(key)

    def __setitem__(self, key: str, value: object) -> None:
        self.push({key: value}, block=True)

    def keys(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Get the names that users have made."""
        spec = self._on_namespace(_furlong.Function.keys(), self._info("keys"))
        return self._finish(block, self._submit, spec, targets)

    def clear(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Empty the namespaces."""
        spec = self._on_namespace(_furlong.Function.clear(), self._info("clear"))
        return self._finish_without_value(block, self._submit, spec, targets)

    def late_output(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Get what threads have printed after the tasks that started them had ended, and forget it there.

        Such text is no task's output any longer. An engine keeps the last 64 Ki characters for whoever asks first, and
        its log has all of it.

        Returns
        -------
        list of tuple of str
            For each engine: the thread's name, ``stdout`` or ``stderr``, and the text, the oldest first.
        """
        function = function_of(EngineName("late_output"))
        arguments = dumps_call((), {})
        spec = self._call_of(function, arguments, self._info("late_output"))
        return self._finish(block, self._submit, spec, targets)

    # Sequences.

    def scatter(
        self,
        key: str,
        seq: Sequence[object],
        dist: str = "b",
        flatten: bool = False,
        targets: Targets = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Deal a sequence to engines, each part under that name.

        Parameters
        ----------
        key : str
            The name.
        seq : sequence
            A list, an array, anything with a length that can be sliced; or any iterable.
        dist : {"b", "r"}
            Contiguous blocks, the first engines get the longer ones; or one item each in turn.
        flatten : bool
            Give an engine whose part has one item the item itself: of a table the row.
        """
        from furlong.maps.sequences import deal, flattened

        engines = self._engines(targets)

        def begin() -> AsyncResult:
            parts = []
            for engine, part in zip(engines, deal(seq, len(engines), dist)):
                value = flattened(part) if flatten else part
                parts += self.push({key: value}, targets=[engine], block=False)._parts
            return AsyncResult(parts, self._is_single(targets))

        return self._finish_without_value(block, begin)

    def _finish_without_value(
        self, block: bool | None, begin: Callable[..., AsyncResult], *arguments: object
    ) -> AsyncResult | None:
        """Return the result, or wait for it and return nothing."""
        made = self._finish(block, begin, *arguments)
        return made if isinstance(made, AsyncResult) else None

    def gather(
        self, key: str, dist: str = "b", targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Collect what was scattered, or what became of it: one list, one array, one data frame.

        What is neither list, tuple, array nor data frame is not taken apart: the result is the list of parts.
        """
        from furlong.maps.map_results import AsyncMapResult
        from furlong.maps.sequences import collect

        def begin() -> AsyncResult:
            pulled = self.pull(key, targets=targets, block=False)
            return AsyncMapResult(
                pulled._parts, lambda parts: collect(parts, dist), len(pulled._parts)
            )

        return self._finish(block, begin)

    def map(
        self,
        f: Callable[..., Any],
        *sequences: Iterable[object],
        block: bool | None = None,
        track: bool | None = None,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        label: str | None = None,
        shared: Mapping[str, object] | None = None,
        progress: Bar = False,
        **flags: Any,
    ) -> Any:
        """Call a function with each item: one contiguous chunk for each engine.

        Parameters
        ----------
        f : callable
            The function.
        *sequences : iterable
            Its arguments; the shortest says how many calls there are.
        return_exceptions : bool
            Put exceptions in the place of values.
        shared : dict of str to object, optional
            Named arguments of all calls, which are sent once: handles of `Client.share`, results, or values.
        progress : bool or callable
            Show a bar: one of ours, or one that this makes, as `tqdm.tqdm` does.
        **flags
            Flags of the view, for this map.

        Returns
        -------
        AsyncMapResult, or the list of values if it blocks
            An array, if the items came as one and it holds the values as they are.
        """
        from furlong.maps.map_calls import map_direct

        if chunksize is not None:
            warnings.warn(
                "a direct map makes one chunk for each engine; `chunksize` is ignored",
                UserWarning,
                stacklevel=2,
            )
        begin = map_direct(self._with(flags), f, sequences, return_exceptions, label, shared)
        return self._finish(block, begin, progress=progress)

    # Imports.

    @contextlib.contextmanager
    def sync_imports(self, local: bool = True, quiet: bool = False) -> Iterator[None]:
        """Import within the ``with`` block here and on the engines.

        Raises
        ------
        NotImplementedError
            With `local` false: the statements run here in any case.
        """
        if not local:
            raise NotImplementedError(
                "imports in the block happen here as well; use `execute` for engines alone"
            )
        from furlong.views.imports import imports_on

        with imports_on(self, quiet):
            yield

    @property
    def importer(self) -> Any:
        """``with view.importer: import re`` imports here and on the engines."""
        return self.sync_imports()

    # Control.

    def send_signal(
        self, sig: int | str, targets: Targets = None, block: bool | None = None
    ) -> None:
        """Send a signal to what runs on these engines. See `Client.send_signal`."""
        self.client.send_signal(sig, self._engines(targets), block)

    def restart(self, targets: Targets = None) -> None:
        """Replace the interpreters of these engines by new ones."""
        self.client.restart(self._engines(targets))

    def shutdown(
        self,
        targets: Targets = None,
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> None:
        """Stop these engines."""
        self.client.shutdown(self._engines(targets), restart, hub, block)

    def queue_status(self, targets: Targets = None, verbose: bool = False) -> dict[int | str, Any]:
        """Return how much work these engines have."""
        one = self.targets if targets is None else targets
        return self.client.queue_status(
            one if isinstance(one, int) else self._engines(targets), verbose
        )

    # Names of ipyparallel.

    def use_cloudpickle(self) -> Any:
        """Send functions with the globals that they have here; so it is from the beginning."""
        super().use_cloudpickle()
        return self._nothing()

    use_dill = use_cloudpickle

    def use_pickle(self) -> Any:
        """Send functions without globals: their global names are those of the engine's namespace."""
        super().use_pickle()
        return self._nothing()

    def _nothing(self) -> object:
        """Return what a call gives that returns nothing, without asking engines."""
        made = AsyncResult((), isinstance(self.targets, int))
        made._final = None if made._single else [None] * len(self)
        return self._finish(None, lambda: made)

    def activate(self, suffix: str = "") -> None:
        """Let IPython's ``%px`` and the other magics act on this view. Outside of IPython it is a warning.

        Parameters
        ----------
        suffix : str
            Follows the magics' names, as in ``%px0``, so that several views have magics.
        """
        from furlong.notebook import activate

        activate(self, suffix)


class BroadcastView(DirectView):
    """A direct view under the name that ipyparallel has for one that sends things once: all views do here."""

    is_coalescing = False
