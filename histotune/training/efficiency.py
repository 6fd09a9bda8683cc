"""What a trained network costs to use: parameters, operations, time and memory, of nothing but the network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from histotune.data.batches import Cases, Preparations, images_as_cases
from histotune.errors import ConfigError
from histotune.models.network import Model
from histotune.models.predictor import Predictor, inputs_of, predict

if TYPE_CHECKING:
    from histotune.training.session import Session

SMALL, LARGE = 1, 64  # images at once
WARM_UP, TIMED = 3, 20  # forward passes
LONGEST = 2.0  # seconds after which fewer passes have to do


@dataclass(frozen=True)
class Efficiency:
    """What it costs to score images with a network.

    Attributes:
        parameters: trained weights that predict.
        flops: floating-point operations of matrix products and convolutions for one image, by torch's own counter: a
            multiply-add counts as two; norms, activations and softmax are not counted.
        latency_ms: median milliseconds to score one image.
        batch_latency_ms: the same for 64 images at once.
        peak_memory_mb: MiB that tensors take at most while 64 images are scored, weights included.
        training_memory_mb: the same in one training step, gradients included, without an optimiser's state.
        device: type of the device, cpu or cuda.
    """

    parameters: int
    flops: int
    latency_ms: float
    batch_latency_ms: float
    peak_memory_mb: float
    training_memory_mb: float
    device: str


def efficiency(predictor: Predictor) -> Efficiency:
    """Measure a trained network on its device with images at random; its weights and statistics stay as they are.

    Latencies are those of this moment: compare what was measured on a machine that does nothing else.
    """
    model, device = predictor.model.eval(), predictor.device
    if predictor.modalities != model.images:
        raise ConfigError(
            f"only a model of images can be measured with images at random, not of {predictor.modalities}"
        )
    side = predictor.image_size
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (LARGE, side, side, 3), dtype=np.uint8))
    many = images_as_cases(pixels.to(device), model.images)
    one = images_as_cases(pixels[:SMALL].to(device), model.images)
    return Efficiency(
        parameters=model.parameter_count(),
        flops=flops(model, one, predictor.preparations),
        latency_ms=latency_ms(model, one, predictor.preparations),
        batch_latency_ms=latency_ms(model, many, predictor.preparations),
        peak_memory_mb=_peak_memory(model, many, predictor.preparations, training=False),
        training_memory_mb=_peak_memory(model, many, predictor.preparations, training=True),
        device=device.type,
    )


def costs(session: Session) -> dict[str, float]:
    """Return what every trial records of its cost: `latency_ms` of one validation case and `parameters`.

    It is measured at the end of the trial, with the trial's threads, beside whatever else the machine runs then:
    compare latencies within a study only.
    """
    case = session.feed.take(session.data.val[:1])
    latency = latency_ms(session.judged, case, session.preparations, tta=session.config.tta)
    return {"latency_ms": latency, "parameters": float(session.judged.parameter_count())}


def latency_ms(model: Model, cases: Cases, preparations: Preparations, *, tta: bool = False) -> float:
    """Return the median milliseconds of 20 passes of a batch of cases, after 3 that do not count.

    A pass standardises, scores in float32 in evaluation mode (all eight views with test-time augmentation) and copies
    the logits back. A network so slow that this would last more than 2 s is passed fewer times.
    """
    device = _device(cases)
    began, taken = time.perf_counter(), list[float]()
    for step in range(WARM_UP + TIMED):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        predict(model, [cases], preparations, tta=tta)  # waits for the logits
        end = time.perf_counter()
        if step >= WARM_UP:
            taken.append(end - start)
        if taken and end - began > LONGEST:
            break
    return 1000.0 * float(np.median(taken))


def flops(model: Model, cases: Cases, preparations: Preparations) -> int:
    """Count the operations to score a batch of cases with `torch.utils.flop_counter`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know the CPU's fused attention; in plain matrix products it counts the same operations.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        predict(model, [cases], preparations)
    return int(counter.get_total_flops())


def _peak_memory(model: Model, cases: Cases, preparations: Preparations, *, training: bool) -> float:
    device = _device(cases)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        _pass(model, cases, preparations, training=training)
        return torch.cuda.max_memory_allocated(device) / 2**20
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        _pass(model, cases, preparations, training=training)
    return float(tracker.get_tracker_snapshot("peak")[device]["Total"]) / 2**20


def _pass(model: Model, cases: Cases, preparations: Preparations, *, training: bool) -> None:
    """Score cases once, or train on them as one step does up to the gradients, and leave no trace."""
    if not training:
        predict(model, [cases], preparations)
        return
    device = _device(cases)
    labels = torch.zeros(len(cases), dtype=torch.int64, device=device)
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.loss(*inputs_of(model, preparations, cases), labels).backward()
    finally:
        model.zero_grad()
        model.eval()
        for buffer, kept in before:
            buffer.copy_(kept)


def _device(cases: Cases) -> torch.device:
    return next(iter(cases.present.values())).device
