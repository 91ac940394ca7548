"""A debugger after the end: `rc.debug`, and what opens the frames of a failed task."""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SOON_SECONDS, eventually

import furlong
from furlong import errors
from furlong.client.debugging import Debugger, debug

# A commands' reader and a printer in one: it runs these, and gives what was printed.
Typed = Callable[..., str]


def divide(total: int) -> float:
    """Fail in an inner function."""
    values = [1, 2, 3]

    def share(value: int) -> float:
        return value / total

    return sum(map(share, values))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """Return a function that types lines at the prompt, then Ctrl-D, and gives what was printed."""

    def type_all(rc: furlong.Client, what: Any, *lines: str) -> str:
        left = list(lines)

        def read(prompt: str) -> str:
            assert prompt == "(Pdb) "
            if not left:
                raise EOFError
            return left.pop(0)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "input", read)
            rc.debug(what)
        assert not left
        return capsys.readouterr().out

    return type_all


def failed(view: Any, function: Callable[..., Any], *args: Any) -> furlong.AsyncResult:
    """Return the result of a call that has failed."""
    result: furlong.AsyncResult = view.apply_async(function, *args)
    assert isinstance(result.exception(SOON_SECONDS), errors.RemoteError)
    return result


def token_of(error: Any) -> str:
    """Return what opens the frames of a failure."""
    token: str = json.loads(bytes(vars(error)["_details"][0][0]))[0]["frames"]
    return token


def test_the_frames_of_a_failure_can_be_looked_at(rc: furlong.Client, typed: Typed) -> None:
    result = failed(rc[0], divide, 0)
    shown = typed(rc, result, "p total", "a", "up", "p values", "values[0] = 7", "p values ;; 1", "q")
    assert shown.startswith("ZeroDivisionError: division by zero\n> ")
    assert f"{__file__}(" in shown and "share()" in shown and "return value / total" in shown
    assert "\n0\n" in shown and "value = 1\n" in shown
    assert "[1, 2, 3]\n[7, 2, 3]\n1\n" in shown
    assert "furlong worker" not in shown
