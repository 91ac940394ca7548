"""The magics ``%px``, ``%%px``, ``%autopx``, ``%pxresult`` and ``%pxconfig``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, no_var_expand

from furlong.notebook.everything import Everything
from furlong.notebook.options import (
    argument,
    execution_options,
    options_of,
    output_options,
    signal_of,
    targets_of,
    with_options,
)
from furlong.notebook.running import Run
from furlong.views.direct import DirectView

if TYPE_CHECKING:
    from furlong.results.async_result import AsyncResult

__all__ = ["PxMagics", "forget", "register", "registered"]

# Engines that a verbose line names one by one.
NAMED_MAX = 10
# The magics of each session, by their suffixes.
_KNOWN = "_furlong_magics"


def register(shell: Any, view: DirectView | None, suffix: str) -> None:
    """Register the magics with this suffix, in the place of earlier ones."""
    known = vars(shell).setdefault(_KNOWN, {})
    if suffix in known and known[suffix].take(view):
        return
    if suffix in known:
        known[suffix].stop_everything()
    known[suffix] = PxMagics(shell, view, suffix)
    shell.register_magics(known[suffix])


def registered(shell: Any, suffix: str) -> PxMagics | None:
    """Return the magics with this suffix, if there are any."""
    found: PxMagics | None = vars(shell).get(_KNOWN, {}).get(suffix)
    return found


def forget(shell: Any) -> None:
    """Forget all magics of this package again."""
    for each in vars(shell).pop(_KNOWN, {}).values():
        each.stop_everything()
        for kind, magics in each.magics.items():
            for name in magics:
                shell.magics_manager.magics[kind].pop(name, None)


class PxMagics(Magics):
    """The magics that act on one view.

    Parameters
    ----------
    shell : InteractiveShell
        The session of IPython.
    view : DirectView, optional
        The engines; if none is given, all of a client that the first use makes.
    suffix : str
        Follows the magics' names.
    """

    # So that `register_magics` takes an object that is made already.
    registered = True

    def __init__(self, shell: Any, view: DirectView | None, suffix: str = "") -> None:
        self._session: Any = shell
        self._view = view
        self.suffix = suffix
        self.is_verbose = False
        self.is_streamed = True
        self.progress_after = 2.0
        self.interrupt: int | str = "SIGINT"
        self.last_result: AsyncResult | None = None
        self._everything = Everything(shell, suffix, self.run_cell)
        self.magics = {
            "line": {
                f"px{suffix}": self.px,
                f"pxresult{suffix}": self.pxresult,
                f"pxconfig{suffix}": self.pxconfig,
                f"autopx{suffix}": self.autopx,
                **({} if suffix else {"result": self.pxresult}),
            },
            "cell": {f"px{suffix}": self.cell_px},
        }
        super().__init__(shell=shell)

    def take(self, view: DirectView | None) -> bool:
        """Take a view, if there is none yet; return whether that was so."""
        if self._view is None:
            self._view = view
            return True
        return False

    @property
    def is_usable(self) -> bool:
        """True if the client of the view is open."""
        return self._view is not None and not self._view.client._closed

    @property
    def view(self) -> DirectView:
        """The engines."""
        if self._view is None:
            from furlong import Client, errors

            try:
                # It is the first one, and registers magics of its own for all its engines.
                self._view = Client().direct_view(block=True)
            except errors.FurlongError as error:
                raise UsageError(f"%px needs a cluster: {error}") from None
        if self._view.client._closed:
            raise UsageError(
                f"the client of %px{self.suffix} is closed: make a new `furlong.Client()`, or "
                "call `activate` of another view"
            )
        return self._view

    # Running.

    @no_var_expand
    def px(self, line: str = "") -> AsyncResult | None:
        """Run a line on the engines.

        It waits if the view blocks, as it does after ``rc.activate()``. ``$name`` and ``{name}`` are those of the
        engines, and not replaced here.

        Examples
        --------
        ::

            In [1]: %px import os; print(os.getpid())
            [stdout:0] 2101
            [stdout:1] 2102
        """
        return self._run(line)

    @with_options
    @execution_options
    @output_options
    @argument(  # type: ignore[untyped-decorator]
        "--local", action="store_true", help="run the cell here as well, meanwhile"
    )
    def cell_px(self, line: str = "", cell: str = "") -> AsyncResult | None:
        """Run a cell on the engines.

        Examples
        --------
        ::

            In [1]: %%px --targets ::2 --noblock -o pids
               ...: import os
               ...: os.getpid()
            Out[1]: <AsyncResult(%px): pending>
        """
        args = options_of(self.cell_px, line)
        if not args.local:
            return self._run(cell, args)
        result = self._submit(cell, args)
        outcome = self._session.run_cell(cell)
        if not self._is_waiting(args):
            return result
        self._wait(result, args, isinstance(outcome.error_in_exec, KeyboardInterrupt))
        return None

    def run_cell(self, cell: str) -> AsyncResult | None:
        """Run a cell as the view and ``%pxconfig`` say."""
        return self._run(cell)

    def _run(self, cell: str, args: Any = None) -> AsyncResult | None:
        result = self._submit(cell, args)
        if not self._is_waiting(args):
            return result
        self._wait(result, args)
        return None

    def _submit(self, cell: str, args: Any = None) -> AsyncResult:
        view = self.view
        targets: Any = view.targets
        if args is not None and args.targets:
            targets = self._chosen(args.targets)
        if self._option(args, "verbose", self.is_verbose):
            kind = "Parallel" if self._is_waiting(args) else "Async parallel"
            print(f"{kind} execution on engine(s): {_named(targets)}")
        result = view._execute(cell, False, targets, False, name="%px")
        self.last_result = result
        if args is not None and args.name:
            self._session.user_ns[args.name] = result
        return result

    def _chosen(self, text: str) -> Any:
        client = self.view.client
        try:
            return client._chosen(targets_of(text, client.ids))
        except (IndexError, TypeError, ValueError) as error:
            raise UsageError(f"--targets {text}: {error}") from None

    def _wait(self, result: AsyncResult, args: Any, is_interrupted: bool = False) -> None:
        interrupt = self._option(args, "interrupt", None)
        run = Run(
            result,
            self._option(args, "stream", self.is_streamed),
            self._option(args, "groupby", "type"),
            self._option(args, "progress_after", self.progress_after),
            self.interrupt if interrupt is None else signal_of(interrupt),
        )
        run.wait(is_interrupted)

    def _is_waiting(self, args: Any) -> bool:
        return bool(self._option(args, "block", self.view.block))

    @staticmethod
    def _option(args: Any, name: str, default: Any) -> Any:
        value = None if args is None else getattr(args, name)
        return default if value is None else value

    # Results and settings.

    @with_options
    @output_options
    def pxresult(self, line: str = "") -> None:
        """Wait for what the last magic has run, and show it.

        Examples
        --------
        ::

            In [1]: %%px --noblock
               ...: 6 * 7
            In [2]: %pxresult
            Out[0:1]: 42
            Out[1:1]: 42
        """
        args = options_of(self.pxresult, line)
        if self.last_result is None:
            raise UsageError(f"%px{self.suffix} has run nothing yet whose result could be shown")
        if args.name:
            self._session.user_ns[args.name] = self.last_result
            return
        groupby = self._option(args, "groupby", "type")
        Run(self.last_result, False, groupby, self.progress_after, self.interrupt).wait()

    @with_options
    @execution_options
    def pxconfig(self, line: str = "") -> None:
        """Set what the other magics do if they are told nothing else; without an option, show it."""
        args = options_of(self.pxconfig, line)
        view = self.view
        if args.targets:
            view.targets = self._chosen(args.targets)
        if args.block is not None:
            view.block = args.block
        self.is_verbose = self._option(args, "verbose", self.is_verbose)
        self.is_streamed = self._option(args, "stream", self.is_streamed)
        self.progress_after = self._option(args, "progress_after", self.progress_after)
        if args.interrupt is not None:
            self.interrupt = signal_of(args.interrupt)
        if not line.strip():
            print(self.settings)

    @property
    def settings(self) -> str:
        """The defaults of the magics, as options."""
        words = [
            f"--targets {_named(self.view.targets)}",
            "--block" if self.view.block else "--noblock",
            "--stream" if self.is_streamed else "--no-stream",
            "--verbose" if self.is_verbose else "--no-verbose",
            f"--progress-after {self.progress_after:g}",
            f"--signal-on-interrupt {self.interrupt}",
        ]
        return " ".join(words)

    # Everything.

    def autopx(self, line: str = "") -> None:
        """Run each cell on the engines from now on, until this magic comes again.

        ``%pxresult`` and ``%pxconfig`` are still those of this session.
        """
        if self._everything.is_on:
            self.stop_everything()
        else:
            self._everything.start()
            print(f"%autopx{self.suffix} enabled")

    def stop_everything(self) -> None:
        """Run cells here again."""
        if self._everything.is_on:
            self._everything.stop()
            print(f"%autopx{self.suffix} disabled")


def _named(targets: Any) -> str:
    """Return engines as text: of many the first and the last."""
    if isinstance(targets, list) and len(targets) > NAMED_MAX:
        return f"{str(targets[:4])[:-1]}, ..., {str(targets[-4:])[1:]}"
    return str(targets)
