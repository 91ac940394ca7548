"""Calls of functions: how they get to engines, what they see there, and what comes back."""

import asyncio
import builtins
import collections
import concurrent.futures
import contextlib
import functools
import sys
import threading

import numpy as np
import pytest

import furlong
from furlong import CompositeError, Reference, RemoteError
from furlong.pickling import engine_names
from furlong.pickling.arguments import dumps

Point = collections.namedtuple("Point", ["x", "y"])
OFFSET = 100


def test_025_functions_may_have_arguments_of_any_name(rc, lview):
    def g(**named):
        return named

    names = {"f": 5, "self": 1, "block": False, "args": (1,), "__f": 2, "label": "x"}
    assert rc[0].apply_async(g, **names).get() == names
    assert rc[0].apply_sync(g, **names) == names
    assert lview.apply_sync(g, **names) == names
    assert lview.apply_async(g, **names).get() == names


def test_026_reference_as_an_argument(rc, view):
    view.execute("a = engine_id\ng = [engine_id * 10, 'x']", block=True)
    assert view.apply_sync(lambda x: x, Reference("a")) == [0, 1, 2, 3]
    assert view.apply_sync(lambda x: x, Reference("g[0]")) == [0, 10, 20, 30]
    assert view.apply_sync(lambda x=None: x, x=Reference("a + 1")) == [1, 2, 3, 4]
    assert rc[2].apply_sync(lambda x, y: x + y, Reference("a"), Reference("g[0]")) == 22


def test_026_reference_inside_containers(rc):
    rc[3].execute("a = engine_id", block=True)
    assert rc[3].apply_sync(lambda x: x, [Reference("a"), 1]) == [3, 1]
    assert rc[3].apply_sync(lambda x: x, {"k": Reference("a")}) == {"k": 3}
    assert rc[3].apply_sync(lambda x: x, (Reference("a"), [[Reference("a")]])) == (3, [[3]])


def test_026_reference_as_the_function(view):
    view.execute(
        "def f(x=1):\n    return x + engine_id\nclass C:\n    m = staticmethod(f)", block=True
    )
    assert view.apply_sync(Reference("f")) == [1, 2, 3, 4]
    assert view.apply_sync(Reference("f"), 5) == [5, 6, 7, 8]
    assert view.apply_sync(Reference("C.m"), x=2) == [2, 3, 4, 5]
    view.execute("f = lambda x=1: -x", block=True)
    assert view.apply_sync(Reference("f"), 5) == [-5] * 4
    assert view.map_sync(Reference("f"), range(5)) == [0, -1, -2, -3, -4]


def test_026_reference_as_an_item_of_a_map(view, rc):
    view.execute("a = engine_id", block=True)
    assert view.map_sync(lambda x: x, [Reference("a")] * 8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rc[1].map_sync(lambda x, y: (x, y), [Reference("a")], [7]) == [(1, 7)]


def test_026_reference_to_what_is_missing(view, rc):
    with pytest.raises(NameError, match="nowhere"):
        rc[0].apply_sync(lambda x: x, Reference("nowhere"))
    with pytest.raises(NameError):
        rc[0].apply_sync(Reference("nowhere"))
    with pytest.raises(CompositeError) as caught:
        view.map_sync(lambda x: x, [Reference("nowhere")] * 4)
    assert {error.ename for error in caught.value.errors} == {"NameError"}
    with pytest.raises(SyntaxError):
        rc[0].apply_sync(lambda x: x, Reference("a +"))


def test_026_reference_is_text():
    with pytest.raises(TypeError):
        Reference(5)
    assert repr(Reference("a[0]")) == "<Reference: 'a[0]'>"
    with pytest.raises(RuntimeError, match="engines"):
        Reference("a")()


def test_027_defaults_that_are_functions(view):
    def helper(x):
        return x * OFFSET

    def g(x, f=helper, *, h=lambda x: x + 1):
        return f(x), h(x)

    assert view.apply_sync(g, 2) == [(200, 3)] * 4
    view.push({"g": g}, block=True)
    assert view.pull("g(3)", block=True) == [(300, 4)] * 4


def test_028_named_tuples_keep_their_fields(rc, view):
    back = rc[0].apply_sync(lambda p: p, Point(1, y=[2]))
    assert back == Point(1, [2])
    assert back.x == 1
    assert back._fields == ("x", "y")
    assert type(back).__name__ == "Point"
    made = view.apply_sync(lambda x: Point(x, y=engine_id), 5)  # noqa: F821
    assert [p.y for p in made] == [0, 1, 2, 3]
    assert rc[0].apply_sync(lambda p: (p.x, p.y), Point(3, 4)) == (3, 4)


@pytest.mark.parametrize("targets", [[2], slice(2, 3), (2,), range(2, 3)])
def test_029_a_view_of_a_list_has_a_list(rc, targets):
    several = rc[targets]
    assert several.apply_sync(lambda: engine_id) == [2]  # noqa: F821
    several.push({"a": 5}, block=True)
    assert several["a"] == [5]
    assert several.apply_async(int).get() == [0]
    assert rc[2].apply_sync(lambda: engine_id) == 2  # noqa: F821
    assert rc[2]["a"] == 5
    assert len(several) == len(rc[2]) == 1


def test_029_targets_of_a_call_say_whether_it_is_a_list(rc, view):
    view["a"] = 1
    assert view.pull("a", targets=0, block=True) == 1
    assert view.pull("a", targets=[0], block=True) == [1]
    assert rc[0].pull("a", targets=[1, 2], block=True) == [1, 1]


def test_029_order_of_targets_is_that_of_the_values(rc):
    assert rc[[3, 0, 2]].apply_sync(lambda: engine_id) == [3, 0, 2]  # noqa: F821
    assert rc[::-1].apply_sync(lambda: engine_id) == [3, 2, 1, 0]  # noqa: F821


def test_030_flags_are_restored(view):
    view.block = True
    with view.temp_flags(block=False, label="within", priority=3) as same:
        assert same is view
        result = view.apply(int)
        assert isinstance(result, furlong.AsyncResult)
        assert result.get() == [0] * 4
        assert result.label == ["within"] * 4
    assert view.block is True
    assert view.label is None
    assert view.priority == 0
    assert view.apply(int) == [0] * 4
    with contextlib.suppress(ZeroDivisionError), view.temp_flags(block=False):
        1 / 0  # noqa: B018
    assert view.block is True


def test_030_a_wrong_flag_leaves_the_others_alone(view, lview):
    for some in (view, lview):
        with pytest.raises(KeyError), some.temp_flags(label="x", bad=1):
            pass
        assert some.label is None
        assert not hasattr(some, "bad")


def test_031_set_flags_takes_what_exists(view, lview):
    for some in (view, lview):
        assert some.set_flags(block=True, label="x") is some
        assert (some.block, some.label) == (True, "x")
        with pytest.raises(KeyError, match="bad"):
            some.set_flags(bad=1, label="y")
        assert some.label == "x"


def test_031_an_option_out_of_bounds_is_refused(lview):
    for flags in (
        {"timeout": -1.0},
        {"run_timeout": 0.0},
        {"backoff": float("nan")},
        {"label": "x" * 100_000},
    ):
        with pytest.raises(ValueError):
            lview.set_flags(**flags)
    with pytest.raises(TypeError):
        lview.set_flags(retries="three")
    assert lview.apply_sync(int) == 0


def test_032_importer_imports_on_engines(view, capsys):
    view.execute("import sys; sys.modules.pop('colorsys', None)", block=True)

    @furlong.interactive
    def uses():
        return colorsys.rgb_to_hsv(1, 1, 1)  # noqa: F821

    with pytest.raises(CompositeError, match="NameError"):
        view.apply_sync(uses)
    with view.importer:
        exec("import colorsys", {})
    assert view.apply_sync(uses) == [(0.0, 0.0, 1)] * 4
    assert "importing colorsys on engine(s)" in capsys.readouterr().out


def test_032_sync_imports_print_unless_quiet(view, capsys):
    with view.sync_imports():
        import fractions  # noqa: F401
        from string import ascii_letters, digits  # noqa: F401
    printed = capsys.readouterr().out
    assert "importing fractions on engine(s)" in printed
    assert "importing ascii_letters, digits from string on engine(s)" in printed
    with view.sync_imports(quiet=True):
        import decimal  # noqa: F401
        import os.path  # noqa: F401
    assert capsys.readouterr().out == ""
    names = "(digits, fractions.Fraction(1, 2) * 2, decimal.Decimal(3), os.path.sep)"
    assert view.pull(names, block=True) == [("0123456789", 1, 3, "/")] * 4


def test_032_the_block_leaves_the_import_statement_as_it_was(view):
    import builtins

    before = builtins.__import__
    with pytest.raises(ImportError), view.sync_imports(quiet=True):
        import no_such_module_anywhere  # noqa: F401
    assert builtins.__import__ is before
    with pytest.raises(NotImplementedError), view.sync_imports(local=False):
        pass


def test_033_arguments_are_sent_when_they_may_be_changed(rc):
    view = rc[0]
    view.set_flags(track=True)
    array = np.zeros(10 * 1024 * 1024 // 8)
    gate = rc[0].apply_async(__import__("time").sleep, 0.2)
    result = view.apply_async(lambda a: float(a.sum()), array)
    if not result.sent:
        with contextlib.suppress(TimeoutError):
            result.wait_for_send(0)
    result.wait_for_send(60)
    assert result.sent
    array[:] = 1
    assert result.get() == 0.0
    gate.get()


def test_033_waiting_for_the_send_is_bounded(rc):
    busy = rc[0].apply_async(lambda: __import__("time").sleep(60))
    waiting = rc[0].apply_async(len, np.zeros(10 * 1024 * 1024 // 8))
    with pytest.raises(TimeoutError):
        waiting.wait_for_send(0)
    busy.cancel()
    waiting.wait_for_send(60)
    assert waiting.sent


SHIPPED = 17


def test_034_globals_come_from_the_client(rc):
    view = rc[0]

    def uses():
        return SHIPPED + OFFSET

    assert view.apply_sync(uses) == 117
    view.use_pickle()
    with pytest.raises(NameError):
        view.apply_sync(uses)
    view.push({"SHIPPED": 1, "OFFSET": 2}, block=True)
    assert view.apply_sync(uses) == 3
    assert view.map_sync(lambda x: x + SHIPPED, [1, 2]) == [2, 3]
    view.use_cloudpickle()
    assert view.apply_sync(uses) == 117


def test_034_pushes_and_pulls_do_either_way(rc):
    view = rc[0]
    for use in (view.use_pickle, view.use_cloudpickle, view.use_dill):
        use()
        view.push({"a": 5, "f": lambda x: x + 1}, block=True)
        assert view["a"] == 5
        assert view["f"](1) == 2
        assert view.pull("f(a)", block=True) == 6


def test_034_globals_that_change_are_sent_again(rc):
    def uses():
        return SHIPPED

    global SHIPPED
    try:
        assert rc[0].apply_sync(uses) == 17
        SHIPPED = 18
        assert rc[0].apply_sync(uses) == 18
        SHIPPED = [1]
        assert rc[0].apply_sync(uses) == [1]
        SHIPPED.append(2)
        assert rc[0].apply_sync(uses) == [1, 2]
    finally:
        SHIPPED = 17


def test_045_remote_functions(rc, view, lview):
    @view.remote(block=True)
    def where(x):
        """Return x."""
        return engine_id, x  # noqa: F821

    assert where(7) == [(0, 7), (1, 7), (2, 7), (3, 7)]
    assert where.__name__ == "where"
    assert where.__doc__.startswith("RemoteFunction")
    assert "Return x." in where.__doc__
    assert "where" in repr(where)

    @furlong.remote(rc[1], block=False, label="one")
    def one(x, *, y):
        return x + y

    result = one(1, y=2)
    assert result.get() == 3
    assert result.label == "one"
    assert rc[1].label is None

    @lview.remote()
    def balanced():
        return 5

    assert balanced().get() == 5
    lview.block = True
    assert balanced() == 5


def test_045_parallel_functions(view, lview):
    @view.parallel(block=True)
    def double(part):
        return [2 * x for x in part]

    assert double(range(10)) == list(range(0, 20, 2))
    assert double.__name__ == "double"
    assert double([]) == []
    assert double(x for x in (1, 2, 3)) == [2, 4, 6]

    @furlong.parallel(view, block=True)
    def add(a, b):
        return a + b

    total = add(np.arange(10), np.arange(10))
    assert isinstance(total, np.ndarray)
    np.testing.assert_array_equal(total, np.arange(10) * 2)
    with pytest.raises(ValueError, match="equal length"):
        add([1, 2], [1])
    with pytest.raises(TypeError):
        add()

    @lview.parallel(block=True, chunksize=3)
    def triple(part):
        return [3 * x for x in part]

    assert triple(range(10)) == list(range(0, 30, 3))

    @view.parallel(dist="r", block=True)
    def same(part):
        return part

    assert same(range(11)) == list(range(11))


def test_045_parallel_functions_do_not_wait_unless_told(view):
    @view.parallel()
    def same(part):
        return part

    result = same(range(10))
    assert isinstance(result, furlong.AsyncResult)
    assert result.get() == list(range(10))
    view.block = True
    assert same(range(10)) == list(range(10))


def test_045_map_of_a_parallel_function(view, lview):
    for some in (view, lview):

        @some.parallel(block=True)
        def square(x):
            return x * x

        assert square.map(range(10)) == [x * x for x in range(10)]

        @some.parallel(block=False)
        def add(x, y):
            return x + y

        assert add.map(range(5), range(5)).get() == [0, 2, 4, 6, 8]


def test_045_decorators_without_parentheses_are_told(view, lview):
    for some in (view, lview):
        for name in ("remote", "parallel"):
            with pytest.raises(
                TypeError, match=rf"`{name}` takes flags, .* write @view\.{name}\(\)"
            ):
                getattr(some, name)(lambda x: x)
            with pytest.raises(TypeError, match=rf"`{name}` takes flags"):
                getattr(furlong, name)(some, abs)
            with pytest.raises(
                TypeError, match="it decorates functions, and an int object cannot be called"
            ):
                getattr(some, name)()(5)


def test_045_what_has_no_name_of_its_own_is_decorated_too(lview):
    double = lview.remote(block=True)(functools.partial(pow, 2))
    assert repr(double) == "<RemoteFunction pow>"
    assert double(5) == 32


def test_045_methods_keep_what_decorators_wrap(rc):
    def logged(f):
        @functools.wraps(f)
        def inner(*args, **kwargs):
            return "logged", f(*args, **kwargs)

        return inner

    @logged
    @logged
    def add(x, y=1):
        """Add."""
        return x + y

    assert rc[0].apply_sync(add, 1, y=2) == ("logged", ("logged", 3))
    assert rc[0].apply_sync(lambda f: (f.__name__, f.__doc__), add) == ("add", "Add.")


def test_045_what_cannot_be_called_is_refused(view, lview):
    for some in (view, lview):
        for wrong in (5, None, [len]):
            with pytest.raises(TypeError, match="called"):
                some.apply_async(wrong)
            with pytest.raises(TypeError, match="called"):
                some.map_async(wrong, [1])


def test_a_variable_of_the_outer_function_may_be_unset(rc):
    def make():
        @furlong.interactive
        def uses(fails):
            return later if fails else 5

        empty = uses
        rc[0].use_pickle()
        assert rc[0].apply_sync(empty, False) == 5
        with pytest.raises(NameError):
            rc[0].apply_sync(empty, True)
        later = 6
        return later

    make()


def test_functions_by_name(rc, lview):
    assert rc[0].apply_sync("math:gcd", 12, 18) == 6
    assert lview.apply_sync("operator:add", 1, 2) == 3
    with pytest.raises(ImportError):
        lview.apply_sync("no_such_module_anywhere:f")


def test_eight_threads_use_one_client(rc, view, lview):
    gate = threading.Barrier(8)

    def work(thread):
        gate.wait(60)
        own = rc[thread % 4]
        found = []
        for n in range(25):
            own.push({f"t{thread}": n}, block=True)
            found += [
                own[f"t{thread}"],
                lview.apply_sync(lambda x: x * 2, n),
                sum(view.apply_sync(lambda x: x, n)),
            ]
            found += [sum(lview.map_sync(lambda x: x + n, range(4)))]  # noqa: B023
        return found

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(8)):
            assert found == [value for n in range(25) for value in (n, 2 * n, 4 * n, 6 + 4 * n)]


def test_threads_share_a_view_whose_flags_change(rc):
    lview = rc.load_balanced_view()

    def work(thread):
        return [lview.apply_async(int).get() for _ in range(50)]

    def flags(thread):
        for n in range(50):
            lview.set_flags(label=f"label {n}", priority=n % 3)
        return [0] * 50

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(
            found == [0] * 50 for found in pool.map(lambda f: f(0), [work, flags, work, work])
        )


def test_flags_of_one_call_are_not_those_of_other_threads(rc):
    lview = rc.load_balanced_view()
    decorated = furlong.remote(lview, block=True, label="decorated")(lambda: 1)
    seen = []

    def labelled(thread):
        for _ in range(30):
            assert decorated() == 1
            assert lview.map_sync(abs, range(2), priority=3) == [0, 1]

    def plain(thread):
        for _ in range(100):
            result = lview.apply_async(int)
            seen.append(result.label)
            assert result.get() == 0

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda f: f(0), [labelled, plain, labelled, plain]))
    assert set(seen) == {None}
    assert (lview.label, lview.priority) == (None, 0)


def test_recursion_and_mutual_recursion(rc):
    def even(n):
        return True if n == 0 else odd(n - 1)

    def odd(n):
        return False if n == 0 else even(n - 1)

    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert rc[0].apply_sync(even, 10) is True
    assert rc[0].apply_sync(factorial, 30) == factorial(30)
    with pytest.raises(RecursionError):
        rc[0].apply_sync(lambda: factorial(-1))


def test_ctrl_c_in_a_blocking_call_gives_the_result_to_who_types(rc, monkeypatch):
    import _thread

    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = rc[0].apply_sync(int)
    assert before == 0
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    result = rc[0].apply_sync(__import__("time").sleep, 60)
    assert isinstance(result, furlong.AsyncResult)
    assert not result.done()
    assert result.cancel()


def test_repr_says_what_it_is(rc, view, lview):
    assert repr(view) == "<DirectView [0, 1, 2, 3]>"
    assert repr(rc[0]) == "<DirectView 0>"
    assert repr(rc.direct_view("all")) == "<DirectView all>"
    assert repr(lview) == "<LoadBalancedView None>"
    assert repr(rc.load_balanced_view([1, 2])) == "<LoadBalancedView [1, 2]>"
    assert "4 engines" in repr(rc)
    result = rc[0].apply_async(int)
    result.wait()
    assert repr(result) == "<AsyncResult(int): finished>"
    failed = rc[0].apply_async(lambda: 1 / 0)
    failed.wait()
    assert repr(failed).endswith(": failed>")
    busy = rc[0].apply_async(__import__("time").sleep, 60)
    assert repr(busy) == "<AsyncResult(sleep): pending>"
    busy.cancel()
    assert repr(furlong.Dependency([])) == "<Dependency on success of all of []>"


def test_errors_of_calls_are_of_both_kinds(rc):
    with pytest.raises(RemoteError) as caught:
        rc[0].apply_sync(lambda: {}["missing"])
    assert isinstance(caught.value, KeyError)
    with pytest.raises(KeyError):
        rc[0].apply_sync(lambda: {}["missing"])


def test_a_function_with_the_engines_globals_is_known_to_hold_code_of_this_version() -> None:
    # An engine of another version would run what is no code there, and die of it.
    for function in (
        engine_names.EngineFunction(lambda: 1),
        {"f": engine_names.EngineFunction(lambda: 1)},
    ):
        _, has_code, _ = dumps(function)
        assert has_code


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
def test_an_end_of_an_iteration_there_ends_none_here(lview, name):
    def fails():
        raise getattr(builtins, name)("over")

    with pytest.raises(RemoteError, match=f"{name}: over") as caught:
        # A comprehension would not end by it.
        list(map(lambda _: lview.apply_sync(fails), range(3)))  # noqa: C417
    assert type(caught.value) is RemoteError
    assert caught.value.ename == name

    async def waits():
        return await lview.apply_async(fails)

    with pytest.raises(RemoteError, match=f"{name}: over"):
        asyncio.run(waits())
