"""Memory of a training: what it needs, what is available, and the micro-batch with which it fits.

A micro-batch is what goes through the network at once. The gradients of a batch's micro-batches are added up before the
optimiser's step, weighted by their sizes, so that a step sees the mean over the same cases, whatever the micro-batch.
Two things do depend on it: batch norm and redundancy take their statistics over a micro-batch, and dropout draws in
another order.
The micro-batch is no part of a configuration; environment.json records which one was used.
"""

from __future__ import annotations

import resource
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from histotune.core import files
from histotune.errors import TrialFailed
from histotune.storage import layout

if TYPE_CHECKING:
    import numpy as np
    import torch

    from histotune.training.session import Session

OUT_OF_MEMORY, INFEASIBLE = "out_of_memory", "infeasible"  # kinds of failures: to be mended, and not to be mended
MICRO, LEAST = "micro_batch", "least_micro_batch"
PEAK = "peak_memory_mb"
MARGIN = 1.25  # of what is estimated: gradients of activations and workspaces come on top of what is saved
_MB = 2**20
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """Bytes that a training will take beyond the network itself, a lower bound.

    Args:
        fixed: gradients, optimiser state, and the best epoch's copy where it lies on the same device.
        per_case: what autograd saves for one case.
    """

    fixed: int
    per_case: int

    def of(self, cases: int) -> int:
        """Return the bytes with this micro-batch."""
        return self.fixed + cases * self.per_case


def need(session: Session) -> Need:
    """Measure what autograd saves for a case, with the smallest micro-batch, and count the rest.

    Neither weights nor statistics nor random numbers are changed by it.
    """
    import torch

    weights = _weights(session)
    optimizer = session.config.optimizer
    states = 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)
    copies = int(session.device.type == "cpu")
    rows = session.train[: session.least]
    buffers = [(buffer, buffer.clone()) for buffer in session.model.buffers()]
    devices = [session.device] if session.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        saved = _saved(session, rows)
    for buffer, before in buffers:
        buffer.copy_(before)
    return Need(weights * (1 + states + copies), -(-saved // len(rows)))


def limit(device: torch.device, share: float = 1.0) -> float:
    """Return the bytes that this process may still take on `device`.

    On a GPU: its share of the memory, and no more than is free. On a CPU: the process's limit of address space, and
    its share of the memory of the machine or container, as far as it has not been taken.

    Args:
        share: of the device's memory, in (0, 1].
    """
    if device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_allocated(device)
        free += torch.cuda.memory_reserved(device) - own
        return min(free, share * total - own)
    taken = psutil.Process().memory_info()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    address = float("inf") if soft == resource.RLIM_INFINITY else soft - taken.vms
    mapped = getattr(taken, "shared", 0)  # all trials share the mapped images; Linux alone counts them
    return min(address, share * total_memory() - (taken.rss - mapped))


def total_memory() -> int:
    """Return the memory of this machine, or of the container when it has less, bytes."""
    bounds = [int(text) for text in _lines(_CGROUP / "memory.max") if text.isdigit()]
    return min([psutil.virtual_memory().total, *bounds])


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory, in this container or on this machine."""
    events = _lines(_CGROUP / "memory.events") or _lines(Path("/proc/vmstat"))
    return sum(int(line.split()[1]) for line in events if line.startswith("oom_kill "))


def plan(session: Session, folder: Path, share: float = 1.0, *, at_once: int = 1) -> int:
    """Return the micro-batch to train with: what the folder records after a failure, halved until it should fit.

    Args:
        folder: the trial's.
        share: of the device's memory, in (0, 1].
        at_once: trainings like this one, itself included, that will share that memory; they take turns, so that only
            one of them holds activations at a time.

    Raises:
        TrialFailed: infeasible; not even the smallest micro-batch can fit.
    """
    smallest, room = session.least, limit(session.device, share)
    micro = min(session.config.batch_size, _described(folder).get(MICRO, session.config.batch_size))
    needed = need(session)
    needed = replace(needed, fixed=at_once * needed.fixed + (at_once - 1) * _weights(session))
    if needed.of(smallest) > room:
        raise TrialFailed(
            INFEASIBLE,
            f"with {smallest} case(s) at a time it needs at least {needed.of(smallest) / _MB:.0f} MB more memory, and "
            f"{max(0, room) / _MB:.0f} MB are available: lower image_size or choose a smaller backbone",
        )
    while micro > smallest and MARGIN * needed.of(micro) > room:
        micro = max(smallest, micro // 2)
    return max(micro, min(smallest, session.config.batch_size))


def describe(folder: Path, session: Session) -> None:
    """Bring the folder's environment.json up to date with the micro-batch."""
    described = _described(folder)
    now = described | facts(session)
    if now != described:
        files.write_json(folder / layout.ENVIRONMENT, now)


def facts(session: Session) -> dict[str, int]:
    """Return what environment.json records of the micro-batch: the one in use, and the smallest that there can be."""
    return {MICRO: session.micro_batch, LEAST: session.least}


def note_peak(folders: Collection[Path], device: torch.device) -> None:
    """Add to environment.json in the folders the most memory of this process, MiB: of the GPU, or resident on a CPU.

    It is too much where the process trained larger networks before.
    """
    import torch

    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for folder in folders:
        files.write_json(folder / layout.ENVIRONMENT, _described(folder) | {PEAK: round(peak / _MB)})


def verdict(folder: Path, failure: TrialFailed) -> TrialFailed | None:
    """Decide what follows from a failure: None to try the trial again, in half the micro-batch; else what to record.

    Only a trial that ran out of memory is tried again; one that cannot be made smaller is infeasible.
    """
    if failure.kind != OUT_OF_MEMORY:
        return failure
    described = _described(folder)
    if MICRO in described and described[MICRO] > described[LEAST]:
        half = max(described[LEAST], described[MICRO] // 2)
        files.write_json(folder / layout.ENVIRONMENT, described | {MICRO: half})
        return None
    when = f"with {described[LEAST]} case(s) at a time" if described else "before the first step"
    return TrialFailed(INFEASIBLE, f"out of memory {when}: {failure.reason}")


def _weights(session: Session) -> int:
    return sum(p.numel() * p.element_size() for p in session.model.parameters() if p.requires_grad)


def _described(folder: Path) -> dict[str, int]:
    path = folder / layout.ENVIRONMENT
    return files.read_json(path) if path.exists() else {}


def _saved(session: Session, rows: np.ndarray) -> int:
    """Return the bytes that autograd saves in a forward pass of `rows`, those of weights and inputs left out."""
    import torch

    tensors = [*session.model.parameters(), *session.model.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    result: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            result[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs, present = session.inputs(rows)
    labels = session.labels[torch.from_numpy(rows).to(session.device)]
    session.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = session.loss(inputs, present, labels)
    del loss
    return sum(result.values())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # no such kind of group or kernel here
