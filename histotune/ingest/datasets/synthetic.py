"""A made-up cohort that looks like H&E: patients, sites with their own stain, nuclei, imbalance; all from a seed.

What tells the classes apart is the nuclei's shape and arrangement: benign ones are many, small, round and lie in rows,
malignant ones are few, large, of uneven size and elongated, and lie anywhere. Both cover the same area on average and
stain varies between sites and patients, so that mean colour tells little. A share of the images is hard on purpose.
Light passes through two stains as in Ruifrok & Johnston, 2001: optical densities add, intensity is 10 ** -density.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from histotune.ingest.datasets._base import DATASETS, Dataset, Info, Listing, Picture, listing_table

# Optical density of haematoxylin and eosin in red, green and blue (Ruifrok & Johnston, 2001), of length 1.
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])


@DATASETS.register("synthetic")
@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Made-up H&E-like patches of benign and malignant nuclei; needs no data.

    Args:
        cases: number of images.
        patients: number of patients; each belongs to one site.
        sites: number of sites; each stains in its own way.
        positive_fraction: expected share of malignant images, in (0, 1).
        side: pixels of the square images.
        difficulty: 0 keeps the classes apart, 1 makes every image halfway between them.
        seed: seed of everything.
    """

    cases: int = 1500
    patients: int = 60
    sites: int = 3
    positive_fraction: float = 0.3
    side: int = 50
    difficulty: float = 0.6
    seed: int = 0

    name: ClassVar[str] = "synthetic"
    info: ClassVar[Info] = Info(
        disease=True,
        title="made-up H&E-like patches (synthetic: they show that the program works and have no medical meaning)",
        source="generated from a seed by histotune itself",
        licence="Apache-2.0",
        synthetic=True,
    )

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 1 <= self.sites <= self.patients <= self.cases:
            raise ValueError("needs 1 <= sites <= patients <= cases")
        if not 0 < self.positive_fraction < 1 or not 0 <= self.difficulty <= 1:
            raise ValueError("needs 0 < positive_fraction < 1 and 0 <= difficulty <= 1")
        if self.side < 16:
            raise ValueError("needs side >= 16")

    def scan(self, root: Path | None) -> Listing:
        """Draw patients, their sites, their number of images and the labels."""
        rng = np.random.default_rng([self.seed, 0])
        share = rng.dirichlet(np.full(self.patients, 2.0))  # patients are unequal, as in life
        extra = rng.multinomial(self.cases - self.patients, share)
        patient = np.repeat(np.arange(self.patients), extra + 1)
        logit = np.log(self.positive_fraction / (1 - self.positive_fraction))
        tendency = 1 / (1 + np.exp(-(logit + rng.normal(0, 1.0, self.patients))))
        tendency *= self.positive_fraction / tendency.mean()
        label = (rng.random(self.cases) < tendency[patient]).astype(np.int64)
        rows = [
            {
                "id": f"case-{number:06d}",
                "patient": f"patient-{who:03d}",
                "site": f"site-{who % self.sites}",
                "label": int(which),
                "number": number,
            }
            for number, (who, which) in enumerate(zip(patient, label, strict=True))
        ]
        return Listing(listing_table(rows), ("benign", "malignant"), facts={"patients_known": True})

    def read(self, case: Mapping[Any, Any], root: Path | None) -> Picture:
        """Paint one image from its own random numbers."""
        rng = np.random.default_rng([self.seed, 1, int(case["number"])])
        site = np.random.default_rng([self.seed, 2, int(case["site"].removeprefix("site-"))])
        patient = np.random.default_rng([self.seed, 3, int(case["patient"].removeprefix("patient-"))])
        malignancy = float(case["label"]) + (1 - 2 * float(case["label"])) * rng.beta(1.0, 2.0) * self.difficulty
        haematoxylin = 0.12 + _nuclei(rng, malignancy, self.side)
        eosin = (0.30 + 0.10 * _texture(rng, self.side)).clip(0.02)
        strength = np.exp(site.normal(0, 0.18, 2) + patient.normal(0, 0.12, 2) + rng.normal(0, 0.08, 2))
        hue = STAINS + site.normal(0, 0.035, (2, 3))
        density = (np.stack([haematoxylin, eosin], axis=-1) * strength) @ hue.clip(0.01)  # [H, W, 3]
        light = 245.0 * 10.0**-density + rng.normal(0, 2.5, density.shape)
        return Picture(np.rint(light).clip(0, 255).astype(np.uint8))


def _nuclei(rng: np.random.Generator, malignancy: float, side: int) -> np.ndarray:
    """Optical density of the nuclei, [side, side]; `malignancy` runs from 0 to 1."""
    scale = side / 50
    mean = (2.6 + 2.0 * malignancy) * scale  # radius, px
    spread = 0.10 + 0.22 * malignancy
    covered = rng.uniform(0.16, 0.34)  # share of the area, whatever the class
    count = max(2, rng.poisson(covered * side**2 / (np.pi * mean**2 * np.exp(2 * spread**2))))
    radius = mean * np.exp(rng.normal(0, spread, count))
    stretch = np.exp(rng.normal(0, 0.08 + 0.25 * malignancy, count))
    x, y = _places(rng, malignancy, count, side)
    angle = rng.uniform(0, np.pi, count)
    dark = 0.55 * np.exp(rng.normal(0, 0.10 + 0.12 * malignancy, count))
    distance = _distances(x, y, radius * stretch, radius / stretch, angle, side)
    edge = 1 - distance  # from 1 in the centre to 0 on the outline
    edge *= radius[:, None]
    edge += 0.5  # one pixel of soft border
    np.clip(edge, 0, 1, out=edge)
    edge *= dark[:, None]
    density: np.ndarray = edge.max(axis=0).reshape(side, side)
    return density * (1 + 0.2 * _texture(rng, side)).clip(0.3)


def _distances(
    x: np.ndarray, y: np.ndarray, wide: np.ndarray, tall: np.ndarray, angle: np.ndarray, side: int
) -> np.ndarray:
    """Distance of every pixel from every ellipse's centre, 1 on the outline, [ellipses, side * side].

    An ellipse is a quadratic form, so that all of them are one matrix product over 1, c, r, c*c, c*r, r*r.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    a = (cos / wide) ** 2 + (sin / tall) ** 2
    b = 2 * cos * sin * (wide**-2 - tall**-2)
    c = (sin / wide) ** 2 + (cos / tall) ** 2
    form = np.stack([a * x**2 + b * x * y + c * y**2, -2 * a * x - b * y, -2 * c * y - b * x, a, b, c], axis=1)
    column, row = (grid.ravel() for grid in np.meshgrid(np.arange(side), np.arange(side)))
    squared = form @ np.stack([np.ones(side**2), column, row, column**2, column * row, row**2])
    distance: np.ndarray = np.sqrt(squared.clip(0), out=squared)
    return distance


def _places(rng: np.random.Generator, malignancy: float, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the nuclei (px): in rows when benign, anywhere when malignant."""
    free = rng.uniform(-2, side + 2, (2, count))
    rows = max(2, round(np.sqrt(count) * 0.8))
    turn, offset = rng.uniform(0, np.pi), rng.uniform(0, 1)
    across = (rng.integers(0, rows, count) + offset) / rows * 1.4 - 0.7
    along = rng.uniform(-0.7, 0.7, count)
    cos, sin = np.cos(turn), np.sin(turn)
    ordered = np.stack([cos * along - sin * across, sin * along + cos * across]) * side + side / 2
    stray = rng.random(count) < 0.15 + 0.85 * malignancy
    x, y = np.where(stray, free, ordered)
    return x, y


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation about 1, [side, side]."""
    waves = 16
    frequency = rng.normal(0, 3.0, (2, waves)) * 2 * np.pi / side
    phase = rng.uniform(0, 2 * np.pi, waves)
    grid = np.arange(side)
    # cos(a + b) of a plane wave, summed over waves by two small matrix products instead of [waves, side, side]
    rows = np.exp(1j * (grid[:, None] * frequency[0] + phase))
    columns = np.exp(1j * grid[:, None] * frequency[1])
    noise: np.ndarray = (rows @ columns.T).real * np.sqrt(2 / waves)
    return noise
