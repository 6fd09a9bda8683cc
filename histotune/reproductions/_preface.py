"""What a reproduction's report says besides its tables: how it was called, scaled down, chosen and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from histotune.metrics.scores import in_words
from histotune.reproductions._asked import Asked
from histotune.reproductions._lineup import LineUp, choose, describe
from histotune.reproductions._tables import Arm
from histotune.reproductions.report import Report
from histotune.reproductions.rows import Measured
from histotune.storage.study_folder import COMPLETE, StudySettings, StudyStore


def report_of(asked: Asked, arms: Sequence[Arm]) -> Report:
    """Say what was asked and done, for the arms that came of it."""
    facts: dict[str, Any] = {
        "reproduction": asked.name,
        "on": asked.on,
        "protocol": asked.protocol,
        "budget": asked.spent,
    }
    facts |= {"seeds": asked.scale.seeds}
    studies = {arm.store.folder: arm for arm in arms}.values()  # one of each study
    named = {arm.name if len(studies) > 1 else "": arm for arm in studies}
    return Report(
        name=f"{asked.name}-{asked.on}-{asked.protocol}",
        title=f"{asked.name} on {asked.on}, split `{asked.protocol}`, budget `{asked.spent}`",
        head=_head(asked, facts, arms),
        scaled=_scaled(asked, arms),
        chosen={name: _chosen(asked.line_up, arm.store) for name, arm in named.items()},
        metric=asked.line_up.metric,
        reference=asked.reproduction.reference,
        times={
            name: {label: float(np.median([r.seconds / r.epochs for r in rows])) for label, rows in arm.trained.items()}
            for name, arm in named.items()
        },
        notes=asked.setting.notes,
        facts={
            **facts,
            "scale": asdict(asked.scale),
            "studies": {name: _plain(arm.store.settings()) for name, arm in named.items()},
        },
    )


def _head(asked: Asked, facts: Mapping[str, Any], arms: Sequence[Arm]) -> list[str]:
    name, *options = facts.items()
    command = " ".join([f"histotune reproduce {name[1]}", *(f"--{option} {value}" for option, value in options)])
    head = [f"{asked.reproduction.title}, measured again by `{command}`."]
    measured, settings = arms[0].measured, arms[0].store.settings()
    parts = arms[0].store.split_table()
    val = parts[parts["part"] == "val"]
    chosen = (
        f"Parameters and epochs were chosen by {in_words(settings.metric)} on the validation part, {len(val):,} images "
        f"of {val['patient'].nunique():,} patients."
    )
    if asked.setting.external:
        head.append(
            f"Measured on `{asked.setting.external}`, {_counted(arms[-1].measured)}, of which nothing was trained on "
            f"or fitted to: no label, threshold, statistic or stain. {chosen}"
        )
    else:
        head.append(f"Test part: {_counted(measured)}, opened when all trainings had ended. {chosen}")
    for arm in arms if not asked.setting.external else ():
        if before := arm.measured.openings_before:
            times = f"{before} time{'s' if before > 1 else ''}"
            head.append(
                f"The seal of study `{arm.store.folder.name}` had been opened {times} before: see "
                "`sealed/openings.jsonl` in its folder."
            )
    if not settings.facts.get("patients_known", True):
        head.append("**Patients are not known here**: each image counts as its own, so intervals and p are too small.")
    elif settings.leaky:
        head.append("**Leaky reproduction**: patients stand on both sides of the split, so no number here is honest.")
    if settings.facts.get("synthetic"):
        head.append("**The images are made up.**")
    return head


def _counted(measured: Measured) -> str:
    return f"{measured.cases['test']:,} images of {measured.patients['test']} patients"


def _scaled(asked: Asked, arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
    setting, scale, table = asked.setting, asked.scale, arms[0].store.split_table()

    def part(store: StudyStore, name: str) -> str:
        rows = store.split_table()
        rows = rows[rows["part"] == name]
        return f"{len(rows):,} images of {rows['patient'].nunique()} patients"

    counts = {name: f"{(table['part'] == name).sum():,}" for name in ("train", "val", "test")}
    stores = {arm.store.folder: arm.store for arm in arms}.values()
    trained = [part(store, "train") + _in_brackets(store.settings().training) for store in stores]
    searched = f"{scale.trials}, with seed 0" if asked.line_up.searches else "none: each at its first configuration"
    here = {
        "split": "{}: training {train}, validation {val}, test {test} images".format(asked.protocol, **counts),
        "training part": "; ".join(trained),
        "test part": _counted(arms[-1].measured) if setting.external else part(arms[0].store, "test"),
        "epochs": f"{scale.epochs}, in the search and after it",
        "trials per contender": searched,
        "seeds": f"{scale.seeds} (1 to {scale.seeds}), trained after the search",
        "end of training": "all epochs for everyone; the best epoch by validation counts",
        "time of an epoch": "see Time",
    }
    return [(what, here.get(what, ""), setting.paper.get(what, "")) for what in {**here, **setting.paper}]


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _chosen(line_up: LineUp, store: StudyStore) -> list[tuple[str, str, str, str, float]]:
    if not line_up.searches:
        return []
    ended, rows = {record.digest: record for record in store.trials()}, []
    for label, best in choose(line_up, store).items():
        configs = line_up.searched[label]
        complete = sum(ended[config.digest()].state == COMPLETE for config in configs)
        value = ended[best.digest()].metrics[line_up.metric]
        rows.append((label, f"{complete} of {len(configs)}", describe(configs[0]), describe(best), value))
    return rows


def _plain(settings: StudySettings) -> dict[str, Any]:
    """Return what a reader of the JSON needs of a study; not where the data lie."""
    kept = ("name", "dataset", "digests", "classes", "protocol", "leaky", "seed", "metric", "imbalance", "version")
    return {key: getattr(settings, key) for key in kept}
