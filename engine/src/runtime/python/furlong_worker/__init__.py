"""Furlong's Python worker: runs the jobs of one slot as a child process of the engine.

It needs CPython 3.8 or later and nothing but the standard library. `process.rs` embeds these files,
starts an interpreter with a short bootstrap and sends them to it; then `worker.main` takes over.

Modules: `channel` has the protocol, `worker` the loop, interrupts, threads and forks, `calls` the
codecs, `inputs` what a job gets besides its arguments, `given` the values of that, `maps` the loops over items, `farm` what a task asks of its engine, `cells` what `execute` and
`run` have parsed, `fresh` which files were edited, `namespace` the variables, `scopes` whose they are,
`engine` what pickles and user code find here, `rich` what IPython adds, `sources` the functions that
came as text, `pickles` those that came as pickles, and values by value, `paths` why a value has no
pickle, `output` the two streams, `looks` where the code is, `frames` a debugger after the end, `leaving` the end, `errors` how exceptions are told.
"""

from typing import Union

Buffer = Union[bytes, bytearray, memoryview]
