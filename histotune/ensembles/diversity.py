"""How different the members of an ensemble err: members that err alike gain nothing together."""

from __future__ import annotations

from typing import Any

import numpy as np


def diversity(probabilities: np.ndarray, labels: np.ndarray, present: np.ndarray) -> dict[str, Any]:
    """Compare members by pairs, on the cases that both know (Kuncheva & Whitaker, 2003).

    Args:
        probabilities: [M, n, C]; the class of highest probability counts.
        labels: [n].
        present: bool [M, n].

    Returns:
        `disagreement` [M][M], the share of cases that two members call differently; `error_correlation` [M][M],
        Pearson's correlation of being wrong, NaN where one of them is always or never wrong; `double_fault` [M][M],
        the share that both get wrong; and `mean_...` of each over pairs, NaN for a single member.
    """
    called = probabilities.argmax(axis=2)
    known = present.astype(np.float64)
    wrong = (called != labels) * known
    both = known @ known.T
    alike = sum(one @ one.T for one in ((called == label) * known for label in range(probabilities.shape[2])))
    fault = wrong @ wrong.T
    mine = wrong @ known.T  # [m, k]: errors of m on the cases that k knows, too
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = mine * (both - mine)
        correlation = (fault * both - mine * mine.T) / np.sqrt(spread * spread.T)
        result = {
            "disagreement": 1 - alike / both,
            "error_correlation": np.where(np.isfinite(correlation), correlation, np.nan),
            "double_fault": fault / both,
        }
    pairs = np.triu_indices(len(called), 1)
    means = {f"mean_{name}": _mean(values[pairs]) for name, values in result.items()}
    return means | {name: values.tolist() for name, values in result.items()}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
