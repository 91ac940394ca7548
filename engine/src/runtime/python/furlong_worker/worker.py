"""The loop that runs jobs, and its dealings with signals, threads and forks."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # getsignal without its costly enum
import _thread
import ast
import builtins
import fcntl
import importlib
import linecache
import os
import signal
import socket
import sys
import threading
import time
import types
from typing import Any, Callable, NoReturn, Sequence

from furlong_worker import Buffer
from furlong_worker.calls import apply
from furlong_worker.channel import (
    CANCELLED,
    DRAIN,
    EXECUTE,
    EXECUTED,
    NAMED,
    RAISED,
    RETURNED,
    SOURCE,
    Channel,
    Job,
)
from furlong_worker.errors import describe
from furlong_worker.output import MAIN_THREAD, Output
from furlong_worker.sources import LoadedSource

# Executed cells whose lines later tracebacks can still show.
CELLS_MAX = 1000
ONLY_PARSE: int = ast.PyCF_ONLY_AST
# A job that has put a file in the place of an output pipe has taken longer.
LONG_ENOUGH_TO_REDIRECT_US = 50
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


class Worker:
    """Runs jobs one after another in the main thread.

    `attempt` is the job that runs, from before its code to after its output was settled. `armed` is
    the same while user code runs, the only time at which the signal handler may raise.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.attempt: int | None = None
        self.armed: int | None = None
        self.interrupted: int | None = None
        self.forked = False
        self._poked = False
        self._in_handler = False
        self._executions = 0
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._namespace = _new_main_module()
        self._handler = self._handle_interrupt
        self.output = Output(self.is_late_thread, channel.send_stray)
        self._calls: dict[int, Callable[..., list[Buffer]]] = {
            EXECUTE: self._execute,
            NAMED: self._call_named,
            SOURCE: self._call_source,
        }
        signal.signal(signal.SIGINT, self._handler)
        os.register_at_fork(after_in_child=self._after_fork)
        self._follow_threads()

    def serve(self) -> NoReturn:
        """Run jobs until the engine closes the socket."""
        channel = self.channel
        jobs = channel.jobs
        while True:
            while jobs:
                self._run(jobs.popleft())
                if channel.questions:
                    channel.answer_questions(None)
            channel.flush()
            channel.cancelled.clear()  # whatever it names has ended
            channel.receive()
            if channel.questions:
                channel.answer_questions(None)

    def _run(self, job: Job) -> None:
        kind, codec, attempt, buffers, source = job
        channel = self.channel
        if channel.engine_id is not None:
            self._namespace["engine_id"], channel.engine_id = channel.engine_id, None
        if attempt in channel.cancelled:
            channel.reply(attempt, CANCELLED, 0, 0, 0, [])
            return
        count = 0
        if kind == EXECUTE:
            self._executions = count = self._executions + 1
        parts: Sequence[Buffer] = ()
        error: BaseException | None = None
        self.attempt = attempt
        begun = time.perf_counter_ns()
        try:
            try:
                self.armed = attempt
                if self._poked:
                    self._poked = False
                    self._handle_interrupt(signal.SIGINT, None)
                parts = self._calls[kind](codec, buffers, source)
                self.armed = None
            except BaseException as raised:
                self.armed = None
                error = raised
        except KeyboardInterrupt as raised:
            # It came within the few instructions around the lines above.
            self.armed = None
            error = raised
        run_us = (time.perf_counter_ns() - begun) // 1000
        if self.forked:
            _leave_fork(error)
        if _signal.getsignal(signal.SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)
        if error is None:
            end = EXECUTED if kind == EXECUTE else RETURNED
        else:
            end = CANCELLED if self.interrupted == attempt else RAISED
            parts = describe(error)
            error = None
        drain = self.output.settle(run_us > LONG_ENOUGH_TO_REDIRECT_US or kind == EXECUTE)
        self.attempt = None
        channel.reply(attempt, end, DRAIN if drain else 0, run_us, count, parts)
        if drain:
            channel.drained = False
            while not channel.drained:
                channel.receive()

    # What a job may ask for.

    def _execute(self, _codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        source = bytes(buffers[0]).decode("utf-8")
        file = f"<furlong {self._executions}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        linecache.cache.pop(f"<furlong {self._executions - CELLS_MAX}>", None)
        self._functions.clear()  # the code may reload a module or define a name anew
        tree: ast.Module = compile(source, file, "exec", ONLY_PARSE, dont_inherit=True)
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, ast.Expr):
            exec(compile(tree, file, "exec", dont_inherit=True), self._namespace)
            return []
        del tree.body[-1]
        expression = compile(ast.Expression(last.value), file, "eval", dont_inherit=True)
        exec(compile(tree, file, "exec", dont_inherit=True), self._namespace)
        value = eval(expression, self._namespace)
        if value is None:
            return []
        self._namespace["_"] = value
        return [repr(value).encode("utf-8", "backslashreplace")]

    def _call_named(self, codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        name = bytes(buffers[0])
        function = self._functions.get(name) or self._find(name)
        return apply(function, codec, buffers[1:])

    def _find(self, name: bytes) -> Callable[..., Any]:
        module_name, colon, path = name.decode("utf-8").partition(":")
        if not colon:
            for scope in (self._namespace, vars(builtins)):
                if module_name in scope:
                    found: Callable[..., Any] = scope[module_name]
                    return found
            raise NameError(
                f"{module_name!r} is neither in the engine's namespace nor a builtin; write module:function"
            )
        value: Any = importlib.import_module(module_name)
        for part in path.split("."):
            try:
                value = getattr(value, part)
            except AttributeError:
                raise AttributeError(f"module {module_name!r} has no {path!r}") from None
        function: Callable[..., Any] = value
        self._functions[name] = function
        return function

    def _call_source(self, codec: int, buffers: Sequence[Buffer], source: LoadedSource) -> list[Buffer]:
        function = source.function(bytes(buffers[3]).decode("utf-8"))
        return apply(function, codec, buffers[4:])

    # Signals, threads, forks.

    def _handle_interrupt(self, _number: int, _frame: types.FrameType | None) -> None:
        self._poked = True
        if self.armed is None or self._in_handler or self.forked:
            return
        channel = self.channel
        self._in_handler = True
        try:
            while self._poked:
                self._poked = False
                channel.receive_ready()
                if channel.questions:
                    channel.answer_questions(self.armed)
        finally:
            self._in_handler = False
        if self._poked:  # another signal came after the loop
            self._handle_interrupt(_number, _frame)
        elif self.armed in channel.cancelled:
            channel.cancelled.discard(self.armed)
            self.interrupted = self.armed
            raise KeyboardInterrupt("cancelled")

    def _follow_threads(self) -> None:
        """Remember in which job each thread was started."""
        start = threading.Thread.start

        def start_in_job(thread: threading.Thread) -> None:
            thread._furlong_attempt = self._attempt_here()  # type: ignore[attr-defined]
            start(thread)

        start_in_job.__doc__ = start.__doc__
        start_in_job.__name__ = start.__name__
        threading.Thread.start = start_in_job  # type: ignore[method-assign,assignment]

    def _attempt_here(self) -> int | None:
        if _thread.get_ident() == MAIN_THREAD:
            return self.attempt
        return getattr(threading.current_thread(), "_furlong_attempt", None)

    def is_late_thread(self) -> bool:
        """Whether the calling thread's job has ended."""
        if self.forked:
            return False
        birth = self._attempt_here()
        return birth is None or birth != self.attempt

    def _after_fork(self) -> None:
        self.forked = True
        self.channel.sock.close()


def _new_main_module() -> dict[str, Any]:
    """Make the lasting namespace: the module `__main__`, as which its classes can be pickled."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    module.__dict__["engine_id"] = None
    ranks = (os.environ.get(variable, "") for variable in RANK_VARIABLES)
    module.__dict__["rank"] = next((int(rank) for rank in ranks if rank.isdecimal()), None)
    sys.modules["__main__"] = module
    return module.__dict__


def _leave_fork(error: BaseException | None) -> NoReturn:
    """End a process that the job forked and that came back from the job's code.

    It must not answer for its parent.
    """
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
        sys.stderr.write(bytes(describe(error)[2]).decode("utf-8"))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main() -> NoReturn:
    """Take the socket over from file descriptor 0, and serve."""
    sock = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 100))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.argv = [""]
    sys.path.insert(0, "")  # the working directory, as in an interactive Python
    channel = Channel(sock)
    worker = Worker(channel)
    channel.send_ready()
    worker.serve()
