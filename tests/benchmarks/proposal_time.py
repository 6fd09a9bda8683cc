"""Processor time of a proposal and of its result, by the number of trials that the study has.

    python tests/benchmarks/proposal_time.py [--sampler tpe] [--trials 100 1000 10000]

The worst case: no trial was stopped or failed, so that the sampler may see them all, in a space of eleven parameters
with a switch. With `tpe`, in seconds:

    trials      take up    median   largest
    100            .018      .012      .122
    1000           .086      .024      .027
    10000          .294      .027      .030

Exits with 1 when the median proposal of the largest study takes .2 s or more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from histotune.core.config import TrialConfig
from histotune.space import Space, read_space
from histotune.tuning.journal import CONFIG
from histotune.tuning.proposer import Proposer
from histotune.tuning.samplers import SAMPLERS

GOAL, PROPOSALS = 0.2, 15


def space() -> Space:
    """Return a space of eleven parameters, three of them conditional."""
    return read_space(
        {
            "dataset": "synthetic",
            "batch_size": {"choice": [32, 64, 128]},
            "loss": {
                "choice": {
                    "cross_entropy": {"label_smoothing": {"low": 0.0, "high": 0.2}},
                    "focal": {"gamma": {"low": 0.5, "high": 5.0}, "beta": {"choice": [0.0, 0.999]}},
                }
            },
            "optimizer": {
                "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
                "momentum": {"low": 0.5, "high": 0.99},
                "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
            },
            "augment": {key: {"low": 0.0, "high": 0.3} for key in ("color_jitter", "stain_jitter", "mixup")},
        },
        "proposal_time",
    )


def past(space: Space, trials: int) -> list[FrozenTrial]:
    """Return complete trials drawn at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)
    history = []
    for number in range(trials):
        drawn = study.ask()
        config = TrialConfig.from_dict(space.suggest(drawn)).to_dict()
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=float(rng.normal()),
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs={CONFIG: config},
        )
        trial.number = number
        history.append(trial)
    return history


def measure(space: Space, sampler: str, trials: int) -> tuple[float, float, float]:
    """Return seconds to take up the history, and the median and largest time of a proposal with its result."""
    history = past(space, trials)
    began = time.process_time()
    proposer = Proposer(space, sampler, seed=0, maximize=True, history=history)
    start = time.process_time() - began
    times = []
    for number in range(trials, trials + PROPOSALS):
        began = time.process_time()
        assert proposer.propose(lambda digest: False) is not None
        proposer.running(number)
        proposer.ended(number, 0.0)
        times.append(time.process_time() - began)
    return start, statistics.median(times), max(times)


def main() -> int:
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sampler", choices=[name for name in SAMPLERS if name != "grid"], default="tpe")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{given.sampler:<10}{'take up s':>12}{'median s':>12}{'largest s':>12}")
    median = 0.0
    for trials in sorted(given.trials):
        start, median, largest = measure(space(), given.sampler, trials)
        print(f"{trials:<10}{start:12.3f}{median:12.3f}{largest:12.3f}", flush=True)
    return int(median >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
