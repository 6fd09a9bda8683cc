"""Permutation importance: what a trained model's score loses when values go to the wrong patients.

Breiman, 2001; Fisher et al., 2019. Each network is asked on the cases that it is scored on: the validation part, or
its own fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from histotune.data.batches import Feed, in_order
from histotune.data.modalities import Batch, tensor
from histotune.data.modalities.table import TablePreprocessing
from histotune.data.splits import TrainingData
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import paired_bootstrap_of_seeds
from histotune.metrics.intervals import Difference
from histotune.models.network import Outputs, Present
from histotune.models.predictor import SYMMETRIES, Predictor, inputs_of, load_model, seen

_BATCH = 256
REPEATS = 5
REPLICATES = 500


@dataclass(frozen=True)
class ScoredCohort:
    """A network and the cases that it is scored on, int64 [n] rows of the cohort."""

    predictor: Predictor
    rows: np.ndarray

    def feed(self, data: TrainingData) -> Feed:
        """Return what gives the network cases by their rows in the cohort."""
        columns = {
            name: column._replace(stored=self.predictor.preparations[name].check(column.stored))
            for name, column in data.columns.items()
            if name in self.predictor.modalities
        }
        return Feed(columns, columns, self.predictor.device)


@dataclass(frozen=True)
class FeatureGroup:
    """What is permuted together.

    Attributes:
        name: for people.
        modality: all of it, unless one of the following is given.
        columns: of a table, by name.
        branch, token: the features of a table that a branch makes its token of that number of.
    """

    name: str
    modality: str
    columns: tuple[str, ...] = ()
    branch: str = ""
    token: int = 0


@dataclass(frozen=True)
class Effect:
    """What the score loses; positive: the model rests on it.

    Attributes:
        group: what was permuted.
        loss: mean over the repeats, with an interval over resampled patients and repeats.
    """

    group: FeatureGroup
    loss: Difference


@dataclass(frozen=True)
class Permuted:
    """Probabilities of n cases, as they are and after permutations.

    Attributes:
        rows: int64 [n], of the cohort, ascending; a case of several repeated folds has the mean of its logits.
        plain: float64 [n, C].
        changed: {group: float64 [R, n, C]}.
    """

    rows: np.ndarray
    plain: np.ndarray
    changed: Mapping[FeatureGroup, np.ndarray]

    def score(self, data: TrainingData, metric: str) -> float:
        """Return the model's own score."""
        return metrics.score(metric, self.plain, data.labels[self.rows], positive=data.positive)

    def mean_loss(self, group: FeatureGroup, data: TrainingData, metric: str) -> float:
        """Return what the score loses on average over the repeats."""
        labels, sign = data.labels[self.rows], metrics.direction(metric)
        scores = [metrics.score(metric, one, labels, positive=data.positive) for one in self.changed[group]]
        return sign * (self.score(data, metric) - float(np.mean(scores)))

    def effect(self, group: FeatureGroup, data: TrainingData, metric: str, replicates: int = REPLICATES) -> Effect:
        """Return what the score loses, with its interval."""
        changed = list(self.changed[group])
        sides = ([self.plain] * len(changed), changed)
        firsts, seconds = sides if metrics.direction(metric) > 0 else sides[::-1]
        labels, patients = data.labels[self.rows], data.patients[self.rows]
        result = paired_bootstrap_of_seeds(
            metric, firsts, seconds, labels, patients, positive=data.positive, replicates=replicates
        )
        return Effect(group, result)


def scored_parts(folder: Path, data: TrainingData) -> list[ScoredCohort]:
    """Load a trial's networks with the cases that each is scored on: of its own fold, or the validation part."""
    predictor = load_model(folder)
    if not predictor.folds:
        return [ScoredCohort(predictor, data.val)]
    return [ScoredCohort(part, cut.val) for part, cut in zip(predictor.folds, data.cuts(), strict=True)]


def exchange(patients: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whose value each of n cases gets, int64 [n]: a permutation of the cases that have one (bool [n]).

    Nobody gets a value of the own patient, unless one patient has more than half of all; who has none gets none.
    """
    order = np.arange(len(patients))
    _, owner, counts = np.unique(patients[there], return_inverse=True, return_counts=True)
    cases, most = len(owner), int(counts.max(initial=0))
    if cases < 2:
        return order
    laid = np.flatnonzero(there)[np.lexsort((rng.random(cases), rng.permutation(len(counts))[owner]))]
    shift = int(rng.integers(most, cases - most + 1)) if 2 * most <= cases else cases // 2
    order[laid] = np.roll(laid, shift)
    return order


@torch.inference_mode()
def permute(
    parts: Sequence[ScoredCohort],
    data: TrainingData,
    groups: Sequence[FeatureGroup],
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Permuted:
    """Score the networks as they are and with every group permuted across patients, `repeats` times.

    Groups of one modality are permuted alike in a repeat. Values go among the cases that have the modality.

    Args:
        parts: as `scored_parts` gives them.
        data: what the trial was trained on.
        seed: of the permutations.
    """
    result = [_of_part(part, data, groups, [seed, number], repeats) for number, part in enumerate(parts)]
    rows, owner, times = np.unique(
        np.concatenate([part.rows for part in parts]), return_inverse=True, return_counts=True
    )

    def joined(key: tuple[FeatureGroup | None, int]) -> np.ndarray:
        logits = np.concatenate([one[key] for one in result])
        summed = np.zeros((len(rows), logits.shape[1]))
        np.add.at(summed, owner, logits)
        return metrics.softmax(summed / times[:, None])

    changed = {group: np.stack([joined((group, repeat)) for repeat in range(repeats)]) for group in groups}
    return Permuted(rows, joined((None, 0)), changed)


def _of_part(
    part: ScoredCohort, data: TrainingData, groups: Sequence[FeatureGroup], seed: Sequence[int], repeats: int
) -> dict[tuple[FeatureGroup | None, int], np.ndarray]:
    """Return the logits [n, C] of one network, by group and repeat; None is nothing permuted."""
    predictor, model = part.predictor, part.predictor.model
    wanted = [group for group in groups if group.modality in predictor.modalities]
    orders = {
        (name, repeat): exchange(
            data.patients[part.rows], data.present[name][part.rows], np.random.default_rng([*seed, repeat])
        )
        for name in {group.modality for group in wanted}
        for repeat in range(repeats)
    }
    feed = part.feed(data)
    collected: dict[tuple[FeatureGroup | None, int], list[Tensor]] = {}
    for batch in in_order(np.arange(len(part.rows)), _BATCH):
        for key, logits in _of_batch(predictor, feed, part.rows, batch, wanted, orders):
            collected.setdefault(key, []).append(logits)
    views = SYMMETRIES if predictor.config.tta and model.images else 1
    batches = -(-len(part.rows) // _BATCH)
    means = {
        key: torch.cat([torch.stack(result[at * views : (at + 1) * views]).mean(0) for at in range(batches)])
        for key, result in collected.items()
    }
    plain = means[None, 0].cpu().numpy()
    every = [(group, repeat) for group in groups for repeat in range(repeats)]
    return {key: means[key].cpu().numpy() if key in means else plain for key in [(None, 0), *every]}


def _of_batch(
    predictor: Predictor,
    feed: Feed,
    rows: np.ndarray,
    batch: np.ndarray,
    groups: Sequence[FeatureGroup],
    orders: Mapping[tuple[str, int], np.ndarray],
) -> Iterator[tuple[tuple[FeatureGroup | None, int], Tensor]]:
    """Score some cases, view by view; a branch whose modality stays as it is is not asked again."""
    model = predictor.model
    for code in range(SYMMETRIES if predictor.config.tta and model.images else 1):

        def given(which: np.ndarray, code: int = code) -> tuple[Mapping[str, Batch], Present]:
            return inputs_of(model, predictor.preparations, seen(model, feed.take(which), code))

        inputs, present = given(rows[batch])
        outputs, masks = model.outputs(inputs, present)
        yield (None, 0), _scores(predictor, outputs, masks)
        for (name, repeat), order in orders.items():
            others = given(rows[order[batch]])[0][name]
            for group in groups:
                if group.modality != name:
                    continue
                mixed = _mixed(predictor, group, inputs[name], others)
                if mixed is not None:
                    observed = {
                        b: model.branches[b](mixed) for b, modality in model.modalities.items() if modality == name
                    }
                    yield (group, repeat), _scores(predictor, {**outputs, **observed}, masks)


def _scores(predictor: Predictor, outputs: Outputs, masks: Present) -> Tensor:
    scores: Tensor = predictor.model.objective.scores(predictor.model.read(outputs, masks))
    return scores


def _mixed(predictor: Predictor, group: FeatureGroup, own: Batch, others: Batch) -> Batch | None:
    """Return the cases with the group's values of others; None where the network reads nothing of it."""
    if not (group.columns or group.branch):
        return others
    places = _places(predictor, group)
    if not places:
        return None
    mixed = tensor(own).clone()
    mixed[:, places] = tensor(others)[:, places]
    return mixed


def _places(predictor: Predictor, group: FeatureGroup) -> list[int]:
    """Return which of the features that a network gets of a table belong to a group."""
    if group.branch:
        start, stop = token_spans(predictor.model.branches[group.branch])[group.token]
        return list(range(start, stop))
    fitted = predictor.preparations[group.modality]
    assert isinstance(fitted, TablePreprocessing)
    wanted = set(group.columns)
    return [place for place, name in enumerate(fitted.sources) if name in wanted]


def token_spans(backbone: nn.Module) -> Sequence[tuple[int, int]]:
    """Return of which features, from one up to another, every token of a branch is; () where it does not say so."""
    spans: Sequence[tuple[int, int]] = getattr(backbone, "spans", ())
    return spans


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation of two vectors [n]; NaN where one of them is constant.

    >>> rank_correlation(np.array([1.0, 2, 3]), np.array([0.1, 0.2, 9.0]))
    1.0
    """
    ranks = [pd.Series(values).rank().to_numpy() for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    lengths = [float(np.linalg.norm(values)) for values in centred]
    return round(float(centred[0] @ centred[1] / np.prod(lengths)), 12) if all(lengths) else float("nan")
