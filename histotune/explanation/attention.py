"""What the branches of a trained model read of each other, case by case: chunks of a table, patches of a bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from histotune.data.batches import in_order
from histotune.data.modalities import Bag, Batch, over
from histotune.data.splits import TrainingData
from histotune.explanation import saliency
from histotune.explanation.permutation import ScoredCohort
from histotune.models.backbones import InstanceBackbone
from histotune.models.predictor import inputs_of

_BATCH = 64
POOL = ""  # who asks where the branch itself weighs its patches


def readings(
    parts: Sequence[ScoredCohort], data: TrainingData, answering: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return how much of each token of a branch the others look at, in multiples of an equal share.

    Returns:
        {asking branch: (rows int64 [n] of the cases that have both modalities, shares float64 [n, T])}; nothing where
        the fusion has no attention. A case that several networks score stands there several times.
    """
    rows: dict[str, list[np.ndarray]] = {}
    shares: dict[str, list[np.ndarray]] = {}
    for part in parts:
        model, feed = part.predictor.model, part.feed(data)
        for batch in in_order(part.rows, _BATCH):
            result = saliency.token_shares(model, *inputs_of(model, part.predictor.preparations, feed.take(batch)))
            for (asking, answers), weights in result.items():
                if answers == answering:
                    both = [data.present[model.modalities[branch]][batch] for branch in (asking, answering)]
                    there = np.logical_and(*both)
                    rows.setdefault(asking, []).append(batch[there])
                    shares.setdefault(asking, []).append(weights.cpu().numpy()[there].astype(np.float64))
    return {asking: (np.concatenate(rows[asking]), np.concatenate(shares[asking])) for asking in rows}


@dataclass(frozen=True)
class CaseAttention:
    """The patches of one case.

    Attributes:
        row: of the cohort.
        coordinates: float64 [P, 2], pixels in the slide.
        shares: {asking branch, or POOL: float64 [P]}, in multiples of an equal share.
        drops: float64 [P], how far the logit of the class of highest probability falls without the patch.
        predicted: that class.
        probability: of it.
    """

    row: int
    coordinates: np.ndarray
    shares: Mapping[str, np.ndarray]
    drops: np.ndarray
    predicted: int
    probability: float


def bag_branches(part: ScoredCohort) -> list[str]:
    """Return the branches that read bags or graphs of patches."""
    model = part.predictor.model
    return [name for name, branch in model.branches.items() if isinstance(branch, InstanceBackbone)]


@torch.inference_mode()
def patches_of(part: ScoredCohort, data: TrainingData, branch: str, row: int) -> CaseAttention:
    """Return what a network looks at among the patches of a case, and what each of them does to its answer."""
    predictor, model = part.predictor, part.predictor.model
    modality = model.modalities[branch]
    cases = part.feed(data).take(np.array([row]))
    inputs, present = inputs_of(model, predictor.preparations, cases)
    bag, backbone = inputs[modality], model.branches[branch]
    assert isinstance(bag, Bag)
    assert isinstance(backbone, InstanceBackbone)
    count = int(bag.there.sum())
    result = {
        asking: weights[0]
        for (asking, other), weights in saliency.token_shares(model, inputs, present).items()
        if other == branch
    }
    result[POOL] = backbone.shares(bag)[0] * count
    logits = model.logits(inputs, present)[0]
    predicted = int(logits.argmax())
    without = _without_each(bag, count)
    left = []
    for some in in_order(np.arange(count), _BATCH):
        others = {name: _repeated(values, len(some)) for name, values in inputs.items() if name != modality}
        masks = {name: there.expand(len(some)) for name, there in present.items()}
        left.append(model.logits({**others, modality: _rows(without, some)}, masks)[:, predicted])
    return CaseAttention(
        row,
        bag.coordinates[0, :count].double().cpu().numpy(),
        {asking: weights[:count].double().cpu().numpy() for asking, weights in result.items()},
        (logits[predicted] - torch.cat(left)).double().cpu().numpy() if left else np.zeros(0),
        predicted,
        float(logits.softmax(dim=0)[predicted]),
    )


def _without_each(bag: Bag, count: int) -> Bag:
    """Return a bag of one case `count` times, each without another of its patches."""
    repeated = _repeated(bag, count)
    assert isinstance(repeated, Bag)
    there = repeated.there.clone()
    places = torch.arange(count, device=there.device)
    there[places, places] = False
    return repeated._replace(there=there)


def _repeated(batch: Batch, count: int) -> Batch:
    return over(lambda values: values.expand(count, *values.shape[1:]), batch)


def _rows(bag: Bag, rows: np.ndarray) -> Batch:
    return over(lambda values: values[torch.from_numpy(rows).to(values.device)], bag)
