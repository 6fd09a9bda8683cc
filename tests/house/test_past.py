"""A study and an export that version 0.1.0 wrote: every later version opens them and gives the same figures.

`fixtures/v0_1_0/README.md` says how they were made. Only the command line and the public names of the package are used
here, so that the files stay readable however its modules are arranged. Nothing in the fixture is ever written again.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

import histotune

PAST = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
NAME = "past"
SPACE, IMAGES, EXPECTED = PAST / "past.yaml", PAST / "images", PAST / "expected"
SQUARES = ("a.png", "b.png", "c.png", "d.png")  # images of the size that the export reads
EXPORTED = "weighted_logits-top3"
ENSEMBLES: Mapping[str, Mapping[str, Any]] = {
    EXPORTED: {"top": 3, "strategy": "weighted_logits", "operating_point": "sensitivity=0.8"},
    "greedy-top4": {"top": 4, "strategy": "greedy", "params": {"metric": "nll"}},
}
ANOTHER = ("study", "seal", "versions", "created", "version", "digest", "evaluations")  # what an export may say anew
EXACT = 1e-12  # of what is stored and only read again
STORED = 1e-9  # of what is computed from stored predictions; the order of a sum is the processor's
COMPUTED = 1e-6  # of what a network says
SEARCH: Mapping[str, Any] = {
    "study": "again",
    "seed": 0,
    "trials": 3,
    "max_concurrent": 1,
    "cpus_per_trial": 1,
    "gpus_per_trial": 0,
    "fix": ["epochs=1"],
    "ranges": ["optimizer.learning_rate=1e-4:1e-2:log"],
}


@functools.cache
def expected(name: str) -> Any:
    """Read what version 0.1.0 said."""
    return json.loads((EXPECTED / f"{name}.json").read_text(encoding="utf-8"))


def plain(value: Any) -> Any:
    """Turn dataclasses and numbers of numpy and pandas into what JSON holds; what is undefined becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else None if str(value) == "<NA>" else value


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Name every single value of a nested one by its place."""
    if isinstance(value, Mapping):
        parts = [leaves(one, f"{place}.{key}" if place else str(key)) for key, one in value.items()]
    elif isinstance(value, list):
        parts = [{f"{place}.length": len(value)}, *(leaves(one, f"{place}[{at}]") for at, one in enumerate(value))]
    else:
        return {place: value}
    return {name: one for part in parts for name, one in part.items()}


def check(found: Any, known: Any, tolerance: float, *, but: Sequence[str] = (), bounds: bool = True) -> None:
    """Require every value of `known` in `found`, which may say more.

    Args:
        but: places where another value is right.
        bounds: whether those of intervals, and p-values, must be the same; 0.3 measures them otherwise.
    """
    has, wants = leaves(plain(found)), leaves(known)
    differ = {}
    for place, want in wants.items():
        got = has.get(place, "nothing")
        number = isinstance(want, (int, float)) and isinstance(got, (int, float))
        alike = got == pytest.approx(want, abs=tolerance, rel=tolerance) if number else got == want
        bound = place.rpartition(".")[2] in ("low", "high", "p", "p_corrected")
        if not alike and place not in but and (bounds or not bound):
            differ[place] = (got, want)
    assert not differ, (
        f"{len(differ)} of {len(wants)} values differ, such as (now, then): {dict([*differ.items()][:8])}"
    )


def told(study: histotune.Study) -> list[dict[str, Any]]:
    """Return the leaderboard as JSON holds it."""
    records: list[dict[str, Any]] = plain(study.leaderboard().to_dict("records"))
    return records


def predicted(table: Any) -> list[dict[str, Any]]:
    """Return a table of predictions as JSON holds it, with files by their names."""
    rows: list[dict[str, Any]] = plain(table.to_dict("records"))
    return [row | ({"path": Path(row["path"]).name} if "path" in row else {}) for row in rows]


def squares() -> np.ndarray:
    """Read the images of one size, uint8 [n, S, S, 3]."""
    return np.stack([np.asarray(Image.open(IMAGES / name)) for name in SQUARES])


def machine() -> dict[str, str]:
    """Say what decides the last bits of a training."""
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE) if linux() else None
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": found[1] if found else "",
    }


def linux() -> bool:
    return Path("/proc/cpuinfo").exists()


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of named arrays: names, kinds, shapes and bits, in whatever file they lay."""
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def trained(study: Path) -> list[dict[str, Any]]:
    """Return of every trial what was proposed and the bits that training made of it."""
    found = []
    for folder in sorted((study / "trials").iterdir()):
        with np.load(folder / "predictions.npz", allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        found.append(
            {
                "config": json.loads((folder / "metrics.json").read_text())["digest"],
                "predictions": digest(arrays),
                "weights": digest(safetensors.numpy.load_file(folder / "model.safetensors")),
                "logits": [[float(one) for one in row] for row in arrays["logits"]],
            }
        )
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the study's images are made again, once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the study in `runs` and of the export in `exports`, where the test runs."""
    for part in ("runs", "exports"):
        shutil.copytree(PAST / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(Path(histotune.__file__).parents[1]))  # of commands, and of Ray's workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the figures are those of a CPU
    monkeypatch.delenv("HISTOTUNE_RUNS", raising=False)
    return tmp_path


@pytest.fixture
def study(place: Path) -> histotune.Study:
    """The study, opened."""
    return histotune.open_study(NAME, runs=place / "runs")


def command(line: str) -> str:
    """Run a command in a process of its own, and return what it prints."""
    beside = {**os.environ, "COLUMNS": "120"}
    words = [sys.executable, "-m", "histotune", *line.split()]
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env=beside)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the digest and time of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_no_file_of_the_fixture_names_a_folder_of_whoever_made_it() -> None:
    named = [
        path for path in PAST.rglob("*") if path.is_file() and re.search(rb"/(root|work|home)/", path.read_bytes())
    ]
    assert not named


def test_the_leaderboard_has_the_same_lines(study: histotune.Study) -> None:
    check(told(study), expected("leaderboard"), EXACT)
    states = {record.state for record in study.trials()}
    assert states == {"complete", "stopped", "failed"}


def test_the_leaderboard_of_the_command_line_has_them_too() -> None:
    answer = command("leaderboard past --runs runs")
    for row in expected("leaderboard"):
        assert row["name"] in answer
        assert row["balanced_accuracy"] is None or f"{row['balanced_accuracy']:.4f}" in answer
    assert "opened once" in answer


def test_the_verdicts_are_the_same(study: histotune.Study) -> None:
    check(study.verdict(), expected("verdict"), STORED, but=("text",), bounds=False)
    check(study.gain(), expected("gain"), STORED, but=("text",), bounds=False)


def test_what_is_stored_is_read_as_it_was(place: Path) -> None:
    study = place / "runs" / NAME
    check(read(study / "confirm" / "confirm.json"), expected("confirm"), EXACT)
    check(read(study / "evaluation.json")[0], expected("evaluation"), EXACT)
    for name in ENSEMBLES:
        check(read(study / "ensembles" / name / "ensemble.json"), expected("ensembles")[name], EXACT)


def test_the_export_says_the_same_of_files_and_of_arrays(place: Path) -> None:
    model = histotune.load(place / "exports" / NAME)
    check(predicted(model.predict(IMAGES)), expected("predictions")["files"], COMPUTED)
    check(predicted(model.predict(squares())), expected("predictions")["array"], COMPUTED)


def test_the_export_says_the_same_by_the_command_line(place: Path) -> None:
    command(f"predict exports/past {IMAGES} -o predictions.csv")
    with (place / "predictions.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    for row, known in zip(rows, expected("predictions")["files"], strict=True):
        assert (Path(row["path"]).name, row["label"]) == (known["path"], known["label"])
        assert row["label_at_threshold"] == known["label_at_threshold"]
        assert float(row["p_malignant"]) == pytest.approx(known["p_malignant"], abs=2e-6)


def test_a_second_opening_of_the_seal_gives_the_same_figures(place: Path) -> None:
    with pytest.warns(UserWarning, match="opened 1 time before"):
        found = histotune.evaluate(place / "exports" / NAME, runs=place / "runs")
    known, another = expected("evaluation"), ("openings_before", "note", "time", "command")
    check(found, known, COMPUTED, but=another, bounds=False)
    assert (known["openings_before"], found.openings_before) == (0, 1)
    openings = [json.loads(line) for line in (place / "runs/past/sealed/openings.jsonl").read_text().splitlines()]
    assert len([one for one in openings if "command" in one]) == 2
    first, second = read(place / "runs/past/evaluation.json")
    check(first, known, EXACT)
    check(second, known, COMPUTED, but=another, bounds=False)
    card = (place / "exports" / NAME / "README.md").read_text(encoding="utf-8")
    assert "evaluation 1" in card
    assert "evaluation 2" in card


def test_confirming_again_trains_nothing_and_says_the_same(study: histotune.Study, place: Path) -> None:
    folder = place / "runs" / NAME / "confirm" / "outer-2"
    before = contents(folder)
    found = study.confirm(top=2, seeds=2, outer=2)
    assert contents(folder) == before
    check(found, expected("confirm"), STORED, but=("command", "time", "sentence", "notes[0]"), bounds=False)


def test_confirming_again_by_the_command_line_trains_nothing_and_says_the_same(place: Path) -> None:
    folder = place / "runs" / NAME / "confirm" / "outer-2"
    before = contents(folder)
    found = json.loads(command("confirm past --top 2 --seeds 2 --outer 2 --runs runs --json"))
    assert contents(folder) == before
    check(found, expected("confirm"), STORED, but=("command", "time", "sentence", "notes[0]"), bounds=False)


def test_the_report_leads_with_the_honest_number(place: Path) -> None:
    command("report past --runs runs -o page.html")
    page = (place / "page.html").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)).split())
    confirmed = expected("confirm")["contenders"][0]["confirmed"]
    figures = f"{confirmed['value']:.3f} [{confirmed['low']:.3f}, {confirmed['high']:.3f}]"
    assert figures in text
    first = f"{expected('evaluation')['metrics']['balanced_accuracy']['value']:.3f}"
    assert first in text


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_of_the_same_trials_can_be_made_again(study: histotune.Study, place: Path, name: str) -> None:
    """Of the same members, as good as they were; temperatures and weights are fitted as this version does."""
    study.ensemble(**ENSEMBLES[name], export=place / "exports" / "again")
    again, then = read(place / "runs" / NAME / "ensembles" / name / "ensemble.json"), expected("ensembles")[name]
    check(again, {key: then[key] for key in ("strategy", "members", "studies", "modalities")}, EXACT)
    best, known = (one["intervals"]["best_member"] for one in (again, then))
    for metric in ("auroc", "balanced_accuracy", "accuracy"):
        check(best[metric], known[metric], COMPUTED, bounds=False)
    if name == EXPORTED:
        table = histotune.load(place / "exports" / "again").predict(IMAGES)
        assert len(predicted(table)) == len(expected("predictions")["files"])


def test_a_search_goes_on_where_the_study_stands(place: Path) -> None:
    before = contents(place / "runs" / NAME / "trials")
    trials = len([row for row in expected("leaderboard") if row["kind"] == "trial"])
    study = histotune.search(SPACE, study=NAME, runs=place / "runs", trials=trials + 1, max_concurrent=1)
    assert [record.number for record in study.trials()] == [*range(trials + 1)]
    after = contents(place / "runs" / NAME / "trials")
    assert {name: after.get(name) for name in before} == before
    known = {row["name"]: row for row in expected("leaderboard")}
    found = {row["name"]: row for row in told(study)}
    assert found.keys() - known.keys() == {str(trials)}
    for name, row in known.items():
        check(found[name], {key: value for key, value in row.items() if key != "rank"}, EXACT)


def test_a_new_search_proposes_the_same_and_trains_the_same(place: Path) -> None:
    known = expected("search_digests")
    histotune.search(SPACE, runs=place / "runs", **SEARCH)
    found = trained(place / "runs" / "again")
    assert [one["config"] for one in found] == [one["config"] for one in known["trials"]]
    if machine() == known["machine"]:
        assert found == known["trials"]
    for now, then in zip(found, known["trials"], strict=True):
        p, q = (torch.tensor(one["logits"]).softmax(dim=1).numpy() for one in (now, then))
        assert np.abs(p - q).max() < 1e-4


def test_a_model_that_mlflow_holds_of_version_0_1_0_is_refused_in_words() -> None:
    code = "from histotune.predict import Export, load"  # as the first line of such a model's code
    with pytest.raises(ImportError, match=r"logged by histotune 0\.1\.0.*histotune\.load\(FOLDER\)"):
        exec(code, {})
