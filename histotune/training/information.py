"""What embeddings share, how well they predict the label, how many directions they use: pure functions of arrays.

An embedding is a matrix [n, D], a row per case. A quantity that cannot be estimated from so few cases is NaN. SciPy and
scikit-learn are imported where they are needed: a training on one branch needs neither.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from histotune.models.redundancies import REDUNDANCIES

COMPONENTS = 8  # principal components that stand for an embedding: of 16, few cases tell less of the label
FOLDS = 5
_CASES_PER_COMPONENT = 10
_ROUNDING = 1e-6  # share of an embedding's size below which a direction is float32's rounding
_CLOSEST = 1e-12  # least 1 - correlation^2 of two components: equal ones share 13.8 nats


def cross_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared correlation of each feature of one embedding with each of the other, in [0, 1].

    It is the redundancy term `cross_correlation` with weight 1 (Zbontar et al., 2021, between branches). Independent
    embeddings are at 1 / (n - 1) on average.
    """
    return _term("cross_correlation", one, other)


def hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Return the normalised, unbiased HSIC of Gaussian kernels, in [-1, 1]: any dependence, linear or not.

    It is the redundancy term `hsic` with weight 1 (Gretton et al., 2005; Song et al., 2012; Kornblith et al., 2019:
    CKA); about 0 for independent embeddings, 1 for equal ones. NaN with fewer than four cases.
    """
    return _term("hsic", one, other) if len(one) >= 4 else float("nan")


def gaussian_information(one: np.ndarray, other: np.ndarray, *, components: int = COMPONENTS) -> float:
    """Estimate the mutual information of two embeddings, nats, as if they were jointly Gaussian.

    -1/2 sum log(1 - rho^2) over the canonical correlations rho of their first principal components (Kullback, 1959),
    less what chance alone adds with n cases of Gaussian variables (Misra et al., 2005; Ince et al., 2017), so that
    independent embeddings are at 0 on average, sometimes below. No shift, rotation or scale of an embedding changes
    it, and no invertible affine map while all D components are used.

    What it cannot see: dependence that leaves no linear correlation, and what lies beyond the first components. Two
    deterministic functions of one image share infinitely much, so that the value is a scale to compare epochs and
    trials on and not an amount. Cases of a patient are alike: n of them are worth fewer, and the estimate is then
    somewhat above 0 where there is nothing to share.

    Args:
        one, other: of the same cases.
        components: of each embedding, at most; fewer where there are fewer than ten cases for each.
    """
    cases = len(one)
    if cases < _CASES_PER_COMPONENT:
        return float("nan")
    scores = [(values - mean) @ axes for values in (one, other) for mean, axes in [_whitening(values, components)]]
    rho = np.linalg.svd(scores[0].T @ scores[1] / cases, compute_uv=False)
    result = -0.5 * np.log(np.maximum(1 - rho**2, _CLOSEST)).sum()
    return float(result - _chance(cases, scores[0].shape[1], scores[1].shape[1]))


def entropy(labels: np.ndarray) -> float:
    """Return the entropy of the class frequencies among labels [n], nats.

    >>> round(entropy(np.array([0, 1, 0, 1])), 4)
    0.6931
    """
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def label_information(
    embedding: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, components: int = COMPONENTS, folds: int = FOLDS
) -> float:
    """Estimate from below the mutual information of an embedding and the label, nats.

    H(Y) - cross-entropy of a probe: multinomial logistic regression on the first principal components, standardised,
    each fold of patients predicted from the others (Barber & Agakov, 2003: the bound; Alain & Bengio, 2016: probes; Xu
    et al., 2020: it is the information that a linear model can use). At most H(Y). Below 0 where the probe knows less
    than the class frequencies do: that is not cut off, for it is what an embedding without information gives.

    Args:
        embedding: [n, D].
        labels: int [n].
        patients: [n], names or numbers; none is learned from and predicted at once.
        components: of the embedding, at most; fewer where there are fewer than ten cases for each.
        folds: of patients; fewer where there are fewer patients, and NaN for a single one.
    """
    from sklearn.model_selection import GroupKFold

    folds = min(folds, len(np.unique(patients)))
    if folds < 2:
        return float("nan")
    classes, codes = np.unique(labels, return_inverse=True)
    surprise = np.empty(len(labels))
    for seen, held in GroupKFold(folds).split(embedding, codes, patients):
        shares = _probed(embedding[seen], codes[seen], embedding[held], len(classes), components)
        surprise[held] = -np.log(shares[np.arange(len(held)), codes[held]])
    return entropy(labels) - float(surprise.mean())


def effective_rank(embedding: np.ndarray) -> float:
    """Return how many directions an embedding [n, D] uses: exp of the entropy of its normalised singular values.

    Roy & Vetterli, 2007, of the centred matrix: D if it spreads alike in all directions, 1 if along a single one or
    not at all.
    """
    sizes = _singular(embedding)[1]
    if not sizes.any():
        return 1.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def attention_entropy(rows: Tensor, asks: Tensor, answers: Tensor) -> Tensor:
    """Return the mean entropy of attention rows [B, heads, Tq, Tk] as a share of the greatest possible, [B, heads].

    1 is attention to all answers alike, 0 to a single one; NaN where there is but one answer.

    Args:
        rows: of sum 1 and, of a token that does not ask, 0.
        asks: which tokens ask, bool [B, Tq], at least one of each case.
        answers: which tokens answer, bool [B, Tk]; the others get 0.
    """
    total = torch.special.entr(rows).sum(dim=(2, 3))
    return total / (asks.sum(dim=1) * answers.sum(dim=1).log())[:, None]


def _term(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """Return a redundancy term of two embeddings, in float64."""
    embeddings = {"one": torch.from_numpy(one).double(), "other": torch.from_numpy(other).double()}
    present = dict.fromkeys(embeddings, torch.ones(len(one), dtype=torch.bool))
    term = REDUNDANCIES.build(name, {key: value.shape[1] for key, value in embeddings.items()}, weight=1.0)
    with torch.inference_mode():
        return float(term(embeddings, present))


def _singular(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean [D], singular values and right singular vectors [r, D] of a centred matrix; rounding counts as 0."""
    exact = np.asarray(values, dtype=np.float64)
    mean = exact.mean(axis=0)
    _, sizes, axes = np.linalg.svd(exact - mean, full_matrices=False)
    return mean, np.where(sizes > _ROUNDING * np.linalg.norm(exact), sizes, 0.0), axes


def _whitening(values: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [D] and map [D, k] to principal components of variance 1 over these cases."""
    mean, sizes, axes = _singular(values)
    kept = min(components, len(values) // _CASES_PER_COMPONENT, int((sizes > 0).sum()))
    return mean, axes[:kept].T * (np.sqrt(len(values)) / sizes[:kept])


def _chance(cases: int, one: int, other: int) -> float:
    """Return the mean of the plain estimate for independent Gaussian variables of these dimensions, nats."""
    from scipy.special import digamma

    half = digamma((cases - np.arange(1, one + other + 1)) / 2) / 2
    return float(half[:one].sum() + half[:other].sum() - half.sum())


def _probed(seen: np.ndarray, labels: np.ndarray, held: np.ndarray, classes: int, components: int) -> np.ndarray:
    """Return class probabilities [h, C] of held-out cases by a probe that saw the others; none of them is 0."""
    from sklearn.linear_model import LogisticRegression

    mean, axes = _whitening(seen, components)
    there, counts = np.unique(labels, return_counts=True)
    shares = np.zeros((len(held), classes))
    if len(there) == 1 or not axes.shape[1]:
        shares[:, there] = counts / len(labels)
    else:
        probe = LogisticRegression(max_iter=1000).fit((seen - mean) @ axes, labels)
        shares[:, there] = probe.predict_proba((held - mean) @ axes)
    doubt = 1 / (len(labels) + 1)  # a class that no patient seen had is possible all the same
    return (1 - doubt) * shares + doubt / classes
