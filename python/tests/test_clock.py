"""Durations are told by one clock, whatever the clocks of the machines say."""

import time

import pytest


@pytest.mark.parametrize("shift", [-3600, 3600])
def test_durations_do_not_mix_the_clocks_of_client_and_broker(rc, monkeypatch, shift):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    result = rc.load_balanced_view().apply_async(pow, 2, 3)
    assert 0 <= result.elapsed < 600
    result.get()
    assert 0 <= result.wall_time < 600
    assert 0 <= result.elapsed < 600
    kept = rc.load_balanced_view(keep=True).map_async(abs, range(4), chunksize=1)
    kept.get()
    again = rc.get_result(kept.msg_ids[0])
    assert 0 <= again.elapsed < 600
