"""Sites on both sides of a split; only a split by site promises that there are none."""

from __future__ import annotations

import numpy as np

from histotune.data.audits._base import AUDITS, LEAK, NOTE, OK, Finding, Subject


@AUDITS.register(
    "sites", source="Howard et al., The impact of site-specific digital histology signatures, Nat Commun 2021"
)
def sites(subject: Subject) -> Finding:
    """Sites that stand on both sides of the split."""
    known = np.unique(subject.sites[subject.placed])
    known = known[known != ""]
    if len(known) < 2:
        return subject.skipped("sites", f"all cases are of one site, {known[0]}" if len(known) else "no site is known")
    torn = subject.torn(subject.sites)
    torn = torn[torn != ""]
    if not len(torn):
        return Finding("sites", OK, 0, len(known), f"each of {len(known):,} sites stands on one side")
    promised = subject.protocol == "site"
    return Finding(
        "sites",
        LEAK if promised else NOTE,
        len(torn),
        len(known),
        f"{len(torn):,} of {len(known):,} sites stand on both sides"
        + ("" if promised else ", as this split allows: a score says nothing of sites that were never seen"),
        [f"{site} ({subject.spread(np.flatnonzero(subject.sites == site))})" for site in torn[:3]],
        "to learn how a model does at new sites, split by site (--split site)",
    )
