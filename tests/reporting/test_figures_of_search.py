"""Figures of a search are what its trials wrote: checked on a made-up search whose every score is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from changed_studies import reread
from hypothesis import given
from hypothesis import strategies as st

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import figures
from histotune.reporting.charts import text
from histotune.reporting.figures.parameter_slices import sampled
from histotune.reporting.figures.search_history import STATES, best_so_far
from histotune.space import read_space
from histotune.storage.records import Predictions, write_record
from histotune.storage.study_folder import COMPLETE, FAILED, INFEASIBLE, STOPPED, StudyFolder
from histotune.tuning.parameter_importance import importances

NewStudy = Callable[[Path], StudyFolder]
EPOCHS, TRIALS, SPREAD = 6, 60, 0.4
SPACE: dict[str, Any] = {
    "dataset": "synthetic",
    "epochs": EPOCHS,
    "batch_size": {"choice": [16, 32]},
    "loss": {
        "choice": {
            "cross_entropy": {"label_smoothing": {"low": 0.0, "high": 0.2}},
            "focal": {"gamma": {"low": 0.5, "high": 5.0}},
        }
    },
    "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True, "default": 1e-3}},
}


class Drawn:
    """Draws from a generator, as a sampler would."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a number."""
        return float(np.exp(self._rng.uniform(np.log(low), np.log(high))) if log else self._rng.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Draw a whole number."""
        return int(self._rng.integers(low, high + 1))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of several."""
        return choices[int(self._rng.integers(len(choices)))]


def write_trial(
    store: StudyFolder,
    number: int,
    config: Mapping[str, Any],
    score: float,
    state: str = COMPLETE,
    epochs: int = EPOCHS,
) -> None:
    """Write a trial folder whose validation metric rises to `score` and whose logits are as good as that."""
    folder = store.trial_folder(number)
    whole = TrialConfig.from_dict(config)
    files.write_text(folder / "config.yaml", yaml.safe_dump(whole.to_dict()))
    values = score - 0.1 / np.arange(1, epochs + 1) + 0.1 / epochs
    rows = [{"epoch": k + 1, "balanced_accuracy": float(v), "seconds": 1.0} for k, v in enumerate(values)]
    files.write_text(folder / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    record: dict[str, Any] = {"state": state, "digest": whole.digest(), "epochs": epochs, "best_epoch": epochs}
    if state in (COMPLETE, STOPPED):
        saved = predictions(store, number, score)
        saved.save(folder / "predictions.npz")
        result = metrics.evaluate(metrics.softmax(saved.logits), saved.labels)
        record["metrics"] = result | {"balanced_accuracy": score, "latency_ms": 1.0 + number % 7}
    else:
        record |= {"kind": "out_of_memory", "reason": "too large"}
    write_record(folder, record | {"seconds": float(epochs), "parameters": 1000 + 10 * number})


def predictions(store: StudyFolder, seed: int, score: float) -> Predictions:
    """Make up logits of the validation part that follow the label more, the higher the score."""
    table = store.split
    known = dict(line.split(",") for line in (store.folder / "labels.csv").read_text().split()[1:])
    rows = table[table["part"] == "val"]
    labels = np.array([int(known[name]) for name in rows["id"]])
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(rows), 2)) + 3.0 * score * np.eye(2)[labels]
    return Predictions(rows["id"].to_numpy(str), rows["patient"].to_numpy(str), labels, logits.astype(np.float32))


def begin(new_study: NewStudy, folder: Path, space: Mapping[str, Any] = SPACE) -> StudyFolder:
    """Begin a study with a search space."""
    store = new_study(folder)
    sentence = json.loads((folder / "study.json").read_text())
    files.write_json(folder / "study.json", sentence | {"space": dict(space)})
    return reread(store)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, new_study: NewStudy) -> StudyFolder:
    """A search whose score is the learning rate's logarithm and little else; a tenth failed, a third was stopped."""
    store = begin(new_study, tmp_path_factory.mktemp("runs") / "searched")
    space = read_space(SPACE, "made up")
    for number in range(TRIALS):
        config = space.suggest(Drawn(number)) if number else space.default()
        rate = (np.log10(config["optimizer"]["learning_rate"]) + 4) / 3  # 0 to 1
        score = round(0.5 + SPREAD * rate, 6)
        state = FAILED if number % 20 == 7 else INFEASIBLE if number % 20 == 9 else COMPLETE
        if state == COMPLETE and number and rate < 0.3:
            state = STOPPED
        write_trial(store, number, config, score, state, epochs=2 if state == STOPPED else EPOCHS)
    return store


@pytest.fixture
def failed_only(new_study: NewStudy, tmp_path: Path) -> StudyFolder:
    """A study none of whose trials has a result."""
    store = begin(new_study, tmp_path / "failed")
    for number in range(3):
        write_trial(store, number, read_space(SPACE, "").default(), 0.5, FAILED)
    return store


OF_SEARCH = ["learning_curves", "parallel_coordinates", "parameter_slices", "search_history"]


@pytest.mark.parametrize("name", [*OF_SEARCH, "parameter_importance"])
def test_a_study_whose_trials_all_failed_is_told_so(name: str, failed_only: StudyFolder) -> None:
    with pytest.raises(StudyError, match=r"none of the 3 trials of study 'failed' has a result \(out_of_memory\)"):
        figures.compute(name, failed_only)


@pytest.mark.parametrize("name", OF_SEARCH)
def test_one_trial_is_drawn_or_said_to_be_too_few(name: str, new_study: NewStudy, tmp_path: Path) -> None:
    store = begin(new_study, tmp_path / "one")
    write_trial(store, 0, read_space(SPACE, "").default(), 0.7)
    if name.startswith("parameter_") or name == "parallel_coordinates":
        with pytest.raises(StudyError, match="do not differ in any parameter: continue the search"):
            figures.compute(name, store)
    else:
        assert figures.draw(name, figures.compute(name, store)).data


def test_a_name_from_outside_is_shown_as_it_is() -> None:
    assert text("<script>x & y</script>") == "&lt;script&gt;x &amp; y&lt;/script&gt;"


@given(st.lists(st.tuples(st.floats(0, 1) | st.just(float("nan")), st.booleans()), min_size=1), st.booleans())
def test_the_best_so_far_only_gets_better(found: list[tuple[float, bool]], higher: bool) -> None:
    scores, complete = (np.array(column) for column in zip(*found, strict=True))
    best = best_so_far(scores, complete, higher=higher)
    known = best[~np.isnan(best)]
    assert (np.diff(known) * (1 if higher else -1) >= 0).all()
    counted = scores[complete & ~np.isnan(scores)]
    assert len(known) == 0 if not len(counted) else known[-1] == (counted.max() if higher else counted.min())
    assert np.isnan(best[: len(best) - len(known)]).all(), "once there is a best, there is one for ever"


def test_the_history_is_what_the_trials_wrote(searched: StudyFolder) -> None:
    result = figures.compute("search_history", searched)
    trials = searched.trials()
    assert result.numbers.tolist() == list(range(TRIALS))
    assert [STATES[at] for at in result.states] == [trial.state for trial in trials]
    assert result.default == trials[0].metrics["balanced_accuracy"]
    assert result.best[-1] == max(t.metrics["balanced_accuracy"] for t in trials if t.state == COMPLETE)
    drawn = figures.draw("search_history", result)
    shown = sum(len(trace.x) for trace in drawn.data if trace.mode == "markers")
    assert shown == TRIALS, "failed and infeasible trials have their marks, too"
    (line,) = (trace for trace in drawn.data if trace.name == "best so far")
    assert float(line.y[-1]) == pytest.approx(result.best[-1], abs=1e-5)


def test_curves_end_where_the_trial_was_stopped_and_the_best_comes_first(searched: StudyFolder) -> None:
    result = figures.compute("learning_curves", searched, top=5)
    trials = {trial.number: trial for trial in searched.trials()}
    complete = [curve for curve in result.curves if not curve.stopped]
    assert [curve.scores[-1] for curve in complete] == sorted((c.scores[-1] for c in complete), reverse=True)
    assert len(complete) == 5
    assert result.stopped == len(result.curves) - 5 == sum(trial.state == STOPPED for trial in trials.values())
    for curve in result.curves:
        assert curve.epochs.tolist() == [*range(1, trials[curve.number].epochs + 1)]
        assert curve.scores[-1] == pytest.approx(trials[curve.number].metrics["balanced_accuracy"])
    (marks,) = (t for t in figures.draw("learning_curves", result).data if t.name == "stopped here")
    assert set(marks.x) == {2}
    assert len(marks.x) == result.stopped


def test_curves_of_folds_have_a_band(searched: StudyFolder, new_study: NewStudy, tmp_path: Path) -> None:
    store = begin(new_study, tmp_path / "folded")
    write_trial(store, 0, read_space(SPACE, "").default(), 0.7)
    path = store.trial_folder(0) / "curve.jsonl"
    rows = files.read_json_lines(path)
    spread = [{**row, "spread": {"balanced_accuracy": 0.01 * row["epoch"]}} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in spread))
    result = figures.compute("learning_curves", store)
    assert result.curves[0].spread == pytest.approx(0.01 * np.arange(1, EPOCHS + 1))
    drawn = figures.draw("learning_curves", result)
    (shown,) = (trace for trace in drawn.data if trace.fill)
    half = len(shown.y) // 2
    assert shown.y[:half] == pytest.approx(result.curves[0].scores - result.curves[0].spread, abs=1e-4)
    assert "means over folds" in drawn.layout.meta["caption"]


def test_values_are_where_the_space_would_find_them(searched: StudyFolder) -> None:
    space = read_space(SPACE, "made up")
    for trial in searched.trials():
        assert space.values_of(trial.config()) == space.locate(trial.config())


@pytest.mark.parametrize("stops", [False, True])
def test_one_parameter_that_explains_all_has_nearly_all_the_importance(stops: bool) -> None:
    space = read_space(SPACE, "made up")
    values = [space.values_of(space.suggest(Drawn(seed))) for seed in range(200)]
    scores = np.array([np.log10(each["optimizer.learning_rate"]) for each in values])
    scores[(scores < -3.0) & stops] = np.nan
    first, *others = importances(space.parameters(), values, scores)
    assert first.name == "optimizer.learning_rate"
    assert first.share > max(0.9, 5 * first.chance)
    assert sum(one.share for one in others) == pytest.approx(1 - first.share)
    noise = importances(space.parameters(), values, np.random.default_rng(0).permutation(scores))
    assert sum(one.share > one.chance for one in noise) <= 1, "of six, one in twenty is above chance by chance"


def test_importance_within_a_branch_finds_what_matters_there_only() -> None:
    space = read_space(SPACE, "made up")
    values = [space.values_of(space.suggest(Drawn(seed))) for seed in range(300)]
    focal = [each for each in values if each["loss"] == "focal"]
    scores = np.array([-abs(each["loss.focal.gamma"] - 2.0) for each in focal])
    result = importances(space.parameters(), focal, scores)
    assert (result[0].name, result[0].share > 0.9) == ("loss.focal.gamma", True)
    assert "loss" not in [one.name for one in result], "it does not vary among them"


def test_importance_is_by_branch_and_says_where_trials_are_too_few(
    searched: StudyFolder, new_study: NewStudy, tmp_path: Path
) -> None:
    result = figures.compute("parameter_importance", searched)
    assert [panel.branch for panel in result.panels] == ["all trials", "loss cross_entropy", "loss focal"]
    for panel in result.panels:
        assert panel.names[0] == "optimizer.learning_rate"
        assert panel.shares.sum() == pytest.approx(1)
        assert panel.complete < panel.trials, "stopped trials take part"
    assert not any("cross_entropy" in name for name in result.panels[2].names)
    again = figures.compute("parameter_importance", searched)
    assert again.panels[0].chances.tolist() == result.panels[0].chances.tolist()
    caption = figures.draw("parameter_importance", result).layout.meta["caption"]
    assert "Stopped trials do not count among the best" in caption
    few = begin(new_study, tmp_path / "few")
    for number in range(6):
        write_trial(few, number, read_space(SPACE, "").suggest(Drawn(number)), 0.6)
    with pytest.raises(
        StudyError, match="needs 12 complete or stopped trials, 4 of them complete, and study 'few' has"
    ):
        figures.compute("parameter_importance", few)


def test_slices_show_every_trial_where_it_lies(searched: StudyFolder) -> None:
    result = figures.compute("parameter_slices", searched)
    trials = {trial.number: trial for trial in searched.trials()}
    columns = {one.name: one for one in result.columns}
    assert columns["optimizer.learning_rate"].log
    assert columns["loss"].options == ("cross_entropy", "focal")
    for row, number in enumerate(result.numbers):
        config = trials[int(number)].config()
        assert columns["optimizer.learning_rate"].values[row] == config["optimizer"]["learning_rate"]
        assert result.losses[result.loss[row]] == config["loss"]["name"]
        gamma = columns["loss.focal.gamma"].values[row]
        assert np.isnan(gamma) if config["loss"]["name"] != "focal" else gamma == config["loss"]["gamma"]
    focal = figures.compute("parameter_slices", searched, loss="focal")
    assert set(focal.losses) == {"focal"}
    assert "loss" not in [one.name for one in focal.columns]
    with pytest.raises(StudyError, match="Did you mean 'focal'"):
        figures.compute("parameter_slices", searched, loss="focl")


def test_a_large_study_is_thinned_and_keeps_its_best() -> None:
    rng = np.random.default_rng(0)
    scores, complete = rng.random(5000), rng.random(5000) < 0.4
    rows = sampled(scores, complete)
    assert len(np.unique(rows)) == len(rows) == 800
    best = np.argsort(-np.where(complete, scores, -1))[:200]
    assert set(best) <= set(rows)


def test_lines_are_the_best_trials_and_end_at_their_score(searched: StudyFolder) -> None:
    result = figures.compute("parallel_coordinates", searched, top=10)
    complete = [t for t in searched.trials() if t.state == COMPLETE]
    ranked = sorted(complete, key=lambda trial: -trial.metrics["balanced_accuracy"])
    assert result.numbers.tolist() == [trial.number for trial in ranked[:10]]
    assert (np.diff(result.scores) <= 0).all()
    drawn = figures.draw("parallel_coordinates", result)
    assert drawn.data[-1].name == f"trial {ranked[0].number}", "the best is drawn last, in front"
    assert drawn.data[-1].y[-1] == pytest.approx(1)
    names = [one.name for one in figures.compute("parallel_coordinates", searched, loss="focal").columns]
    assert "loss.focal.gamma" in names


def test_a_study_that_searched_nothing_has_no_slices(new_study: NewStudy, tmp_path: Path) -> None:
    store = new_study(tmp_path / "plain")
    write_trial(store, 0, read_space(SPACE, "").default(), 0.7)
    for name in ("parameter_slices", "parallel_coordinates", "parameter_importance"):
        with pytest.raises(StudyError, match="searches no parameter"):
            figures.compute(name, store)
