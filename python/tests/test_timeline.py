"""Traces and timelines: pictures, files, tables, and what Perfetto's own parser reads."""

import json
import os
import pty
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict

import pytest

import furlong

# Kinds of events in Perfetto's protobuf.
BEGIN, END, INSTANT = 1, 2, 3


def work(n):
    if n == 3:
        raise ValueError(n)
    return sum(range(n * 1000))


@pytest.fixture
def ran(lview):
    """Return the results of eight tasks, one of which has failed."""
    results = [lview.apply_async(work, n) for n in range(8)]
    for result in results:
        result.wait(60)
    return results


def export(cluster, *words, **options):
    """Run the command against a cluster."""
    words = [sys.executable, "-m", "furlong", "trace", "export", *words]
    return subprocess.run(
        [*words, "--cluster", cluster.cluster_id], capture_output=True, check=False, **options
    )


class Parsed:
    """A trace as Perfetto's parser reads it."""

    def __init__(self, written):
        from google.protobuf import unknown_fields
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2

        trace = perfetto_trace_pb2.Trace()
        trace.ParseFromString(written)
        assert trace.packet, "it is not empty"
        names, notes, texts = {}, {}, {}
        self.tracks, self.counters = {}, set()
        for packet in trace.packet:
            assert not len(unknown_fields.UnknownFieldSet(packet)), "the parser knows every field"
            said = packet.interned_data
            names.update((name.iid, name.name) for name in said.event_names)
            notes.update((name.iid, name.name) for name in said.debug_annotation_names)
            texts.update(
                (text.iid, text.str.decode()) for text in said.debug_annotation_string_values
            )
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                self.tracks[track.uuid] = track
                if track.HasField("counter"):
                    self.counters.add(track.uuid)
        #: Slices by their tracks' names: name, begin, end, annotations, depth.
        self.slices = defaultdict(list)
        self.instants = defaultdict(list)
        self.flows = defaultdict(list)
        stacks = defaultdict(list)
        last = defaultdict(int)
        for packet in trace.packet:
            if not packet.HasField("track_event"):
                continue
            event = packet.track_event
            track = self.tracks[event.track_uuid].name
            for flow in [*event.flow_ids, *event.terminating_flow_ids]:
                self.flows[flow].append(packet.timestamp)
            name = event.name or names.get(event.name_iid)
            annotations = {
                notes[note.name_iid]: note.uint_value
                if note.HasField("uint_value")
                else note.string_value or texts[note.string_value_iid]
                for note in event.debug_annotations
            }
            if event.type == BEGIN:
                assert packet.timestamp >= last[track], "slices of a track do not overlap"
                last[track] = packet.timestamp
                stacks[track].append((name, packet.timestamp, annotations))
            elif event.type == END:
                assert packet.timestamp >= last[track]
                last[track] = packet.timestamp
                name, begin, annotations = stacks[track].pop()
                depth = len(stacks[track])
                self.slices[track].append((name, begin, packet.timestamp, annotations, depth))
            elif event.type == INSTANT:
                self.instants[track].append((name, annotations))
        assert not any(stacks.values()), "every slice ends"


def test_the_clients_own_tasks_have_a_timeline(rc, ran):
    lines = [result.timeline() for result in ran]
    assert [len(line) for line in lines] == [1] * 8
    for line, result in zip(lines, ran):
        (span,) = line.spans
        assert span["task"] == result.msg_ids[0]
        assert (span["name"], span["engine"]) == ("work", result.engine_id)
        assert span["submitted"] <= span["assigned"] <= span["started"] <= span["stopped"]
        assert span["stopped"] <= span["ended"]
        assert span["submitted"] == pytest.approx(result.submitted.timestamp(), abs=1e-3)
    failed = lines[3].spans[0]
    assert (failed["state"], failed["error"]) == ("failed", "ValueError")
    assert repr(lines[0]) == "<Timeline: 1 task>"


def test_maps_and_several_engines_have_a_timeline(rc, lview, view, gate):
    every = view.apply_async(lambda: 1)
    every.get(60)
    assert sorted(span["engine"] for span in every.timeline()) == [0, 1, 2, 3]
    mapped = lview.map_async(work, [10] * 20, chunksize=5)
    mapped.get(60)
    assert len(mapped.timeline()) == 4
    held = lview.apply_async(gate.wait)
    assert len(held.timeline()) == 0, "it has not ended"
    assert "Trace of" in held.timeline()._repr_html_()
    gate.open()
    held.get(60)


def test_a_farms_trace_is_read_by_perfettos_parser(rc, ran, tmp_path):
    trace = rc.trace(kind="work")
    path = trace.save(tmp_path / "run.pftrace")
    before = {result.msg_ids[0] for result in ran}
    own = [span for span in trace if span["task"] in before]
    assert len(own) == 8
    assert all(span["host"] for span in own)
    count = len(trace)
    parsed = Parsed(path.read_bytes())
    runs = [one for slices in parsed.slices.values() for one in slices if one[4] == 0]
    assert len(runs) == count
    assert {name for name, *_ in runs} == {"test_timeline.work"}
    assert len(rc.trace(kind="test_timeline.work")) == count
    names = {track.name for track in parsed.tracks.values()}
    assert {"engine 0", "clients", "tasks unfinished", "ends per second"} <= names
    root = next(events for track, events in parsed.instants.items() if track.startswith("Furlong"))
    assert root[0][1]["tasks"] == count


def test_a_trace_of_own_tasks_is_read_by_perfettos_parser(lview, tmp_path):
    results = lview.map_async(work, range(8), chunksize=1)
    results.wait(60)
    parsed = Parsed(results.timeline().save(tmp_path / "own.pftrace").read_bytes())
    runs = [one for slices in parsed.slices.values() for one in slices if one[4] == 0]
    assert len({annotations["task"] for *_, annotations, _ in runs}) == len(runs) == 8
    parts = {one[0] for slices in parsed.slices.values() for one in slices if one[4] == 1}
    assert parts <= {"load", "run", "store"}
    # From the submit over the run to the end.
    assert len(parsed.flows) == 8
    for begin, submit, end in parsed.flows.values():
        assert submit <= begin <= end


def test_the_command_writes_what_the_client_does(cluster, rc, ran, tmp_path):
    file = tmp_path / "run.pftrace"
    done = export(cluster, "-o", str(file), "--kind", "work", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["bytes"] == file.stat().st_size
    parsed = Parsed(file.read_bytes())
    runs = [one for slices in parsed.slices.values() for one in slices if one[4] == 0]
    assert len(runs) == summary["tasks"] == len(rc.trace(kind="work"))
    piped = export(cluster, "--kind", "work")
    assert Parsed(piped.stdout).slices.keys() == parsed.slices.keys()


def test_a_terminal_is_not_sent_bytes(cluster):
    ours, theirs = pty.openpty()
    try:
        words = [
            sys.executable,
            "-m",
            "furlong",
            "trace",
            "export",
            "--cluster",
            cluster.cluster_id,
        ]
        done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, check=False, text=True)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "furlong: a trace of Perfetto is nothing for a terminal: name a file, as in `-o run.pftrace`"
    ]


def test_files_are_replaced_whole_and_say_their_format(ran, tmp_path):
    line = ran[0].timeline()
    for name, begin in (
        ("run.svg", b"<svg "),
        ("run.html", b"<!doctype html>"),
        ("run.json", b'{"displayTimeUnit"'),
    ):
        path = tmp_path / name
        path.write_text("what was there before")
        assert line.save(path) == path
        assert path.read_bytes().startswith(begin)
    json.loads((tmp_path / "run.json").read_bytes())
    with pytest.raises(ValueError, match="the ending says the format"):
        line.save(tmp_path / "run.txt")
    with pytest.raises(OSError, match="none"):
        line.save(tmp_path / "none" / "run.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json", "run.svg"]


def test_a_picture_is_sound_whatever_a_function_is_called(lview, tmp_path):
    def named(n):
        return n

    named.__name__ = named.__qualname__ = "</script><script>alert('1')//\x1b]0;\n" + "x" * 4096
    result = lview.apply_async(named, 1)
    result.get(60)
    line = result.timeline()
    html = line._repr_html_()
    ElementTree.fromstring(html)
    assert "<script" not in html
    assert "\x1b" not in html
    page = line.save(tmp_path / "page.html").read_text()
    assert page.count("<script") == page.count("</script") == 2


def test_tables_are_pandas(ran, monkeypatch):
    table = ran[3].timeline().to_pandas()
    assert list(table["error"]) == ["ValueError"]
    assert str(table["ended"].dt.tz) == "UTC"
    assert (table["ended"] >= table["submitted"]).all()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas, which is not installed"):
        ran[3].timeline().to_pandas()


def test_a_trace_is_of_a_time_and_a_kind(rc, ran):
    assert len(rc.trace("1h")) >= 8
    assert rc.trace("1h").forgotten == 0
    with pytest.raises(ValueError, match="last: a time is a number of seconds"):
        rc.trace(last="soon")
    with pytest.raises(KeyError, match="there are no tasks of `nothing`"):
        rc.trace(kind="nothing")


def test_a_closed_client_says_so(cluster):
    client = furlong.Client(cluster=cluster)
    client.close()
    with pytest.raises(furlong.FurlongError):
        client.trace()
