"""A notebook: cells that a kernel of their own runs, and what comes of them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from conftest import SOON_SECONDS


class Cell:
    """A cell that has run."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs

    def stream(self, name: str) -> str:
        """Return what it has written to a stream."""
        return "".join(
            output["text"]
            for output in self.outputs
            if output["output_type"] == "stream" and output["name"] == name
        )

    @property
    def displays(self) -> list[dict[str, Any]]:
        """Its displays by type, its value included."""
        kinds = ("display_data", "execute_result")
        return [output["data"] for output in self.outputs if output["output_type"] in kinds]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """The metadata of each of its displays."""
        kinds = ("display_data", "execute_result")
        return [output["metadata"] for output in self.outputs if output["output_type"] in kinds]

    @property
    def texts(self) -> list[str]:
        """Its displays as text."""
        return [data.get("text/plain", "") for data in self.displays]

    @property
    def error(self) -> tuple[str, str] | None:
        """Name and text of what it has raised."""
        raised = [output for output in self.outputs if output["output_type"] == "error"]
        return (raised[0]["ename"], "\n".join(raised[0]["traceback"])) if raised else None

    @property
    def text(self) -> str:
        """Everything as text."""
        pieces = [self.stream("stdout"), self.stream("stderr"), *self.texts]
        return "\n".join(pieces + ([self.error[1]] if self.error else []))


class Notebook:
    """A kernel and the cells that it runs."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._notebook = nbformat.v4.new_notebook()
        resources = {"metadata": {"path": str(folder)}}
        self._client = nbclient.NotebookClient(
            self._notebook, timeout=SOON_SECONDS, allow_errors=True, resources=resources
        )
        # The kernel finds the package as this process does.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._running = self._client.async_setup_kernel(env=env)
        self._loop.run_until_complete(self._running.__aenter__())

    def run(self, source: str, interrupt_at: str | None = None) -> Cell:
        """Run a cell; if a text is given, press the stop button, once, when it has come."""
        return self._loop.run_until_complete(self._run(source, interrupt_at))

    async def _run(self, source: str, interrupt_at: str | None) -> Cell:
        cell = nbformat.v4.new_code_cell(source)
        self._notebook.cells.append(cell)
        running = asyncio.ensure_future(
            self._client.async_execute_cell(cell, len(self._notebook.cells) - 1)
        )
        try:
            if interrupt_at is not None:
                await self._until(lambda: interrupt_at in Cell(cell.outputs).text, running)
                assert not running.done()
                await self._client.km.interrupt_kernel()
            await asyncio.wait_for(running, SOON_SECONDS)
        finally:
            running.cancel()
        return Cell(cell.outputs)

    async def _until(self, condition: Any, running: asyncio.Future[Any]) -> None:
        deadline = self._loop.time() + SOON_SECONDS
        while not condition() and not running.done():
            assert self._loop.time() < deadline
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """End the kernel."""
        self._loop.run_until_complete(self._running.__aexit__(None, None, None))
        self._loop.close()
