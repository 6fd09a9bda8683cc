"""Images per second of histotune's training loop against a bare PyTorch loop on the same tensors, in one run.

    python tests/benchmarks/train_step.py [--backbone alexnet] [--rounds 15] [--threads 1]

Both loops train the same network on the same uint8 images with AdamW and gradient clipping, on the CPU. They take
turns, epoch by epoch, and the ratio is the median over the pairs. Time is the process's CPU time, which other
processes of the machine disturb less than the clock on the wall. Three comparisons:

- plain: no augmentation on either side; the bare loop converts and standardises its batch.
- flips: histotune draws a flip and a turn for every image; the bare loop draws one for the whole batch.
- ready: no augmentation; the bare loop's images lie in memory as standardised float32, so it does no work on them.

Exits with 1 when `plain` or `flips` falls below 0.97.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.core.config import TrialConfig
from histotune.data.modalities.image import ImagePreprocessing
from histotune.data.splits import TrainingData
from histotune.training.loop import train_epoch
from histotune.training.session import Session, start

LEAST = 0.97
SIDE, CASES, BATCH = 32, 1280, 128


def main() -> int:
    """Run the comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", nargs="+", default=["alexnet", "timm/resnet18"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'backbone':<28}{'what':<8}{'bare img/s':>12}{'histotune img/s':>18}{'ratio':>8}")
    low = False
    for backbone in options.backbone:
        for what in ("plain", "flips", "ready"):
            bare, ours, ratio = compare(backbone, what, options.rounds)
            print(f"{backbone:<28}{what:<8}{bare:>12.0f}{ours:>18.0f}{ratio:>8.3f}", flush=True)
            low |= what != "ready" and ratio < LEAST
    return int(low)


def compare(backbone: str, what: str, rounds: int) -> tuple[float, float, float]:
    """Return the median images/s of the bare loop and of histotune, and the median ratio of neighbouring epochs."""
    session = start(configuration(backbone, flips=what == "flips"), made_up(), torch.device("cpu"))
    bare_session = start(session.config, session.data, torch.device("cpu"))
    loop = bare_loop(bare_session, what)
    pairs = []
    for number in range(1, rounds + 2):
        runs: list[tuple[int, Callable[[], object]]] = [(0, loop), (1, lambda n=number: train_epoch(session, n))]  # type: ignore[misc]
        random.shuffle(runs)
        rates = {}
        for who, run in runs:
            began = time.process_time()
            run()
            rates[who] = CASES / (time.process_time() - began)
        pairs.append((rates[0], rates[1]))
    pairs = pairs[1:]  # the first pair warms up
    bare, ours = (statistics.median(rate) for rate in zip(*pairs, strict=True))
    return bare, ours, statistics.median(mine / theirs for theirs, mine in pairs)


def bare_loop(session: Session, what: str) -> Callable[[], None]:
    """Write the loop as a script would, over the same network; returns a function that trains one epoch."""
    images = torch.from_numpy(session.data.arrays["image"][session.data.train])
    labels = session.labels[session.data.train]
    fitted = session.preparations["image"]
    assert isinstance(fitted, ImagePreprocessing)
    mean = torch.tensor(fitted.mean).view(3, 1, 1)
    std = torch.tensor(fitted.std).view(3, 1, 1)
    backbone, head = session.model.branches["image"], session.model.objective.head
    assert isinstance(head, nn.Module)
    network = nn.ModuleList([backbone, head])
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    ready = standardised(images, mean, std) if what == "ready" else None

    def epoch() -> None:
        network.train()
        order = torch.randperm(len(images))
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            batch = ready[rows] if ready is not None else standardised(images[rows], mean, std)
            if what == "flips":
                batch = batch.flip([axis for axis in (2, 3) if random.random() < 0.5])
                batch = batch.rot90(random.randrange(4), (2, 3)).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(head(backbone(batch).pooled), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

    return epoch


def standardised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 [B, S, S, 3] into standardised float [B, 3, S, S], channels last."""
    return ((images.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def configuration(backbone: str, *, flips: bool) -> TrialConfig:
    """Describe the training; float32, since the bare loop has no autocast."""
    return TrialConfig.from_dict(
        {
            "model": {"branches": {"image": {"backbone": backbone}}},
            "augment": {"flip": flips, "turn": flips},
            "image_size": SIDE,
            "batch_size": BATCH,
            "epochs": 1000,
            "precision": "float32",
        }
    )


def made_up() -> TrainingData:
    """Return noise of the right shape: speed does not depend on what is in the images."""
    rng = np.random.default_rng(0)
    names = np.array([str(n) for n in range(CASES + 8)])
    return TrainingData(
        arrays={"image": rng.integers(0, 256, size=(CASES + 8, SIDE, SIDE, 3), dtype=np.uint8)},
        present={"image": np.ones(CASES + 8, bool)},
        labels=np.arange(CASES + 8) % 2,
        ids=names,
        patients=names,
        train=np.arange(CASES),
        val=np.arange(CASES, CASES + 8),
        classes=("negative", "positive"),
    )


if __name__ == "__main__":
    sys.exit(main())
