"""Recall of rare classes and overall accuracy of each loss on a long tail whose best answer is known.

    python tests/benchmarks/long_tail_order.py [--seeds 10] [--losses cross_entropy cfal ...]

Three classes lie on a circle, each uniform in a disc; the discs do not touch, so every class can be told from every
other, and a boundary half-way costs nothing. There are 2,000, 100 and 20 training cases: cross-entropy weighs each
case alike, so with logits of slope w its boundary stands log(n_1 / n_2) / w nearer to the rarer class, and weight decay
keeps w finite. What asks for a margin (ArcFace, LDAM) or weighs the classes (CFAL, class-balanced focal) moves the
boundary back, at no price on the frequent classes.

All losses train the same small network (8 inputs, of which 6 are noise; two linear layers and a layer norm) with the
same optimiser, batches and epochs, each with one fixed set of parameters. `accuracy` is over test cases in the
proportions of training; `rare recall` is that of the two rarer classes. Differences are paired by seed. `focal` is
unweighed, `focal, weighed` the class-balanced focal loss that CFAL is compared with. What it shows depends on the
training: without warm-up and cosine ArcFace loses a class in some seeds; focusing alone (`focal`) ties with
cross-entropy, the affinity loss without class weights loses, and weights or logit adjustment alone do as well as CFAL.

Exits with 1 unless CFAL, ArcFace, LDAM and class-balanced focal each have a higher mean rare recall than cross-entropy,
in at least nine seeds of ten, at an overall accuracy that is not lower by more than .005.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histotune.core.config import OptimizerConfig
from histotune.models.losses import LOSSES, ObjectiveInput
from histotune.training.optimizer import learning_rate

COUNTS = (2000, 100, 20)
NOISE, FEATURES = 6, 16
RADIUS, DISC = 1.25, 1.0  # of the circle of centres, and of a disc: neighbours stand .17 apart
TEST = 1000  # test cases of each class
EPOCHS, BATCH = 20, 128
SCHEDULE = OptimizerConfig(learning_rate=4e-3, weight_decay=0.5)  # warm-up, cosine and clipping as in any training
EXPECTED = ("cfal", "arcface", "ldam", "focal, weighed")
LEAST_SEEDS, TOLERANCE = 0.9, 0.005
PARAMETERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "cross_entropy": ("cross_entropy", {}),
    "cross_entropy, smoothed": ("cross_entropy", {"label_smoothing": 0.1}),
    "cross_entropy, weighed": ("cross_entropy", {"beta": 0.999}),
    "cross_entropy, adjusted": ("cross_entropy", {"tau": 1.0}),
    "focal": ("focal", {}),
    "focal, weighed": ("focal", {"beta": 0.999}),
    "gaussian_affinity": ("gaussian_affinity", {"sigma_mode": "auto", "lambda": 0.5, "reg_weight": 0.001}),
    "class_balanced_affinity": (
        "class_balanced_affinity",
        {"sigma_mode": "auto", "lambda": 0.5, "reg_weight": 0.001},
    ),
    "cfal": ("cfal", {"sigma_mode": "auto", "lambda": 0.5, "reg_weight": 0.001}),
    "arcface": ("arcface", {}),
    "cosface": ("cosface", {}),
    "sphereface": ("sphereface", {}),
    "ldam": ("ldam", {}),
}


def main() -> int:
    """Train all losses on all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--losses", nargs="+", default=list(PARAMETERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = list(dict.fromkeys(["cross_entropy", *options.losses]))
    plain = np.empty(0)
    print(f"{options.seeds} seeds, training cases {COUNTS}; mean and standard deviation over seeds")
    print(f"{'':<26}{'accuracy':>16}{'rare recall':>16}{'minus cross-entropy':>22}{'seeds above':>13}{'wins':>6}")
    failed = False
    for name in names:
        figures = np.array([trained(name, seed) for seed in range(options.seeds)])
        plain = figures if name == "cross_entropy" else plain
        gain = figures - plain
        above = int((gain[:, 1] > 0).sum())
        wins = gain[:, 1].mean() > 0 and above >= LEAST_SEEDS * options.seeds and gain[:, 0].mean() >= -TOLERANCE
        failed |= name in EXPECTED and not wins
        means, spreads = figures.mean(axis=0), figures.std(axis=0)
        cells = "".join(f"{f'{mean:.3f} +- {spread:.3f}':>16}" for mean, spread in zip(means, spreads, strict=True))
        shown = f"{gain[:, 0].mean():+.4f} / {gain[:, 1].mean():+.3f}"
        verdict = "" if name == "cross_entropy" else "yes" if wins else "no"
        print(f"{name:<26}{cells}{shown:>22}{above:>13}{verdict:>6}", flush=True)
    return int(failed)


def trained(name: str, seed: int) -> tuple[float, float]:
    """Return (overall accuracy, mean recall of the two rarer classes) of one training."""
    rng = np.random.default_rng(seed)
    images, labels = drawn(COUNTS, rng)
    test_images, test_labels = drawn((TEST,) * len(COUNTS), rng)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(2 + NOISE, 32), nn.ReLU(), nn.Linear(32, FEATURES), nn.LayerNorm(FEATURES, elementwise_affine=False)
    )
    loss, params = PARAMETERS[name]
    objective = LOSSES.build(loss, ObjectiveInput(FEATURES, COUNTS), **params)
    weights = [*network.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(weights, weight_decay=SCHEDULE.weight_decay)
    steps = EPOCHS * -(-len(images) // BATCH)
    for step in range(steps):
        if step % (steps // EPOCHS) == 0:
            objective.set_progress(step / steps)
            batches = iter(torch.from_numpy(rng.permutation(len(images))).split(BATCH))
        rows = next(batches)
        optimizer.param_groups[0]["lr"] = learning_rate(SCHEDULE, step, steps)
        optimizer.zero_grad()
        objective.loss(network(images[rows]), labels[rows]).backward()
        nn.utils.clip_grad_norm_(weights, SCHEDULE.clip_norm)
        optimizer.step()
    with torch.inference_mode():
        right = objective.scores(network(test_images)).argmax(dim=1) == test_labels
    recall = np.array([right[test_labels == k].double().mean().item() for k in range(len(COUNTS))])
    return float(np.average(recall, weights=COUNTS)), float(recall[1:].mean())


def drawn(counts: tuple[int, ...], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw cases [n, 2 + NOISE] and labels [n]: two coordinates in the discs, the others noise."""
    labels = np.repeat(np.arange(len(counts)), counts)
    turn = 2 * np.pi * labels / len(counts)
    angle, distance = 2 * np.pi * rng.random(len(labels)), DISC * np.sqrt(rng.random(len(labels)))
    x = RADIUS * np.cos(turn) + distance * np.cos(angle)
    y = RADIUS * np.sin(turn) + distance * np.sin(angle)
    cases = np.column_stack([x, y, rng.normal(0, 1, size=(len(labels), NOISE))])
    return torch.from_numpy(cases).float(), torch.from_numpy(labels)


if __name__ == "__main__":
    sys.exit(main())
