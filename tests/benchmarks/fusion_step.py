"""Time of a whole training step with each fusion against the step with `concat`, with the same branches, in one run.

    python tests/benchmarks/fusion_step.py [--branches small large] [--batch 64] [--rounds 25]

`small` are the default branches and fusions of the space `idc_cmaf` at 32 px, `large` a ResNet-18 with a small stem
and a ViT-Tiny with patches of 8 px at 64 px, with the fusions as they are by default. Every fusion has its own network,
from one seed; in every round each makes one step of forward, loss, backward and AdamW, in random order, and the ratio
is the median over the rounds of its time by that of concat in the same round. On the CPU, time is the process's CPU
time, on a GPU the wall clock around a synchronised step. `concat again` is a second copy: what its ratio is off 1 is
the noise.

Exits with 1 when `cmaf` takes more than 1.15 times the step of concat.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from histotune.config import TrialConfig
from histotune.fusions import FUSIONS
from histotune.model import build_model
from histotune.optimizer import build_optimizer
from histotune.space import load_space

MOST = 1.15
JUDGED, YARDSTICK, AGAIN = "cmaf", "concat", "concat again"
LARGE: dict[str, Any] = {
    "image_size": 64,
    "model": {
        "branches": {
            "cnn": {"backbone": {"name": "timm/resnet18", "small_stem": True}},
            "transformer": {"backbone": {"name": "timm/vit_tiny_patch16_224", "patch_size": 8}},
        }
    },
}


def main() -> int:
    """Time all fusions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--branches", choices=["small", "large"], nargs="+", default=["small", "large"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.device}, batch {options.batch}, {options.rounds} rounds, {options.threads} threads")
    slow = False
    for branches in options.branches:
        print(f"{f'{branches} branches':<26}{'ms a step':>10}{'ratio':>8}", flush=True)
        for name, (seconds, ratio) in timed(branches, options.batch, options.rounds, options.device).items():
            print(f"{name:<26}{1000 * seconds:>10.1f}{ratio:>8.3f}", flush=True)
            slow |= name == JUDGED and ratio > MOST
    return int(slow)


def timed(branches: str, batch: int, rounds: int, device: str) -> dict[str, tuple[float, float]]:
    """Return {fusion: (median seconds of a step, median ratio to concat)}."""
    names = [name for name in FUSIONS.names() if name != "none"]
    steps = {name: stepper(branches, name.split()[0], batch, device) for name in [*names, AGAIN]}
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


def stepper(branches: str, fusion: str, batch: int, device: str) -> Callable[[], None]:
    """Build a network and return the function that trains it one step."""
    torch.manual_seed(0)
    if branches == "small":
        fixed = [f"model.fusion={fusion}", "model.redundancy=none"]
        config = TrialConfig.from_dict(load_space("idc_cmaf", fix=fixed).default())
    else:
        config = TrialConfig.from_dict({**LARGE, "model": {**LARGE["model"], "fusion": fusion}})
    model = build_model(config, [300, 100]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.optimizer)
    side = config.image_size
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    present = torch.ones(batch, dtype=torch.bool, device=device)
    labels = torch.randint(2, (batch,), device=device)
    parameters = list(model.parameters())

    def step() -> None:
        loss = model.loss({"image": images}, {"image": present}, labels)
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
