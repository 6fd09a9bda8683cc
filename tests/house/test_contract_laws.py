"""The shipped laws, outside the checkout and without pytest: a good plug-in passes, of a bad one the law is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = '''
import torch
from torch import Tensor, nn
from histotune.extend import (FUSIONS, LOSSES, Fusion, Interval, LinearObjective, ObjectiveInput, full_precision,
    only_present)


class Brier(LinearObjective):
    def __init__(self, given, weight):
        super().__init__(given)
        self.weight = weight

    @full_precision
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        probabilities = self.scores(features).softmax(dim=1)
        hard = nn.functional.one_hot(labels, probabilities.shape[1])
        return self.weight * (probabilities - hard).square().sum(dim=1).mean()


@LOSSES.register("brier", ranges={"weight": Interval(0)})
def brier(given: ObjectiveInput, *, weight: float = 1.0) -> Brier:
    """Squared error of the probabilities."""
    return Brier(given, weight)


class Sum(Fusion):
    def __init__(self, widths):
        super().__init__()
        self.names = sorted(widths)
        self.maps = nn.ModuleDict({name: nn.Linear(widths[name].pooled, 8) for name in self.names})
        self.embedding_dims, self.out_dim = dict.fromkeys(self.names, 8), 8

    def embed(self, branches, present):
        return {name: self.maps[name](only_present(branches[name].pooled, present[name])) for name in self.names}

    def join(self, embeddings, present):
        return sum(embeddings[name] for name in self.names)


@FUSIONS.register("sum")
def sum_(widths):
    """Adds the branches."""
    return Sum(widths)
'''
BAD = (
    GOOD
    + '''

class WrongWay(Brier):
    def loss(self, features, labels):
        return 2 - super().loss(features, labels)


class NotANumber(Brier):
    def loss(self, features, labels):
        return super().loss(features, labels) * (features.sum() / features.sum())


class InOrder(Sum):
    def join(self, embeddings, present):
        first, *others = embeddings.values()
        return first + 0.5 * sum(others)

    def embed(self, branches, present):
        return {name: self.maps[name](only_present(branches[name].pooled, present[name])) for name in branches}


@LOSSES.register("wrong_way", ranges={"weight": Interval(0)})
def wrong_way(given, *, weight: float = 1.0):
    """Rewards errors."""
    return WrongWay(given, weight)


@LOSSES.register("not_a_number")
def not_a_number(given):
    """Divides by zero."""
    return NotANumber(given, 1.0)


@LOSSES.register("bad_default", ranges={"weight": Interval(0)})
def bad_default(given, *, weight: float = -1.0):
    """Has a default that it refuses."""
    return Brier(given, weight)


@LOSSES.register("fails")
def fails(given):
    """Cannot be built."""
    raise RuntimeError("no such thing")


@FUSIONS.register("in_order")
def in_order(widths):
    """Depends on the order of the mapping."""
    return InOrder(widths)
'''
)
SCRIPT = """
import sys
from pathlib import Path
sys.modules["pytest"] = sys.modules["hypothesis"] = None
from histotune.extend import load_plugins
from histotune.testing import check_fusion, check_loss
load_plugins(Path("parts"))
for check, name in {checks}:
    try:
        check(name)
        print(name, "is good")
    except AssertionError as broken:
        print(str(broken).partition("\\n")[0])
"""


def answers(folder: Path, plugin: str, checks: str, *flags: str) -> list[str]:
    """Check what a plug-in registers in a process of its own, outside the checkout; returns what it prints, by line."""
    (folder / "parts").mkdir()
    (folder / "parts" / "mine.py").write_text(plugin)
    (folder / "check.py").write_text(SCRIPT.replace("{checks}", checks))
    command = [sys.executable, *flags, "check.py"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_a_good_plugin_passes(tmp_path: Path) -> None:
    checks = '[(check_loss, "brier"), (check_fusion, "sum")]'
    assert answers(tmp_path, GOOD, checks) == ["brier is good", "sum is good"]


@pytest.mark.parametrize("flags", [(), ("-O",)])
def test_a_broken_law_is_named_with_the_value_also_without_asserts(tmp_path: Path, flags: tuple[str, ...]) -> None:
    names = ["wrong_way", "not_a_number", "bad_default", "fails"]
    checks = f'[*((check_loss, name) for name in {names}), (check_fusion, "in_order")]'
    wrong, number, default, fails, order = answers(tmp_path, BAD, checks, *flags)
    assert wrong.startswith("loss 'wrong_way' breaks the law 'training_makes_right_labels_cheaper_than_wrong_ones'")
    assert "of the cases have their highest score at their label" in wrong
    assert "'not_a_number' breaks the law 'loss_and_gradients_are_finite_for_every_finite_input'" in number
    assert number.endswith("the loss of features times 0 must be finite, got nan")
    assert "the default of weight must lie in [0, inf), got -1.0" in default
    assert fails.startswith("loss 'fails' fails at the law")
    assert "no such thing" in fails
    assert "fusion 'in_order' breaks the law 'order_of_the_mapping_does_not_matter'" in order
