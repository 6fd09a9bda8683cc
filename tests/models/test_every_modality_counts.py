"""Every modality counts: gradients reach each branch, and shuffling one that carries signal costs score.

The counter-example is a fusion as a paper's code has it: genes as one token, so that who asks has no choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_tables import begun, train

from histotune.core.config import TrialConfig
from histotune.data.cohort import select
from histotune.metrics import scores as metrics
from histotune.models.backbones import BACKBONES
from histotune.models.fusions import FUSIONS
from histotune.models.network import build_model
from histotune.models.predictor import load_model
from histotune.testing.batches import INPUTS, batch_of, values_of, with_values

LARGE = {"vgg19", "timm/"}  # the same kinds of layers as others have, by the hundred million
READERS = [name for name in BACKBONES.names() if name not in LARGE]
PAIRS = list(itertools.combinations_with_replacement(READERS, 2))
JOINING = [name for name in FUSIONS.names() if name != "none"]
LATE = {"late": {"of": "probabilities"}}  # what a configuration of it always says
LENGTHS = [5, 3, 4]
DEGENERATE = {"name": "cross_attention", "direction": "a->b", "residual": False}


def slopes(backbones: tuple[dict[str, Any], dict[str, Any]], fusion: Mapping[str, Any]) -> dict[str, float]:
    """Return the largest slope of a mixture of all logits in each modality, of a network as it begins."""
    kinds = {at: (BACKBONES.entry(one["name"]).kinds or ("image",))[0] for at, one in zip("ab", backbones, strict=True)}
    branches = {at: {"modality": at, "backbone": one} for at, one in zip("ab", backbones, strict=True)}
    config = TrialConfig.from_dict({"model": {"branches": branches, "fusion": dict(fusion)}})
    torch.manual_seed(0)
    model = build_model(config, [5, 5, 5], {at: INPUTS[kind] for at, kind in kinds.items()}, trained=True).eval()
    batches = {at: batch_of(kind, LENGTHS, seed=place) for place, (at, kind) in enumerate(kinds.items())}
    leaves = {at: values_of(batch).clone().requires_grad_() for at, batch in batches.items()}
    inputs = {at: with_values(batch, leaves[at]) for at, batch in batches.items()}
    logits = model.logits(inputs, dict.fromkeys("ab", torch.ones(3, dtype=torch.bool)))
    result = torch.autograd.grad((logits * torch.randn(logits.shape)).sum(), list(leaves.values()))
    return {at: float(slope.abs().max()) for at, slope in zip(leaves, result, strict=True)}


@pytest.mark.parametrize("fusion", JOINING)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_output_depends_on_every_modality(fusion: str, pair: tuple[str, str]) -> None:
    result = slopes(({"name": pair[0]}, {"name": pair[1]}), {"name": fusion, **LATE.get(fusion, {})})
    assert min(result.values()) > 1e-7, result


@pytest.mark.parametrize("asking", ["cct_2", "alexnet", "attention_mil", "patch_graph"])
def test_who_asks_a_single_token_and_keeps_nothing_of_its_own_is_not_heard(asking: str) -> None:
    genes = {"name": "gene_tokens", "tokens": 1}
    result = slopes(({"name": asking}, genes), DEGENERATE)
    assert result["a"] < 1e-6 * result["b"], "rounding of a softmax over one score"
    assert result["b"] > 1e-4
    assert slopes(({"name": asking}, genes | {"tokens": 16}), DEGENERATE)["a"] > 1e-7, "tokens to choose from"
    assert slopes(({"name": asking}, genes), DEGENERATE | {"residual": True})["a"] > 1e-7, "or what it is itself"


@pytest.mark.parametrize(
    "fusion", ["concat", *(pytest.param(name, marks=pytest.mark.slow) for name in JOINING if name != "concat")]
)
def test_shuffling_a_modality_that_carries_signal_costs_score(fusion: str, tmp_path: Path) -> None:
    """Image features tell basal from the rest, and omics her2 from luminal: a model of both needs both."""
    store, cohort = begun(tmp_path / "runs" / fusion, cases=400, difficulty=0.05)
    folder = train(store, cohort, 0, "image", "omics", fusion=fusion, epochs=8)
    data, predictor = store.training_data(cohort), load_model(folder)
    both = np.logical_and(data.present["image"], data.present["omics"])
    rows = data.val[both[data.val]]
    columns, labels = select(data.columns, rows), data.labels[rows]

    def score(cases: Mapping[str, Any]) -> float:
        return metrics.auroc(metrics.softmax(predictor.logits(cases)), labels)

    whole = score(columns)
    assert whole > 0.75
    for name in ("image", "omics"):
        orders = [np.random.default_rng(seed).permutation(len(rows)) for seed in range(10)]
        shuffled = [score({**columns, name: columns[name].select(order)}) for order in orders]
        assert np.mean(shuffled) < whole - 0.05, name
