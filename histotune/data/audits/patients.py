"""Patients on both sides of a split."""

from __future__ import annotations

import numpy as np

from histotune.data.audits._base import AUDITS, LEAK, OK, WARNING, Finding, Subject


@AUDITS.register("patients")
def patients(subject: Subject) -> Finding:
    """Patients who stand on both sides of the split."""
    if not subject.cohort.facts.get("patients_known", True):
        reason = "no patients are known, so every image counts as its own, and images of one may stand on both sides"
        result = subject.skipped("patients", reason, severity=WARNING)
        return Finding(
            result.name,
            result.severity,
            0,
            len(subject.placed),
            result.sentence,
            advice="name the patients: FOLDER/PATIENT/CLASS/FILE, or a column `patient`",
        )
    torn, total = subject.torn(subject.patients), len(np.unique(subject.patients[subject.placed]))
    if not len(torn):
        return Finding("patients", OK, 0, total, f"each of {total:,} patients stands on one side")
    examples = [f"{who} ({subject.spread(np.flatnonzero(subject.patients == who))})" for who in torn[:3]]
    return Finding(
        "patients",
        LEAK,
        len(torn),
        total,
        f"{len(torn):,} of {total:,} patients stand on both sides: what is learnt of a patient is tested on the same",
        examples,
        "split by patient (--split patient), or keep the figures for reproduction only",
    )
