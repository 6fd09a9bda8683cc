"""How well the site alone tells the label: what a model may learn instead of the disease."""

from __future__ import annotations

import numpy as np

from histotune.data.audits import _predict
from histotune.data.audits._base import AUDITS, WARNING, Finding, Subject


@AUDITS.register(
    "site_label", source="Howard et al., The impact of site-specific digital histology signatures, Nat Commun 2021"
)
def site_label(subject: Subject) -> Finding:
    """How well the site alone tells the label, across patients: classes may not be spread alike over the sites."""
    from sklearn.naive_bayes import CategoricalNB

    rows = _predict.sample(subject.known[subject.sites[subject.known] != ""])
    names, codes = np.unique(subject.sites[rows], return_inverse=True)
    if len(names) < 2:
        return subject.skipped(
            "site_label", f"all cases are of one site, {names[0]}" if len(names) else "no site is known"
        )
    model = CategoricalNB(min_categories=len(names))
    labels = subject.labels[rows]
    text = _predict.tell(model, codes[:, None], labels, subject.patients[rows])
    advice = "split by site (--split site), which shows whether a model relies on it; balance the classes over sites"
    result = _predict.judge("site_label", subject, rows, text, "the site", WARNING, advice)
    if result.severity != WARNING:
        return result
    classes = subject.cohort.classes
    most = np.argsort(-np.bincount(codes))[:3]
    shares = [
        (names[site], np.bincount(labels[codes == site], minlength=len(classes)) / (codes == site).sum())
        for site in most
    ]
    examples = [
        f"{site}: {', '.join(f'{share:.0%} {name}' for name, share in zip(classes, part, strict=True) if share)}"
        for site, part in shares
    ]
    return _predict.with_examples(result, examples)
