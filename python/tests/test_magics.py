"""The magics of IPython in a real kernel: `%px` and the others, what they show, and the stop button."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from conftest import ENGINES, SOON_SECONDS, eventually
from notebook import Notebook

import furlong

IDS = range(ENGINES)


@pytest.fixture(scope="module")
def kernel(
    cluster: furlong.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    notebook.run(f"import furlong\nrc = furlong.Client({str(cluster.capability)!r})")
    yield notebook
    notebook.run("rc.close()")
    notebook.close()


@pytest.fixture
def notebook(kernel: Notebook, rc: furlong.Client) -> Notebook:
    """Return a kernel with a client, whose magics are as they are at first."""
    # No bar comes between, however busy the machine is.
    cell = kernel.run("view = rc.activate()\n%pxconfig --progress-after -1")
    assert cell.error is None
    return kernel


def test_px_prints_and_shows_values_engine_by_engine(notebook: Notebook) -> None:
    cell = notebook.run("%px print('here', engine_id); engine_id * 2")
    shown = [re.sub(r":\d+\]:", ":#]:", text) for text in cell.texts]
    assert sorted(shown[0::2]) == [f"[stdout:{n}] here {n}" for n in IDS]
    assert sorted(shown[1::2]) == [f"Out[{n}:#]: {2 * n}" for n in IDS]
    assert cell.error is None


def test_px_takes_names_of_the_engines_alone(notebook: Notebook) -> None:
    notebook.run("x = 'client'\nview['x'] = 'engine'\nplace = 'kept'")
    notebook.run('%px y = f"{x}" + "$x"')
    assert notebook.run("view['y']").texts == [str(["engine$x"] * ENGINES)]
    notebook.run("%%px -o {place} --noblock\n1")
    assert notebook.run("type(kept).__name__").texts == ["'AsyncResult'"]


def test_output_is_grouped_as_asked(notebook: Notebook) -> None:
    source = (
        "import sys\nfrom IPython.display import HTML, display\nprint('out')\n"
        "print('err', file=sys.stderr)\ndisplay(HTML('a'))\ndisplay(HTML('b'))\n'value'"
    )
    by_type = notebook.run(f"%%px --no-stream -t 0,1\n{source}")
    assert by_type.stream("stdout").splitlines()[:2] == ["[stdout:0] out", "[stdout:1] out"]
    assert by_type.stream("stderr") == "[stderr:0] err\n[stderr:1] err\n"
    assert [data.get("text/html") for data in by_type.displays[:4]] == ["a", "b", "a", "b"]
    assert [about.get("engine") for about in by_type.metadata[:4]] == [0, 0, 1, 1]
    by_order = notebook.run(f"%%px --no-stream -r -t 0,1\n{source}")
    assert [data.get("text/html") for data in by_order.displays[:4]] == ["a", "a", "b", "b"]
    by_engine = notebook.run(f"%%px --no-stream --group-outputs=engine -t 0,1\n{source}")
    shown = [data.get("text/html") or data["text/plain"] for data in by_engine.displays]
    assert shown[:2] == ["a", "b"]
    assert re.fullmatch(r"Out\[0:\d+\]: 'value'", shown[2])
    assert shown[3:5] == ["a", "b"]


def test_values_that_are_more_than_text_have_a_number(notebook: Notebook) -> None:
    cell = notebook.run("%%px -t 1\nfrom IPython.display import HTML\nHTML('<i>v</i>')")
    assert re.fullmatch(r"Out\[1:\d+\]:\n", cell.stream("stdout"))
    assert cell.displays[0]["text/html"] == "<i>v</i>"
    assert cell.metadata[0]["engine"] == 1


def test_errors_are_shown_once(notebook: Notebook) -> None:
    cell = notebook.run("%px 1 / 0")
    assert cell.stream("stderr").count("ZeroDivisionError: division by zero") == 2 * ENGINES
    assert cell.error == ("AlreadyDisplayedError", f"{ENGINES} errors")
    cell = notebook.run("%%px --no-stream\n1 / 0")
    assert cell.stream("stderr") == ""
    assert cell.error is not None
    assert cell.error[0] == "CompositeError"
    assert cell.error[1].count("[stdout") == 0
    assert cell.error[1].count("ZeroDivisionError: division by zero") == 2 * ENGINES
    cell = notebook.run("%%px -t 0\n1 / 0")
    assert cell.stream("stderr") == ""
    assert cell.error is not None
    assert cell.error[0] == "ZeroDivisionError"


def test_errors_of_some_leave_the_values_of_others(notebook: Notebook) -> None:
    cell = notebook.run("%px 5 if engine_id else 1 / 0")
    assert sorted(text.partition(":")[0] for text in cell.texts) == ["Out[1", "Out[2", "Out[3"]
    assert cell.error == ("AlreadyDisplayedError", "1 error")


def test_results_of_what_did_not_wait_come_by_pxresult(notebook: Notebook) -> None:
    cell = notebook.run("%%px --noblock --verbose -o later\nprint('now')\n7")
    assert cell.stream("stdout") == "Async parallel execution on engine(s): all\n"
    assert "AsyncResult(%px)" in cell.texts[0]
    shown = notebook.run("%pxresult")
    assert shown.stream("stdout") == "".join(f"[stdout:{n}] now\n" for n in IDS)
    assert [text.rpartition(": ")[2] for text in shown.texts] == ["7"] * ENGINES
    notebook.run("%pxresult -o same")
    assert notebook.run("same is later").texts == ["True"]


def test_pxresult_of_nothing_says_so(notebook: Notebook) -> None:
    assert "has run nothing yet" in notebook.run("%pxresult").text


def test_a_local_cell_runs_here_and_there(notebook: Notebook) -> None:
    cell = notebook.run("%%px --local\nwhere = globals().get('engine_id', 'here')\nwhere")
    assert cell.texts[0] == "'here'"
    assert sorted(text.rpartition(": ")[2] for text in cell.texts[1:]) == [f"{n}" for n in IDS]


def test_pxconfig_sets_what_is_done_by_itself(notebook: Notebook) -> None:
    notebook.run("rc.activate()")
    assert notebook.run("%pxconfig").stream("stdout") == (
        "--targets all --block --stream --no-verbose --progress-after 2 "
        "--signal-on-interrupt SIGINT\n"
    )
    notebook.run("view = rc.activate()")
    notebook.run("%pxconfig --targets ::2 --noblock --no-stream --progress-after -1")
    assert notebook.run("view.targets, view.block").texts == ["([0, 2], False)"]
    notebook.run("%pxconfig -t 1 --block --verbose")
    cell = notebook.run("%px 5")
    assert cell.stream("stdout") == "Parallel execution on engine(s): 1\n"
    assert re.fullmatch(r"Out\[1:\d+\]: 5", cell.texts[0])
    assert notebook.run("%%px -t 9\n1").error is None
    assert "no engine 9" in notebook.run("%%px -t 9\n1").text
    assert "not 'some'" in notebook.run("%%px -t some\n1").text


def test_options_of_a_cell_are_for_that_cell(notebook: Notebook) -> None:
    for code in ("pass", "1/0"):
        notebook.run(f"%%px -t 0 --noblock\n{code}")
        notebook.run("%pxresult")
    assert notebook.run("view.targets, view.block").texts == ["('all', True)"]


def test_each_view_may_have_magics(notebook: Notebook) -> None:
    notebook.run("even = rc[::2]\neven.block = True\neven.activate('_even')")
    assert len(notebook.run("%px_even 1").displays) == 2
    assert len(notebook.run("%px 1").displays) == ENGINES


def test_autopx_runs_cells_there_until_it_ends(notebook: Notebook) -> None:
    assert notebook.run("%autopx").stream("stdout") == "%autopx enabled\n"
    notebook.run("far = 10")
    cell = notebook.run("import asyncio\nawait asyncio.sleep(0.01)\nfar + engine_id")
    assert sorted(text.rpartition(": ")[2] for text in cell.texts) == [f"{10 + n}" for n in IDS]
    assert notebook.run("1 / 0").error == ("AlreadyDisplayedError", f"{ENGINES} errors")
    assert "ZeroDivisionError" in notebook.run("%pxresult").text
    assert notebook.run("%autopx").stream("stdout") == "%autopx disabled\n"
    assert notebook.run("'far' in globals()").texts == ["False"]


def test_autopx_takes_no_more_than_ipython_does(notebook: Notebook) -> None:
    toggle = "get_ipython().run_line_magic('autopx', '')"
    look = "inspect.signature(get_ipython().run_cell_async)"
    cell = notebook.run(
        f"import inspect\nwas = {look}\n{toggle}\nis_now = {look}\n{toggle}\nwas == is_now"
    )
    assert cell.texts == ["True"]


def test_output_comes_while_the_cell_runs(notebook: Notebook, rc: furlong.Client, tmp_path) -> None:
    # The cell ends only once its first line was seen: the stop button is pressed for that.
    source = "import time\nprint('first')\nwhile True: time.sleep(0.01)"
    cell = notebook.run(f"%%px\n{source}", interrupt_at="[stdout:3] first")
    assert "[stdout:3] first" in cell.texts
    assert cell.error is None


def test_bars_of_engines_stay_apart(notebook: Notebook) -> None:
    source = (
        "import sys\nprint('begin')\nfor n in range(3):\n"
        "    print(f'\\r{engine_id}: {n} of 3', end='')\nprint()\nprint('end')"
    )
    cell = notebook.run(f"%%px\n{source}")
    assert sorted(cell.texts) == [f"[stdout:{n}]\nbegin\n{n}: 2 of 3\nend" for n in IDS]


def test_one_interrupt_stops_the_engines_and_the_cell(
    notebook: Notebook, rc: furlong.Client
) -> None:
    began = time.monotonic()
    cell = notebook.run(
        "%%px\nimport time\nprint('running')\ntime.sleep(1000)\nprint('over')",
        interrupt_at="[stdout:0] running",
    )
    assert time.monotonic() - began < SOON_SECONDS / 2
    assert "Sending signal SIGINT to engines" in cell.stream("stderr")
    assert cell.error is None
    assert "over" not in cell.text
    eventually(lambda: not any(engine["tasks_assigned"] for engine in rc.status()["engines"]))
    assert len(notebook.run("%px 1").displays) == ENGINES


def test_code_may_handle_the_interrupt(notebook: Notebook) -> None:
    source = (
        "import time\ntry:\n    print('running')\n    time.sleep(1000)\n"
        "except KeyboardInterrupt:\n    print('stopped early')\n'kept'"
    )
    cell = notebook.run(f"%%px\n{source}", interrupt_at="[stdout:3] running")
    assert sum("stopped early" in text for text in cell.texts) == ENGINES
    assert sum("'kept'" in text for text in cell.texts) == ENGINES


def test_an_interrupt_takes_back_what_has_not_begun(
    notebook: Notebook, rc: furlong.Client, gate
) -> None:
    held = rc[1].execute(gate.code)
    eventually(lambda: rc.queue_status(1)["tasks"])
    cell = notebook.run(
        "%%px\nprint('running')\nimport time\ntime.sleep(1000)", interrupt_at="[stdout:0] running"
    )
    assert cell.error is None
    assert "[stdout:1]" not in cell.text
    gate.open()
    held.get(SOON_SECONDS)


def test_another_signal_or_none_may_be_chosen(notebook: Notebook, rc: furlong.Client) -> None:
    notebook.run("%px kept = 5")
    source = "import time\nprint('running')\ntime.sleep(1000)"
    cell = notebook.run(
        f"%%px -t 0 --signal-on-interrupt 0\n{source}", interrupt_at="[stdout:0] running"
    )
    assert "they go on" in cell.stream("stderr")
    assert rc.queue_status(0)["tasks"] == 1
    cell = notebook.run("last = furlong.AsyncResult\n%pxresult -o last\nlast.cancel()")
    notebook.run(
        f"%%px -t 1 --signal-on-interrupt SIGKILL\n{source}", interrupt_at="[stdout:1] running"
    )
    eventually(lambda: rc[1].apply_async(lambda: "kept" in globals()).get() is False)


def test_an_engine_that_dies_is_shown_with_the_cause(notebook: Notebook) -> None:
    cell = notebook.run("%%px\nimport os\nif engine_id == 2: os._exit(3)\n'alive'")
    assert sum("'alive'" in text for text in cell.texts) == ENGINES - 1
    assert re.search(r"\[2:execute\] EngineError: .*exit", cell.stream("stderr"))
    assert cell.error == ("AlreadyDisplayedError", "1 error")


def test_a_bar_names_the_engines_that_have_not_answered(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%px --progress-after 0\nimport time\nif engine_id == 3: print('last'); time.sleep(1000)",
        interrupt_at="engine 3 has not answered",
    )
    assert "[stdout:3] last" in cell.texts


def test_long_collections_are_laid_out(notebook: Notebook) -> None:
    cell = notebook.run("%%px -t 0\n{'a': list(range(40)), 'b': 5}")
    assert re.match(r"Out\[0:\d+\]:\n\{'a': \[0,\n  1,", cell.texts[0])


def test_what_is_laid_out_is_not_run(notebook: Notebook) -> None:
    source = "class A:\n    def __repr__(self): return '[print(\"run here\")]' + ' ' * 100\nA()"
    cell = notebook.run(f"%%px -t 0\n{source}")
    assert 'print("run here")' in cell.texts[0]
    assert cell.stream("stdout") == ""
