"""Files of the user's own, and what is in their place."""

import os
from pathlib import Path

from furlong._home import read_json, write_private


def test_a_file_is_read_and_neither_a_pipe_nor_a_link_is(tmp_path: Path) -> None:
    file = tmp_path / "python.json"
    write_private(file, {"pid": 1})
    assert read_json(file) == {"pid": 1}
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(file)
    for other in ("pipe", "link", ".", "nothing"):
        assert read_json(tmp_path / other) is None
