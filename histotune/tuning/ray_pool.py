"""Jobs that need nothing of each other, as many at once as fit, in Ray workers of this machine or of a cluster."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from histotune.core import runtime
from histotune.tuning.events import Resources, Signals
from histotune.tuning.failures import STARTS
from histotune.tuning.ray_cluster import capacity, joined_ray, private_ray
from histotune.tuning.trial_workspace import pack, unpack

Job = Mapping[str, Any]
"""Keyword arguments of the work."""
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError)
_LOOK = 0.5  # seconds between two looks for a signal


@dataclass(frozen=True)
class Died:
    """What a job has instead of a result when its worker died under it `STARTS` times.

    Args:
        reason: a sentence for a person.
    """

    reason: str


@dataclass(frozen=True)
class WorkerPool:
    """Workers that are there.

    Args:
        resources: of one job, as they are there.
        at_once: how many jobs run together.
    """

    resources: Resources
    at_once: int
    plugins: Mapping[str, Mapping[str, str]]
    signals: Signals

    def run(self, work: Callable[..., Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Call `work(**job, share=...)` in a worker for every job; yields (job, result or `Died`) as they end.

        The next job is asked for when a worker is free for it, not before, so that `jobs` may leave out what no longer
        matters. A job whose worker dies starts again, `STARTS` times in all.

        Args:
            work: of a module that workers can import; `share` is what it may take of its GPU, or of its node's memory.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM came; the workers end with the pool.
            Exception: what a job raised.
        """
        start = ray.remote(_work).options(
            num_cpus=self.resources.cpus_per_trial, num_gpus=self.resources.gpus, max_retries=0
        )
        how = (self.resources.threads, self.resources.gpus, self.resources.cpus_per_trial, self.at_once, self.plugins)
        to_come, running = iter(jobs), dict[Any, tuple[Job, int]]()
        while True:
            while len(running) < self.at_once and (job := next(to_come, None)) is not None:
                running[start.remote(work, job, *how)] = job, 1
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=_LOOK)
            if self.signals.received:
                raise KeyboardInterrupt
            for reference in done:
                job, starts = running.pop(reference)
                try:
                    yield job, ray.get(reference)
                except RayTaskError as error:
                    raise error.cause from error
                except _DEATHS as error:
                    if starts < STARTS:
                        running[start.remote(work, job, *how)] = job, starts + 1
                    else:
                        yield job, Died(f"its worker died {starts} times, the last time: {_reason(error)}")


@contextlib.contextmanager
def workers(owner: Path, resources: Resources, *, address: str | None, plugins: Sequence[Path]) -> Iterator[WorkerPool]:
    """Start a private Ray, or join the cluster at `address`; in the end its workers are gone.

    Args:
        owner: folder that the caller holds the lock of; see `cluster.private_ray`.
        resources: of one job.
        plugins: folders whose components the workers shall know, too.

    Raises:
        ConfigError: more resources than there are.
        StudyError: Ray does not start, or no cluster answers.
    """
    signals, packed = Signals(), pack(plugins)
    with signals.caught():
        if address is not None:
            with joined_ray(address, owner):
                signals.install()
                there = resources.on(capacity())
                yield WorkerPool(there, there.check(capacity()), packed, signals)
            return
        at_once = resources.check()
        cpus, gpus = at_once * resources.cpus_per_trial, math.ceil(at_once * resources.gpus - 1e-9)
        with private_ray(owner, cpus=cpus, gpus=gpus, at_once=at_once):
            signals.install()  # Ray's own SIGTERM handler exits at once
            yield WorkerPool(resources, at_once, packed, signals)


def share(gpus: float, cpus: float, at_once: int) -> float:
    """Say how much of the memory of its GPU, or of the node that it runs on, a job may take; asked in its worker.

    Args:
        gpus, cpus: of the job.
        at_once: how many run together, on all nodes.
    """
    if gpus:
        return float(min(1.0, gpus))
    here = ray.get_runtime_context().get_node_id()
    there = next(node["Resources"]["CPU"] for node in ray.nodes() if node["NodeID"] == here)
    return 1 / max(1, min(at_once, math.floor(there / cpus + 1e-9)))


def _work(
    work: Callable[..., Any],
    job: Job,
    threads: int,
    gpus: float,
    cpus: float,
    at_once: int,
    plugins: Mapping[str, Mapping[str, str]],
) -> Any:
    """Do a job in a worker process, which may have done others before."""
    if not _ready:
        unpack(plugins)
        runtime.share_gpu(gpus)
        _ready.append(True)
    runtime.set_threads(threads)
    return work(**job, share=share(gpus, cpus, at_once))


_ready: list[bool] = []  # in a worker: whether it was prepared


def _reason(error: Exception) -> str:
    return "out of memory; run fewer at once" if isinstance(error, OutOfMemoryError) else str(error).split("\n")[0]
