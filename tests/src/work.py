"""The work that the tests let engines do."""

import ctypes
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from furlong_worker import publish


def note(path, text):
    """Add a line to a file, whole."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def square(item, ms=0):
    """Square the item, after some milliseconds."""
    time.sleep(ms / 1000)
    return item * item


def noted(path, item, ms=0):
    """Note that it runs, and return the item."""
    note(path, item)
    time.sleep(ms / 1000)
    return item


def who(item, ms=0):
    """Return the item and the process that had it."""
    time.sleep(ms / 1000)
    return [item, os.getpid()]


def busy(item):
    """Count in pure Python, so that an interrupt would be met at once."""
    count = 0
    for _ in range(5_000):
        count += 1
    return [item, count]


def hold(begun, release):
    """Note that it runs, and do so until there is a file."""
    note(begun, os.getpid())
    while not Path(release).exists():
        time.sleep(0.002)
    return "released"


def stubborn(begun, release):
    """Do the same, whatever interrupts it."""
    note(begun, os.getpid())
    while True:
        try:
            while not Path(release).exists():
                time.sleep(0.002)
        except KeyboardInterrupt:
            note(begun, "interrupted")
        else:
            return "released"


def unending(begun, how):
    """Note that it runs, and go on for ever, in a way that no interrupt ends, wherever it comes."""
    note(begun, os.getpid())
    while True:
        try:
            go_on(how)
        except BaseException:
            note(begun, "interrupted")


def go_on(how):
    """Go on for ever; most of it is not even interrupted."""
    if how == "children":
        subprocess.Popen(["sh", "-c", "trap '' TERM INT; sleep 631 & sleep 632"])
    if how == "daemon":
        subprocess.Popen(["sleep", "641"], start_new_session=True)
    if how == "masked":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if how == "ignored":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if how == "lock":
        lock = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.PyDLL(None).pthread_mutex_lock(lock)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "system":
        os.system("sleep 633")
    if how in ("sum", "children", "daemon"):
        sum(range(10**13))
    time.sleep(3600)


def backtrack(begun):
    """Note that it runs, and match a regular expression that takes for ever."""
    note(begun, os.getpid())
    re.match("(a+)+$", "a" * 64 + "b")


def die(path, how):
    """End its interpreter."""
    note(path, how)
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def fail_first(path, failures):
    """Raise so many times, and then return how often it was run."""
    note(path, time.monotonic())
    with Path(path).open("rb") as file:
        runs = len(file.readlines())
    if runs <= failures:
        raise ValueError(f"run {runs}")
    return runs


def write(count):
    """Write so many bytes to each stream."""
    line = b"0123456789abcde\n"
    for descriptor, name in ((1, b"out"), (2, b"err")):
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(name + b"-first\n")
            for _ in range(count // len(line)):
                stream.write(line)
            stream.write(name + b"-last\n")


def hold_if(item, held, begun, release):
    """Hold its engine if it is that item, and be short otherwise."""
    return hold(begun, release) if item == held else item


def show(release, count):
    """Print and publish, step by step: each when the file of the step before is there."""
    for step in range(count):
        print(f"step {step}", flush=True)
        publish({"step": step})
        while not Path(f"{release}-{step}").exists():
            time.sleep(0.002)
    return count
