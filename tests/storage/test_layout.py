"""Names of files stand in `storage/layout.py` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from histotune.storage import layout

PACKAGE = Path(layout.__file__).parents[1]
# A prepared cohort and a user's folder of slides have a file of labels, too.
SHARED = {layout.LABELS}
NAMES = {text for text in vars(layout).values() if isinstance(text, str) and text.endswith((".json", ".jsonl", ".npz"))}
NAMES |= {layout.SPLIT, layout.CONFIG, layout.WEIGHTS, layout.JOURNAL, layout.CARD, layout.CHECKPOINT, layout.ONNX}
NAMES |= {layout.KEPT_CHECKPOINTS, layout.PT2, layout.reproduction()} - SHARED


def written(text: str) -> Iterator[str]:
    """Yield the paths that a module writes out; what has a space in it is a sentence."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield node.value


def test_no_other_module_writes_out_the_name_of_a_file() -> None:
    result = {
        (path.relative_to(PACKAGE).as_posix(), text)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != Path(layout.__file__)
        for text in written(path.read_text(encoding="utf-8"))
        if NAMES & set(text.split("/"))
    }
    assert not result


def test_a_name_in_a_path_or_alone_is_observed() -> None:
    assert {"study.json", "openings.jsonl", "predictions.npz", "confirm.json", "export.json", "model.pt2"} <= NAMES
    text = (
        'a = folder / "study.json"\nb = runs.glob("*/ensemble.json")\nc = f"{place}/metrics.json"\nd = "in study.json"'
    )
    assert {text for text in written(text) if NAMES & set(text.split("/"))} == {
        "study.json",
        "*/ensemble.json",
        "/metrics.json",
    }


def test_studies_are_the_folders_that_hold_one(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / layout.STUDY).write_text("{}")
    (tmp_path / "empty").mkdir()
    assert layout.studies(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert layout.studies(tmp_path / "nowhere") == []
