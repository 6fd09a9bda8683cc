"""The project speaks the field's language: words of an earlier, private vocabulary do not come back.

A word stands here with its cure. Where packages still hold some, `LEFT` counts them by file: no count may grow.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("histotune/**/*.py", "histotune/**/*.j2", "histotune/**/*.md", "docs/**/*.md", "*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"
}
WORDS = {  # pattern -> what to write instead
    r"\bhear that\b": "Record that",
    r"\bhears?\b": "a callback `is called with`; a network `reads` or `uses` a modality",
    r"\bheard\b": "observed, has_input",
    r"\b(in)?audible\b": "observed, has_input",
    r"\btold\b": "given, reported",
    r"\bwhoever\b": "the caller, the reader",
    r"\bnursery\b": "PbtQueue",
    r"\bdesk\b": "TrialWorkspace",
    r"\bdepot\b": "RemoteStorage",
    r"\bmishaps?\b": "failure, FailurePolicy",
    r"\bcouriers?\b": "TrialSync",
    r"\bconductor\b": "SearchController",
    r"\bsomebody else\b": "the caller, another process",
    r"\b(has|have|gets|get) (no|a) say\b": "does not count, has no influence",
    r"\bsay and score\b": "weight and score",
    r"\bbeyond noise\b": "significantly",
    r"\bbest control\b": "best baseline",
    r"\bspace's default\b": "default configuration",
    r"\bwhat is taken for what\b": "confusion matrix",
    r"\bsealed test part\b": "sealed test set",
    r"\bout-of-fold words\b": "out-of-fold probabilities",
    r"\bopened once\b": "evaluated once",
}
LEFT: dict[str, dict[str, int]] = {
    # On disk since 0.1.0: the part that an evaluation is of.
    r"\bsealed test part\b": {"histotune/evaluation/sealed.py": 1, "histotune/storage/seal.py": 1},
    # How often the seal was opened is what this sentence is about.
    r"\bopened once\b": {"histotune/storage/seal.py": 1},
}


def counts(pattern: str) -> dict[str, int]:
    """Return {file: how often it has the word}, of files that have it."""
    result = {name: len(re.findall(pattern, text, flags=re.IGNORECASE)) for name, text in TEXTS.items()}
    return {name: count for name, count in result.items() if count}


@pytest.mark.parametrize("pattern", WORDS)
def test_a_word_of_the_old_vocabulary_does_not_come_back(pattern: str) -> None:
    allowed = LEFT.get(pattern, {})
    more = {name: count for name, count in counts(pattern).items() if count > allowed.get(name, 0)}
    assert not more, f"write {WORDS[pattern]!r} instead, in {more}"


def test_what_is_left_is_of_words_and_files_that_exist() -> None:
    assert LEFT.keys() <= WORDS.keys()
    assert {name for files in LEFT.values() for name in files} <= TEXTS.keys()


def test_the_words_are_found_where_they_stand() -> None:
    text = "The desk is told of what it heard: no better than the space's default, beyond noise."
    assert sum(bool(re.search(pattern, text, flags=re.IGNORECASE)) for pattern in WORDS) == 5
