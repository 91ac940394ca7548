"""Global names of functions: the engine's namespace, and what the client has where the session has put nothing."""

import functools
import sys
import textwrap
import types
import warnings
from random import Random

import pytest

import furlong
from furlong import EngineNameWarning, _wire
from furlong.pickling import main_globals

PUT = 40
OTHERS = 7


class Main:
    """A program's ``__main__``, in which a test defines what it sends."""

    def __init__(self, monkeypatch):
        self._module = types.ModuleType("__main__")
        self._monkeypatch = monkeypatch
        self.enter()

    def enter(self):
        self._monkeypatch.setitem(sys.modules, "__main__", self._module)

    def __call__(self, source):
        self.enter()
        exec(textwrap.dedent(source), vars(self._module))
        return self

    def __getattr__(self, name):
        self.enter()
        return vars(self._module)[name]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.setattr(_wire, "_warned_of", set())
    return Main(monkeypatch)


@pytest.fixture
def one(rc):
    view = rc[0]
    view.block = True
    return view


@pytest.fixture
def other(cluster, rc):
    with furlong.Client(cluster=cluster) as client:
        view = client[0]
        view.block = True
        yield view


pytestmark = pytest.mark.filterwarnings("ignore::furlong.errors.EngineNameWarning")

READERS = {
    "plain": "f = lambda: x",
    "eval": "f = lambda: (x, eval('x'))[1]",
    "globals": "f = lambda: (x, globals()['x'])[1]",
    "exec": "def f():\n    names = {}\n    exec('y = x', globals(), names)\n    return names['y']",
    "nested": "def f():\n    def g():\n        return x\n    return g()",
    "lambda": "f = lambda: (lambda: x)()",
    "comprehension": "f = lambda: [x for _ in range(1)][0]",
    "generator": "def g():\n    yield x\nf = lambda: next(g())",
    "class body": "def f():\n    class C:\n        y = x\n    return C.y",
    "method": "class C:\n    def m(self):\n        return x\nf = lambda: C().m()",
    "property": "class C:\n    m = property(lambda self: x)\nf = lambda: C().m",
    "default of a call": "def f(y=None):\n    return x if y is None else y",
    "callable object": "class C:\n    def __call__(self):\n        return x\nf = C()",
    "bound method": "class C:\n    def m(self):\n        return x\nf = C().m",
    "thread": """
        import threading
        def f():
            seen = []
            thread = threading.Thread(target=lambda: seen.append(x))
            thread.start()
            thread.join()
            return seen[0]
    """,
    "coroutine": "import asyncio\nasync def g():\n    return x\nf = lambda: asyncio.run(g())",
    "decorated": """
        import functools
        def twice(g):
            @functools.wraps(g)
            def wrapper():
                return g()
            return wrapper
        @twice
        def f():
            return x
    """,
    "cached": "import functools\n@functools.lru_cache(maxsize=0)\ndef f():\n    return x",
    "mutual": "def f(n=3):\n    return x if n == 0 else g(n)\ndef g(n):\n    return f(n - 1)",
    "container": "table = {'g': [lambda: x]}\nf = lambda: table['g'][0]()",
    "partial": "import functools\ndef g(a, b):\n    return x\nf = functools.partial(g, 1, b=2)",
}


@pytest.mark.parametrize("reader", READERS)
def test_names_every_way_of_reading_finds_what_was_put_or_is_here(one, main, reader):
    main("x = 1")
    main(READERS[reader])
    if reader != "exec":  # its code names nothing that could go along
        assert one.apply(main.f) == 1
        assert one.keys() == []
    one.push({"x": PUT})
    assert one.apply(main.f) == PUT
    one.execute("x = 41")
    assert one.apply(main.f) == PUT + 1
    one.execute("del x")
    if reader != "exec":
        assert one.apply(main.f) == 1


def test_names_stored_with_global_are_the_engines(one, main):
    main("""
        n = 0
        def bump():
            global n
            n += 1
            return n
        def make():
            global made
            made = n
        def read():
            return n, made
        def store_the_same():
            global n
            n = 0
    """)
    assert [one.apply(main.bump) for _ in range(3)] == [1, 2, 3]
    one.apply(main.make)
    assert (one["n"], one["made"], main.n) == (3, 3, 0)
    assert one.keys() == ["made", "n"]
    assert one.apply(main.read) == (3, 3)
    one.clear()
    one.apply(main.store_the_same)
    main("n = 9")
    assert one.apply(lambda: None) is None
    assert one.apply(main("read_n = lambda: n").read_n) == 0


@pytest.mark.parametrize(
    "put",
    [
        "one.push({'id': 5})",
        "one.execute('id = 5')",
        "one.execute('import math as id')",
        "one.execute('def id(): pass')",
        "one.execute('for id in [5]: pass')",
        "one.execute('exec(\"id = 5\")')",
        "one.scatter('id', [5, 6])",
        "one.apply(set_it)",
    ],
)
def test_names_that_were_put_go_before_builtins(one, main, put):
    main("def set_it():\n    global id\n    id = 5\nread = lambda: callable(id) and id([]) > 0")
    assert one.apply(main.read) is True
    exec(put, {"one": one, "set_it": main.set_it})
    assert one.keys() == ["id"]
    with pytest.raises(
        (TypeError, AssertionError)
    ):  # a number, a list, a module or a function of nothing
        assert one.apply(main.read)


def test_names_here_change_and_go_along_again(one, main):
    main("def helper():\n    return x\nx = 1\nf = lambda: helper()")
    assert one.apply(main.f) == 1
    main("x = 2")
    assert one.apply(main.f) == 2
    main("def helper():\n    return 10 * x")
    assert one.apply(main.f) == 20
    main("x = 1")
    assert one.apply(main.f) == 10
    main("del x")
    with pytest.raises(NameError):
        one.apply(main.f)
    main("len = lambda _: 'mine'\ng = lambda: len([])")
    assert one.apply(main.g) == "mine"
    main("del len")
    assert one.apply(main.g) == 0


def test_names_of_functions_are_no_variables(one, main):
    main("x, rank = 1, 2\nf = lambda: (x, rank)")
    assert one.apply(main.f) == (1, 2)
    assert one.keys() == []
    for look in (lambda: one["x"], lambda: one.apply(lambda v: v, furlong.Reference("x"))):
        with pytest.raises(NameError):
            look()
    one.push({"y": 3})
    assert one.keys() == ["y"]
    assert one["engine_id"] == 0


def test_names_of_pushed_functions_serve_executed_code(one, main):
    main(
        "def helper(n):\n    return n * scale\nscale = 3\ndef f():\n    return [helper(n) for n in range(3)]"
    )
    one.push({"f": main.f})
    one.execute("r = f()")
    assert one["r"] == [0, 3, 6]
    assert one.keys() == ["f", "r"]
    one.execute("scale = 10")
    assert one.pull("f()") == [0, 10, 20]
    one.execute("def g():\n    return f()")
    assert one.apply(main("h = lambda: g()").h) == [0, 10, 20]


def test_names_of_another_session_reach_only_who_asks(one, other, main):
    main("x = 1\nread = lambda: x\nsize = lambda: len([1])\nask = lambda: y")
    other.push({"x": OTHERS, "len": OTHERS, "y": OTHERS})
    assert one.apply(main.read) == 1
    assert one.apply(main.size) == 1
    assert one.apply(main.ask) == OTHERS
    assert one["x"] == OTHERS
    assert other.apply(main.read) == OTHERS
    with pytest.raises(TypeError):
        other.apply(main.size)
    one.execute("x = 2")
    assert one.apply(main.read) == 2
    assert other.apply(main.read) == 1
    assert other["x"] == 2


def test_names_that_came_along_stay_with_their_session(one, other, main, monkeypatch):
    main("""
        def helper():
            return 'mine'
        def keep():
            global callback
            callback = lambda: helper()
        call = lambda: callback()
        len = lambda _: 'mine'
        size = lambda: len([])
    """)
    theirs = Main(monkeypatch)
    theirs(
        "def helper():\n    return 'theirs'\nf = lambda: helper()\nsize = lambda: len([])\nask = lambda: helper()"
    )
    one.apply(main.keep)
    assert one.apply(main("use = lambda: (helper(), len([]))").use) == ("mine", "mine")
    assert other.apply(theirs.f) == "theirs"
    assert other.apply(theirs.size) == 0
    assert other.pull("len([])") == 0
    assert one.apply(main.call) == "mine"
    assert one.pull("len([])") == "mine"
    theirs("del helper")
    with pytest.raises(NameError):
        other.apply(theirs.ask)
    assert one.apply(main.call) == "mine"
    one.push({"f": main("f = lambda: helper()").f})
    assert other.pull("f()") == "mine"


def test_names_give_way_with_one_warning(one, lview, main):
    main("x, same, data = 1, [1], 5\nf = lambda: (x, same)\ng = lambda n: x + n")
    one.push({"x": 2, "same": [1]})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            assert one.apply(main.f) == (2, [1])
        assert one.map(main.g, range(2)) == [2, 3]
    assert [type(warning.message) for warning in seen] == [EngineNameWarning]
    assert "`x`" in str(seen[0].message)
    assert seen[0].filename == __file__


def test_names_serve_in_every_kind_of_call(rc, view, lview, main):
    main("""
        import furlong
        scale = 2
        def times(n):
            return n * scale
        class Item:
            def __init__(self, n):
                self.n = n
            def get(self):
                return self.n * scale
        get = lambda item: item.get()
        call = lambda f, n: f(n)
        ask = lambda: scale == 2
        @furlong.require('math', more=5)
        def required(n):
            return math.floor(n) * scale + more
    """)

    def values():
        yield view.map_sync(main.times, range(4))
        yield lview.map_sync(main.times, range(4))
        yield list(view.imap(main.times, range(4)))
        yield list(rc.executor().map(main.times, range(4)))
        yield [lview.executor.submit(main.times, n).result() for n in range(4)]
        yield view.map_sync(main.times, range(4), return_exceptions=True)
        yield [lview.apply_sync(main.call, main.times, n) for n in range(4)]
        yield [lview.apply_sync(functools.partial(main.call, main.times), n) for n in range(4)]
        yield view.map_sync(main.get, [main.Item(n) for n in range(4)])
        yield list(
            view.parallel(block=True)(main("many = lambda ns: [times(n) for n in ns]").many)(
                range(4)
            )
        )
        yield [view.remote(block=True)(main.times)(n)[0] for n in range(4)]
        yield [part[0] - 5 for part in (view.apply_sync(main.required, n) for n in range(4))]
        if main.scale == 2:
            yield [lview.apply_sync(furlong.depend(main.ask)(main.times), n) for n in range(4)]

    assert [value for value in values() if value != [0, 2, 4, 6]] == []
    view.push({"scale": 3}, block=True)
    main("scale = 4")
    assert [value for value in values() if value != [0, 3, 6, 9]] == []


def test_names_of_builtins_that_look_at_their_caller(view, lview, one):
    """Their caller is the engine's namespace, as if code of it called them."""
    view.push({"data": PUT, "args": 1}, block=True)
    assert one.apply_sync(eval, "data + args") == PUT + 1
    assert one.apply_sync(eval, "data", {"data": 2}) == 2
    assert (
        view.map_sync(eval, ["data", "args"]) == lview.map_sync(eval, ["data", "args"]) == [PUT, 1]
    )
    assert lview.executor.submit(eval, "data").result() == PUT
    assert one.apply_sync(exec, "made = data + 2") is None
    assert (one["made"], "made" in one.keys(block=True)) == (PUT + 2, True)
    assert {"data", "made", "engine_id"} <= set(one.apply_sync(dir))
    assert one.apply_sync(dir, 1) == dir(1)


def test_names_go_along_with_results(one, main):
    main("x = 3\ndef helper():\n    return x\ndef make():\n    return lambda n: n + helper()")
    assert one.apply(main.make)(1) == 4
    one.push({"x": PUT})
    assert one.apply(main.make)(1) == PUT + 1


def test_names_of_a_namespace_that_no_module_has(one, main):
    scope = {"x": 1}
    exec("f = lambda: (x, y)", scope)
    one.push({"y": 2})
    assert one.apply(scope["f"]) == (1, 2)
    one.push({"x": PUT})
    assert one.apply(scope["f"]) == (PUT, 2)
    again = {"__name__": "__main__", "x": 1}
    exec("import collections\nC = collections.namedtuple('C', 'a')\nf = lambda: C(x).a", again)
    one.push({"C": again["C"], "f": again["f"]})
    one.execute("r = f()")
    assert one["r"] == PUT


def test_names_are_those_of_main(one, main):
    main(
        "__file__ = '/here/program.py'\ndef f():\n    import __main__\n    return __name__, __file__, __main__.x"
    )
    one.push({"x": 1})
    assert one.apply(main.f) == ("__main__", "/here/program.py", 1)
    assert one.apply(main("g = lambda: type(globals()) is dict").g)
    one.execute("7 + 7", silent=False)
    assert one.apply(main("_ = str.upper\nh = lambda: _('text')").h) == "TEXT"


def test_names_changed_in_place_are_no_names_put(one, main):
    main("seen = []\ndef f(n):\n    seen.append(n)\n    return list(seen)")
    assert one.apply(main.f, 1) == [1]
    assert one.apply(main.f, 2) == [1, 2]
    main("seen = ['new']")
    assert one.apply(main.f, 3) == ["new", 3]
    assert one.keys() == []


def test_names_survive_a_cancel_an_error_and_clear(one, main):
    main("x = 1\ndef f(fails):\n    global y\n    y = x\n    return 1 / (not fails)")
    with pytest.raises(ZeroDivisionError):
        one.apply(main.f, True)
    assert one["y"] == 1
    one.clear()
    assert one.apply(main.f, False) == 1
    assert one.keys() == ["y"]


PUTS = [
    "one.execute('import threading; lock = threading.Lock()')",
    "one.execute('with_lock = __import__(\"threading\").Lock(); lock = with_lock')",
    "one.apply(make)",
    "one.push({'lock': 5})",
]


@pytest.mark.parametrize("put", PUTS)
def test_names_of_what_has_no_pickle_are_the_engines(one, main, put, monkeypatch):
    monkeypatch.setattr(main_globals, "put", main_globals.Put())
    main("""
        import threading
        lock = threading.Lock()
        n = 4
        def helper():
            return type(lock).__name__, n
        f = lambda: helper()
        def make():
            global lock
            lock = threading.Lock()
    """)
    with pytest.raises(furlong.errors.PicklingError, match="lock"):
        one.apply(main.f)
    exec(put, {"one": one, "make": main.make})
    assert one.apply(main.f) == ("int" if "push" in put else "lock", 4)


def test_names_of_results_are_the_engines(one, rc, main, monkeypatch):
    monkeypatch.setattr(main_globals, "put", main_globals.Put())
    main("f = lambda: x")
    monkeypatch.setitem(sys.modules["__main__"].__dict__, "x", rc[0].apply_async(abs, -3))
    with pytest.raises(furlong.errors.PicklingError, match="no part of a function"):
        one.apply(main.f)
    one.push({"x": 5})
    assert one.apply(main.f) == 5


class Model:
    """The names of one engine, for sessions that put, store, delete and read them."""

    NAMES = ("a", "b", "len")

    def __init__(self):
        self.there = {}

    def read(self, session, here, name):
        value, owner = self.there.get(name, (None, None))
        if owner == session:
            return value
        if name in here:
            return here[name]
        if owner is not None and name != "len":
            return value
        return "builtin" if name == "len" else "NameError"

    def pull(self, name):
        return (
            self.there[name][0]
            if name in self.there
            else "builtin"
            if name == "len"
            else "NameError"
        )


def outcome(call):
    try:
        value = call()
    except NameError:
        return "NameError"
    return "builtin" if callable(value) else value


@pytest.mark.parametrize("seed", range(3))
def test_names_of_two_sessions_are_as_the_rule_says(one, other, main, monkeypatch, seed):
    random = Random(seed)
    model, sessions = Model(), ((0, one, main), (1, other, Main(monkeypatch)))
    here = ({}, {})
    for _ in range(150):
        session, view, program = random.choice(sessions)
        name, value = random.choice(Model.NAMES), random.randrange(3)
        act = random.choice(
            ("here", "gone", "push", "execute", "store", "delete", "read", "read", "read", "pull")
        )
        if act == "here":
            program(f"{name} = {value}")
            here[session][name] = value
        elif act == "gone" and here[session].pop(name, None) is not None:
            program(f"del {name}")
        elif act == "push":
            view.push({name: value})
            model.there[name] = value, session
        elif act == "execute":
            view.execute(f"{name} = {value}")
            model.there[name] = value, session
        elif act == "store":
            view.apply(
                program(f"def store(value):\n    global {name}\n    {name} = value").store, value
            )
            model.there[name] = value, session
        elif act == "delete" and model.there.get(name, (0, 2))[1] == session:
            view.execute(f"del {name}")
            del model.there[name]
        elif act == "read":
            read = program(f"read = lambda: {name}").read
            got = outcome(lambda: view.apply(read))  # noqa: B023 - called at once
            assert got == model.read(session, here[session], name)
        elif act == "pull":
            got = outcome(lambda: view.pull(name))  # noqa: B023 - called at once
            assert got == model.pull(name)
        assert view.keys() == sorted(model.there)
