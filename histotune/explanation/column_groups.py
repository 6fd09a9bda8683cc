"""Which columns of a model's tables are worth permuting, and which of them say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from histotune.data.batches import in_order
from histotune.data.modalities import tensor
from histotune.data.modalities.table import TablePreprocessing
from histotune.data.splits import TrainingData
from histotune.explanation.permutation import FeatureGroup, ScoredCohort, token_spans
from histotune.models.predictor import inputs_of

_BATCH = 256


def tables_of(parts: Sequence[ScoredCohort]) -> list[str]:
    """Return the modalities that are tables, of a trial's networks."""
    predictor = parts[0].predictor
    return [name for name in predictor.modalities if predictor.preparations[name].kind == "table"]


def steepest(parts: Sequence[ScoredCohort], data: TrainingData, modality: str, most: int) -> tuple[list[str], int]:
    """Return the `most` columns of a table in which the logits are steepest, and how many columns are read in all.

    The steepness of a column is the mean over cases and classes of |d logit / d feature| times the feature's standard
    deviation, summed over its features and the networks.
    """
    sizes: dict[str, float] = {}
    for part in parts:
        fitted = part.predictor.preparations[modality]
        assert isinstance(fitted, TablePreprocessing)
        for name, size in zip(fitted.sources, _steepness(part, data, modality), strict=True):
            sizes[name] = sizes.get(name, 0.0) + float(size)
    ranked = sorted(sizes, key=lambda name: (-sizes[name], name))
    return ranked[:most], len(ranked)


def _steepness(part: ScoredCohort, data: TrainingData, modality: str) -> np.ndarray:
    """Return |slope| times spread of every feature of a table, float64 [F]."""
    predictor, model = part.predictor, part.predictor.model
    feed = part.feed(data)
    slopes, values = [], []
    for batch in in_order(part.rows[data.present[modality][part.rows]], _BATCH):
        inputs, present = inputs_of(model, predictor.preparations, feed.take(batch))
        leaf = tensor(inputs[modality]).detach().requires_grad_()
        logits = model.logits({**inputs, modality: leaf}, present)
        every = [torch.autograd.grad(logit.sum(), leaf, retain_graph=True)[0].abs() for logit in logits.unbind(dim=1)]
        slopes.append(torch.stack(every).mean(dim=0).cpu().numpy())
        values.append(leaf.detach().cpu().numpy())
    if not slopes:
        return np.zeros(predictor.preparations[modality].shape[0])
    steep: np.ndarray = np.concatenate(slopes).mean(axis=0) * np.concatenate(values).std(axis=0)
    return steep.astype(np.float64)


def alike(values: Mapping[str, np.ndarray], least: float) -> list[list[str]]:
    """Join columns [n] each, NaN where missing, to groups in which each correlates with another by |r| >= `least`.

    >>> alike({"a": np.array([1.0, 2, 4]), "b": np.array([0.0, 1, 0]), "c": np.array([-2.0, -4, -8])}, 0.9)
    [['a', 'c'], ['b']]
    """
    names = list(values)
    table = np.stack([np.where(np.isnan(column), _mean(column), column) for column in values.values()])
    centred = table - table.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    unit = centred / np.where(lengths > 0, lengths, 1.0)[:, None]
    near = np.abs(unit @ unit.T) >= least
    left, groups = dict.fromkeys(range(len(names))), []
    while left:
        group, edge = set[int](), {next(iter(left))}
        while edge:
            group |= edge
            edge = {int(other) for at in edge for other in np.flatnonzero(near[at])} - group
        groups.append([names[at] for at in sorted(group)])
        for at in group:
            left.pop(at, None)
    return groups


def column_groups(columns: Sequence[str], data: TrainingData, modality: str, least: float) -> list[FeatureGroup]:
    """Return groups of columns that say the same, as `alike`; the first names it. Categories stay alone."""
    stored = data.columns[modality].stored
    rows = np.flatnonzero(data.present[modality] & (data.labels >= 0))
    places = {column.name: at for at, column in enumerate(stored.columns)}
    numbers = {name: at for name in columns if stored.columns[at := places[name]].categories is None}
    result = [[name] for name in columns if name not in numbers]
    if numbers:
        values = np.array(stored.values[rows], dtype=np.float64)
        result += alike({name: values[:, at] for name, at in numbers.items()}, least)
    return [FeatureGroup(_called(names), modality, tuple(names)) for names in result]


def chunks_of(parts: Sequence[ScoredCohort], branch: str) -> list[FeatureGroup]:
    """Return the tokens of a branch that cuts a table into chunks of features, named by those of the first network.

    Empty where the branch has one token, or does not say of which features its tokens are.
    """
    predictor = parts[0].predictor
    modality = predictor.model.modalities[branch]
    spans, fitted = token_spans(predictor.model.branches[branch]), predictor.preparations[modality]
    if len(spans) < 2 or not isinstance(fitted, TablePreprocessing):
        return []
    ends = [(fitted.names[start], fitted.names[stop - 1]) for start, stop in spans]
    names = [first if first == last else f"{first} ... {last}" for first, last in ends]
    return [FeatureGroup(f"{token + 1}: {name}", modality, (), branch, token) for token, name in enumerate(names)]


def _called(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} alike"


def _mean(column: np.ndarray) -> float:
    known = column[~np.isnan(column)]
    return float(known.mean()) if len(known) else 0.0
