"""The loop that runs jobs, and its dealings with signals, threads and forks."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # getsignal without its costly enum
import _thread
import ast
import atexit
import builtins
import contextlib
import importlib
import importlib.util
import linecache
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
import types
from typing import Any, Callable, NoReturn, Sequence

import furlong_worker
from furlong_worker import Buffer, engine, maps, modules
from furlong_worker.calls import STEPS, apply, encode, encode_published
from furlong_worker.cells import Cells
from furlong_worker.channel import (
    CANCELLED,
    CLEAR,
    DISPLAYED,
    DRAIN,
    EXECUTE,
    EXECUTED,
    KEYS,
    NAMED,
    NO_TIMES,
    PAGE_BYTES,
    PICKLE,
    PICKLED,
    PULL,
    PUSH,
    RAISED,
    RETURNED,
    RUN,
    SOURCE,
    U32_MAX,
    UNFIT,
    Channel,
    Job,
)
from furlong_worker.errors import Loss, describe, fingerprint
from furlong_worker.exceptions import details
from furlong_worker.farm import Farm, Refused
from furlong_worker.farm import bind as bind_farm
from furlong_worker.files import Files
from furlong_worker.frames import DEBUG, FRAMES
from furlong_worker.fresh import Helpers, forget_half_imported
from furlong_worker.given import GIVEN
from furlong_worker.leaving import end_threads, flush_files
from furlong_worker.looks import Looks
from furlong_worker.namespace import Namespace
from furlong_worker.output import MAIN_THREAD, Output, far_copy
from furlong_worker.pickles import PickledFunction
from furlong_worker.rich import Rich
from furlong_worker.scopes import bound_names
from furlong_worker.settings import LABELS
from furlong_worker.sources import LoadedSource

# Executed cells whose lines later tracebacks can still show.
CELLS_MAX = 1000
ONLY_PARSE: int = ast.PyCF_ONLY_AST
# A job that has put a file in the place of an output pipe, or has blocked a signal, has taken
# longer.
LONG_ENOUGH_NS = 50_000
INTERRUPT = (signal.SIGINT,)
# The variable by which the engine says what became of the interpreter before this one.
LOST = "FURLONG_LOST"


class Worker:
    """Runs jobs one after another in the main thread.

    `attempt` is the job that runs, from before its code to after its output was settled. `armed` is
    the same while user code runs, the only time at which the signal handler may raise.
    """

    def __init__(self, channel: Channel, asks: socket.socket) -> None:
        self.channel = channel
        self._farm = bind_farm(Farm(asks, self._running_here))
        furlong_worker.running_attempt = lambda: self.attempt  # type: ignore[attr-defined]
        self.attempt: int | None = None
        self.armed: int | None = None
        self.interrupted: int | None = None
        self.forked = False
        self._poked = False
        self._in_handler = False
        self._is_loading = False
        self._executions = 0
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._names = Namespace()
        self._namespace = self._names.variables
        self._globals = self._names.globals
        self._of_caller = self._names.of_caller()
        furlong_worker.of_caller = self._of_caller.__getitem__  # type: ignore[attr-defined]
        self._names.seed("publish", self.publish)
        furlong_worker.publish = self.publish  # type: ignore[attr-defined]
        self._names.seed("labels", list(LABELS))
        self._engine = engine.bind(self._names, LABELS)
        self._rich = Rich(self._names, self.is_late_thread)
        self._displays = self._rich.displays
        self._helpers = Helpers()
        self._cells = Cells(self._namespace, self._show_value)
        self._handler = self._handle_interrupt
        self.output = Output(self.is_late_thread, channel.send_stray)
        furlong_worker.late_output = self.output.late.take  # type: ignore[attr-defined]
        self._calls: dict[int, Callable[..., list[Buffer]]] = {
            EXECUTE: self._execute,
            NAMED: self._call_named,
            SOURCE: self._call_source,
            PICKLED: self._call_pickled,
            RUN: self._run_script,
            PUSH: self._push,
            PULL: self._pull,
            KEYS: lambda codec, *_: encode(self._names.keys(), codec),
            CLEAR: self._clear,
            UNFIT: self._refuse,
        }
        maps.bind(
            channel.page_words,
            self._is_interrupted,
            lambda: (self.output.out, self.output.err, self._displays),
        )
        signal.signal(signal.SIGINT, self._handler)
        self.looks = Looks(self, channel.send_seen)
        channel.look = self.looks.answer
        channel.make_room = FRAMES.make_room
        os.register_at_fork(after_in_child=self._after_fork)
        self._follow_threads()
        Loss.text = os.environ.pop(LOST, "")

    def serve(self) -> None:
        """Run jobs until the engine says that it is enough, or closes the socket."""
        channel = self.channel
        jobs = channel.jobs
        while True:
            while jobs:
                self._run(jobs.popleft())
                if channel.questions:
                    channel.answer_questions(None)
            channel.flush()
            channel.cancelled.clear()  # whatever it names has ended
            channel.interrupted.clear()
            if channel.ending:
                return
            if FRAMES.kept is not None:
                left = FRAMES.seconds_left()
                if left <= 0 or not channel.wait(left):
                    FRAMES.release("nobody has looked at them for 10 minutes")
            channel.receive()
            if channel.questions:
                channel.answer_questions(None)

    def _run(self, job: Job) -> None:
        kind, codec, attempt, buffers, source, self._globals.session, inputs = job
        channel = self.channel
        if channel.engine_id is not None:
            self._names.seed("engine_id", channel.engine_id)
            self._engine.id = channel.engine_id
            channel.engine_id = None
        if attempt in channel.cancelled:
            channel.reply(attempt, CANCELLED, 0, NO_TIMES, 0, [])
            return
        channel.page_words[0] = attempt
        if FRAMES.kept is not None or FRAMES.is_debugging:
            FRAMES.begin(kind == NAMED and buffers[0] == DEBUG)
        GIVEN.inputs = inputs
        count = 0
        is_execution = kind in (EXECUTE, RUN)
        if is_execution:
            self._executions = count = self._executions + 1
        parts: Sequence[Buffer] = ()
        error: BaseException | None = None
        self.attempt = attempt
        STEPS.loaded = STEPS.returned = 0
        begun = time.monotonic_ns()
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
        ended = time.monotonic_ns()
        if self.forked:
            _leave_fork(error)
        if _signal.getsignal(signal.SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)
        is_long = ended - begun > LONG_ENOUGH_NS or is_execution
        if is_long:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
        loaded = STEPS.loaded or begun
        if error is None:
            returned = STEPS.returned or ended
            last = (ended - returned) // 1000
            end = EXECUTED if is_execution else RETURNED
        else:
            returned = ended
            with_pickles = codec == PICKLE and not is_execution
            end, parts, last = self._raised(error, attempt, with_pickles)
            error = None
        if self._displays.shown:
            end, parts = self._with_displays(end, parts)
        GIVEN.inputs = ()
        drain = self.output.settle(is_long)
        self.attempt = None
        load_us = (loaded - begun) // 1000
        if load_us > U32_MAX or last > U32_MAX:
            load_us, last = min(load_us, U32_MAX), min(last, U32_MAX)
        times = begun, (returned - loaded) // 1000, load_us, last
        channel.reply(attempt, end, DRAIN if drain else 0, times, count, parts)
        if drain:
            channel.drained = False
            while not channel.drained and not channel.ending:
                channel.receive()

    def _with_displays(self, end: int, parts: Sequence[Buffer]) -> tuple[int, Sequence[Buffer]]:
        """Return the end of a job and its buffers, with what it has displayed."""
        displays = self._displays.take()
        if end == EXECUTED:
            return end, [parts[0] if parts else b"", displays]
        if end == RETURNED:
            return DISPLAYED, [displays, *parts]
        return end, parts

    def _raised(
        self, error: BaseException, attempt: int, with_pickles: bool
    ) -> tuple[int, Sequence[Buffer], int]:
        """Return the end of a job that raised, what is told of its error, and the error's fingerprint."""
        end = CANCELLED if self.interrupted == attempt else RAISED
        if isinstance(error, KeyboardInterrupt):
            forget_half_imported()
        if type(error) is maps.ItemsFailed:
            return end, error.parts, fingerprint(error.args[0])
        parts = describe(error)
        if end == CANCELLED:
            return end, parts, 0
        told = details(error, with_pickles, FRAMES.keep(error))
        return end, [*parts, *told], fingerprint(error)

    # What a job may ask for.

    def _execute(self, _codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        source = bytes(buffers[0]).decode("utf-8")
        file = f"<furlong {self._executions}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        linecache.cache.pop(f"<furlong {self._executions - CELLS_MAX}>", None)
        return self._run_code(source, file)

    def _run_script(self, _codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        file, source = bytes(buffers[0]).decode("utf-8"), bytes(buffers[1])
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):  # `compile` says it better
            text = importlib.util.decode_source(source)
            linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        self._forget_edited()
        self._namespace["__file__"] = file
        try:
            return self._run_code(source, file)
        finally:
            self._namespace.pop("__file__", None)
            self._helpers.note()

    def _run_code(self, source: str | bytes, file: str) -> list[Buffer]:
        """Run a cell, or the bytes of a script, and give the text of a cell's last expression.

        To exit with 0 is to succeed, as it is for a program.
        """
        self._forget_names()  # the code may reload a module or define a name anew
        tree = self._parse(source, file)
        self._globals.enter()
        names = set(bound_names(tree.body)) if self._globals.is_shared else ()
        self._rich.announce("pre_execute")
        try:
            text = (
                self._cells.run(tree, file, source)
                if isinstance(source, str)
                else self._cells.run_script(tree, file)
            )
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
            text = None
        finally:
            self._rich.announce("post_execute")
            self.channel.functions.lend_anew()
        self._globals.claim(names)
        return [] if text is None else [text.encode("utf-8", "backslashreplace")]

    def _show_value(self, value: Any) -> str | None:
        self._names.seed("_", value)
        return self._rich.show_value(value)

    def _parse(self, source: str | bytes, file: str) -> ast.Module:
        tree: ast.Module
        try:
            tree = compile(source, file, "exec", ONLY_PARSE, dont_inherit=True)
        except SyntaxError:
            text = source if isinstance(source, str) else importlib.util.decode_source(source)
            transformed = self._rich.transform(text)
            if transformed is None:
                raise
        else:
            return tree
        tree = compile(transformed, file, "exec", ONLY_PARSE, dont_inherit=True)
        return tree  # noqa: RET504 - it has a type here

    def _push(self, codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        self._forget_names()  # it may set a module's attribute
        return apply(self._names.push, codec, buffers)

    def _pull(self, codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        return encode(self._names.pull([bytes(name).decode("utf-8") for name in buffers]), codec)

    def _clear(self, codec: int, *_: object) -> list[Buffer]:
        self._forget_names()
        self._names.clear()
        self.channel.functions.lend_anew()
        return encode(None, codec)

    def _refuse(self, _codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        size = int(bytes(buffers[0]))
        raise MemoryError(f"the arguments have {size} bytes, more than this interpreter can take")

    def _call_named(self, codec: int, buffers: Sequence[Buffer], _source: None) -> list[Buffer]:
        name = bytes(buffers[0])
        if name == DEBUG:  # the names stay those of the session whose frames they are
            return apply(FRAMES.debug, codec, buffers[1:])
        self._globals.enter()
        function = self._functions.get(name) or self._find(name)
        return apply(function, codec, buffers[1:])

    def _find(self, name: bytes) -> Callable[..., Any]:
        module_name, colon, path = name.decode("utf-8").partition(":")
        if not colon:
            for scope in (self._namespace, self._of_caller, vars(builtins)):
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
        if module_name == "builtins":
            value = self._of_caller.get(path, value)
        function: Callable[..., Any] = value
        self._functions[name] = function
        return function

    def _call_source(
        self, codec: int, buffers: Sequence[Buffer], source: LoadedSource
    ) -> list[Buffer]:
        self._forget_edited()
        function = source.function(bytes(buffers[3]).decode("utf-8"))
        try:
            return apply(function, codec, buffers[4:])
        finally:
            self._helpers.note()

    def _call_pickled(
        self, codec: int, buffers: Sequence[Buffer], pickled: PickledFunction
    ) -> list[Buffer]:
        if pickled.equipment is not None:
            modules.use(pickled.equipment)
        function = pickled.value
        if function is None:
            function = self._load(pickled)
        if pickled.lent:
            pickled.lend()
        record = pickled.record
        if record is None:
            return apply(function, codec, buffers[1:])
        self._globals.serve(record)
        parts = apply(function, codec, buffers[1:])
        if record.stores:
            self._globals.claim(record.stores)
        return parts

    def _load(self, pickled: PickledFunction) -> Callable[..., Any]:
        """Load a function. An interrupt waits meanwhile: in the middle of an import it would leave half a module."""
        self._is_loading = True
        try:
            function = self.channel.functions.load(pickled)
        finally:
            self._is_loading = False
        if self._poked:
            self._handle_interrupt(signal.SIGINT, None)
        return function

    def _forget_edited(self) -> None:
        if self._helpers.forget_edited():
            self.channel.sources.forget_loaded()

    def _forget_names(self) -> None:
        self._functions.clear()
        self.channel.functions.forget_named()

    # Signals, threads, forks.

    def _handle_interrupt(self, _number: int, _frame: types.FrameType | None) -> None:
        self._poked = True
        if self.armed is None or self._in_handler or self._is_loading or self.forked:
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
        elif self.armed in channel.interrupted:
            channel.interrupted.discard(self.armed)
            raise KeyboardInterrupt
        elif channel.ending:
            raise KeyboardInterrupt("the interpreter is ending")

    def _is_interrupted(self) -> bool:
        """Return whether the job that runs was interrupted because it is cancelled."""
        return self.interrupted is not None and self.interrupted == self.attempt

    def publish(self, value: Any) -> None:
        """Send a value to the client while the task runs.

        The client sees the latest one: a value replaces those before it that have not been sent yet.

        Parameters
        ----------
        value : object
            Anything that json or pickle can carry, up to 16 MiB.

        Raises
        ------
        RuntimeError
            If no task runs here: the task that started this thread has ended, or this is a forked process.
        ValueError
            If the value is too large.
        """
        attempt = None if self.forked else self._attempt_here()
        if attempt is None or attempt != self.attempt:
            raise RuntimeError("publish() is for running tasks, in the task's own process")
        codec, buffers = encode_published(value)
        if _thread.get_ident() != MAIN_THREAD:
            self.channel.send_published(attempt, codec, buffers)
            return
        if self._in_handler:
            raise RuntimeError("publish() cannot be called while it is at work")
        # An interrupt in the middle would leave half a frame, and its handler would wait for our
        # lock.
        self._in_handler = True
        try:
            self.channel.send_published(attempt, codec, buffers)
        finally:
            self._in_handler = False
        if self._poked:
            self._handle_interrupt(signal.SIGINT, None)

    def _follow_threads(self) -> None:
        """Remember in which job each thread was started."""
        start = threading.Thread.start

        def start_in_job(thread: threading.Thread) -> None:
            thread._furlong_attempt = self._attempt_here()  # type: ignore[attr-defined]
            start(thread)

        start_in_job.__doc__ = start.__doc__
        start_in_job.__name__ = start.__name__
        threading.Thread.start = start_in_job  # type: ignore[method-assign,assignment]

    def session(self) -> int:
        """Return the number of the session of the job that runs."""
        return self._globals.session

    def _attempt_here(self) -> int | None:
        if _thread.get_ident() == MAIN_THREAD:
            return self.attempt
        return getattr(threading.current_thread(), "_furlong_attempt", None)

    def _running_here(self) -> int:
        """Return the attempt that runs, to a thread of it."""
        attempt = None if self.forked else self._attempt_here()
        if attempt is None or attempt != self.attempt:
            raise Refused(
                "no task runs here: the one that started this thread has ended, or this is a forked process; a client "
                "that is to be opened here needs a capability file"
            )
        return attempt

    def is_late_thread(self) -> bool:
        """Return whether the calling thread's job has ended."""
        if self.forked:
            return False
        birth = self._attempt_here()
        return birth is None or birth != self.attempt

    def _after_fork(self) -> None:
        self.forked = True
        self.channel.leave()
        self._farm.leave()


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


def _receive_files(
    requests: socket.socket,
) -> tuple[socket.socket, int, mmap.mmap, socket.socket, Files]:
    """Take what belongs to this process: its sockets, and the memory that the engine reads when it has died.

    The sockets are for replies, for what it asks, and for memory files.
    """
    _, messages, _, _ = requests.recvmsg(1, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC)
    replies, memory, asks, files = struct.unpack("iiii", messages[0][2][:16])
    page = mmap.mmap(memory, PAGE_BYTES)
    return (
        socket.socket(fileno=_out_of_the_way(replies)),
        memory,
        page,
        socket.socket(fileno=_out_of_the_way(asks)),
        Files(socket.socket(fileno=_out_of_the_way(files))),
    )


def _out_of_the_way(fd: int) -> int:
    """Move a file to a number that code which closes or replaces the first ones does not reach."""
    far = far_copy(fd)
    os.close(fd)
    return far


def main() -> None:
    """Take the socket for requests over from file descriptor 0, and serve."""
    requests = socket.socket(fileno=_out_of_the_way(0))
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # it is the new 0
    sys.argv = [""]
    sys.path.insert(0, "")  # the working directory, as in an interactive Python
    modules.install()
    replies, memory, page, asks, files = _receive_files(requests)
    channel = Channel(requests, replies, page, files)
    worker = Worker(channel, asks)
    worker.looks.arm(memory, PAGE_BYTES)
    os.close(memory)
    atexit.register(flush_files)  # before all others, so that it is called after them
    channel.send_ready()
    worker.serve()
    end_threads()
