"""Class imbalance: training parts that are made less even on purpose, and the class weights that answer it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from histotune.errors import ConfigError, DataError, suggest

NATURAL, LONG_TAIL = "natural", "long_tail"
IMBALANCES: Mapping[str, str] = {
    NATURAL: "the training part as the split gives it",
    LONG_TAIL: "58 % of the training part, its classes on an exponential profile (the long-tailed variant of CFAL)",
    "90:10": "of two classes: all negatives of the training part, and one positive to every nine of them; any A:B",
}
_RATIO = re.compile(r"(\d+):(\d+)")
_STREAMS = 2  # of random numbers, beside the split's
_KEPT = 0.58  # CFAL keeps 58,000 of 100,000 images ...
_LARGEST = 9 * 0.19  # ... and 19.0 % of them are of the largest of nine classes: 1.71 times the mean class


def check_imbalance(name: str) -> str:
    """Return `name` if it is one of `IMBALANCES`, or a ratio A:B of negatives to positives.

    Raises:
        ConfigError: it is neither; the nearest is offered.
    """
    if name in IMBALANCES or ratio(name) is not None:
        return name
    raise ConfigError(f"unknown imbalance {name!r}: it is no ratio such as 90:10 either. {suggest(name, IMBALANCES)}")


def ratio(name: str) -> tuple[int, int] | None:
    """Read negatives and positives of a ratio, None of anything else.

    >>> ratio("99:1"), ratio("long_tail"), ratio("9:0")
    ((99, 1), None, None)
    """
    result = _RATIO.fullmatch(name)
    numbers = (int(result[1]), int(result[2])) if result else (0, 0)
    return numbers if all(numbers) else None


def thin(
    rows: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    imbalance: str,
    *,
    seed: int,
    patients: np.ndarray,
    positive: int = 1,
    rarest: int = -1,
) -> np.ndarray:
    """Return the rows of a training part that stay, sorted; which cases of a class stay is drawn at random.

    Args:
        rows: int64, row numbers of the training part.
        labels: int64 [N], of all cases.
        classes: names of the C classes.
        imbalance: what `check_imbalance` takes.
        seed: of the study; the same seed keeps the same cases.
        patients: [N], of all cases; under a ratio each keeps its share of the positives.
        positive: class that a ratio thins.
        rarest: the class that a long tail makes the rarest, whatever its count; -1 takes the one that is.

    Raises:
        ConfigError: a ratio for other than two classes, or for more positives than there are.
    """
    asked = ratio(check_imbalance(imbalance))
    if asked is not None:
        return _at_ratio(rows, labels, classes, asked, seed=seed, patients=patients, positive=positive)
    if imbalance == NATURAL:
        return rows
    rng = np.random.default_rng([seed, _STREAMS])
    wanted = long_tail(np.bincount(labels[rows], minlength=len(classes)), rarest)
    kept = [rng.permutation(rows[labels[rows] == label])[:count] for label, count in enumerate(wanted)]
    return np.sort(np.concatenate(kept))


def by_patient(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order of cases of which every beginning holds about the same share of each patient's; int64 [n].

    A patient's n cases, shuffled, stand at (k + u) / n for k = 0 ... n - 1, with one u in [0, 1) for each patient:
    systematic sampling. So the first f n of all cases hold f n_p of a patient's, rounded up or down.

    Args:
        patients: [n].
    """
    order = rng.permutation(len(patients))
    _, owner, counts = np.unique(patients[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(patients), np.int64)
    ranks[np.argsort(owner, kind="stable")] = np.concatenate([np.arange(count) for count in counts])
    places = (ranks + rng.random(len(counts))[owner]) / counts[owner]
    return order[np.argsort(places, kind="stable")]


def sample(rows: np.ndarray, labels: np.ndarray, classes: int, most: int, *, seed: int) -> np.ndarray:
    """Return at most `most` rows of a training part, sorted, at random in the proportions of the classes; 0 is all.

    A class keeps at least one case.

    Raises:
        ConfigError: fewer than one case of each class.
    """
    if most and most < classes:
        raise ConfigError(f"training_cases must be 0 for all, or at least {classes}, one of each class; got {most}")
    if not most or len(rows) <= most:
        return rows
    rng = np.random.default_rng([seed, _STREAMS + 1])
    counts = np.bincount(labels[rows], minlength=classes)
    wanted = np.maximum(counts * most // len(rows), 1)
    kept = [rng.permutation(rows[labels[rows] == label])[:count] for label, count in enumerate(wanted)]
    return np.sort(np.concatenate(kept))


def long_tail(counts: np.ndarray, rarest: int = -1) -> np.ndarray:
    """Return how many cases of each class a long-tailed part keeps, int64 [C].

    n_k = n_max r^(k / (C - 1)) over the classes from the largest (k = 0) to the rarest, with r such that the largest is
    1.71 times the mean class, and 58 % of all cases in total; less where a class has too few for that. CFAL publishes
    both ends of its profile for nine classes (19.0 % and 5.2 %) and not its form, which is inferred here.

    >>> long_tail(np.full(9, 1000)).tolist()
    [992, 851, 730, 626, 537, 461, 395, 339, 291]
    """
    share = _profile(len(counts))
    order = np.argsort(-counts, kind="stable")
    if rarest >= 0:
        order = np.append(order[order != rarest], rarest)
    total = min(_KEPT * counts.sum(), float((counts[order] / share).min()))
    kept = np.empty(len(counts), np.int64)
    kept[order] = np.maximum(np.rint(total * share), 1)
    return np.minimum(kept, counts)


def describe(classes: Sequence[str], before: np.ndarray, after: np.ndarray, imbalance: str) -> str:
    """Describe in a sentence what became of a training part of `before` cases per class.

    >>> describe(["a", "b"], np.array([60, 40]), np.array([49, 9]), "long_tail")
    'long_tail: 58 of 100 cases, 5.4 to 1 (a 49, b 9)'
    """
    listed = ", ".join(f"{classes[k]} {after[k]:,}" for k in np.argsort(-after, kind="stable"))
    ratio = after.max() / after.min()
    return f"{imbalance}: {after.sum():,} of {before.sum():,} cases, {ratio:.1f} to 1 ({listed})"


def effective_number_weights(counts: Sequence[int], beta: float) -> np.ndarray:
    """Weigh each class by the inverse of its effective number of samples (Cui et al., CVPR 2019).

    E_n = (1 - beta^n) / (1 - beta), weight 1 / E_n, scaled to sum C. `beta` 0 gives ones; `beta` 1 is the limit,
    inverse frequency. `expm1` keeps 1 - beta^n exact where beta^n is close to 1.

    Args:
        counts: cases of each class in the training part, [C], each at least 1.
        beta: in [0, 1].

    Returns:
        float64 [C], positive, with sum C.

    Raises:
        ConfigError: `beta` outside [0, 1].
        DataError: a class without training cases.

    >>> effective_number_weights([10, 1000], 0.0).tolist()
    [1.0, 1.0]
    >>> effective_number_weights([30, 10], 1.0).tolist()
    [0.5, 1.5]
    """
    if not 0.0 <= beta <= 1.0:
        raise ConfigError(f"beta must lie in [0, 1], got {beta=}")
    cases = checked_counts(counts)
    if beta == 0.0:
        return np.ones_like(cases)
    covered = cases if beta == 1.0 else -np.expm1(cases * np.log(beta))  # proportional to E_n
    inverse = 1.0 / covered
    return inverse / inverse.sum() * len(cases)


def ldam_margins(counts: Sequence[int], largest: float) -> np.ndarray:
    """Return margins proportional to n^(-1/4), the greatest of them `largest` (Cao et al., 2019); float64 [C].

    >>> ldam_margins([16, 1], 0.5).tolist()
    [0.25, 0.5]

    Raises:
        DataError: a class without training cases.
    """
    margins = checked_counts(counts) ** -0.25
    return largest * margins / margins.max()


def log_priors(counts: Sequence[int]) -> np.ndarray:
    """Return the logarithm of each class's share of the training cases; float64 [C].

    Raises:
        DataError: a class without training cases.
    """
    cases = checked_counts(counts)
    return np.log(cases / cases.sum())


def checked_counts(counts: Sequence[int]) -> np.ndarray:
    """Return the counts as float64 [C].

    Raises:
        DataError: no class, or a class without training cases.
    """
    cases = np.asarray(counts, dtype=np.float64)
    if cases.size == 0 or cases.min() < 1:
        raise DataError(
            f"every class needs at least one case in the training part, got counts {list(counts)}: "
            "choose another split, or add or leave out classes"
        )
    return cases


def _at_ratio(
    rows: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    asked: tuple[int, int],
    *,
    seed: int,
    patients: np.ndarray,
    positive: int,
) -> np.ndarray:
    """Keep all negatives, and the positives that the ratio leaves; of a rarer ratio they are among a commoner one's."""
    written = f"imbalance {asked[0]}:{asked[1]}"
    if len(classes) != 2:
        raise ConfigError(f"{written} is for two classes, and there are {len(classes)}: take {LONG_TAIL!r}")
    ours = labels[rows] == positive
    few, many = rows[ours], rows[~ours]
    wanted = max(1, round(len(many) * asked[1] / asked[0]))
    if wanted > len(few):
        raise ConfigError(
            f"{written} asks for {wanted:,} {classes[positive]!r} beside {len(many):,} {classes[1 - positive]!r}, and "
            f"the training part has {len(few):,}, {len(many) / max(1, len(few)):.1f} to 1: take a rarer ratio, or "
            f"{NATURAL!r}"
        )
    order = by_patient(patients[few], np.random.default_rng([seed, _STREAMS + 2]))
    return np.sort(np.concatenate([many, few[order[:wanted]]]))


def _profile(classes: int) -> np.ndarray:
    """Return the shares of C classes from the largest to the rarest, a geometric series that sums to 1; float64 [C]."""
    steps = np.arange(classes)
    low, high = 0.0, 1.0  # of the ratio between neighbours; the sum below grows with it
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (middle**steps).sum() < classes / _LARGEST else (low, middle)
    shares = low**steps
    return shares / shares.sum()
