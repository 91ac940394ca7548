"""The work of chaos for Python engines. Longer than what travels with each call, so that it is defined once a session."""

import json
import os
import random
import sys
import time


def work(orders, payload, *inputs):
    """Leave a trace, take some time, and end as told."""
    told = json.loads(bytes(orders))
    # One write, whole: what other processes add at the same time is before it or behind it.
    trace = os.open(told["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(trace, f"{told['client']} {told['n']} {sys.modules['__main__'].engine_id}\n".encode())
    os.close(trace)
    time.sleep(told["ms"] / 1000)
    if told["how"] == "Raise" or (told["how"] == "Flaky" and random.random() < 0.5):
        raise ValueError("as told")
    if told["how"] == "Die":
        os._exit(3)
    return b"".join([bytes(payload), *inputs])
