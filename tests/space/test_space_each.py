"""Guards spaces that say what to try on each modality: a branch for every one, and every one alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from histotune import search, train
from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.space import Space, load_space
from histotune.storage.selection import modality_of
from histotune.tuning.proposer import Proposer
from histotune.tuning.schedulers import Asha

SPACE = """
dataset: table
each:
  table: {backbone: {choice: {mlp: {width: {choice: [16, 32]}}, snn: {}}}}
  bag: {backbone: attention_mil}
model:
  fusion: {choice: {none: {}, concat: {}, late: {dim: 16}}, default: concat}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(SPACE)
    return tmp_path / "own.yaml"


def test_every_modality_gets_a_branch_of_its_kind(file: Path) -> None:
    space = load_space(file, kinds={"rna": "table", "slide": "bag", "cnv": "table"})
    branches = space.default()["model"]["branches"]
    assert list(branches) == ["cnv", "rna", "slide"]
    assert {name: branch["modality"] for name, branch in branches.items()} == {n: n for n in branches}
    assert branches["slide"]["backbone"] == {"name": "attention_mil"}
    searched = {parameter.path for parameter in space.parameters()}
    assert {"model.branches.rna.backbone", "model.branches.cnv.backbone.mlp.width"} <= searched
    assert load_space(file, kinds={"rna": "table"}, fix=["model.branches.rna.backbone=snn"]).default()["model"][
        "branches"
    ]["rna"]["backbone"] == {"name": "snn"}


def test_what_a_study_keeps_names_its_branches(file: Path) -> None:
    kept = load_space(file, kinds={"rna": "table", "cnv": "table"}).to_dict()
    assert "each" not in kept
    assert kept["model"]["fusion"]["choice"]["none"] == {"branch": {"choice": ["cnv", "rna"]}}


def test_over_one_modality_there_is_nothing_to_join(file: Path) -> None:
    space = load_space(file, kinds={"rna": "table"})
    assert TrialConfig.from_dict(space.default()).model.fusion.name == "none"


def test_a_kind_of_which_nothing_is_said_is_refused_with_its_place(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"own.yaml, line 3: each: has no entry for kind 'graph' of modality 'g'"):
        load_space(file, kinds={"g": "graph"})
    (file.parent / "both.yaml").write_text(SPACE + "  branches: {a: {backbone: mlp}}\n")
    with pytest.raises(ConfigError, match="either branches or 'each'"):
        load_space(file.parent / "both.yaml", kinds={"rna": "table"})


def test_only_such_a_space_waits_for_the_cohort(file: Path) -> None:
    waiting: list[Space] = []

    def kinds(space: Space) -> dict[str, str]:
        waiting.append(space)
        return {"rna": "table"}

    assert load_space("demo", kinds=kinds).to_dict() == load_space("demo").to_dict()
    assert not waiting
    assert load_space(file, kinds=kinds).to_dict() == load_space(file, kinds={"rna": "table"}).to_dict()
    assert [space.dataset for space in waiting] == ["table"]


def test_a_search_begins_with_the_default_and_every_modality_alone(file: Path) -> None:
    space = load_space(file, kinds={"rna": "table", "slide": "bag", "cnv": "table"})
    proposer = Proposer(space, "random", seed=0, maximize=True)
    first = [proposer.propose(lambda digest: False) for _ in range(4)]
    observed = [modality_of(proposal.config) for proposal in first if proposal is not None]
    assert observed == ["", "cnv", "rna", "slide"]
    assert TrialConfig.from_dict(first[1].config).optimizer == TrialConfig.from_dict(space.default()).optimizer  # type: ignore[union-attr]


def test_trials_are_stopped_by_their_like_alone() -> None:
    asha = Asha(9, grace=3)
    for number in range(6):
        assert not asha.report(number, 3, 0.9 + number / 100, "image")
    assert not asha.report(6, 3, 0.5, "clinical")  # the first that reads the clinic alone
    assert not asha.report(7, 3, 0.6, "clinical")
    assert asha.report(8, 3, 0.4, "clinical")
    assert asha.report(9, 3, 0.6, "image")


def test_own_tables_are_searched_and_trained(own_tables: Path, tmp_path: Path) -> None:
    place: dict[str, Any] = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    study = search("table", data=own_tables, trials=2, fix=["epochs=1"], study="mine", **place)
    assert [trial.state for trial in study.trials()] == ["complete", "complete"]
    assert study.settings.space["model"]["branches"].keys() == set(study.settings.facts["modalities"])
    record = train("table", ["epochs=1"], data=own_tables, study="mine", **place)
    assert record.state == "complete"
