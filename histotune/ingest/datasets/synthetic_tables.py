"""A made-up multimodal cohort in tables: what tells the classes apart is spread over the modalities; all from a seed.

Image features tell `basal` from the rest, omics tell `her2` from `luminal`, the clinical record tells a little of both:
no modality alone tells all three. Every modality is missing for some patients, as in real cohorts, and the tables have
what real ones have: columns of hundreds of units, copies, constants, outliers, categories and empty cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from histotune.data.modalities import Column
from histotune.data.modalities.table import Table
from histotune.data.modalities.table import TableColumn as Feature
from histotune.ingest.datasets._base import DATASETS, Dataset, Info, Listing, listing_table

CLASSES = ("luminal", "her2", "basal")
SHARES = (0.55, 0.2, 0.25)
ABSENT = {"image": 0.15, "omics": 0.15, "clinical": 0.05}
STAGES = ("I", "II", "III", "IV")
_EMPTY = 0.12  # share of the clinical cells


@DATASETS.register("multimodal_demo")
@dataclass(frozen=True, kw_only=True)
class MultimodalDemo(Dataset):
    """Made-up tables of image features, omics and clinic, each missing for some patients; needs no data.

    Args:
        cases: number of patients.
        sites: number of hospitals.
        difficulty: 0 keeps the classes apart, 1 leaves nothing to see.
        seed: seed of everything.
    """

    cases: int = 300
    sites: int = 4
    difficulty: float = 0.5
    seed: int = 0

    name: ClassVar[str] = "multimodal_demo"
    images: ClassVar[bool] = False
    info: ClassVar[Info] = Info(
        title="made-up multimodal cohort (synthetic: it shows that the program works and has no medical meaning)",
        source="generated from a seed by histotune itself",
        licence="Apache-2.0",
        synthetic=True,
    )

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 1 <= self.sites <= self.cases or self.cases < 30:
            raise ValueError("needs 1 <= sites <= cases and cases >= 30")
        if not 0 <= self.difficulty <= 1:
            raise ValueError("needs 0 <= difficulty <= 1")

    def scan(self, root: Path | None) -> Listing:
        """Draw the patients' classes and hospitals."""
        rng = np.random.default_rng([self.seed, 0])
        labels = rng.permutation(np.repeat(np.arange(3), self._counts))
        sites = rng.integers(0, self.sites, self.cases)
        rows: list[dict[str, Any]] = [
            {"id": f"case-{at:05d}", "patient": f"case-{at:05d}", "site": f"site-{site}", "label": int(label)}
            for at, (label, site) in enumerate(zip(labels, sites, strict=True))
        ]
        return Listing(listing_table(rows), CLASSES, 2, {"patients_known": True})

    def columns(self, listing: Listing, root: Path | None, cache: Path) -> Mapping[str, Column]:
        """Draw the tables and who lacks which."""
        labels = listing.table["label"].to_numpy()
        makers = {"image": _image, "omics": _omics, "clinical": _clinical}
        drawn = np.random.default_rng([self.seed, 1]).random((self.cases, len(makers)))
        absent = drawn < np.array([ABSENT[name] for name in makers])
        absent[absent.all(axis=1)] = False  # everybody has something
        result = {}
        for at, (name, make) in enumerate(makers.items()):
            table = make(np.random.default_rng([self.seed, 2, at]), labels, 1 - self.difficulty)
            table.values[absent[:, at]] = np.nan
            result[name] = Column("table", table, ~absent[:, at])
        return result

    @property
    def _counts(self) -> list[int]:
        first, second = (round(share * self.cases) for share in SHARES[:2])
        return [first, second, self.cases - first - second]


def _image(rng: np.random.Generator, labels: np.ndarray, strength: float) -> Table:
    """60 features of eight hidden ones, of which one tells basal from the rest; areas of hundreds of units."""
    hidden = rng.normal(size=(len(labels), 8))
    hidden[:, 0] += 4 * strength * (labels == 2)
    values = hidden @ rng.normal(size=(8, 60)) + rng.normal(size=(len(labels), 60))
    values = values * 10.0 ** rng.integers(-1, 4, 60)
    return _table(values, [f"feature_{at:02d}" for at in range(60)])


def _omics(rng: np.random.Generator, labels: np.ndarray, strength: float) -> Table:
    """150 expressions with outliers and two useless columns; ten genes tell her2 from luminal."""
    values = rng.normal(size=(len(labels), 150))
    values[:, :10] += 1.6 * strength * (labels == 1)[:, None]
    values[rng.random(values.shape) < 0.001] *= 1000
    values[:, 148], values[:, 149] = values[:, 3], 1.0  # a copy and a constant
    return _table(values, [f"GENE{at:03d}" for at in range(150)])


def _clinical(rng: np.random.Generator, labels: np.ndarray, strength: float) -> Table:
    """Age, nodes, stage, menopause and sex with empty cells; age and nodes tell a little."""
    n = len(labels)
    age = 60 - 8 * strength * (labels == 2) + rng.normal(0, 10, n)
    nodes = rng.poisson(1 + 3 * strength * (labels == 1))
    stage = np.clip(rng.integers(0, 3, n) + (nodes > 4), 0, 3)
    values = np.stack([age.round(), nodes, stage, age > 50, rng.random(n) < 0.99], axis=1).astype(np.float64)
    values[rng.random(values.shape) < _EMPTY] = np.nan
    columns = (
        Feature("age"),
        Feature("positive_nodes"),
        Feature("stage", STAGES),
        Feature("menopause", ("post", "pre")),
        Feature("sex", ("female", "male")),
    )
    values[:, 3:] = 1 - values[:, 3:]
    return Table(values.astype(np.float32), columns)


def _table(values: np.ndarray, names: list[str]) -> Table:
    return Table(values.astype(np.float32), tuple(Feature(name) for name in names))
