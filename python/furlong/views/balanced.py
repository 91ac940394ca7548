"""The shared queue of all engines as a view."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.calls.targets import Targets
from furlong.calls.task_spec import TaskSpec
from furlong.pickling.arguments import Pickle, dumps_call, input_ids
from furlong.pickling.functions import call_of, is_conditional, name_of
from furlong.pickling.inputs import Pins
from furlong.results.async_result import AsyncResult
from furlong.results.subtasks import BalancedSubTask
from furlong.views.view import View

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from furlong.client.client import Client
    from furlong.views.flags import NewViewFlags
    from furlong.waiting.progress import Bar

__all__ = ["LoadBalancedView"]


class LoadBalancedView(View):
    """The shared queue: each task runs wherever an engine is free.

    Made by ``rc.load_balanced_view()``.
    """

    targets: list[int] | None

    def __init__(
        self, client: Client, targets: list[int] | None = None, **flags: Unpack[NewViewFlags]
    ) -> None:
        super().__init__(client, **flags)
        self.targets = targets

    def _checked(self, name: str, value: object) -> object:
        value = super()._checked(name, value)
        if name != "targets":
            return value
        if isinstance(value, int):
            return [value]
        return None if value == "all" else value

    def __len__(self) -> int:
        return len(self.client.ids if self.targets is None else self.targets)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.targets}>"

    def _submit(self, spec: TaskSpec) -> AsyncResult:
        """Submit one task."""
        task = spec.submit(None if spec.targets is None else self._next_engine())
        self._submitted.add(task.number)
        result = AsyncResult((BalancedSubTask(task, spec),), True)
        self.client._note(result)
        return result

    def queue_status(self, targets: Targets = None, verbose: bool = False) -> dict[int | str, Any]:
        """Return how much work engines have. See `Client.queue_status`."""
        return self.client.queue_status(self._own_targets(targets), verbose)

    def shutdown(
        self,
        targets: Targets = None,
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> None:
        """Stop the engines of this view, or these. See `Client.shutdown`."""
        self.client.shutdown(self._own_targets(targets), restart, hub, block)

    def _own_targets(self, targets: Targets) -> Targets:
        chosen = self.targets if targets is None else targets
        return "all" if chosen is None else chosen

    def _next_engine(self) -> int:
        """Choose one of the view's engines: in turn."""
        online = set(self.client.ids)
        engines = [engine for engine in self.targets or () if engine in online]
        if not engines:
            if not self.targets:
                raise errors.no_engines(self.client.ids)
            raise errors.NoEnginesRegistered(f"none of the engines {self.targets} is online")
        turn = getattr(self, "_turn", 0)
        object.__setattr__(self, "_turn", turn + 1)
        return engines[turn % len(engines)]

    def _apply(
        self, f: object, args: Sequence[object], kwargs: Mapping[str, object], block: bool
    ) -> object:
        arguments = dumps_call(args, kwargs)
        if arguments.inputs is None:
            return self._finish(block, self._submit, self._spec_of(f, arguments))
        pickle = functools.partial(dumps_call, args, kwargs)
        return self._finish(
            block,
            self.client._causes.submit,
            arguments,
            pickle,
            lambda arguments: self._submit(self._spec_of(f, arguments, pickle)),
        )

    def _apply_pickled(self, f: object, pickle: Callable[[], Pickle]) -> AsyncResult:
        """Call a function with arguments that are pickled here, once more where one of them has come meanwhile."""
        return self.client._causes.submit(
            pickle(), pickle, lambda arguments: self._submit(self._spec_of(f, arguments, pickle))
        )

    def _spec_of(
        self,
        f: object,
        arguments: Pickle,
        pickle: Callable[[], Pickle] | None = None,
        pins: Pins | None = None,
    ) -> TaskSpec:
        options, session = self._task_options(), self.client._session
        call = call_of(self._prepared(f), arguments, options, session)
        info, may_move = self._info(name_of(f)), is_conditional(f)
        again = None
        if may_move and pickle is not None:  # the arguments are kept only then
            pins = pins or Pins()
            pins.add(() if arguments.inputs is None else arguments.inputs.owners)
            again = functools.partial(self._spec_again, f, pickle, pins)
        inputs = input_ids(arguments) if arguments.inputs is not None else ()
        return TaskSpec(call, info, None, self.targets, inputs, again, may_move)

    def _spec_again(self, f: object, pickle: Callable[[], Pickle], pins: Pins) -> TaskSpec:
        with pins.in_use():
            return self._spec_of(f, pickle(), pickle, pins)

    def map(
        self,
        f: Callable[..., Any],
        *sequences: Iterable[object],
        block: bool | None = None,
        track: bool | None = None,
        chunksize: int | str | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str | None = None,
        shared: Mapping[str, object] | None = None,
        progress: Bar = False,
        **flags: Any,
    ) -> Any:
        """Call a function with each item, wherever an engine is free.

        Parameters
        ----------
        f : callable
            The function.
        *sequences : iterable
            Its arguments; the shortest says how many calls there are.
        chunksize : int, optional
            Items in a task. By default the measured time of the first tasks chooses it.
        ordered : bool
            Whether iterating the result gives the items' order, or the order of their ends.
        return_exceptions : bool
            Put exceptions in the place of values.
        shared : dict of str to object, optional
            Named arguments of all calls, which are sent once: handles of `Client.share`, results, or values.
        progress : bool or callable
            Show a bar: one of ours, or one that this makes, as `tqdm.tqdm` does.

        Returns
        -------
        AsyncMapResult, or the list of values if it blocks
        """
        from furlong.maps.map_calls import map_balanced

        is_waiting = bool(self.block if block is None else block)
        view = self._with(flags)
        begin = map_balanced(
            view, f, sequences, chunksize, ordered, return_exceptions, label, shared, is_waiting
        )
        return self._finish(block, begin, progress=progress)

    def reduce(
        self,
        f: Callable[[Any, Any], Any],
        results: Iterable[object],
        *,
        fan_in: int = 2,
        block: bool | None = None,
        **flags: Any,
    ) -> Any:
        """Combine results to one on the engines, as a tree: none of their values comes here.

        Parameters
        ----------
        f : callable
            Combines two values, like that of `functools.reduce`. It must be associative; the order of the values is
            kept.
        results : iterable
            Results, the result of a map, or values. With the flag ``stay`` they are at the cluster alone.
        fan_in : int
            How many values a task combines. Two are best for large values; more cost fewer tasks.

        Returns
        -------
        AsyncResult, or the value if it blocks

        Raises
        ------
        TypeError
            If there is nothing to combine, or nothing to combine it with.
        """
        from furlong.maps.reductions import reduce_results

        view = self._with(flags)
        return self._finish(block, lambda: reduce_results(view, f, results, fan_in))
