"""Modules of the user's own are modules on engines: by name, with the client's sources, and one state."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import furlong
from furlong.modules import own_modules
from furlong.modules.module_variables import names_imported
from furlong.pickling.arguments import HAS_MODULES, dumps
from furlong.pickling.functions import equipped, function_of

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return a writer of files in a folder that imports here look into, and no engine's."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = folder / (name.replace("__slash__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(
            str(folder)
        ) or name.startswith("own_"):
            handle = getattr(sys.modules.pop(name), "handle", None)
            if handle is not None:
                handle.close()


def get(name: str) -> types.ModuleType:
    """Import a module here."""
    return importlib.import_module(name)


SAFE = """
    import contextvars, logging, threading
    lock = threading.Lock()
    log = logging.getLogger(__name__)
    current = contextvars.ContextVar("current", default=1)
    handle = open("/dev/null")
    calls = 0
    class Thing:
        made = []
        def __init__(self, x=0): self.x = x; Thing.made.append(self)
    def add(a, b):
        global calls
        with lock:
            calls += 1
            return a + b + current.get() - 1
    def is_thing(value): return isinstance(value, Thing)
    def make(x): return Thing(x)
    def maker(n):
        def inner(x): return add(n, x)
        return inner
"""


def test_a_module_with_locks_and_handles_can_be_used(rc, lview, write):
    write(own_safe=SAFE)
    safe = get("own_safe")
    assert lview.apply_sync(safe.add, 1, 2) == 3
    assert lview.apply_sync(lambda a, b: safe.add(a, b), 1, 2) == 3
    assert lview.map_sync(safe.add, [1, 2], [3, 4]) == [4, 6]
    assert rc[:].map_sync(safe.add, [1, 2], [3, 4]) == [4, 6]
    assert lview.apply_sync(safe.maker(5), 1) == 6
    assert rc[0].apply_sync(lambda: safe.lock.locked()) is False


def test_its_state_lives_once_on_an_engine(rc, write):
    write(
        own_state="count = 0\ndef bump():\n    global count\n    count += 1\n    return count\n"
        "def read():\n    return count\n"
    )
    state = get("own_state")
    assert [rc[0].apply_sync(state.bump) for _ in range(3)] == [1, 2, 3]
    assert rc[0].apply_sync(lambda: state.bump()) == 4
    assert rc[0].apply_sync(lambda: (state.count, state.read())) == (4, 4)
    assert rc[0].map_sync(lambda _: state.bump(), range(2)) == [5, 6]
    assert state.count == 0


def test_isinstance_works_on_both_sides(rc, write):
    write(own_safe=SAFE)
    safe = get("own_safe")
    here = safe.Thing(1)
    assert rc[0].apply_sync(safe.is_thing, here) is True
    assert rc[0].apply_sync(lambda v: isinstance(v, safe.Thing) and safe.is_thing(v), here) is True
    back = rc[0].apply_sync(safe.make, 3)
    assert type(back) is safe.Thing and back.x == 3
    assert type(rc[0].apply_sync(lambda: [safe.Thing(4)])[0]) is safe.Thing
    assert rc[0].apply_sync(lambda: safe.Thing) is safe.Thing
    # As arguments of what needs no module, as items, pushed and pulled.
    assert "own_safe.Thing object" in rc[0].apply_sync(repr, here)
    assert all(type(each) is safe.Thing for each in rc[0].map_sync(copied, [here, here]))
    rc[0].push({"thing": here}, block=True)
    assert type(rc[0].pull("thing", block=True)) is safe.Thing
    assert rc[0].pull("type(thing) is __import__('own_safe').Thing", block=True) is True
    assert len(safe.Thing.made) == 1, "no result has written to the class that is here"


def copied(value):
    return value


def test_names_are_plain_and_hold_no_code(write):
    write(own_safe=SAFE)
    safe = get("own_safe")
    for value in (safe.add, safe.Thing, [safe.Thing(1)], safe):
        buffers, holds, _ = dumps(value)
        assert holds == HAS_MODULES
        assert b"cloudpickle" not in buffers[0]
    assert dumps([safe.Thing(1)])[0][0] == pickle.dumps([safe.Thing(1)], 5)


PACKAGE = {
    "own_pkg__slash____init__": "from .core import run\nfrom . import names\nVERSION = '1'\n",
    "own_pkg__slash__core": "from .deep.part import Part\nfrom . import names\n"
    "def run(x):\n    from .late import late\n    return late(Part(x)), names.NAME\n",
    "own_pkg__slash__names": "NAME = 'n'\n",
    "own_pkg__slash__late": "from own_alone import twice\n"
    "def late(part):\n    return twice(part.x)\n",
    "own_pkg__slash__deep__slash____init__": "",
    "own_pkg__slash__deep__slash__part": "class Part:\n"
    "    def __init__(self, x):\n        self.x = x\n",
    "own_alone": "def twice(x):\n    return 2 * x\n",
    "own_space__slash__inner": "def f():\n    return __name__, __package__\n",
}


def test_packages_relative_and_late_imports(rc, write):
    write(**PACKAGE)
    package = get("own_pkg")
    assert rc[0].apply_sync(package.run, 2) == (4, "n")
    assert rc[0].apply_sync(lambda: package.core.run(3)) == (6, "n")
    part = get("own_pkg.deep.part")
    back = rc[0].apply_sync(lambda p: part.Part(p.x + 1), part.Part(1))
    assert type(back) is part.Part and back.x == 2
    assert rc[0].apply_sync(get("own_space.inner").f) == ("own_space.inner", "own_space")
    assert rc[0].apply_sync(lambda: package.__path__[0].endswith("own_pkg")) is True


def test_a_function_of_main_may_import_when_it_runs(rc, write, monkeypatch):
    write(own_late="from own_later import value\n", own_later="value = 7\n")
    scope: dict = {"__name__": "__main__"}
    exec(
        "def f():\n    import own_late\n    from own_later import value\n    return own_late.value + value\n",
        scope,
    )
    assert rc[0].apply_sync(scope["f"]) == 14
    assert "own_late" not in sys.modules


def test_an_edited_module_is_the_new_one(rc, lview, write):
    text = "from own_base import base\nclass C: pass\ndef f(x):\n    return base(x) + {n}\n"
    text += "def is_c(v): return isinstance(v, C)\n"
    write(
        own_base="def base(x):\n    return x\n",
        own_edit=text.format(n=1),
        own_other="n = [0]\ndef other():\n    n[0] += 1\n    return n[0]\n",
    )
    edit, base, other = get("own_edit"), get("own_base"), get("own_other")
    assert (rc[0].apply_sync(edit.f, 1), rc[0].apply_sync(other.other)) == (2, 1)
    write(own_edit=text.format(n=2))
    importlib.reload(edit)
    assert rc[0].apply_sync(edit.f, 1) == 3
    assert rc[0].apply_sync(lambda: edit.f(1)) == 3
    assert rc[0].apply_sync(edit.is_c, edit.C()) is True
    # What it imports was edited, and it was not itself.
    write(own_base="def base(x):\n    return 10 * x\n")
    importlib.reload(base)
    importlib.reload(edit)
    assert lview.map_sync(edit.f, [1, 2]) == [12, 22]
    # A new import instead of a reload.
    write(own_edit=text.format(n=3))
    del sys.modules["own_edit"]
    assert rc[0].apply_sync(get("own_edit").f, 1) == 13
    assert rc[0].apply_sync(other.other) == 2, "what nobody edited has its state still"


def test_a_file_that_changed_after_its_import_is_told(rc, write):
    write(own_stale="def f():\n    return 1\n")
    stale = get("own_stale")
    write(own_stale="def f():\n    return 22\n")
    with pytest.warns(
        RuntimeWarning, match="own_stale.py has changed since own_stale was imported here"
    ):
        assert rc[0].apply_sync(stale.f) == 22


def test_two_sessions_with_one_name_have_each_their_own(cluster, rc, write, tmp_path):
    write(
        own_same="n = 0\ndef f():\n    global n\n    n += 1\n    return 'mine', n\n"
        "class C: pass\ndef g(v): return isinstance(v, C)\n"
    )
    same = get("own_same")
    (tmp_path / "own_same.py").write_text(
        "n = 0\ndef f():\n    global n\n    n += 1\n    return 'other', n\n"
    )
    program = (
        "import sys, furlong, own_same\n"
        "with furlong.Client(sys.argv[1]) as rc:\n    print(rc[0].apply_sync(own_same.f))\n"
    )
    (tmp_path / "program.py").write_text(program)
    for n in (1, 2):
        assert rc[0].apply_sync(same.f) == ("mine", n)
        assert rc[0].apply_sync(same.g, same.C()) is True
        done = subprocess.run(
            [sys.executable, tmp_path / "program.py", str(cluster.capability)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"('other', {n})\n", done.stderr
    assert rc[0].apply_sync(same.f) == ("mine", 3)


def test_lines_are_shown(rc, write):
    write(own_lines="def fails():\n    return 1 / 0  # this line\n")
    lines = get("own_lines")
    source, file = rc[0].apply_sync(lambda: (inspect.getsource(lines.fails), lines.__file__))
    assert source == inspect.getsource(lines.fails)
    assert file == lines.__file__
    with pytest.raises(ZeroDivisionError) as caught:
        rc[0].apply_sync(lines.fails)
    assert "# this line" in caught.value.traceback


POOL = """
    import multiprocessing
    def square(x): return x * x
    def squares(method, n):
        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.map(square, range(n))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_in_a_task_finds_it(rc, write, method):
    write(own_pool=POOL)
    assert rc[0].apply_sync(get("own_pool").squares, method, 3) == [0, 1, 4]


def test_a_file_beside_a_module_is_found(rc, write, tmp_path):
    write(
        own_data="from pathlib import Path\n"
        "def f():\n    return (Path(__file__).parent / 'data.txt').read_text()\n"
    )
    (tmp_path / "own" / "data.txt").write_text("beside")
    assert rc[0].apply_sync(get("own_data").f) == "beside"


def test_an_error_in_a_module_is_told(rc, write):
    write(
        own_broken="import sys\n"
        "if 'furlong_worker' in sys.modules: raise RuntimeError('not here')\n"
        "def f(): pass\n"
    )
    broken = get("own_broken")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not here"):
            rc[0].apply_sync(broken.f)


CONFIG = """
    SCALE = 2
    NAMES = ["a"]
    DEBUG: bool = False
    START = __import__("time").time()
    LIMIT = 10 * 2
    cache = {}
    level = 1
    def configure(n):
        global level
        level = n
    def helper(x): return x
    def read(x):
        cache[x] = 1
        return SCALE * x, NAMES, DEBUG, LIMIT, helper(x), sorted(cache), level
    class Thing:
        kind = "thing"
"""


def test_what_was_set_from_outside_goes_along(rc, write):
    write(own_config=CONFIG)
    config = get("own_config")
    assert rc[0].apply_sync(config.read, 1) == (2, ["a"], False, 20, 1, [1], 1)
    config.SCALE = 5
    config.NAMES.append("b")
    assert rc[0].apply_sync(config.read, 2) == (10, ["a", "b"], False, 20, 2, [1, 2], 1)
    config.DEBUG, config.LIMIT = True, None
    config.helper = lambda x: -x
    config.NEW = 9
    assert rc[0].apply_sync(lambda: (config.read(3), config.NEW)) == (
        (15, ["a", "b"], True, None, -3, [1, 2, 3], 1),
        9,
    )
    config.SCALE = 2
    assert rc[0].apply_sync(config.read, 1)[0] == 2
    start = rc[0].apply_sync(lambda: config.START)
    assert start != config.START
    # What the engine sets itself stays, as long as it is not set here.
    rc[0].apply_sync(set_there, "SCALE", 7)
    assert rc[0].apply_sync(config.read, 1)[0] == 7


def test_what_was_set_stays_when_other_modules_come_along(rc, write):
    write(own_first="LEVEL = 1\ndef level(): return LEVEL\n", own_second="def two(): return 2\n")
    first = get("own_first")
    first.LEVEL = 7
    assert rc[0].apply_sync(first.level) == 7
    assert rc[0].apply_sync(get("own_second").two) == 2
    assert rc[0].apply_sync(first.level) == 7
    assert rc[1].apply_sync(first.level) == 7


def test_what_was_set_in_the_place_of_an_imported_name_goes_along(rc, write):
    write(
        own_origin="LEVEL = 1\nOTHER = [1]\ndef helper(): return 'helper'\n",
        own_user="""
            from os.path import join
            from own_origin import LEVEL, OTHER as other, helper
            def seen(): return LEVEL, other, helper(), join("a", "b")
        """,
    )
    user = get("own_user")
    assert rc[1].apply_sync(user.seen) == (1, [1], "helper", "a/b")
    user = importlib.reload(user)
    user.LEVEL, user.other, user.helper, user.join = 7, [7], lambda: "patched", lambda *parts: parts
    assert rc[0].apply_sync(user.seen) == (7, [7], "patched", ("a", "b"))


def test_what_one_session_sets_is_not_anothers(cluster, rc, write, tmp_path):
    write(own_level="LEVEL = 1\ndef f(): return LEVEL\n")
    level = get("own_level")
    program = "import sys, furlong, own_level\nown_level.LEVEL = 2\n"
    program += "with furlong.Client(sys.argv[1]) as rc: print(rc[0].apply_sync(own_level.f))\n"
    (tmp_path / "program.py").write_text(program)
    for _ in range(2):
        assert rc[0].apply_sync(level.f) == 1
        done = subprocess.run(
            [sys.executable, tmp_path / "program.py", str(cluster.capability)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "2\n", done.stderr
    assert rc[0].apply_sync(level.f) == 1


def set_there(name, value):
    setattr(importlib.import_module("own_config"), name, value)


def test_what_its_own_code_sets_here_goes_along_as_well(rc, write):
    write(own_config=CONFIG + "    # set by itself\n")
    config = get("own_config")
    config.configure(3)
    config.read(9)
    assert rc[0].apply_sync(config.read, 1)[5:] == ([1, 9], 3)
    rc[0].apply_sync(config.configure, 4)
    assert rc[0].apply_sync(config.read, 1)[6] == 4, "what was set there later stays"
    config.configure(5)
    assert rc[0].apply_sync(config.read, 1)[6] == 5


def test_what_was_set_and_has_no_pickle_is_told(rc, write):
    write(own_config=CONFIG + "    # another one\n")
    config = get("own_config")
    config.SCALE = threading.Lock()
    with pytest.warns(
        RuntimeWarning,
        match="own_config.SCALE was changed here after the import, and engines cannot",
    ):
        assert rc[0].apply_sync(config.read, 1)[0] == 2


def test_what_the_engine_has_imported_itself_is_the_same_module(own, write, tmp_path):
    write(own_there="n = 0\ndef bump():\n    global n\n    n += 1\n    return n\n")
    there = get("own_there")
    with own(n=1, cwd=tmp_path / "own").start_and_connect_sync() as rc:
        rc[0].execute("import own_there; own_there.n = 5", block=True)
        assert rc[0].apply_sync(there.bump) == 6
        rc[0].execute("m = own_there.bump()", block=True)
        assert rc[0].pull("m, own_there is __import__('own_there')", block=True) == (7, True)


def test_imports_on_engines_find_it_as_well(rc, view, write):
    write(
        own_imported="value = [1]\ndef f(): return value\n",
        own_required="import own_imported\nlevel = 2\n",
    )
    with view.sync_imports(quiet=True):
        import own_imported  # type: ignore[import-not-found]
    assert view.apply_sync(lambda: own_imported.value) == [[1]] * 4
    assert rc[0].pull("own_imported.f()", block=True) == [1]

    @furlong.require("own_required")
    def level():
        return own_required.level  # noqa: F821

    assert rc[1].apply_sync(level) == 2


def test_a_class_follows_what_is_set_here_and_keeps_what_is_set_there(rc):
    scope: dict = {"__name__": "__main__"}
    text = "class C:\n    total = 0\n    unit = 'm'\n    sizes = [1]\n"
    text += "    def who(self): return {who!r}, self.unit, self.sizes\n"
    exec(text.format(who="first"), scope)
    first = scope["C"]

    def count(cls):
        cls.total += 1
        return cls.total

    def who(value):
        return value.who()

    assert [rc[0].apply_sync(count, first) for _ in range(3)] == [1, 2, 3]
    assert rc[0].apply_sync(who, first()) == ("first", "m", [1])
    first.unit = "km"
    first.sizes.append(2)
    assert rc[0].apply_sync(who, first()) == ("first", "km", [1, 2])
    assert rc[0].apply_sync(count, first) == 4
    first.who = lambda self: "patched"
    assert rc[0].apply_sync(who, first()) == "patched"
    del first.unit
    assert rc[0].apply_sync(lambda cls: hasattr(cls, "unit"), first) is False
    exec(text.format(who="second"), scope)
    second = scope["C"]
    told = rc[0].apply_sync(
        lambda a, b: (a.who(), b.who()[0], type(a) is type(b)), first(), second()
    )
    assert told == ("patched", "second", False)
    assert type(rc[0].apply_sync(copied, first())) is first
    assert type(rc[0].apply_sync(copied, second())) is second
    assert first.total == second.total == 0


def test_a_class_of_the_engines_own_is_that_of_the_same_name_here(rc, monkeypatch):
    class Reading:
        """As a script has it."""

    Reading.__qualname__, Reading.__module__ = "Reading", "__main__"
    rc[0].execute(
        "class Reading:\n    there = 1\nclass Other:\n    x = 5\nr = Reading(); r.value = 3",
        block=True,
    )
    other = rc[0].pull("Other()", block=True)
    assert (type(other).__name__, other.x) == ("Other", 5)
    monkeypatch.setattr(sys.modules["__main__"], "Reading", Reading, raising=False)
    back = rc[0]["r"]
    assert type(back) is Reading and back.value == 3
    assert not hasattr(Reading, "there")


def test_a_module_with_a_name_of_pythons_own(rc, write):
    write(this="def mine(x):\n    return 'mine', x\n")
    assert rc[0].apply_sync(get("this").mine, 1) == ("mine", 1)


def test_modules_in_archives_and_made_by_code(rc, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("own_zipped.py", "def f():\n    return __name__\n")
    monkeypatch.syspath_prepend(tmp_path / "z.zip")
    assert rc[0].apply_sync(get("own_zipped").f) == "own_zipped"
    made = types.ModuleType("own_made")
    monkeypatch.setitem(sys.modules, "own_made", made)
    exec("K = 3\ndef f(x):\n    return x + K\nclass Q: pass\n", vars(made))
    assert rc[0].apply_sync(made.f, 1) == 4
    assert type(rc[0].apply_sync(copied, made.Q())) is made.Q
    sys.modules.pop("own_zipped")


def name_of_type(value):
    return type(value).__name__


def test_a_library_is_sent_once(rc, write):
    write(own_once="def f(): return 1\ndef g(): return 2\nclass C: pass\n")
    once = get("own_once")
    assert (rc[0].apply_sync(once.f), rc[0].apply_sync(once.g)) == (1, 2)
    # This module is one of the library as well, from the first call of one of its functions on.
    assert rc[0].apply_sync(name_of_type, 1) == "int"
    before = own_modules.current()
    assert rc[0].apply_sync(name_of_type, once.C()) == "C"
    assert own_modules.current() is before
    function, holds = function_of(once.f)
    assert equipped(function, holds) is equipped(function, holds)


def test_installed_modules_do_not_go_along(write):
    write(own_np="import json\nimport numpy as np\ndef f(): return np.zeros(3)\n")
    dumps(get("own_np").f)
    names = set(own_modules.current().modules)
    assert "own_np" in names
    assert not names & {"json", "numpy", "furlong", "cloudpickle"}


def test_nodes_that_all_trees_share_may_lead_back() -> None:
    name = ast.parse("a = 1").body[0].targets[0]
    name.ctx.parent = name
    try:
        assert names_imported(b"import textwrap\na = 2", "") == ("textwrap",)
    finally:
        del name.ctx.parent


def test_a_class_of_an_earlier_source_stays_another(rc, write):
    write(own_old="class C:\n    n = 1\n")
    old = get("own_old")
    first = old.C()
    write(own_old="class C:\n    n = 2\n")
    importlib.reload(old)
    told = rc[0].apply_sync(lambda a, b: (a.n, b.n, type(a) is type(b)), first, old.C())
    assert told == (1, 2, False)
    assert type(rc[0].apply_sync(copied, first)) is type(first)


def test_with_furlong_imported_first_or_last(cluster, tmp_path):
    (tmp_path / "own_first.py").write_text("LEVEL = 1\ndef f(): return LEVEL\n")
    for order in ("furlong, own_first", "own_first, furlong"):
        program = f"import sys\nimport {order}\nown_first.LEVEL = 4\n"
        program += "with furlong.Client(sys.argv[1]) as rc: print(rc[0].apply_sync(own_first.f))\n"
        (tmp_path / "program.py").write_text(program)
        done = subprocess.run(
            [sys.executable, tmp_path / "program.py", str(cluster.capability)],
            env={**os.environ, "PYTHONPATH": str(Path(furlong.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "4\n", done.stderr


def test_names_that_a_module_lacks_are_the_namespaces(rc, write):
    write(
        own_lack="def f():\n    return engine_id, pushed\n"
        "def g():\n    global stored\n    stored = 5\n    return [f() for _ in 'a']\n"
    )
    lack = get("own_lack")
    with pytest.raises(NameError, match="pushed"):
        rc[1].apply_sync(lack.f)
    rc[1].push({"pushed": 3}, block=True)
    assert rc[1].apply_sync(lack.f) == (1, 3)
    assert rc[1].apply_sync(lack.g) == [(1, 3)]
    rc[1].push({"pushed": [4], "stored": 6}, block=True)
    assert rc[1].apply_sync(lack.g) == [(1, [4])]
    assert rc[1].map_sync(lambda _: (lack.f(), lack.stored), [0]) == [((1, [4]), 5)]
    rc[1].execute("del pushed", block=True)
    with pytest.raises(NameError, match="pushed"):
        rc[1].apply_sync(lack.f)
