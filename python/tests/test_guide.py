"""Every Python block of the guide runs, and shows what the guide shows; and so does every cell of its notebook.

The blocks of a page are one program: they run in order, in one namespace, against a cluster of four engines whose
interpreters are new. In a block with ``>>>`` what is printed is compared, as doctest does; ``...`` stands for anything.
"""

import asyncio
import doctest
import importlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest
from conftest import SOON_SECONDS, start_threads_of_dask
from notebook import Notebook

import furlong

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/guide"
PAGES = [
    "../../README.md",
    *sorted(page.name for page in GUIDE.glob("*.md") if "```python\n" in page.read_text()),
]
#: Cells, each with what it shows, if the page says it.
CELL = re.compile(r"^```ipython\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(
    r"(?:^<!-- needs: ([\w., ]+) -->\n\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def threads_that_stay(threads_that_stay: None) -> None:
    """Start the one of Dask, too, whose workers are on the page of libraries."""
    start_threads_of_dask()


def blocks(page: str) -> Iterator[tuple[int, str, list[str]]]:
    """Return the Python blocks of a page: the number of the first line, the text, and the modules it needs."""
    text = (GUIDE / page).read_text()
    for found in BLOCK.finditer(text):
        needed = found[1].split(", ") if found[1] else []
        yield text.count("\n", 0, found.start(2)) + 1, found[2], needed


def is_there(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


@pytest.fixture
def surroundings(
    cluster: furlong.Cluster, rc: furlong.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, object]]:
    """Make the cluster that which a session finds, and give the namespace of `__main__`."""
    rc.restart()
    monkeypatch.setenv("FURLONG_CAP", str(cluster.capability))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    yield namespace
    for value in namespace.values():
        if isinstance(value, furlong.Client):
            value.cancel(force=True)
            value.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page(page: str, surroundings: dict[str, object]) -> None:
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    missing: set[str] = set()
    for line, block, needed in blocks(page):
        absent = {module for module in needed if not is_there(module)}
        missing |= absent
        if absent:
            continue
        if ">>> " in block:
            session = parser.get_doctest(block, surroundings, page, str(GUIDE / page), line - 1)
            # Not a copy: functions that one block defines see what later ones set.
            session.globs = surroundings
            printed: list[str] = []
            assert runner.run(session, out=printed.append, clear_globs=False).failed == 0, "".join(
                printed
            )
        else:
            exec(compile("\n" * (line - 1) + block, page, "exec"), surroundings)
    if missing:  # all others have run
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


def test_there_are_pages() -> None:
    assert {"from-ipyparallel.md", "python.md", "python-tasks.md"} <= set(PAGES)


def test_the_first_session_as_a_notebook(
    cluster: furlong.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel finds the package as this process does.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    _, first, _ = next(blocks("python.md"))
    more = "rc = furlong.Client(%r)\nresult = rc[:].apply_async(lambda: engine_id)\nawait result"
    cells = [
        nbformat.v4.new_code_cell(source) for source in (first, more % str(cluster.capability))
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    asyncio.run(
        nbclient.NotebookClient(notebook, timeout=SOON_SECONDS, resources=resources).async_execute()
    )
    printed = "".join(
        output["text"] for output in cells[0].outputs if output["output_type"] == "stream"
    )
    assert "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]" in printed
    assert cells[1].outputs[-1]["data"]["text/plain"] == "[0, 1, 2, 3]"


def test_the_cells_of_the_notebook_page(surroundings: dict[str, object], tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    cells = CELL.findall((GUIDE / "notebooks.md").read_text())
    assert len(cells) > 10
    try:
        for source, shown in cells:
            cell = notebook.run(source.rstrip("\n"))
            assert cell.error is None, cell.text
            if shown:
                # Engines may end in any order.
                lines = cell.text.splitlines()
                printed = Counter(line for line in lines if line and "%|" not in line)
                printed -= Counter(line for line in printed if re.search(r"\] \d+/\d+", line))
                assert printed == Counter(shown.splitlines())
    finally:
        notebook.close()
