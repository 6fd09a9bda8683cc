"""Row numbers become batches on the device: no per-item Python, no worker processes, raw until the last moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from histotune.data.modalities import MODALITIES, Batch, CaseSource, Column, Preprocessing

Preparations = Mapping[str, Preprocessing]
"""{modality: what was fitted to it}."""


@dataclass(frozen=True)
class Cases:
    """B cases on the device as they are stored.

    Attributes:
        values: {modality: raw batch [B, ...]}.
        present: {modality: bool [B]}.
    """

    values: Mapping[str, Batch]
    present: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Return B."""
        return len(next(iter(self.present.values())))


class Feed:
    """Some modalities of N cases; row numbers become `Cases`.

    Attributes:
        sources: by modality.
        present: {modality: bool [N]}, on the device.
    """

    def __init__(self, columns: Mapping[str, Column], modalities: Iterable[str], device: torch.device) -> None:
        chosen = {name: columns[name] for name in sorted(set(modalities))}
        self.device = device
        self.sources: Mapping[str, CaseSource] = {
            name: MODALITIES.build(column.kind).source(column.stored, device) for name, column in chosen.items()
        }
        self.present: Mapping[str, Tensor] = {
            name: torch.from_numpy(np.array(column.present, dtype=bool)).to(device) for name, column in chosen.items()
        }

    def take(self, rows: np.ndarray) -> Cases:
        """Return the cases `rows`."""
        where = torch.from_numpy(rows).to(self.device)
        return Cases(
            {name: source.take(rows) for name, source in self.sources.items()},
            {name: there[where] for name, there in self.present.items()},
        )


def images_as_cases(images: Tensor, modalities: Iterable[str]) -> Cases:
    """Return uint8 images [B, S, S, 3] as cases that have them in all of these modalities."""
    present = torch.ones(images.shape[0], dtype=torch.bool, device=images.device)
    names = set(modalities)
    return Cases(dict.fromkeys(names, images), dict.fromkeys(names, present))


def shuffled(rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut a random order of `rows` into batches of `batch_size` or one less, so that every case is seen once.

    Sizes differ by at most one and no batch has a single case where that can be helped: batch norm needs two.
    """
    return np.array_split(rng.permutation(rows), steps(len(rows), batch_size))


def steps(cases: int, batch_size: int) -> int:
    """Return how many batches `shuffled` makes."""
    return max(1, min(-(-cases // batch_size), cases // 2))


def in_order(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Cut `rows` into batches as they stand."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]
