"""Whole training steps against the step of a yardstick, in one run: what the benchmarks of losses and fusions share.

A step is forward, loss, backward, clipping and the optimiser on a fixed batch. Every candidate has its own network,
from one seed; in every round each makes one step, in random order, and the ratio is the median over the rounds of its
time by that of the yardstick in the same round. On the CPU, time is the process's CPU time, which other processes of
the machine disturb less than the clock on the wall; on a GPU it is the wall clock around a synchronised step. A second
copy of the yardstick runs along: what its ratio is off 1 is the noise of the figures.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from histotune.core.config import TrialConfig
from histotune.models.network import build_model
from histotune.training.optimizer import build_optimizer

WARM_UP = 2  # rounds


def options(about: str, *, batch: int) -> argparse.ArgumentParser:
    """Return a parser of what every such benchmark is asked."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def begin(asked: argparse.Namespace) -> None:
    """Set the threads and print under which conditions is measured."""
    torch.set_num_threads(asked.threads)
    print(f"{asked.device}, batch {asked.batch}, {asked.rounds} rounds, {asked.threads} threads")


def compare(
    title: str, configs: Mapping[str, TrialConfig], yardstick: str, counts: Sequence[int], asked: argparse.Namespace
) -> dict[str, float]:
    """Time a step of every configuration, print the table, and return {name: median ratio to the yardstick's}."""
    print(f"{title:<26}{'ms a step':>10}{'ratio':>8}", flush=True)
    candidates = {**configs, f"{yardstick} again": configs[yardstick]}
    steps = {name: stepper(config, counts, asked.batch, asked.device) for name, config in candidates.items()}
    seconds = timed(steps, asked.rounds, asked.device)
    ratios = {}
    for name, values in seconds.items():
        ratios[name] = statistics.median(mine / yard for mine, yard in zip(values, seconds[yardstick], strict=True))
        print(f"{name:<26}{1000 * statistics.median(values):>10.1f}{ratios[name]:>8.3f}", flush=True)
    return ratios


def timed(steps: Mapping[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every step in every round, the rounds of the warm-up left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + WARM_UP):
        order = list(steps)
        random.shuffle(order)
        for name in order:
            seconds[name].append(duration(steps[name], device))
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def stepper(config: TrialConfig, counts: Sequence[int], batch: int, device: str) -> Callable[[], None]:
    """Build a network and return the function that trains it one step."""
    torch.manual_seed(0)
    model = build_model(config, counts).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.optimizer)
    side = config.image_size
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    present = torch.ones(batch, dtype=torch.bool, device=device)
    labels = torch.randint(len(counts), (batch,), device=device)
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
