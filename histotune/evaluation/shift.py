"""How far an external cohort lies from the data of a study, in colour and in the features of the model.

A distance alone means little, so each is compared with distances between two random halves of the patients of the
study: the external cohort is called shifted where it lies farther away than 95 % of such random splits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from histotune.data.cohort import Cohort, select
from histotune.exports.model import CHUNK, Export
from histotune.models.network import IMAGE
from histotune.storage.study_folder import StudyFolder

COLOUR, STAIN, EMBEDDING = "colour", "stain", "embedding"
UNITS = {
    COLOUR: "grey levels of 255 between mean red, green and blue (Wasserstein)",
    STAIN: "optical density of haematoxylin and eosin (Wasserstein)",
    EMBEDDING: "AUROC of separating the two by features of the model (0.5: not separable)",
}
# Optical density of haematoxylin, eosin and their cross product (Ruifrok & Johnston, 2001), of length 1.
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_MOST, _DEALS, _FOLDS, _COMPONENTS, _SHRUNK = 2000, 40, 5, 16, 0.1


@dataclass(frozen=True)
class Shift:
    """A distance between an external cohort and a study's own data.

    Attributes:
        value: the distance, in `unit`.
        own: median of the same between two parts of the study's own patients; NaN where they are too few.
        own_high: what 95 % of such parts stay below.
        shifted: the value is above that; False also where nothing is known.
    """

    value: float
    own: float
    own_high: float
    unit: str
    shifted: bool

    def __str__(self) -> str:
        if self.value != self.value:
            return f"not known: too few patients; {self.unit}"
        verdict = "SHIFTED" if self.shifted else "as within the study"
        scale = (
            "too few patients in the study for a comparison"
            if self.own != self.own
            else (f"within the study {self.own:.3g}, 95 % of random splits below {self.own_high:.3g}: {verdict}")
        )
        return f"{self.value:.3g}, {scale}; {self.unit}"


class Sample(NamedTuple):
    """Values [n, D] of cases and whose they are [n]."""

    values: np.ndarray
    patients: np.ndarray

    def of(self, chosen: np.ndarray) -> Sample:
        """Return the cases of some patients."""
        rows = np.isin(self.patients, chosen)
        return Sample(self.values[rows], self.patients[rows])


def measure_shift(
    model: Export, store: StudyFolder, own: Mapping[int, Cohort], other: Mapping[int, Cohort], *, seed: int = 0
) -> dict[str, Shift]:
    """Compare an external cohort with the data of the study that an export was made in.

    Colours are compared with the development part. Features, those of the first member, are compared with cases that
    it was not trained on: on cases that a network has fitted, its features lie apart from those of any others.

    Args:
        store: of the study.
        own, other: {image size: cohort}, the study's and the external one.
        seed: of the random splits, and of the at most 2,000 cases that are taken of each side.

    Returns:
        {`colour`, `stain` where images are read, `embedding`: shift}.
    """
    size, rng = model.members[0].image_size, np.random.default_rng(seed)
    data = store.training_data(own[size])
    development = np.concatenate([data.train, data.val])
    held_out = data.val if data.folds is None else np.flatnonzero(data.folds[0] == 1)
    result = {}
    for name, what in model.reads.items():
        if what.kind == IMAGE and name in other[size].arrays:
            pixels = [_pixels(own[size], name, development, rng), _pixels(other[size], name, None, rng)]
            for key, summary in ((COLOUR, _mean_colours), (STAIN, _mean_stains)):
                mine, theirs = (Sample(summary(images), patients) for images, patients in pixels)
                result[key] = compare(mine, theirs, _distance, UNITS[key], rng)
    mine, theirs = _features(model, own[size], held_out, rng), _features(model, other[size], None, rng)
    mine, theirs = _whitened(mine, theirs)
    result[EMBEDDING] = compare(mine, theirs, separability, UNITS[EMBEDDING], rng)
    return result


def compare(
    own: Sample, other: Sample, distance: Callable[[Sample, Sample], float], unit: str, rng: np.random.Generator
) -> Shift:
    """Measure a distance, and the same between parts of one's own patients.

    The smaller part has as many patients as `other`, but half of one's own at most: few patients lie farther off.
    """
    patients = np.unique(own.patients)
    count = min(len(np.unique(other.patients)), len(patients) // 2)
    deals = [rng.permutation(patients) for _ in range(_DEALS if count else 0)]
    drawn = np.array([distance(own.of(deal[:count]), own.of(deal[count:])) for deal in deals])
    known = drawn[~np.isnan(drawn)]
    value = distance(own, other)
    middle, high = (float(np.quantile(known, q)) if len(known) else float("nan") for q in (0.5, 0.95))
    return Shift(value, middle, high, unit, bool(value > high))


def separability(one: Sample, other: Sample) -> float:
    """Return how well a linear discriminant tells two samples apart: AUROC, mean over folds of patients.

    NaN where a side has fewer than two patients.
    """
    sides = (one, other)
    folds = min(_FOLDS, *(len(np.unique(side.patients)) for side in sides))
    if folds < 2:
        return float("nan")
    fold = np.concatenate([np.unique(side.patients, return_inverse=True)[1] % folds for side in sides])
    values, side = np.concatenate([s.values for s in sides]), np.repeat([0, 1], [len(s.values) for s in sides])
    result = []
    for k in range(folds):
        direction = _discriminant(*(values[(fold != k) & (side == which)] for which in (0, 1)))
        scores, theirs = values[fold == k] @ direction, side[fold == k] == 1
        result.append(_auroc(scores[~theirs], scores[theirs]))
    return float(np.mean(result))


def _discriminant(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Fisher's direction [D] between samples [n, D] and [m, D], the covariance within shrunk by a tenth."""
    width = one.shape[1]
    within = np.atleast_2d((np.cov(one.T, bias=True) + np.cov(other.T, bias=True)) / 2)
    shrunk = (1 - _SHRUNK) * within + _SHRUNK * max(np.trace(within) / width, 1e-12) * np.eye(width)
    direction: np.ndarray = np.linalg.solve(shrunk, other.mean(0) - one.mean(0))
    return direction


def _auroc(lower: np.ndarray, higher: np.ndarray) -> float:
    """Return the probability that a score of `higher` is above one of `lower`, ties halved."""
    from scipy.stats import rankdata  # here: SciPy's statistics and scikit-learn cost a command over a second

    ranks = rankdata(np.concatenate([lower, higher]))[len(lower) :].sum()
    return float((ranks - len(higher) * (len(higher) + 1) / 2) / (len(lower) * len(higher)))


def _distance(one: Sample, other: Sample) -> float:
    """Return the Wasserstein distance of each column, averaged."""
    from scipy.stats import wasserstein_distance

    return float(np.mean([wasserstein_distance(*pair) for pair in zip(one.values.T, other.values.T, strict=True)]))


def _pixels(
    cohort: Cohort, name: str, rows: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Take at most 2,000 of the images that are there: uint8 [n, S, S, 3], and their patients [n]."""
    there = np.flatnonzero(cohort.present[name])
    chosen = _some(there if rows is None else np.intersect1d(there, rows), rng)
    return np.asarray(cohort.arrays[name][chosen]), cohort.table["patient"].to_numpy(str)[chosen]


def _features(model: Export, cohort: Cohort, rows: np.ndarray | None, rng: np.random.Generator) -> Sample:
    """Return what the first member makes of at most 2,000 cases of which it has input."""
    member = model.members[0]
    chosen = _some(np.arange(len(cohort)) if rows is None else rows, rng)
    parts, kept = [], []
    for start in range(0, len(chosen), CHUNK):
        cases = select(cohort.columns, chosen[start : start + CHUNK])
        observed = member.has_input(cases)
        kept.append(observed)
        parts.append(member.predictor.parts[0].features(cases)[observed] if observed.any() else np.zeros((0, 0)))
    values = np.concatenate([part for part in parts if part.size]) if any(part.size for part in parts) else parts[0]
    return Sample(values, cohort.table["patient"].to_numpy(str)[chosen][np.concatenate(kept)])


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(rows)[:_MOST])


def _whitened(one: Sample, other: Sample) -> tuple[Sample, Sample]:
    """Return both on the main axes of all their values together, each of variance 1."""
    from sklearn.decomposition import PCA

    values = np.concatenate([one.values, other.values])
    axes = PCA(min(_COMPONENTS, *values.shape), whiten=True, svd_solver="full").fit(values)
    return Sample(axes.transform(one.values), one.patients), Sample(axes.transform(other.values), other.patients)


def _mean_colours(images: np.ndarray) -> np.ndarray:
    """Average red, green and blue of images uint8 [n, H, W, 3]; [n, 3]."""
    return np.stack([image.mean(axis=(0, 1)) for image in images])


def _mean_stains(images: np.ndarray) -> np.ndarray:
    """Average the optical density of haematoxylin and eosin of images uint8 [n, H, W, 3]; [n, 2]."""
    mixed = np.linalg.inv(_STAINS)[:, :2]  # from red, green and blue to the two stains
    density = [-np.log10((image.astype(np.float64) + 1) / 256).mean(axis=(0, 1)) for image in images]
    result: np.ndarray = np.stack(density) @ mixed  # deconvolution is linear, so the mean may be taken before it
    return result
