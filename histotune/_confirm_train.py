"""Train contenders again, what is missing of it: seed by seed, so that an early end leaves whole seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from histotune._contenders import Contender
from histotune._outer import Outer
from histotune.store import COMPLETE, TrialRecord

Say = Callable[[str], None]
Trained = Mapping[str, Sequence[TrialRecord]]
"""{contender: its record for every seed}; where a training failed, that record alone."""


def train_again(
    chosen: Sequence[Contender], outers: Mapping[int, Outer], seeds: Sequence[int], folder: Path, say: Say
) -> dict[str, list[TrialRecord]]:
    """Train what is missing, seed by seed, and say how far it is.

    Args:
        outers: by image size.
        folder: of these outer folds.
        say: hears a line before the first training and after each.
    """
    some = next(iter(outers.values()))
    size, done, fresh = len(chosen) * len(seeds), 0, 0
    say(
        f"confirming {len(chosen)} configuration{'s' * (len(chosen) > 1)} with {len(seeds)} seeds x {some.folds} outer folds: "
        f"{size * some.folds} trainings, each on {some.trained_on:.0%} of the development part"
        + _estimate(chosen, some, len(seeds))
    )
    found: dict[str, list[TrialRecord]] = {one.name: [] for one in chosen}
    began = time.monotonic()
    for number, seed in enumerate(seeds, start=1):
        for one in chosen:
            done += 1
            earlier = found[one.name]
            if earlier and earlier[-1].state != COMPLETE:
                continue
            place, outer = folder / one.config.digest() / f"seed-{seed}", outers[one.config.image_size]
            known = (place / "metrics.json").exists()
            record = outer.train(replace(one.config, seed=seed), place)
            found[one.name] = [*earlier, record] if record.state == COMPLETE else [record]
            if known and record.state == COMPLETE:
                continue
            fresh += 1
            left = math.ceil((size - done) * (time.monotonic() - began) / fresh / 60)
            metric = outer.settings.metric
            result = (
                f"{metric} {record.metrics[metric]:.4f}" if record.state == COMPLETE else f"failed: {record.reason}"
            )
            say(f"[{done}/{size}] seed {number}, {one.name}: {result}, {record.seconds:.0f} s; about {left} min left")
    return found


def _estimate(chosen: Sequence[Contender], outer: Outer, seeds: int) -> str:
    """Say how long all trainings take, going by what the trials of the search took."""
    settings = outer.settings
    networks_of_trial = max(settings.folds, 1) * settings.repeats
    seen = 1 - 1 / settings.folds if settings.folds else 1 - outer.share
    each = [
        one.record.seconds / one.record.epochs * one.config.epochs / networks_of_trial
        for one in chosen
        if one.record is not None and one.record.epochs
    ]
    minutes = np.mean(each) * len(chosen) * seeds * outer.folds * outer.trained_on / seen / 60
    return f"; at the trials' pace about {math.ceil(minutes)} min" if each else ""
