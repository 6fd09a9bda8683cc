"""What a trained network costs to use: parameters, operations, time and memory, of nothing but the network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histotune.batches import Preprocessing
from histotune.model import Model, Predictor, inputs_of, predict

if TYPE_CHECKING:
    from histotune.session import Session

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
    side = predictor.preprocessing.image_size
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (LARGE, side, side, 3), dtype=np.uint8))
    images = pixels.to(device)
    return Efficiency(
        parameters=model.parameter_count(),
        flops=flops(model, images[:SMALL], predictor.preprocessing),
        latency_ms=latency_ms(model, images[:SMALL], predictor.preprocessing),
        batch_latency_ms=latency_ms(model, images, predictor.preprocessing),
        peak_memory_mb=_peak_memory(model, images, predictor.preprocessing, training=False),
        training_memory_mb=_peak_memory(model, images, predictor.preprocessing, training=True),
        device=device.type,
    )


def costs(session: Session) -> dict[str, float]:
    """Return what every trial says of itself: `latency_ms` of one validation image and `parameters`.

    It is measured at the end of the trial, with the trial's threads, beside whatever else the machine runs then:
    compare latencies within a study only.
    """
    image = session.images.take(session.data.val[:1])  # [1, S, S, 3]
    latency = latency_ms(session.judged, image, session.preprocessing, tta=session.config.tta)
    return {"latency_ms": latency, "parameters": float(session.judged.parameter_count())}


def latency_ms(model: Model, images: Tensor, preprocessing: Preprocessing, *, tta: bool = False) -> float:
    """Return the median milliseconds of 20 passes of uint8 images [B, S, S, 3], after 3 that do not count.

    A pass standardises, scores in float32 in evaluation mode (all eight views with test-time augmentation) and copies
    the logits back. A network so slow that this would last more than 2 s is passed fewer times.
    """
    began, taken = time.perf_counter(), list[float]()
    for step in range(WARM_UP + TIMED):
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        start = time.perf_counter()
        predict(model, [images], preprocessing, tta=tta)  # waits for the logits
        end = time.perf_counter()
        if step >= WARM_UP:
            taken.append(end - start)
        if taken and end - began > LONGEST:
            break
    return 1000.0 * float(np.median(taken))


def flops(model: Model, images: Tensor, preprocessing: Preprocessing) -> int:
    """Count the operations to score uint8 images [B, S, S, 3] with `torch.utils.flop_counter`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know the CPU's fused attention; in plain matrix products it counts the same operations.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        predict(model, [images], preprocessing)
    return int(counter.get_total_flops())


def _peak_memory(model: Model, images: Tensor, preprocessing: Preprocessing, *, training: bool) -> float:
    device = images.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        _pass(model, images, preprocessing, training=training)
        return torch.cuda.max_memory_allocated(device) / 2**20
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        _pass(model, images, preprocessing, training=training)
    return float(tracker.get_tracker_snapshot("peak")[device]["Total"]) / 2**20


def _pass(model: Model, images: Tensor, preprocessing: Preprocessing, *, training: bool) -> None:
    """Score images once, or train on them as one step does up to the gradients, and leave no trace."""
    if not training:
        predict(model, [images], preprocessing)
        return
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
            model.loss(*inputs_of(model, preprocessing, images), labels).backward()
    finally:
        model.zero_grad()
        model.eval()
        for buffer, kept in before:
            buffer.copy_(kept)
