"""Time of a whole training step with each loss against the step with cross-entropy, in one run.

    python tests/benchmarks/loss_step.py [--classes 2 9] [--batch 512] [--rounds 25] [--device cpu] [--threads 1]

A step is forward, loss, backward and AdamW on a fixed batch of 32 px through `alexnet`; every loss has its own network,
built from the same seed. In every round each loss makes one step, in random order, and the ratio is the median over the
rounds of its time by that of cross-entropy in the same round. On the CPU, time is the process's CPU time, which other
processes of the machine disturb less than the clock on the wall; on a GPU it is the wall clock around a synchronised
step. `cross_entropy again` is a second copy of the yardstick: what its ratio is off 1 is the noise of the figures.

Exits with 1 when a loss takes more than 1.05 times the step of cross-entropy.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from histotune.config import TrialConfig
from histotune.losses import LOSSES
from histotune.model import build_model
from histotune.optimizer import build_optimizer

MOST = 1.05
SIDE = 32
YARDSTICK, AGAIN = "cross_entropy", "cross_entropy again"


def main() -> int:
    """Time all losses and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 9])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.device}, batch {options.batch}, {options.rounds} rounds, {options.threads} threads")
    slow = False
    for classes in options.classes:
        print(f"{f'{classes} classes':<26}{'ms a step':>10}{'ratio':>8}", flush=True)
        for name, (seconds, ratio) in timed(classes, options.batch, options.rounds, options.device).items():
            print(f"{name:<26}{1000 * seconds:>10.1f}{ratio:>8.3f}", flush=True)
            slow |= ratio > MOST
    return int(slow)


def timed(classes: int, batch: int, rounds: int, device: str) -> dict[str, tuple[float, float]]:
    """Return {loss: (median seconds of a step, median ratio to cross-entropy)}."""
    steps = {name: stepper(name.split()[0], classes, batch, device) for name in [*LOSSES.names(), AGAIN]}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        order = list(steps)
        random.shuffle(order)
        for name in order:
            seconds[name].append(duration(steps[name], device))
    measured = {name: values[2:] for name, values in seconds.items()}  # the first rounds warm up
    return {
        name: (
            statistics.median(values),
            statistics.median(mine / yard for mine, yard in zip(values, measured[YARDSTICK], strict=True)),
        )
        for name, values in measured.items()
    }


def stepper(loss: str, classes: int, batch: int, device: str) -> Callable[[], None]:
    """Build a network and return the function that trains it one step."""
    torch.manual_seed(0)
    config = TrialConfig.from_dict({"loss": {"name": loss}, "image_size": SIDE})
    model = build_model(config, [100 * (k + 1) for k in range(classes)]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.optimizer)
    images = torch.randn(batch, 3, SIDE, SIDE, device=device).contiguous(memory_format=torch.channels_last)
    present = torch.ones(batch, dtype=torch.bool, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    parameters = list(model.parameters())

    def step() -> None:
        loss = model.objective.loss(model({"image": images}, {"image": present}), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
        optimizer.step()

    return step


def duration(step: Callable[[], None], device: str) -> float:
    """Return the seconds of one step: of the process on a CPU, of the clock on a GPU."""
    if device == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
