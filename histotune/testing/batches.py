"""Batches of every kind of modality, drawn at random, for whatever reads them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from histotune.data.modalities import Bag, Batch
from histotune.models.backbones import BackboneInput

SHAPES = {"image": (3, 32, 32), "table": (70,), "bag": (12,), "graph": (12,)}
INPUTS = {kind: BackboneInput(shape, kind) for kind, shape in SHAPES.items()}
NEIGHBOURS = 4


def batch_of(kind: str, lengths: list[int], seed: int = 1) -> Batch:
    """Return a case for every length, which is the number of instances where the kind has any."""
    torch.manual_seed(seed)
    if kind not in ("bag", "graph"):
        return torch.randn(len(lengths), *SHAPES[kind])
    longest = max(lengths)
    there = torch.arange(longest) < torch.tensor(lengths)[:, None]
    features = torch.randn(len(lengths), longest, *SHAPES[kind]) * there[:, :, None]
    coordinates = 1e5 + 1e4 * torch.rand(len(lengths), longest, 2)
    neighbours = torch.full((len(lengths), longest, NEIGHBOURS if kind == "graph" else 0), -1)
    if kind == "graph":
        for case, length in enumerate(lengths):
            neighbours[case, :length] = nearest(coordinates[case, :length])
    return Bag(features, coordinates, there, neighbours)


def nearest(coordinates: Tensor) -> Tensor:
    """Return neighbours [P, K] among the places [P, 2]; some have fewer than K, which leaves -1 at any place."""
    count = len(coordinates)
    result = torch.full((count, NEIGHBOURS), -1)
    for node, distances in enumerate(torch.cdist(coordinates, coordinates)):
        others = [other for other in distances.argsort().tolist() if other != node][: node % (NEIGHBOURS + 1)]
        result[node, torch.randperm(NEIGHBOURS)[: len(others)]] = torch.tensor(others, dtype=torch.int64)
    return result


def padded(bag: Bag, more: int, neighbours: int = 0, value: float = float("nan")) -> Bag:
    """Return the same bag with more padding, which holds any `value` and points anywhere, and more missing edges."""
    where = bag.neighbours.shape[1]
    edges = functional.pad(bag.neighbours, (0, neighbours), value=-1)
    edges = functional.pad(edges, (0, 0, 0, more), value=min(where, 1) - 1)
    features, coordinates = (functional.pad(v, (0, 0, 0, more), value=value) for v in (bag.features, bag.coordinates))
    there = functional.pad(bag.there, (0, more))
    features = features.where(there[:, :, None], value)
    return Bag(features, coordinates.where(there[:, :, None], value), there, edges)


def cases_of(batch: Batch, cases: slice) -> Batch:
    """Return some of the cases."""
    return Bag(*(values[cases] for values in batch)) if isinstance(batch, Bag) else batch[cases]


def values_of(batch: Batch) -> Tensor:
    """Return the numbers that a network learns from: of a bag its features."""
    return batch.features if isinstance(batch, Bag) else batch


def with_values(batch: Batch, values: Tensor) -> Batch:
    """Return a batch with other numbers to learn from."""
    return batch._replace(features=values) if isinstance(batch, Bag) else values
