"""IPython on engines: its session from the first code on, displays that change, and figures."""

from __future__ import annotations

import sys

import furlong

SHOW = "from IPython.display import HTML, clear_output, display\n"


def htmls(result: furlong.AsyncResult) -> list[str]:
    """Return the displays of one task."""
    return [output["data"]["text/html"] for output in result.outputs]


def executed(view: furlong.DirectView, code: str) -> furlong.AsyncResult:
    """Run code, which has to succeed."""
    result = view.execute(code, silent=False)
    result.get()
    return result


def test_code_has_the_session_from_the_beginning(rc: furlong.Client) -> None:
    rc.restart()
    shown = executed(rc[0], "get_ipython().run_line_magic('env', 'PATH')").get()
    assert "/" in shown.execute_result["data"]["text/plain"]
    code = "import IPython\nIPython.get_ipython() is get_ipython()"
    assert executed(rc[1], code).get().execute_result["data"]["text/plain"] == "True"
    assert executed(rc[1], "get_ipython").stdout == ""
    assert rc[1].keys(block=True) == ["IPython"]
    rc[1].clear(block=True)
    assert executed(rc[1], "get_ipython() is None").get().execute_result["data"] == {
        "text/plain": "False"
    }


def test_plain_code_does_not_load_ipython(rc: furlong.Client) -> None:
    rc.restart()
    rc[0].execute("a = 1\nprint([a])", block=True).get()
    assert rc[0].apply_sync(lambda: "IPython" in sys.modules) is False


def test_functions_have_the_session(rc: furlong.Client) -> None:
    rc.restart()

    def session_name() -> str:
        from IPython import get_ipython

        return type(get_ipython()).__name__

    assert rc[0].apply_sync(session_name) == "Shell"


def test_displays_are_updated_in_their_place(rc: furlong.Client) -> None:
    result = executed(
        rc[0],
        SHOW + "shown = display(HTML('0'), display_id=True)\ndisplay(HTML('other'))\n"
        "for n in (1, 2): shown.update(HTML(str(n)))",
    )
    assert htmls(result) == ["2", "other"]
    # That of an earlier cell is shown again.
    assert htmls(executed(rc[0], "shown.update(HTML('3'))")) == ["3"]


def test_cleared_displays_are_gone(rc: furlong.Client) -> None:
    code = SHOW + "display(HTML('old'))\nclear_output({wait})\n{last}"
    assert htmls(executed(rc[0], code.format(wait="", last="display(HTML('new'))"))) == ["new"]
    assert htmls(executed(rc[0], code.format(wait="wait=True", last=""))) == ["old"]
    last = "display(HTML('new'))"
    assert htmls(executed(rc[0], code.format(wait="wait=True", last=last))) == ["new"]
    assert htmls(executed(rc[0], "display(HTML('next'))")) == ["next"]


def test_figures_are_displays(rc: furlong.Client) -> None:
    rc.restart()
    result = executed(
        rc[0],
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\n"
        "axes.plot([1, 2, 3]);",
    )
    (output,) = result.outputs
    assert output["data"]["image/png"].startswith("iVBOR")
    assert result.get().execute_result is None
    assert executed(rc[0], "plt.close(); 1").outputs == []


def test_values_are_whole_however_long(rc: furlong.Client) -> None:
    shown = executed(rc[0], "list(range(2000))").get()
    assert shown.execute_result["data"] == {"text/plain": str(list(range(2000)))}
