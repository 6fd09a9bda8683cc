"""Ray Tune runs the trials; every decision is the conductor's. These classes only carry words between the two."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from histotune.storage import layout
from histotune.storage.records import read_record
from histotune.storage.study_folder import StudyFolder
from histotune.training import memory
from histotune.training.checkpoint import forget
from histotune.tuning.controller import Assignment, SearchController
from histotune.tuning.events import FAILURES, INTERRUPTED, Resources, Signals
from histotune.tuning.ray_worker import DISK, ENDED, EPOCH, METRICS, NODE, NOTE, PROCESS, TrialWorker
from histotune.tuning.remote_storage import RemoteStorage
from histotune.tuning.trial_workspace import pack


class _SearchOver(BaseException):
    """Leaves Ray Tune's loop at a safe place; a BaseException, so that Tune does not treat it as a trial's failure."""


class RayBridge:
    """The conductor as Ray Tune's searcher, scheduler and callback see it.

    An error within a decision is kept and raised from the loop's next step: Tune would wrap it, or blame the trial.
    """

    def __init__(
        self,
        conductor: SearchController,
        signals: Signals,
        describe: Callable[[Assignment], Mapping[str, Any]],
        sync: TrialSync,
    ) -> None:
        self.conductor = conductor
        self.error: BaseException | None = None
        self._signals = signals
        self._describe = describe
        self._courier = sync
        self._kills = memory.oom_kills()
        self._workers: dict[int, tuple[str, int]] = {}

    def suggest(self) -> Mapping[str, Any] | None:
        """Return the next trial's description for a worker, or None when none is to run now."""
        with self._kept():
            assignment = self.conductor.next()
            if assignment is None:
                return None
            self._courier.send(assignment.number, layout.STOP, layout.ENVIRONMENT)
            return self._describe(assignment)
        return None

    def on_result(self, number: int, result: Mapping[str, Any]) -> str:
        """Hear a worker's answer and say what Tune shall do with the trial."""
        with self._kept():
            if PROCESS in result:
                self._workers[number] = result[NODE], result[PROCESS]
            self.conductor.begun(number)
            # a worker that is to stop hears of it through the trial's folder when it is asked to go on
            if EPOCH in result and self.conductor.reported(number, result[EPOCH], dict(result[METRICS])):
                self._courier.send(number, layout.STOP)
            if NOTE in result:
                self.conductor.remark(result[NOTE])
            if DISK in result:
                self.conductor.finish(FAILURES, result[DISK])
            if result[ENDED]:
                self._courier.fetch(number)
                self.conductor.ended(number)
        return str(FIFOScheduler.STOP if result[ENDED] or self.error else FIFOScheduler.CONTINUE)

    def on_error(self, number: int, trace: str) -> None:
        """Hear that a worker is gone, and what Ray says of it."""
        kills, before = memory.oom_kills(), self._kills
        self._kills = kills
        with self._kept():
            self._courier.fetch(number)
            starved = kills > before or "OutOfMemoryError" in trace  # the kernel's word, or Ray's memory monitor's
            self.conductor.died(number, reason_of(trace), starved=starved and self._courier.knows(number))

    def on_step(self) -> None:
        """Leave the loop when the search is over; tell the listeners when no worker waits for a trial."""
        if self.error is not None:
            raise self.error
        if self._signals.received:
            name = signal.Signals(self._signals.received[0]).name
            self.conductor.finish(INTERRUPTED, f"interrupted by {name}; the same command goes on from here")
        if self.conductor.over():
            raise _SearchOver
        for number in self.conductor.hanging():
            kill_process(*self._workers[number])
        if not self.conductor.hungry:
            self.conductor.deliver()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error of the block; of several the first, whose consequences the others may be."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error


def kill_process(node: str, process: int) -> None:
    """Kill a worker with SIGKILL, which needs nothing of it, on the node where it runs; Ray hears of it by itself."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):  # it died meanwhile
            os.kill(process, signal.SIGKILL)

    if node == ray.get_runtime_context().get_node_id():
        kill()
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(kill).options(num_cpus=0, scheduling_strategy=there).remote()


class TrialSync:
    """Carries trial folders between the study and a storage that stands between driver and workers, where one does."""

    def __init__(self, store: StudyFolder, depot: RemoteStorage | None) -> None:
        self._store, self._depot = store, depot

    def send(self, number: int, *names: str) -> None:
        """Pass on those of the files `names` that stand in the trial's folder: what the driver decided on it."""
        folder = self._store.trial_folder(number)
        for name in names:
            if self._depot and (folder / name).exists():
                self._depot.send(folder, name)

    def knows(self, number: int) -> bool:
        """Whether the study's folder says with which micro-batch a trial ran; through a storage, after its first epoch.

        Where there is none between them, a trial whose folder does not say it never got that far.
        """
        return self._depot is None or (self._store.trial_folder(number) / layout.ENVIRONMENT).exists()

    def fetch(self, number: int) -> None:
        """Bring the trial's files into the study; a record that stands there stays."""
        folder = self._store.trial_folder(number)
        if self._depot and read_record(folder) is None:
            self._depot.pull(folder)
            if read_record(folder) is not None:
                (folder / layout.STOP).unlink(missing_ok=True)
                forget(folder)


def reason_of(trace: str) -> str:
    r"""Pick the sentence of Ray's account of a dead worker that says why.

    >>> reason_of("Failure # 1\nThe actor died: it raised\nhistotune.errors.DataError: no such file\n")
    'histotune.errors.DataError: no such file'
    """
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    exits = [line.partition("Worker exit detail: ")[2] for line in lines if "Worker exit detail: " in line]
    return (named or exits or lines or ["no reason given"])[-1].partition(" Some common causes")[0]


def drive(
    conductor: SearchController,
    signals: Signals,
    *,
    study: Path,
    cohorts: Mapping[int, Path],
    metric: str,
    resources: Resources,
    at_once: int,
    scratch: Path,
    plugins: Sequence[Path] = (),
    depot: RemoteStorage | None = None,
    keep: Sequence[int] = (),
) -> None:
    """Run trials in Ray, which is up, until the conductor says that the search is over or a signal comes.

    `keep` names the epochs after which a trial's checkpoint is kept.
    """
    packed = pack(plugins)

    def describe(assignment: Assignment) -> Mapping[str, Any]:
        return {
            "number": assignment.number,
            "config": assignment.config,
            "parent": assignment.parent,
            "keep": keep,
            "study": str(study),
            "cohort": str(cohorts[assignment.config["image_size"]]),
            "metric": metric,
            "threads": resources.threads,
            "plugins": packed,
            "gpus": resources.gpus,
            "cpus": resources.cpus_per_trial,
            "at_once": at_once,
            "depot": depot.uri if depot else None,
        }

    bridge = RayBridge(conductor, signals, describe, TrialSync(StudyFolder(study), depot))
    with contextlib.suppress(_SearchOver), _starved_workers_are_dead():
        tune.run(
            TrialWorker,
            name="search",
            storage_path=str(scratch / "tune"),
            num_samples=-1,
            search_alg=_Searcher(bridge),
            scheduler=_Scheduler(bridge),
            callbacks=[_Callback(bridge)],
            resources_per_trial={"cpu": resources.cpus_per_trial, "gpu": resources.gpus},
            reuse_actors=True,
            max_failures=0,
            verbose=0,
            raise_on_failed_trial=False,
        )


@contextlib.contextmanager
def _starved_workers_are_dead() -> Iterator[None]:
    """Make Tune take the word of Ray's memory monitor for the death of a worker: it knows no such error of an actor.

    Without it, a worker that the monitor kills is the end of Tune's loop, and of the search.
    """
    before = RayActorManager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        starved = isinstance(exception, OutOfMemoryError)
        death = RayActorError(error_msg=f"{OutOfMemoryError.__name__}: {exception}") if starved else exception
        before(self, tracked_actor_task, death)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = before


class _Searcher(Searcher):  # type: ignore[misc]
    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        return self._bridge.suggest()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler heard it first."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._bridge.on_result(trial.config["number"], result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        trace = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        self._bridge.on_error(trial.config["number"], trace)


class _Callback(Callback):  # type: ignore[misc]
    def __init__(self, bridge: RayBridge) -> None:
        self._bridge = bridge

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._bridge.on_step()
