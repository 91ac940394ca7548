"""Counts words, as in `furlong map examples/wordcount.py:count docs/*.md`, and in `furlong demo`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def count(path: str) -> dict[str, int | str]:
    """Count the words of a file.

    Returns
    -------
    dict
        The file's path, its number of words, and its most frequent word of five letters or more.
    """
    words = Counter(WORD.findall(Path(path).read_text(encoding="utf-8").lower()))
    long_words = [(n, word) for word, n in words.items() if len(word) >= 5]
    return {"path": path, "words": sum(words.values()), "most": max(long_words, default=(0, ""))[1]}


def count_text(text: str, times: int = 1) -> dict[str, int]:
    """Count the words of a text, as often as asked.

    Returns
    -------
    dict
        Each word in lower case, with how often it was seen in all.
    """
    words: Counter[str] = Counter()
    for _ in range(times):
        words.update(WORD.findall(text.lower()))
    return dict(words)
