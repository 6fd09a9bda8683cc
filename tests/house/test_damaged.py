"""Whatever damages a file of a study, an export or a prepared cohort, a command says so in words, or makes it anew."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from histotune.cli.app import app
from histotune.core import files
from histotune.core.config import ModelConfig, TrialConfig, parse
from histotune.data.cohort import Cohort
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError, StudyError
from histotune.evaluation.sealed import evaluate
from histotune.exports.export import export_trial
from histotune.exports.model import load
from histotune.storage.records import Predictions, read_config, read_curve, read_epoch, read_record
from histotune.storage.study_folder import StudyFolder, StudySettings
from histotune.studies import audit as _audit
from histotune.training.checkpoint import Checkpoint, TrainingProgress

LEADERBOARD, GC, AUDIT = "leaderboard small", "gc small", "audit small"
EXPORT, EVALUATE, PREDICT = "export small 0 new", "evaluate out", "predict out cases"
COSTS, CURVES, MEMBERS, EVALUATED = (
    f"figure {name} small --out figures"
    for name in ("cost", "learning_curves", "ensemble_anatomy", "confusion_matrix --set of=evaluation")
)
TRIAL = "runs/small/trials/00000"
READ_BY = {
    "runs/small/study.json": [LEADERBOARD, GC, EXPORT],
    "runs/small/split.csv": [EXPORT],
    "runs/small/labels.csv": [AUDIT],
    "runs/small/sealed/labels.csv": [EVALUATE],
    "runs/small/sealed/openings.jsonl": [LEADERBOARD],
    "runs/small/evaluation.json": [EVALUATED],
    "runs/small/confirm/confirm.json": [COSTS],
    "runs/small/ensembles/two/ensemble.json": [GC, MEMBERS],
    f"{TRIAL}/metrics.json": [LEADERBOARD, EXPORT],
    f"{TRIAL}/config.yaml": [LEADERBOARD, GC],
    f"{TRIAL}/predictions.npz": [LEADERBOARD],
    f"{TRIAL}/curve.jsonl": [CURVES],
    f"{TRIAL}/model.json": [EXPORT],
    f"{TRIAL}/preprocessing.json": [EXPORT],
    f"{TRIAL}/model.safetensors": [EXPORT],
    "out/export.json": [PREDICT],
    "out/members/0/model.safetensors": [PREDICT],
    "cache/*/cohort.json": [AUDIT],
    "cache/*/table.csv": [AUDIT],
    "cache/*/present.csv": [AUDIT],
    "cache/*/modalities/image/images.npy": [AUDIT],
}
OTHERWISE = {  # what the loss of these means; "" where it is no error
    "study.json: lost": "small",
    "metrics.json: lost": "no ended trial 0",
    "evaluation.json: lost": "has not been evaluated",
    "confirm.json: lost": "",
    "confirm.json: nothing in it": "",
    "ensemble.json: lost": "",
    "model.safetensors: lost": "",
    "cohort.json: lost": "",  # the cohort is prepared anew
    "export.json: lost": "out is no export",
}


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    new_study: Callable[[Path], StudyFolder],
    trained_trials: Path,
    small_cohort: Cohort,
) -> Iterator[Path]:
    """A folder with a study of three trials, an ensemble, an export that was evaluated, and a prepared cohort."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("damaged")
        patch.chdir(folder)
        patch.setenv("HISTOTUNE_RUNS", "runs")
        patch.setenv("HISTOTUNE_CACHE", "cache")
        store = new_study(folder / "runs" / "small")
        shutil.copytree(trained_trials, store.folder / "trials")
        merge(store, top=2, name="two", replicates=50)
        model = load(export_trial(store, 0, folder / "out"))
        evaluate(model, {32: small_cohort}, store, command="test", replicates=50)
        files.write_json(store.folder / "confirm" / "confirm.json", {"contenders": []})
        (folder / "cases").mkdir()
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "cases" / "a.png")
        for command in (AUDIT, LEADERBOARD):
            assert call(command).exit_code == 0
        yield folder


def call(command: str) -> Result:
    return CliRunner().invoke(app, command.split())


def damages(path: Path) -> dict[str, bytes | None]:
    """What may become of a file; None is its loss. A log may be shorter than it was, which is no damage."""
    raw, form = path.read_bytes(), path.suffix
    result: dict[str, bytes | None] = {"noise": random.Random(0).randbytes(200)}
    if form != ".jsonl":
        result |= {"lost": None, "empty": b"", "half": raw[: len(raw) // 2]}
    if form in (".json", ".jsonl", ".yaml"):
        result |= {"null": b"null\n", "nothing in it": b"{}\n"} | ({} if raw[:1] == b"[" else {"a list": b"[]\n"})
    if form == ".csv":
        result |= {"its head alone": raw.splitlines()[0] + b"\n", "another table": b"a,b\n1,2\n"}
    return result


def each_damage(path: Path, check: Callable[[str], None]) -> None:
    """Damage a file in every way, let `check` hear how, and make it whole again."""
    raw = path.read_bytes()
    try:
        for how, damaged in damages(path).items():
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            check(f"{path.name}: {how}")
    finally:
        path.write_bytes(raw)


@pytest.mark.parametrize("name", READ_BY)
def test_a_damaged_file_is_named(name: str, place: Path) -> None:
    (path,) = place.glob(name)

    def check(how: str) -> None:
        for command in READ_BY[name]:
            result = call(command)
            assert isinstance(result.exception, SystemExit | None), (how, command, result.exception)
            if result.exit_code == 0:
                assert how in OTHERWISE, (how, command)
                continue
            assert result.exit_code == 2, (how, command, result.output)
            known = ("changed after it was exported", "the weights of trial 0 are not there", OTHERWISE.get(how))
            assert any(message and message in result.stderr for message in (path.name, *known)), (
                how,
                command,
                result.stderr,
            )

    each_damage(path, check)


def test_a_derived_file_is_made_anew(place: Path) -> None:
    store = StudyFolder(place / "runs" / "small")

    def check(how: str) -> None:
        if "trials" in how:
            assert [record.number for record in store.trials()] == [0, 1, 2], how
            assert files.read_json(store.folder / "trials.json")["trials"], how
        else:
            assert _audit.read(store) is None, how

    assert _audit.read(store) is not None
    for name in ("trials.json", "audit.json"):
        each_damage(store.folder / name, check)


def test_every_file_of_the_study_is_damaged_here(place: Path) -> None:
    """A file that is new wants its place in the tables above, or a reason to be left out."""
    left_out = {"lock", "environment.json", "trials.json", "learning_curves.html"}
    known = {Path(name).name for name in (*READ_BY, "audit.json")} | left_out
    held = {path.name for path in (place / "runs" / "small").rglob("*") if path.is_file()}
    held -= {path.name for path in (place / "runs" / "small" / "controls").rglob("test-*.npz")}  # made anew
    assert held <= known


def test_the_others_are_there_once_a_damaged_trial_was_moved_away(place: Path, tmp_path: Path) -> None:
    folder, away = place / TRIAL, tmp_path / "away"
    whole = (folder / "metrics.json").read_bytes()
    (folder / "metrics.json").write_bytes(b"{")
    assert "move the whole folder of its trial away" in call(LEADERBOARD).stderr
    shutil.move(folder, away)
    try:
        left = call(LEADERBOARD)
        numbers = [record.number for record in StudyFolder(place / "runs" / "small").trials()]
    finally:
        shutil.move(away, folder)
        (folder / "metrics.json").write_bytes(whole)
    assert (left.exit_code, numbers) == (0, [1, 2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "can't decode"),
        (b'{"a"', "Expecting ':'"),
        (b"[]", "it holds list, not dict"),
        (None, "is missing"),
    ],
)
def test_json_is_refused_by_name(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StudyError) as error:
        files.read_json(path, cure="make it again")
    assert str(error.value).startswith(f"{path} is ")
    assert str(error.value).endswith(": make it again")
    assert said in str(error.value)


def test_json_knows_its_file_however_deep(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    files.write_json(path, {"a": [{"b": 1}]})
    read = files.read_json(path)
    assert read == {"a": [{"b": 1}]}
    assert read["a"][0].get("c") is None
    with pytest.raises(StudyError, match=r"one\.json is damaged \(it has no 'c'; did another version"):
        read["a"][0]["c"]
    files.write_json(path, [{"a": 1}])
    assert files.read_json(path, list) == [{"a": 1}]


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "other: 1", "\x00", "a: 2020-13-45"])
def test_yaml_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(StudyError, match=r"one\.yaml is damaged"):
        files.read_yaml(path, needs=["a"])


def test_a_configuration_that_was_cut_short_is_not_one_of_defaults(tmp_path: Path) -> None:
    whole = yaml.safe_dump(TrialConfig(epochs=3, tta=True).to_dict(), sort_keys=False)
    (tmp_path / "config.yaml").write_text(whole)
    assert TrialConfig.from_dict(read_config(tmp_path)) == TrialConfig(epochs=3, tta=True)
    lines = whole.splitlines(keepends=True)
    for count in range(len(lines)):
        (tmp_path / "config.yaml").write_text("".join(lines[:count]))
        with pytest.raises(StudyError, match=r"config\.yaml is damaged"):
            read_config(tmp_path)


def test_lines_of_json_may_end_early_but_not_be_others(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    assert read_curve(tmp_path) == []
    path.write_text('{"epoch": 1, "seconds": 2}\n{"epoch": 2, "sec')
    assert read_curve(tmp_path) == [{"epoch": 1, "seconds": 2}]
    with pytest.raises(StudyError, match=r"curve\.jsonl is damaged \(it has 1 epochs"):
        read_epoch(tmp_path, 2)
    for content in (b"[1]\n", b"{}\n", b"\xff\n", b'{"epoch": 1\n{}\n'):
        path.write_bytes(content)
        with pytest.raises(StudyError, match=r"curve\.jsonl is damaged"):
            read_curve(tmp_path)


@pytest.mark.parametrize("saved", [{}, {"state": "complete", "mood": 1}, {"state": "complete", "metrics": None}])
def test_a_record_of_another_form_is_refused(saved: dict[str, object], tmp_path: Path) -> None:
    files.write_json(tmp_path / "metrics.json", saved)
    with pytest.raises(StudyError, match=r"metrics\.json is damaged"):
        read_record(tmp_path)


def test_a_table_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("id,part\na,train\nb,\n")
    assert files.read_table(path, ["id", "part"], str)["part"].tolist() == ["train", ""]
    for content in ("id,part\na", "id\na\n", "", "id,part\na,b,c\nd,e,f,g\n"):
        path.write_text(content)
        with pytest.raises(StudyError, match=r"split\.csv is damaged"):
            files.read_table(path, ["id", "part"], str)
    path.write_text("id,label\na,x\n")
    with pytest.raises(StudyError, match=r"split\.csv is damaged"):
        files.read_table(path, ["id", "label"], {"id": str, "label": np.int64})


@pytest.mark.parametrize("shape", [(3, 2), (0, 2)])
def test_an_array_is_mapped_or_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "one.npy"
    np.save(path, np.ones(shape, np.float32))
    assert files.open_array(path).shape == shape
    raw = path.read_bytes()
    for content in (b"", raw[:20], b"\x93NUMPY", raw[:-1] if shape[0] else b"PK"):
        path.write_bytes(content)
        with pytest.raises(StudyError, match=r"one\.npy is damaged"):
            files.open_array(path)


def bytes_changed(path: Path, times: int) -> Iterator[None]:
    """Change a few bytes of a file, again and again."""
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(times):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), 3):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        yield


def test_predictions_with_bytes_changed_are_read_whole_or_refused(tmp_path: Path) -> None:
    path, refusals = tmp_path / "predictions.npz", 0
    ids = np.array([f"case {at}" for at in range(20)])
    saved = Predictions(ids, ids, np.zeros(20, np.int64), np.ones((20, 2), np.float32))
    saved.save(path)
    for _ in bytes_changed(path, 400):
        try:
            assert np.array_equal(Predictions.load(path).logits, saved.logits)
        except StudyError:
            refusals += 1
    assert refusals > 100


def test_a_checkpoint_with_bytes_changed_is_read_or_refused(tmp_path: Path) -> None:
    checkpoint, refusals = Checkpoint(tmp_path), 0
    checkpoint.save(TrainingProgress("digest", 0.0, curve=[{"epoch": 1}]))
    for _ in bytes_changed(checkpoint.path, 200):
        try:
            checkpoint.load()
        except StudyError:
            refusals += 1
    assert refusals > 50


def test_a_dataclass_names_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"study\.json lacks name, dataset"):
        parse(StudySettings, {}, "study.json")
    assert parse(ModelConfig, {}, "") == ModelConfig()
