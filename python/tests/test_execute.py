"""Executed code: replies, output, displays, errors."""

import errno
import linecache
import os
import pickle
import sys
import traceback

import pytest

import furlong
from furlong import CompositeError, ExecuteReply, RemoteError, TaskAborted


def test_061_a_reply_has_the_value_of_the_last_expression(rc, view):
    result = rc[0].execute("5", silent=False, block=True)
    reply = result.get()
    assert isinstance(reply, ExecuteReply)
    assert repr(reply) == f"<ExecuteReply[{reply.execution_count}]: 5>"
    assert reply.execute_result == {"data": {"text/plain": "5"}, "metadata": {}}
    assert reply["execute_result"] is reply.execute_result
    assert result.execute_result == reply.execute_result
    assert result.execute_input == "5"
    replies = view.execute("engine_id * 2", silent=False, block=True).get()
    assert [reply.execute_result["data"]["text/plain"] for reply in replies] == ["0", "2", "4", "6"]
    assert [reply.engine_id for reply in replies] == [0, 1, 2, 3]


def test_061_executions_are_counted(rc):
    first, second = (rc[0].execute("1", silent=False).get() for _ in range(2))
    assert second.execution_count == first.execution_count + 1
    assert first.execution_count > 0


def test_061_silent_execution_has_no_value(rc, view):
    assert rc[0].execute("5", block=True).get() is None
    assert view.execute("5", block=True).get() == [None] * 4
    reply = rc[0].execute("x = 5", silent=False).get()
    assert reply.execute_result is None
    assert repr(reply) == f"<ExecuteReply[{reply.execution_count}]: >"
    assert rc[0].execute("None", silent=False).get().execute_result is None


def test_061_long_values_are_shortened_in_the_repr(rc):
    reply = rc[0].execute("'x' * 1000", silent=False).get()
    assert len(repr(reply)) < 100
    assert len(reply.execute_result["data"]["text/plain"]) == 1002


def test_061_execute_gives_a_result_also_when_it_blocks(rc, view):
    view.block = True
    result = view.execute("a = engine_id")
    assert isinstance(result, furlong.AsyncResult)
    assert result.done()
    assert view["a"] == [0, 1, 2, 3]


PNG = """
import base64
class Picture:
    def _repr_png_(self):
        return b"\\x89PNG data", {"width": 10}
    def __repr__(self):
        return "a picture"
class Page:
    def _repr_html_(self):
        return "<b>bold</b>"
"""


def test_062_pictures_have_data_and_metadata(rc):
    rc[0].execute(PNG, block=True).get()
    reply = rc[0].execute("Picture()", silent=False).get()
    assert reply._repr_png_() == (b"\x89PNG data", {"width": 10})
    assert reply.execute_result["metadata"]["image/png"] == {"width": 10}
    assert reply.execute_result["data"]["text/plain"] == "a picture"
    data, metadata = reply._repr_mimebundle_()
    assert "image/png" in data
    assert metadata["image/png"] == {"width": 10}
    with pytest.raises(AttributeError):
        reply._repr_html_()


def test_062_html(rc):
    rc[0].execute(PNG, block=True).get()
    reply = rc[0].execute("Page()", silent=False).get()
    assert reply._repr_html_() == "<b>bold</b>"
    assert reply.execute_result["data"]["text/html"] == "<b>bold</b>"
    assert not hasattr(reply, "_repr_png_")
    assert not hasattr(reply, "nothing")
    with pytest.raises(KeyError):
        reply["nothing"]


def test_063_what_was_printed_is_there_with_the_reply(rc, view):
    for _ in range(20):
        reply = (
            rc[0]
            .execute("print('out')\nimport sys\nprint('err', file=sys.stderr)", silent=False)
            .get()
        )
        assert reply.stdout == "out\n"
        assert reply.stderr == "err\n"
    result = view.execute("print(engine_id)", block=True)
    assert result.stdout == ["0\n", "1\n", "2\n", "3\n"]
    called = rc[0].apply_async(print, "from a call")
    called.get()
    assert called.stdout == "from a call\n"


def test_063_output_of_programs_and_of_bytes_that_are_no_text(rc):
    result = rc[0].execute(
        "import os; os.system('echo from a program'); os.write(1, b'\\xff\\n')", block=True
    )
    result.get()
    assert "from a program\n" in result.stdout
    assert "\ufffd" in result.stdout


def test_063_a_mebibyte_of_output(rc, view):
    result = rc[0].execute("print('ä' * 2**19)", block=True)
    result.get()
    assert result.stdout == "ä" * 2**19 + "\n"
    several = view.execute("for n in range(2**15): print(f'{n:031d}')", block=True)
    several.get()
    expected = "".join(f"{n:031d}\n" for n in range(2**15))
    assert len(expected) == 2**20
    assert several.stdout == [expected] * 4


def test_063_output_shows_while_the_task_runs(rc):
    result = rc[0].execute("print('early', flush=True)\nimport time\ntime.sleep(120)")
    reader = result._parts[0].task.output()
    stream, _, _, _, data = reader.next(60)
    assert (stream, data) == ("stdout", b"early\n")
    assert result.stdout == "early\n"
    assert not result.done()
    result.cancel()


@pytest.mark.parametrize("how", ["execute", "apply"])
def test_064_displays_come_in_order(view, how):
    view.execute("from IPython.display import display", block=True).get()
    if how == "execute":
        result = view.execute("for i in range(5): display(i)", block=True)
    else:

        @furlong.interactive
        def show():
            for i in range(5):
                display(i)  # noqa: F821

        result = view.apply_async(show)
    result.get()
    assert len(result.outputs) == 4
    for outputs in result.outputs:
        assert [output["data"]["text/plain"] for output in outputs] == ["0", "1", "2", "3", "4"]


def test_064_displays_are_shown(rc, view, capsys):
    code = "from IPython.display import display\ndisplay('shown')\nprint('printed')\n5"
    rc[0].execute(code, silent=False, block=True).display_outputs()
    printed = capsys.readouterr().out
    assert printed.index("printed") < printed.index("'shown'") < printed.index("5")
    view.execute(code, silent=False, block=True).display_outputs(groupby="engine")
    printed = capsys.readouterr().out
    assert printed.count("[output:0]\n'shown'") == 1
    assert printed.index("[output:0]") < printed.index("[stdout:1]")


def test_065_errors_are_raised_by_get(rc, view):
    result = rc[0].execute("1/0")
    with pytest.raises(ZeroDivisionError):
        result.get(60)
    with pytest.raises(ZeroDivisionError):
        result.get(2)
    with pytest.raises(CompositeError) as caught:
        view.execute("1/0").get(60)
    assert [error.ename for error in caught.value.errors] == ["ZeroDivisionError"] * 4
    with pytest.raises(SyntaxError) as wrong:
        rc[0].execute("1\na = = b").get()
    told = wrong.value
    assert (told.msg, told.lineno, told.offset, told.text) == ("invalid syntax", 2, 5, "a = = b\n")
    assert told.filename.startswith("<furlong ")
    assert "SyntaxError: invalid syntax" in "".join(traceback.format_exception_only(told))
    with pytest.raises(CompositeError):
        view.execute("1/0", block=True)


def test_065_errors_have_the_attributes_that_code_asks_for(rc):
    def of(code):
        error = rc[0].execute(code).exception()
        return pickle.loads(pickle.dumps(error))

    missing = of("open('/nowhere/at all')")
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (errno.ENOENT, "/nowhere/at all")
    assert missing.strerror == os.strerror(errno.ENOENT)
    assert of("import nowhere.at_all").name == "nowhere"
    assert of("raise OSError('of my own')").errno is None
    indented = of("def f():\nreturn 1")
    assert isinstance(indented, IndentationError)
    assert (indented.lineno, indented.text) == (2, "return 1\n")
    assert of("raise SyntaxError('of my own')").msg == "of my own"


def test_065_tracebacks_have_the_lines_of_code_that_is_here_alone(rc):
    source = "def inner(x):\n    return 1 / x\n"
    linecache.cache["<cell 7>"] = (len(source), None, source.splitlines(keepends=True), "<cell 7>")
    scope = {}
    exec(compile(source, "<cell 7>", "exec"), scope)
    error = rc[0].apply_async(scope["inner"], 0).exception()
    lines = error.render_traceback()
    at = next(
        at
        for at, line in enumerate(lines)
        if line.startswith('  File "<cell 7>", line 2, in inner')
    )
    assert lines[at + 1] == "    return 1 / x"
    shown = "".join(traceback.format_exception(error))
    assert shown.index("    return 1 / x\n") < shown.index("ZeroDivisionError: [0:apply]")


def test_065_an_error_aborts_what_is_queued_behind_it(rc, gate):
    held = rc[0].execute(gate.code)
    failing = rc[0].execute("1/0")
    behind = [rc[0].execute("a = 1"), rc[0].apply_async(int)]
    other = rc[1].execute("a = 1")
    gate.open()
    held.get(60)
    with pytest.raises(ZeroDivisionError):
        failing.get(60)
    for result in behind:
        with pytest.raises(TaskAborted):
            result.get(60)
        assert result.status == "aborted"
    other.get(60)
    assert rc[0].pull("'a' in globals()", block=True) is False


def test_065_tracebacks_show_the_code(rc):
    rc[0].execute("def f():\n    x = 1\n    return x / 0", block=True).get()
    with pytest.raises(RemoteError) as caught:
        rc[0].execute("a = 1\nf()").get()
    lines = caught.value.render_traceback()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert any("return x / 0" in line for line in lines)
    assert any(line.strip() == "f()" for line in lines)
    assert not any("furlong worker" in line for line in lines)


def composite(count):
    return CompositeError(
        "failed",
        [furlong.errors.remote_error("ValueError", f"v{n}", f"tb{n}") for n in range(count)],
    )


def test_066_composites_show_some_and_count_the_rest(view, capsys):
    error = composite(10)
    text = str(error)
    assert [f"v{n}" in text for n in range(10)] == [True] * 4 + [False] * 6
    assert text.endswith("... 6 more exceptions ...")
    assert "more" not in str(composite(4))
    error.print_traceback()
    printed = capsys.readouterr().err
    assert [f"tb{n}" in printed for n in range(10)] == [True] * 4 + [False] * 6
    assert "6 more exceptions" in printed
    error.print_traceback(7, file=sys.stdout)
    assert capsys.readouterr().out == "tb7\n"
    with pytest.raises(IndexError):
        error.raise_exception(10)
    with pytest.raises(ValueError, match="v9"):
        error.raise_exception(9)
    assert len(error.elist) == 10


def test_066_composites_of_composites_are_flat():
    error = CompositeError(
        "outer", [composite(2), furlong.errors.remote_error("KeyError", "k"), composite(3)]
    )
    assert [entry[0] for entry in error.elist] == ["ValueError"] * 2 + ["KeyError"] + [
        "ValueError"
    ] * 3
    assert str(furlong.AlreadyDisplayedError(error)) == "6 errors"


def test_066_a_real_composite(view):
    with pytest.raises(CompositeError) as caught:
        view.execute("raise ValueError(engine_id)").get()
    assert str(caught.value).splitlines()[1:] == [
        f"[{n}:execute] ValueError: {n}" for n in range(4)
    ]
    assert "raised in: execute" in str(caught.value)


def test_067_magics_run_on_every_engine(view):
    view.push({"some_name": 5}, block=True)
    result = view.execute("%whos", block=True)
    result.get()
    for text in result.stdout:
        assert "some_name" in text
        assert "int" in text
    result = view.execute("x = !echo shell\nprint(x[0])", block=True)
    result.get()
    assert result.stdout == ["shell\n"] * 4


def test_system_exit_in_code_is_an_error_and_the_engine_lives(rc):
    rc[0].execute("kept = 5", block=True).get()
    for call in (
        lambda: rc[0].execute("raise SystemExit(3)"),
        lambda: rc[0].execute("import sys; sys.exit('bye')"),
        lambda: rc[0].apply_async(sys.exit, 3),
    ):
        with pytest.raises(RemoteError) as caught:
            call().get()
        assert caught.value.ename == "SystemExit"
        assert not isinstance(caught.value, SystemExit)
    assert rc[0]["kept"] == 5


def test_keyboard_interrupt_of_an_engine_is_no_interrupt_here(rc):
    def interrupts():
        raise KeyboardInterrupt("there")

    with pytest.raises(RemoteError) as caught:
        rc[0].apply_sync(interrupts)
    assert caught.value.ename == "KeyboardInterrupt"
    assert not isinstance(caught.value, KeyboardInterrupt)


def test_code_may_be_empty_or_a_comment(rc):
    for code in ("", "\n", "# nothing", "  \n\t"):
        assert rc[0].execute(code, silent=False).get().execute_result is None


def test_top_level_names_persist_and_underscore_is_the_last_value(rc):
    rc[0].execute("a = 1\ndef f():\n    return a", block=True)
    rc[0].execute("a = 2", block=True)
    assert rc[0].execute("f()", silent=False).get().execute_result["data"]["text/plain"] == "2"
    assert rc[0].execute("_ + 1", silent=False).get().execute_result["data"]["text/plain"] == "3"
