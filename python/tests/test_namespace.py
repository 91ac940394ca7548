"""The namespaces of engines: push, pull, scatter, gather, run, clear."""

import collections
import datetime
import decimal
import enum
import fractions
import operator
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import furlong
from furlong import CompositeError, errors

NESTED = {"a": [1, 2.5, None, True, {"b": ("c", b"d", {1, 2})}], "e": 2**200, "f": -0.0}


@pytest.mark.parametrize(
    "value", [5, 2.5, [1, 2, [3]], NESTED, "ä", b"\x00\xff", None, 10**400, 1 + 2j, ()]
)
def test_013_what_is_pushed_is_pulled(rc, view, value):
    rc[1].push({"x": value}, block=True)
    pulled = rc[1].pull("x", block=True)
    assert pulled == value
    assert type(pulled) is type(value)
    view.push({"y": value}, block=True)
    assert view.pull("y", block=True) == [value] * len(view)


def test_013_a_push_goes_to_its_targets_only(rc, view):
    view.push({"a": 1}, block=True)
    view.push({"a": 2}, targets=[0, 2], block=True)
    assert view["a"] == [2, 1, 2, 1]
    view.push({"a": 3}, targets=3, block=True)
    assert view["a"] == [2, 1, 2, 3]


def test_013_a_push_takes_a_dictionary(view):
    for wrong in ([("a", 1)], "a", None, 5):
        with pytest.raises(TypeError, match="dictionary"):
            view.push(wrong)


@pytest.mark.parametrize("name", ["a b", "1a", "", "a..b"])
def test_013_a_push_refuses_what_is_no_name(rc, name):
    with pytest.raises(ValueError, match="no name for a variable"):
        rc[0].push({name: 1})
    assert not rc.outstanding


def test_014_several_names_give_a_list_for_each_engine(rc, view):
    view.push({"a": 1, "b": "two"}, block=True)
    rc[2].push({"a": 3}, block=True)
    for names in (("a", "b"), ["a", "b"]):
        assert view.pull(names, block=True) == [[1, "two"], [1, "two"], [3, "two"], [1, "two"]]
    assert rc[2].pull(("a", "b"), block=True) == [3, "two"]
    assert rc[2].pull(("a",), block=True) == [3]
    assert view.get("a") == [1, 1, 3, 1]


def test_014_a_pull_takes_expressions(view):
    view.execute("a = [1, 2, 3]", block=True)
    assert view.pull("len(a) + engine_id", block=True) == [3, 4, 5, 6]
    assert view.pull(("a[0]", "a[-1]"), block=True) == [[1, 3]] * 4


def test_014_a_pull_refuses_what_is_no_name(view):
    with pytest.raises(TypeError, match="names"):
        view.pull([1, 2])


def test_015_pushed_functions_can_be_called_on_both_sides(rc, view):
    def twice(x):
        return 2 * x

    view.push({"f": twice}, block=True)
    assert view.pull("f(21)", block=True) == [42] * 4
    pulled = rc[0].pull("f", block=True)
    assert pulled(21) == 42
    assert [f(4) for f in view["f"]] == [8] * 4


def test_015_functions_that_were_executed_can_be_pulled(rc):
    rc[0].execute("def f(x, *, y=3):\n    return x + y", block=True)
    f = rc[0]["f"]
    assert f(1) == 4
    assert f(1, y=1) == 2
    assert f.__name__ == "f"


def test_015_classes_can_be_pulled_and_their_instances(rc):
    rc[0].execute(
        "class Point:\n    def __init__(self, x):\n        self.x = x\np = Point(7)", block=True
    )
    assert rc[0]["Point"](5).x == 5
    assert rc[0]["p"].x == 7


def test_016_an_interactive_function_reads_names_of_the_engine(view):
    @furlong.interactive
    def scaled(x, y=2):
        return a * x + y  # noqa: F821

    view.push({"scaled": scaled}, block=True)
    with pytest.raises(CompositeError) as caught:
        view.pull("scaled(1)", block=True)
    assert {error.ename for error in caught.value.errors} == {"NameError"}
    view.execute("a = 5", block=True)
    assert view.pull("scaled(1)", block=True) == [7] * 4
    assert view.pull("scaled(1, y=0)", block=True) == [5] * 4
    view.execute("a = engine_id", block=True)
    assert view.pull("scaled(1, 0)", block=True) == [0, 1, 2, 3]
    assert view.apply_sync(scaled, 10) == [2, 12, 22, 32]


def test_017_a_missing_name_is_a_name_error(rc, view):
    with pytest.raises(NameError, match="nowhere"):
        rc[0].pull("nowhere", block=True)
    for call in (view.pull, view.gather):
        with pytest.raises(CompositeError) as caught:
            call("nowhere", block=True)
        assert [error.ename for error in caught.value.errors] == ["NameError"] * 4
        with pytest.raises(NameError):
            caught.value.raise_exception(2)
    view["a"] = 1
    view.clear(block=True)
    with pytest.raises(CompositeError, match="NameError"):
        view.get("a")


def test_018_clear_leaves_other_engines_alone(rc, view):
    view["a"] = 17
    rc.clear(targets=[1, 3], block=True)
    assert view.pull("'a' in globals()", block=True) == [True, False, True, False]
    view.clear(targets=0, block=True)
    assert view.pull("'a' in globals()", block=True) == [False, False, True, False]
    assert rc[2]["a"] == 17
    assert view["engine_id"] == [0, 1, 2, 3]


def test_019_names_with_dots_are_attributes(rc, view):
    view.execute("class C:\n    pass\na = C()\na.b = C()\na.b.c = 10", block=True)
    assert view["a.b.c"] == [10] * 4
    view["a.b.c"] = 5
    assert view["a.b.c"] == [5] * 4
    rc[0]["a.new"] = [1]
    assert rc[0]["a.new"] == [1]
    with pytest.raises(AttributeError):
        rc[1]["a.new"]  # noqa: B018 - it pulls


def test_019_update_and_keys(rc, view):
    view.block = True
    view.update({"b": 1, "a": 2, "_c": 3})
    assert view.keys() == [["a", "b"]] * 4
    assert rc[0].keys(block=True) == ["a", "b"]


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 16, 17, 101])
def test_020_what_is_scattered_is_gathered(view, dist, count):
    items = list(range(count))
    view.scatter("x", items, dist=dist, block=True)
    gathered = view.gather("x", dist=dist)
    assert gathered.get() == items


def test_020_first_engines_get_the_longer_blocks(view):
    view.scatter("x", range(10), block=True)
    assert view["x"] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    view.scatter("x", range(10), dist="r", block=True)
    assert view["x"] == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    with pytest.raises(ValueError, match="dist"):
        view.scatter("x", range(10), dist="q")


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("shape", [(64,), (63,), (65, 2), (3,), (16, 2, 2)])
def test_020_arrays_stay_arrays(view, dist, shape):
    array = np.arange(np.prod(shape), dtype="i2").reshape(shape)
    view.scatter("x", array, dist=dist, block=True)
    assert view.pull("type(x).__name__", block=True) == ["ndarray"] * 4
    gathered = view.gather("x", dist=dist, block=True)
    assert isinstance(gathered, np.ndarray)
    assert gathered.dtype == array.dtype
    np.testing.assert_array_equal(gathered, array)


def test_020_scatter_over_all_that_are_online(rc):
    everywhere = rc.direct_view("all")
    everywhere.scatter("x", np.arange(64), block=True)
    np.testing.assert_array_equal(everywhere.gather("x", block=True), np.arange(64))


def test_020_a_gather_follows_its_scatter_without_waiting(view):
    view.block = False
    results = []
    for start in range(20):
        view.scatter("x", range(start, start + 100))
        results.append(view.gather("x"))
    for start, gathered in enumerate(results):
        assert gathered.get() == list(range(start, start + 100))


def test_020_scatter_takes_generators_and_strings(view):
    view.scatter("x", (i * i for i in range(6)), block=True)
    assert view["x"] == [[0, 1], [4, 9], [16], [25]]
    view.scatter("x", "abcdefgh", block=True)
    assert view["x"] == ["ab", "cd", "ef", "gh"]


@pytest.mark.parametrize("dist", ["b", "r"])
def test_020_scatter_takes_what_has_places_but_no_slices(view, dist):
    for items in (collections.deque(range(6)), collections.UserDict.fromkeys(range(6)), Places()):
        view.scatter("x", items, dist=dist, block=True)
        assert view["x"] == (
            [[0, 1], [2, 3], [4], [5]] if dist == "b" else [[0, 4], [1, 5], [2], [3]]
        )
        assert view.map_sync(str, items) == list("012345")


class Places:
    """Six items that are found one by one."""

    def __len__(self):
        return 6

    def __getitem__(self, at):
        return [*range(6)][operator.index(at)]


class Rows:
    """A table of which iterating gives the names of columns, as data frames have it."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return Rows(self.rows[key])

    def __iter__(self):
        return iter(["name", "size"])


@pytest.mark.parametrize("dist", ["b", "r"])
def test_020_what_is_no_sequence_of_items_is_gathered_as_parts(view, dist):
    view.scatter("x", Rows(list(range(8))), dist=dist, block=True)
    gathered = view.gather("x", dist=dist)
    expected = [[0, 1], [2, 3], [4, 5], [6, 7]] if dist == "b" else [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [part.rows for part in gathered.get()] == expected
    assert [part.rows for part in gathered] == expected
    view["y"] = {3}
    assert view.gather("y", dist=dist, block=True) == [{3}] * 4


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("count", [0, 3, 10])
def test_020_data_frames_are_gathered_as_one(view, dist, count):
    pandas = pytest.importorskip("pandas")
    labels = [0.5 * at for at in range(count)][::-1]
    frame = pandas.DataFrame(
        {"name": list("abcdefghij"[:count]), "size": range(count)}, index=labels
    )
    view.scatter("frame", frame, dist=dist, block=True)
    pandas.testing.assert_frame_equal(view.gather("frame", dist=dist, block=True), frame)
    view.scatter("series", frame["size"], dist=dist, block=True)
    pandas.testing.assert_series_equal(view.gather("series", dist=dist, block=True), frame["size"])
    view.execute("both = frame if engine_id else series", block=True)
    both = view.gather("both", dist=dist, block=True)
    assert [type(part).__name__ for part in both] == [
        "Series",
        "DataFrame",
        "DataFrame",
        "DataFrame",
    ]


def test_021_flattened_parts_are_the_items(rc, view):
    view.scatter("x", [10, 11, 12, 13], flatten=True, block=True)
    assert view["x"] == [10, 11, 12, 13]
    assert view.gather("x", block=True) == [10, 11, 12, 13]
    view.scatter("x", range(5), flatten=True, block=True)
    assert view["x"] == [[0, 1], 2, 3, 4]
    assert view.gather("x", block=True) == [0, 1, 2, 3, 4]
    view.scatter("x", rc.ids, flatten=True, block=True)
    assert view.pull("x == engine_id", block=True) == [True] * 4


def test_021_a_flattened_part_of_a_table_is_its_row(view):
    table = np.arange(8).reshape(4, 2)
    for rows in (table, table.tolist(), tuple(map(tuple, table.tolist()))):
        view.scatter("x", rows, flatten=True, block=True)
        assert [type(part) for part in view["x"]] == [type(rows[0])] * 4
        np.testing.assert_array_equal(view["x"], table)
    view.scatter("x", np.arange(10).reshape(5, 2), flatten=True, block=True)
    assert view.pull("x.tolist()", block=True) == [[[0, 1], [2, 3]], [4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize("dist", ["b", "r"])
def test_021_flattened_series_and_frames_are_items_and_rows(view, dist):
    frame = pd.DataFrame({"n": [3, 1, 4, 1, 5], "s": list("abcde")}, index=[2, 0, 1, 4, 3])
    view.scatter("x", frame["n"][:4], dist=dist, flatten=True, block=True)
    assert view["x"] == [3, 1, 4, 1]
    view.scatter("x", frame[:4], dist=dist, flatten=True, block=True)
    for place, row in enumerate(view["x"]):
        pd.testing.assert_series_equal(row, frame.iloc[place])
    first = [0, 1] if dist == "b" else [0, 4]
    rest = [2, 3, 4] if dist == "b" else [1, 2, 3]
    view.scatter("x", frame, dist=dist, flatten=True, block=True)
    longer, *rows = view["x"]
    pd.testing.assert_frame_equal(longer, frame.iloc[first])
    for place, row in zip(rest, rows, strict=True):
        pd.testing.assert_series_equal(row, frame.iloc[place])


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("count", [1, 3, 5, 6, 9])
def test_021_what_was_flattened_is_gathered(view, dist, count):
    def gathered(value):
        view.scatter("x", value, dist=dist, flatten=True, block=True)
        return view.gather("x", dist=dist, block=True)

    for shape in ((count,), (count, 2), (count, 2, 3)):
        array = np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(gathered(array), array)
    frame = pd.DataFrame(
        {"n": range(count), "x": np.arange(count) / 2, "s": list("abcdefghi"[:count])}
    )
    frame.index = [f"row {at}" for at in range(count)]
    pd.testing.assert_frame_equal(gathered(frame), frame)
    pd.testing.assert_frame_equal(gathered(frame[["n", "x"]]), frame[["n", "x"]])
    view.execute("x = x * 1.5 if len(x) else x", block=True)
    pd.testing.assert_frame_equal(
        view.gather("x", dist=dist, block=True), frame[["n", "x"]] * 1.5, check_dtype=False
    )
    for column in ("n", "x", "s"):
        assert list(gathered(frame[column])) == list(frame[column])


@pytest.mark.parametrize(
    "source", ["x = 5", "x = 5\n", "def f():\n    return 5\nx = f()", "if True:\n    x = 5"]
)
def test_022_a_script_may_lack_its_last_newline(view, tmp_path, source):
    script = tmp_path / "script.py"
    script.write_text(source)
    view.run(str(script), block=True).get()
    assert view["x"] == [5] * 4
    view.run(script).get()


def test_022_errors_of_a_script_tell_its_file_and_line(rc, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("a = 1\nb = a / 0")
    with pytest.raises(ZeroDivisionError) as caught:
        rc[0].run(script).get()
    assert f'File "{script}", line 2' in caught.value.traceback
    assert caught.value.engine_info["method"] == "execute"


DTYPES = [
    *np.typecodes["AllInteger"],
    *np.typecodes["AllFloat"],
    "?",
    "S3",
    "U3",
    "M8[us]",
    "m8[s]",
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_023_arrays_of_each_type_come_back(rc, dtype):
    lengths = [(), (0,), (3,), (2, 3), (2000, 3)]
    arrays = [
        np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype) for shape in lengths
    ]
    back = rc[0].apply_sync(lambda *arrays: arrays, *arrays)
    rc[0].push({"arrays": arrays}, block=True)
    for found in (back, rc[0]["arrays"]):
        for array, other in zip(arrays, found, strict=True):
            assert other.dtype == array.dtype
            assert other.shape == array.shape
            np.testing.assert_array_equal(other, array)


def test_023_records_come_back(rc):
    records = np.rec.array(
        [(1, 2.5, "a"), (2, 3.5, "b")] * 2000, dtype=[("n", "i4"), ("x", ">f8"), ("s", "U2")]
    )
    structured = np.array(records)
    for array in (records, structured):
        rc[0]["r"] = array
        back = rc[0]["r"]
        assert type(back) is type(array)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    assert rc[0].pull("r['n'].sum()", block=True) == 6000


def test_023_arrays_of_objects_come_back(rc):
    array = np.empty((2, 3), dtype=object)
    array[0] = [1, "two", None]
    array[1] = [[3], {"four": 4}, np.arange(3)]
    back = rc[0].apply_sync(lambda a: a, array)
    assert back.dtype == object
    assert back.shape == (2, 3)
    assert back[0].tolist() == [1, "two", None]
    assert back[1, 0] == [3]
    np.testing.assert_array_equal(back[1, 2], np.arange(3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_023_the_order_of_memory_is_kept(rc, order):
    array = np.asarray(np.arange(20000.0).reshape(100, 200), order=order)
    back = rc[0].apply_sync(lambda a: a, array)
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous == (order == "C")
    assert back.flags.f_contiguous == (order == "F")
    strided = array[::2, ::-3]
    np.testing.assert_array_equal(rc[0].apply_sync(lambda a: a + 0, strided), strided)


def test_023_nested_lists_of_arrays_come_back(rc):
    value = {"a": [np.arange(5000), [np.eye(40), (np.zeros(0),)]], "b": np.array(3.5)}
    back = rc[0].apply_sync(lambda v: v, value)
    np.testing.assert_array_equal(back["a"][0], np.arange(5000))
    np.testing.assert_array_equal(back["a"][1][0], np.eye(40))
    assert back["a"][1][1][0].shape == (0,)
    assert back["b"].shape == ()
    assert back["b"] == 3.5


def test_023_series_and_frames_come_back(rc):
    index = pd.date_range("2024-01-01", periods=1000, freq="h", tz="UTC")
    series = pd.Series(np.arange(1000.0), index=index, name="s")
    frame = pd.DataFrame(
        {"i": range(1000), "s": ["ä"] * 1000, "t": index, "c": pd.Categorical(["a", "b"] * 500)}
    )
    rc[0].push({"series": series, "frame": frame}, block=True)
    pd.testing.assert_series_equal(rc[0]["series"], series)
    pd.testing.assert_frame_equal(rc[0]["frame"], frame)
    assert rc[0].pull("frame['i'].sum()", block=True) == 499500
    pd.testing.assert_frame_equal(
        rc[0].apply_sync(lambda f: f[f.i > 990], frame), frame[frame.i > 990]
    )


def test_024_text_and_bytes_stay_what_they_are(rc, view):
    text, data = "Grüße, 世界 🌍 \u200b\x00", b"\xc3\xa4\x00\xff"
    assert rc[0].apply_sync(
        lambda t, d: [t, d, type(t).__name__, type(d).__name__], text, data
    ) == [
        text,
        data,
        "str",
        "bytes",
    ]
    rc[0].push({"ü": text}, block=True)
    assert rc[0]["ü"] == text
    executed = rc[0].execute("größe = 'ß' * 3\nprint(größe)", block=True)
    assert executed.stdout == "ßßß\n"
    assert rc[0]["größe"] == "ßßß"
    with pytest.raises(ValueError, match="日本語"):
        rc[0].execute("raise ValueError('日本語')").get()


def test_024_half_of_a_surrogate_pair_survives(rc):
    assert rc[0].apply_sync(lambda t: t, "\ud83d") == "\ud83d"


class Color(enum.Enum):
    """A class of this module, which engines do not have."""

    RED = "red"


def test_024_common_types_of_the_standard_library(rc):
    values = [
        datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=1),
        decimal.Decimal("0.1"),
        fractions.Fraction(1, 3),
        Path("/a/b"),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("abca"),
        collections.deque([1, 2], maxlen=3),
        range(1, 10, 2),
        slice(1, None),
        frozenset({1}),
        bytearray(b"ab"),
        Ellipsis,
        sys.maxsize**3,
    ]
    assert rc[0].apply_sync(lambda v: v, values) == values
    assert rc[0].apply_sync(lambda c: c.value, Color.RED) == "red"


def test_024_what_cannot_be_pushed_is_named(view):
    with pytest.raises(errors.PicklingError, match=r"'b'"):
        view.push({"a": 1, "b": (i for i in ())})
    with pytest.raises(errors.PicklingError) as caught:
        view.push({"a": 1, "b": [{"c": (i for i in ())}]})
    assert (
        str(caught.value)
        == "what is pushed cannot be pickled: what is pushed['b'][0]['c'] is a generator"
    )
    with pytest.raises(errors.PicklingError, match=r": what is pushed\['x'\]\[0\] is a generator"):
        view.scatter("x", [(i for i in ())])


def test_what_is_cleared_or_deleted_is_held_by_no_function_that_used_it(
    rc: furlong.Client,
) -> None:
    """A function that an engine keeps for the next call keeps nothing of the namespace."""
    engine = rc[0]

    def size() -> int:
        return len(big.data)  # type: ignore[name-defined]  # noqa: F821

    def is_held() -> bool:
        return big_seen() is not None  # type: ignore[name-defined]  # noqa: F821

    source = """
import weakref
class Big:
    data = bytes(10)
big = Big()
big_seen = weakref.ref(big)
"""
    engine.execute(source, block=True)
    assert engine.apply_sync(size) == 10
    engine.execute("del big", block=True)
    assert not engine.apply_sync(is_held)
    engine.execute(source, block=True)
    assert engine.apply_sync(size) == 10
    engine.execute("import builtins; builtins.seen_by_test = big_seen", block=True)
    engine.clear(block=True)
    assert engine.apply_sync(lambda: __import__("builtins").seen_by_test()) is None
    engine.execute("import builtins; del builtins.seen_by_test", block=True)
