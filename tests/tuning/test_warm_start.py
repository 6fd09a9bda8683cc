"""What a search begins with: given configurations are trained once, another study is learnt from and never ranked."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from changed_studies import reread
from typer.testing import CliRunner, Result

from histotune.cli.app import app
from histotune.core.config import TrialConfig, unparse
from histotune.core.files import write_json
from histotune.errors import ConfigError, StudyError
from histotune.space import Space, load_space, read_space, space_names
from histotune.space._nodes import Fixed
from histotune.storage.records import write_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.studies.leaderboard import leaderboard
from histotune.tuning.proposer import Proposer
from histotune.tuning.warm_start import BEST, begin_with, read_starts

NewStudy = Callable[[Path], StudyFolder]
GAMMAS = [1.0, 2.0, 3.0, 4.0, 4.5]


@pytest.fixture
def space() -> Space:
    return read_space(
        {
            "dataset": "synthetic",
            "epochs": 5,
            "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
            "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
        },
        "tests",
    )


@pytest.fixture
def other(tmp_path: Path, new_study: NewStudy, space: Space) -> StudyFolder:
    """Another study of the same cases: complete trials by gamma, one outside the space, one that was stopped."""
    store = new_study(tmp_path / "runs" / "other")
    for number, gamma in enumerate([*GAMMAS, 9.0, 2.5]):
        config = space.default() | {"loss": {"name": "focal", "gamma": gamma}}
        folder = store.trial_folder(number)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(TrialConfig.from_dict(config).to_dict()))
        state = STOPPED if number == len(GAMMAS) + 1 else COMPLETE
        write_record(folder, {"state": state, "metrics": {"balanced_accuracy": gamma / 10}, "epochs": 5})
    return store


def change_settings(store: StudyFolder, **changes: Any) -> None:
    write_json(store.folder / "study.json", unparse(dataclasses.replace(store.settings, **changes)))
    reread(store)


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", space_names())
def test_every_draw_is_found_again(name: str) -> None:
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        config = TrialConfig.from_dict(space.suggest(trial)).to_dict()
        result = space.locate(config, whole=True)
        assert result.keys() == trial.params.keys()
        assert TrialConfig.from_dict(space.suggest(Fixed(result))).to_dict() == config


def test_a_part_lies_over_the_default(tmp_path: Path, space: Space) -> None:
    result = read_starts([file(tmp_path, "loss: {name: focal, gamma: 2}\n"), file(tmp_path, "loss: focal\n")], space)
    rate = space.default()["optimizer"]["learning_rate"]
    assert result[0] == {"loss": "focal", "loss.focal.gamma": 2.0, "optimizer.learning_rate": rate}
    assert result[1]["loss.focal.gamma"] == pytest.approx(2.0, abs=0.8)  # the space's own default of it


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "epochs: 5\nloss:\n  name: focal\n  gamma: 9\n",
            r"mine.yaml, line 4: loss.focal.gamma: 9.0 lies outside .*0.5 to 5",
        ),
        ("\nepochs: 7\n", r"mine.yaml, line 2: epochs: the search space fixes 5 here, not 7"),
        ("loss: {name: cross_entropy, beta: 0.5}", r"line 1: loss.beta: the search space has no such parameter"),
        ("optimiser: {}", r"line 1: optimiser: unknown key. Did you mean 'optimizer'"),
        ("loss: {name: affinity_x}", r"line 1: loss: unknown"),
        ("optimizer: {learning_rate: {low: 1, high: 2}}", r"line 1: optimizer.learning_rate: .* not a range or choice"),
        ("- 1\n", r"a configuration is a mapping of keys"),
        ("a: [", r"line 1: not valid YAML"),
    ],
)
def test_what_lies_outside_is_refused_with_its_place(tmp_path: Path, space: Space, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_starts([file(tmp_path, text)], space)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, space: Space) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read"):
        read_starts([tmp_path / "gone.yaml"], space)


def test_comparable_scores_are_knowledge_and_no_result(
    small_study: StudyFolder, space: Space, other: StudyFolder
) -> None:
    start = begin_with(small_study, space, [], other)
    assert [(known.params["loss.focal.gamma"], known.values) for known in start.known] == [
        (g, [g / 10]) for g in GAMMAS
    ]
    assert start.first == []
    assert "learns from 5 complete trials of study 'other'; left out, as they do not fit: 1 (" in start.note
    assert "9.0 lies outside the search space" in start.note
    seen = Proposer(space, "tpe", seed=0, maximize=True, start=start)._seen
    assert [t.value for t in seen.get_trials() if t.state.is_finished()] == [g / 10 for g in GAMMAS]
    assert leaderboard(small_study).empty


def test_knowledge_replaces_the_random_start_up(small_study: StudyFolder, space: Space, other: StudyFolder) -> None:
    start = begin_with(small_study, space, [], other)
    proposals = []
    for given in (start, None):
        proposer = Proposer(space, "tpe", seed=0, maximize=True, start=given)
        default, second = (proposer.propose(lambda digest: False) for _ in range(2))
        assert default is not None
        assert default.config == TrialConfig.from_dict(space.default()).to_dict()
        proposals.append(second)
    assert proposals[0] != proposals[1]


@pytest.mark.parametrize("what", ["data", "validation cases"])
def test_other_cases_give_configurations_to_train_instead_of_scores(
    small_study: StudyFolder, space: Space, other: StudyFolder, what: str
) -> None:
    if what == "data":
        change_settings(other, digests={"32": "0" * 12})
    else:
        table = (other.folder / "split.csv").read_text()
        (other.folder / "split.csv").write_text(
            table.replace(",val\n", ",swap\n").replace(",train\n", ",val\n").replace(",swap\n", ",train\n")
        )
    start = begin_with(small_study, space, [], other)
    assert start.known == []
    assert [params["loss.focal.gamma"] for params in start.first] == sorted(GAMMAS, reverse=True)[:BEST]
    assert f"has other {what}, so its scores are not comparable" in start.note
    proposer = Proposer(space, "tpe", seed=0, maximize=True, start=start)
    proposed = [proposer.propose(lambda digest: False) for _ in range(1 + BEST)]
    assert [p.params.get("loss.focal.gamma") for p in proposed if p] == [None, *sorted(GAMMAS, reverse=True)[:BEST]]


def test_a_search_that_goes_on_knows_it_without_the_other_study(
    small_study: StudyFolder, space: Space, other: StudyFolder, tmp_path: Path
) -> None:
    mine = read_starts([file(tmp_path, "loss: {name: focal, gamma: 1.5}")], space)
    first = begin_with(small_study, space, mine, other)
    assert begin_with(small_study, space, [], None) == first
    assert begin_with(small_study, space, mine, other) == first
    more = read_starts([file(tmp_path, "loss: {name: focal, gamma: 1.6}")], space)
    assert begin_with(small_study, space, more, None).first == [*mine, *more]
    assert begin_with(small_study, space, [], None).first == [*mine, *more]


def test_a_study_without_any_of_it_writes_nothing(small_study: StudyFolder, space: Space) -> None:
    assert begin_with(small_study, space, [], None).known == []
    assert not (small_study.folder / "warm_start.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "auroc"}, "another metric, auroc there and balanced_accuracy here"),
        ({"dataset": "idc"}, "another dataset, idc there and synthetic here"),
        ({"digests": {"64": "0"}}, "another image size, 64 there and 32 here"),
    ],
)
def test_a_study_of_which_nothing_can_be_learnt_is_refused(
    small_study: StudyFolder, space: Space, other: StudyFolder, changes: dict[str, Any], words: str
) -> None:
    change_settings(other, **changes)
    with pytest.raises(StudyError, match=words):
        begin_with(small_study, space, [], other)


def test_a_study_without_a_fitting_trial_is_refused(small_study: StudyFolder, space: Space, other: StudyFolder) -> None:
    narrow = read_space(space.to_dict(), "tests", fix=["loss=cross_entropy"])
    with pytest.raises(StudyError, match=r"none of its 6 complete trials fits: .*loss.name"):
        begin_with(small_study, narrow, [], other)
    with pytest.raises(StudyError, match="the sampler learns from the trials of this study anyway"):
        begin_with(small_study, space, [], small_study)


def test_another_study_later_is_refused(
    small_study: StudyFolder, space: Space, other: StudyFolder, tmp_path: Path, new_study: NewStudy
) -> None:
    begin_with(small_study, space, [], other)
    with pytest.raises(StudyError, match="began with a warm start from"):
        begin_with(small_study, space, [], new_study(tmp_path / "third"))


SMALL = """
dataset: synthetic
options: {cases: 240, patients: 24, side: 32}
epochs: 2
batch_size: 32
loss: {choice: {cross_entropy: {}, focal: {gamma: {low: 0.5, high: 5.0}}}}
optimizer: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}
"""


@pytest.mark.slow
def test_by_command_another_study_is_learnt_from_and_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "mine.yaml").write_text("loss: {name: focal, gamma: 4.5}\n")

    def search(study: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["search", "small.yaml", "--scheduler", "none", "--study", study, *arguments])

    assert search("a", "--trials", "3").exit_code == 0
    note = "Note: The sampler learns from 3 complete trials of study 'a'. They are not results of this study."
    first = search("b", "--trials", "3", "--warm-start", "a", "--start-with", "mine.yaml")
    assert (first.exit_code, note in first.stdout) == (0, True), first.output
    new = StudyFolder(tmp_path / "runs" / "b")
    configs = [record.config() for record in new.trials()]
    assert len(configs) == 3
    assert configs[0] == TrialConfig.from_dict(load_space("small.yaml").default()).to_dict(), "the default is first"
    assert configs[1]["loss"] == {"name": "focal", "gamma": 4.5}
    shutil.move(tmp_path / "runs" / "a", tmp_path / "runs" / "c")
    again = search("b", "--trials", "4")
    assert (again.exit_code, note in again.stdout, len(new.trials())) == (0, True, 4), again.output
    other = search("b", "--trials", "5", "--warm-start", "c")
    assert (other.exit_code, len(new.trials())) == (2, 4)
    assert "Error: study 'b' began with a warm start from" in other.stderr
    assert json.loads((new.folder / "warm_start.json").read_text())["study"] == str(tmp_path / "runs" / "a")
