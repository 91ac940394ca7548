"""The reasons why rows differ: by what is tried, one sentence."""

from __future__ import annotations

BEFORE = "it is said before anything is sent"
NOT_THERE = "not there: it says what to use instead"
REFUSED = "what would do nothing is refused"

NOTES: dict[str, str] = {
    "`ipp.bind_kernel`": "not there: an engine is no kernel; it says what to use instead",
    "`ipp.register_joblib_backend`": NOT_THERE,
    "`@require`": "there the required module was missing on the engine in two of three runs",
    "`type` of results": "a kind of `AsyncMapResult`",
    "`lview.retries`": (
        "`None`: a loss of the engine alone is retried 3 times, an error never; 0 means neither"
    ),
    "`lview.timeout`": "no limit is `None`; 0 is taken for it",
    "`view.block = 3`": "the same refusal, as Python's own exception",
    "an unknown attribute is set": REFUSED
    + ": a flag that is misspelt would be silently without effect",
    "what cannot be called": BEFORE,
    "what cannot be pickled": "a `TypeError` that says which part of what cannot be pickled",
    "`@require` of what is not there": (
        "it ends when all engines have been tried, and does not hang"
    ),
    "`@depend` that is never met": "it ends when all engines have been tried, and does not hang",
    "`rc.profile`": "there are no profiles: it names the cluster",
    "`rc.direct_view([5])`": "as for `rc[5]`",
    "`rc.get_result(ar)`": "the whole result, not that of its first engine alone",
    "`rc.get_result('nonsense')`": "what is no task's id is refused at once",
    "`rc.result_status(id)`": "only what was asked for, without the protocol's own status",
    "`rc.resubmit`": "one task has a value, as when it was submitted first",
    "`map` without a sequence": "the same refusal, as the exception for a wrong call",
    "`map` of an array": "an array if it holds the values as they are",
    "`chunksize=0`": REFUSED,
    "`map` with an error": (
        "of a single failure its own error, which `except ZeroDivisionError` catches"
    ),
    "`map_async` type": "a kind of `AsyncMapResult`",
    "`map` of what cannot be called": BEFORE,
    "`ar[0]` of one": "the value of one task is at 0",
    "`ar[0]` of what runs": "it waits, as `get` does",
    "`ar.abort()` of what waits": "`TaskCancelled` is a `TaskAborted`",
    "`display_outputs`": "the engine's name is on the line of its output",
    "`display_outputs(groupby='engine')`": "the engine's name is on the line of its output",
    "`stream_output`": "the output of one engine needs no name before it, as in `display_outputs`",
    "`wait_interactive`": "whether all has ended, as `wait` tells it",
    "`str` of a CompositeError": "a blank is between engine and exception",
    "`executor.submit`": (
        "a kind of `AsyncResult`, whose `cancel` is the one of `concurrent.futures`"
    ),
    "`executor.shutdown()` and then a submit": "as `concurrent.futures` has it",
    "`execute`": "a silent execution tells nothing; with `silent=False` it is an `ExecuteReply`",
    "`scatter` and `gather`": "a range is a sequence, so what is gathered are its items",
    "`scatter` with an unknown dist": "the same refusal, as the exception for a wrong value",
    "`Cluster(nonsense=1)`": REFUSED,
    "`Cluster(engines='Local')`": (
        "as many engines as processors, and it says how many from the beginning"
    ),
    "`Cluster(log_level=20)`": (
        "as many engines as processors, and it says how many from the beginning"
    ),
    "`Cluster(engines='nonsense')`": (
        "the same refusal, as Python's own exception; and it says what to do instead"
    ),
    "`Cluster(3)`": "the number of engines may be said without its name",
}
