"""What a trained network costs to use: time of one image, number of weights."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from histotune.model import predict
from histotune.session import Session

WARM_UP, TIMED = 3, 20  # forward passes
LONGEST = 2.0  # seconds after which fewer passes have to do


def costs(session: Session) -> dict[str, float]:
    """Measure `latency_ms` and count `parameters` of the network that is validated.

    The latency is the median of 20 passes, after 3 that do not count, of one validation image as uint8 on the trial's
    device: standardised, scored in float32 in evaluation mode (all eight views with test-time augmentation), logits
    copied back. It is taken at the end of the trial with the trial's threads, beside whatever else the machine runs
    then: compare latencies within a study only. A network so slow that this would last more than 2 s is passed fewer
    times.
    """
    image = session.images.take(session.data.val[:1])  # [1, S, S, 3]
    return {"latency_ms": _latency(session, image), "parameters": float(session.judged.parameter_count())}


def _latency(session: Session, image: Tensor) -> float:
    began, taken = time.perf_counter(), list[float]()
    for step in range(WARM_UP + TIMED):
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
        start = time.perf_counter()
        predict(session.judged, [image], session.preprocessing, tta=session.config.tta)  # waits for the logits
        end = time.perf_counter()
        if step >= WARM_UP:
            taken.append(end - start)
        if taken and end - began > LONGEST:
            break
    return 1000.0 * float(np.median(taken))
