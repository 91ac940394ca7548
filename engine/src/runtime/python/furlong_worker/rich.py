"""IPython's additions where it can be imported: magics and rich displays. It is loaded when it is first needed."""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import types
from typing import Any, Callable

from furlong_worker.errors import type_name
from furlong_worker.namespace import Namespace

# Lines that are no Python, and mean something to IPython.
MAGIC = re.compile(r"^[ \t]*(?:[%!?]|[\w.,\[\] \t]+=[ \t]*[%!])|\?[ \t]*$", re.MULTILINE)
# How an object says that it can be shown as more than text.
METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_pdf_": "application/pdf",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
}
# Functions of IPython that want a shell, by their modules.
FOR_A_SHELL = {
    "IPython.core.display_functions": ("display", "clear_output"),
    "IPython.core.getipython": ("get_ipython",),
}
ALL_METHODS = (*METHODS, "_repr_mimebundle_", "_ipython_display_")
DISPLAYS_BYTES_MAX = 16 * 1024 * 1024


class Displays:
    """The displays of the running job, up to a bound."""

    def __init__(self, is_late: Callable[[], bool]) -> None:
        self._is_late = is_late
        # Whether each is the value, its texts, and what is said about it: empty for nearly every
        # job.
        self.shown: list[tuple[bool, dict[str, str], dict[str, str]]] = []
        self._bytes = 0
        # Where those are that can be updated.
        self._ids: dict[str, int] = {}
        self._is_cleared_next = False
        # Is told of each display, while a map runs.
        self.note: Callable[[int], None] | None = None

    def show(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        is_value: bool = False,
        display_id: str | None = None,
        is_update: bool = False,
    ) -> None:
        """Take a display; of a thread whose job has ended only the text is shown.

        An update takes the place of the display of that id, if this job has shown it.
        """
        texts = {mime: _as_text(mime, value) for mime, value in data.items() if value is not None}
        about = {
            str(key): json.dumps(value, default=str)
            for key, value in (metadata or {}).items()
            if value
        }
        if self._is_late():
            print(texts.get("text/plain", ""))
            return
        if self._is_cleared_next:
            self.clear()
        at = self._ids.get(display_id or "") if is_update else None
        size = _size(texts, about)
        earlier = 0 if at is None else _size(*self.shown[at][1:])
        if self._bytes + size - earlier > DISPLAYS_BYTES_MAX:
            print(
                f"a display of {size} bytes is left out: one task has 16 MiB of them",
                file=sys.stderr,
            )
            return
        self._bytes += size - earlier
        if at is not None:
            self.shown[at] = (self.shown[at][0], texts, about)
            return
        if display_id is not None:
            self._ids[display_id] = len(self.shown)
        if self.note is not None:
            self.note(1)
        self.shown.append((is_value, texts, about))

    def clear(self, wait: bool = False) -> None:
        """Take back what the job has shown, or do so when it shows more. What it has printed stays."""
        # Those of a map belong to its items, and are counted already.
        if self.note is None:
            self._is_cleared_next = wait
            if not wait:
                self.shown, self._bytes = [], 0
                self._ids.clear()

    def take(self) -> bytes:
        """Return what was shown, for the engine."""
        shown, self.shown, self._bytes = self.shown, [], 0
        self._ids.clear()
        return json.dumps(shown).encode()


class Rich:
    """IPython's shell, once it was needed."""

    def __init__(self, namespace: Namespace, is_late: Callable[[], bool]) -> None:
        self.displays = Displays(is_late)
        self._namespace = namespace
        self._shell: Any = None
        self._why_not = ""
        self._is_loading = False
        sys.meta_path.insert(0, _ImportWatcher(self.load))  # type: ignore[arg-type]
        if _is_installed():
            namespace.seed("get_ipython", self.get_ipython)

    def get_ipython(self) -> Any:
        """Return the session of IPython that this interpreter is."""
        return self._shell if self.load() else None

    def load(self) -> bool:
        """Load the shell; False if there is no IPython."""
        if self._shell is None and not self._why_not and not self._is_loading:
            earlier = dict(self._namespace.variables)
            self._is_loading = True
            try:
                self._shell = _make_shell(self._namespace, self.displays)
            except ImportError:
                install = f"{sys.executable} -m pip install ipython"
                self._why_not = f"which this Python does not have; install it: {install}"
            except (
                Exception
            ) as error:  # one that is too old, too new or broken: the plain code must go on
                self._why_not = f"which does not load here: {type_name(type(error))}: {error}"
            finally:
                self._is_loading = False
            self._namespace.adopt(earlier)
            if "get_ipython" in earlier:
                self._namespace.seed("get_ipython", earlier["get_ipython"])
        return self._shell is not None

    def transform(self, source: str) -> str | None:
        """Return the Python that code with magics stands for; None if it has none."""
        magic = MAGIC.search(source)
        if magic is None:
            return None
        if not self.load():
            begin = source.rfind("\n", 0, magic.end()) + 1
            line = source[begin:].splitlines()[0].strip()
            raise ImportError(f"`{line[:80]}` is for IPython, {self._why_not}")
        transformed: str = self._shell.transform_cell(source)
        return transformed

    def announce(self, event: str) -> None:
        """Notify libraries that have asked IPython for it, as for drawing figures at the end."""
        if self._shell is not None:
            self._shell.events.trigger(event)

    def show_value(self, value: Any) -> str | None:
        """Display a value that can be shown as more than text, and give its text; None for others."""
        if not any(hasattr(type(value), method) for method in ALL_METHODS):
            return None
        data, metadata = (
            self._shell.display_formatter.format(value) if self.load() else _describe(value)
        )
        text: str = data.get("text/plain") or repr(value)
        if data.keys() - {"text/plain"}:
            self.displays.show(data, metadata, True)
        return text


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("IPython") is not None
    except (ImportError, ValueError):
        return False


def _size(texts: dict[str, str], about: dict[str, str]) -> int:
    return sum(map(len, texts.values())) + sum(map(len, about.values()))


def _describe(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask an object how it is shown, without IPython."""
    data: dict[str, Any] = {"text/plain": repr(value)}
    metadata: dict[str, Any] = {}
    for name, mime in METHODS.items():
        method = getattr(value, name, None)
        shown = method() if callable(method) else None
        if shown is not None:
            data[mime] = shown
            if isinstance(shown, tuple):
                data[mime], metadata[mime] = shown
    bundle = getattr(value, "_repr_mimebundle_", None)
    if callable(bundle):
        shown = bundle(include=None, exclude=None)
        more, about = shown if isinstance(shown, tuple) else (shown or {}, {})
        data.update(more)
        metadata.update(about)
    return data, metadata


def _as_text(mime: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if mime.endswith("json"):
        return json.dumps(value)
    return str(value)


class _ImportWatcher:
    """Sees the import of those functions of IPython that do little or nothing unless there is a shell."""

    def __init__(self, load: Callable[[], bool]) -> None:
        self._load = load
        self._left = dict(FOR_A_SHELL)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let others find the module, and wrap its functions."""
        functions = self._left.pop(name, None)
        if functions is None:
            return None
        if not self._left:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: types.ModuleType) -> None:
                execute(module)
                for function in functions:
                    setattr(module, function, self._with_shell(getattr(module, function)))

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec

    def _with_shell(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_shell(*args: Any, **kwargs: Any) -> Any:
            self._load()
            return function(*args, **kwargs)

        return with_shell


def _make_shell(namespace: Namespace, displays: Displays) -> Any:
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    class Publisher(DisplayPublisher):
        def publish(
            self,
            data: dict[str, Any],
            metadata: dict[str, Any] | None = None,
            *_: Any,
            transient: dict[str, Any] | None = None,
            update: bool = False,
            **__: Any,
        ) -> None:
            display_id = (transient or {}).get("display_id")
            displays.show(data, metadata, display_id=display_id, is_update=update)

        def clear_output(self, wait: bool = False) -> None:
            displays.clear(wait)

    class Shell(InteractiveShell):
        display_pub_class = Type(Publisher)

        def init_virtualenv(self) -> None:
            """Print nothing about it: the interpreter was chosen."""

        def enable_gui(self, gui: str | None = None) -> None:
            """Do nothing: no window is open here, and figures are displays."""

        def system(self, command: str) -> None:
            """Run a command with our own output."""
            sys.stdout.flush()
            code = subprocess.call(
                self.var_expand(command, depth=1), shell=True, stdin=subprocess.DEVNULL
            )
            self.user_ns["_exit_code"] = code

        system_piped = system_raw = system

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "NoColor"
    # Not the user's own: engines write nothing there. And nobody could clean up behind an
    # interpreter that is killed.
    with tempfile.TemporaryDirectory(prefix="furlong-ipython-") as folder:
        shell = Shell.instance(
            user_module=namespace.module,
            user_ns=namespace.variables,
            config=config,
            ipython_dir=folder,
        )

    def show_text(_shell: Any, text: Any, *_: Any, **__: Any) -> None:
        print(text.get("text/plain", "") if isinstance(text, dict) else text)

    shell.set_hook("show_in_pager", show_text, 0)
    return shell
